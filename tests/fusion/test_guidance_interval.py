"""Guidance in an interval of the steps: outside it is guidance 1 bit for bit, at half the evaluations; recipes and commands keep it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion.cli import parser
from fusion.commands import options
from fusion.guidance import guided_steps, inside, place
from fusion.methods import METHODS, MethodError, SamplingPlan
from fusion.recipe import Recipe, RecipeError
from models.loading import load_ensemble

GUIDED = ["sd", "sdxl", "sd3", "pixart", "flux"]


@pytest.fixture
def rows(monkeypatch):
    """Rows of latents that members' networks were given, call by call."""
    from models.ensemble import Member

    given, call = [], Member.__call__

    def counted(self, *args, **kwargs):
        given.append(len(next(value for name, value in kwargs.items() if name in ("sample", "hidden_states"))))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Member, "__call__", counted)
    return given


def drawn(ensemble, method="uniform", **settings):
    plan = SamplingPlan(["a cat", "a dog"], [3, 4], **({"steps": 4, "guidance": 5.0} | settings))
    return [np.asarray(sample.image) for sample in METHODS[method].run(ensemble, None, plan)]


def same(one, other):
    return len(one) == len(other) > 0 and all(np.array_equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize("kind", GUIDED)
def test_outside_the_interval_it_is_guidance_one_at_half_the_price(tiny_ensemble, rows, kind):
    ensemble = tiny_ensemble(kind)
    settings = {"height": 32, "width": 32} if kind != "flux" else {}
    guided = drawn(ensemble, **settings)
    rows.clear()
    nowhere = drawn(ensemble, guidance_interval=(0.5, 0.5), **settings)
    evaluated = sum(rows)
    rows.clear()
    assert same(nowhere, drawn(ensemble, guidance=1.0, **settings)) and evaluated == sum(rows) == 2 * 4 * 2
    assert same(guided, drawn(ensemble, guidance_interval=(0.0, 1.0), **settings))
    if kind != "flux" or ensemble.pipeline.transformer.config.guidance_embeds:
        assert not same(guided, nowhere)


def test_inside_it_is_guided_and_outside_not_step_by_step(tiny_ensemble):
    """Against a denoising loop of our own with the guidance of each step written out."""
    ensemble = tiny_ensemble("sd").subset([0])
    pipe = ensemble.members[0].new_pipeline("unet")
    positive, negative = pipe.encode_prompt(["a cat"], torch.device("cpu"), 1, True)
    pipe.scheduler.set_timesteps(4)
    start = pipe.prepare_latents(1, 4, *ensemble.size, torch.float32, torch.device("cpu"), [torch.Generator().manual_seed(3)])
    x = start
    with torch.no_grad():
        for i, t in enumerate(pipe.scheduler.timesteps):
            c, u = (pipe.unet(x, t, encoder_hidden_states=text).sample for text in (positive, negative))
            x = pipe.scheduler.step(u + 5.0 * (c - u) if i in (1, 2) else c, t, x).prev_sample
    from fusion.sampler import fused

    with fused(ensemble, [1.0], interval=(0.25, 0.75)) as pipeline:
        ours = pipeline(["a cat"], num_inference_steps=4, guidance_scale=5.0, latents=start, output_type="latent").images
    assert torch.allclose(ours, x, atol=1e-5) and not torch.allclose(start, x, atol=0.1)


@pytest.mark.parametrize("method", ["superposition_and", "barycenter"])
def test_chains_keep_to_it(tiny_ensemble, rows, method):
    ensemble = tiny_ensemble("sd")
    weights = {"weights": np.array([0.5, 0.5])}
    nowhere = drawn(ensemble, method, guidance_interval=(0.0, 0.0), **weights)
    assert sum(rows) == 2 * 4 * 2
    assert same(nowhere, drawn(ensemble, method, guidance=1.0, **weights))
    assert not same(nowhere, drawn(ensemble, method, **weights))


def test_members_with_their_own_words_are_unguided_by_their_own(sd_cards, rows):
    spoken = replace(sd_cards["second"], prompt_template="a photo of {prompt}")
    ensemble = load_ensemble([sd_cards["base"], spoken, sd_cards["lora_text"], sd_cards["v"]], device="cpu")
    assert same(drawn(ensemble, guidance_interval=(1.0, 1.0)), drawn(ensemble, guidance=1.0))


def test_the_price_states_what_is_evaluated_and_what_is_saved(tiny_ensemble, rows):
    ensemble = tiny_ensemble("sd")
    plan = SamplingPlan(["a cat"], [0], steps=10, guidance=5.0, guidance_interval=(0.2, 0.8))
    cost = METHODS["uniform"].cost(ensemble, None, plan)
    list(METHODS["uniform"].run(ensemble, None, plan))
    assert cost.evaluations == sum(rows) == 2 * (10 + 6) and cost.saved == 2 * 4
    assert METHODS["merge"].cost(ensemble, None, plan.with_(weights=np.array([0.5, 0.5]))).saved == 4
    for other in (plan.with_(guidance_interval=None), plan.with_(guidance=1.0)):
        assert METHODS["uniform"].cost(ensemble, None, other).saved == 0
    assert METHODS["uniform"].cost(tiny_ensemble("flux"), None, plan).saved == 0  # its guidance is a number: nothing is evaluated twice


def test_steps_are_placed_and_counted():
    assert [inside((0.2, 0.6), i, 10) for i in range(10)] == [False] * 2 + [True] * 4 + [False] * 4
    assert guided_steps(None, 7) == 7 and guided_steps((0.7, 1.0), 20) == 6 and guided_steps((0.0, 0.0), 5) == 0
    heun = torch.tensor([900.0, 600.0, 600.0, 300.0, 300.0])
    assert [place(t, heun) for t in heun] == [(0, 3), (1, 3), (1, 3), (2, 3), (2, 3)]
    assert place(torch.tensor([602.0, 602.0]), heun) == (1, 3)


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.5), (0.5,), "ab", (float("nan"), 1)])
def test_intervals_that_mean_nothing_are_refused(interval):
    plan = SamplingPlan(["a"], [0], guidance_interval=interval)
    with pytest.raises(MethodError, match="guidance interval"):
        plan.jobs  # noqa: B018  (a property that checks)


