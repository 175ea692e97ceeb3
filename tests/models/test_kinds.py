"""Tiny pipelines of every family, from folders, single files and LoRAs: load, fit, sample, recipe and reload; and very mixed ensembles."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusion.methods import METHODS, SamplingPlan
from fusion.objective import fit_gram, residual_gram, strata_of
from fusion.recipe import Recipe, RecipeError, described
from fusion.sampler import fused
from fusion.weights import SimplexWeights
from models.catalog import ModelCard
from models.conditioning import record
from models.loading import Ensemble, load_ensemble
from tests import tiny
from tests.conftest import SIZE, tiny_card
from tests.models.originals import LAYOUT, original, write
from tests.models.test_lora import kohya

IMAGES = [Image.effect_noise((16, 16), spread).convert("RGB") for spread in (20, 60, 90)]


def arrays(samples) -> list[np.ndarray]:
    return [np.asarray(sample.image) for sample in samples]


@pytest.fixture(scope="module")
def in_three_forms(tiny_cards, tiny_ensemble, tmp_path_factory):
    """`in_three_forms(kind)`: cards of a folder, a single file and (where there are LoRAs) an adapter, as different as they come."""
    root = tmp_path_factory.mktemp("forms")

    def cards(kind: str) -> list[ModelCard]:
        first, second = tiny_cards(kind)
        found = [first]
        slot = tiny_ensemble(kind).family.slot
        if kind in LAYOUT:
            says = {"modelspec.prediction_type": "v" if kind == "sd2" else "epsilon"}
            file = write(root / f"{kind}.safetensors", original(tiny_ensemble(kind).members[1].new_pipeline(slot), LAYOUT[kind]), **says)
            found.append(tiny_card(first.family, file, components=first.source, prompt_template="ohwx {prompt}"))
        else:
            found.append(second)
        if first.family != "ddpm":
            network = tiny_ensemble(kind).members[0].network
            path = next(path for path, layer in network.named_modules() if path.endswith("to_q"))
            file = kohya(root / kind, {f"{slot}.{path}": tuple(network.get_submodule(path).weight.shape)}, rank=2)
            found.append(tiny_card(first.family, Path(first.source), id="lora", title="lora", adapter=str(file)))
        return found

    return cards


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_load_fit_sample_recipe_and_reload(in_three_forms, tmp_path, kind):
    cards = in_three_forms(kind)
    ensemble = load_ensemble(cards, device="cpu", lora="switch", size=SIZE.get(kind))
    gram = fit_gram(ensemble, IMAGES[:2], ["a cat", "a dog"], levels=2)
    fit = SimplexWeights(bootstrap=2).fit(gram)
    assert gram.plain.shape == (2, 2, len(cards), len(cards)) and fit.weights_.sum() == pytest.approx(1)
    weights = np.array([0.5, 0.3, 0.2][: len(cards)])
    guidance = 1.0 if kind == "ddpm" else 2.0
    plan = SamplingPlan(["a cat"], [3, 4], steps=2, guidance=guidance, weights=weights / weights.sum())
    drawn = list(METHODS["scorefusion"].run(ensemble, None, plan))
    assert len(drawn) == 2 and len({image.tobytes() for image in arrays(drawn)}) == 2
    recipe = Recipe.load(Recipe.of(ensemble, "scorefusion", plan).save(tmp_path / "r.json"))
    found = recipe.cards({}, {model["id"]: card for model, card in zip(recipe.models, cards)})
    assert found == cards
    again = recipe.run(load_ensemble(found, device="cpu", lora="switch", size=SIZE.get(kind)))
    assert all(np.array_equal(a, b) for a, b in zip(arrays(drawn), arrays(again), strict=True))


def test_a_recipe_keeps_what_was_said_of_a_model(tiny_cards):
    card = replace(tiny_cards("sd")[0], prediction="v_prediction", components="owner/name@" + "a" * 40)
    kept = described(card)
    assert kept["prediction"] == "v_prediction" and kept["components"] == card.components
    assert described(replace(card, components="/home-of-someone/models/base"))["components"] == "base"
    recipe = Recipe((kept,), (1.0,), "single", ("a cat",), (1,))
    assert recipe.cards({}, {kept["id"]: card}) == [card]
    with pytest.raises(RecipeError, match="made with prediction=v_prediction .* and here it has none"):
        recipe.cards({}, {kept["id"]: tiny_cards("sd")[0]})


# ------------------------------------------------------------------------------------------------ one ensemble of everything


@pytest.fixture(scope="module")
def mixed(tiny_cards, tmp_path_factory) -> Ensemble:
    """SD members that share a latent space and hardly anything else.

    plain: a folder, epsilon. v: a single file with v prediction, another schedule and trigger words. own: a folder with text encoders of
    its own. lora: kohya's, on network and text encoder, with trigger words.
    """
    root = tmp_path_factory.mktemp("mixed")
    first = Path(tiny_cards("sd")[0].source)
    v = load_ensemble([tiny_card("sd", tiny.sd(root / "v", 5, sibling=first, prediction="v_prediction", beta_schedule="linear",
                                               beta_start=1e-4, beta_end=0.02))], device="cpu")  # fmt: skip
    tensors = {**original(v.pipeline, "sd1"), "alphas_cumprod": v.pipeline.scheduler.alphas_cumprod}
    file = write(root / "v.safetensors", tensors, **{"modelspec.prediction_type": "v"})
    own = tiny.sd(root / "own", 11)
    shutil.rmtree(own / "vae")
    shutil.copytree(first / "vae", own / "vae")
    attention = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    lora = kohya(root / "lora", {f"lora_unet_{attention}": (16, 16), "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (16, 16)})
    return load_ensemble([
        tiny_card("sd", first, id="plain", title="plain"),
        tiny_card("sd", file, id="v", title="v", components=str(first), prompt_template="ohwx {prompt}"),
        tiny_card("sd", own, id="own", title="own"),
        tiny_card("sd", first, id="lora", title="lora", adapter=str(lora), prompt_template="{prompt} in oil"),
    ], device="cpu", lora="switch")  # fmt: skip


def test_they_share_what_is_equal_and_only_that(mixed):
    plain, v, own, lora = mixed.members
    assert [member.noise.prediction_type for member in mixed.members] == ["epsilon", "v_prediction", "epsilon", "epsilon"]
    assert v.components["text_encoder"] is plain.components["text_encoder"] and v.components["vae"] is plain.components["vae"]
    assert own.components["vae"] is plain.components["vae"] and lora.network is plain.network
    encoders = {id(member.components["text_encoder"]) for member in mixed.members}
    assert len(encoders) == 3 and len(mixed._voices[0]) == 4  # v hears the same encoder through other words
    assert v.noise.range[1] > plain.noise.range[1] and "noise schedule of its own" in mixed.warnings[0] and len(mixed.warnings) == 1


@pytest.mark.parametrize("member", range(4))
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_each_alone_is_itself(mixed, member, guidance):
    """One-hot weights of the ensemble led by that member: its own pipeline, its own words, bit for bit."""
    order = [member, *(k for k in range(4) if k != member)]
    led = mixed.subset(order)
    words = led.members[0].card.prompt_template.replace("{prompt}", "cat")
    draw = lambda pipe, prompt: pipe(prompt, num_inference_steps=2, guidance_scale=guidance, output_type="np",
                                     generator=torch.Generator().manual_seed(2)).images  # fmt: skip
    with fused(led, [1, 0, 0, 0]) as pipe:
        ours = draw(pipe, "cat")
    assert np.array_equal(ours, draw(mixed.subset([member]).pipeline, words))


def test_predicted_loss_is_the_measured_error_of_the_mixed_fusion(mixed):
    """`w' R w` against what the module in the slot predicts while the stock pipeline's own encoding runs, at equal latents and levels."""
    weights, prompts = np.array([0.1, 0.4, 0.2, 0.3]), ["a cat", "a dog"]
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(2, *mixed.shape, generator=generator)
    predict, seen = mixed.predictor(prompts), []

    def watched(x_t, level, index):
        seen.append((x_t, level, index))
        return predict(x_t, level, index)

    gram = residual_gram(watched, x0, mixed.noise, strata_of(mixed.noise, 3), generator=generator, smooth_target=False)
    predicted = weights @ gram.plain.mean((0, 1)) @ weights
    recorded = [record(voice.pipeline, mixed.family, voice.say(prompts), mixed.size) for voice in mixed._voices[0]]
    errors = []
    with fused(mixed, weights) as pipe:
        relay = pipe.unet.relay
        for x_t, level, index in seen:
            for b in range(len(x_t)):
                row = index[b : b + 1]
                words = [one.arguments["encoder_hidden_states"][row] for one in recorded]
                relay.encoded = [tuple((each, None) for each in words)]
                t = mixed.noise.timestep(level[b : b + 1])
                raw = pipe.unet(x_t[b : b + 1], t, encoder_hidden_states=words[0], return_dict=False)[0][0].double()
                a, s = (float(c[b]) for c in mixed.noise.coefficients(level.double()))
                errors.append((raw - (x_t[b].double() - a * x0[int(row)].double()) / s).square().mean().item())
    assert predicted == pytest.approx(np.mean(errors), abs=2e-5, rel=2e-5)


def test_mixed_members_draw_together(mixed):
    plan = SamplingPlan(["cat"], [0, 1], steps=2, guidance=3.0, weights=np.array([0.25, 0.25, 0.25, 0.25]))
    drawn = arrays(METHODS["scorefusion"].run(mixed, None, plan))
    assert len(drawn) == 2 and np.isfinite(drawn[0]).all()
    alone = [arrays(METHODS["single"].run(mixed, None, plan.with_(weights=np.eye(4)[k])))[0] for k in range(4)]
    assert all(not np.array_equal(drawn[0], one) for one in alone)
