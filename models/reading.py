"""How a pipeline's text encoders read prompts: weights and any length where `compel` knows how, and what they do not read, by name.

A prompt that says nothing but its words, and fits, goes the stock pipeline's own way and gives the same numbers to the last bit.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .errors import ModelError
from .families import Family
from .prompts import Said, literal

_copies: WeakKeyDictionary = WeakKeyDictionary()  # tokenizer -> its copy
_lock = threading.RLock()  # a tokenizer's truncation is state, so ours are copies, and one thread has them at a time


@dataclass(frozen=True)
class Encoder:
    """One text encoder of a pipeline. `tokens`: how many it reads, marks included."""

    name: str
    tokenizer: object
    module: torch.nn.Module
    tokens: int


class Reader:
    """Reads prompts with the text encoders of one pipeline."""

    def __init__(self, pipeline: object, family: Family):
        self.pipeline, self.family = pipeline, family

    @property
    def encoders(self) -> list[Encoder]:
        """Those that are there (SD3 works without its largest one), in the pipeline's order."""
        found = []
        for name in (part for part in self.family.text if part.startswith("text_encoder")):
            module = getattr(self.pipeline, name, None)
            tokenizer = getattr(self.pipeline, name.replace("text_encoder", "tokenizer"), None)
            if module is not None and tokenizer is not None:
                found.append(Encoder(name, tokenizer, module, self._tokens(tokenizer)))
        return found

    def _tokens(self, tokenizer: object) -> int:
        """What the pipeline cuts this tokenizer's prompts to: for T5 a number of its own, for CLIP the encoder's."""
        if "T5" in type(tokenizer).__name__ or "Llama" in type(tokenizer).__name__:
            return inspect.signature(type(self.pipeline).__call__).parameters["max_sequence_length"].default
        return tokenizer.model_max_length

    def unread(self, words: str) -> dict[str, str]:
        """Text encoder -> the words that it does not read where prompts are cut. Empty where all of them read everything."""
        found = {}
        for encoder in self.encoders:
            rest = _beyond(encoder, self._expanded(words, encoder.tokenizer))
            if rest:
                found[encoder.name] = rest
        return found

    def fits(self, words: str) -> bool:
        return not self.unread(words)

    def _expanded(self, words: str, tokenizer: object) -> str:
        """With every vector of a textual inversion."""
        convert = getattr(self.pipeline, "maybe_convert_prompt", None)
        return words if convert is None or not getattr(tokenizer, "added_tokens_encoder", None) else convert(words, tokenizer)

    def special(self, said: Said) -> bool:
        """Whether the stock pipeline cannot read all that is said, and we can."""
        return self.family.weighs and not (said.plain and self.fits(said.words))

    # -------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, stock: Callable[..., tuple], given: Mapping, said: Sequence[Said], against: Sequence[Said] | None,
               words: Mapping) -> tuple[tuple, Tensor | None]:  # fmt: skip
        """`(what encode_prompt returns, mask)` of prompts and, where guidance acts on them, negative prompts.

        stock: the pipeline's own `encode_prompt`; given: its arguments; words: those among them that are prompts, as words alone. mask
        `(P, tokens)`: 1 where there is something to read, None where all prompts are of one length.
        """
        rows = [n for n, one in enumerate(said) if self.special(one) or (against and self.special(against[n]))]
        if not rows:
            return tuple(stock(**{**given, **words})), None
        if given.get("num_images_per_prompt", 1) != 1:
            raise ModelError("a prompt with weights, or longer than its encoder reads, is drawn once for every seed: leave "
                             "num_images_per_prompt at 1")  # fmt: skip
        short = {name: ["" if n in rows else text for n, text in enumerate(texts)] for name, texts in words.items()}
        results = list(stock(**{**given, **short}))
        zero = against is None and getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False)
        halves = [(0, said, given.get("clip_skip"))] + ([(1, against or [literal("")] * len(said), None)] if results[1] is not None else [])
        text, *pooled = self.family.embeddings.values()
        found = [[results[text[half]][n : n + 1] for n in range(len(said))] for half, _, _ in halves]
        for n in rows:
            for half, what, skip in halves:
                if not (half and zero):
                    found[half][n] = self._embedded(what[n], skip).to(found[half][n])
                    for places in pooled:
                        results[places[half]][n : n + 1] = self._pooled(what[n].words).to(results[places[half]])
            self._level(found, n, halves, zero)
        lengths = [row.shape[1] for row in found[0]]
        for half, _, _ in halves:
            results[text[half]] = torch.cat([_padded(row, max(lengths)) for row in found[half]])
        mask = None if min(lengths) == max(lengths) else mask_of(lengths, results[text[0]])
        return tuple(results), mask

    def _level(self, found: list[list[Tensor]], n: int, halves: list, zero: bool) -> None:
        """Prompt and negative prompt of row n at one length, the shorter one filled up with the empty prompt, as `compel` does."""
        longest = max(rows[n].shape[1] for rows in found)
        for half, _, skip in halves:
            row = found[half][n]
            if row.shape[1] < longest:
                empty = row[:, :0] if half and zero else self._embedded(literal(""), skip).to(row)
                times = (longest - row.shape[1]) // max(empty.shape[1], 1)
                found[half][n] = _padded(torch.cat([row, *[empty] * times], 1), longest)

    def _embedded(self, said: Said, skip: int | None) -> Tensor:
        """`(1, tokens, width)` of one prompt: the encoders' answers side by side."""
        from compel import Compel
        from compel.prompt_parser import Conjunction, FlattenedPrompt

        parts = []
        for encoder in self.encoders:
            with _lock:
                tokenizer = _copy(encoder.tokenizer)
                compel = Compel(tokenizer=tokenizer, text_encoder=_Layer(encoder.module, self._layer(skip), self.family.name == "sd"),
                                truncate_long_prompts=False, device=self.pipeline._execution_device,
                                model_max_length=encoder.tokens)  # fmt: skip
                pieces = [FlattenedPrompt([(self._expanded(text, encoder.tokenizer), weight) for text, weight in part])
                          for part in said.parts]  # fmt: skip
                try:
                    parts.append(compel.build_conditioning_tensor_for_conjunction(Conjunction(pieces))[0])
                except RuntimeError as error:
                    if "fragment" not in str(error):
                        raise
                    raise ModelError(f"the weights of '{said.words[:80]}' cannot be put to its words: write the prompt without "
                                     "weights, or have it read as plain text") from None  # fmt: skip
        return torch.cat(parts, -1)

    def _layer(self, skip: int | None) -> int:
        """Which of the hidden layers is read, counted from the last one, 1; diffusers counts its `clip_skip` from the family's own."""
        return (self.family.clip_layer or 1) + (skip or 0)

    def _pooled(self, words: str) -> Tensor:
        """`(1, width)`: the last encoder's summary, which reads the beginning of a long prompt only."""
        encoder = self.encoders[-1]
        with _lock:
            ids = _copy(encoder.tokenizer)(words, padding="max_length", max_length=encoder.tokens, truncation=True, return_tensors="pt")
        return encoder.module(ids.input_ids.to(self.pipeline._execution_device))[0]