def test_recipes_keep_it(tiny_ensemble, tmp_path):
    ensemble = tiny_ensemble("sd")
    plan = SamplingPlan(["a cat"], [0, 1], steps=4, guidance=5.0, weights=np.array([0.5, 0.5]), guidance_interval=(0.25, 0.75))
    recipe = Recipe.of(ensemble, "scorefusion", plan)
    again = Recipe.load(recipe.save(tmp_path / "recipe.json"))
    assert again == recipe and again.plan().guidance_interval == (0.25, 0.75)
    first = [np.asarray(sample.image) for sample in METHODS["scorefusion"].run(ensemble, None, plan)]
    assert same(first, [np.asarray(sample.image) for sample in again.run(ensemble)])
    without = json.loads(Recipe.of(ensemble, "scorefusion", plan.with_(guidance_interval=None)).to_json())
    assert "guidance_interval" not in without  # earlier versions read it
    for bad, word in (([0.8, 0.2], "before its start"), ([0.1], "broken"), ([0.5, 2], "broken"), ("all", "broken")):
        with pytest.raises(RecipeError, match=word):
            Recipe.from_json(json.dumps(without | {"guidance_interval": bad}))


def test_commands_offer_it():
    args = parser().parse_args(["sample", "r.json", "--guidance-interval", "0.2", "0.8"])
    assert options.interval(args.guidance_interval, 5.0) == (0.2, 0.8) and options.interval(None, 1.0) is None
    for typed, guidance, word in (([0.2, 0.8], 1.0, "--guidance above 1"), ([0.8, 0.2], 5.0, "rises")):
        with pytest.raises(ValueError, match=word):
            options.interval(typed, guidance)
