"""Conditioned diffusion: the transfer paper's synthetic experiment (arXiv 2502.04491, section 5), with error bars and ablations.

Paths of a diffusion in a double well are estimated from noisy projections. Sources have drift parameters 1 to 10, targets 5.5 (among them)
and 15 (beyond them). Judged by the squared distance of the posterior mean to a reference from Hamiltonian Monte Carlo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from fusion.studies import diffusion_paths as paths
from fusion.studies.shared_representation import Sizes, Training
from fusion.studies.shelf import Shelf
from fusion.studies.transfer_protocol import WAYS, Protocol, Runner, World, spread

TITLE = "Conditioned diffusion: transfer by a shared representation"
SOURCES = tuple(float(beta) for beta in range(1, 11))
TARGETS = {"5.5": "β₀ = 5.5, among the sources", "15": "β₀ = 15, beyond the sources"}
BASELINES = {
    "ridge": "linear regression on the m pairs",
    "ridge, sources": "linear regression on the sources' pairs",
    "Brownian": "filter in closed form with β = 0, no data",
}
SIZES = Sizes(x=paths.LENGTH, y=paths.OBSERVED, code=10, score=(2, 128), encoder=(5, 512))


@dataclass(frozen=True)
class Size:
    """How much is done. `settings`: (K, n) of the ablations, the paper's first; `tests`: test pairs a target; `keep`: kept draws of the
    reference sampler."""

    protocol: Protocol = Protocol(SIZES, (10, 20, 30, 40, 50, 100), Training(2500, 160, 8), Training(1000, 16, 8))
    settings: tuple[tuple[int, int], ...] = ((10, 1000), (3, 1000), (1, 1000), (1, 10_000), (10, 100), (10, 10))
    ways: tuple[str, ...] = tuple(WAYS)
    seeds: int = 5
    ablation_seeds: int = 3
    tests: int = 100
    keep: int = 300


SMALL = Sizes(paths.LENGTH, paths.OBSERVED, 10, (2, 16), (5, 16))
QUICK = Size(Protocol(SMALL, (10, 20), Training(20, 20, 2), Training(20, 4, 2), draws=2, steps=3), ((3, 30), (1, 30)), seeds=2,
             ablation_seeds=2, tests=4, keep=10)  # fmt: skip


def run(out: Path, work: Path, *, quick: bool, seeds: int | None, progress, stop) -> dict:
    """The whole study; goes on from `work`. When stopped: `{"stopped": True}`, and nothing is written."""
    from fusion.studies import conditioned_diffusion_report

    size = QUICK if quick else Size()
    repeats = seeds or size.seeds
    parts = repeats * (1 + len(size.ways)) + min(repeats, size.ablation_seeds) * (len(size.settings) - 1)
    shelf = Shelf(work, asdict(size), parts, progress, stop)
    try:
        references = [_reference(size, shelf, seed) for seed in range(repeats)]
        rows = [row for seed in range(repeats) for row in _seed(size, shelf, references[seed], seed)]
    except RuntimeError:
        if stop is None or not stop():
            raise
        return {"stopped": True}
    return conditioned_diffusion_report.write(out, rows, _facts(size, references), size)


def _seed(size: Size, shelf: Shelf, reference: dict[str, np.ndarray], seed: int) -> list[dict]:
    """Everything of one seed: rows with `seed`, `K`, `n`, `target`, `way`, `m`, `step`, `last`, `error`, `truth`, `spread`."""
    rows = []
    for number, (count, n) in enumerate(size.settings[: None if seed < size.ablation_seeds else 1]):
        world = build(count, n, reference, max(size.protocol.pairs), seed)
        runner = Runner(world, size.protocol, shelf, f"K{count}-n{n}-seed{seed}", seed)
        found = runner.rows(size.ways if number == 0 else ("transferred",))
        if number == 0:
            found += baselines(world, size.protocol.pairs)
        rows += [{"seed": seed, "K": count, "n": n, **row} for row in found]
    return rows


def matrix() -> Tensor:
    """The one map M of all seeds, sources and targets: the paper's is "pre-defined"."""
    return paths.projection(0)


