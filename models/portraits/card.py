"""The family's model card: how each member was made, what it measures, what it is not for. Written from `measurements.json`."""

from __future__ import annotations

import json
from pathlib import Path

from .population import MEMBER_POPULATIONS, PRESENTATIONS, TONES

TEMPLATE = Path(__file__).with_name("card_template.md")


def _populations(results: dict, name: str) -> str:
    truth, found = MEMBER_POPULATIONS[name.removesuffix("-lora")], results[name]["population"]
    lines = [f"\n### {name}: population on the card, and (measured)\n", "| | " + " | ".join(TONES) + " |", "|---" * (len(TONES) + 1) + "|"]
    for i, presentation in enumerate(PRESENTATIONS):
        lines.append(f"| {presentation} | " + " | ".join(f"{t:.3f} ({f:.3f})" for t, f in zip(truth[i], found[i])) + " |")
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Write `README.md` in the family's folder from its `measurements.json`."""
    results = json.loads((folder / "measurements.json").read_text())
    names = [name for name in results if name in MEMBER_POPULATIONS or name.endswith("-lora")]
    rows = []
    for name in names:
        row, share = results[name], 100 * results[name]["profession_as_asked"]
        rows.append(f"| {name} | {row['samples']} | {row['total_variation']:.3f} | {row['floor']:.3f} | {share:.1f} % |")
    text = TEMPLATE.read_text().format(
        psnr=results["autoencoder_psnr_db"], rows="\n".join(rows), populations="".join(_populations(results, name) for name in names),
        **{key.removeprefix("accuracy."): value for key, value in results["probe"].items()},
    )  # fmt: skip
    (folder / "README.md").write_text(text)
