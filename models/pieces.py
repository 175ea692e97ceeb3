"""The parts of a single-file model: which come from the file, which from a companion model, which are built here; checked, then loaded.

A companion is a diffusers folder of the same family. It gives what a file lacks (Flux files seldom hold text encoders) and, for networks
of unusual shape, their configuration. Only weights are read from files, and classes only by the names in models/layouts.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .checkpoint import Checkpoint
from .checkpoint_names import Source, sources, unasked
from .clip_tokenizer import clip_tokenizer
from .errors import ModelError
from .integrity import index_of, read_json
from .parts import variant_in

FILE, BUILT, COMPANION = "file", "built", "companion"


@dataclass(frozen=True)
class Piece:
    """One part of the pipeline. origin: FILE, BUILT (from its configuration or the shipped tokenizer) or COMPANION."""

    library: str
    name: str
    origin: str
    config: Mapping


def class_of(piece: Piece) -> type:
    import diffusers
    import transformers

    return getattr(diffusers if piece.library == "diffusers" else transformers, piece.name)


def skeleton(library: str, name: str, config: Mapping, *, buffers: bool = False) -> nn.Module:
    """The module without weights. buffers: with its constants, so that weights can be put in; else everything is without values."""
    from accelerate import init_empty_weights

    cls = class_of(Piece(library, name, FILE, config))
    with init_empty_weights(include_buffers=False) if buffers else torch.device("meta"):
        return cls.from_config(dict(config)) if library == "diffusers" else cls(cls.config_class.from_dict(dict(config)))


# ------------------------------------------------------------------------------------------------ where each part comes from

def resolve(file: Checkpoint, companion: Path | None, title: str) -> tuple[dict[str, Piece], tuple[str, ...]]:
    """`({part: Piece}, warnings)`. companion: folder with at least its configurations. Raises ModelError naming what is missing."""
    if companion and companion.is_file():
        raise ModelError(f"'{title}': components must be a whole model, a diffusers folder or a hub id, and {companion.name} is one file: "
                         "name the folder of a model of the same kind")  # fmt: skip
    index = index_of(companion, title) if companion else {}
    if companion and index.get("_class_name") != file.pipeline:
        raise ModelError(f"'{title}' is {file.title}, and its companion is a {index.get('_class_name')}: choose one of the same family")
    beside = {part: value[1] for part, value in index.items() if part in file.parts and isinstance(value, list) and value[1] is not None}
    left_out, notes = _left_out(file, beside, title)
    pieces = {}
    for part, told in file.parts.items():
        if part in left_out:
            continue
        if part == "scheduler":
            pieces[part] = Piece("diffusers", told["class"], BUILT, told["config"])
        elif part in file.held:
            pieces[part] = _from_file(file, part, told, companion if part in beside else None, title)
        elif part in beside:
            words = "names" not in told
            config = {} if words else read_json(companion / part / "config.json", title)
            pieces[part] = Piece("transformers" if words else library_of(told), beside[part], COMPANION, config)
        else:
            pieces[part] = Piece("transformers", "CLIPTokenizer", BUILT, told)
    slot = file.family.slot
    if companion and pieces[slot].config != file.parts[slot]["config"]:  # an unusual network: its companion's schedule
        config = read_json(companion / "scheduler" / "scheduler_config.json", title)
        pieces["scheduler"] = Piece("diffusers", index["scheduler"][1], BUILT, config)
    return pieces, (*file.notes, *notes)


def library_of(told: Mapping) -> str:
    return "transformers" if told["names"] in ("clip", "open_clip", "t5") else "diffusers"


def _left_out(file: Checkpoint, beside: Mapping[str, str], title: str) -> tuple[set[str], list[str]]:
    """`(parts, warnings)`: encoders that a pipeline can do without and has not, with their tokenizers. Raises ModelError for others."""
    built = {part for part, told in file.parts.items() if part == "scheduler" or "clip" in told}
    missing = [part for part in file.parts if part not in built and part not in file.held and part not in beside]
    out, notes = set(), []
    for part in [part for part, told in file.parts.items() if told.get("optional")]:
        both = {part, *(name for name, told in file.parts.items() if told.get("with") == part)}
        if both & {*missing}:
            out |= both
            notes.append(f"{file.name} comes without {part} or its tokenizer and is used without it: long prompts are followed less well; "
                         "a companion model (components) can give it")  # fmt: skip
    missing = [part for part in missing if part not in out]
    if missing:
        raise ModelError(f"'{title}': {file.name} lacks {', '.join(missing)}: name a {file.title} in diffusers form to take them from "
                         "(components: a folder or a hub id)")  # fmt: skip
    return out, notes


def _from_file(file: Checkpoint, part: str, told: Mapping, companion: Path | None, title: str) -> Piece:
    """The part with the configuration that fits its tensors: the usual one, or the companion's."""
    library = library_of(told)
    usual = Piece(library, told["class"], FILE, told["config"])
    wrong = misfits(file, part, usual)
    if wrong and companion is not None:
        other = Piece(library, told["class"], FILE, read_json(companion / part / "config.json", title))
        if not (still := misfits(file, part, other)):
            return other
        wrong = still
    if wrong:
        raise ModelError(f"'{title}': {part} of {file.name} is not that of a {file.title} ({wrong[0]}{_more(wrong)}): "
                         "it is damaged, or another model")  # fmt: skip
    return usual


