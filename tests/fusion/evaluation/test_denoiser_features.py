"""Denoiser features against hooks and sums written out, in every family; what the prompt shares is taken out and nothing else."""

import numpy as np
import pytest
import torch

from fusion.evaluation.denoiser_features import LEVEL, PromptSpace, denoiser_features, through_autoencoder
from fusion.evaluation.diversity import diversity
from fusion.evaluation.kid import kid
from tests.fusion import small


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return small.ensemble(tmp_path_factory.mktemp("models"))


def test_features_are_the_middle_upward_block_at_one_level(ensemble):
    images, prompts = small.pictures(3, 5), ["a cat", "a dog", "a cat"]
    heard, network = [], ensemble.members[1].network
    blocks = network.up_blocks
    handle = blocks[(len(blocks) - 1) // 2].register_forward_hook(lambda module, given, out: heard.append(out.mean((2, 3))))
    x0 = ensemble.encode(images)
    eps = torch.randn(x0.shape[1:], generator=torch.Generator().manual_seed(0))
    a, s = ensemble.noise.coefficients(torch.tensor([LEVEL]))
    try:
        ensemble.subset([1]).predictor(prompts)(a * x0 + s * eps, torch.full((3,), LEVEL))
    finally:
        handle.remove()
    found = denoiser_features(ensemble, images, prompts, member=1)
    assert found == pytest.approx(heard[0].double().numpy(), abs=1e-5)
    assert denoiser_features(ensemble, images, prompts, member=1, batch_size=2) == pytest.approx(found, abs=1e-5)
    assert not np.allclose(denoiser_features(ensemble, images, ["a dog"] * 3, member=1), found, atol=1e-4)
    assert all(not module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "pixart", "ddpm"])
def test_every_family_has_features(tiny_ensemble, family):
    ensemble = tiny_ensemble(family)
    images = [image.resize(ensemble.size[::-1]) for image in small.pictures(3, 1)]
    if family == "ddpm" and ensemble.pipeline.unet.config.in_channels == 1:
        images = [image.convert("L") for image in images]
    found = denoiser_features(ensemble, images, "a cat")
    assert found.ndim == 2 and len(found) == 3 and np.isfinite(found).all() and found.std(0).max() > 0
    assert len(through_autoencoder(ensemble, images)) == 3


def test_refusals_and_stop(ensemble):
    with pytest.raises(ValueError, match="one prompt for each"):
        denoiser_features(ensemble, small.pictures(2), ["a cat"])
    with pytest.raises(RuntimeError, match="stopped"):
        denoiser_features(ensemble, small.pictures(2), "a cat", stop=lambda: True)


def test_the_autoencoder_marks_held_out_images_as_it_marks_samples(ensemble):
    images = small.pictures(2, 3)
    back = through_autoencoder(ensemble, images)
    assert np.asarray(back[0]).shape == np.asarray(images[0]).shape and np.any(np.asarray(back[0]) != np.asarray(images[0]))


def test_what_a_prompt_shares_is_taken_out_and_a_methods_own_shift_stays():
    rng = np.random.default_rng(0)
    prompts = ["a", "b"] * 200
    asked = np.where(np.array(prompts)[:, None] == "a", 5.0, -5.0)
    one, other = rng.normal(size=(400, 3)) + asked, rng.normal(size=(400, 3)) + asked + 0.5
    space = PromptSpace.of([one, other], [prompts, prompts], (one[:20], prompts[:20]))
    u, v = space.samples
    for prompt in ("a", "b"):
        chosen = np.array(prompts) == prompt
        assert abs((u[chosen].mean(0) + v[chosen].mean(0)) / 2).max() < 0.05  # of 5 before; shrinkage leaves 5 / 201
    assert (v.mean(0) - u.mean(0)) * space.scale == pytest.approx([0.5] * 3, abs=0.15)
    assert np.concatenate([u, v]).std(0) == pytest.approx([1, 1, 1], abs=0.01)
    unknown = space.read(one[:1], ["c"])
    assert unknown[0] == pytest.approx((one[0] - space.centre) / space.scale)


