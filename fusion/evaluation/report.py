"""What a comparison found: rows of figures with intervals, the images, one sentence; as JSON for scripts and as one HTML file to send."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fusion.evaluation.estimate import Estimate
from fusion.evaluation.html import page
from fusion.methods import Cost, Sample


@dataclass(frozen=True)
class Row:
    """One method. `gain`: held-out loss saved against the best single model. `problem`: why it did not run, in a sentence, else empty."""

    method: str
    title: str
    weights: Mapping[str, float]
    cost: Cost | None = None
    seconds: float | None = None  # per image, measured
    loss: Estimate | None = None
    gain: Estimate | None = None
    population: Estimate | None = None
    features: Estimate | None = None
    samples: tuple[Sample, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """`fit`: plain values on how the weights were found; `settings`: steps, guidance and so on; `stopped`: ended before all was drawn."""

    rows: tuple[Row, ...]
    models: tuple[Mapping, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Mapping = field(default_factory=dict)
    fit: Mapping = field(default_factory=dict)
    verdict: str = ""
    stopped: bool = False

    def row(self, method: str) -> Row:
        return next(row for row in self.rows if row.method == method)

    def to_dict(self) -> dict:
        """Plain JSON values, without images; figures that are not finite become None."""
        content = {key: getattr(self, key) for key in ("verdict", "models", "prompts", "seeds", "settings", "fit", "stopped")}
        return _plain(content | {"rows": [_row(row) for row in self.rows]})

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """One self-contained page: no script, no request to anywhere."""
        return page(self)

    def save(self, path: str | Path) -> Path:
        """HTML or JSON by the ending of the name. Raises ValueError for another ending."""
        path = Path(path)
        writers = {".html": self.to_html, ".json": self.to_json}
        if path.suffix.lower() not in writers:
            raise ValueError(f"a report is saved as .html or .json, not {path.suffix or 'without an ending'}")
        path.write_text(writers[path.suffix.lower()](), encoding="utf-8")
        return path


def verdict(rows) -> str:
    """One sentence on which method came closest to the target, from samples against held-out pictures, never from loss."""
    for name, what in (("population", "population"), ("features", "calibrated features")):
        found = [row for row in rows if getattr(row, name) is not None]
        if len(found) >= 2:
            return _closest(found, name, what)
    return "There is no evidence from samples against held-out pictures, so no method is recommended: a lower denoising loss alone is none."


def _closest(rows, name: str, what: str) -> str:
    ranked = sorted(rows, key=lambda row: getattr(row, name).value)
    best, value = ranked[0], getattr(ranked[0], name)
    single = next((row for row in rows if row.method == "single"), None)
    sentence = f"Closest to the target's {what}: {best.title}, {value.value:.2f} away (95 %: {value.low:.2f} to {value.high:.2f})"
    if single is None or single is best:
        other, label = ranked[1], ranked[1].title
    else:
        other, label = single, "the best single model"
    against = getattr(other, name)
    sentence += f"; {label}: {against.value:.2f}. "
    if value.high < against.low:
        return sentence + "The difference is larger than chance explains."
    return sentence + "With this many samples the difference is within chance."


def _row(row: Row) -> dict:
    kept = {key: getattr(row, key) for key in ("method", "title", "weights", "seconds", "problem")}
    kept["cost"] = None if row.cost is None else asdict(row.cost)
    for name in ("loss", "gain", "population", "features"):
        estimate = getattr(row, name)
        kept[name] = None if estimate is None else asdict(estimate)
    kept["samples"] = [{"prompt": s.prompt, "seed": s.seed, "member": s.member} for s in row.samples]
    return kept


def _plain(value):
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
