"""Adapters on the page: typed with strengths, shown on the card; refused and remarked on in Japanese, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusion.recipe import RecipeError
from fusion.recipe_cards import described, same_model
from fusion.ui import engine, models_section, state, texts
from models.catalog import typed_card
from models.loading import load_ensemble
from tests import tiny
from tests.ui.test_problems import japanese, said

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
HALVES = {f"unet.{LAYER}.lora_A.weight": torch.ones(2, 16), f"unet.{LAYER}.lora_B.weight": torch.ones(16, 2)}


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    monkeypatch.setattr(engine, "cards", dict)
    for name in ("one", "two"):
        save_file(HALVES, tmp_path / f"{name}.safetensors")
    return tiny.sd(tmp_path / "base")


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_strengths_are_typed_and_shown(base, language):
    session = state.Session()
    session.language = language
    assert "MODEL+ADAPTER:0.7+SECOND:0.4" in models_section.render(session)
    models_section.add(
        session, {"value": f"{base}+{base.with_name('one.safetensors')}:0.7+{base.with_name('two.safetensors')}"}
    )
    models_section.add(session, {"value": f"{base}+{base.with_name('one.safetensors')}"})
    stack, plain = models_section.chosen(session)
    assert [one.strength for one in stack.adapters] == [0.7, 1.0] and stack.title == "one:0.7 + two"
    page = models_section.render(session)
    for badge in ("+ one × 0.7", "+ two", "LoRA"):
        assert f'<span class="badge" title="{badge}">{badge}</span>' in page
    models_section.add(session, {"value": f"{base}+{base.with_name('one.safetensors')}:much"})
    assert len(models_section.chosen(session)) == 2 and ("much" in str(session.notes["models"]))
    assert engine.ensemble([stack]).members[0].name == "one:0.7 + two"


def test_refusals_and_remarks_in_japanese(base):
    file = base.with_name("x.safetensors")
    typed = lambda colon="": load_ensemble([typed_card(f"{base}+{file}{colon}")], device="cpu", lora="switch")  # noqa: E731
    names = ("x.safetensors", "MODEL", str(base.parent), "textual inversion", LAYER, "adapter", "mycat")
    broken = [
        ({f"unet.{LAYER}.lora_A.weight": torch.ones(2, 16, dtype=torch.int8)}, ""), ({f"unet.{LAYER}.hada_w1_a": torch.ones(2, 2)}, ""),
        ({"emb_params": torch.ones(1, 16)}, ":0.5"), ({"emb_params": torch.ones(1, 24)}, ""),
        ({"emb_params": torch.full((1, 16), torch.nan)}, ""),
        ({key: value * torch.nan for key, value in HALVES.items()}, ""),
        ({**HALVES, f"unet.{LAYER}.lora_down.weight": torch.ones(2, 16)}, ""),
        ({f"unet.{LAYER}.oft_blocks": torch.ones(2, 2)}, ""), (HALVES, ":much"), (HALVES, ":nan"), (HALVES, "+"),
        ({**HALVES, f"unet.{LAYER}.dora_scale": torch.ones(3, 1)}, ""),
    ]  # fmt: skip
    for tensors, colon in broken:
        save_file(tensors, file)
        sentence = said(lambda colon=colon: typed(colon))
        assert japanese(sentence, *names), sentence
    zero = {key: value * 0 for key, value in HALVES.items()}
    for tensors, colon in ((zero, ""), (HALVES, ":0"), ({**HALVES, "bundle_emb.mycat.emb_params": torch.ones(1, 16)}, ""),
                           ({**HALVES, "bundle_emb.mycat.emb_params": torch.ones(1, 24)}, ""),
                           ({**HALVES, "unet.conv_in.diff": torch.zeros(2, 2)}, ""), ({**HALVES, "unet.x.diff": torch.zeros(2)}, ""),
                           ({**HALVES, "else": torch.zeros(2)}, ""),
                           ({f"unet.{LAYER}.diff": torch.full((16, 16), 1e-30)}, "")):  # fmt: skip
        save_file(tensors, file)
        (warning,) = typed(colon).warnings
        assert japanese(texts.translate("ja", warning), *names), warning


def test_a_recipe_of_other_strengths_in_japanese(base):
    cards = [typed_card(f"{base}+{base.with_name('one.safetensors')}{colon}") for colon in (":0.7", ":0.6")]
    with pytest.raises(RecipeError) as caught:
        same_model(described(cards[0]), cards[1])
    assert "made with one:0.7 on one:0.6" in str(caught.value) and japanese(texts.translate("ja", str(caught.value)))
    assert Path(cards[0].adapter).name == "one.safetensors"
