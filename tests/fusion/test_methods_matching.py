"""The search for matched weights, in the simulated world where the population of every blend is known."""

from dataclasses import replace

import numpy as np
import pytest

from fusion.calibration import Calibration
from fusion.evaluation.features import feature_distance
from fusion.fitting import fit_all
from fusion.methods import METHODS, MethodError, Sample, SamplingPlan, Unfinished, matching
from fusion.methods.coordinates import Coordinates
from fusion.methods.matched import match
from fusion.methods.matching import SmoothMap, batches, distance_form, search, search_evaluations
from fusion.objective import fit_gram
from tests.fusion.world import POPULATIONS, World

LEVELS = 8
STEEP = 2.0  # how much faster than the weights the simulated sampler moves between populations


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def calibration(world):
    return Calibration.from_grams([gram_of(world, shares, 64, 10 + k) for k, shares in enumerate(np.eye(4))])


def gram_of(world, shares, count, seed):
    _, prompts, images = world.draw(shares, count, seed)
    return fit_gram(world, images, prompts, levels=LEVELS, seed=seed, seeds="place")


def blend(weights):
    """Population (18,) of samples at fusion weights: a barycenter, steeper than the weights say."""
    sharp = np.asarray(weights) ** STEEP
    log = (sharp / sharp.sum()) @ np.log(POPULATIONS)
    return np.exp(log) / np.exp(log).sum()


@pytest.fixture
def sampled(monkeypatch, world):
    """Replace the pipeline by draws from the blend's known population; records the weights that were drawn at."""
    asked = []

    def draw(ensemble, plan, weights, *, method, **_):
        asked.append(np.asarray(weights))
        _, prompts, images = world.draw(blend(weights), len(plan.jobs), plan.jobs[0][1])
        # the search measures samples with the target's prompts: draw the same cells for these
        for (prompt, seed), own, image in zip(plan.jobs, prompts, images):
            yield Sample(image - shift(world, own) + shift(world, prompt), method, prompt, seed, np.asarray(weights))
            if plan.stopped():
                return

    monkeypatch.setattr(matching, "draw", draw)
    return asked


def shift(world, prompt):
    from models.portraits.population import PROFESSIONS

    return world.jobs[list(PROFESSIONS).index(prompt.removeprefix("a portrait of a "))].to(world.dtype)


def plan(**changes):
    return SamplingPlan(**{"prompts": [""], "seeds": [0]} | changes)


# ------------------------------------------------------------------------------------------------ coordinates

def test_coordinates_have_unit_noise_and_mix_linearly(world, calibration):
    space = Coordinates(calibration)
    own = [space.read(replace_products(world, calibration, k)) for k in range(4)]
    assert np.allclose([u.mean(0) for u in own], space.corners)
    within = np.concatenate([u - u.mean(0) for u in own])
    assert np.diag(np.cov(within.T)) == pytest.approx(np.ones(3), rel=0.35)  # shrinkage makes them a little smaller
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    assert np.allclose(space.mixed(shares), sum(s * c for s, c in zip(shares, space.corners)))
    assert np.allclose(space.shares(space.mixed(shares)), shares)
    assert np.allclose(space.shares(space.corners), np.eye(4))


def test_samples_are_nearest_to_targets_of_their_own_population(world, calibration):
    fit = fit_all(gram_of(world, [1, 0, 0, 0], 12, 20), calibration)
    grams = [gram_of(world, shares, 24, 21 + k) for k, shares in enumerate(np.eye(4))]
    again = [gram_of(world, shares, 24, 31 + k) for k, shares in enumerate(np.eye(4))]
    distances = np.array([[feature_distance(fit.calibrated, a, b, draws=50).value for b in grams] for a in again])
    assert (distances.argmin(1) == np.arange(4)).all()


def replace_products(world, calibration, member):
    """A statistic that holds the calibration images of one member."""
    template = gram_of(world, np.eye(4)[0], 2, 1)
    products = calibration.products[calibration.owner == member]
    return replace(template, plain=products, smooth=None, levels=np.zeros(products.shape[:2]), prompts=("",) * len(products))


def test_one_member_has_no_coordinates(calibration):
    with pytest.raises(MethodError, match="one model only"):
        Coordinates(calibration.select([0]))


# ------------------------------------------------------------------------------------------------ search

def test_the_search_finds_the_weights_of_a_blend(world, calibration, sampled):
    truth = np.array([0.4, 0.0, 0.35, 0.25])
    fit = fit_all(gram_of(world, blend(truth), 96, 3), calibration)
    states = list(search(world, fit, plan(), images=48))
    last = states[-1]
    assert [s.done for s in states] == list(range(batches(4) + 1)) and last.total == batches(4) == len(sampled)
    found = last.weights.values
    space = Coordinates(calibration)
    target = space.read(fit.gram).mean(0)

    def missed(weights):
        """Distance of the blend's own population from the target's, without sampling noise."""
        return np.abs(blend(weights) - blend(truth)).sum() / 2

    assert missed(found) < 0.12 and missed(found) < 0.75 * missed(fit.calibrated.proportions_)
    assert last.distance < 2.0 * last.chance and np.linalg.norm(target) > 0
    assert (last.weights.interval[:, 0] <= found).all() and (found <= last.weights.interval[:, 1]).all()
    assert last.weights.how == "matched" and len(last.points) == batches(4) - 1


