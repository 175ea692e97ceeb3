"""The fused denoiser: identities against single pipelines, conversions, prompts of their own, and bad weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

from fusion.objective import residual_gram, strata_of
from fusion.sampler import LevelTable, fused
from fusion.weights import Weights
from models.errors import ModelError
from models.loading import load_ensemble
from tests.tiny import KINDS, family_of


def draw(pipeline, family: str, prompt: str = "a cat", guidance: float = 4.0, steps: int = 3, **more) -> np.ndarray:
    """Three steps of a stock pipeline at one seed."""
    pipeline.set_progress_bar_config(disable=True)
    kind = {} if family == "ddpm" else {"prompt": prompt, "guidance_scale": guidance}
    size = {"height": 16, "width": 16} if family_of(family) == "flux" else {}
    size |= {"use_resolution_binning": False} if family == "pixart" else {}
    return pipeline(**kind, **size, num_inference_steps=steps, output_type="np", generator=torch.Generator().manual_seed(3), **more).images


def stock(card, family: str):
    """The member as diffusers alone loads it."""
    cls = getattr(diffusers, FAMILIES_PIPELINE[family_of(family)])
    return cls.from_pretrained(card.source, **({"requires_safety_checker": False} if family_of(family) == "sd" else {}))


FAMILIES_PIPELINE = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline",
                     "flux": "FluxPipeline", "pixart": "PixArtSigmaPipeline", "ddpm": "DDPMPipeline"}  # fmt: skip


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("member", [0, 1])
def test_one_hot_weights_are_the_single_model_bit_for_bit(tiny_cards, tiny_ensemble, family, member):
    alone = draw(stock(tiny_cards(family)[member], family), family)
    with fused(tiny_ensemble(family), np.eye(2)[member]) as pipeline:
        assert np.array_equal(draw(pipeline, family), alone)
    other = draw(stock(tiny_cards(family)[1 - member], family), family)
    assert not np.array_equal(alone, other)  # or the comparison says nothing


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "pixart"])
def test_one_hot_with_guidance_off_and_a_batch(tiny_cards, tiny_ensemble, family):
    more = dict(prompt=["a cat", "the dog"], guidance=1.0, num_images_per_prompt=2)
    alone = draw(stock(tiny_cards(family)[1], family), family, **more)
    with fused(tiny_ensemble(family), [0, 1]) as pipeline:
        assert np.array_equal(draw(pipeline, family, **more), alone)


def test_one_hot_with_true_guidance_of_flux(tiny_cards, tiny_ensemble):
    more = dict(negative_prompt="blurry", true_cfg_scale=3.0)
    alone = draw(stock(tiny_cards("flux")[1], "flux"), "flux", **more)
    with fused(tiny_ensemble("flux"), [0, 1]) as pipeline:
        assert np.array_equal(draw(pipeline, "flux", **more), alone)


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler", "HeunDiscreteScheduler"])
def test_one_hot_under_other_schedulers(tiny_cards, tiny_ensemble, scheduler):
    single, ensemble = stock(tiny_cards("sd")[1], "sd"), tiny_ensemble("sd").subset([0, 1])
    change = lambda pipe: setattr(pipe, "scheduler", getattr(diffusers, scheduler).from_config(pipe.scheduler.config))
    change(single), change(ensemble.pipeline)
    with fused(ensemble, [0, 1]) as pipeline:
        assert np.array_equal(draw(pipeline, "sd", steps=5), draw(single, "sd", steps=5))


@pytest.mark.parametrize("family", KINDS)
def test_equal_members_fuse_to_one(tiny_cards, family):
    first = tiny_cards(family)[0]
    ensemble = load_ensemble([first, first, first], device="cpu", size=(16, 16) if family_of(family) == "flux" else None)
    assert ensemble.names == (first.title, f"{first.title} (2)", f"{first.title} (3)")
    assert ensemble.members[0].network is ensemble.members[2].network
    alone = draw(stock(first, family), family)
    for weights in ([0.25, 0.25, 0.5], [0.2, 0.3, 0.5]):
        with fused(ensemble, weights) as pipeline:
            np.testing.assert_allclose(draw(pipeline, family), alone, atol=2e-5)


@pytest.mark.parametrize("family", KINDS)
def test_predicted_loss_is_the_measured_error_of_the_fused_denoiser(tiny_ensemble, family):
    """`w' R w` of the statistic against what the module in the slot really predicts, at the same latents, to five decimals."""
    ensemble, weights = tiny_ensemble(family), np.array([0.3, 0.7])
    generator = torch.Generator().manual_seed(0)
    x0, prompts = torch.randn(4, *ensemble.shape, generator=generator), ["a cat", "a dog", "a cat", "birds"]
    predict, seen = ensemble.predictor(prompts), []

    def watched(x_t, level, index):
        seen.append((x_t, level, index))
        return predict(x_t, level, index)

    gram = residual_gram(watched, x0, ensemble.noise, strata_of(ensemble.noise, 3), generator=generator, smooth_target=False)
    predicted = weights @ gram.plain.mean((0, 1)) @ weights

    from models.conditioning import record

    conditioning = record(ensemble.pipeline, ensemble.family, prompts, ensemble.size)
    errors = []
    with fused(ensemble, weights) as pipeline:
        denoiser = getattr(pipeline, ensemble.family.slot)
        for x_t, level, index in seen:
            for b in range(len(x_t)):  # one at a time: the slot is given one timestep a call
                t = ensemble.noise.timestep(level[b : b + 1])
                raw = conditioning.predict(lambda **given: denoiser(**given, return_dict=False)[0], x_t[b : b + 1], t, index[b : b + 1])
                a, s = (float(c[b]) for c in ensemble.noise.coefficients(level.double()))
                x, raw = x_t[b].double(), raw[0].double()
                as_noise = {"epsilon": raw, "flow": x + a * raw, "v_prediction": s * x + a * raw}  # design/maths.md, "The path"
                fused_noise = as_noise[ensemble.noise.prediction_type]
                errors.append((fused_noise - (x - a * x0[index[b]].double()) / s).square().mean().item())
    assert predicted == pytest.approx(np.mean(errors), abs=5e-6, rel=5e-6)


# ------------------------------------------------------------------------------------------------ other parametrisations

def test_member_with_v_prediction_and_another_schedule(sd_cards):
    """Against the formulas of maths.md written out: called at equal logSNR, to noise, averaged, in member 0's parametrisation."""
    ensemble = load_ensemble([sd_cards["base"], sd_cards["v"]], device="cpu")
    here, there = (member.noise for member in ensemble.members)
    assert (here.prediction_type, there.prediction_type) == ("epsilon", "v_prediction")
    own = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod.double()
    theirs = diffusers.DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02).alphas_cumprod.double()
    x, words = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 16)
    with fused(ensemble, [0.4, 0.6]) as pipeline:
        for t in (20, 500, 900):
            got = pipeline.unet(x, torch.tensor(t), encoder_hidden_states=words, return_dict=False)[0]
            a, s = own[t].sqrt(), (1 - own[t]).sqrt()
            t_v = np.interp(np.log(1 - own[t]) - np.log(own[t]), np.log(1 - theirs) - np.log(theirs), np.arange(1000))
            with torch.no_grad():
                eps = ensemble.members[0].network(x, t, words).sample
                v = ensemble.members[1].network(x, torch.tensor([t_v, t_v], dtype=torch.float32), words).sample
            torch.testing.assert_close(got, 0.4 * eps + 0.6 * (s * x + a * v).float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("order", [["base", "v"], ["v", "base"]])
def test_one_hot_member_of_other_parametrisation_draws_its_own_image(sd_cards, order, tmp_path):
    """To rounding: with the same schedule, epsilon and v members give the same DDIM samples through either parametrisation."""
    from tests import tiny
    from tests.conftest import tiny_card

    same = tiny_card("sd", tiny.sd(tmp_path / "v", 7, sibling=sd_cards["base"].source, prediction="v_prediction"))
    cards = [same if name == "v" else sd_cards[name] for name in order]
    alone = draw(stock(cards[1], "sd"), "sd", guidance=1.0, steps=5)
    with fused(load_ensemble(cards, device="cpu"), [0, 1]) as pipeline:
        np.testing.assert_allclose(draw(pipeline, "sd", guidance=1.0, steps=5), alone, atol=1e-4)


def test_learned_variance_stays_behind_a_member_of_another_schedule(tiny_cards, tmp_path):
    """PixArt answers with noise and a variance. Called at equal logSNR, its noise is fused, and the pipeline still finds both halves."""
    import shutil

    from tests.conftest import tiny_card

    base = tiny_cards("pixart")[0]
    folder = shutil.copytree(tiny_cards("pixart")[1].source, tmp_path / "scaled")
    other = diffusers.DPMSolverMultistepScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    other.save_pretrained(folder / "scheduler")
    ensemble = load_ensemble([base, tiny_card("pixart", folder)], device="cpu")
    x, level = torch.randn(2, 4, 8, 8), torch.tensor([-1.0, 2.0])
    noise = ensemble.predictor(["a cat"])(x, level, torch.tensor([0, 0]))
    assert noise.shape == (2, 2, 4, 8, 8)
    own = load_ensemble([tiny_card("pixart", folder)], device="cpu").predictor(["a cat"])(x, level, torch.tensor([0, 0]))[0]
    torch.testing.assert_close(noise[1], own, atol=1e-5, rtol=1e-4)
    from models.conditioning import record

    given = record(ensemble.pipeline, ensemble.family, ["a cat"], ensemble.size).arguments
    with fused(ensemble, [0.4, 0.6]) as pipeline, torch.no_grad():
        t = ensemble.noise.timestep(level[:1])
        both = pipeline.transformer(hidden_states=x[:1], timestep=t, **given, return_dict=False)[0]
    assert both.shape == (1, 8, 8, 8)
    torch.testing.assert_close(both[:, :4], 0.4 * noise[0, :1] + 0.6 * noise[1, :1], atol=1e-4, rtol=1e-4)


def test_zero_terminal_snr_beside_an_ordinary_schedule(sd_cards, tmp_path):
    """The epsilon member has no answer at a = 0; it is asked at its noisiest level and its sample is kept. Nothing is lost to infinity."""
    from tests import tiny
    from tests.conftest import tiny_card

    zero = tiny_card("sd", tiny.sd(tmp_path / "zero", 5, sibling=sd_cards["base"].source, prediction="v_prediction",
                                   rescale_betas_zero_snr=True, timestep_spacing="trailing"))  # fmt: skip
    alone = draw(stock(zero, "sd"), "sd")
    ensemble = load_ensemble([zero, sd_cards["base"]], device="cpu")
    assert ensemble.pipeline.scheduler.alphas_cumprod[-1] == 0
    with fused(ensemble, [1, 0]) as pipeline:
        assert np.array_equal(draw(pipeline, "sd"), alone)
    x, words = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 16)
    with fused(ensemble, [0.5, 0.5]) as pipeline:
        got = pipeline.unet(x, torch.tensor(999), encoder_hidden_states=words, return_dict=False)[0]
        alpha = diffusers.DDIMScheduler.from_pretrained(sd_cards["base"].source, subfolder="scheduler").alphas_cumprod[-1]
        with torch.no_grad():
            v = ensemble.members[0].network(x, 999, words).sample
            eps = ensemble.members[1].network(x, 999, words).sample
        sample = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        torch.testing.assert_close(got, 0.5 * v + 0.5 * -sample, atol=5e-3, rtol=1e-3)  # v = a eps - s x0 with a = 0, s = 1
        assert np.isfinite(draw(pipeline, "sd")).all()


