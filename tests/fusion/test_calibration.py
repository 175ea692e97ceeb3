"""The calibrated fit in a world where the truth is known: members with training errors that drown the plain weights."""

import dataclasses

import numpy as np
import pytest
import torch

from fusion.calibration import CalibratedProportions, Calibration, calibrate
from fusion.fitting import fit_all
from fusion.likelihood import log_likelihood
from fusion.objective import ResidualGram, fit_gram
from fusion.simplex import solve_simplex
from fusion.weights import SimplexWeights
from tests.fusion.world import MEMBERS, POPULATIONS, World, oracle

PURE = [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]
MIXTURES = *PURE, [0.6, 0.3, 0.1, 0], [0.25] * 4, [0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0], [0.1, 0.2, 0.3, 0.4]
OWN, MORE = 192, 240  # calibration images a member, and images to draw targets from


@pytest.fixture(scope="module")
def world():
    return World(error=0.2)


@pytest.fixture(scope="module")
def pool(world):
    """For each member: the statistic and the true cells of `MORE` images that the calibration never saw."""
    out = []
    for k in range(4):
        cells, prompts, images = world.draw(np.eye(4)[k], MORE, seed=500 + k)
        out.append((fit_gram(world, images, prompts, seed=70 + k, batch_size=1024), cells))
    return out


@pytest.fixture(scope="module")
def calibration(world):
    return calibrate(world, [own(world, k, OWN) for k in range(4)], seed=9)


def own(world, k, count):
    """Images and prompts of member k's own population."""
    _, prompts, images = world.draw(np.eye(4)[k], count, seed=k)
    return images, prompts


def target(pool, truth, count, rng):
    member = rng.choice(4, size=count, p=truth)
    rows = [rng.choice(MORE, size=int((member == k).sum()), replace=False) for k in range(4)]
    gram = ResidualGram.merge(*(pool[k][0].select(images=r) for k, r in enumerate(rows) if len(r)))
    return gram, np.concatenate([pool[k][1][r] for k, r in enumerate(rows)])


@pytest.fixture(scope="module")
def draws(pool, calibration):
    """Twelve images from eight mixtures, twelve times each: truth, fit, oracle's proportions, plain weights."""
    rng, out = np.random.default_rng(0), []
    for truth in MIXTURES:
        for _ in range(12):
            gram, cells = target(pool, truth, 12, rng)
            plain = SimplexWeights(smooth=False, bootstrap=2).fit(gram).weights_
            out.append((np.array(truth), CalibratedProportions(calibration, bootstrap=200).fit(gram), oracle(cells, POPULATIONS), plain))
    return out


def rmse(pairs):
    return float(np.sqrt(np.mean([np.square(a - b) for a, b in pairs])))


def test_proportions_are_near_the_oracle_s(draws):
    """At most 1.3 times the error of reading the same twelve images perfectly; the plain weights are far off."""
    best = rmse((o, t) for t, _, o, _ in draws)
    assert rmse((c.proportions_, t) for t, c, _, _ in draws) < 1.3 * best
    assert rmse((c.proportions_, t) for t, c, _, _ in draws) < 0.8 * rmse((p, t) for t, _, _, p in draws)


def test_plain_weights_hardly_see_the_population(draws):
    """The reason for all this: for pure members the plain weight stays under a half."""
    assert np.mean([p[t.argmax()] for t, _, _, p in draws if t.max() == 1]) < 0.5
    assert np.mean([c.proportions_[t.argmax()] for t, c, _, _ in draws if t.max() == 1]) > 0.75


def test_moments_are_a_usable_second_opinion(draws):
    assert rmse((c.moments_, t) for t, c, _, _ in draws) < 1.6 * rmse((o, t) for t, _, o, _ in draws)


def test_intervals_cover(draws):
    hits = [(c.interval_[:, 0] <= t + 1e-9) & (t <= c.interval_[:, 1] + 1e-9) for t, c, _, _ in draws]
    assert np.mean(hits) >= 0.9
    assert all((c.interval_[:, 0] <= c.proportions_).all() and (c.proportions_ <= c.interval_[:, 1]).all() for _, c, _, _ in draws)


def test_inside_targets_seldom_warn(draws):
    assert np.mean([c.outside_ for _, c, _, _ in draws]) < 0.1


def test_p_values_are_not_all_alike(draws):
    """An honest p-value is near uniform for inside targets."""
    p = np.sort([c.p_value_ for _, c, _, _ in draws])
    assert np.abs(p - (np.arange(len(p)) + 0.5) / len(p)).max() < 0.2  # Kolmogorov's 0.1 % point at 96 is 0.2