class _Layer:
    """A text encoder of which `compel` reads one layer as if it were the last. normed: whether the last layer norm follows (SD 1, 2)."""

    def __init__(self, module: torch.nn.Module, layer: int, normed: bool):
        self.module, self.layer, self.normed = module, layer, normed

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.dtype

    def __call__(self, ids: Tensor, mask: Tensor | None = None, **_: object) -> SimpleNamespace:
        if self.normed and self.layer == 1:
            return SimpleNamespace(last_hidden_state=self.module(ids, attention_mask=mask)[0])
        found = self.module(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-self.layer]
        return SimpleNamespace(last_hidden_state=self.module.text_model.final_layer_norm(found) if self.normed else found)


def mask_of(lengths: Sequence[int], like: Tensor) -> Tensor:
    """`(P, longest)`: 1 for what a row of that length holds."""
    places = torch.arange(max(lengths), device=like.device)
    return (places < torch.tensor(lengths, device=like.device)[:, None]).to(like.dtype)


def _padded(row: Tensor, length: int) -> Tensor:
    """`(P, length, width)`, zeros behind."""
    return torch.nn.functional.pad(row, (0, 0, 0, length - row.shape[1]))


def _copy(tokenizer: object) -> object:
    if tokenizer not in _copies:
        _copies[tokenizer] = copy.deepcopy(tokenizer)
        _copies[tokenizer].model_max_length = 10**9  # nothing is too long for it, and no library says so on stderr
    return _copies[tokenizer]


def _beyond(encoder: Encoder, words: str) -> str:
    """The end of `words` that the encoder does not read."""
    if len(words.encode()) <= encoder.tokens - 2:  # a token has a byte at least
        return ""
    with _lock:
        tokenizer = _copy(encoder.tokenizer)
        marks = tokenizer.num_special_tokens_to_add(False)
        found = tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
    places = found["offset_mapping"]
    room = encoder.tokens - marks
    return words[places[room][0] :].strip() if len(places) > room else ""
