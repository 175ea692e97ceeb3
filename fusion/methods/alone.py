"""One member drawn as its own pipeline draws it: its scheduler, its rule for empty prompts, its steps and guidance where it takes few.

What is averaged has one sampler, the first member's; a sample that comes from one member alone has that member's own. Members that sample
like the first one are drawn as part of the whole ensemble, bit for bit as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from fusion.methods.drawing import draw, mean_weights, memory_ratio, price
from fusion.methods.plan import Cost, Sample, SamplingPlan
from models.samplers import FEW, MOST_GUIDANCE, few_steps_of, in_its_own_way, sampler_name, sampler_of

ALONE = ("single", "mixture")  # methods each of whose samples comes from one member


def as_drawn(ensemble, plan: SamplingPlan, index: int) -> SamplingPlan:
    """The plan with the steps and guidance that member `index` is drawn with alone: the plan's own, unless it is a few-step model and
    the plan asks for more than such a model bears."""
    few = few_steps_of(ensemble.members[index]) if plan.sampler == "own" else None
    if few is None:
        return plan
    steps = plan.steps if plan.steps <= max(FEW, few.steps) else few.steps
    guidance = plan.guidance if plan.guidance <= max(MOST_GUIDANCE, few.guidance) else few.guidance
    told = ensemble.members[index].network.config.get("time_cond_proj_dim") is not None  # the guidance, so no half is left out
    changes = {} if (steps, guidance) == (plan.steps, plan.guidance) else {"steps": steps, "guidance": guidance}
    return plan.with_(**changes, **({"guidance_interval": None} if told or guidance <= 1 else {}))


def own_sampler(ensemble, plan: SamplingPlan, index: int) -> bool:
    """Whether member `index` is drawn with another scheduler or rule for empty prompts than the first member's."""
    member, first = ensemble.members[index], ensemble.members[0]
    return plan.sampler != "first" and sampler_of(member) != sampler_of(first, alone=False)


def uneven(ensemble, plan: SamplingPlan) -> bool:
    """Whether some member alone is drawn otherwise than the ensemble is."""
    count = range(len(ensemble.members))
    return any(own_sampler(ensemble, plan, k) or (few_steps_of(ensemble.members[k]) and plan.sampler != "first") for k in count)


def draw_alone(ensemble, plan: SamplingPlan, index: int, *, method: str, jobs=None, shown=None) -> Iterator[Sample]:
    """Samples of member `index` alone, in its own way. `jobs`, `shown` as in `draw`."""
    mine, name = as_drawn(ensemble, plan, index), ensemble.names[index]
    hot = np.eye(len(ensemble.members))[index]
    if not own_sampler(ensemble, plan, index):
        return draw(ensemble, mine, hot, method=method, member=name, jobs=jobs, shown=shown)
    shown = hot if shown is None else shown
    apart = ensemble.subset([index])
    apart = replace(apart, members=(in_its_own_way(apart.members[0]),))
    return draw(apart, mine, np.ones(1), method=method, member=name, jobs=jobs, shown=shown)


def cost_alone(ensemble, plan: SamplingPlan, shares: Sequence[float]) -> Cost:
    """Price of images that come from the members alone, in these shares: of each one's own steps."""
    used = np.flatnonzero(np.asarray(shares) > 0)
    memory = memory_ratio(ensemble, used)
    prices = [price(ensemble, as_drawn(ensemble, plan, k), 1, memory) for k in used]
    if all(one == prices[0] for one in prices):
        return prices[0]
    weights = np.asarray(shares, dtype=float)[used] / np.sum(np.asarray(shares, dtype=float)[used])
    mean = lambda name: float(weights @ [getattr(one, name) for one in prices])
    return Cost(mean("evaluations"), memory, saved=mean("saved"))


def drawing(method: str, weights) -> np.ndarray:
    """`(K,)`: which members' own images a method with these weights gives: the largest weight's alone for `single`."""
    shares = mean_weights(weights)
    return np.eye(len(shares))[int(np.argmax(shares))] if method == "single" else shares


def sampler_words(ensemble, plan: SamplingPlan, method: str, shares: Sequence[float] | None = None) -> list[str]:
    """Which sampler is used, one sentence each; nothing where all members sample alike. shares: which members draw, None for all."""
    first = ensemble.members[0]
    usual = sampler_of(first, alone=False, path=False)
    told = any(few_steps_of(member) or sampler_of(member, path=False) != usual for member in ensemble.members)
    if plan.sampler == "first" or not told:
        return []
    if method.split("/")[0] not in ALONE:
        return [f"What is averaged is drawn with the sampler of {first.name}: {sampler_name(first, alone=False)}"]
    found = []
    for k, member in enumerate(ensemble.members):
        if shares is None or shares[k] > 0:
            mine = as_drawn(ensemble, plan, k)
            found.append(f"{member.name} is drawn alone with its own sampler: {sampler_name(member)}, {mine.steps} steps, guidance "
                         f"{mine.guidance:g}")  # fmt: skip
    return found
