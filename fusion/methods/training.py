"""What the methods that train on the target images have in common: prepare once, draw with one adapted member, say the price before.

The small LoRA that the papers put on their base network goes on the best single member here: an ensemble need not have a common base, and
of the networks at hand this one starts nearest to the target.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from fusion.methods.drawing import draw, memory_ratio, needs_fit, price
from fusion.methods.plan import Cost, Method, MethodError, Sample, SamplingPlan, Unfinished
from fusion.methods.single import best_single, one_hot

SHARED = "representation"  # where a fit keeps a representation that was learned for these models, beside what methods trained


@dataclass(frozen=True)
class Way:
    """One way of training. `reads`: how prompts reach the network: None (as they are), `shared` (through a representation that the
    sources taught) or `random` (through one that starts at random). `freeze`: whether that representation stays as it is."""

    name: str
    title: str
    summary: str
    reads: str | None = None
    freeze: bool = True


def method_of(way: Way) -> Method:
    """The method that trains in this way."""
    run, cost, prepare = (functools.partial(work, way) for work in (_run, _cost, _prepare))
    return Method(way.name, way.title, run, cost, way.summary, prepare)


def _prepare(way: Way, ensemble, fit, plan: SamplingPlan):
    """The fit with what this way trained on its target images, trained now unless it is there.

    Raises MethodError without target images and with fewer than two; Unfinished when stopped.
    """
    from fusion.transfer.adapting import adapt

    if way.name in needs_fit(fit, way.title).trained:
        return fit
    target = _target(way, fit)
    k = best_single(fit)
    with _refusals():
        fit = represented(ensemble, fit, k, plan) if way.reads == "shared" else fit
        code = fit.trained.get(SHARED) if way.reads == "shared" else _random(ensemble, k, target) if way.reads else None
        trained = adapt(ensemble, k, target.images, target.prompts, method=way.name, representation=code, freeze=way.freeze,
                        notes=_notes(code, way), progress=plan.progress, stop=plan.stop, work=plan.work)  # fmt: skip
    found = replace(fit, trained={**fit.trained, way.name: trained})
    if trained.course.stopped and trained.course.best == 0:
        raise Unfinished(f"{way.title} was stopped before it was better than {trained.member} as it is: start it again")
    if trained.course.stopped:
        raise Unfinished(f"{way.title} was stopped before its training ended: start it again", found)
    return found


def _run(way: Way, ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    """Samples of the one adapted member: of the plan's trained record, else of the fit's, else of one that is trained first."""
    from fusion.transfer.adapting import with_trained

    trained = plan.trained if plan.trained is not None else fit.trained.get(way.name) if fit is not None else None
    if trained is None:
        try:
            trained = _prepare(way, ensemble, fit, plan).trained[way.name]
        except MethodError:
            if plan.stopped():  # asked to stop before there was an answer: nothing to keep, nothing wrong
                return
            raise
    with _refusals():
        adapted = with_trained(ensemble, trained)
    shown = one_hot(len(ensemble), ensemble.names.index(trained.member))
    for sample in draw(adapted, plan.with_(weights=None), np.ones(1), method=way.name, member=trained.member, shown=shown):
        yield replace(sample, trained=trained)


def _cost(way: Way, ensemble, fit, plan: SamplingPlan) -> Cost:
    """One network at every step, and its training unless that is done: seconds as `adapting.seconds` has them."""
    trained = plan.trained if plan.trained is not None else fit.trained.get(way.name) if fit is not None else None
    if trained is not None:
        with _refusals():
            return price(ensemble, plan, 1, _memory(ensemble, trained))
    target, k = _target(way, needs_fit(fit, way.title)), best_single(fit)
    from fusion.transfer import adapting, source_phase
    from fusion.transfer.networks import lora_bytes
    from fusion.transfer.sources import check_prompts, code_bytes

    with _refusals():
        if way.reads is not None:
            check_prompts(ensemble)
        seconds, drawn = adapting.seconds(ensemble, k, len(target)), 0
        if way.reads == "shared" and SHARED not in fit.trained and shipped(ensemble, k) is None:
            longer, drawn = source_phase.price(ensemble, k)
            seconds += longer
        extra = lora_bytes(ensemble.members[k]) + (code_bytes(ensemble, k, source_phase.DIMENSIONS) if way.reads else 0)
        memory = memory_ratio(ensemble, [k]) + extra / _bytes_of(ensemble, k)
    return replace(price(ensemble, plan, 1, memory, seconds, drawn), at_most=adapting.share(ensemble, k) is None)


# ------------------------------------------------------------------------------------------------ representations

def shipped(ensemble, k: int):
    """The representation that member k's card names, where the file is there and the member's text encoders are those it was made for."""
    from fusion.transfer.representation import Representation
    from fusion.transfer.sources import fits
    from models.catalog import REPOSITORY

    name = ensemble.members[k].card.representation
    path = None if name is None else REPOSITORY / "assets" / name
    if path is None or not path.is_file():
        return None
    found = Representation.load(path)
    return found if fits(found, ensemble, k) else None


def represented(ensemble, fit, k: int, plan: SamplingPlan):
    """The fit with a representation that these models share: its own, the one shipped for member k, or learned now, which takes minutes.

    `fit.trained[SHARED].about.diagnosis` says what it is worth. Raises MethodError where the models read no prompt, and when stopped.
    """
    if SHARED in fit.trained:
        return fit
    found = shipped(ensemble, k)
    if found is None:
        from fusion.transfer.source_phase import learned_for

        with _refusals():
            found = learned_for(ensemble, list(fit.target.prompts), progress=plan.progress, stop=plan.stop, work=plan.work)
    return replace(fit, trained={**fit.trained, SHARED: found})


def verdict_of(representation) -> str:
    """Whether the models it was learned on share it, in a sentence; that nobody knows, where it came without a diagnosis."""
    undiagnosed = "Whether the models share this representation was never measured: make one with `python -m fusion represent`."
    return str(representation.about.diagnosis.get("verdict") or undiagnosed)


def found_of(trained) -> str:
    """Whether training found anything, in a sentence where it did not; else empty."""
    if trained.course.best:
        return ""
    return (f"Training kept none of its {trained.course.steps} steps: none was better on the {trained.images[1]} images held out to tell "
            "when to stop.")  # fmt: skip


def _random(ensemble, k: int, target):
    """A representation that nobody taught, scaled to the target's prompts."""
    from fusion.transfer.networks import conditions
    from fusion.transfer.source_phase import DIMENSIONS
    from fusion.transfer.sources import fresh

    return fresh(ensemble, conditions(ensemble, k, list(dict.fromkeys(target.prompts)))[1], DIMENSIONS)


