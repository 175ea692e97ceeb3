"""Textual inversions (Gal et al. 2022): words of their own, as vectors for text encoders; alone in a file, or brought along by a LoRA."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import ModelError
from .families import Family

_KEY = r"string_to_param\..+|emb_params|clip_[lgh]|t5\w*|[\w]+"
_BUNDLED = re.compile(rf"bundle_emb\.(.+?)\.({_KEY})$")
_ALONE = re.compile(r"string_to_param\..+|emb_params|clip_[lgh]|t5(?:xxl)?")
FIRST_ONLY = ("sd3", "pixart")  # families whose pipelines do not spell a word out as its vectors
PLACES = {"clip_l": "text_encoder", "clip_h": "text_encoder", "clip_g": "text_encoder_2"}


@dataclass(frozen=True)
class Inversion:
    """One word. vectors: `clip_l` and the like, or "" where the file does not say for which text encoder, -> (n, width)."""

    word: str
    vectors: Mapping[str, Tensor]
    file: str
    bundled: bool


def is_alone(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a file with these tensors is a textual inversion and nothing else."""
    from .adapter_files import role_of

    known = all(_ALONE.fullmatch(key) for key in shapes)
    marked = lambda key, shape: len(shape) == 2 or len(shape) == 1 and key.startswith("<")  # noqa: E731
    single = len(shapes) == 1 and all("." not in key and role_of(key) is None and marked(key, shape) for key, shape in shapes.items())
    return bool(shapes) and (known or single)


def taken_out(tensors: Mapping[str, Tensor], file: Path) -> tuple[dict[str, Tensor], tuple[Inversion, ...]]:
    """`(the rest, inversions)` of an adapter's file."""
    if is_alone({key: tuple(tensor.shape) for key, tensor in tensors.items()}):
        key = next(iter(tensors))
        if not _ALONE.fullmatch(key):  # diffusers calls the tensor as the word
            return {}, (Inversion(key, {"": _rows(tensors[key])}, file.name, False),)
        return {}, (Inversion(file.stem, {_place(key): _rows(tensor) for key, tensor in tensors.items()}, file.name, False),)
    rest, words = {}, {}
    for key, tensor in tensors.items():
        hit = _BUNDLED.fullmatch(key)
        if hit and tensor.ndim in (1, 2):
            words.setdefault(hit[1], {})[_place(hit[2])] = _rows(tensor)
        else:
            rest[key] = tensor
    return rest, tuple(Inversion(word, vectors, file.name, True) for word, vectors in words.items())


def _place(key: str) -> str:
    """Of which text encoder a key speaks; "" for the only one."""
    return "" if key.startswith(("string_to_param.", "emb_params")) else key


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def teach(inversions: Iterable[Inversion], components: Mapping[str, object], family: Family,
          title: str) -> tuple[dict[str, object], tuple[str, ...]]:  # fmt: skip
    """`(components, warnings)` with the words in copies of tokenizers and text encoders: whoever shares these hears nothing of them.

    Raises ModelError for a word that a file of its own brings and that no text encoder can take, or that is known already.
    """
    mine, fresh, told, unknown = dict(components), set(), [], []
    for one in inversions:
        places = {hint: _encoder(hint, vectors, mine, family.text) for hint, vectors in one.vectors.items()}
        if None in places.values():
            if not one.bundled:
                widths = ", ".join(str(vectors.shape[1]) for vectors in one.vectors.values())
                raise ModelError(f"'{title}': the textual inversion {one.file} was made for text of width {widths}, which no text "
                                 "encoder of its base has: use it with the model it was made for")  # fmt: skip
            unknown.append(one.word)
            continue
        for hint, part in places.items():
            words = part.replace("text_encoder", "tokenizer")
            for name in {part, words} - fresh:
                mine[name] = copy.deepcopy(mine[name])
                fresh.add(name)
            _learn(mine[words], mine[part], one, one.vectors[hint], title)
        told.append(one)
    said = [f"{one.file} brings the word {one.word}: write it in the prompt to use its textual inversion" for one in told]
    cut = [one.word for one in told if family.name in FIRST_ONLY and max(map(len, one.vectors.values())) > 1]
    if cut:
        said.append(f"of these words only the first of several vectors is read by pipelines of {family.title}: {', '.join(sorted(cut))}")
    if unknown:
        words = ", ".join(sorted(unknown))
        said.append(f"textual inversions that lie beside the LoRA are not used, since no text encoder here can take them: {words}")
    return mine, tuple(said)


def _encoder(hint: str, vectors: Tensor, components: Mapping[str, object], text: Iterable[str]) -> str | None:
    """The text encoder that vectors are for: the one that is named, else the first one of their width."""
    there = [part for part in text if part.startswith("text_encoder") and isinstance(components.get(part), nn.Module)
             and components.get(part.replace("text_encoder", "tokenizer")) is not None]  # fmt: skip
    fits = [part for part in there if components[part].get_input_embeddings().weight.shape[1] == vectors.shape[1]]
    if hint in PLACES:
        return PLACES[hint] if PLACES[hint] in fits else None
    if hint.startswith("t5"):
        return next((part for part in fits if "T5" in type(components[part]).__name__), None)
    return fits[0] if fits and not hint else None


@torch.no_grad()
def _learn(tokenizer: object, encoder: nn.Module, one: Inversion, vectors: Tensor, title: str) -> None:
    """The word, and `word_1` and so on for further vectors, as diffusers spells it in prompts."""
    from transformers import AddedToken

    names = [one.word, *(f"{one.word}_{n}" for n in range(1, len(vectors)))]
    known = [name for name in names if name in tokenizer.get_vocab()]
    if known:
        raise ModelError(f"'{title}': the textual inversion {one.file} would be called {known[0]}, which is a word already: "
                         "rename its file")  # fmt: skip
    if not bool(torch.isfinite(vectors).all()):
        raise ModelError(f"'{title}': the textual inversion {one.file} is not a number: choose another copy of the file")
    tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=False) for name in names])
    places = tokenizer.convert_tokens_to_ids(names)
    if max(places) >= len(encoder.get_input_embeddings().weight):
        encoder.resize_token_embeddings(max(places) + 1, mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    table[places] = vectors.to(table)
    for module in (encoder, getattr(encoder, "text_model", None)):  # old configurations take the last word of the table for the end
        if getattr(module, "eos_token_id", None) == 2:
            module.eos_token_id = tokenizer.eos_token_id
