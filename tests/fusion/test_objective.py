"""The statistic against brute force, and the habits that make it safe to stop, merge, batch and save."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.objective import ResidualGram, fit_gram, residual_gram, strata_of
from fusion.rows import Draws
from fusion.simplex import solve_simplex
from tests.fusion.world import MEMBERS, Path, World

EDGES = torch.linspace(-4, 6, 6, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def predict(x_t, level):
    """Three smooth members, (3, B, ...)."""
    shape = (-1, *[1] * (x_t.dim() - 1))
    gate = torch.sigmoid(level).reshape(shape)
    return torch.stack([gate * x_t, torch.tanh(x_t), 0.3 * x_t + 0.1 * torch.sin(3 * x_t)])


@pytest.fixture(scope="module")
def x0():
    return torch.randn(7, 2, 3, generator=seeded(5), dtype=torch.float64)


@pytest.fixture(scope="module")
def gram(x0):
    return residual_gram(predict, x0, Path(), EDGES, generator=seeded(), draws=2)


def replay(x0, draws=2, antithetic=True, seed=0):
    """Every noisy copy that `residual_gram` makes, one by one: image, stratum, level, noise, x_t."""
    seeds = torch.randint(2**62, (len(x0),), generator=seeded(seed)).tolist()
    source = Draws(seeds, x0[0].numel(), EDGES, draws, antithetic)
    for n, stratum, level, eps in zip(*source.rows(torch.arange(len(x0) * source.per_image))):
        a, s = Path().coefficients(level)
        yield int(n), int(stratum), level, eps, a * x0[n].reshape(-1) + s * eps


def test_plain_rows_equal_brute_force(x0, gram):
    expected = np.zeros_like(gram.plain)
    for n, at, level, eps, x_t in replay(x0):
        guess = predict(x_t.reshape(1, *x0.shape[1:]), level[None]).reshape(3, -1)
        for i in range(3):
            for j in range(3):
                expected[n, at, i, j] += float((guess[i] - eps) @ (guess[j] - eps)) / 6 / 4
    np.testing.assert_allclose(gram.plain, expected, rtol=1e-10, atol=1e-13)
    assert gram.evaluations == 7 * 5 * 4 * 3 and gram.draws == 4 and gram.dimensions == 6


def test_smooth_rows_sum_to_the_residuals_against_the_brute_force_posterior(x0, gram):
    """Against eps_bar, up to the posterior variance of the noise: a constant in all entries, which moves no argmin."""
    bar = np.zeros((5, 3, 3))
    constant = np.zeros(5)
    for _, at, level, _, x_t in replay(x0):
        a, s = Path().coefficients(level)
        each = torch.stack([(x_t - a * m.reshape(-1)) / s for m in x0])  # (M, D)
        p = torch.softmax(-((x_t - a * x0.reshape(7, -1)) ** 2).sum(1) / (2 * s**2), 0)
        mean = p @ each
        guess = predict(x_t.reshape(1, *x0.shape[1:]), level[None]).reshape(3, -1) - mean
        bar[at] += (guess @ guess.T).numpy() / 6 / 4
        constant[at] += float(p @ ((each - mean) ** 2).sum(1)) / 6 / 4
    np.testing.assert_allclose(gram.smooth.sum(0), bar + constant[:, None, None], rtol=1e-9)
    for at in range(5):
        np.testing.assert_allclose(solve_simplex(gram.smooth.sum(0)[at]), solve_simplex(bar[at]), atol=1e-7)


def test_smooth_rows_have_the_expectation_of_plain_rows():
    """Row by row, so that leave-one-out and bootstrap stay honest; and the difference of two good members is far less noisy."""
    x0, calls = 0.4 * torch.randn(5, 2, generator=seeded(5), dtype=torch.float64), 60
    edges = torch.linspace(-1, 4, 2, dtype=torch.float64)

    def good(x_t, level):
        a, s = (c[:, None] for c in Path().coefficients(level))
        distance = ((x_t[:, None] - a[:, None] * x0) ** 2).sum(-1)
        p = torch.softmax(-distance / (2 * s**2), 1)
        best = (x_t - a * (p @ x0)) / s
        return torch.stack([best + 0.1 * torch.sin(x_t), best + 0.1 * torch.cos(x_t)])

    grams = [residual_gram(good, x0, Path(), edges, generator=seeded(k), antithetic=False, draws=4) for k in range(calls)]
    plain, smooth = (np.stack([getattr(g, part).sum(1) for g in grams]) for part in ("plain", "smooth"))  # (calls, N, 2, 2)
    error = np.sqrt((plain.var(0) + smooth.var(0)) / calls)
    assert np.abs((plain.mean(0) - smooth.mean(0)) / error).max() < 4
    differences = [x.mean(1)[:, 1, 1] - x.mean(1)[:, 0, 0] for x in (plain, smooth)]
    assert differences[1].var() < 0.2 * differences[0].var()


def test_one_image_a_group_makes_smooth_equal_plain(x0):
    alone = residual_gram(predict, x0, Path(), EDGES, generator=seeded(), groups=range(7))
    np.testing.assert_allclose(alone.smooth, alone.plain, rtol=1e-9, atol=1e-12)


def test_groups_do_not_mix(x0):
    groups = [4, 4, 4, 9, 9, 9, 9]
    both = residual_gram(predict, x0, Path(), EDGES, generator=seeded(), groups=groups)
    first = residual_gram(predict, x0[:3], Path(), EDGES, generator=seeded())
    np.testing.assert_allclose(both.smooth[:3], first.smooth, rtol=1e-10)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 200))
def test_batch_size_does_not_matter(batch_size):
    x0 = torch.randn(4, 2, 3, generator=seeded(5), dtype=torch.float64)
    one = residual_gram(predict, x0, Path(), EDGES, generator=seeded(), batch_size=64)
    other = residual_gram(predict, x0, Path(), EDGES, generator=seeded(), batch_size=batch_size)
    np.testing.assert_allclose(one.plain, other.plain, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(one.smooth, other.smooth, rtol=1e-12, atol=1e-14)


def test_an_added_image_leaves_the_other_rows_alone(x0, gram):
    fewer = residual_gram(predict, x0[:4], Path(), EDGES, generator=seeded(), draws=2)
    np.testing.assert_array_equal(fewer.levels, gram.levels[:4])
    np.testing.assert_allclose(fewer.plain, gram.plain[:4], rtol=1e-13)


def test_levels_lie_in_their_strata_and_differ_between_images(gram):
    assert ((gram.levels >= gram.strata[:-1]) & (gram.levels <= gram.strata[1:])).all()
    assert len(np.unique(gram.levels)) == gram.levels.size


def test_fused_loss_is_predicted_to_many_decimals(x0, gram):
    """w' R w is the measured error of the fused prediction."""
    w = np.array([0.2, 0.5, 0.3])
    fused = residual_gram(lambda x, level: torch.einsum("k,k...->...", torch.tensor(w), predict(x, level))[None], x0, Path(), EDGES,
                          generator=seeded(), draws=2)  # fmt: skip
    np.testing.assert_allclose(np.einsum("i,nlij,j->nl", w, gram.plain, w), fused.plain[..., 0, 0], rtol=1e-12)
    np.testing.assert_allclose(np.einsum("i,nlij,j->nl", w, gram.smooth, w), fused.smooth[..., 0, 0], rtol=1e-11)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(3)))
