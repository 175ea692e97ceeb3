"""Prompts with weights, and longer than an encoder reads, against `compel` itself and against what stock pipelines draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compel import Compel

from fusion.methods import METHODS, SamplingPlan
from fusion.recipe import Recipe
from models.encoding import embedded, length
from models.loading import load_ensemble
from models.prompts import understood
from models.reading import Reader

LONG = "a portrait of a cook " + "with a very large and friendly kitchen behind " * 12 + "and a red hat"
ALONE = np.array([1.0, 0.0])


def drawn(ensemble, prompts, weights=ALONE, method="single", **more):
    plan = SamplingPlan(list(prompts), list(range(len(prompts))), 2, 3.0, weights=weights, **more)
    return [np.asarray(one.image, dtype=float) for one in sorted(METHODS[method].run(ensemble, None, plan), key=lambda one: one.seed)]


def reader_of(ensemble):
    return Reader(ensemble.members[0].new_pipeline("unet"), ensemble.family)


@pytest.mark.parametrize("prompt", ["a (red:1.4) cat", "a ((red)) [cat]", LONG, "a cat BREAK a (dog:0.5)"])
def test_embeddings_are_those_of_compel(tiny_ensemble, prompt):
    ensemble = tiny_ensemble("sd")
    reader, said = reader_of(ensemble), understood(prompt)
    found = embedded(reader, said)
    parts = ["".join(f"({text}){weight}" if weight != 1 else text for text, weight in part) for part in said.parts]
    member = ensemble.members[0]
    theirs = Compel(tokenizer=member.components["tokenizer"], text_encoder=member.components["text_encoder"], truncate_long_prompts=False)
    want = theirs.build_conditioning_tensor(parts[0] if len(parts) == 1 else "(" + ",".join(f'"{one}"' for one in parts) + ").and()")
    assert torch.allclose(found, want, atol=1e-5)
    assert found.shape[1] == length(reader, said) and length(reader, understood("a cat")) == 0


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_long_prompt_is_read_to_its_end_and_a_plain_one_as_ever(tiny_ensemble, kind):
    ensemble = tiny_ensemble(kind)
    other = LONG.removesuffix("red hat") + "blue scarf"
    whole, changed, plain, cut = *drawn(ensemble, [LONG])[:1], *drawn(ensemble, [other]), *drawn(ensemble, ["a cat"]), *drawn(
        ensemble, [LONG], reading="cut")  # fmt: skip
    assert np.abs(whole - changed).max() > 0, "the words at the end count"
    assert np.array_equal(cut, drawn(ensemble, [other], reading="cut")[0]), "cut, as before, they do not"
    assert np.array_equal(plain, drawn(ensemble, ["a cat"], reading="cut")[0])
    beside = drawn(ensemble, ["a cat", LONG])[0]
    assert np.abs(beside - plain).max() <= 1, "whatever a prompt is drawn beside"


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_weights_move_the_picture_between_the_plain_words_and_none(tiny_ensemble, kind):
    ensemble = tiny_ensemble(kind)
    plain, same, strong = (drawn(ensemble, [prompt])[0] for prompt in ("a red cat", "a (red:1) cat", "a (red:1.8) cat"))
    assert np.array_equal(plain, same) and np.abs(plain - strong).max() > 0
    assert np.array_equal(drawn(ensemble, ["a (red:1.8) cat"], reading="text")[0], drawn(ensemble, ["a (red:1.8) cat"], reading="cut")[0])


def test_members_with_encoders_of_their_own_hear_the_weights_too(sd_cards):
    ensemble = load_ensemble([sd_cards["base"], sd_cards["lora_text"]], device="cpu", lora="merge")
    alone = load_ensemble([sd_cards["lora_text"], sd_cards["base"]], device="cpu", lora="merge")
    second = drawn(ensemble, ["a (red:1.6) cat"], np.array([0.0, 1.0]))[0]
    assert np.abs(second - drawn(alone, ["a (red:1.6) cat"])[0]).max() <= 1
    assert np.abs(second - drawn(ensemble, ["a red cat"], np.array([0.0, 1.0]))[0]).max() > 0


def test_recipes_say_how_a_prompt_was_read_only_where_it_matters(tiny_ensemble):
    ensemble = tiny_ensemble("sd")
    for prompt, reading in (("a cat", None), (LONG, "prompt"), ("a (red:1.3) cat", "prompt")):
        plan = SamplingPlan([prompt], [3], 2, 3.0, weights=ALONE)
        sample = next(METHODS["single"].run(ensemble, None, plan))
        recipe = Recipe.from_json(Recipe.of_sample(ensemble, sample, plan).to_json())
        assert recipe.reading == reading
        assert np.array_equal(np.asarray(next(recipe.run(ensemble)).image), np.asarray(sample.image))
