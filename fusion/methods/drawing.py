"""Draw images with a stock pipeline in which the fused denoiser stands, a batch of seeds in one call.

Every image's randomness comes from its own CPU generator, so one seed gives one initial latent in every method and in any batch.
This module does not choose weights.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from fusion import pace
from fusion.guidance import guided_steps
from fusion.memory import free, out_of_memory
from fusion.methods.plan import Cost, MethodError, Remark, Sample, SamplingPlan, Stopped
from fusion.sampler import fused
from models.errors import ModelError
from models.families import check_size


def draw(ensemble, plan: SamplingPlan, weights, *, method: str, member: str | None = None, jobs=None, shown=None,
         images: Callable | None = None) -> Iterator[Sample]:  # fmt: skip
    """Samples of one fused model for this process's part of `jobs` (all of `plan`), in order. Ends early, with whole batches, when
    `plan.stop()` turns true. A batch that memory has no room for is drawn in halves, and so are those after it.

    `weights`: (K,) or `Weights`. `shown` (K,): what samples state as their weights where that differs from what is applied.
    `images(ensemble, plan, weights, batch, advance) -> (images, remarks)` draws one batch of `(prompt, seed)` and calls
    `advance(message="")` after every step; it has a `Remark` on each image, or none at all. None: the stock pipeline with the fused
    denoiser.
    """
    shares = mean_weights(weights) if shown is None else np.asarray(shown, dtype=float)
    batches, applied, fits = plan.batches(jobs), weights if shown is None else shown, None
    for number, batch in enumerate(batches):
        at = 0
        while at < len(batch):
            now = batch[at : at + (fits or len(batch))]
            try:
                steps = pace.Steps()
                advance = _advance(plan, number * plan.steps, len(batches) * plan.steps, member or method, steps)
                drawn, remarks = (images or by_pipeline)(ensemble, plan, weights, now, advance)
                pace.batch(ensemble, steps, method, len(now), plan.steps)
            except Stopped:
                return
            except Exception as error:
                if not out_of_memory(error) or len(now) == 1:
                    raise
                fits, drawn = -(-len(now) // 2), None
            if drawn is None:  # outside of `except`: the error's traceback holds the tensors that filled the memory
                free()
                continue
            for place, (image, (prompt, seed)) in enumerate(zip(drawn, now)):
                told = remarks[place] if remarks else Remark()
                yield Sample(image, method, prompt, seed, shares, member, applied, now, place, at, told.note, family=told.family)
            at += len(now)


def _advance(plan: SamplingPlan, done: int, total: int, label: str, each: Callable[[], None]) -> Callable[..., None]:
    """`advance(message="")`: one step more of `total`, `done` of them before this batch, and a call of `each`. Raises Stopped, now and
    after any step."""
    if plan.stopped():
        raise Stopped
    step = 0

    def advance(message: str = "") -> None:
        nonlocal step
        each()
        if plan.stopped():
            raise Stopped
        step = min(step + 1, plan.steps)
        if plan.progress is not None:
            plan.progress(done + step, total, message or label)

    return advance


def by_pipeline(ensemble, plan: SamplingPlan, weights, batch, advance: Callable[..., None]) -> tuple[list, list[Remark]]:
    """A batch of `(prompt, seed)`, by one call of the stock pipeline for prompts of one length: text encoded and latents decoded once.

    Prompts of unlike length would be filled up to the longest, and so depend on their company. No remarks.
    """
    lengths = ensemble.lengths([prompt for prompt, _ in batch], plan.reading)
    groups = [[n for n, length in enumerate(lengths) if length == one] for one in sorted(set(lengths))]
    drawn = {}
    for group in groups:
        drawn |= zip(group, _by_pipeline(ensemble, plan, weights, [batch[n] for n in group], advance))
    return [drawn[n] for n in range(len(batch))], []


def _by_pipeline(ensemble, plan: SamplingPlan, weights, batch, advance: Callable[..., None]) -> list:
    # not held while `draw` waits for its caller, who may draw meanwhile
    with fused(ensemble, weights, interval=plan.interval, reading=plan.reading) as pipeline:
        arguments = arguments_for(pipeline, plan, ensemble, batch)
        quiet(pipeline)
        _every_step(pipeline, arguments, advance)
        with torch.no_grad():
            return pipeline(**arguments, generator=generators_for(batch)).images


def arguments_for(pipeline, plan: SamplingPlan, ensemble, batch) -> dict:
    """What a stock pipeline is called with for a batch, its generators apart. Size: the plan's or the ensemble's."""
    height, width = size_of(ensemble, plan)
    offered = {
        "prompt": [prompt for prompt, _ in batch],
        "num_inference_steps": plan.steps,
        "guidance_scale": plan.guidance,
        "height": height,
        "width": width,
        **ensemble.family.call,
        **_heard_beside(ensemble, plan, len(batch)),
    }
    accepted = inspect.signature(pipeline.__call__).parameters
    arguments = {key: value for key, value in offered.items() if key in accepted}
    return arguments if "prompt" in accepted else arguments | {"batch_size": len(batch)}  # DDPM and DDIM draw without a condition


def _heard_beside(ensemble, plan: SamplingPlan, count: int) -> dict:
    """Arguments for the negative prompt and the layer of CLIP that is read, where the plan asks for any. Raises MethodError where the
    models take none."""
    family, found = ensemble.family, {}
    if plan.negative_prompt:
        if family.guidance != "batch":
            raise MethodError(f"{family.title} takes no negative prompt, since it is not guided away from anything: leave it out")
        found["negative_prompt"] = [plan.negative_prompt] * count
    if plan.clip_skip:
        if family.clip_layer is None:
            raise MethodError(f"{family.title} reads its prompts at one layer only, so there is no clip skip to choose: leave it out")
        skipped = plan.clip_skip - family.clip_layer
        if skipped < 0:
            raise MethodError(f"clip skip {plan.clip_skip} cannot be had of {family.title}, which is made for {family.clip_layer} or more")
        deepest = min(part.config.num_hidden_layers for name in family.text if name in ("text_encoder", "text_encoder_2")
                      for member in ensemble.members if (part := member.components.get(name)) is not None)  # fmt: skip
        if plan.clip_skip > deepest:
            raise MethodError(f"clip skip {plan.clip_skip} is more than the {deepest} layers of these models' text encoders: choose less")
        found |= {"clip_skip": skipped} if skipped else {}
    return found


def size_of(ensemble, plan: SamplingPlan) -> tuple[int, int]:
    """`(height, width)` of the plan's images in pixels. Raises MethodError for a size that these models cannot draw."""
    if plan.height is None and plan.width is None:
        return ensemble.size
    try:
        return check_size(ensemble.pipeline, ensemble.family, (plan.height or ensemble.size[0], plan.width or ensemble.size[1]))
    except ModelError as error:
        raise MethodError(str(error)) from None


