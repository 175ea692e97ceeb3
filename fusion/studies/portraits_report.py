"""The page of the study `portraits`: shares, spread and distances against the weight, with the published figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from fusion.evaluation.estimate import Estimate, inverted_interval
from fusion.methods import METHODS
from fusion.studies.figures import Panel, draw
from fusion.studies.portrait_samples import Pictures
from fusion.studies.portraits import MEMBERS, SHARES, SWEPT, TITLE, companies
from fusion.studies.tables import markdown, pivot, told, write_csv
from models.portraits.population import CELLS, barycenter, mixture, sampling_floor

PUBLISHED = {"man": (0.979, 0.945, 0.410, 0.211, 0.061, 0.006, 0.000), "lighter": (0.973, 0.984, 0.957, 0.879, 0.574, 0.084, 0.012)}
PUBLISHED_MERGE = {"man": 0.600, "lighter": 0.684}  # at one half
LIGHTER, DARKER = ("light", "medium light"), ("medium dark", "dark")
INDICATORS = {"man": lambda p, t: p == "man", "woman": lambda p, t: p == "woman", "person": lambda p, t: p == "person",
              "lighter": lambda p, t: t in LIGHTER, "darker": lambda p, t: t in DARKER}  # fmt: skip
MASKS = {name: np.array([rule(*cell) for cell in CELLS], dtype=float) for name, rule in INDICATORS.items()}  # (18,) each
DRAWS = 1000
PAGE = """# {title}

Made by `python -m fusion study portraits`. Do not edit.

Members: `portraits/{first}` (men, lighter tones) and `portraits/{second}` (women, darker tones). {count} images a point, bare
prompts in turn, {steps} steps; the same seeds everywhere, the probe reads the attributes. Columns: the weight of `{second}`.
Intervals: 95 %, bootstrap over images, of distances the true ones under which measuring so much is no surprise; over groups that could
replace one another for the exact barycenter, whose images are not independent. The populations are those on the members' cards:
*geometric* is their Kullback-Leibler barycenter, *arithmetic* their mixture.

![Shares, distances and spread against the weight](sweep.svg)

![One seed a block: a row for each method ({methods}), a column for each weight](images.png)

## Result at weight one half

* Distance to the geometric population (a perfect sampler measures {geometric_floor:.3f}): {half[distance to geometric]}.
* Distance to the arithmetic population (a perfect sampler measures {arithmetic_floor:.3f}): {half[distance to arithmetic]}.
* Share of men: {half[man]}. Share of lighter tones: {half[lighter]}.
* Spread of the images, in units of the members' own: {half[spread]}.

{reading}

{errors}

## Share of men

{tables[man]}
## Share of lighter tones (light and medium light)

{tables[lighter]}
## Share of women

{tables[woman]}
## Share of darker tones (medium dark and dark)

{tables[darker]}
## Distance to the geometric population (total variation over 18 cells)

{tables[distance to geometric]}
## Distance to the arithmetic population

{tables[distance to arithmetic]}
## Spread

Root-mean-square distance of an image's denoiser features to the mean of its prompt's, in units of the members' own.

{tables[spread]}
## Beside the published figures

Fused scores; published: SDXL with two adapters, 512 images a weight, shares read by CLIP from the authors' cached scores.

{beside}
Merged parameters at one half, share of men and of lighter tones: {merged}. {wider}

## Why ours differs

* **The ends differ.** The published members are nearly pure (98 % to 0 % male). Ours overlap by construction, {first} being 78 % men
  and {second} 12 %, so shares are to be compared as the part of the way from one member to the other.
* **How steep the curves are** depends on what the members have in common: where two densities hardly overlap, a small difference of weight
  decides which of them a fused sample falls to, and SDXL's adapters have almost no population in common.
* **Merging and fusing** agree here in shares and lie far apart as published (21 % men fused, 60 % merged). A likely reason: our members
  were trained shortly from one base, and so near it a network is almost linear in its parameters, averaging which averages scores. This
  study did not test it.
* **The geometric average is not the mixture.** It favours what both members find plausible (here persons and medium tones), while routed
  samples keep what only one of them draws.
* **The readers differ.** CLIP forces a choice between two words; the probe knows persons and six tones, so the shares of men and women here
  do not sum to 1.
"""


def populations(share: float) -> dict[str, np.ndarray]:
    """The members' geometric and arithmetic average, `(18,)` each, by the populations on their cards."""
    weights = {MEMBERS[0]: 1 - share, MEMBERS[1]: share}
    return {"geometric": barycenter(weights).ravel(), "arithmetic": mixture(weights).ravel()}


