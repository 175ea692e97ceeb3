"""One model whose parameters are the weighted average of the members': the cost of a single model (Wortsman et al. 2022; arXiv 2406.08431).

Full members, LoRA members and both together: a LoRA member counts with the weights that its forward pass uses, its base plus its adapter.
Averaging parameters is not averaging predictions: it is a good approximation for members fine-tuned from one base, and anything for others.
Text encoders that a member has of its own are averaged, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from fusion.methods.drawing import checked_weights, draw, needs_fit, price, values_of
from fusion.methods.parameters import ADVICE, Source, average
from fusion.methods.plan import Cost, Method, MethodError, Sample, SamplingPlan


def merged(ensemble, weights: np.ndarray):
    """The ensemble of one model, the average of `ensemble`'s members by `weights` (K,), sum 1; the member itself where one has all.

    Raises MethodError for members that predict different things, hear prompts through different templates or are built differently.
    """
    active = np.flatnonzero(np.asarray(weights) > 0)
    members, shares = [ensemble.members[k] for k in active], np.asarray(weights, dtype=float)[active]
    if len(members) == 1:
        return ensemble.subset([int(active[0])])
    _refuse_unlike(members)
    first = members[0]
    network = average([Source(m.name, m.network, () if m.adapter is None else (m.adapter,)) for m in members], shares)
    components = dict(first.components)
    for part in ensemble.family.text:
        modules = [member.components.get(part) for member in members]
        if isinstance(modules[0], nn.Module) and any(module is not modules[0] for module in modules):
            sources = [Source(f"{m.name}'s {part}", module, _active(module)) for m, module in zip(members, modules)]
            components[part] = average(sources, shares)
    return replace(ensemble, members=(replace(first, network=network, components=components, adapter=None, switch=None),))


def _active(module: nn.Module) -> tuple[str, ...]:
    """Names of the adapters that a text encoder of a member's own always uses."""
    layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer) and not part.disable_adapters]
    return tuple(dict.fromkeys(name for layer in layers for name in layer.active_adapters))


def _refuse_unlike(members) -> None:
    first = members[0]
    for other in members[1:]:
        pair = f"{first.name} and {other.name} cannot be merged"
        if first.noise.prediction_type != other.noise.prediction_type:
            kinds = f"{first.noise.prediction_type} and {other.noise.prediction_type}"
            raise MethodError(f"{pair}, since they predict different things ({kinds}): {ADVICE}")
        if not other.noise.calls_like(first.noise):
            raise MethodError(f"{pair}, since they were trained on different noise schedules: {ADVICE}")
        if first.card.prompt_template != other.card.prompt_template:
            templates = f"'{first.card.prompt_template}' and '{other.card.prompt_template}'"
            raise MethodError(f"{pair}, since one model hears one prompt and these read it as {templates}: give both the same template, "
                              "with the trigger words of both, or use a method that keeps the models apart")  # fmt: skip


def _weights(ensemble, fit, plan: SamplingPlan) -> np.ndarray:
    weights = plan.weights if plan.weights is not None else needs_fit(fit, "merging").published.weights_
    return values_of(checked_weights(ensemble, weights))


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    weights = _weights(ensemble, fit, plan)
    if plan.stopped():
        return
    yield from draw(merged(ensemble, weights), plan, np.ones(1), method="merge", shown=weights)


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    """That of one model. (The members are read once, while they are averaged.)"""
    members = [ensemble.members[k] for k in np.flatnonzero(_weights(ensemble, fit, plan) > 0)]
    _refuse_unlike(members)
    return price(ensemble, plan, 1, 1.0)


METHOD = Method(
    "merge", "Merged model", run, cost, "The models' parameters are averaged into one model, which costs what a single model costs."
)
