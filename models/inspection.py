"""What a model is, from its configuration and safetensors headers: what cannot be used is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import pieces as single
from .adapter_files import merges
from .adapters import Worn, stacked
from .catalog import ModelCard
from .checkpoint import Checkpoint, checked_prediction
from .defaults import completed
from .errors import ModelError
from .families import Family, family_of, usual_cells
from .integrity import Readers, header, ignored_pickles, index_of, read_json, readers, refuse_pickles, refuse_pointers, refuse_wild_json
from .inversions import is_alone
from .layer_names import ENCODERS
from .parts import UNFILTERED, files_of, has_checker, parts_of, variant_in, weights_among
from .pieces import COMPANION, Piece

LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # where components may come from; `stable_diffusion` is diffusers' own
ENCODER = ("encoder.", "quant_conv.")  # the half of an autoencoder that decides what a latent means


@dataclass(frozen=True)
class Description:
    """What configuration files and headers say about one card: enough to refuse it.

    folder: the diffusers folder, for a single-file model that of its companion, if any. file: where a single file lies, None before it is
    fetched; pieces: where its parts come from. warnings: what a person should know, one sentence each. borrows: whether the ensemble's
    first autoencoder, which does the same, takes the place of its own.
    """

    card: ModelCard
    folder: Path | None
    adapters: tuple[tuple[Path, float], ...]  # files, each with its strength
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
    borrows: bool = False

    @property
    def name(self) -> str:
        return self.card.title

    @property
    def own_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of the pictures that it makes by default; None where its pipeline decides, as Flux's."""
        cells = self.network.get("sample_size") or (None if self.family.packed else usual_cells(self.family))
        if cells is None:
            return None
        factor = 2 ** (len(self.autoencoder.get("block_out_channels") or (1,)) - 1)
        height, width = (cells, cells) if isinstance(cells, int) else cells
        return height * factor, width * factor

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
    def variant(self) -> str | None:
        """In which variant the folder's weights are loaded, None for plain files. Raises ModelError."""
        return variant_in(self.folder, [part for part in self.parts if self.place(part)], self.name) if self.folder else None

    def weights(self, part: str) -> list[Path]:
        """The files of a folder that hold a part's weights."""
        return [self.folder / part / name for name in weights_among(files_of(self.folder / part), self.variant)]

    @property
    def autoencoder_is_here(self) -> bool:
        return bool(self.weights("vae")) if self.place("vae") else self.file is not None

    def autoencoder_tensors(self) -> Readers:
        """The half of the autoencoder that decides what a latent means, by name."""
        if self.place("vae"):
            return readers(self.weights("vae"), ENCODER, self.name)
        found = single.tensors(self.checkpoint, self.file, "vae", self.pieces["vae"], ENCODER)
        return {name: (lambda tensor=tensor: tensor) for name, tensor in found.items()}


def describe_file(card: ModelCard, checkpoint: Checkpoint, file: Path | None, companion: Path | None, adapters: Worn) -> Description:
    """The same for a single-file checkpoint, from its header. Raises ModelError when it is incomplete, damaged, or another family's."""
    if checkpoint.family.name != card.family:
        raise ModelError(f"'{card.title}' is {checkpoint.family.title}, but its card says {card.family}: "
                         f"correct the family to {checkpoint.family.name}")  # fmt: skip
    pieces, warnings = single.resolve(checkpoint, companion, card.title)
    said = {"prediction_type": checkpoint.prediction} if checkpoint.prediction else {}
    scheduler = {**completed(pieces["scheduler"].config, pieces["scheduler"].name), **said}
    description = Description(
        card, companion, tuple(adapters), checkpoint.family, checkpoint.pipeline, {part: [p.library, p.name] for part, p in pieces.items()},
        completed(pieces[checkpoint.family.slot].config, checkpoint.family.networks[0]),
        completed(pieces["vae"].config, pieces["vae"].name), scheduler, checkpoint, file, pieces, warnings,
    )  # fmt: skip
    _refuse_broken(description)
    return description


