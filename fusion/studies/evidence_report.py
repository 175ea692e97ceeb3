"""The pages of the study `evidence`: one table for each example target, as Markdown, CSV and the JSON that the page reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from fusion.evaluation.columns import COLUMNS, FIGURES, notes
from fusion.evaluation.estimate import Estimate
from fusion.evaluation.population import distance_of_counts
from fusion.evaluation.report import Row, plain
from fusion.methods import Cost
from fusion.studies import forest
from fusion.studies.tables import markdown, mean_interval, not_told_apart, write_csv
from models.portraits.population import TARGET_POPULATIONS

SHOWN = {"population": "population", "kid": "KID", "features": "calibrated features", "diversity": "diversity", "copies": "copies",
         "loss": "loss"}  # fmt: skip
ABOUT = """# Every method on the example targets

Made by `python -m fusion study evidence`. Do not edit. The page shows these figures.

{samples} samples a method, target and seed at {steps} steps; seeds: {seeds}. Every method is fitted to the {fitted} images of the target
and weighed on its {held_out} held-out ones. A seed changes the sampling seeds and the noise of the target's statistic; what a method
searches or trains is found once for each target, so that the spread over seeds leaves out that of training.

In each cell: the mean over seeds with half of Student's 95 % interval for it (±), then in brackets the 95 % interval over the samples of
one seed, its ends averaged over seeds. Population (total variation to the target's known one, by the probe), KID and diversity are of the
samples of all seeds together, value and brackets alike; their ± is that of the seeds' own values, which lie higher for population, since
few samples measure farther. The floor is what a perfect sampler measures with as many samples. Losses of all seeds are on the same
pictures and noise, so that ± is of the fitted weights alone. Calibrated features were read on {residual} samples of the first seed.
Images that the exact barycenter resampled into one another count as one in its intervals. Remarks follow from the figures of all seeds, as
they stand in the table. A recommendation sees samples and held-out images alone, and no population: that of all seeds is what the page
shows, those of single seeds tell how firm it is.
"""


def write(out: Path, results: list[dict], together: dict[str, dict], settings: dict) -> dict:
    """README.md, evidence.json, evidence.csv and the figures; returns what the JSON holds. `together`: target -> what the samples of all
    its seeds show."""
    targets = {target: _target(target, [one for one in results if one["target"] == target], together[target])
               for target in dict.fromkeys(one["target"] for one in results)}  # fmt: skip
    columns = [asdict(column) for column in COLUMNS if column.name != "seconds"]
    summary = plain({"settings": settings, "columns": columns, "targets": targets})
    if not targets:  # stopped before there was anything: what is there stays
        return summary
    out.mkdir(parents=True, exist_ok=True)
    (out / "evidence.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    text = ABOUT.format(**settings) + ("" if settings["complete"] else "\n**Stopped early: the same command goes on and completes it.**\n")
    for target, found in targets.items():
        text += f"\n## {target}\n\n{_told(found)}\n{markdown(_lines(found))}\n{_remarks(found)}"
    text += "\n![Distance to the target's population](population.svg)\n\n![KID](kid.svg)\n\n## What the columns mean\n\n"
    text += "".join(f"* {column['title']} ({column['unit']}): {column['explanation']}\n" for column in columns
                    if column["name"] in (*SHOWN, "evaluations", "memory"))  # fmt: skip
    text += "* once, before: what training or a search takes before the first image, as stated before it ran and as measured here.\n"
    (out / "README.md").write_text(text)
    write_csv(out / "evidence.csv", [_flat(target, row) for target, found in targets.items() for row in found["rows"]])
    for name, label in (("population", "total variation to the target's population"), ("kid", "KID against held-out images")):
        panels = [forest.Forest(target, label, {row["title"]: _over_samples(row["figures"][name]) for row in found["rows"]},
                                _recommended(found), (found["floor"], "perfect sampler") if name == "population" else None)
                  for target, found in targets.items()]  # fmt: skip
        forest.draw(out / f"{name}.svg", panels)
    return summary


def _target(target: str, seeds: list[dict], together: dict) -> dict:
    """One target's table as plain values: figures over seeds and samples, costs, remarks, what was recommended."""
    rows, truth = [], TARGET_POPULATIONS[target].ravel()
    for first in seeds[0]["rows"]:
        same = [row for one in seeds for row in one["rows"] if row["method"] == first["method"]]
        figures = {name: _figure([row[name] for row in same if row[name] is not None]) for name in FIGURES}
        pooled = distance_of_counts(np.sum([row["cells"] for row in same], 0), truth, known=True,
                                    effective=sum(row["effective"] for row in same))  # fmt: skip
        move = pooled.value - figures["population"]["value"]  # a distance of few samples is biased upwards: that of all is nearer the truth
        over = figures["population"]["seeds"]
        figures["population"] |= {"value": pooled.value, "samples": [pooled.low, pooled.high], "floor": pooled.floor,
                                  "seeds": None if over is None else [end + move for end in over]}  # fmt: skip
        for name in ("kid", "diversity"):
            one = together[name][first["method"]]
            figures[name] |= {"value": one["value"], "samples": [one["low"], one["high"]]}
        rows.append({key: first[key] for key in ("method", "title", "cost", "preparing", "effective")} | {
            "figures": figures, "notes": _notes(same, figures), "seconds": _mean([row["seconds"] for row in same])})  # fmt: skip
    floor = distance_of_counts(np.sum([seeds[0]["rows"][0]["cells"]] * len(seeds), 0), truth, known=True).floor
    rows.sort(key=lambda row: row["figures"]["kid"]["value"])
    own = [{"method": row["method"], "seed": number, "value": row["population"]["value"]}
           for number, one in enumerate(seeds) for row in one["rows"]]  # fmt: skip
    alike = not_told_apart(own, "value", min(rows, key=_distance)["method"])
    return {"rows": rows, "not_told_apart": alike, "floor": floor, "problems": seeds[0]["problems"], "fit": seeds[0]["fit"],
            "recommendation": together["recommendation"], "recommendations": [one["recommendation"] for one in seeds],
            "truth": min(rows, key=_distance)["method"], "alone": _alone(seeds, truth)}  # fmt: skip


def _alone(seeds: list[dict], truth: np.ndarray) -> dict[str, list[float]]:
    """Distance, low and high end of every member's own samples of all seeds, nearest first."""
    found = {name: distance_of_counts(np.sum([one["alone"][name] for one in seeds], 0), truth, known=True)
             for name in seeds[0]["alone"] if all(name in one["alone"] for one in seeds)}  # fmt: skip
    return {name: [one.value, one.low, one.high] for name, one in sorted(found.items(), key=lambda item: item[1].value)}


def _notes(same: list[dict], figures: dict) -> dict[str, str]:
    """Remarks on a method's figures over all its seeds: what follows from them, copies among all their samples, and its training."""
    first = same[0]
    estimates = {name: Estimate(one["value"], *one["samples"], one["floor"]) for name, one in figures.items() if one is not None}
    found = notes(Row(first["method"], first["title"], {}, Cost(**first["cost"]), **estimates))
    if first["copied"] is not None:
        found["copies"] = ("It repeats images it was fitted to: fresh images of the target show so many with probability "
                           f"{first['copied']:.1g}.")  # fmt: skip
    if first["training"]:
        found["training_seconds"] = first["training"]
    return found


def _mean(values: list) -> float | None:
    """Of the seeds that were timed: pictures that another method had drawn already were not."""
    timed = [value for value in values if value is not None]
    return float(np.mean(timed)) if timed else None


def _distance(row: dict) -> float:
    return row["figures"]["population"]["value"]


def _figure(found: list[dict]) -> dict | None:
    """Mean over seeds with its interval (None for one seed), and the seeds' own intervals over samples, averaged."""
    if not found:
        return None
    values = [one["value"] for one in found]
    over = mean_interval(values)
    seeds = None if len(values) < 2 else [over.low, over.high]
    floor = found[0]["floor"]
    return {"value": over.value, "seeds": seeds, "samples": [float(np.mean([one[end] for one in found])) for end in ("low", "high")],
            "values": values, "floor": floor}  # fmt: skip


def _over_samples(figure: dict | None) -> Estimate | None:
    return None if figure is None else Estimate(figure["value"], *figure["samples"])


def _recommended(found: dict) -> list[str]:
    """Title of the method that all seeds together recommend."""
    return [row["title"] for row in found["rows"] if row["method"] == found["recommendation"]["method"]]


def _told(found: dict) -> str:
    told = " ".join([found["recommendation"]["sentence"], *found["recommendation"]["details"]])
    sentences = [f"* Seed {seed} alone: {one['sentence']}\n" for seed, one in enumerate(found["recommendations"])]
    near = min(found["rows"], key=_distance)
    titles = {row["method"]: row["title"] for row in found["rows"]}
    alike = [titles[name] for name in found["not_told_apart"]]
    doubt = f"; not told from it by these seeds: {'; '.join(alike)}" if alike else ""
    nearest = f"{near['title']}, {_distance(near):.3f} (floor {found['floor']:.3f}){doubt}"
    alone = "; ".join(f"{name} {value:.3f} ({low:.3f} to {high:.3f})" for name, (value, low, high) in found["alone"].items())
    named = sum(one["method"] == near["method"] for one in found["recommendations"])
    truth = f"\nTruly nearest in population: {nearest}. {named} of {len(sentences)} seeds alone recommend it.\n"
    if alone:
        truth += f"\nEach model alone, of which the best single model is the one that the fit takes to be nearest: {alone}.\n"
    return f"**All seeds together.** {told}\n\n{''.join(sentences)}{truth}"


def _lines(found: dict) -> list[dict]:
    lines = []
    for row in found["rows"]:
        cost = row["cost"]
        stated = f"{cost['preparation']:,} evaluations" if cost["preparation"] else f"{cost['training_seconds']:.0f} s"
        once = f"{stated} stated, {row['preparing']:.0f} s here" if row["preparing"] else "-"
        lines.append({"method": row["title"]} | {title: _cell(row["figures"][name]) for name, title in SHOWN.items()}
                     | {"evaluations": f"{cost['evaluations']:g}", "memory": f"{cost['memory']:.2f}", "once, before": once})  # fmt: skip
    return lines


def _cell(figure: dict | None) -> str:
    """`0.166 ± 0.020 [0.144 to 0.217]`."""
    if figure is None:
        return "-"
    low, high = figure["samples"]
    seeds = "" if figure["seeds"] is None else f" ± {(figure['seeds'][1] - figure['seeds'][0]) / 2:.3f}"
    samples = "" if low == high or high == np.inf else f" [{low:.3f} to {high:.3f}]"
    return f"{figure['value']:.3f}{seeds}{samples}"


def _remarks(found: dict) -> str:
    titles = {column.name: column.title for column in COLUMNS if column.name in (*SHOWN, "evaluations", "memory", "training_seconds")}
    told: dict[tuple[str, str], list[str]] = {}
    for row in found["rows"]:
        for name, text in row["notes"].items():
            if name not in titles:  # remarks on columns that only the page shows
                continue
            told.setdefault((titles[name], text), []).append(row["title"])
    lines = [f"* {title} of {', '.join(rows)}: {text}\n" for (title, text), rows in told.items()]
    return "".join(lines) + "".join(f"* {name}: {text}\n" for name, text in found["problems"].items())


def _flat(target: str, row: dict) -> dict:
    """A row of the CSV: every figure with its intervals, the seeds' own values, the cost."""
    flat = {"target": target, "method": row["method"]}
    for name, figure in row["figures"].items():
        if figure is not None:
            flat |= {name: figure["value"], f"{name} samples low": figure["samples"][0], f"{name} samples high": figure["samples"][1]}
            flat |= {f"{name} seed {seed}": value for seed, value in enumerate(figure["values"])}
    return flat | row["cost"] | {"preparing": row["preparing"], "seconds": row["seconds"]}