def _more(wrong: list[str]) -> str:
    return f"; {len(wrong) - 1} more" if len(wrong) > 1 else ""


def misfits(file: Checkpoint, part: str, piece: Piece) -> list[str]:
    """Why the file's tensors are not the weights of this part, one phrase each, from shapes alone; empty when they are, all of them."""
    wanted = wanted_shapes(piece.library, piece.name, _frozen(piece.config))
    kind, held = file.names(part), file.shapes(part)
    named = sources(kind, wanted, piece.config)
    wrong = []
    for name, source in named.items():
        if source.key not in held:
            if not source.identity:
                wrong.append(f"{source.key} is missing")
        elif not _fits(source.shape(held[source.key]), wanted[name]):
            wrong.append(f"{source.key} is {' x '.join(map(str, held[source.key]))}, not as {name} must be")
    return wrong + [f"{key} is none of its weights" for key in unasked(held, named, kind)]


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal but for trailing ones: a linear layer may have been a 1 x 1 convolution."""
    strip = lambda shape: shape[: max([i + 1 for i, side in enumerate(shape) if side != 1], default=0)]
    return strip(found) == strip(wanted)


def _frozen(config: Mapping) -> tuple:
    """A configuration as a key of a cache."""
    return tuple(sorted((key, tuple(value) if isinstance(value, list) else value) for key, value in config.items()
                        if not (key.startswith("_") or isinstance(value, dict))))  # fmt: skip


@cache
def wanted_shapes(library: str, name: str, config: tuple) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the weights and kept buffers of a part with this configuration."""
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in config}
    return {key: tuple(value.shape) for key, value in skeleton(library, name, options).state_dict().items()}


# ------------------------------------------------------------------------------------------------ loading