def generators_for(batch) -> list[torch.Generator]:
    """A generator of its own for each image, on the CPU wherever the networks are."""
    return [torch.Generator("cpu").manual_seed(seed) for _, seed in batch]


def _every_step(pipeline, arguments: dict, advance: Callable[..., None]) -> None:
    """Have `advance()` called once a step: the pipeline's own callback, or a hook on its scheduler's `step` where it has none."""
    if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:

        def callback(_pipeline, _index, _timestep, tensors):
            advance()
            return tensors

        arguments["callback_on_step_end"] = callback
        return
    original = pipeline.scheduler.step

    @functools.wraps(original)
    def stepped(*args, **kwargs):
        advance()
        return original(*args, **kwargs)

    pipeline.scheduler.step = stepped  # an instance attribute in front of the class's method: the scheduler is this call's own


def quiet(pipeline) -> None:
    """Our caller draws the progress bar: the pipeline's own would write one per batch."""
    pipeline.set_progress_bar_config(**(getattr(pipeline, "_progress_bar_config", {}) | {"disable": True}))


# ------------------------------------------------------------------------------------------------ weights and prices

def values_of(weights) -> np.ndarray:
    """The bare (K,) or (L, K) array of `Weights` or of anything array-like."""
    return np.asarray(getattr(weights, "values", weights), dtype=float)


def mean_weights(weights) -> np.ndarray:
    """`(K,)`: the weights themselves, or their mean over noise levels."""
    values = values_of(weights)
    return values if values.ndim == 1 else values.mean(0)


