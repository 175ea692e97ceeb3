"""Tables, curves and sentences that both experiments of the transfer paper report: every way against the number of target pairs.

Rows are those of `transfer_protocol`, with `seed`, `K` and `n` added. What is said about better and worse is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fusion.evaluation.estimate import Estimate
from fusion.studies.figures import Panel
from fusion.studies.tables import markdown, mean_interval, over_seeds, told

Figures = dict[tuple, Estimate]


def final(rows: Iterable[Mapping]) -> list[Mapping]:
    """The rows at the end of training."""
    return [row for row in rows if row["last"]]


def stopped_best(rows: Iterable[Mapping], value: str) -> list[dict]:
    """One row for each training, at the look with the lowest `value`: what stopping at the best moment could give, which nobody knows."""
    best: dict[tuple, dict] = {}
    for row in rows:
        key = (row["seed"], row["target"], row["way"], row["m"])
        if key not in best or row[value] < best[key][value]:
            best[key] = dict(row)
    return list(best.values())


def against_m(rows: Iterable[Mapping], target: str, value: str, ways: Mapping[str, str], pairs: Sequence[int],
              published: Mapping[str, Sequence[float]] | None = None, digits: int = 2) -> str:  # fmt: skip
    """A table of `value` for one target: a line for every way (name -> words), preceded by the published ones; a column for every m."""
    found = over_seeds([row for row in rows if row["target"] == target], ("way", "m"), value)
    lines = [{"": f"published: {ways[way]}", **{f"m = {m}": told(v, digits) for m, v in zip(pairs, values)}}
             for way, values in (published or {}).items()]  # fmt: skip
    lines += [{"": words, **{f"m = {m}": told(found[way, m], digits) for m in pairs}}
              for way, words in ways.items() if (way, pairs[0]) in found]  # fmt: skip
    return markdown(lines)


def curves(rows: Sequence[Mapping], targets: Mapping[str, str], value: str, ways: Mapping[str, str], pairs: Sequence[int],
           y: str) -> list[Panel]:  # fmt: skip
    """One panel for every target (name -> words): `value` of the ways against m."""
    panels = []
    for target, words in targets.items():
        found = over_seeds([row for row in rows if row["target"] == target], ("way", "m"), value)
        series = {told_way: [(m, found[way, m]) for m in pairs] for way, told_way in ways.items() if (way, pairs[0]) in found}
        panels.append(Panel(words, "target pairs m", y, series, log_x=True, log_y=True, ticks=pairs))
    return panels


def compared(rows: Sequence[Mapping], target: str, value: str, pairs: Sequence[int], way: str, other: str) -> dict[int, Estimate]:
    """For every m: mean over seeds of `value` of `other` minus that of `way`, seed by seed (same data): positive where `way` is better."""
    table = {(row["seed"], row["way"], row["m"]): row[value] for row in rows if row["target"] == target and row["way"] in (way, other)}
    seeds = sorted({seed for seed, _, _ in table})
    return {m: mean_interval([table[seed, other, m] - table[seed, way, m] for seed in seeds]) for m in pairs}


def verdict(differences: Mapping[int, Estimate], way: str, other: str, digits: int = 2) -> str:
    """One sentence: where `way` is better than `other`, where worse, where the difference is within its interval. In all three the figure
    is the error of `other` minus that of `way`: negative where `way` is worse."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    for m, difference in differences.items():
        kind = "better" if difference.low > 0 else "worse" if difference.high < 0 else "undecided"
        groups[kind].append(f"{m} ({told(difference, digits)})")
    said = {"better": "better by more than chance", "worse": "worse by more than chance", "undecided": "within chance"}
    return f"{way} against {other}: " + "; ".join(f"{said[kind]} at m = {', '.join(ms)}" for kind, ms in groups.items() if ms) + "."


def ablation(rows: Iterable[Mapping], target: str, value: str, settings: Sequence[tuple[int, int]], pairs: Sequence[int],
             way: str = "transferred", digits: int = 2) -> str:  # fmt: skip
    """A table of `way` for one target, a line for every (K, n)."""
    found = over_seeds([r for r in rows if r["target"] == target and r["way"] == way], ("K", "n", "m"), value)
    lines = [{"sources K": k, "pairs of each n": n, **{f"m = {m}": told(found[k, n, m], digits) for m in pairs}}
             for k, n in settings if (k, n, pairs[0]) in found]  # fmt: skip
    return markdown(lines)


def answers(rows: Sequence[Mapping], targets: Iterable[str], value: str, pairs: Sequence[int], questions: Mapping[str, tuple[str, str]],
            words: Mapping[str, str], digits: int = 2) -> dict[str, dict[str, str]]:  # fmt: skip
    """Question -> target -> the verdict on its two ways."""
    return {question: {t: verdict(compared(rows, t, value, pairs, way, other), words[way], words[other], digits) for t in targets}
            for question, (way, other) in questions.items()}  # fmt: skip


def findings(answered: Mapping[str, Mapping[str, str]], told_target: str = "β₀ = {}") -> str:
    """The answers as a section of the page. `told_target` is left out where there is a single target."""
    lines = ["## What was found\n", "In parentheses: how much smaller the error of the one named first is (negative: larger), paired by "
             "seed, with its 95 % interval.\n"]  # fmt: skip
    for question, by_target in answered.items():
        said = [f"*{told_target.format(t)}*: {sentence}" if len(by_target) > 1 else sentence for t, sentence in by_target.items()]
        lines.append(f"* **{question}** {' '.join(said)}")
    return "\n".join(lines) + "\n"


def section(title: str, paragraphs: Sequence[str], tables: Mapping[str, str]) -> str:
    """A part of the page: its title, text, and tables with their headings (none where empty)."""
    lines = [f"## {title}\n", *(f"{paragraph}\n" for paragraph in paragraphs)]
    for heading, table in tables.items():
        lines += ([f"**{heading}**\n"] if heading else []) + [table]
    return "\n".join(lines)


def stopping(rows: Sequence[Mapping], targets: Mapping[str, str], value: str, ways: Mapping[str, str], pairs: Sequence[int],
             digits: int = 2) -> str:  # fmt: skip
    """What each training could reach at its best moment."""
    best = stopped_best([row for row in rows if row["step"]], value)
    return section("If training were stopped at the best moment", (
        "The lowest of the errors along each training, chosen with the test pairs: a bound, not a method. It separates what a way can "
        "reach from what its last steps have memorised.",),
        {words: against_m(best, target, value, ways, pairs, digits=digits) for target, words in targets.items()})  # fmt: skip