def _notes(code, way: Way) -> dict:
    """What a trained file says of its representation."""
    if code is None:
        return {}
    return {"representation": way.reads, "frozen": way.freeze, "sources": list(code.about.members)}


# ------------------------------------------------------------------------------------------------ refusals and prices

def _target(way: Way, fit):
    """The fit's target images. Raises MethodError where there are none, or too few."""
    if fit.target is None:
        raise MethodError(f"{way.title} trains on the target images, and this fit holds only their statistic: fit the models to the "
                          "pictures again")  # fmt: skip
    if len(fit.target) < 2:
        raise MethodError(f"{way.title} needs at least 2 target images, one of them to tell when to stop training: add images")
    return fit.target


@contextmanager
def _refusals():
    """What the transfer package refuses, as this method's refusal."""
    from fusion.transfer.networks import TransferError
    from fusion.transfer.trained import TrainedError

    try:
        yield
    except (TransferError, TrainedError) as error:
        raise MethodError(str(error)) from None


def _memory(ensemble, trained) -> float:
    k = ensemble.names.index(trained.member) if trained.member in ensemble.names else 0
    return memory_ratio(ensemble, [k]) + len(trained.content) / _bytes_of(ensemble, k)


def _bytes_of(ensemble, k: int) -> int:
    """Bytes of the weights of member k's whole pipeline."""
    member = ensemble.members[k]
    modules = [part for part in (member.network, *member.components.values()) if hasattr(part, "parameters")]
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
