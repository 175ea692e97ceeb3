"""Textual inversions beside a LoRA or in its place: words of one member alone."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from models.errors import ModelError
from models.loading import load_ensemble
from tests.conftest import SIZE, tiny_card

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
LORA = {f"unet.{LAYER}.lora_A.weight": torch.ones(2, 16), f"unet.{LAYER}.lora_B.weight": torch.ones(16, 2)}


def load(card, file: Path, **more):
    worn = tiny_card(card.family, Path(card.source), id="m", title="m", adapter=str(file), **more)
    return load_ensemble([worn, card], device="cpu", lora="switch", size=SIZE.get(card.family))


def said(member, prompt: str, part: str = "text_encoder") -> torch.Tensor:
    """What an encoder makes of a prompt, as the member's pipeline reads it."""
    words = member.components[part.replace("text_encoder", "tokenizer")]
    pipeline = member.new_pipeline("unet")
    ids = words(pipeline.maybe_convert_prompt(prompt, words), return_tensors="pt", padding="max_length", truncation=True).input_ids
    return member.components[part](ids)[0]


@pytest.mark.parametrize(("name", "key", "vectors"), [
    ("bundled", "bundle_emb.mycat.string_to_param.*", 2), ("bundled", "bundle_emb.mycat.emb_params", 1),
    ("bundled", "bundle_emb.mycat.clip_l", 3),
    ("mycat", "emb_params", 2), ("mycat", "clip_l", 1), ("mycat", "string_to_param.*", 1), ("other", "mycat", 2), ("other", "<mycat>", 1),
])  # fmt: skip
def test_a_word_of_one_member_alone(tiny_cards, tmp_path, name, key, vectors):
    torch.manual_seed(2)
    card, held = tiny_cards("sd")[0], torch.randn(vectors, 16) * 3
    save_file({key: held, **(LORA if name == "bundled" else {})}, tmp_path / f"{name}.safetensors")
    ensemble = load(card, tmp_path / f"{name}.safetensors")
    mine, base = ensemble.members
    word = "<mycat>" if "<" in key else "mycat"
    assert any(f"brings the word {word}" in warning for warning in mine.warnings)
    for part in ("text_encoder", "tokenizer"):
        assert mine.components[part] is not base.components[part]
    assert (mine.network is base.network) and (mine.adapter is None) == (name != "bundled")
    torch.testing.assert_close(said(mine, "a red cat"), said(base, "a red cat"))
    # as diffusers loads the same vectors
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(card.source, safety_checker=None, requires_safety_checker=False)
    pipe.load_textual_inversion({word: held})
    want = pipe.encode_prompt(f"a red {word} cat", "cpu", 1, False)[0]
    torch.testing.assert_close(said(mine, f"a red {word} cat"), want)
    assert not torch.allclose(said(base, f"a red {word} cat"), want, atol=1e-2)
    assert word not in base.components["tokenizer"].get_vocab()


def test_two_encoders_hear_their_own_halves(tiny_cards, tmp_path):
    card, own = tiny_cards("sdxl")[0], torch.Generator().manual_seed(3)
    save_file({"clip_l": torch.randn(1, 16, generator=own), "clip_g": torch.randn(1, 16, generator=own)}, tmp_path / "mycat.safetensors")
    mine, base = load(card, tmp_path / "mycat.safetensors").members
    for part in ("text_encoder", "text_encoder_2"):
        assert not torch.allclose(said(mine, "a mycat", part), said(base, "a mycat", part), atol=1e-2)
        torch.testing.assert_close(said(mine, "a cat", part), said(base, "a cat", part))


def test_pipelines_that_do_not_spell_a_word_out_say_so(tiny_cards, tmp_path):
    for count, told in ((1, 1), (2, 2)):
        save_file({"clip_l": torch.randn(count, 16)}, tmp_path / "mycat.safetensors")
        assert len(load(tiny_cards("sd3")[0], tmp_path / "mycat.safetensors").members[0].warnings) == told


def test_what_cannot_be_heard_is_named(tiny_cards, tmp_path):
    card, file = tiny_cards("sd")[0], tmp_path / "mycat.safetensors"
    save_file({"emb_params": torch.ones(1, 24)}, file)
    with pytest.raises(ModelError, match="mycat.safetensors was made for text of width 24"):
        load(card, file)
    save_file({"emb_params": torch.ones(1, 16)}, file)
    with pytest.raises(ModelError, match="is a textual inversion, which has no strength: leave 0.5 out"):
        load(card, file, strength=0.5)
    assert "has strength 0" in load(card, file, strength=0.0).members[0].warnings[0]
    save_file({**LORA, "bundle_emb.mycat.clip_g": torch.ones(1, 16), "bundle_emb.dog.t5": torch.ones(1, 16)}, file)
    (warning,) = load(card, file).members[0].warnings
    assert "not used, since no text encoder here can take them: dog, mycat" in warning
    save_file({"emb_params": torch.full((1, 16), float("nan"))}, file)
    with pytest.raises(ModelError, match="mycat.safetensors is not a number"):
        load(card, file)
    taken = next(name for name in load(card, _lora(tmp_path)).members[1].components["tokenizer"].get_vocab() if name.isalpha())
    save_file({"emb_params": torch.ones(1, 16)}, tmp_path / f"{taken}.safetensors")
    with pytest.raises(ModelError, match=f"would be called {taken}, which is a word already"):
        load(card, tmp_path / f"{taken}.safetensors")


def _lora(folder: Path) -> Path:
    save_file(LORA, folder / "lora.safetensors")
    return folder / "lora.safetensors"