def describe(card: ModelCard, folder: Path, adapters: Worn) -> Description:
    """Read a card's configuration files. Raises ModelError for folders that are incomplete, unsafe, damaged, or none of our families."""
    name = card.title
    if not folder.is_dir():
        raise ModelError(f"'{name}': there is no folder {folder}: check the path, or fetch the model first")
    index = index_of(folder, name)
    family = family_of(str(index.get("_class_name")))
    if family.name != card.family:
        raise ModelError(f"'{name}' is {family.title}, but its card says {card.family}: correct the family to {family.name}")
    for part, value in index.items():
        if isinstance(value, list) and value[0] not in LIBRARIES:
            told = f"{part}: {'.'.join(map(str, value))}"
            raise ModelError(f"'{name}' asks for its own code ({told}), which is never run here: use a standard model")
    parts = parts_of(index)
    if parts.get(family.slot, [None, None])[1] not in family.networks:
        raise ModelError(f"'{name}' needs a {family.networks[0]} in {family.slot}/, its model_index.json says {parts.get(family.slot)}")
    refuse_pickles(folder, name, parts)
    refuse_wild_json(folder, parts, name)

    def config(part: str, file: str, cls: str | None = None) -> Mapping:
        return completed(read_json(folder / part / file, name), cls or parts[part][1]) if part in parts else {}

    scheduler = config("scheduler", "scheduler_config.json")
    if card.prediction is not None:
        scheduler = {**scheduler, "prediction_type": checked_prediction(card.prediction, family.name)}
    description = Description(card, folder, tuple(adapters), family, str(index["_class_name"]), parts,
                              config(family.slot, "config.json", family.networks[0]),
                              config("vae", "config.json"), scheduler,
                              warnings=(*((UNFILTERED,) if has_checker(index) else ()), *ignored_pickles(folder)))  # fmt: skip
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
        refuse_pointers(model.place(part), model.name)
        if model.place(part) is None or part == "scheduler" or "Tokenizer" in cls or "Processor" in cls or "Extractor" in cls:
            continue
        files = model.weights(part)
        if not files:
            refuse_pickles(model.folder, model.name, [part])
            raise ModelError(f"'{model.name}' has no safetensors weights in {part}/: convert it to safetensors, or download it again")
        for file in files:
            header(file, model.name)


def check_adapters(model: Description) -> None:
    """Refuse adapters that do not fit their base, from configurations alone: before the base is fetched. Raises ModelError."""
    if not model.adapters:
        return
    spoken = False
    for file, _ in model.adapters:
        shapes = header(file, model.name)
        _refuse_text_width(shapes, model)
        spoken = spoken or is_alone(shapes) or any(key.startswith(ENCODERS) for key in shapes)
    try:
        network = single.skeleton("diffusers", model.family.networks[0], model.network)
        encoders = {part: single.skeleton("transformers", model.parts[part][1], model.part_config(part))
                    for part in model.family.text if spoken and part in model.parts and "tokenizer" not in part}  # fmt: skip
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError):
        return  # an unusual configuration: the adapters are checked again when their base is loaded
    stacked(model.adapters, model.name, model.family, network, encoders)


def _refuse_text_width(shapes: Mapping[str, tuple[int, ...]], model: Description) -> None:
    width = _text_width(model.network)
    for key, shape in shapes.items():
        reads_text = "attn2" in key and "to_k" in key and any(down in key for down in ("lora_A", "lora_down", "lora.down"))
        if reads_text and len(shape) == 2 and shape[1] != width:
            raise ModelError(f"'{model.name}': the adapter was made for text of width {shape[1]}, its base has {width}: "
                             "use the adapter with the model it was trained on")  # fmt: skip


def merges_adapters(model: Description) -> bool:
    """Whether a model's adapters are merged into a network of its own however the others are held: they are no plain LoRAs."""
    return any(strength and merges(header(file, model.name)) for file, strength in model.adapters)


def _text_width(network: Mapping) -> int | None:
    return network.get("cross_attention_dim") or network.get("joint_attention_dim")