# ------------------------------------------------------------------------------------------------ prompts of their own

@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "pixart"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_every_member_hears_the_prompt_through_its_own_template(tiny_cards, family, guidance):
    templates = ["old {prompt}", "{prompt} in oil"]
    cards = [replace(card, prompt_template=template) for card, template in zip(tiny_cards(family), templates)]
    ensemble = load_ensemble(cards, device="cpu", size=(16, 16) if family_of(family) == "flux" else None)
    more = {"negative_prompt": "mud"} if guidance > 1 else {}
    if family == "flux" and guidance > 1:
        more["true_cfg_scale"] = 2.0
    for k, template in enumerate(templates):
        alone = draw(stock(cards[k], family), family, template.replace("{prompt}", "cat"), guidance, **more)
        plain = draw(stock(cards[k], family), family, "cat", guidance, **more)
        assert not np.array_equal(alone, plain)
        with fused(ensemble, np.eye(2)[k]) as pipeline:
            assert np.array_equal(draw(pipeline, family, "cat", guidance, **more), alone)
            lists = {name: [value] if name == "negative_prompt" else value for name, value in more.items()}
            assert np.array_equal(draw(pipeline, family, ["cat"], guidance, **lists), alone)  # a second run starts afresh
    assert "encode_prompt" not in vars(ensemble.pipeline) and "check_inputs" not in vars(ensemble.pipeline)