def tensors(file: Checkpoint, path: Path, part: str, piece: Piece, keep: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The weights of a part under today's names, those that start with one of `keep`, each as the file holds it."""
    wanted = wanted_shapes(piece.library, piece.name, _frozen(piece.config))
    keys, found = file.keys(part), {}
    with safe_open(path, framework="pt") as opened:
        for name, source in sources(file.names(part), wanted, piece.config).items():
            if name.startswith(keep):
                found[name] = _taken(opened, source, keys, wanted[name])
    return found


def _taken(opened: object, source: Source, keys: Mapping[str, str], shape: tuple[int, ...]) -> Tensor:
    if source.key not in keys:
        return torch.eye(*shape)  # checked before: the only weight a file may lack is a projection that does nothing
    if source.rows is not None:
        value = opened.get_slice(keys[source.key])[source.rows[0] : source.rows[1]]
    else:
        value = opened.get_tensor(keys[source.key])
    value = torch.cat(value.chunk(2)[::-1]) if source.swapped else value
    return (value.T if source.turned else value).reshape(shape)


def load_part(file: Checkpoint, path: Path, part: str, piece: Piece, dtype: torch.dtype) -> nn.Module:
    """The part with its weights, every one of them from the file."""
    module = skeleton(piece.library, piece.name, piece.config, buffers=True)
    keep = getattr(module, "_keep_in_fp32_modules", None) or []  # T5 overflows in half precision where it is told so
    own = lambda name: torch.float32 if dtype == torch.float16 and any(word in name.split(".") for word in keep) else dtype
    state = {name: value.to(own(name), copy=True) for name, value in tensors(file, path, part, piece).items()}  # not a view of the file
    module.load_state_dict(state, strict=True, assign=True)
    if hasattr(module, "tie_weights"):
        module.tie_weights()
    return module.eval()


@cache
def built_tokenizer(pad: str) -> object:
    """CLIP's tokenizer, the same object for every member that uses it."""
    return clip_tokenizer(pad)


def schedule(file: Checkpoint, path: Path, piece: Piece) -> tuple[dict, tuple[str, ...]]:
    """`(configuration of the scheduler, warnings)`: the usual one with what the file says of prediction and noise."""
    config, notes = dict(piece.config), []
    if file.prediction not in (None, "flow"):
        config["prediction_type"] = file.prediction
    if file.zero_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if "alphas_cumprod" in file.header.tensors and not file.zero_snr and file.prediction != "flow":
        with safe_open(path, framework="pt") as opened:
            own = opened.get_tensor("alphas_cumprod").double().flatten()
        usual = class_of(piece).from_config(config).alphas_cumprod.double()
        if own.shape != usual.shape or float((own - usual).abs().max()) > 2e-3:  # half precision rounds by less
            config["trained_betas"] = (1 - own / torch.cat([torch.ones(1, dtype=torch.float64), own[:-1]])).clamp(0, 0.999).tolist()
            notes.append(f"{file.name} brings a noise schedule of its own along, which is used")
    return config, tuple(notes)


def load(file: Checkpoint, path: Path, companion: Path | None, pieces: Mapping[str, Piece], dtype: torch.dtype,
         shared: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:  # fmt: skip
    """`({part: object}, warnings)` of a whole pipeline; `shared` parts are taken as they are."""
    parts, notes = dict(shared), ()
    for part, piece in pieces.items():
        if part in shared:
            continue
        if part == "scheduler":
            config, notes = schedule(file, path, piece)
            parts[part] = class_of(piece).from_config(config)
        elif piece.origin == FILE:
            parts[part] = load_part(file, path, part, piece, dtype)
        elif piece.origin == BUILT:
            parts[part] = built_tokenizer(piece.config["clip"])
        else:
            typed = {"dtype": dtype} if "config" in vars(class_of(piece)) or issubclass(class_of(piece), nn.Module) else {}
            network = issubclass(class_of(piece), nn.Module)
            safe = {"use_safetensors": True, "variant": variant_in(companion, [part], companion.name)} if network else {}
            parts[part] = class_of(piece).from_pretrained(str(companion / part), local_files_only=True, **typed, **safe)
    return parts, notes


def pipeline(cls: type, parts: Mapping[str, object]) -> object:
    """The pipeline of these parts; those it can do without and has not are None."""
    import inspect

    wanted = inspect.signature(cls.__init__).parameters
    absent = {name: None for name in (*cls._optional_components, "tokenizer_3", "text_encoder_3") if name in wanted and name not in parts}
    more = {"requires_safety_checker": False} if "requires_safety_checker" in wanted else {}
    return cls(**parts, **absent, **more)


def equal(first: object, second: object) -> bool:
    """Whether two loaded parts do the same: modules of one configuration with equal weights, tokenizers of one vocabulary."""
    if type(first) is not type(second):
        return False
    if isinstance(first, nn.Module):
        ours, theirs = first.state_dict(), second.state_dict()
        return ours.keys() == theirs.keys() and all(
            a.dtype == b.dtype and torch.equal(a, b.to(a.device)) for a, b in zip(ours.values(), theirs.values()))  # fmt: skip
    marks = lambda words: (words.get_vocab(), words.special_tokens_map, words.model_max_length, words("a b ! c").input_ids)
    return hasattr(first, "get_vocab") and marks(first) == marks(second)
