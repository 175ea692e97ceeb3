"""Noise paths against diffusers' own formulas and written-out algebra; round trips by property."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ModelError
from models.noise import PREDICTIONS, TERMINAL, NoisePath, predict_pair

SCHEDULERS = {
    "ddpm": diffusers.DDPMScheduler(),
    "sd": diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "cosine": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample"),
    "zero": diffusers.DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    "euler": diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(),
    "sd3": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}
PATHS = {name: NoisePath.from_scheduler(scheduler) for name, scheduler in SCHEDULERS.items()}
PATHS["ve"] = NoisePath.variance_exploding(torch.logspace(-2, math.log10(25), 50), torch.arange(50))
levels = st.floats(-6, 5)


def path(kind: str, prediction: str) -> NoisePath:
    base = {"vp": PATHS["sd"], "flow": PATHS["flow"], "ve": PATHS["ve"]}[kind]
    return replace(base, prediction_type=prediction)


# ------------------------------------------------------------------------------------------------ coefficients and clock

@pytest.mark.parametrize("name", ["ddpm", "sd", "cosine", "euler"])
def test_coefficients_are_those_that_diffusers_adds_noise_with(name):
    scheduler, t = diffusers.DDPMScheduler.from_config(SCHEDULERS[name].config), torch.tensor([0, 3, 400, 998])
    one, zero = torch.ones(4, 1), torch.zeros(4, 1)
    a, s = PATHS[name].coefficients(PATHS[name].level(t))
    torch.testing.assert_close(a, scheduler.add_noise(one, zero, t)[:, 0], atol=2e-6, rtol=2e-5)
    torch.testing.assert_close(s, scheduler.add_noise(zero, one, t)[:, 0], atol=2e-6, rtol=2e-5)


def test_flow_coefficients_are_one_minus_sigma_and_sigma():
    scheduler = SCHEDULERS["sd3"]
    t = scheduler.timesteps[[0, 1, 500, 999]]
    a, s = PATHS["sd3"].coefficients(PATHS["sd3"].level(t))
    torch.testing.assert_close(s, t / 1000, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(a, 1 - t / 1000, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", PATHS)
@given(level=levels)
def test_level_is_minus_log_snr(name, level):
    a, s = PATHS[name].coefficients(torch.tensor([level], dtype=torch.float64))
    assert 2 * math.log(s / a) == pytest.approx(level, abs=1e-9)


@pytest.mark.parametrize("name", PATHS)
@given(share=st.floats(0, 1))
def test_timestep_and_level_are_inverse_inside_the_range(name, share):
    low, high = PATHS[name].range
    level = torch.tensor([low + share * (high - low)], dtype=torch.float64)
    torch.testing.assert_close(PATHS[name].level(PATHS[name].timestep(level)), level, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_timestep_rises_with_the_level_and_hits_the_training_grid(name):
    last = -1 if PATHS[name].terminal else None  # its level is a stand-in
    grid = torch.tensor(PATHS[name].training_levels[:last], dtype=torch.float64)
    t = PATHS[name].timestep(grid)
    assert bool((t.diff() > 0).all())
    torch.testing.assert_close(t, torch.tensor(PATHS[name].training_timesteps[:last], dtype=torch.float64))


def test_time_scale_is_what_flux_is_given():
    scheduler, t = SCHEDULERS["flow"], torch.tensor([250.0])
    scaled = NoisePath.from_scheduler(scheduler, 1 / 1000)
    torch.testing.assert_close(scaled.timestep(PATHS["flow"].level(t)), t / 1000)
    torch.testing.assert_close(scaled.level(t / 1000), PATHS["flow"].level(t))


def test_timestep_types_of_pipelines_are_accepted():
    for t in (torch.tensor(500), torch.tensor([500], dtype=torch.int32), torch.tensor(500.0, dtype=torch.float64)):
        assert float(PATHS["sd"].level(t)) == pytest.approx(PATHS["sd"].training_levels[500], rel=1e-6)


def test_zero_terminal_snr_keeps_a_finite_range():
    zero = PATHS["zero"]
    a2 = SCHEDULERS["zero"].alphas_cumprod.double()
    assert a2[-1] == 0 and zero.terminal and zero.range[1] == pytest.approx(float(torch.log1p(-a2[-2]) - torch.log(a2[-2])))
    a, s = zero.coefficients(zero.level(torch.tensor([999])))
    assert 0 < float(a) < 2**-12 and float(s) == 1
    assert float(zero.level(torch.tensor([998]))) == pytest.approx(zero.range[1], rel=1e-6)
    assert not PATHS["sd"].terminal and PATHS["sd"].range == (PATHS["sd"].training_levels[0], PATHS["sd"].training_levels[-1])
    # Euler's stand-in for a^2 = 0 is 2^-24, which may lie above the value before it: the table rises all the same
    stand_in = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert stand_in.alphas_cumprod[-1] > stand_in.alphas_cumprod[-2]
    assert NoisePath.from_scheduler(stand_in).range == pytest.approx(zero.range)
    scaled = NoisePath.from_scheduler(diffusers.DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True))
    assert scaled.training_levels[-1] >= TERMINAL


def test_first_flow_step_is_pure_noise():
    level = PATHS["flow"].level(torch.tensor([1000.0]))
    a, s = PATHS["flow"].coefficients(PATHS["flow"].clamp(level))
    assert (float(a), float(s)) == (0, 1) and float(PATHS["flow"].timestep(level)) == 1000


# ------------------------------------------------------------------------------------------------ predictions

def written_out(kind: str, prediction: str, x0: float, noise: float, a: float, s: float) -> float:
    """The table of design/maths.md."""
    return {"epsilon": noise, "v_prediction": a * noise - s * x0, "flow": noise - x0, "sample": x0}[prediction]


@pytest.mark.parametrize("kind", ["vp", "flow", "ve"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(level=levels, x0=st.floats(-3, 3), noise=st.floats(-3, 3))
def test_predictions_become_noise_and_sample(kind, prediction, level, x0, noise):
    a, s = {"vp": (1 / (1 + math.exp(level))) ** 0.5, "flow": 1 / (1 + math.exp(level / 2)), "ve": 1.0}[kind], 0.0
    s = {"vp": (1 - a * a) ** 0.5, "flow": 1 - a, "ve": math.exp(level / 2)}[kind]
    x_t, at = torch.full((1, 2, 2), a * x0 + s * noise, dtype=torch.float64), torch.tensor([level], dtype=torch.float64)
    raw = torch.full((1, 2, 2), written_out(kind, prediction, x0, noise, a, s), dtype=torch.float64)
    model = path(kind, prediction)
    for got, expected in ((model.to_noise(raw, x_t, at), noise), (model.to_sample(raw, x_t, at), x0),
                          (model.from_noise(torch.full_like(raw, noise), x_t, at), float(raw[0, 0, 0])),
                          (model.from_pair(torch.full_like(raw, x0), torch.full_like(raw, noise), at), float(raw[0, 0, 0]))):  # fmt: skip
        assert float(got[0, 0, 0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["vp", "flow", "ve"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(level=st.lists(levels, min_size=3, max_size=3), seed=st.integers(0, 99))
def test_round_trip_through_noise(kind, prediction, level, seed):
    generator, model = torch.Generator().manual_seed(seed), path(kind, prediction)
    raw, x_t = torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    at = torch.tensor(level, dtype=torch.float64)
    torch.testing.assert_close(model.from_noise(model.to_noise(raw, x_t, at), x_t, at), raw, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", ["epsilon", "v_prediction", "sample"])
def test_conversion_agrees_with_the_scheduler_of_diffusers(name):
    """DDIM's own reconstruction of x0 from each parametrisation."""
    scheduler = diffusers.DDIMScheduler(prediction_type=name, clip_sample=False)
    scheduler.set_timesteps(1000)
    raw, x_t, t = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4), 640
    model = NoisePath.from_scheduler(scheduler)
    expected = scheduler.step(raw, t, x_t).pred_original_sample
    torch.testing.assert_close(model.to_sample(raw, x_t, model.level(torch.tensor([t]))), expected, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------------ across paths

@pytest.mark.parametrize("there", ["ddpm", "cosine", "flow", "sd3", "ve"])
@pytest.mark.parametrize("here", ["sd", "flow", "ve", "zero"])
def test_a_perfect_network_of_another_path_is_perfect_here(here, there):
    """A network that knows x0 answers on its own path; carried over, it must say the true sample and noise of ours."""
    here, there = PATHS[here], PATHS[there]
    x0, noise = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    level = torch.tensor([-4.0, -1.0, 0.0, 2.0, 3.5], dtype=torch.float64)
    a, s = (c[:, None] for c in here.coefficients(level))

    def network(x, at):
        own_a, own_s = (c[:, None] for c in there.coefficients(at))
        torch.testing.assert_close(x, own_a * x0 + own_s * noise)  # it sees a latent of its own path
        return there.from_pair(x0, noise, at)

    got = predict_pair(network, a * x0 + s * noise, level, here, there)
    torch.testing.assert_close(got[0], x0)
    torch.testing.assert_close(got[1], noise)


def test_beyond_its_range_a_network_is_asked_at_its_nearest_level():
    here, there = PATHS["flow"], PATHS["sd"]
    x_t, level = torch.randn(2, 6, dtype=torch.float64), torch.tensor([-12.0, 12.0], dtype=torch.float64)
    asked = []
    sample, noise = predict_pair(lambda x, at: asked.append(at) or torch.zeros_like(x), x_t, level, here, there)
    torch.testing.assert_close(asked[0], torch.tensor(there.range, dtype=torch.float64))
    a, s = (c[:, None] for c in here.coefficients(level))
    torch.testing.assert_close(a * sample + s * noise, x_t)  # a consistent pair


def test_calls_like():
    assert PATHS["flow"].calls_like(PATHS["sd3"])  # a shift only chooses which levels are visited
    assert not PATHS["flow"].calls_like(NoisePath.from_scheduler(SCHEDULERS["flow"], 1 / 1000))
    assert not PATHS["sd"].calls_like(PATHS["ddpm"])
    assert PATHS["sd"].calls_like(NoisePath.from_scheduler(diffusers.DDIMScheduler.from_config(SCHEDULERS["sd"].config)))


# ------------------------------------------------------------------------------------------------ weights of levels

@pytest.mark.parametrize("name", PATHS)
def test_level_weights_are_shares(name):
    model = PATHS[name]
    strata = torch.linspace(*model.range, 9)
    weights = model.level_weights(strata)
    counted = np.histogram(np.array(model.training_levels), strata.double().numpy())[0] / len(model.training_levels)
    np.testing.assert_allclose(weights["simple"], counted, atol=0.06 if name == "ve" else 3e-3)
    np.testing.assert_allclose(weights["likelihood"], np.full(8, 1 / 8), atol=1e-6)
    assert all(float(w.sum()) == pytest.approx(1) for w in weights.values())


def test_bad_descriptions_are_refused():
    with pytest.raises(ModelError, match="prediction type"):
        NoisePath.variance_preserving(torch.linspace(0.9, 0.1, 5), "score")
    with pytest.raises(ModelError, match="rising"):
        NoisePath.variance_preserving(torch.tensor([0.1, 0.9]))
    with pytest.raises(ModelError, match="noise path"):
        NoisePath("sub-vp", "epsilon", (0.0, 1.0), (0.0, 1.0))
    with pytest.raises(ModelError, match="two rising"):
        PATHS["sd"].level_weights(torch.tensor([1.0, 0.0]))
    with pytest.raises(ModelError, match="outside"):
        PATHS["sd"].level_weights(torch.tensor([50.0, 60.0]))
    continuous = diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    for scheduler in (diffusers.EDMEulerScheduler(), continuous):
        with pytest.raises(ModelError, match="neither a DDPM nor a flow"):
            NoisePath.from_scheduler(scheduler)