def checked_weights(ensemble, weights, *, levels: bool = False):
    """The weights of an ensemble, as `weights_for` says."""
    return weights_for(len(ensemble.members), weights, levels=levels)


def weights_for(count: int, weights, *, levels: bool = False):
    """Weights of `count` models, rounding errors taken off. Raises MethodError for another length, NaN, negative values or a wrong sum."""
    values = values_of(weights)
    if values.ndim not in (1, 2) or values.shape[-1] != count:
        raise MethodError(f"weights of shape {values.shape} for {count} models: give one weight for each model")
    if values.ndim == 2 and not levels:
        raise MethodError("this method takes one weight for each model, not weights by noise level: use scorefusion_levels")
    if values.ndim == 2 and getattr(weights, "strata", None) is None:
        raise MethodError("weights by noise level need the levels that they stand for: give a fusion.weights.Weights with its strata")
    if not np.isfinite(values).all() or (values < -1e-6).any() or (abs(values.sum(-1) - 1.0) > 1e-3).any():
        raise MethodError(f"weights must be numbers of at least 0 that sum to 1, not {np.round(values, 4).tolist()}")
    clean = normalised(np.clip(values, 0.0, 1.0))
    return replace(weights, values=clean) if hasattr(weights, "values") else clean


def normalised(values: np.ndarray) -> np.ndarray:
    """Weights typed with few decimals made to sum to 1; those that do so already stay bit for bit as they are, so that runs repeat."""
    total = values.sum(-1, keepdims=True)
    return values if (abs(total - 1.0) < 1e-9).all() else values / total


def needs_fit(fit, what: str):
    """`fit`, or MethodError when neither it nor `plan.weights` was given."""
    if fit is None:
        raise MethodError(f"{what} needs a fit to a target, or weights in the plan: fit the models to some pictures first")
    return fit


def evaluations(ensemble, plan: SamplingPlan, members: float) -> float:
    """Network evaluations per image when `members` networks run at every step; classifier-free guidance runs each twice where it acts."""
    doubled = plan.guidance > 1.0 and ensemble.family.guidance == "batch"
    if doubled and ensemble.members[0].network.config.get("time_cond_proj_dim") is not None:  # told the guidance: nothing runs twice
        doubled = False
    return members * (plan.steps + (guided_steps(plan.interval, plan.steps) if doubled else 0))


def price(ensemble, plan: SamplingPlan, members: float, memory: float, seconds: float = 0.0, preparation: int = 0) -> Cost:
    """The cost of drawing with `members` networks at every step, with what the plan's guidance interval saves of it.

    Raises MethodError for what they cannot draw, a size or a negative prompt: prices are asked for before anything is drawn.
    """
    size_of(ensemble, plan)
    _heard_beside(ensemble, plan, 1)
    count = evaluations(ensemble, plan, members)
    saved = evaluations(ensemble, plan.with_(guidance_interval=None), members) - count
    return Cost(count, memory, seconds, preparation, saved)


def memory_ratio(ensemble, used=None) -> float:
    """Bytes of distinct weights: the members `used` (all) with their pipelines' parts, against the first of them without adapter."""
    used = [ensemble.members[k] for k in (range(len(ensemble.members)) if used is None else used)]
    return _bytes(_modules(used)) / max(_bytes(_modules(used[:1]), without="lora_"), 1)


def _modules(members) -> list:
    """Networks and every other part of the members' pipelines that has weights."""
    return [
        module for member in members for module in (member.network, *member.components.values()) if isinstance(module, torch.nn.Module)
    ]


def _bytes(modules, without: str | None = None) -> int:
    """Bytes of the distinct parameters and buffers of `modules`; `without` leaves out names that contain it."""
    seen = {}
    for module in modules:
        for name, tensor in list(module.named_parameters()) + list(module.named_buffers()):
            if without is None or without not in name:
                seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


def constant_cost(ensemble, plan: SamplingPlan, weights) -> Cost:
    """Price of drawing with weights known before: members of weight zero cost nothing."""
    active = np.atleast_2d(values_of(weights)) > 0
    return price(ensemble, plan, float(active.sum(1).mean()), memory_ratio(ensemble, np.flatnonzero(active.any(0))))