def test_strangers_warn(world, calibration):
    """A population that no member has: images between the cells."""
    rng = np.random.default_rng(5)
    fired = []
    for seed in range(10):
        _, prompts, images = world.draw([0.25] * 4, 12, seed=900 + seed)
        strange = [x + 1.5 * torch.tensor(rng.normal(size=world.size)).float() for x in images]
        fired.append(CalibratedProportions(calibration, bootstrap=200).fit(fit_gram(world, strange, prompts, seed=seed)).outside_)
    assert np.mean(fired) >= 0.9


def test_more_images_come_closer_and_intervals_shrink(pool, calibration):
    truth, rng = np.array([0.5, 0.3, 0.2, 0]), np.random.default_rng(3)
    widths, errors = [], []
    for count in (12, 60, 200):
        fits = [CalibratedProportions(calibration, bootstrap=50).fit(target(pool, truth, count, rng)[0]) for _ in range(4)]
        widths.append(np.mean([np.ptp(f.interval_, axis=1).mean() for f in fits]))
        errors.append(rmse((f.proportions_, truth) for f in fits))
    assert widths[0] > widths[1] > widths[2]
    assert errors[2] < errors[0] and errors[2] < 0.1


# ------------------------------------------------------------------------------------------------ odd targets

def test_one_image(pool, calibration):
    fit = CalibratedProportions(calibration).fit(pool[1][0].select(images=[0]))
    assert fit.proportions_.sum() == pytest.approx(1) and np.ptp(fit.interval_, axis=1).mean() > 0.5
    assert "this one image" in fit.verdict_ and 0 < fit.p_value_ <= 1


def test_the_same_image_many_times(pool, calibration):
    fit = CalibratedProportions(calibration).fit(pool[1][0].select(images=[3] * 12))
    assert np.isfinite(fit.proportions_).all() and np.isfinite(fit.interval_).all()


def test_members_that_are_copies(pool, world):
    """Two members with one network and one population: only the sum of their shares is determined, nothing breaks."""
    grams = [g.select(images=range(60), members=[0, 1, 1]) for g, _ in (pool[0], pool[1], pool[1])]
    grams = [dataclasses.replace(g, names=("a", "b", "b again")) for g in grams]
    fit = CalibratedProportions(Calibration.from_grams(grams)).fit(grams[1].select(images=range(12)))
    assert fit.proportions_[1:].sum() > 0.7 and np.isfinite(fit.interval_).all()
    assert np.ptp(fit.interval_[1:], axis=1).min() > 0.8


@pytest.mark.parametrize("members", [["summit", "delta"], ["delta", "harbor", "meadow"], ["meadow"]])
def test_some_of_the_members(pool, calibration, members):
    index = [MEMBERS.index(m) for m in members]
    gram = pool[index[0]][0].select(images=range(40), members=members)
    fit = CalibratedProportions(calibration, bootstrap=50).fit(gram)
    assert fit.names_ == tuple(members) and fit.proportions_[0] > 0.7
    again = CalibratedProportions(calibration.select(members), bootstrap=50).fit(gram)
    np.testing.assert_allclose(again.proportions_, fit.proportions_, atol=1e-9)


def test_order_of_members_does_not_matter(pool, calibration):
    gram = pool[2][0].select(images=range(12))
    turned = gram.select(members=[3, 1, 0, 2])
    one, two = (CalibratedProportions(calibration, bootstrap=20).fit(g).proportions_ for g in (gram, turned))
    np.testing.assert_allclose(one[[3, 1, 0, 2]], two, atol=0.06)  # folds and contrasts are cut in another order


# ------------------------------------------------------------------------------------------------ what is handed on

def test_the_mixer_s_objective_has_its_minimum_at_the_likeliest_shares(draws, calibration, pool):
    for _, fit, _, _ in draws[::9]:
        best = fit.likeliest_
        np.testing.assert_allclose(solve_simplex(fit.quadratic_, fit.linear_), best, atol=1e-3)
        assert np.abs(best - fit.proportions_).max() < 0.2  # the prior's pull is a matter of tenths of an image
        value = best @ fit.quadratic_ @ best - 2 * fit.linear_ @ best + fit.constant_
        assert value == pytest.approx(0, abs=1e-9)


def test_the_mixer_s_objective_is_log_likelihood_to_second_order(pool, calibration):
    gram = pool[0][0].select(images=range(40))
    fit = CalibratedProportions(calibration, bootstrap=20).fit(gram)
    f = calibration.likelihoods(calibration.features(gram.plain))[0]
    for k in range(4):
        near = 0.97 * fit.likeliest_ + 0.03 * np.eye(4)[k]
        exact = log_likelihood(fit.likeliest_, f) - log_likelihood(near, f)
        assert near @ fit.quadratic_ @ near - 2 * fit.linear_ @ near + fit.constant_ == pytest.approx(exact, abs=2e-3)


