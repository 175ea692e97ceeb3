"""What a model is, from its configuration and safetensors headers: members that cannot be fused are refused before anything is loaded."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import pieces as single
from .catalog import ModelCard
from .checkpoint import Checkpoint, checked_prediction
from .errors import ModelError
from .families import FAMILIES, Family, family_of
from .integrity import HASHED, Readers, header, read_json, readers, refuse_pickles, same_tensors, weight_files
from .lora import read_lora
from .pieces import COMPANION, FILE, Piece

LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # where components may come from; `stable_diffusion` is diffusers' own
ENCODER = ("encoder.", "quant_conv.")  # the half of an autoencoder that decides what a latent means
# how a part was saved, not what it does
NOTES = {"transformers_version", "torch_dtype", "dtype", "is_local", "local_files_only", "name_or_path", "tokenizer_file",
         "special_tokens_map_file"}  # fmt: skip


@dataclass(frozen=True)
class Description:
    """What configuration files and headers say about one card: enough to refuse it.

    folder: the diffusers folder, for a single-file model that of its companion, if any. file: where a single file lies, None before it is
    fetched; pieces: where its parts come from. warnings: what a person should know, one sentence each.
    """

    card: ModelCard
    folder: Path | None
    adapter: Path | None
    family: Family
    pipeline_class: str
    parts: Mapping[str, list]  # component -> [library, class]
    network: Mapping
    autoencoder: Mapping
    scheduler: Mapping
    checkpoint: Checkpoint | None = None
    file: Path | None = None
    pieces: Mapping[str, Piece] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.card.title

    @property
    def key(self) -> tuple:
        """Equal for models that are loaded from the same files in the same way."""
        places = tuple(place and place.resolve() for place in (self.folder, self.file))
        return (*places, self.scheduler.get("prediction_type") if self.card.prediction else None)

    def place(self, part: str) -> Path | None:
        """The folder that holds a part; None where it lies in the single file or is built here."""
        if self.folder is None or (self.checkpoint is not None and self.pieces[part].origin != COMPANION):
            return None
        return self.folder / part

    def part_config(self, part: str) -> Mapping:
        """The configuration of a part that has weights. Raises ModelError."""
        return self.pieces[part].config if part in self.pieces else read_json(self.folder / part / "config.json", self.name)

    @property
    def autoencoder_is_here(self) -> bool:
        return self.place("vae") is not None or self.file is not None

    def autoencoder_tensors(self) -> Readers:
        """The half of the autoencoder that decides what a latent means, by name."""
        if place := self.place("vae"):
            return readers(place, ENCODER, self.name)
        found = single.tensors(self.checkpoint, self.file, "vae", self.pieces["vae"], ENCODER)
        return {name: (lambda tensor=tensor: tensor) for name, tensor in found.items()}


def describe_file(card: ModelCard, checkpoint: Checkpoint, file: Path | None, companion: Path | None, adapter: Path | None) -> Description:
    """The same for a single-file checkpoint, from its header. Raises ModelError when it is incomplete, damaged, or another family's."""
    if checkpoint.family.name != card.family:
        raise ModelError(f"'{card.title}' is {checkpoint.family.title}, but its card says {card.family}: "
                         f"correct the family to {checkpoint.family.name}")  # fmt: skip
    pieces, warnings = single.resolve(checkpoint, companion, card.title)
    scheduler = dict(pieces["scheduler"].config) | ({"prediction_type": checkpoint.prediction} if checkpoint.prediction else {})
    description = Description(
        card, companion, adapter, checkpoint.family, checkpoint.pipeline, {part: [p.library, p.name] for part, p in pieces.items()},
        pieces[checkpoint.family.slot].config, pieces["vae"].config, scheduler, checkpoint, file, pieces, warnings,
    )  # fmt: skip
    _refuse_broken(description)
    return description


