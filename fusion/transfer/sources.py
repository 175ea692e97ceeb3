"""The sources of an ensemble: images with prompts for every member, of its own training population or drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from fusion.transfer.learning import Source, conditions_of
from fusion.transfer.networks import TransferError, embeddings, flat, plain_attention, task_of, trainable_copy
from fusion.transfer.representation import FINGERPRINT, About, Representation, fingerprint, same_fingerprint
from fusion.transfer.task import Condition
from models.catalog import ModelCard
from models.conditioning import record
from models.ensemble import Ensemble

Pictures = tuple[list[Image.Image], list[str]]
HELD_OUT = 1 / 8  # share of a source's images
DRAWING_STEPS = 20


def own_pictures(ensemble: Ensemble, k: int, count: int, prompts: Sequence[str] | None = None, *, seed: int = 0,
                 progress: Callable[[int, int, str], None] | None = None, stop: Callable[[], bool] | None = None) -> Pictures:  # fmt: skip
    """`count` images of member k with their prompts: rendered from its training population where its card has one (the portraits), and
    captioned as in its training; otherwise drawn from it, for `prompts` in turn. Raises TransferError when neither is possible or when
    stopped.
    """
    card = ensemble.members[k].card
    if has_population(card):
        return _rendered(card.population, count, seed * 101 + k)
    if not prompts and ensemble.family.text:
        raise TransferError(f"give the prompts that {ensemble.names[k]} should draw its images for, best those of the targets to come")
    from fusion.methods.drawing import draw  # the methods stand on this package: imported when called, or the two would circle
    from fusion.methods.plan import SamplingPlan

    said = [(prompts or [""])[i % len(prompts or [""])] for i in range(count)]
    plan = SamplingPlan(said, [seed + count * k + i for i in range(count)], steps=DRAWING_STEPS, progress=progress, stop=stop)
    images = [sample.image for sample in draw(ensemble.subset([k]), plan, np.ones(1), method="sources")]
    if len(images) < count:
        raise TransferError(f"stopped while {ensemble.names[k]} was drawing: nothing was learned")
    return images, said


def has_population(card: ModelCard) -> bool:
    """Whether the member's training population is known here and can be drawn: the shipped portraits."""
    return card.population is not None and card.id.startswith("portraits/")


def _rendered(population: Sequence[Sequence[float]], count: int, seed: int) -> Pictures:
    from models.portraits.denoiser import KINDS, captioned
    from models.portraits.population import PORTRAITS, render

    rng, kinds = np.random.default_rng(seed), (0.5, 0.1, 0.1, 0.2, 0.1)
    found = [captioned(np.asarray(population), rng, dict(zip(KINDS, kinds))) for _ in range(count)]
    return [render(PORTRAITS[portrait], rng) for portrait, *_ in found], [text for _, text, *_ in found]


def check_prompts(ensemble: Ensemble) -> None:
    """TransferError for models that read no prompt: there is no condition to represent."""
    if not ensemble.family.embeddings:
        raise TransferError(f"{ensemble.family.title} reads no prompt, so there is no condition to represent: use finetune instead")


def sources_of(ensemble: Ensemble, pictures: Sequence[Pictures], *, rank: int = 0, only: Sequence[int] | None = None) -> list[Source]:
    """One source for each member (or of those in `only`) from its pictures; an eighth of each is held out.

    rank: 0 leaves the members' own networks frozen as f_k; above 0 each f_k is the first member's network with a LoRA of its own, trained
    with the representation (the setting of the theory). Raises TransferError for families that read no prompt.
    """
    check_prompts(ensemble)
    found = []
    for k in only if only is not None else range(len(ensemble)):
        images, prompts = pictures[k]
        network, lora = trainable_copy(ensemble.members[0 if rank else k], rank, seed=k)
        plain_attention(network)
        task = task_of(ensemble, 0 if rank else k, network, images, prompts, name=ensemble.names[k], parameters=lora)
        found.append(Source.of(task, max(2, round(HELD_OUT * len(task)))))
    return found


def fresh(ensemble: Ensemble, condition: Condition, dimensions: int, **about: object) -> Representation:
    """A random representation for the text part of these conditions, marked with the ensemble's family and text encoders."""
    return Representation.for_conditions(embeddings(ensemble.family, condition), dimensions, family=ensemble.family.name,
                                         fingerprint=fingerprint_of(ensemble, 0), **about)  # fmt: skip


def fresh_for(ensemble: Ensemble, sources: Sequence[Source], dimensions: int, **about: object) -> Representation:
    """A random representation with the mean and spread of all prompts of the sources."""
    names = list(embeddings(ensemble.family, sources[0].fitted.condition))
    return fresh(ensemble, conditions_of(sources, names), dimensions, members=tuple(s.name for s in sources), **about)


def fingerprint_of(ensemble: Ensemble, k: int) -> tuple[float, ...]:
    """Tells apart what members' text encoders make of a prompt; the members' prompt templates do not enter."""
    return fingerprint(_embedded(ensemble, k, list(FINGERPRINT)))


def _embedded(ensemble: Ensemble, k: int, prompts: list[str]) -> Condition:
    """What member k's text encoders make of prompts as they are."""
    family = ensemble.family
    recorded = record(ensemble.members[k].new_pipeline(family.slot), family, prompts, ensemble.size)
    return embeddings(family, flat(recorded.arguments, family.shared))


def blank(ensemble: Ensemble, k: int = 0) -> Condition:
    """What the empty prompt becomes, one row of every tensor: a condition that says nothing."""
    return _embedded(ensemble, k, [""])


def code_bytes(ensemble: Ensemble, k: int, dimensions: int) -> int:
    """Size of a representation for member k's prompts, without making it."""
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in blank(ensemble, k).items()}
    with torch.device("meta"):
        return sum(4 * tensor.numel() for tensor in Representation(About(shapes, dimensions)).state_dict().values())


def fits(representation: Representation, ensemble: Ensemble, k: int) -> bool:
    """Whether member k's prompts may go through this representation: same family, shapes and text encoders."""
    about = representation.about
    if about.family != ensemble.family.name or not ensemble.family.embeddings:
        return False
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in blank(ensemble, k).items()}
    return shapes == {name: tuple(shape) for name, shape in about.shapes.items()} and same_fingerprint(
        about.fingerprint, fingerprint_of(ensemble, k)
    )