def test_saved_and_loaded(calibration, pool, tmp_path):
    calibration.save(tmp_path / "c.safetensors")
    again = Calibration.load(tmp_path / "c.safetensors")
    gram = pool[0][0].select(images=range(12))
    one, two = (CalibratedProportions(c, bootstrap=100).fit(gram) for c in (calibration, again))
    assert np.array_equal(one.proportions_, two.proportions_) and one.p_value_ == two.p_value_
    assert again.names == MEMBERS and again.settings == {"levels": 16, "draws": 1} and again.counts.tolist() == [OWN] * 4
    pool[0][0].save(tmp_path / "gram.safetensors")
    with pytest.raises(ValueError, match="not a saved calibration"):
        Calibration.load(tmp_path / "gram.safetensors")


def test_means_and_covariance_are_those_of_the_features(calibration):
    phi = calibration.features(calibration.products)
    np.testing.assert_allclose(calibration.means[2], phi[calibration.owner == 2].mean(0))
    assert calibration.covariance.shape == (phi.shape[1],) * 2 and np.linalg.eigvalsh(calibration.covariance).min() > 0


def test_features_of_an_image_do_not_depend_on_its_company(calibration):
    alone = calibration.features(calibration.products[17:18])
    np.testing.assert_allclose(alone[0], calibration.features(calibration.products)[17], rtol=1e-12)


def test_other_settings_are_refused(world, calibration):
    _, prompts, images = world.draw([1, 0, 0, 0], 2, seed=0)
    for settings in ({"levels": 8}, {"draws": 2}):
        with pytest.raises(ValueError, match="use the same settings"):
            CalibratedProportions(calibration).fit(fit_gram(world, images, prompts, **settings))


def test_unknown_members_are_refused(calibration, pool):
    stranger = dataclasses.replace(pool[0][0], names=("harbor", "summit", "meadow", "island"))
    with pytest.raises(ValueError, match="not calibrated: island"):
        CalibratedProportions(calibration).fit(stranger)


def test_calibration_needs_images_of_every_member(world, pool):
    with pytest.raises(ValueError, match="at least 8 images"):
        Calibration.from_grams([g.select(images=range(8 - (k == 2))) for k, (g, _) in enumerate(pool)])
    with pytest.raises(ValueError, match="images of 2 members"):
        calibrate(world, [([], [])] * 2)


def test_calibrating_stops_and_reports(world):
    lists, seen = [own(world, k, 8) for k in range(4)], []
    calibrate(world, lists, levels=4, progress=lambda *a: seen.append(a[:2]))
    assert seen[-1] == (4000, 4000) and seen == sorted(seen)
    calls = iter(range(1000))
    with pytest.raises(RuntimeError, match="nothing was"):
        calibrate(world, lists, levels=4, stop=lambda: next(calls) >= 2)


# ------------------------------------------------------------------------------------------------ the whole fit

def test_fit_all_explains_itself(pool, calibration):
    import json

    fit = fit_all(pool[2][0].select(images=range(24)), calibration)
    assert "meadow" in fit.explain() and "averaging" in fit.explain()
    summary = json.loads(json.dumps(fit.summary(), allow_nan=False))
    assert summary["calibrated"]["members"]["meadow"]["weight"] > 0.7
    assert summary["published"]["gain_over_best_single"]["interval"][0] <= summary["published"]["gain_over_best_single"]["mean"]
    alone = fit_all(pool[2][0].select(images=[0]))
    assert alone.calibrated is None and "calibrate" in alone.explain()
    json.dumps(alone.summary(), allow_nan=False)


def test_one_caption_for_every_picture_is_named_beside_the_warning(world, calibration):
    strange = world.draw(np.eye(18)[17], 24, seed=5)
    said = {}
    for name, prompts in (("own", strange[1]), ("one", [strange[1][0]] * 24)):
        found = CalibratedProportions(calibration).fit(fit_gram(world, strange[2], prompts, seed=3))
        said[name] = found.outside_, "same caption" in found.verdict_
    assert said["one"] == (True, True) and not said["own"][1]


def test_intervals_follow_their_level(world, calibration):
    _, prompts, images = world.draw([0.5, 0.5, 0, 0], 24, seed=6)
    gram = fit_gram(world, images, prompts, seed=4)
    narrow, wide = (np.ptp(CalibratedProportions(calibration, level=level).fit(gram).interval_, axis=1) for level in (0.5, 0.99))
    assert (narrow < wide).all()