def test_the_search_keeps_the_best_so_far_when_stopped(world, calibration, sampled):
    fit = fit_all(gram_of(world, [0.5, 0.5, 0, 0], 24, 4), calibration)
    ended = plan(stop=lambda: len(sampled) >= 3)
    states = list(search(world, fit, ended, images=12))
    assert states[-1].done == 2 and states[-1].weights is not None and states[-1].distance is None
    with pytest.raises(Unfinished, match="before its end") as early:
        match(world, fit, plan(stop=lambda: len(sampled) >= 6), images=12)
    assert early.value.fit.matched.values.sum() == pytest.approx(1) and fit.matched is None
    with pytest.raises(Unfinished, match="first batch") as early:
        match(world, fit, plan(stop=lambda: True), images=12)
    assert early.value.fit is None


def test_a_stopped_search_goes_on_with_the_batches_it_has(world, calibration, sampled, tmp_path, monkeypatch):
    monkeypatch.setattr(matching, "identities", lambda ensemble: ["world"])  # it has no networks to be known by
    fit = fit_all(gram_of(world, [0.5, 0.5, 0, 0], 24, 4), calibration)
    *_, whole = search(world, fit, plan(), images=12)
    drawn = len(sampled)
    sampled.clear()
    with pytest.raises(Unfinished):
        match(world, fit, plan(work=tmp_path, stop=lambda: len(sampled) >= 3), images=12)
    sampled.clear()
    *_, again = search(world, fit, plan(work=tmp_path), images=12)
    assert len(sampled) == drawn - 2  # the third batch was cut short and is drawn anew
    np.testing.assert_allclose(again.weights.values, whole.weights.values, atol=1e-12)
    sampled.clear()
    *_, _ = search(world, fit, plan(work=tmp_path, guidance=2.0), images=12)
    assert len(sampled) == drawn  # drawn in another way: nothing of it fits


def test_a_target_that_is_one_member_is_matched_by_it(world, calibration, sampled):
    fit = fit_all(gram_of(world, [0, 0, 1, 0], 48, 5), calibration)
    fitted, _ = match(world, fit, plan(), images=24)
    assert fitted.matched.values[2] > 0.75


def test_progress_rises_over_the_whole_search(world, calibration, sampled):
    fit = fit_all(gram_of(world, [0.5, 0.5, 0, 0], 12, 6), calibration)
    seen = []
    list(search(world, fit, plan(progress=lambda done, total, message: seen.append((done, total))), images=4))
    done = [d for d, _ in seen]
    assert done == sorted(done) and seen[-1] == (1000 * batches(4), 1000 * batches(4))


def test_searching_without_a_calibration_says_what_to_do(world, sampled):
    fit = fit_all(gram_of(world, [1, 0, 0, 0], 6, 7))
    for run in (lambda: list(search(world, fit, plan())), lambda: list(METHODS["matched"].run(world, fit, plan()))):
        with pytest.raises(MethodError, match="calibration"):
            run()


def test_the_stated_price_is_what_reading_and_drawing_cost(world, calibration, sampled, monkeypatch):
    monkeypatch.setattr(type(world), "members", property(lambda self: range(4)), raising=False)
    monkeypatch.setattr(type(world), "family", type("Family", (), {"guidance": "batch"}), raising=False)
    fit = fit_all(gram_of(world, [0.25, 0.25, 0.25, 0.25], 12, 8), calibration)
    before = world.calls
    list(search(world, fit, plan(), images=6))
    reading = world.calls - before
    drawing = batches(4) * 6 * 4 * 20
    assert search_evaluations(world, fit, plan(), images=6) == reading + drawing


# ------------------------------------------------------------------------------------------------ the map and its form

def test_the_map_passes_through_precise_points_and_keeps_the_corners(calibration):
    space = Coordinates(calibration)
    at = np.array([0.3, 0.3, 0.2, 0.2])
    bent = space.mixed(at) + 0.5
    smooth = SmoothMap(space, [matching.Point(at, at, bent, 10**9)])
    assert np.allclose(smooth(at[None])[0], bent, atol=1e-3)
    assert np.abs(smooth(np.eye(4)) - space.corners).max() < 0.3
    exact = SmoothMap(space, [matching.Point(at, at, space.mixed(at), 10)])
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 20)
    assert np.allclose(exact(weights), space.mixed(weights))  # readings of exact mixtures leave exact mixtures


def test_the_browsers_form_is_the_map(world, calibration, sampled):
    fit = fit_all(gram_of(world, [0.5, 0.2, 0.3, 0], 24, 9), calibration)
    space = Coordinates(calibration)
    target = space.read(fit.gram).mean(0)
    weights = np.random.default_rng(1).dirichlet(np.ones(4), 30)
    form = distance_form(fit)
    ours = np.linalg.norm(weights @ np.array(form["a"]) + form["b"], axis=1)
    assert np.allclose(ours, np.linalg.norm(space.mixed(weights) - target, axis=1))
    fitted, found = match(world, fit, plan(), images=12)
    form = distance_form(fitted, found)
    near = np.exp(-((weights[:, None] - np.array(form["at"])) ** 2).sum(-1) / (2 * form["length"] ** 2))
    ours = np.linalg.norm(weights @ np.array(form["a"]) + form["b"] + near @ np.array(form["amounts"]), axis=1)
    assert np.allclose(ours, np.linalg.norm(SmoothMap(space, found.points)(weights) - target, axis=1))
    assert form["best"] <= ours.min() + 0.05