def test_member_with_its_own_text_encoder(sd_cards, tmp_path):
    from tests import tiny
    from tests.conftest import tiny_card

    other = tiny_card("sd", _with_vae_of(tiny.sd(tmp_path / "own", 11), sd_cards["base"].source))
    ensemble = load_ensemble([sd_cards["base"], other], device="cpu")
    assert ensemble.members[0].components["vae"] is ensemble.members[1].components["vae"]
    assert ensemble.members[0].components["text_encoder"] is not ensemble.members[1].components["text_encoder"]
    with fused(ensemble, [0, 1]) as pipeline:
        assert np.array_equal(draw(pipeline, "sd"), draw(stock(other, "sd"), "sd"))


def _with_vae_of(folder, source):
    import shutil

    shutil.rmtree(folder / "vae")
    shutil.copytree(f"{source}/vae", folder / "vae")
    return folder


def test_templates_need_the_prompt_as_text(tiny_cards):
    cards = [replace(tiny_cards("sd")[0], prompt_template="old {prompt}"), tiny_cards("sd")[1]]
    ensemble = load_ensemble(cards, device="cpu")
    with fused(ensemble, [0.5, 0.5]) as pipeline, pytest.raises(ModelError, match="prompt as text"):
        pipeline(prompt_embeds=torch.zeros(1, 16, 16), guidance_scale=1.0, num_inference_steps=1)
    with fused(ensemble, [0.5, 0.5]) as pipeline, pytest.raises(ModelError, match="changed its prompt embeddings"):
        change = lambda pipe, i, t, tensors: {**tensors, "prompt_embeds": tensors["prompt_embeds"] + 1}
        draw(pipeline, "sd", callback_on_step_end=change, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])