def measured(pictures: Pictures, share: float, groups: np.ndarray | None = None) -> dict[str, Estimate]:
    """Every figure of one point with a 95 % interval. `groups` (N,): images that are drawn again together, not independent."""
    groups = np.arange(len(pictures)) if groups is None else groups
    sums = np.zeros((groups.max() + 1, len(CELLS)))
    np.add.at(sums, (groups, pictures.cells), 1.0)
    picks = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS).astype(float)
    whole, drawn = sums.sum(0) / sums.sum(), picks @ sums
    drawn /= drawn.sum(1, keepdims=True)
    found = {name: _between(float(whole @ mask), drawn @ mask) for name, mask in MASKS.items()}
    chance = drawn - drawn.mean(0)  # (DRAWS, 18): what sampling adds to the shares
    for name, truth in populations(share).items():
        way = whole - truth
        value, seen = 0.5 * float(np.abs(way).sum()), lambda shares, way=way: 0.5 * np.abs(shares[:, None, None] * way + chance).sum(2)
        floor = sampling_floor(truth.reshape(3, 6), len(pictures), draws=500)  # with independent images
        found[f"distance to {name}"] = Estimate(value, *inverted_interval(value, seen, most=1.0), floor)
    square = _squares(pictures)
    by_group = np.stack([np.bincount(groups, square), np.bincount(groups)], 1)  # (G, 2)
    again = picks @ by_group
    found["spread"] = _between(float(np.sqrt(square.mean())), np.sqrt(again[:, 0] / again[:, 1]))
    return found


def _squares(pictures: Pictures) -> np.ndarray:
    """`(N,)`: squared distance of each image's features to the mean of its prompt's, an unbiased share of their variance."""
    names, which, counts = np.unique(pictures.prompts, return_inverse=True, return_counts=True)
    means = np.stack([pictures.features[which == prompt].mean(0) for prompt in range(len(names))])
    n = counts[which]
    return ((pictures.features - means[which]) ** 2).sum(1) * n / np.maximum(n - 1, 1)


def wider(one: Pictures, other: Pictures) -> Estimate:
    """By how much the first spreads more than the second, relatively; images of a seed, which share their noise, are drawn again together.
    ValueError for pictures of other seeds."""
    if not np.array_equal(one.seeds, other.seeds):
        raise ValueError("spreads are compared on the same seeds: draw both from the same")
    squares = np.stack([_squares(one), _squares(other)], 1)
    again = np.random.default_rng(0).multinomial(len(squares), np.full(len(squares), 1 / len(squares)), size=DRAWS) @ squares
    ratio = lambda sums: np.sqrt(sums[..., 0] / sums[..., 1]) - 1  # noqa: E731
    return _between(float(ratio(squares.sum(0))), ratio(again))


