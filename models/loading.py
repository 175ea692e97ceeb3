"""Cards to an `Ensemble`: look at configurations, refuse what cannot be fused, then load each part once and share what is equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from . import sources
from .adapters import add_adapter, copies_fit
from .catalog import ModelCard, local_path
from .ensemble import Ensemble, Member, Switch
from .errors import ModelError
from .families import check_size, pixel_size
from .inspection import Description, check_files, describe, refuse_unfusable, same_component
from .integrity import ADAPTER, refuse_not_finite, verify_hashes
from .noise import NoisePath

__all__ = ["Ensemble", "Member", "ModelError", "load_ensemble"]

Progress = Callable[[int, int, str], None]


def load_ensemble(cards: Sequence[ModelCard], *, device: str = "auto", dtype: str | torch.dtype = "auto", lora: str = "auto",
                  size: tuple[int, int] | None = None, progress: Progress | None = None) -> Ensemble:  # fmt: skip
    """Load members that share one latent space.

    device: `auto` (CUDA, then Apple's, then CPU) or a torch device. dtype: `auto` (float32 on a CPU, else half precision) or a torch one.
    lora: `switch` (all adapters on one network, one active at a time), `merge` (a copy each, faster), `auto` (merge when copies fit in
    half of the free memory). size: (height, width) in pixels at which images are encoded and fitted; None: the models' own.
    progress(done, total, message). Raises ModelError, before anything long, for members that cannot be fused.
    """
    cards = list(cards)
    if not cards:
        raise ModelError("an ensemble needs at least one model: choose some")
    if lora not in ("auto", "switch", "merge"):
        raise ModelError(f"lora='{lora}' is not a choice: use auto, switch or merge")
    device, steps = choose_device(device), 2 * len(cards)
    dtype = choose_dtype(dtype, device, cards[0].family)
    tell = progress or (lambda done, total, message: None)
    models = []
    for i, card in enumerate(cards):
        tell(i, steps, f"Looking at {card.title}")
        card = sources.pinned(card)
        models.append(describe(card, sources.small_files(card), sources.adapter_file(card)))
    refuse_unfusable(models, size)
    models = [_complete(model) for model in models]
    loader = _Loader(device, dtype, lora, models)
    members = []
    for i, (model, name) in enumerate(zip(models, _unique([model.name for model in models]))):
        tell(len(cards) + i, steps, f"Loading {model.name}")
        members.append(loader.member(model, name))
    tell(steps, steps, "Loaded")
    family = models[0].family
    pipeline = members[0].new_pipeline(family.slot)
    return Ensemble(tuple(members), family, check_size(pipeline, family, size) if size else pixel_size(pipeline, family))


def choose_device(device: str | torch.device) -> torch.device:
    if str(device) != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(dtype: str | torch.dtype, device: torch.device, family: str) -> torch.dtype:
    """float32 on CPUs; elsewhere bfloat16 for the transformers trained in it, float16 for the older U-Nets, float32 for DDPM."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype != "auto":
        found = getattr(torch, dtype, None)
        if not (isinstance(found, torch.dtype) and found.is_floating_point):
            raise ModelError(f"dtype '{dtype}' is not a floating-point type: use auto, float32, float16 or bfloat16")
        return found
    if device.type == "cpu" or family == "ddpm":
        return torch.float32
    return torch.bfloat16 if family in ("sd3", "flux") else torch.float16


def _unique(titles: list[str]) -> list[str]:
    """Titles with a number after the second and later of equal ones."""
    return [title if titles[:i].count(title) == 0 else f"{title} ({titles[:i].count(title) + 1})" for i, title in enumerate(titles)]


def _complete(model: Description) -> Description:
    """All files present, undamaged and as the card describes them."""
    model = replace(model, folder=sources.all_files(model.card, model.pipeline_class))
    check_files(model)
    hashes = model.card.sha256
    verify_hashes(model.folder, {path: value for path, value in hashes.items() if not path.startswith(ADAPTER)}, model.name)
    if model.adapter is not None:
        mine = {path.removeprefix(ADAPTER): value for path, value in hashes.items() if path.startswith(ADAPTER)}
        named = local_path(model.card.adapter)
        verify_hashes(named if named.exists() else model.adapter.parent, mine, model.name)
    return model


@dataclass
class _Base:
    """One loaded folder. `switch`: present when LoRA members share its network; `adapters`: their names by file."""

    components: dict[str, object]
    network: nn.Module
    noise: NoisePath
    switch: Switch | None = None
    adapters: dict[Path, tuple[str | None, dict[str, object], tuple[str, ...]]] = field(default_factory=dict)


@dataclass
class _Loader:
    """Loads every folder once and hands out members; parts whose files are equal are one object in memory."""

    device: torch.device
    dtype: torch.dtype
    lora: str
    models: list[Description]
    bases: dict[Path, _Base] = field(default_factory=dict)

    def member(self, model: Description, name: str) -> Member:
        base = self.bases.get(model.folder.resolve()) or self._load(model)
        cls = pipeline_class(model)
        if model.adapter is None:
            return Member(name, model.card, base.noise, base.network, base.components, cls, None, base.switch)
        attach = partial(_quietly, add_adapter, base.components, base.network, model.family, model.adapter, model.name)
        if base.switch is None:
            network, components, said = attach("merged", merge=True)
            refuse_not_finite(network, model.name, model.family.slot)
            return Member(name, model.card, base.noise, network, components, cls, warnings=said)
        if model.adapter not in base.adapters:
            adapter = f"member_{len(base.adapters)}"
            network, components, said = attach(adapter, merge=False)
            refuse_not_finite(network, model.name, "adapter")
            base.adapters[model.adapter] = adapter if _has_adapter(network, adapter) else None, components, said
        adapter, components, said = base.adapters[model.adapter]
        return Member(name, model.card, base.noise, base.network, components, cls, adapter, base.switch, said)

    def _load(self, model: Description) -> _Base:
        """The folder's pipeline, taking over every part that an earlier folder already holds."""
        shared = {part: base.components[part] for part in model.parts if part not in (model.family.slot, "scheduler")
                  for folder, base in reversed(self.bases.items())
                  if base.components.get(part) is not None and same_component(folder / part, model.folder / part)}  # fmt: skip
        cls = pipeline_class(model)
        try:
            with _without_bars():
                pipeline = cls.from_pretrained(str(model.folder), dtype=self.dtype, use_safetensors=True, local_files_only=True, **shared)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"'{model.name}' cannot be loaded ({reason}): download it again, or try it with diffusers alone") from error
        pipeline.to(self.device)
        for part, module in pipeline.components.items():
            if isinstance(module, nn.Module) and part not in shared:
                module.eval().requires_grad_(False)
                refuse_not_finite(module, model.name, part)
        network = getattr(pipeline, model.family.slot)
        options = {name: value for name, value in pipeline.config.items() if not name.startswith("_") and name not in pipeline.components}
        components = {**options, **{part: value for part, value in pipeline.components.items() if part != model.family.slot}}
        base = _Base(components, network, NoisePath.from_scheduler(pipeline.scheduler, model.family.time_scale))
        adapters = {other.adapter for other in self.models if other.adapter and other.folder.resolve() == model.folder.resolve()}
        merge = self.lora == "merge" or (self.lora == "auto" and copies_fit(network, len(adapters), self.device))
        if adapters and not merge:
            base.switch = Switch(network)
        self.bases[model.folder.resolve()] = base
        return base


def _has_adapter(network: nn.Module, adapter: str) -> bool:
    """Whether the adapter changes the network itself, not text encoders alone."""
    return adapter in getattr(network, "peft_config", {})


def _quietly(load: Callable, *args: object, **more: object) -> object:
    with _without_bars():
        return load(*args, **more)


@contextmanager
def _without_bars() -> Iterator[None]:
    """`progress` is ours to draw: the libraries' own bars are off while they load from disk."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    shown = [logger for logger in (ours, theirs) if logger.is_progress_bar_enabled()]
    for logger in shown:
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger in shown:
            logger.enable_progress_bar()


def pipeline_class(model: Description) -> type:
    import diffusers

    return getattr(diffusers, model.pipeline_class)