def _reference(size: Size, shelf: Shelf, seed: int) -> dict[str, np.ndarray]:
    """Test pairs of every target, `x` and `y` (T, N, ...), and their posterior `mean`, `variance` (T, N, 50), `error` of the mean (T,)."""

    def make() -> dict[str, np.ndarray]:
        found: dict[str, list] = {"x": [], "y": [], "mean": [], "variance": [], "error": []}
        for t, target in enumerate(TARGETS):
            x, y = paths.draw_pairs(float(target), size.tests, matrix(), _seed_of(seed, 1, t))
            mean, variance, error = paths.posterior(y, float(target), matrix(), burn=size.keep // 2, keep=size.keep, seed=seed)
            for name, value in zip(found, (x, y, mean, variance, error.mean())):
                found[name].append(value.numpy())
        return {name: np.stack(values) for name, values in found.items()}

    return shelf.part(f"reference-seed{seed}", make)


def _seed_of(seed: int, kind: int, number: int) -> int:
    """Apart for every seed, kind of data (0 sources, 1 tests, 2 target pairs) and population."""
    return 10_000 * seed + 1000 * kind + number


def build(count: int, n: int, reference: dict[str, np.ndarray], most: int, seed: int) -> World:
    """Sources, target pairs and tests of one seed. The targets' pairs do not depend on the sources."""
    stacked = lambda pairs: tuple(torch.stack(values) for values in zip(*pairs))  # noqa: E731
    m = matrix()
    source = stacked(paths.draw_pairs(SOURCES[k], n, m, _seed_of(seed, 0, k)) for k in spread(count, len(SOURCES)))
    target = stacked(paths.draw_pairs(float(beta), most, m, _seed_of(seed, 2, t)) for t, beta in enumerate(TARGETS))
    mean, variance, truth = (torch.from_numpy(reference[name]).float() for name in ("mean", "variance", "x"))

    def measure(samples: Tensor, of: Tensor) -> dict[str, Tensor]:
        estimate = samples.mean(2)
        spreads = samples.var(2).sum(-1).mean(1) / variance[of].sum(-1).mean(1)
        return {"error": _distance(estimate, mean[of]), "truth": _distance(estimate, truth[of]), "spread": spreads}

    return World(tuple(TARGETS), *source, *target, torch.from_numpy(reference["y"]), measure)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Squared distance in R^50, averaged over the tests: `(B, N, 50)` twice -> `(B,)`."""
    return (one - other).square().sum(-1).mean(-1)


def baselines(world: World, pairs: Sequence[int]) -> list[dict]:
    """The same rows for what needs no diffusion model: linear regressions (ridge, strength by leave-one-out) and the closed form."""
    rows = []
    everything = _ridge(world.source_x.flatten(0, 1), world.source_y.flatten(0, 1))
    for t, target in enumerate(world.targets):
        y = world.test_y[t]
        known = {"ridge, sources": everything(y), "Brownian": paths.brownian_posterior(y, matrix())[0].float()}
        for m in pairs:
            known["ridge"] = _ridge(world.target_x[t, :m], world.target_y[t, :m])(y)
            for way, estimate in known.items():
                figures = world.measure(estimate[None, :, None].expand(-1, -1, 2, -1), torch.tensor([t]))
                rows.append({"target": target, "way": way, "m": m, "step": 0, "last": True,
                             "error": float(figures["error"]), "truth": float(figures["truth"])})  # fmt: skip
    return rows


def _ridge(x: Tensor, y: Tensor):
    """`y -> estimate of x` by ridge regression with intercept."""
    fitted = RidgeCV(alphas=np.logspace(-2, 3, 16)).fit(y.double().numpy(), x.double().numpy())
    return lambda new: torch.from_numpy(fitted.predict(new.double().numpy())).float()


def _facts(size: Size, references: Sequence[dict[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """About the problem, per target: the error of using no y (`prior`), the reference's own (`own`), the posterior's total variance
    (`variance`), and `rank_cost` for M as it is (`rank`) and for one with independent N(0, 1) entries (`rank, normal`)."""
    facts: dict[str, dict[str, float]] = {"prior": {}, "own": {}, "variance": {}, "rank": {}, "rank, normal": {}}
    for t, target in enumerate(TARGETS):
        facts["prior"][target] = float(np.mean([np.square(one["mean"][t]).sum(-1).mean() for one in references]))  # the mean path is 0
        facts["own"][target] = float(np.mean([one["error"][t] for one in references]))
        facts["variance"][target] = float(np.mean([one["variance"][t].sum(-1).mean() for one in references]))
        for name, unit in (("rank", True), ("rank, normal", False)):
            facts[name][target] = rank_cost(float(target), size.protocol.sizes.code, paths.projection(0, unit), 5000)
    return facts


def rank_cost(beta: float, numbers: int, m: Tensor, count: int) -> float:
    """Squared error that the best linear estimate of x gains when it may read y only through `numbers` linear numbers."""
    x, y = (values.double() for values in paths.draw_pairs(beta, count, m, 77))
    x, y = x - x.mean(0), y - y.mean(0)
    estimate = y @ torch.linalg.lstsq(y, x).solution
    lost = torch.linalg.svdvals(estimate)[numbers:]
    return float(lost.square().sum() / count)