# ------------------------------------------------------------------------------------------------ weights

def count_calls(ensemble):
    """How often each member's network runs."""
    calls = [0] * len(ensemble)
    count = lambda k: lambda *_: calls.__setitem__(k, calls[k] + 1)
    hooks = [member.network.register_forward_pre_hook(count(k)) for k, member in enumerate(ensemble.members)]
    return calls, hooks


def test_weights_of_zero_cost_no_call(tiny_ensemble):
    ensemble = tiny_ensemble("portraits")
    calls, hooks = count_calls(ensemble)
    with fused(ensemble, [0.5, 0, 0.5]) as pipeline:
        draw(pipeline, "sd", steps=4)
    for hook in hooks:
        hook.remove()
    assert calls == [4, 0, 4]


def test_weights_by_level_follow_the_timestep(tiny_ensemble):
    """High noise from member 0 alone, low noise from member 1 alone: equal to swapping the network by hand at that level."""
    ensemble = tiny_ensemble("sd")
    level = float(ensemble.noise.level(torch.tensor(500)))
    strata = np.array([ensemble.noise.range[0], level, ensemble.noise.range[1]])
    x, words = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 16)
    with fused(ensemble, [[0, 1], [1, 0]], strata=strata) as pipeline, torch.no_grad():
        for t, member in ((0, 1), (499, 1), (501, 0), (999, 0)):
            got = pipeline.unet(x, torch.tensor(t), encoder_hidden_states=words).sample
            assert torch.equal(got, ensemble.members[member].network(x, t, words).sample)
    record = Weights(np.array([[0, 1.0], [1, 0]]), None, ensemble.names, "by hand", strata)
    with fused(ensemble, record) as pipeline, torch.no_grad():
        got = pipeline.unet(x, torch.tensor(10), encoder_hidden_states=words).sample
        assert torch.equal(got, ensemble.members[1].network(x, 10, words).sample)