def test_merging_in_any_order(order):
    x0 = torch.randn(6, 4, generator=seeded(2), dtype=torch.float64)
    parts = [residual_gram(predict, x0[i : i + 2], Path(), EDGES, generator=seeded(i)) for i in (0, 2, 4)]
    straight, mixed = ResidualGram.merge(*parts), ResidualGram.merge(*(parts[i] for i in order))
    nested = ResidualGram.merge(ResidualGram.merge(parts[order[0]], parts[order[1]]), parts[order[2]])
    for other in (mixed, nested):
        np.testing.assert_allclose(other.mean(), straight.mean(), rtol=1e-13)
        assert other.evaluations == straight.evaluations and len(other) == 6


def test_merging_strangers_is_refused(gram):
    with pytest.raises(ValueError, match="different members"):
        ResidualGram.merge(gram, dataclasses.replace(gram, names=("a", "b", "c")))
    with pytest.raises(ValueError, match="different noise levels"):
        ResidualGram.merge(gram, dataclasses.replace(gram, strata=gram.strata + 1))


def test_stop_keeps_the_finished_images(x0, gram):
    calls = iter(range(100))
    part = residual_gram(predict, x0, Path(), EDGES, generator=seeded(), draws=2, batch_size=15, stop=lambda: next(calls) >= 5)
    assert len(part) == 3 and part.evaluations == 75 * 3  # 75 copies of 20 an image
    np.testing.assert_allclose(part.plain, gram.plain[:3], rtol=1e-13)
    assert np.isfinite(part.smooth).all()
    lost = [p for p in replay(x0)][:75]  # every draw of the run, the unfinished image's too, is in the mean of the smooth rows
    for at in range(5):
        mine, total = [p for p in lost if p[1] == at], np.zeros((3, 3))
        for _, _, level, _, x_t in mine:
            a, s = Path().coefficients(level)
            each = torch.stack([(x_t - a * m.reshape(-1)) / s for m in x0])
            p = torch.softmax(-((x_t - a * x0.reshape(7, -1)) ** 2).sum(1) / (2 * s**2), 0)
            guess = predict(x_t.reshape(1, *x0.shape[1:]), level[None]).reshape(3, 1, -1) - each  # (3, M, D)
            total += torch.einsum("m,imd,jmd->ij", p, guess, guess).numpy() / 6
        np.testing.assert_allclose(part.smooth.mean(0)[at], total / len(mine), rtol=1e-9)


