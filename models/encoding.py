"""How a family of CLIP encoders reads prompts with weights, and of any length: by `compel`, chunk by chunk of 75 tokens.

A prompt that says nothing but its words, and fits, goes the stock pipeline's own way and gives the same numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from .errors import ModelError
from .prompts import Said, literal
from .reading import Encoder, Reader


def length(reader: Reader, said: Said) -> int:
    """How many tokens of conditioning a prompt becomes; 0 where the stock pipeline reads it, whatever its length then is."""
    return embedded(reader, said).shape[1] if special(reader, said) else 0


def special(reader: Reader, said: Said) -> bool:
    """Whether the stock pipeline cannot read all that is said."""
    return not (said.plain and reader.fits(said.words))


@torch.no_grad()
def encode(reader: Reader, stock: Callable[..., tuple], given: Mapping, said: Sequence[Said], against: Sequence[Said] | None) -> tuple:
    """What a pipeline's `encode_prompt`, `stock`, returns for its arguments `given`, with the prompts `said` and the negative prompts
    `against` (None: none was given) read whole. Rows of unlike length end in empty chunks, as negative prompts do beside longer ones.

    Raises ModelError for weights that cannot be put to their words.
    """
    words = {"prompt": [one.words for one in said]} | ({} if against is None else {"negative_prompt": [one.words for one in against]})
    skip = given.get("clip_skip")
    rows = [n for n, one in enumerate(said) if skip or special(reader, one) or (against is not None and special(reader, against[n]))]
    if not rows:
        return tuple(stock(**{**given, **words}))
    if (given.get("num_images_per_prompt") or 1) != 1:
        raise ModelError("a prompt with weights, or longer than its encoder reads, is drawn once for every seed: leave "
                         "num_images_per_prompt at 1")  # fmt: skip
    short = {name: ["" if n in rows else text for n, text in enumerate(texts)] for name, texts in words.items()}
    results = list(stock(**{**given, **short, **({"clip_skip": None} if skip else {})}))
    text, *pooled = reader.family.embeddings.values()
    halves = [(0, said, skip)]
    if results[text[1]] is not None:
        halves.append((1, against or [literal("")] * len(said), None))  # a stock pipeline reads negative prompts at the usual layer
    blank = against is None and bool(getattr(reader.pipeline.config, "force_zeros_for_empty_prompt", False))
    found = {half: list(results[text[half]].split(1)) for half, _, _ in halves}
    for n in rows:
        for half, what, layer in halves:
            if half and blank:
                continue  # zeros, of any length
            found[half][n] = embedded(reader, what[n], layer).to(found[half][n])
            for places in pooled:
                results[places[half]][n : n + 1] = _pooled(reader, what[n].words).to(results[places[half]])
    longest = max(row.shape[1] for rows_ in found.values() for row in rows_)
    for half, _, layer in halves:
        empty = None if half and blank else embedded(reader, literal(""), layer).to(found[half][0])
        results[text[half]] = torch.cat([_filled(row, longest, empty) for row in found[half]])
    return tuple(results)


@torch.no_grad()
def embedded(reader: Reader, said: Said, skip: int | None = None) -> Tensor:
    """`(1, tokens, width)` of one prompt, its parts one behind another: the encoders' answers side by side."""
    return torch.cat([_compelled(reader, encoder, said, skip) for encoder in reader.encoders], -1)


def _compelled(reader: Reader, encoder: Encoder, said: Said, skip: int | None) -> Tensor:
    from compel import Compel
    from compel.prompt_parser import Conjunction, FlattenedPrompt

    layer = (reader.family.clip_layer or 1) + (skip or 0)
    with reader.alone(encoder) as tokenizer:
        compel = Compel(tokenizer=tokenizer, text_encoder=_Layer(encoder.module, layer, reader.family.clip_layer == 1),
                        truncate_long_prompts=False, device=encoder.module.device, model_max_length=encoder.tokens)  # fmt: skip
        parts = [FlattenedPrompt([(reader.expanded(text, encoder.tokenizer), weight) for text, weight in part]) for part in said.parts]
        try:
            return compel.build_conditioning_tensor_for_conjunction(Conjunction(parts))[0]
        except RuntimeError as error:
            if "fragment" not in str(error):
                raise
            raise ModelError(f"the weights of '{said.words[:80]}' cannot be put to its words: write the prompt without weights") from None


def _pooled(reader: Reader, words: str) -> Tensor:
    """`(1, width)`: the last encoder's summary, which reads the beginning of a long prompt only."""
    encoder = reader.encoders[-1]
    with reader.alone(encoder) as tokenizer:
        ids = tokenizer(words, padding="max_length", max_length=encoder.tokens, truncation=True, return_tensors="pt").input_ids
    return encoder.module(ids.to(encoder.module.device))[0]


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
        return SimpleNamespace(last_hidden_state=self._norm(found) if self.normed else found)

    @property
    def _norm(self) -> torch.nn.Module:
        return getattr(self.module, "text_model", self.module).final_layer_norm  # transformers 5 has it one floor higher


def _filled(row: Tensor, length: int, empty: Tensor | None) -> Tensor:
    """`(1, length, width)`: empty chunks behind, zeros where there is none."""
    if row.shape[1] == length:
        return row
    if empty is None:
        return torch.nn.functional.pad(row, (0, 0, 0, length - row.shape[1]))
    times = -(-(length - row.shape[1]) // empty.shape[1])
    return torch.cat([row, *[empty] * times], 1)[:, :length]
