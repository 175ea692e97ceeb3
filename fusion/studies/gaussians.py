"""Mixtures of normals on the line: the ScoreFusion paper's first experiment (arXiv 2406.19619), with every method beside fusion.

The target and two auxiliary populations are known, so members exist in closed form and as trained networks, and the distance of any samples
to the target (W1) is exact. As in the authors' code every data set is standardised by its own mean and deviation, members live in
these coordinates, and what they draw is mapped to the target with the mean and deviation of its n samples; once more in plain units,
where the auxiliary populations stay where they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fusion.objective import residual_gram
from fusion.studies.chains import drawn
from fusion.studies.mixtures import PATH, Mixture, published_path
from fusion.studies.shelf import Shelf
from fusion.studies.training import Noise, embedding, fused, noise_of, remembered, stacked, train
from fusion.weights import LevelWeights, MixtureProportions, SimplexWeights

TITLE = "Gaussians: mixtures on the line"
TARGET = Mixture((-6.0, 6.0), 0.8, (0.6, 0.4))
AUXILIARY = (Mixture((-3.0, 10.0), 1.0, (0.5, 0.5)), Mixture((-7.0, 9.0), 1.0, (0.7, 0.3)))
PUBLISHED = (0.5781, 0.4219)  # the paper's weights at 1,024 samples
KINDS = ("closed form", "trained", "plain units")  # of members; in plain units they are in closed form
BLENDS = ("fusion", "fusion, lowest level", "per level", "barycenter", "published weights")
METHODS = ("scratch", "best single", *BLENDS, "mixture", "the n samples")
STRATA = torch.linspace(*PATH.range, 13, dtype=torch.float64)
PLAIN = 8.0  # the unit that brings plain coordinates near 1


@dataclass(frozen=True)
class Size:
    """How much is done. `sources`: samples of each auxiliary population; `steps_*`: of training and of the sampler."""

    sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    seeds: int = 5
    sources: int = 16_384
    steps_member: int = 3000
    steps_scratch: int = 2000
    samples: int = 8096
    steps_sample: int = 60
    width: int = 96


QUICK = Size(sizes=(16, 32), seeds=2, sources=256, steps_member=40, steps_scratch=20, samples=200, steps_sample=8, width=16)


class LineNetwork(nn.Module):
    """v prediction `(B, 1)` for `(x_t, level)`: three hidden layers that see x, its waves and the level."""

    def __init__(self, width: int):
        super().__init__()
        layers, into = [], 1 + 8 + 32
        for _ in range(3):
            layers += [nn.Linear(into, width), nn.SiLU()]
            into = width
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        waves = x * (2.0 ** torch.arange(4)).to(x)
        return self.layers(torch.cat([x, waves.sin(), waves.cos(), embedding(level, 32)], 1))


@dataclass(frozen=True)
class Line:
    """Samples as networks see them: `z = (x - shift) / scale`."""

    shift: float
    scale: float

    @staticmethod
    def of(samples: np.ndarray) -> Line:
        return Line(float(samples.mean()), float(samples.std()))

    def see(self, x: np.ndarray) -> Tensor:  # (N, 1)
        return torch.from_numpy((x - self.shift) / self.scale)[:, None].float()

    def back(self, z: np.ndarray) -> np.ndarray:  # (N,)
        return z * self.scale + self.shift


def run(out: Path, work: Path, *, quick: bool, seeds: int | None, progress, stop) -> dict:
    """The whole study; goes on from `work`. When stopped: `{"stopped": True}`, and nothing is written."""
    from fusion.studies import gaussians_report

    size = QUICK if quick else Size()
    repeats = range(seeds or size.seeds)
    shelf = Shelf(work, asdict(size) | {"seeds": "any"}, len(repeats) * (1 + len(KINDS) * len(size.sizes)), progress, stop)
    try:
        rows = [row for seed in repeats for row in _seed(size, shelf, seed)]
    except RuntimeError:
        if stop is None or not stop():
            raise
        return {"stopped": True}
    return gaussians_report.write(out, rows, size)


def _seed(size: Size, shelf: Shelf, seed: int) -> list[dict]:
    """Everything of one seed: rows with `kind`, `n`, `method`, `seed`, `w1`, and `weight` (of the first auxiliary) where there is one."""
    rng = np.random.default_rng(seed)
    target, sources = TARGET.draw(size.sizes[-1], rng), [member.draw(size.sources, rng) for member in AUXILIARY]
    trained = [_network(size, shelf, f"member-{k}-{seed}", Line.of(x).see(x), 0.0, size.steps_member, seed) for k, x in enumerate(sources)]
    members = {"closed form": [m.moved(m.mean, m.spread).noise for m in AUXILIARY], "trained": [noise_of(one, PATH) for one in trained],
               "plain units": [m.moved(0.0, PLAIN).noise for m in AUXILIARY]}  # fmt: skip
    own = shelf.part(f"members-{seed}", lambda: _members(size, shelf, members, seed))
    rows = [{"kind": "", "n": size.samples, "method": "floor", "seed": seed, "w1": float(own["floor"])}]
    for n in size.sizes:
        for kind in KINDS:
            found = shelf.part(f"{kind.replace(' ', '-')}-{n}-{seed}",
                               lambda n=n, kind=kind: _measure(size, shelf, kind, members[kind], own, target[:n], seed))  # fmt: skip
            for method in METHODS:
                if f"w1 {method}" in found:
                    weight = found.get(f"weights {method}")
                    rows.append({"kind": kind, "n": n, "method": method, "seed": seed, "w1": float(found[f"w1 {method}"]),
                                 "weight": None if weight is None else float(weight[0])})  # fmt: skip
    return rows


def _members(size: Size, shelf: Shelf, members: dict[str, list[Noise]], seed: int) -> dict[str, np.ndarray]:
    """What needs no target: each member's own samples, in its coordinates, and the distance of as many samples of the target itself."""
    found = {f"{kind} {k}": _drawn(size, shelf, [member], [1.0], 300 + seed) for kind in KINDS for k, member in enumerate(members[kind])}
    return found | {"floor": np.float64(TARGET.distance(TARGET.draw(size.samples, np.random.default_rng(900 + seed))))}