def describe(card: ModelCard, folder: Path, adapter: Path | None) -> Description:
    """Read a card's configuration files. Raises ModelError for folders that are incomplete, unsafe, damaged, or none of our families."""
    name = card.title
    if not folder.is_dir():
        raise ModelError(f"'{name}': there is no folder {folder}: check the path, or fetch the model first")
    index = read_json(folder / "model_index.json", name)
    family = family_of(str(index.get("_class_name")))
    if family.name != card.family:
        raise ModelError(f"'{name}' is {family.title}, but its card says {card.family}: correct the family to {family.name}")
    parts = {part: value for part, value in index.items() if isinstance(value, list) and len(value) == 2 and value[1] is not None}
    for part, (library, cls) in parts.items():
        if library not in LIBRARIES:
            raise ModelError(f"'{name}' asks for its own code ({part}: {library}.{cls}), which is never run here: use a standard model")
    if parts.get(family.slot, [None, None])[1] not in family.networks:
        raise ModelError(f"'{name}' needs a {family.networks[0]} in {family.slot}/, its model_index.json says {parts.get(family.slot)}")
    config = lambda part, file: read_json(folder / part / file, name) if part in parts else {}  # noqa: E731
    scheduler = config("scheduler", "scheduler_config.json")
    if card.prediction is not None:
        scheduler = {**scheduler, "prediction_type": checked_prediction(card.prediction, family.name)}
    description = Description(card, folder, adapter, family, str(index["_class_name"]), parts, config(family.slot, "config.json"),
                              config("vae", "config.json"), scheduler)  # fmt: skip
    _refuse_broken(description)
    return description


def _refuse_broken(model: Description) -> None:
    channels, out = model.network.get("in_channels"), model.network.get("out_channels")
    latent = model.autoencoder.get("latent_channels", channels)
    packed = 4 if model.family.packed else 1
    if channels != latent * packed:
        raise ModelError(f"'{model.name}' takes {channels} channels for a latent of {latent}: inpainting and editing models do not fuse")
    if out is not None and out != channels * (2 if model.family.learned_variance else 1):
        raise ModelError(f"'{model.name}' predicts {out} channels from {channels} (a learned variance): such models cannot be fused")


def check_files(model: Description) -> None:
    """Refuse missing, pickled-only and damaged weights of a complete local folder, from headers alone."""
    for part, (_, cls) in model.parts.items():
        if model.place(part) is None or part == "scheduler" or "Tokenizer" in cls or "Processor" in cls or "Extractor" in cls:
            continue
        files = weight_files(model.folder / part, ".safetensors") if (model.folder / part).is_dir() else []
        if not files:
            if (model.folder / part).is_dir():
                refuse_pickles(model.folder / part, model.name)
            raise ModelError(f"'{model.name}' has no safetensors weights in {part}/: convert it to safetensors, or download it again")
        for file in files:
            header(file, model.name)


def check_adapter(model: Description) -> None:
    """Refuse an adapter that does not fit its base, from configurations alone: before the base is fetched. Raises ModelError."""
    if model.adapter is None:
        return
    shapes, width = header(model.adapter, model.name), _text_width(model.network)
    if not any("lora" in key.lower() for key in shapes):
        raise ModelError(f"'{model.name}': {model.adapter.name} holds no LoRA weights: choose a LoRA file in safetensors form")
    for key, shape in shapes.items():
        reads_text = "attn2" in key and "to_k" in key and any(down in key for down in ("lora_A", "lora_down", "lora.down"))
        if reads_text and len(shape) == 2 and shape[1] != width:
            raise ModelError(f"'{model.name}': the adapter was made for text of width {shape[1]}, its base has {width}: "
                             "use the adapter with the model it was trained on")  # fmt: skip
    spoken = any(key.startswith(("lora_te", "text_encoder")) for key in shapes)
    try:
        network = single.skeleton("diffusers", model.family.networks[0], model.network)
        encoders = {part: single.skeleton("transformers", model.parts[part][1], model.part_config(part))
                    for part in model.family.text if spoken and part in model.parts and "tokenizer" not in part}  # fmt: skip
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError):
        return  # an unusual configuration: the adapter is checked again when its base is loaded
    read_lora(model.adapter, model.name, model.family, network, encoders)