def _between(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def write(out: Path, points: Mapping[tuple[str, float], Pictures], size, count: int) -> dict:
    """Write README.md, results.csv, sweep.svg and images.png into `out`; returns the figures, plain JSON values."""
    together = lambda method, share: companies(count) if method in ("barycenter", "noisy") and 0 < share < 1 else None  # noqa: E731
    figures = {(method, share): measured(one, share, together(method, share)) for (method, share), one in points.items()}
    unit = np.mean([figures["scorefusion", end]["spread"].value for end in (0.0, 1.0)])  # of the members' own
    for found in figures.values():
        found["spread"] = Estimate(*(getattr(found["spread"], part) / unit for part in ("value", "low", "high")))
    rows = [{"method": method, "share": share, "images": count} | figures[method, share] for method in SWEPT for share in size.shares]
    write_csv(out / "results.csv", rows)
    draw(out / "sweep.svg", _panels(figures, size.shares), columns=3, width=3.9, height=3.4)
    _grid(points, size.shares).save(out / "images.png", optimize=True)
    spread = wider(points["merge", 0.5], points["scorefusion", 0.5])
    (out / "README.md").write_text(_page(figures, size, count, spread))
    return {f"{method} {share:g}": {name: one.value for name, one in figures[method, share].items()} for method, share in figures}


def _panels(figures: Mapping, shares) -> list[Panel]:
    label = f"share of {MEMBERS[1]}"

    def curves(name: str) -> dict[str, list]:
        return {METHODS[method].title: [(share, figures[method, share][name]) for share in shares] for method in SWEPT}

    def truths(name: str) -> dict[str, list]:
        return {f"{kind} population": [(share, float(populations(share)[kind] @ MASKS[name])) for share in shares]
                for kind in ("geometric", "arithmetic")}  # fmt: skip

    published = {name: {"published, SDXL": list(zip(SHARES, values))} for name, values in PUBLISHED.items()}
    panels = [Panel(f"Share of {title}", label, "share", curves(name) | truths(name) | published[name], ticks=shares, y_range=(0, 1))
              for name, title in (("man", "men"), ("lighter", "lighter tones"))]  # fmt: skip
    panels += [Panel(f"Distance to the {kind} population", label, "total variation", curves(f"distance to {kind}"), ticks=shares)
               for kind in ("geometric", "arithmetic")]  # fmt: skip
    return [*panels, Panel("Spread of the images", label, "to the members' own", curves("spread"), ticks=shares)]


def _grid(points: Mapping, shares, seeds: tuple[int, ...] = (0, 5)) -> Image.Image:
    """One row for each method and seed, one column for each share."""
    rows = [np.concatenate([points[method, float(share)].images[seed] for share in shares], 1) for seed in seeds for method in SWEPT]
    return Image.fromarray(np.concatenate(rows, 0)).quantize(96)  # a small file; emoji have few colours


def _travelled(values: Callable[[float], float], shares=SHARES) -> list[float]:
    """How far of the way from one end to the other a share has gone at each weight, 0 to 1."""
    ends = values(shares[0]), values(shares[-1])
    return [(values(share) - ends[0]) / (ends[1] - ends[0]) for share in shares]


def _table(figures: Mapping, name: str, shares, digits: int = 3) -> str:
    return pivot({(METHODS[m].title, share): figures[m, share][name] for m in SWEPT for share in shares}, "method", shares,
                 lambda share: f"{share:g}", digits)  # fmt: skip


def _beside(figures: Mapping, shares) -> str:
    """The published shares and ours, as read and as the part of the way from one member to the other."""
    rows = []
    for name, title in (("man", "men"), ("lighter", "lighter tones")):
        theirs = dict(zip(SHARES, PUBLISHED[name]))
        ours = lambda share, name=name: figures["scorefusion", share][name].value  # noqa: E731
        for label, values in (("published", theirs.__getitem__), ("ours", ours)):
            rows.append({"": f"{title}, {label}"} | {f"{share:g}": f"{values(share):.3f}" for share in shares})
            rows.append({"": f"{title}, {label}, part of the way"}
                        | {f"{share:g}": f"{way:.2f}" for share, way in zip(shares, _travelled(values, shares))})  # fmt: skip
    return markdown(rows)


def _wider(found: Estimate) -> str:
    told = f"({found.value:+.1%}, 95 % {found.low:+.1%} to {found.high:+.1%}, pairs of equal seeds)"
    if found.low > 0:
        return f"They spread more than fused scores, as published {told}."
    if found.high < 0:
        return f"They spread less than fused scores, other than published {told}."
    return f"Published, they spread more than fused scores; here the two are not told apart {told}."


def _page(figures: Mapping, size, count: int, wider: Estimate) -> str:
    half, shares = {method: figures[method, 0.5] for method in SWEPT}, size.shares
    floors = [figures["scorefusion", 0.5][f"distance to {kind}"].floor for kind in ("geometric", "arithmetic")]
    title = {method: METHODS[method].title for method in SWEPT}
    cells = lambda name: ", ".join(f"{title[method]} {told(half[method][name])}" for method in SWEPT)  # noqa: E731
    names = ("man", "lighter", "woman", "darker", "distance to geometric", "distance to arithmetic", "spread")
    return PAGE.format(
        title=TITLE, first=MEMBERS[0], second=MEMBERS[1], count=count, steps=size.steps, methods=", ".join(title.values()),
        geometric_floor=floors[0], arithmetic_floor=floors[1], half={name: cells(name) for name in names},
        tables={name: _table(figures, name, shares) for name in names}, reading=_reading(half, title),
        errors=_errors(half, figures["noisy", 0.5]), wider=_wider(wider), beside=_beside(figures, shares),
        merged=", ".join(f"{told(half['merge'][name])} (published {value:.3f})" for name, value in PUBLISHED_MERGE.items()),
    )  # fmt: skip


def _errors(half: Mapping, noisy: Mapping) -> str:
    """Why the exact barycenter of trained members is not that of their populations, with the figures that show it."""
    name = "distance to geometric"
    plain, exact = half["scorefusion"], half["barycenter"]
    worse = exact[name].low > plain[name].high
    verdict = "farther from the geometric population than the uncorrected blend" if worse else "no nearer than the uncorrected blend"
    if exact[name].high < plain[name].low:
        return "The particles bring the blend nearer to the geometric population, as the theory says."
    enough = ("At this weight the fused scores alone sample the geometric population of these two members to within noise."
              if plain[name].low == 0 else "The fused scores alone do not reach it either.")  # fmt: skip
    return f"""The exact barycenter is {verdict}. It is exact for the densities that the networks *have*, not for the
populations they were trained on: its weights charge a particle for everything the members disagree about, their training errors at low
noise included, and these differ by kind of image (lighter tones: {told(plain["lighter"])} without the weights, {told(exact["lighter"])}
with them). Weighed only where the noise is stronger than the picture, it measures {told(noisy[name])}, with
{told(noisy["lighter"])} lighter tones: that points the same way, within intervals that are wide because particles replace one another.
{enough}"""


def _reading(half: Mapping, title: Mapping) -> str:
    """What the figures say, from the figures."""
    sentences = []
    for kind in ("geometric", "arithmetic"):
        order = sorted(SWEPT, key=lambda method: half[method][f"distance to {kind}"].value)
        first, second = (half[method][f"distance to {kind}"] for method in order[:2])
        clear = "the intervals are apart" if first.high < second.low else "the intervals overlap"
        sentences.append(f"Nearest to the {kind} population is {title[order[0]]} ({told(first)}), next {title[order[1]]} ({told(second)}): "
                         f"{clear}.")  # fmt: skip
    wide = sorted(SWEPT, key=lambda method: -half[method]["spread"].value)
    sentences.append(f"By spread: {' > '.join(title[method] for method in wide)}.")
    return " ".join(sentences)