def _measure(size: Size, shelf: Shelf, kind: str, members: list[Noise], own, target: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """`w1 METHOD` of every method on the `target` samples (n,), and `weights METHOD` of those that have some."""
    line = Line(0.0, PLAIN) if kind == "plain units" else Line.of(target)
    gram = residual_gram(stacked(members), line.see(target), published_path(), STRATA, generator=torch.Generator().manual_seed(seed),
                         draws=2, batch_size=4096, stop=shelf.stop)  # fmt: skip
    if len(gram) < len(target):
        raise RuntimeError("stopped while fitting")
    lowest = replace(gram, level_weights={"simple": np.eye(len(STRATA) - 1)[0]})  # sigma below 0.01, where the authors' 1-D code fits
    fit, levels, shares = SimplexWeights().fit(gram), LevelWeights().fit(gram).as_weights(), MixtureProportions().fit(gram).as_weights()
    low, fixed = SimplexWeights().fit(lowest).as_weights(), replace(fit.as_weights(), values=np.array(PUBLISHED), interval=None)
    found = {"weights fusion": fit.weights_, "weights fusion, lowest level": low.values, "weights mixture": shares.values,
             "weights per level": levels.values.mean(0)}  # fmt: skip
    judge = lambda method, z: found.update({f"w1 {method}": np.float64(TARGET.distance(line.back(z)))})  # noqa: E731
    for method, weights in zip(BLENDS, (fit.as_weights(), low, levels, fit.as_weights(), fixed)):
        corrected = method == "barycenter"
        ways, w = (members, weights.values) if corrected else ([fused(members, weights)], [1.0])
        judge(method, _drawn(size, shelf, ways, w, 400 + seed, correct=corrected))
    pictures = [own[f"{kind} {k}"] for k in range(2)]
    owner = np.random.default_rng(seed).choice(2, size=size.samples, p=shares.values)
    judge("best single", pictures[fit.best_single_])
    judge("mixture", np.where(owner == 0, *pictures))
    if kind == "trained":
        scratch = _network(size, shelf, f"scratch-{len(target)}-{seed}", line.see(target), 0.2, size.steps_scratch, seed)
        judge("scratch", _drawn(size, shelf, [noise_of(scratch, PATH)], [1.0], 400 + seed))
        found["w1 the n samples"] = np.float64(TARGET.distance(target))
    return found


def _drawn(size: Size, shelf: Shelf, members: list[Noise], weights, seed: int, **more) -> np.ndarray:
    """`size.samples` samples as the members see them."""
    z = drawn(members, PATH, weights, (size.samples, 1), size.steps_sample, seed=seed, batch=size.samples, stop=shelf.stop, **more)
    return z[:, 0].double().numpy()


def _network(size: Size, shelf: Shelf, name: str, z: Tensor, held_out: float, steps: int, seed: int) -> nn.Module:
    """A network fitted to `z` (n, 1), from the shelf where it is there. `held_out`: the share of samples that stops it in time."""
    torch.manual_seed(seed)
    network = LineNetwork(size.width)
    shelf.tell(f"training {name}")
    fit = lambda: train(network, PATH, lambda chosen, _: z[chosen], len(z), steps=steps, batch=min(256, max(32, len(z) // 2)),  # noqa: E731
                        seed=seed, held_out=held_out, average_over=300, half=False, stop=shelf.stop)  # fmt: skip
    return remembered(network, shelf.file(name), fit)
