"""The page of the study `recommendation`: how often the named method is the truly closest, beside an oracle and beside denoising loss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from fusion.studies import figures
from fusion.studies.tables import markdown, write_csv

RULES = {
    "recommended": "the recommendation", "twice": "the recommendation from twice as many held-out images",
    "cautious": "the recommendation where it is certain, else the best single model",
    "oracle": "oracle", "oracle twice": "oracle that reads twice as many",
    "scorefusion": "least denoising loss (the published weights)", "single": "always the best single model",
    "mixture": "always the mixture",
}  # fmt: skip
ABOUT = """# Does the recommendation name the method that is truly closest?

Made by `python -m fusion study recommendation --seeds {targets}`. Do not edit.

{targets} targets were drawn: mixtures of the four members, barycenters of them, populations partly outside, in turn. Compared are
{methods}.
{fitted} images of each target fit the methods; {held_out} others and {samples} samples a method, at 10 steps, make the recommendation. It
is made once more from {twice} others, the number of the study `evidence`; that was looked at after {held_out} had missed the aim of 80 %.
The truth is the total variation between {truth} further samples of a method, read by the probe, and the population that the images were
drawn from. A draw is clear where the two truly closest methods (of different samples) differ by more than chance: the 95 % interval of the
difference over these samples leaves out 0.

A recommendation names the nearest method also where its lead is within noise, and then says "not certain". The cautious rule stays with
the best single model in those draws. The oracle ranks the methods by the true kinds of the same {held_out} held-out images: what their
number allows at best. Shares have exact binomial 95 % intervals (Clopper and Pearson 1934).
"""
HEADINGS = {"fresh": """## Fresh draws

Drawn and judged after the rule was last revised: the independent test of it.
""", "earlier": """## Draws that the rule was revised with

