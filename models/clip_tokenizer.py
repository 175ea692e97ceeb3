"""CLIP's tokenizer, built from the merges that every CLIP text encoder shares, so that a checkpoint without a tokenizer needs no download.

`clip_merges.txt.gz` holds the 48,894 byte-pair merges of OpenAI's CLIP (Radford et al. 2021; MIT licence), most frequent first; the
vocabulary follows from them: 256 bytes, the same at the end of a word, one entry a merge, and two marks.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = Path(__file__).with_name("clip_merges.txt.gz")
LENGTH = 77


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte, in the order of the vocabulary (Radford et al. 2019, GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


@cache
def merges() -> tuple[tuple[str, str], ...]:
    return tuple(tuple(line.split()) for line in gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines())


def clip_tokenizer(pad: str = END) -> object:
    """A `CLIPTokenizer`. pad: what fills a prompt up to 77 tokens: the end mark, or `!` for the OpenCLIP encoders of SD 2 and SDXL."""
    from transformers import CLIPTokenizer

    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges()), START, END]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=list(merges()), model_max_length=LENGTH,
                         pad_token=pad, bos_token=START, eos_token=END, unk_token=END)  # fmt: skip