def test_rows_at_different_levels_get_their_own_weights():
    table = LevelTable([[1, 0], [0.5, 0.5], [0, 1]], 2, strata=[-3, -1, 1, 3])
    expected = [[1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5], [0, 1], [0, 1]]
    assert table.at(torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 9.0])).tolist() == expected


@pytest.mark.parametrize(("weights", "strata", "message"), [
    ([0.5, 0.5, 0.0], None, "2 members"), ([np.nan, 1.0], None, "not a number"), ([-0.1, 1.1], None, "negative"),
    ([0.5, 0.6], None, "sum to 1"), ([], None, "2 members"), (0.5, None, "2 members"),
    ([[0.5, 0.5], [1, 0]], None, "strata"), ([[0.5, 0.5], [1, 0]], [0, 1], "3 rising edges"),
    ([[0.5, 0.5], [1, 0]], [0, 2, 1], "rising"), ([np.inf, 0], None, "not a number"),
])  # fmt: skip
def test_bad_weights_are_refused_in_words(tiny_ensemble, weights, strata, message):
    ensemble = tiny_ensemble("sd")
    before = ensemble.pipeline.unet
    with pytest.raises(ValueError, match=message), fused(ensemble, weights, strata=strata):
        pass
    assert ensemble.pipeline.unet is before


@pytest.mark.parametrize("family", KINDS)
def test_the_slot_is_restored_also_after_an_exception(tiny_ensemble, family):
    ensemble = tiny_ensemble(family)
    slot = ensemble.family.slot
    before, config = getattr(ensemble.pipeline, slot), copy.deepcopy(dict(ensemble.pipeline.config))
    with pytest.raises(RuntimeError, match="in the middle"), fused(ensemble, [0.5, 0.5]) as pipeline:
        assert getattr(pipeline, slot) is not before
        raise RuntimeError("in the middle")
    assert getattr(ensemble.pipeline, slot) is before
    assert dict(ensemble.pipeline.config) == config


def test_the_denoiser_shows_pipelines_what_they_read_and_nothing_else(tiny_ensemble):
    with fused(tiny_ensemble("sdxl"), [0.5, 0.5]) as pipeline:
        unet = pipeline.unet
        assert unet.config is tiny_ensemble("sdxl").members[0].network.config
        assert unet.dtype == torch.float32 and unet.device == torch.device("cpu")
        assert unet.add_embedding is tiny_ensemble("sdxl").members[0].network.add_embedding
        for hidden in ("enable_cache", "set_adapters", "fuse_lora", "enable_gradient_checkpointing"):
            assert not hasattr(unet, hidden)
        assert sum(1 for _ in unet.parameters()) == 0  # `pipe.to(...)` moves no member behind the loader's back
    with fused(tiny_ensemble("sd"), [0.5, 0.5]) as pipeline:
        assert not hasattr(pipeline.unet, "cache_context") or callable(pipeline.unet.cache_context)
