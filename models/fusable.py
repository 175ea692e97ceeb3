"""Can models be fused? Families, latent spaces and autoencoders compared, from configurations and files, before networks are loaded."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .autoencoders import Gap, apart
from .card import ModelCard
from .defaults import completed
from .errors import ModelError, SizesDiffer
from .families import FAMILIES, Family
from .inspection import Description
from .integrity import HASHED, read_json, refuse_strange_numbers, same_tensors, weight_files
from .pieces import FILE

# how a part was saved, not what it does
NOTES = {"transformers_version", "torch_dtype", "dtype", "is_local", "local_files_only", "name_or_path", "tokenizer_file",
         "special_tokens_map_file"}  # fmt: skip
SOMETIMES = {"architectures"}  # written by some versions only; model_index.json names the class


def refuse_families(cards: Sequence[ModelCard]) -> None:
    """Raise ModelError at the first card of another family than the first one's: cards say so, before anything is asked of a hub."""
    for other in cards[1:]:
        if other.family != cards[0].family:
            raise _unfusable(cards[0].title, other.title, _families(FAMILIES[cards[0].family], FAMILIES[other.family]))


def fusable(models: Sequence[Description], size: tuple[int, int] | None = None) -> list[Description]:
    """The models, those marked that take over the first one's autoencoder (`Description.borrows`).

    size: a size in pixels chosen for all, so that members made for different ones may meet. Raises ModelError, naming both members and the
    reason, at the first member that does not share the first one's latent space.
    """
    first, found = models[0], [models[0]]
    for other in models[1:]:
        _refuse_distilled(first, other)
        reason = difference(first, other)
        other = other if reason else _at_one_size(first, other, size)
        gap = None if reason or other.borrows or _same_latents(first, other) else apart(first, other)
        if gap is not None and not gap.small:
            reason = f"their autoencoders have different weights, so the same latent means different images ({gap})"
        if reason:
            raise _unfusable(first.name, other.name, reason)
        found.append(other if gap is None else _borrowing(other, first, gap))
    return found


def _borrowing(other: Description, first: Description, gap: Gap) -> Description:
    said = f"its autoencoder has other weights than that of {first.name} and does the same ({gap}): that of {first.name} is used"
    return replace(other, borrows=True, warnings=(*other.warnings, said))


def _same_latents(first: Description, other: Description) -> bool:
    """Whether nothing shows that two models encode images differently: as far as their autoencoders can be read already."""
    if "vae" not in first.parts or not (first.autoencoder_is_here and other.autoencoder_is_here) or same_part(first, other, "vae"):
        return True
    mine, yours = first.autoencoder_tensors(), other.autoencoder_tensors()
    for weights, model in ((mine, first), (yours, other)):
        refuse_strange_numbers(weights, model.name, "vae")
    return same_tensors(mine, yours)


def _refuse_distilled(first: Description, other: Description) -> None:
    """Raise ModelError for a latent consistency model beside one that is none: only its network is told the guidance."""
    mine, yours = first.network.get("time_cond_proj_dim"), other.network.get("time_cond_proj_dim")
    if first.family == other.family and mine != yours:
        distilled = other.name if mine is None else first.name
        raise ModelError(f"'{first.name}' and '{other.name}' cannot be fused: '{distilled}' is a latent consistency model (LCM), distilled "
                         "to draw in few steps, and its answers are no noise predictions that could be averaged with the other's. "
                         "Choose the ordinary model that it was made of, or fuse LCM models alone")  # fmt: skip


def _at_one_size(first: Description, other: Description, size: tuple[int, int] | None) -> Description:
    """`other`, with a note where its own size is not the one that is drawn. Raises SizesDiffer where none was chosen."""
    mine, yours = first.own_size, other.own_size
    if mine == yours or not first.family.text:
        return other
    if size is None:
        cells = [str(model.network.get("sample_size")) for model in (first, other)]
        own = f"their own pictures have {mine[0]} x {mine[1]} and {yours[0]} x {yours[1]} pixels"
        cure = f"--height {mine[0]} --width {mine[1]}, or in Python size=({mine[0]}, {mine[1]})"
        raise SizesDiffer(f"'{first.name}' and '{other.name}' cannot be fused: their latent size differs ({' and '.join(cells)}), "
                          f"{own}. Give one size for all: {cure}", mine)  # fmt: skip
    said = f"its own pictures have {yours[0]} x {yours[1]} pixels, and here it draws {size[0]} x {size[1]}, as the others"
    return other if said in other.warnings else replace(other, warnings=(*other.warnings, said))


def _unfusable(first: str, other: str, reason: str) -> ModelError:
    return ModelError(f"'{first}' and '{other}' cannot be fused: {reason}. Choose members of one family and one latent space.")


def _families(first: Family, other: Family) -> str:
    return f"the first is {first.title}, the second {other.title}"


def difference(first: Description, other: Description) -> str | None:
    """Why the configurations of two models forbid to fuse them at any size, None when they do not."""
    if first.family != other.family:
        return _families(first.family, other.family)
    if first.family.name == "ddpm" and first.network.get("sample_size") != other.network.get("sample_size"):
        return f"their latent size differs ({first.network.get('sample_size')} and {other.network.get('sample_size')})"
    for key, what in (("in_channels", "latent channels"), ("cross_attention_dim", "text width"),
                      ("joint_attention_dim", "text width"), ("caption_channels", "text width"),
                      ("pooled_projection_dim", "pooled text width"),
                      ("projection_class_embeddings_input_dim", "pooled text width"),
                      ("guidance_embeds", "embedded guidance")):  # fmt: skip
        mine, yours = first.network.get(key), other.network.get(key)
        if mine != yours:
            return f"their {what} differs ({mine} and {yours})"
    for key in ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "latent_channels", "block_out_channels"):
        mine, yours = first.autoencoder.get(key), other.autoencoder.get(key)
        if mine != yours:
            return f"their autoencoders differ ({key} {mine} and {yours})"
    return None


def same_part(first: Description, other: Description, part: str) -> bool:
    """Whether two models share a part, as their files show or as `other` borrows it; those of single files are compared when loaded."""
    if part == "vae" and other.borrows:
        return True
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
        said = [{key: value for key, value in completed(read_json(path, path.parent.name)).items()
                 if not (key.startswith("_") or key in NOTES or value is None)} for path in (first, second)]  # fmt: skip
        keys = (said[0].keys() | said[1].keys()) - (SOMETIMES - (said[0].keys() & said[1].keys()))
        return all(said[0].get(key) == said[1].get(key) for key in keys)
    return filecmp.cmp(first, second, shallow=False)