Earlier versions of the rule were judged on these {seen} targets: they are no independent test of it.
"""}  # fmt: skip


def write(out: Path, results: list[dict], settings: dict) -> dict:
    """README.md, CSV, JSON and the figure; returns what the JSON holds."""
    if not results:
        return {"settings": settings, "draws": 0}
    parts = {"fresh": [row for row in results if row["number"] >= settings["seen"]],
             "earlier": [row for row in results if row["number"] < settings["seen"]]}  # fmt: skip
    summary = {"settings": settings, "draws": len(results)} | {name: _counted(rows) for name, rows in parts.items() if rows}
    text = ABOUT.format(**settings | {"twice": 2 * settings["held_out"], "methods": ", ".join(settings["methods"])})
    for name in parts:
        if name in summary:
            text += "\n" + HEADINGS[name].format(**settings) + "\n" + _table(summary[name]) + "\n" + _decided(summary[name]["decisions"])
            text += f"\nFrom twice as many held-out images: {_decided(summary[name]['decisions twice']).replace('The', 'the', 1)}"
    text += "\n## Every draw\n\n![Share right against the lead of the closest method](right.svg)\n\n"
    text += markdown([_line(row) for row in results])
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(text)
    (out / "recommendation.json").write_text(json.dumps(summary | {"targets": results}, indent=1) + "\n")
    write_csv(out / "draws.csv", [_flat(row) for row in results])
    _figure(out / "right.svg", results)
    return summary


def _counted(results: list[dict]) -> dict:
    clear = [row for row in results if row["lead_low"] > 0]
    return {"draws": len(results), "clear": len(clear), "rules": {rule: _score(results, clear, rule) for rule in RULES},
            "decisions": _decisions(results, clear),
            "decisions twice": _decisions(*([row | row["twice"] for row in rows] for rows in (results, clear)))}  # fmt: skip


def _table(found: dict) -> str:
    return markdown(
        [{"rule": RULES[rule], "clear": _share(s["right_clear"], found["clear"]), "all": _share(s["right"], found["draws"]),
          "regret": f"{s['regret']:.3f}"} for rule, s in found["rules"].items()],
        {"rule": "method named by", "clear": f"right in the {found['clear']} clear draws", "all": f"right in all {found['draws']}",
         "regret": "total variation lost, mean"},
    )  # fmt: skip


def named(row: dict, rule: str) -> str:
    if rule in ("twice", "oracle twice"):
        return row["twice"]["recommended" if rule == "twice" else "oracle"]
    if rule == "cautious":
        return row["recommended"] if row["decided"] else "single"
    return row[rule] if rule in row else rule


def right(row: dict, rule: str) -> bool:
    """Methods with the very same samples as the closest are as right."""
    return named(row, rule) in row["as_near"]


def _score(results, clear, rule: str) -> dict:
    regret = [row["distance"][named(row, rule)] - row["distance"][row["truth"]] for row in results]
    return {"right": sum(right(row, rule) for row in results), "right_clear": sum(right(row, rule) for row in clear),
            "regret": float(np.mean(regret))}  # fmt: skip


def _decisions(results, clear) -> dict:
    """How often the sentence claims more than chance, how often that is true, and how often it does where the named method is right."""
    decided, hits = [row for row in results if row["decided"]], [row for row in clear if right(row, "recommended")]
    return {"right_clear": len(hits), "sure_clear": sum(row["decided"] for row in hits), "decided": len(decided),
            "true": sum(_claim_is_true(row) for row in decided), "draws": len(results),
            "truth_among_ties": sum(row["truth"] in [row["recommended"], *row["ties"]] for row in results)}  # fmt: skip


def _claim_is_true(row: dict) -> bool:
    """Of a method: it is nearer than the best single model. Of the single model: no other is nearer than it."""
    far, named = row["distance"], row["recommended"]
    rivals = [value for name, value in far.items() if name != "single"] if named == "single" else [far["single"]]
    return far[named] <= min(rivals)


def _decided(found: dict) -> str:
    return (
        f"The sentence claimed a lead beyond chance in {found['decided']} of {found['draws']} draws, of a method over the best single "
        f"model or of that over all others; in {found['true']} of these the claim was true. Of the {found['right_clear']} clear draws "
        f"in which the named method was right, the sentence was certain in {found['sure_clear']}. The truly closest method was "
        f"the named one or among those that the sentence said cannot be told from it in {found['truth_among_ties']} of {found['draws']}.\n"
    )


def _share(count: int, total: int) -> str:
    if not total:
        return "-"
    ends = binomtest(count, total).proportion_ci(0.95)
    return f"{count} ({count / total:.0%}, {ends.low:.0%} to {ends.high:.0%})"


def _line(row: dict) -> dict:
    far = row["distance"]
    return {"target": f"{row['number'] + 1} {row['kind']}", "closest": f"{row['truth']} {far[row['truth']]:.3f}",
            "second": f"{row['second']} {far[row['second']]:.3f}", "clear": "yes" if row["lead_low"] > 0 else "no",
            "recommended": f"{row['recommended']} {far[row['recommended']]:.3f}", "of twice as many": row["twice"]["recommended"],
            "decided": "yes" if row["decided"] else "no",
            "oracle": row["oracle"], "best single": f"{far['single']:.3f}"}  # fmt: skip


def _flat(row: dict) -> dict:
    plain = {key: row[key] for key in ("number", "kind", "truth", "second", "lead", "lead_low", "recommended", "decided", "oracle")}
    plain |= {f"twice {key}": row["twice"][key] for key in ("recommended", "decided", "oracle")}
    return plain | {f"distance {name}": value for name, value in row["distance"].items()} | {f"kid {n}": v for n, v in row["kid"].items()}


def _figure(path: Path, results: list[dict]) -> None:
    """Share right among the draws whose closest method leads by at least x."""
    leads = [round(x, 3) for x in np.linspace(0, 0.15, 16)]
    kept = {x: [row for row in results if row["lead"] >= x] for x in leads}
    series = {RULES[rule]: [(x, float(np.mean([right(r, rule) for r in rows]))) for x, rows in kept.items() if len(rows) >= 3]
              for rule in RULES}  # fmt: skip
    panel = figures.Panel("Right, of draws with such a lead", "lead of the closest method, total variation", "share right", series,
                          levels={"aim": 0.8}, y_range=(0, 1.03))  # fmt: skip
    figures.draw(path, [panel], columns=1, width=6.5, height=4)
