"""What of a prompt a pipeline's text encoders do not read, by name: the words beyond their length, and syntax that is text to them."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from .families import Family
from .prompts import PLACE, PromptError, understood

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
            rest = _beyond(encoder, self.expanded(words, encoder.tokenizer))
            if rest:
                found[encoder.name] = rest
        return found

    def fits(self, words: str) -> bool:
        return not self.unread(words)

    @contextmanager
    def alone(self, encoder: Encoder) -> Iterator[object]:
        """A copy of the encoder's tokenizer that cuts nothing, for one thread at a time."""
        with _lock:
            yield _copy(encoder.tokenizer)

    def expanded(self, words: str, tokenizer: object) -> str:
        """With every vector of a textual inversion."""
        convert = getattr(self.pipeline, "maybe_convert_prompt", None)
        return words if convert is None or not getattr(tokenizer, "added_tokens_encoder", None) else convert(words, tokenizer)


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
    if len(places) <= room:
        return ""
    start = places[room][0]
    while start and not words[start - 1].isspace() and not words[start].isspace():  # a word that is read in part is named whole
        start -= 1
    return words[start:].strip()


def unread(ensemble: object, prompts: Sequence[str], *, templates: bool = True) -> list[dict]:
    """`{"prompt", "not_read", "by", "model"}` for every prompt that a text encoder of a member cuts, its template included.

    templates: False for negative prompts, which are put into none.
    """
    found, seen = [], set()
    for member in ensemble.members:
        template = member.card.prompt_template if templates else PLACE
        key = (template, *(id(member.components.get(name)) for name in ensemble.family.text))
        if key in seen:
            continue
        seen.add(key)
        reader = Reader(member.new_pipeline(ensemble.family.slot), ensemble.family)
        for prompt in dict.fromkeys(prompts):
            cut = reader.unread(template.replace(PLACE, prompt))
            found += [{"prompt": prompt, "not_read": rest, "by": by, "model": member.name} for by, rest in cut.items()]
    return found


def dropped(ensemble: object, prompts: Sequence[str], reading: str = "cut", *, templates: bool = True) -> list[dict]:
    """`unread` of prompts that are read so (`models.prompts.READINGS`): nothing where the family reads them whole."""
    return [] if reading != "cut" and ensemble.family.weighs else unread(ensemble, prompts, templates=templates)


def remarks(ensemble: object, prompts: Sequence[str], reading: str = "cut") -> tuple[list[dict], list[str]]:
    """`unread`, and it with the syntax that is read as plain text as sentences for people.

    reading: how the prompts are read (`models.prompts.READINGS`): where it is not `cut`, families that can read them whole.
    """
    whole = reading != "cut" and ensemble.family.weighs
    rows = dropped(ensemble, prompts, reading)
    said = [f"not read by {row['model']}'s {row['by']}, since the prompt is too long: \"{row['not_read']}\"" for row in rows]
    for row in unread(ensemble, prompts) if whole else ():
        said.append(f"longer than {row['model']}'s {row['by']} reads at once: what lies beyond, from \"{row['not_read'][:60]}\" on, is "
                    "read in stretches of its own")  # fmt: skip
    for prompt in dict.fromkeys(prompts if reading == "prompt" else ()):
        try:
            meant = understood(prompt)
        except PromptError as error:
            if whole:
                raise
            said.append(f"read as plain text, since {error}")
            continue
        plain = [] if whole else [text for text, _ in meant.weighted] + (["BREAK"] if len(meant.parts) > 1 else [])
        parts = plain + list(meant.foreign)
        if parts:
            said.append(f"read as plain text, brackets and numbers with it: {', '.join(parts)[:200]}")
        if meant.networks:
            loads = ", ".join(meant.networks)[:200]
            said.append(f"{'left out of' if whole else 'read as plain text in'} the prompt, it loads nothing: {loads}; name the LoRA with "
                        "its model, MODEL+LORA")  # fmt: skip
    return rows, said