def test_stopped_before_anything(x0):
    with pytest.raises(RuntimeError, match="nothing was measured"):
        residual_gram(predict, x0, Path(), EDGES, generator=seeded(), stop=lambda: True)


def test_progress_reaches_the_end(x0):
    seen = []
    residual_gram(predict, x0, Path(), EDGES, generator=seeded(), batch_size=9, progress=lambda *a: seen.append(a))
    assert seen[-1][:2] == (70, 70) and seen[-1][2] == "image 7 of 7"
    assert [s[0] for s in seen] == sorted(s[0] for s in seen)


def test_saved_and_loaded(gram, tmp_path):
    gram.save(tmp_path / "gram.safetensors")
    again = ResidualGram.load(tmp_path / "gram.safetensors")
    for field in dataclasses.fields(ResidualGram):
        one, two = getattr(gram, field.name), getattr(again, field.name)
        if isinstance(one, dict):
            assert one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)
        else:
            assert np.array_equal(one, two), field.name


def test_select_cuts_images_and_members(gram):
    cut = gram.select(images=[5, 1], members=["member 3", 0])
    np.testing.assert_array_equal(cut.plain[1, 2], gram.plain[1, 2][np.ix_([2, 0], [2, 0])])
    assert cut.names == ("member 3", "member 1") and len(cut) == 2
    assert len(gram.select(images=np.arange(7) > 3)) == 3


def test_level_weights_reach_the_mean(gram):
    for name, omega in Path().level_weights(EDGES).items():
        np.testing.assert_allclose(gram.mean(name, smooth=False), sum(w * r for w, r in zip(omega, gram.plain.mean(0))), rtol=1e-12)
    with pytest.raises(ValueError, match="weighting"):
        gram.mean("loud")


def test_a_member_that_predicts_no_numbers_is_named(x0):
    def broken(x_t, level):
        return torch.stack([x_t, x_t * torch.nan])

    with pytest.raises(FloatingPointError, match="summit"):
        residual_gram(broken, x0, Path(), EDGES, generator=seeded(), names=("harbor", "summit"))


def test_smooth_rows_that_were_not_measured_are_not_invented(x0):
    bare = residual_gram(predict, x0, Path(), EDGES, generator=seeded(), smooth_target=False)
    with pytest.raises(ValueError, match="without the smooth target"):
        bare.mean()
    assert bare.mean(smooth=False).shape == (3, 3)


# ------------------------------------------------------------------------------------------------ over an ensemble

def test_fit_gram_over_an_ensemble_is_independent_of_the_batch():
    world = World(dtype=torch.float64)
    world.encode = lambda images: torch.stack(list(images)).float()
    _, prompts, images = world.draw([0.4, 0.3, 0.2, 0.1], 9, seed=1)
    one = fit_gram(world, images, prompts, levels=8)
    other = fit_gram(world, images, prompts, levels=8, batch_size=7)
    np.testing.assert_allclose(one.plain, other.plain, rtol=1e-5)  # members answer in float32
    assert one.names == MEMBERS and one.prompts == tuple(prompts) and one.strata[-1] == 9.0
    assert one.evaluations == 9 * 8 * 2 * 4 and world.calls == 2 * one.evaluations


def test_fit_gram_uses_each_image_s_own_prompt():
    world = World(error=0.0)
    _, prompts, images = world.draw([1, 0, 0, 0], 6, seed=1)
    right = fit_gram(world, images, prompts).mean(smooth=False)
    wrong = fit_gram(world, images, prompts[1:] + prompts[:1]).mean(smooth=False)
    assert right.diagonal().max() < wrong.diagonal().min()


def test_fit_gram_refuses_odd_requests():
    world = World()
    _, prompts, images = world.draw([1, 0, 0, 0], 2, seed=1)
    with pytest.raises(ValueError, match="2 images but 1 prompts"):
        fit_gram(world, images, prompts[:1])
    with pytest.raises(ValueError, match="at least one"):
        fit_gram(world, [], [])


def test_strata_end_with_the_schedule():
    edges = strata_of(Path(), 16)
    assert len(edges) == 17 and float(edges[0]) == -6.0 and float(edges[-1]) == 9.0 and torch.allclose(edges.diff(), edges.diff()[0])