def _text_width(network: Mapping) -> int | None:
    return network.get("cross_attention_dim") or network.get("joint_attention_dim")


# ------------------------------------------------------------------------------------------------ can they be fused?

def refuse_families(cards: Sequence[ModelCard]) -> None:
    """Raise ModelError at the first card of another family than the first one's: cards say so, before anything is asked of a hub."""
    for other in cards[1:]:
        if other.family != cards[0].family:
            raise _unfusable(cards[0].title, other.title, _families(FAMILIES[cards[0].family], FAMILIES[other.family]))


def refuse_unfusable(models: list[Description], size: tuple[int, int] | None = None) -> None:
    """Raise ModelError, naming both members and the reason, at the first member that does not share the first one's latent space.

    size: a size in pixels chosen for all, so that members made for different ones may meet.
    """
    first = models[0]
    for other in models[1:]:
        reason = difference(first, other, size is not None)
        if reason:
            raise _unfusable(first.name, other.name, reason)


def _unfusable(first: str, other: str, reason: str) -> ModelError:
    return ModelError(f"'{first}' and '{other}' cannot be fused: {reason}. Choose members of one family and one latent space.")


def _families(first: Family, other: Family) -> str:
    return f"the first is {first.title}, the second {other.title}"


def difference(first: Description, other: Description, any_size: bool = False) -> str | None:
    """Why two models cannot be fused, None when they can. any_size: models that can make images of every size may differ in their own."""
    if first.family != other.family:
        return _families(first.family, other.family)
    for key, what in (("in_channels", "latent channels"), ("sample_size", "latent size"), ("cross_attention_dim", "text width"),
                      ("joint_attention_dim", "text width"), ("caption_channels", "text width"),
                      ("pooled_projection_dim", "pooled text width"),
                      ("projection_class_embeddings_input_dim", "pooled text width"), ("guidance_embeds", "embedded guidance"),
                      ("time_cond_proj_dim", "embedded guidance")):  # fmt: skip
        mine, yours = first.network.get(key), other.network.get(key)
        if mine != yours and not (key == "sample_size" and any_size and first.family.text):
            return f"their {what} differs ({mine} and {yours})"
    for key in ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "latent_channels", "block_out_channels"):
        mine, yours = first.autoencoder.get(key), other.autoencoder.get(key)
        if mine != yours:
            return f"their autoencoders differ ({key} {mine} and {yours})"
    if "vae" in first.parts and first.autoencoder_is_here and other.autoencoder_is_here and not same_part(first, other, "vae"):
        if not same_tensors(first.autoencoder_tensors(), other.autoencoder_tensors()):
            return "their autoencoders have different weights, so the same latent means different images"
    return None


def same_part(first: Description, other: Description, part: str) -> bool:
    """Whether files show that two models hold the same part; parts of single files are compared when they are loaded."""
    mine, yours = first.pieces.get(part), other.pieces.get(part)
    if mine is not None and mine == yours and mine.origin == FILE and first.file is not None and first.file == other.file:
        return True
    mine, yours = first.place(part), other.place(part)
    return mine is not None and yours is not None and same_component(mine, yours)


def same_component(first: Path, second: Path) -> bool:
    """Whether two component folders hold the same files: JSON equal but for notes of how it was saved, the rest byte by byte."""
    if first.resolve() == second.resolve():
        return True
    if not (first.is_dir() and second.is_dir()):
        return False
    mine, yours = ({path.relative_to(folder): path for path in weight_files(folder, *HASHED)} for folder in (first, second))
    return {*mine} == {*yours} and all(_same_file(mine[name], yours[name]) for name in mine)


def _same_file(first: Path, second: Path) -> bool:
    if first.resolve() == second.resolve():
        return True
    if first.suffix == ".json":
        said = [{key: value for key, value in read_json(path, path.parent.name).items() if not (key.startswith("_") or key in NOTES)}
                for path in (first, second)]  # fmt: skip
        return said[0] == said[1]
    return filecmp.cmp(first, second, shallow=False)
