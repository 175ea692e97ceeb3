"""The exact geometric average of the members, by weights and resampling within a batch (Skreta et al. 2025, arXiv 2503.02819, Prop. 3.1).

Every image is a particle that follows the fused score with fresh noise in each step, and gathers a weight from what the members disagree
about (`fusion.methods.particles`). Particles of one prompt and batch are resampled into one another, so what an image becomes depends on
its company: large batches of one prompt are corrected well, an image alone with its prompt not at all, and each says how well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from fusion.methods.drawing import checked_weights, constant_cost, draw, needs_fit, values_of
from fusion.methods.particles import Particles, average
from fusion.methods.plan import Cost, Method, Remark, Sample, SamplingPlan
from fusion.methods.stochastic import by_chain

UNCORRECTED = "alone with its prompt in its batch: not corrected"


def prompt_groups(batch: Sequence[tuple[str, int]]) -> list[torch.Tensor]:
    """Indices of the images of each prompt, in order of first appearance."""
    prompts = [prompt for prompt, _ in batch]
    return [torch.tensor([i for i, other in enumerate(prompts) if other == prompt]) for prompt in dict.fromkeys(prompts)]


def side_by_side(jobs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The jobs with those of one prompt together, otherwise in their order: groups are then as large as batches allow."""
    first = {prompt: place for place, (prompt, _) in reversed(list(enumerate(jobs)))}
    return sorted(jobs, key=lambda job: first[job[0]])


def _offsets(batch: Sequence[tuple[str, int]], groups: Sequence[torch.Tensor]):
    """`offset(group) -> [0, 1)`: a stream for each group, made of its seeds alone."""
    streams = []
    for group in groups:
        seeds = ",".join(str(batch[i][1]) for i in group.tolist())
        digest = hashlib.sha256(f"resample {seeds}".encode()).digest()
        streams.append(torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1))
    return lambda group: float(torch.rand((), generator=streams[group], dtype=torch.float64))


def _remarks(found: Particles, batch: Sequence[tuple[str, int]]) -> list[Remark]:
    remarks = [Remark()] * len(batch)
    for g, group in enumerate(found.groups):
        note = (f"effective sample size {found.lowest[g]:.1f} of {len(group)}, {found.remaining(g)} lineages left" if len(group) > 1
                else UNCORRECTED)  # fmt: skip
        for i in group.tolist():
            remarks[i] = Remark(note, tuple(batch[int(found.lineage[i])]))
    return remarks


def _images(ensemble, plan: SamplingPlan, weights: np.ndarray, batch, advance, *,
            quietest: float = 0.0) -> tuple[list, list[Remark]]:  # fmt: skip
    groups = prompt_groups(batch)

    def chain(predict, x, steps, noise):
        def tell(_step, sizes):
            advance(f"barycenter: effective sample size {sum(sizes):.1f} of {len(batch)}")

        active = torch.from_numpy(weights[weights > 0])
        found = average(predict, x, steps, active, noise, groups, _offsets(batch, groups), tell, quietest)
        return found.x, _remarks(found, batch)

    return by_chain(ensemble, plan, weights, batch, chain)


def _weights(ensemble, fit, plan: SamplingPlan) -> np.ndarray:
    weights = plan.weights if plan.weights is not None else needs_fit(fit, "the barycenter").published.weights_
    return values_of(checked_weights(ensemble, weights))


def run(ensemble, fit, plan: SamplingPlan, *, quietest: float = 0.0) -> Iterator[Sample]:
    """Samples prompt by prompt, so that batches hold as many particles of one prompt as they can. `quietest`: as in `particles.average`."""
    weights, images = _weights(ensemble, fit, plan), partial(_images, quietest=quietest)
    yield from draw(ensemble, plan, weights, method="barycenter", jobs=side_by_side(plan.jobs), images=images)


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return constant_cost(ensemble, plan, _weights(ensemble, fit, plan))


METHOD = Method(
    "barycenter", "Exact barycenter", run, cost,
    "Every sample averages all models; samples of a batch are weighed and resampled, which makes the geometric average exact.",
)  # fmt: skip