def test_features_in_which_all_pictures_differ_alike_count_less():
    """Six features that are one thing said six times, and one that tells the methods apart by as much."""
    rng = np.random.default_rng(2)
    base, noise = rng.normal(size=(3, 600, 1)), rng.normal(size=(3, 600, 7))
    sets = [np.hstack([base[k] + 0.1 * noise[k][:, :6], (k > 0) + noise[k][:, 6:]]) for k in range(3)]
    space = PromptSpace.of(sets[:2], [["a"] * 600] * 2, (sets[2], ["b"] * 600))
    spread = np.cov(space.whiten(space.samples[0]).T)
    assert np.corrcoef(sets[0][:, :6].T).sum() == pytest.approx(36, abs=0.5) and spread[:6, :6].sum() == pytest.approx(6, abs=0.5)
    assert space.held_out == pytest.approx((sets[2] - space.centre) / space.scale)


def test_units_of_the_spread_within_sets_keep_a_perfect_sampler_at_chance():
    """Fewer pictures than features, which then look a little too narrow in units of their own: within the interval, whichever are fewer."""
    rng = np.random.default_rng(3)
    for n, m in ((12, 30), (30, 12)):
        found = []
        for _ in range(100):
            sets = [rng.normal(size=(count, 24)) @ np.diag(np.linspace(0.2, 2, 24)) for count in (n, n, m)]
            space = PromptSpace.of(sets[:2], [["a"] * n] * 2, (sets[2], ["b"] * m))
            found.append(kid(space.whiten(space.samples[0]), space.whiten(space.held_out)))
        values = np.array([one.value for one in found])
        assert abs(values.mean()) < 0.75 * values.std() and np.mean([one.low < 0 < one.high for one in found]) > 0.85


HELD = (np.array([[0.0], [1.0]]), ["a", "b"])


def test_a_prompt_with_one_seed_keeps_its_share_and_two_are_shrunk_half_way():
    space = PromptSpace.of([np.array([[0.0], [4.0]])], [["a", "b"]], HELD)
    assert space.shift["a"] == pytest.approx([0.0]) and space.samples[0][:, 0] * space.scale == pytest.approx([-2.0, 2.0])
    space = PromptSpace.of([np.array([[0.0], [2.0], [8.0], [10.0]])], [["a", "a", "b", "b"]], HELD)
    assert space.shift["a"] == pytest.approx([-2.0]) and space.shift["b"] == pytest.approx([2.0])
    # centre 5; the other seed of "a" lies at 2, 3 below, of which a half is taken: 0 - 5 + 1.5
    assert space.samples[0][:, 0] * space.scale == pytest.approx([-3.5, -0.5, 0.5, 3.5])


@pytest.mark.parametrize("paired", [True, False])
def test_samples_of_the_target_spread_as_held_out_images_do(paired):
    """Few seeds a prompt: samples must not look narrower than held-out images because they are among those that the centre is made of."""
    rng, ratios, prompts = np.random.default_rng(1), [], ["a", "b", "c", "d"] * 3
    for _ in range(60):
        asked = rng.normal(size=(4, 20))[[0, 1, 2, 3] * 3] * 4
        seeds = rng.normal(size=(12, 20))
        methods = [asked + seeds + 0.1 * rng.normal(size=(12, 20)) for _ in range(3)]
        said = [prompts, prompts, prompts] if paired else [prompts, prompts[:8], prompts]
        methods = methods if paired else [methods[0], methods[1][:8], methods[2]]
        space = PromptSpace.of(methods, said, (asked + rng.normal(size=(12, 20)), prompts))
        ratios.append(diversity(space.samples[0], space.held_out).value)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05 if paired else 0.15)
