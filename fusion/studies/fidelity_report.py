"""The third part of `fusion.studies.fidelity`: the measurements as one page of tables, `assets/fidelity/README.md`, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from models.portraits.population import TARGET_POPULATIONS

from .fidelity import NAMES

INTRODUCTION = """# Fidelity: does the fit see the population, and do samples show it?

Made by `python -m fusion.studies.fidelity proportions samples report` from the shipped portraits (`--samples` and
`--targets` set what each table below states). Do not edit.
"""


def write(assets: Path, work: Path) -> None:
    """Write the parts that have been measured. Raises FileNotFoundError when none has."""
    files = {part: work / f"{part}.json" for part in ("proportions", *(f"samples-{target}" for target in TARGET_POPULATIONS))}
    found = {part: json.loads(file.read_text()) for part, file in files.items() if file.is_file()}
    if not found:
        raise FileNotFoundError(f"nothing measured yet in {work}: run the stages `proportions` and `samples` first")
    text, summary = INTRODUCTION, {}
    if "proportions" in found:
        summary["proportions"] = {}
        for images, result in found["proportions"]["sizes"].items():
            summary["proportions"][images], part = proportions_table(result, int(images), found["proportions"]["draws"])
            text += part
    samples = {part.removeprefix("samples-"): value for part, value in found.items() if part != "proportions"}
    if samples:
        summary["samples"] = samples
        text += samples_table(samples)
    folder = assets / "fidelity"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    (folder / "fidelity.json").write_text(json.dumps(summary, indent=1) + "\n")


def _rmse(rows: list[dict], key: str) -> float:
    return float(np.sqrt(np.mean([(np.array(row[key]) - np.array(row["truth"])) ** 2 for row in rows])))


def proportions_table(result: dict, images: int, draws: int) -> tuple[dict, str]:
    """Errors per mixture and overall, coverage, warnings: the figures and their Markdown."""
    rows = result["rows"]
    labels = list(dict.fromkeys(row["mixture"] for row in rows))
    text = f"""
## Proportions from {images} images

{len(labels)} mixtures of {len(NAMES)} members ({", ".join(NAMES)}), {draws} draws each. Root-mean-square error of the proportions.
The oracle reads the true attributes of the same {images} images and fits by maximum likelihood; "plain" are the published weights
(the minimum of the loss on the simplex).

| mixture | calibrated | oracle | ratio | plain | truth inside the 95 % interval | false warnings |
| --- | --- | --- | --- | --- | --- | --- |
"""
    groups = {label: [row for row in rows if row["mixture"] == label] for label in labels} | {"**all**": rows}
    for label, group in groups.items():
        calibrated, oracle, plain = (_rmse(group, key) for key in ("calibrated", "oracle", "plain"))
        ratio = f"{calibrated / oracle:.2f}" if oracle > 0.005 else "-"
        covered, fired = np.mean([row["covered"] for row in group]), np.mean([row["outside"] for row in group])
        text += f"| {label} | {calibrated:.3f} | {oracle:.3f} | {ratio} | {plain:.3f} | {covered:.0%} | {fired:.0%} |\n"
    outside = float(np.mean(result["outside_fired"]))
    overall = {"calibrated": _rmse(rows, "calibrated"), "oracle": _rmse(rows, "oracle"), "plain": _rmse(rows, "plain")}
    overall |= {"ratio": overall["calibrated"] / overall["oracle"], "coverage": float(np.mean([row["covered"] for row in rows]))}
    overall |= {"false_warnings": float(np.mean([row["outside"] for row in rows])), "warnings_outside": outside, "draws": len(rows)}
    count = len(result["outside_fired"])
    text += f"\nThe warning fired in {outside:.0%} of {count} draws of {images} images from `island`, which lies outside.\n"
    return overall, text


def samples_table(targets: dict[str, dict]) -> str:
    """Distance of every method's samples to each target's population, as Markdown."""
    first = next(iter(targets.values()))
    text = f"""
## Samples

{first["steps"]} steps, bare prompts, attributes read by the probe. Total variation over the 18 cells to the target's population (95 %
interval over samples); the floor is what a perfect sampler measures with as many samples. Fitted to the 12 images in `assets/targets`.
Gain: how much nearer than the nearest single member, chosen with the truth in hand.
"""
    for target, entry in targets.items():
        fit, shares = entry["fit"], lambda values: ", ".join(f"{name} {value:.2f}" for name, value in zip(NAMES, values))
        floor = next(iter(entry["methods"].values()))["floor"]
        text += f"\n### {target}\n\nCalibrated proportions: {shares(fit['proportions'])} (p = {fit['p_value']:.2g}). Published weights: "
        text += f"{shares(fit['published'])}. Matched weights: {shares(fit['matched'])}. "
        text += f"{entry['samples']:,} samples a method, floor {floor:.3f}.\n"
        text += f"\n| method | total variation | 95 % interval | gain over {entry['gain']['nearest_single']} |\n| --- | --- | --- | --- |\n"
        for row, value in sorted(entry["methods"].items(), key=lambda item: item[1]["total_variation"]):
            low, high = value["interval"]
            gain = entry["gain"]["methods"].get(row)
            gained = f"{gain['gain']:+.3f} ({gain['interval'][0]:+.3f} to {gain['interval'][1]:+.3f})" if gain else ""
            text += f"| {row} | {value['total_variation']:.3f} | {low:.3f} to {high:.3f} | {gained} |\n"
    return text
