"""What both experiments of the transfer paper do with their data: Phase 1, and every way to reach the target, at every number of pairs.

The paper (arXiv 2502.04491) compares `transferred` (h frozen, f from scratch) with `scratch` (both). It lacks: `unfrozen` (h learned on as
well), `untrained` (an h with random weights, frozen), `warm` (h frozen, f goes on from the source network that fits the target's pairs
best) and `source` (that network as it is).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fusion.studies.shared_representation import Encoder, Pairs, Score, Sizes, Training, errors, sample, select, train
from fusion.studies.shelf import Shelf
from fusion.studies.training import remembered

WAYS = {
    "transferred": "transferred, h frozen",
    "scratch": "from scratch",
    "unfrozen": "transferred, h learned on",
    "untrained": "untrained h, frozen",
    "warm": "f from a source, h frozen",
    "source": "a source's network as it is",
}


@dataclass(frozen=True, eq=False)
class World:
    """The data of one seed: K sources `source_x` (K, n, x), `source_y` (K, n, y); T targets with their pairs and N test conditions each.

    `measure(samples (B, N, draws, x), of (B,)) -> {figure: (B,)}`, where network b was fitted to target `of[b]`; arrays (B, ...) with more
    axes are kept on the shelf, but are no figures.
    """

    targets: tuple[str, ...]
    source_x: Tensor
    source_y: Tensor
    target_x: Tensor
    target_y: Tensor
    test_y: Tensor
    measure: Callable[[Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Protocol:
    """How both phases are trained, at which numbers of `pairs` m, and after which shares of Phase 2 (`looks`) errors are measured.

    Phase 1 draws `first.batch` pairs a step in all, whatever the number of sources. `draws`, `steps`: samples per condition, steps of
    the sampler, which runs in bfloat16 if `half`.
    """

    sizes: Sizes
    pairs: tuple[int, ...]
    first: Training
    second: Training
    looks: tuple[float, ...] = (0.1, 0.3, 1.0)
    draws: int = 16
    steps: int = 25
    half: bool = False


def spread(count: int, among: int) -> list[int]:
    """`count` of `among` sources, evenly spread; one is the middle one."""
    return [(among - 1) // 2] if count == 1 else [round(k * (among - 1) / (count - 1)) for k in range(count)]


@dataclass(frozen=True, eq=False)
class Runner:
    """One seed of one setting, whose parts on the shelf begin with `name`."""

    world: World
    protocol: Protocol
    shelf: Shelf
    name: str
    seed: int

    @property
    def jobs(self) -> tuple[Tensor, Tensor]:
        """Target (B,) and number of pairs (B,) of every network of Phase 2."""
        every = [(t, m) for t in range(len(self.world.targets)) for m in self.protocol.pairs]
        return torch.tensor([t for t, _ in every]), torch.tensor([m for _, m in every])

    def rows(self, ways: Sequence[str]) -> list[dict]:
        """One row for every target, way, number of pairs and look: `{"target", "way", "m", "step", "last", **figures}`.

        Raises RuntimeError when stopped; ways that are done are not done again.
        """
        of, counts = (values.tolist() for values in self.jobs)
        found = []
        for way in ways:
            arrays = self.shelf.part(f"{self.name}-{way}", lambda way=way: self._way(way))
            steps = arrays.pop("step")
            found += [{"target": self.world.targets[t], "way": way, "m": m, "step": int(step), "last": look == len(steps) - 1,
                       **{name: float(values[look, b]) for name, values in arrays.items() if values.ndim == 2}}
                      for look, step in enumerate(steps) for b, (t, m) in enumerate(zip(of, counts))]  # fmt: skip
        return found

    def networks(self) -> tuple[Score, Encoder]:
        """Phase 1: one f for every source and one h, from the shelf where they are there; frozen."""
        both = nn.ModuleDict({"score": Score(self.protocol.sizes, len(self.world.source_x), 1000 + self.seed),
                              "encoder": Encoder(self.protocol.sizes, 1, 2000 + self.seed)})  # fmt: skip
        remembered(both, self.shelf.file(f"{self.name}-phase-1"), lambda: self._phase_1(both["score"], both["encoder"]))
        return both["score"], both["encoder"]

    def _phase_1(self, score: Score, encoder: Encoder) -> dict:
        training = replace(self.protocol.first, batch=-(-self.protocol.first.batch // score.count))
        train(score, encoder, Pairs.all(self.world.source_x, self.world.source_y), training, seed=self.seed, **self._told("Phase 1"))
        return {"steps": training.steps}

    def _told(self, what: str) -> dict:
        """`progress` and `stop` of a training, in the words of this study."""
        return {"stop": self.shelf.stop, "progress": lambda done, total, _: self.shelf.tell(f"{self.name}: {what}, step {done} of {total}")}

    # ---------------------------------------------------------------- phase 2

    def _way(self, way: str) -> dict[str, np.ndarray]:
        of, counts = self.jobs
        sizes, world, second = self.protocol.sizes, self.world, self.protocol.second
        fresh = Score(sizes, len(of), 3000 + self.seed)
        if way == "scratch":
            return self._fit(way, fresh, Encoder(sizes, len(of), 4000 + self.seed), True, second)
        if way == "untrained":
            encoder = Encoder(sizes, 1, 5000 + self.seed)
            encoder.standardise(world.source_y)
            return self._fit(way, fresh, encoder, False, second)
        sources, encoder = self.networks()
        if way == "transferred":
            return self._fit(way, fresh, encoder, False, second)
        if way == "unfrozen":
            return self._fit(way, fresh, select(encoder, [0] * len(of)), True, second)
        near = select(sources, self.closest(sources, encoder))
        if way == "warm":
            return self._fit(way, near, encoder, False, replace(second, rate=second.rate / 10))
        return _gathered([(0, self._look(near, encoder))])

    @torch.no_grad()
    def closest(self, sources: Score, encoder: Encoder, noises: int = 64) -> list[int]:
        """For every network of Phase 2 the source whose network has the lowest denoising loss on its pairs; the same noise for all."""
        codes, chosen = encoder(self.world.target_y), []
        for target, count in zip(*self.jobs):
            x, code = (values[target, :count].expand(sources.count, -1, -1) for values in (self.world.target_x, codes))
            chosen.append(int(errors(sources, code, x, noises, torch.Generator().manual_seed(self.seed), shared=True).mean(1).argmin()))
        return chosen

    def _fit(self, way: str, score: Score, encoder: Encoder, learn: bool, training: Training) -> dict[str, np.ndarray]:
        """Fit `score`, and `encoder` too if `learn`, on the target's pairs, with a look at the errors now and then."""
        with torch.no_grad():
            pairs = Pairs(self.world.target_x, self.world.target_y if learn else encoder(self.world.target_y), *self.jobs)
        found = []
        steps = sorted({max(1, round(share * training.steps)) for share in self.protocol.looks} | {training.steps})
        looks = {step: lambda step=step: found.append((step, self._look(score, encoder))) for step in steps}
        train(score, encoder if learn else None, pairs, training, seed=self.seed, looks=looks, **self._told(WAYS[way]))
        return _gathered(found)

    @torch.no_grad()
    def _look(self, score: Score, encoder: Encoder) -> dict[str, Tensor]:
        of, _ = self.jobs
        code = encoder(self.world.test_y)[of] if encoder.count == 1 else encoder(self.world.test_y[of])
        protocol = self.protocol
        return self.world.measure(sample(score, code, protocol.draws, steps=protocol.steps, seed=self.seed, half=protocol.half), of)


def _gathered(looks: Sequence[tuple[int, dict[str, Tensor]]]) -> dict[str, np.ndarray]:
    """`step` (L,) and every figure (L, B) or array (L, B, ...)."""
    figures = {name: np.stack([np.asarray(found[name]) for _, found in looks]) for name in looks[0][1]}
    return {"step": np.array([step for step, _ in looks]), **figures}
