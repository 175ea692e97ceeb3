"""Negative prompt and clip skip: what stock pipelines draw with them, in every place that a plan goes through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.methods import METHODS, MethodError, SamplingPlan
from fusion.recipe import Recipe
from models.encoding import embedded
from models.loading import load_ensemble
from models.prompts import understood
from models.reading import Reader

HALVES, FIRST = np.array([0.5, 0.5]), np.array([1.0, 0.0])
BESIDE = {"negative_prompt": "a blurred dog", "clip_skip": 2}


def plan_of(weights=FIRST, guidance=4.0, **more):
    return SamplingPlan(["a cat"], [3], 2, guidance, weights=weights, **more)


def drawn(ensemble, plan, method="single"):
    return next(iter(METHODS[method].run(ensemble, None, plan)))


@pytest.mark.parametrize(("kind", "asked", "given"), [
    ("sd", {"negative_prompt": "a blurred dog"}, {"negative_prompt": "a blurred dog"}),
    ("sd", {"clip_skip": 1}, {}), ("sd3", {"clip_skip": 2}, {}),
    ("sdxl", {"negative_prompt": "a blurred dog"}, {"negative_prompt": "a blurred dog"}), ("sdxl", {"clip_skip": 2}, {}),
    ("sd3", {"negative_prompt": "a blurred dog"}, {"negative_prompt": "a blurred dog"}),
])  # fmt: skip
def test_one_hot_draws_what_the_stock_pipeline_draws(tiny_ensemble, kind, asked, given):
    ensemble = tiny_ensemble(kind)
    ours = np.asarray(drawn(ensemble, plan_of(**asked)).image)
    stock = ensemble.own_pipeline()
    stock.set_progress_bar_config(disable=True)
    with torch.no_grad():
        theirs = stock("a cat", num_inference_steps=2, guidance_scale=4.0, height=ensemble.size[0], width=ensemble.size[1],
                       generator=torch.Generator().manual_seed(3), **given).images[0]  # fmt: skip
    assert np.array_equal(ours, np.asarray(theirs))
    if given:
        assert not np.array_equal(ours, np.asarray(drawn(ensemble, plan_of()).image))


@pytest.mark.parametrize("method", ["scorefusion", "mixture", "barycenter", "merge"])
def test_every_way_of_drawing_hears_them(tiny_ensemble, method):
    ensemble = tiny_ensemble("sd")
    plain, beside = (np.asarray(drawn(ensemble, plan_of(HALVES, **more), method).image) for more in ({}, BESIDE))
    assert not np.array_equal(plain, beside)


def test_members_with_encoders_of_their_own_read_the_negative_prompt_with_them(sd_cards):
    cards = [sd_cards["base"], sd_cards["lora_text"]]
    together = load_ensemble(cards, device="cpu", lora="merge")
    alone = load_ensemble(cards[1:], device="cpu", lora="merge")
    second = drawn(together, plan_of(np.array([0.0, 1.0]), **BESIDE), "scorefusion")
    assert np.abs(np.asarray(second.image, float) - np.asarray(drawn(alone, plan_of(np.ones(1), **BESIDE)).image, float)).max() <= 1


def test_recipes_keep_them_and_old_ones_read_as_before(tiny_ensemble):
    ensemble = tiny_ensemble("sd")
    sample = drawn(ensemble, plan_of(**BESIDE))
    recipe = Recipe.from_json(Recipe.of_sample(ensemble, sample, plan_of(**BESIDE)).to_json())
    assert (recipe.negative_prompt, recipe.clip_skip) == ("a blurred dog", 2)
    assert np.array_equal(np.asarray(next(recipe.run(ensemble)).image), np.asarray(sample.image))
    plain = Recipe.of_sample(ensemble, drawn(ensemble, plan_of()), plan_of()).to_json()
    assert "negative" not in plain and "clip_skip" not in plain


@pytest.mark.parametrize(("kind", "asked", "words"), [
    ("flux", {"negative_prompt": "a dog"}, "takes no negative prompt"), ("ddpm", {"negative_prompt": "a dog"}, "takes no negative prompt"),
    ("pixart", {"clip_skip": 2}, "one layer only"), ("sd", {"clip_skip": 11}, "more than the"), ("sdxl", {"clip_skip": 1}, "or more"),
])  # fmt: skip
def test_what_models_cannot_hear_is_refused_before_anything_is_drawn(tiny_ensemble, kind, asked, words):
    plan = plan_of(HALVES, 1.0, **asked)
    with pytest.raises(MethodError, match=words):
        _ = METHODS["mixture"].cost(tiny_ensemble(kind), None, plan), plan.jobs


def test_clip_skip_two_reads_the_layer_before_the_last(tiny_ensemble):
    member = tiny_ensemble("sd").members[0]
    reader = Reader(member.new_pipeline("unet"), tiny_ensemble("sd").family)
    encoder, tokenizer = member.components["text_encoder"], member.components["tokenizer"]
    ids = tokenizer("a cat", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
        want = getattr(encoder, "text_model", encoder).final_layer_norm(hidden)
    assert torch.allclose(embedded(reader, understood("a cat"), skip=1), want, atol=1e-6)
    with pytest.raises(MethodError, match="clip skip must be"):
        _ = plan_of(clip_skip=99).jobs
