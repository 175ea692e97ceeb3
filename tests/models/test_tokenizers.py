"""Tokenizers as public repositories ship them: T5's as a sentencepiece model alone, which nothing but sentencepiece reads."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

import pytest
import sentencepiece
import torch

from models.loading import load_ensemble
from tests import tiny
from tests.conftest import tiny_card

WORDS = ["the quick brown fox jumps over the lazy dog"] * 8


def pieces_alone(folder: Path) -> None:
    """Make a tokenizer's folder one as PixArt-Sigma has: spiece.model and its configuration, without tokenizer.json."""
    shutil.rmtree(folder)
    folder.mkdir()
    with open(folder / "spiece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(WORDS), model_writer=file, model_type="char", vocab_size=4 + len(string.ascii_lowercase),
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": tiny.TOKENS, "eos_token": "</s>", "pad_token": "<pad>"}))


@pytest.mark.parametrize(("kind", "part"), [("pixart", "tokenizer"), ("sd3", "tokenizer_3")])
def test_a_sentencepiece_model_alone_is_read(tiny_cards, tmp_path, kind, part):
    first, second = tiny_cards(kind)
    folder = Path(shutil.copytree(second.source, tmp_path / "pieces"))
    pieces_alone(folder / part)
    ensemble = load_ensemble([first, tiny_card(kind, folder)], device="cpu")
    shipped, own = (member.components[part] for member in ensemble.members)
    known = sentencepiece.SentencePieceProcessor(model_file=str(folder / part / "spiece.model"))
    assert own("a quick dog").input_ids == [*known.encode("a quick dog"), known.eos_id()] != shipped("a quick dog").input_ids
    x = torch.randn(1, *ensemble.shape, generator=torch.Generator().manual_seed(0))
    predict = ensemble.predictor(["a dog", "a fox"])
    assert not torch.equal(predict(x, torch.zeros(1), index=[0])[1], predict(x, torch.zeros(1), index=[1])[1])
