"""Cards to an `Ensemble`: look at configurations, refuse what cannot be fused, then load each part once and share what is equal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from safetensors import SafetensorError
from torch import nn

from . import pieces, sources
from .adapters import add_adapters
from .card import ModelCard, local_path
from .causes import reason
from .checkpoint import detect
from .ensemble import Ensemble, Member, Switch
from .errors import ModelError, SizesDiffer
from .families import check_size, pixel_size
from .fusable import fusable, refuse_families, same_part
from .inspection import Description, check_adapters, check_files, describe, describe_file, merges_adapters
from .integrity import ADAPTER_FILE, adapter_prefix, ignored_pickles, refuse_not_finite, verify_hashes
from .noise import NoisePath
from .own import making, take_turns_reading
from .parts import left_out
from .pieces import COMPANION
from .placement import MemoryPlan, choose_device, choose_dtype, fixed_by, plan_memory, refuse_compile
from .prediction import settle_prediction
from .samplers import remarked
from .turns import arrange, waiting_parts

log = logging.getLogger(__name__)

__all__ = ["Ensemble", "MemoryPlan", "Member", "ModelError", "choose_device", "choose_dtype", "load_ensemble"]

Progress = Callable[[int, int, str], None]


def load_ensemble(cards: Sequence[ModelCard], *, device: str = "auto", dtype: str | torch.dtype = "auto", lora: str = "auto",
                  size: tuple[int, int] | None = None, memory: MemoryPlan | Sequence[str] = (), compile: bool = False,
                  meeting: tuple[int | None, int | None] | None = None, progress: Progress | None = None) -> Ensemble:  # fmt: skip
    """Load members that share one latent space.

    device: `auto` (CUDA, then Apple's, then CPU) or a torch device. dtype: `auto` (float32 on a CPU, else half precision) or a torch one.
    lora: `switch` (all adapters on one network, one active at a time), `merge` (a copy each, faster), `auto` (merge when copies fit in
    half of the free memory). size: (height, width) in pixels at which images are encoded and fitted; None: the models' own.
    meeting: the size for models whose own sizes differ, a side that is None as the first model has it; None: they are refused.
    memory: a plan, or words of `placement.WORDS` that fix parts of the one that is chosen; `Ensemble.plan` holds it. compile: compile the
    networks (torch.compile: slow first calls, faster later ones; adapters are merged then). progress(done, total, message).
    Raises ModelError, before anything long, for members that cannot be fused.
    """
    cards = list(cards)
    if not cards:
        raise ModelError("an ensemble needs at least one model: choose some")
    if lora not in ("auto", "switch", "merge"):
        raise ModelError(f"lora='{lora}' is not a choice: use auto, switch or merge")
    refuse_families(cards)
    device, steps = choose_device(device), 2 * len(cards)
    words = (*(() if isinstance(memory, MemoryPlan) else memory), *(("merge", "resident") if compile else ()))
    fixed_by([*words, *([lora] if lora != "auto" else [])])
    if compile:
        refuse_compile(memory if isinstance(memory, MemoryPlan) else None)
    tell = progress or (lambda done, total, message: None)
    models = []
    for i, card in enumerate(cards):
        tell(i, steps, f"Looking at {card.title}")
        models.append(look(card))
    try:
        models = fusable(models, size)
    except SizesDiffer as differ:
        if meeting is None:
            raise
        size = (meeting[0] or differ.size[0], meeting[1] or differ.size[1])
        models = fusable(models, size)
    models = [_complete(model) for model in models]
    models = fusable(models, size)  # again, with the autoencoders of single files that were on the hub
    if isinstance(memory, MemoryPlan):
        plan = replace(memory, adapters="merge" if compile else memory.adapters if lora == "auto" else lora)
    else:
        plan = plan_memory(models, device, dtype, lora=lora, size=size, words=words)
    dtype = choose_dtype(plan.dtype if dtype == "auto" else dtype, device, cards[0].family)
    plan = replace(plan, dtype=str(dtype).removeprefix("torch."))
    loader = _Loader(device, dtype, plan, models)
    members = []
    for i, (model, name) in enumerate(zip(models, _unique([model.name for model in models]))):
        tell(len(cards) + i, steps, f"Loading {model.name}")
        with making:
            members.append(loader.member(model, name))
    tell(steps, steps, "Loaded")
    family, members = models[0].family, remarked(members)
    if arrange(members, family.text, plan, device):
        members = [replace(member, place=device) for member in members]
    for network in {id(member.network): member.network for member in members}.values() if compile else ():
        network.compile()
    pipeline = members[0].new_pipeline(family.slot)
    return Ensemble(tuple(members), family, check_size(pipeline, family, size) if size else pixel_size(pipeline, family), plan)


def look(card: ModelCard) -> Description:
    """What a card's small files and headers say, with the commits that will be used. Fetches no large file."""
    card, warnings = sources.pinned(card)
    adapters = [(sources.adapter_file(one, card.title), one.strength) for one in card.adapters]
    if card.is_file:
        header, name, path = sources.header_of(card)
        checkpoint = detect(header, name, prediction=card.prediction)
        model = describe_file(card, checkpoint, path, sources.companion(card), adapters)
    else:
        model = describe(card, sources.small_files(card), adapters)
    check_adapters(model)
    beside = [said for one in card.adapters for said in ignored_pickles(local_path(one.source))]
    return replace(model, warnings=(*model.warnings, *warnings, *beside))


def _unique(titles: list[str]) -> list[str]:
    """Titles with a number after the second and later of equal ones."""
    return [title if titles[:i].count(title) == 0 else f"{title} ({titles[:i].count(title) + 1})" for i, title in enumerate(titles)]


def _complete(model: Description) -> Description:
    """All files present, undamaged and as the card describes them."""
    if model.checkpoint is None:
        model = replace(model, folder=sources.all_files(model.card, model.pipeline_class, model.folder))
    else:
        wanted = [part for part, piece in model.pieces.items() if piece.origin == COMPANION]
        model = replace(model, file=sources.whole_file(model.card), folder=sources.companion_files(model.card, wanted))
    check_files(model)
    hashes = model.card.sha256
    mine = {path: value for path, value in hashes.items() if not ADAPTER_FILE.match(path)}
    verify_hashes(model.file or model.folder, mine, model.name)
    for number, (one, (file, _)) in enumerate(zip(model.card.adapters, model.adapters)):
        start = adapter_prefix(number)
        named = local_path(one.source)
        mine = {path.removeprefix(start): value for path, value in hashes.items() if path.startswith(start)}
        verify_hashes(named if named.exists() else file.parent, mine, model.name)
    return model


@dataclass
class _Base:
    """One loaded model. `switch`: present when LoRA members share its network; `adapters`: their names by files and strengths."""

    model: Description
    components: dict[str, object]
    network: nn.Module
    noise: NoisePath
    switch: Switch | None = None
    adapters: dict[tuple, tuple[str | None, dict[str, object], tuple[str, ...]]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass
class _Loader:
    """Loads every model once and hands out members; parts whose files are equal are one object in memory."""

    device: torch.device
    dtype: torch.dtype
    plan: MemoryPlan
    models: list[Description]
    bases: dict[tuple, _Base] = field(default_factory=dict)

    def member(self, model: Description, name: str) -> Member:
        base = self.bases.get(model.key) or self._load(model)
        cls = pipeline_class(model)
        said = model.warnings + base.warnings
        if not model.adapters:
            return Member(name, model.card, base.noise, base.network, base.components, cls, None, base.switch, said)
        attach = partial(_without_bars()(add_adapters), base.components, base.network, model.family, model.adapters, model.name)
        if base.switch is None or merges_adapters(model):
            network, components, more = attach("merged", merge=True)
            refuse_not_finite(network, model.name, model.family.slot)
            switch = base.switch if network is base.network else None  # text encoders alone were changed
            return Member(name, model.card, base.noise, network, components, cls, None, switch, said + more)
        if model.adapters not in base.adapters:
            adapter = f"member_{len(base.adapters)}"
            network, components, more = attach(adapter, merge=False)
            refuse_not_finite(network, model.name, "adapter")
            base.adapters[model.adapters] = adapter if _has_adapter(network, adapter) else None, components, more
        adapter, components, more = base.adapters[model.adapters]
        return Member(name, model.card, base.noise, base.network, components, cls, adapter, base.switch, said + more)

    def _load(self, model: Description) -> _Base:
        """The model's pipeline, taking over every part that an earlier one already holds."""
        shared = {part: base.components[part] for part in model.parts if part not in (model.family.slot, "scheduler")
                  for base in reversed(self.bases.values())
                  if base.components.get(part) is not None and same_part(base.model, model, part)}  # fmt: skip
        try:
            with _without_bars():
                pipeline, warnings = (self._from_folder if model.checkpoint is None else self._from_file)(model, shared)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, (ModelError, torch.OutOfMemoryError)):  # no fault of the files: whoever asked knows what to hold less of
                raise
            why = reason(error, "its files and its configuration do not belong together")
            log.info("%s cannot be loaded", model.name, exc_info=True)
            raise ModelError(f"'{model.name}' cannot be loaded ({why}): download it again, or try it with diffusers alone") from error
        taken = {*shared, *self._share_equal(pipeline, model)}
        stay = waiting_parts(model.family, self.plan, self.device)
        warnings += settle_prediction(pipeline, model) if stay else ()  # it may ask the network, with all parts in one place
        for part, module in pipeline.components.items() if stay else [("", pipeline)]:
            if part not in stay and hasattr(module, "to"):
                module.to(self.device)
        for part, module in pipeline.components.items():
            if part.startswith("tokenizer") and module is not None and part not in taken:
                take_turns_reading(module)
            if isinstance(module, nn.Module) and part not in taken:
                module.eval().requires_grad_(False)
                refuse_not_finite(module, model.name, part)
        warnings += settle_prediction(pipeline, model) if not stay else ()
        network = getattr(pipeline, model.family.slot)
        options = {name: value for name, value in pipeline.config.items() if not name.startswith("_") and name not in pipeline.components}
        components = {**options, **{part: value for part, value in pipeline.components.items() if part != model.family.slot}}
        noise = NoisePath.from_scheduler(pipeline.scheduler, model.family.time_scale)
        base = _Base(model, components, network, noise, warnings=warnings)
        adapters = any(other.adapters and other.key == model.key for other in self.models)
        if adapters and self.plan.adapters == "switch":
            base.switch = Switch(network)
        self.bases[model.key] = base
        return base

    def _from_folder(self, model: Description, shared: dict[str, object]) -> tuple[object, tuple[str, ...]]:
        cls = pipeline_class(model)
        pipeline = cls.from_pretrained(str(model.folder), dtype=self.dtype, use_safetensors=True, local_files_only=True,
                                       variant=model.variant, **left_out(cls), **shared)  # fmt: skip
        if model.card.prediction is not None:
            prediction = model.scheduler["prediction_type"]
            pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type=prediction)
        return pipeline, ()

    def _from_file(self, model: Description, shared: dict[str, object]) -> tuple[object, tuple[str, ...]]:
        parts, warnings = pieces.load(model.checkpoint, model.file, model.folder, model.pieces, self.dtype, shared)
        return pieces.pipeline(pipeline_class(model), parts), warnings

    def _share_equal(self, pipeline: object, model: Description) -> set[str]:
        """Take over parts that turn out equal to an earlier member's, where one of the two came from a single file. Returns their names."""
        found = set()
        for part, mine in pipeline.components.items():
            if mine is None or part in (model.family.slot, "scheduler"):
                continue
            held = [base.components.get(part) for base in self.bases.values() if model.checkpoint or base.model.checkpoint]
            other = next((theirs for theirs in held if theirs is not None and pieces.equal(theirs, mine)), None)
            if other is not None and other is not mine:
                pipeline.register_modules(**{part: other})
                found.add(part)
        return found


def _has_adapter(network: nn.Module, adapter: str) -> bool:
    """Whether the adapter changes the network itself, not text encoders alone."""
    return adapter in getattr(network, "peft_config", {})


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
