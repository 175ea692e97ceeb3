"""Every way of drawing: same seed and same noise everywhere, routing, weights, stopping, prices."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.methods import METHODS, TRAINED, MethodError, SamplingPlan
from fusion.methods import drawing as drawing_module
from fusion.methods.drawing import checked_weights, memory_ratio, normalised
from fusion.methods.mixture import route
from fusion.methods.single import best_single, singles
from fusion.weights import Weights
from models.loading import load_ensemble
from tests import tiny
from tests.fusion import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def ensemble(folder):
    return small.ensemble(folder)


@pytest.fixture(scope="module")
def fit(ensemble):
    return small.fit(ensemble)


def plan(**changes):
    return SamplingPlan(**{"prompts": ["a cat"], "seeds": [0, 1, 2, 3, 4], "steps": 3, "batch_size": 2} | changes)


def arrays(samples):
    return {(s.prompt, s.seed): np.asarray(s.image) for s in samples}


def names_of(method):
    return [s.member for s in method]


# ------------------------------------------------------------------------------------------------ plans

def test_prompts_and_seeds_are_paired_and_single_ones_repeated():
    assert plan().jobs == [("a cat", s) for s in range(5)]
    assert plan(prompts=["a", "b"], seeds=[7]).jobs == [("a", 7), ("b", 7)]
    assert plan(prompts=["a", "b"], seeds=[7, 8]).jobs == [("a", 7), ("b", 8)]
    assert SamplingPlan.grid(["a", "b"], [7, 8]).jobs == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]


@pytest.mark.parametrize("changes", [
    {"prompts": []}, {"seeds": []}, {"prompts": ["a", "b"], "seeds": [1, 2, 3]}, {"seeds": [-1]}, {"steps": 0}, {"batch_size": 0},
])  # fmt: skip
def test_impossible_plans_are_refused(changes):
    with pytest.raises(MethodError):
        _ = plan(**changes).jobs


# ------------------------------------------------------------------------------------------------ drawing

def test_every_method_draws_every_job_and_names_itself(ensemble, fit):
    matched = dataclasses.replace(fit, matched=Weights(np.array([0.2, 0.3, 0.5]), None, ensemble.names, "matched"))
    for name, method in METHODS.items():
        samples = list(method.run(ensemble, matched, plan(trained=small.trained(ensemble, name) if name in TRAINED else None)))
        assert sorted((s.prompt, s.seed) for s in samples) == plan().jobs
        assert {s.method for s in samples} == {name} and all(s.image.size == (32, 32) for s in samples)
        assert all(s.weights.shape == (3,) and abs(s.weights.sum() - 1) < 1e-9 for s in samples)
        assert all(s.batch[s.place] == (s.prompt, s.seed) for s in samples)


def test_every_method_starts_from_the_same_noise(ensemble, fit, monkeypatch):
    seen = {}
    latents = type(ensemble.pipeline).prepare_latents

    def spy(self, *args, **kwargs):
        out = latents(self, *args, **kwargs)
        seen.setdefault(current, []).append(out.clone())
        return out

    monkeypatch.setattr(type(ensemble.pipeline), "prepare_latents", spy)
    for current in ("single", "uniform", "scorefusion", "scorefusion_levels"):
        list(METHODS[current].run(ensemble, fit, plan()))
    first = torch.cat(seen["single"])
    for name, parts in seen.items():
        assert torch.equal(torch.cat(parts), first), name
    own = torch.randn(first[0].shape, generator=torch.Generator("cpu").manual_seed(3))
    assert torch.equal(first[3], own)  # each image from a generator of its own, whatever batch it is in


def test_single_equals_the_stock_pipeline_alone(ensemble, folder, fit):
    pipeline = ensemble.members[1].new_pipeline("unet")
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(s) for s in (0, 1)]
    stock = pipeline(["a cat"] * 2, num_inference_steps=3, guidance_scale=1.0, generator=generators).images
    ours = list(METHODS["single"].run(ensemble, fit, plan(seeds=[0, 1], weights=[0, 1, 0])))
    assert all(np.array_equal(np.asarray(a), np.asarray(b.image)) for a, b in zip(stock, ours))
    assert names_of(ours) == ["Bea", "Bea"]
    each = singles(ensemble)
    assert list(each) == ["single/Ada", "single/Bea", "single/Cyd"]
    again = list(each["single/Bea"].run(ensemble, None, plan(seeds=[0, 1])))
    assert all(np.array_equal(np.asarray(a), np.asarray(b.image)) for a, b in zip(stock, again))


def test_the_plans_weights_go_before_the_fits(ensemble, fit):
    given_weights = np.array([0.6, 0.0, 0.4])
    for name in ("uniform", "scorefusion", "matched", "mixture"):
        with_fit = arrays(METHODS[name].run(ensemble, fit, plan(weights=given_weights)))
        without = arrays(METHODS[name].run(ensemble, None, plan(weights=given_weights)))
        assert all(np.array_equal(with_fit[key], without[key]) for key in with_fit)


def test_levels_with_equal_rows_are_the_constant_weights(ensemble, fit):
    row = np.array([0.5, 0.25, 0.25])
    by_level = Weights(np.tile(row, (4, 1)), None, ensemble.names, "test", fit.gram.strata)
    constant, levels = METHODS["scorefusion"], METHODS["scorefusion_levels"]
    one, other = arrays(constant.run(ensemble, fit, plan(weights=row))), arrays(levels.run(ensemble, fit, plan(weights=by_level)))
    assert all(np.array_equal(one[key], other[key]) for key in one)
    with pytest.raises(MethodError, match="scorefusion_levels"):
        list(constant.run(ensemble, fit, plan(weights=by_level)))


def test_guidance_and_size_reach_the_pipeline(ensemble, fit):
    plain = list(METHODS["uniform"].run(ensemble, fit, plan(seeds=[1])))[0]
    guided = list(METHODS["uniform"].run(ensemble, fit, plan(seeds=[1], guidance=5.0)))[0]
    wide = list(METHODS["uniform"].run(ensemble, fit, plan(seeds=[1], width=48)))[0]
    assert not np.array_equal(np.asarray(plain.image), np.asarray(guided.image)) and wide.image.size == (48, 32)


@pytest.mark.parametrize("weights", [[1, 0], [0.5, 0.6, 0.1], [1.5, -0.5, 0], [float("nan"), 0.5, 0.5], [[1, 0, 0]]])
def test_unusable_weights_are_refused(ensemble, weights):
    with pytest.raises(MethodError):
        list(METHODS["scorefusion"].run(ensemble, None, plan(weights=weights)))


def test_methods_without_a_fit_say_what_they_need(ensemble, fit):
    for name in ("single", "scorefusion", "scorefusion_levels", "mixture"):
        with pytest.raises(MethodError, match="fit"):
            list(METHODS[name].run(ensemble, None, plan()))
    uncalibrated = dataclasses.replace(fit, calibrated=None)
    with pytest.raises(MethodError, match="calibration"):
        list(METHODS["matched"].run(ensemble, uncalibrated, plan()))
    with pytest.raises(MethodError, match="calibration"):
        METHODS["matched"].cost(ensemble, uncalibrated, plan())
    assert best_single(uncalibrated) == fit.published.best_single_
    assert sum(1 for _ in METHODS["mixture"].run(ensemble, uncalibrated, plan())) == 5  # falls on the likelihood mixture, as documented


# ------------------------------------------------------------------------------------------------ stop, progress

class After:
    """A stop that turns true once it has been asked `count` times."""

    def __init__(self, count):
        self.left, self.asked_after = count, 0

    def __call__(self):
        if self.left == 0:
            self.asked_after += 1
            return True
        self.left -= 1
        return False


def test_stop_ends_within_one_step_and_keeps_whole_batches(ensemble, fit, monkeypatch):
    calls = []
    member = type(ensemble.members[0])
    forward = member.__call__
    monkeypatch.setattr(member, "__call__", lambda self, *a, **k: (calls.append(1), forward(self, *a, **k))[1])
    stop = After(6)  # asked before each of two batches and after each of their 3 steps: turns true in the second batch
    samples = list(METHODS["scorefusion"].run(ensemble, fit, plan(weights=[0.5, 0.5, 0.0], stop=stop)))
    assert [s.seed for s in samples] == [0, 1]
    assert len(calls) == 2 * 3 + 2 * 2  # the second batch ran two of its three steps
    assert stop.asked_after == 1
    assert list(METHODS["scorefusion"].run(ensemble, fit, plan(stop=lambda: True))) == []
    assert list(METHODS["mixture"].run(ensemble, fit, plan(stop=lambda: True))) == []


def test_two_methods_can_be_drawn_in_turns_and_abandoned(ensemble, fit):
    one, other = METHODS["uniform"].run(ensemble, fit, plan()), singles(ensemble)["single/Bea"].run(ensemble, fit, plan())
    turns = [(next(one), next(other)) for _ in range(3)]
    del one
    alone = arrays(METHODS["uniform"].run(ensemble, fit, plan()))
    assert all(np.array_equal(np.asarray(s.image), alone[s.prompt, s.seed]) for s, _ in turns)
    assert not np.array_equal(np.asarray(turns[0][0].image), np.asarray(turns[0][1].image))


def test_the_pipeline_is_whole_again_after_a_stop(ensemble, fit):
    before = arrays(METHODS["uniform"].run(ensemble, fit, plan()))
    network = ensemble.pipeline.unet
    list(METHODS["uniform"].run(ensemble, fit, plan(stop=After(2))))
    assert ensemble.pipeline.unet is network
    after = arrays(METHODS["uniform"].run(ensemble, fit, plan()))
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["uniform", "mixture"])
def test_progress_rises_to_its_total(ensemble, fit, name):
    seen = []
    list(METHODS[name].run(ensemble, fit, plan(progress=lambda done, total, message: seen.append((done, total)))))
    done, totals = [d for d, _ in seen], {t for _, t in seen}
    assert done == sorted(done) and len(totals) == 1 and done[-1] == totals.pop() and len(done) == len(set(done))


def test_unconditional_pipelines_draw_and_stop_too(tmp_path):
    from models.catalog import ModelCard

    paths = [tiny.ddpm(tmp_path / str(i), i) for i in range(2)]
    two = load_ensemble([ModelCard(f"tiny/{i}", f"Model {i}", "ddpm", str(p)) for i, p in enumerate(paths)], device="cpu")
    seen = []
    settings_ = plan(weights=[0.5, 0.5], progress=lambda *a: seen.append(a))
    assert len(list(METHODS["uniform"].run(two, None, settings_))) == 5 and len(seen) == 9
    assert [s.seed for s in METHODS["uniform"].run(two, None, plan(weights=[0.5, 0.5], stop=After(5)))] == [0, 1]
    assert "step" not in vars(two.pipeline.scheduler)


# ------------------------------------------------------------------------------------------------ mixture

def shares_strategy():
    return st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda w: sum(w) > 0.1).map(lambda w: np.array(w) / sum(w))


@given(shares_strategy(), st.integers(0, 2**62), st.integers(20, 400))
@settings(max_examples=60, deadline=None)
def test_consecutive_seeds_meet_the_proportions(shares, start, count):
    routed = route(range(start, start + count), shares)
    counts = np.bincount(routed, minlength=len(shares))
    bound = 3 * (np.log(count) + 1)  # of an additive recurrence with the golden ratio; independent draws stray by sqrt(count)
    assert (abs(counts - count * shares) <= bound).all() and (counts[shares == 0] == 0).all()


@given(shares_strategy(), st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=50))
@settings(max_examples=60, deadline=None)
def test_a_seeds_member_does_not_depend_on_its_company(shares, seeds):
    assert route(seeds, shares).tolist() == [int(route([seed], shares)[0]) for seed in seeds]


def test_random_seeds_are_routed_like_independent_draws():
    seeds = np.random.default_rng(0).integers(0, 2**62, 20_000)
    counts = np.bincount(route(seeds.tolist(), np.array([0.5, 0.3, 0.2])), minlength=3) / len(seeds)
    assert abs(counts - [0.5, 0.3, 0.2]).max() < 4 * np.sqrt(0.25 / len(seeds))


def test_mixture_images_are_those_of_the_members_alone(ensemble, fit):
    shares = np.array([0.5, 0.0, 0.5])
    mixed = list(METHODS["mixture"].run(ensemble, fit, plan(weights=shares, seeds=range(8), batch_size=1)))
    each, one_by_one = singles(ensemble), plan(seeds=range(8), batch_size=1)
    alone = {name: arrays(each[f"single/{name}"].run(ensemble, None, one_by_one)) for name in ("Ada", "Cyd")}
    assert set(names_of(mixed)) == {"Ada", "Cyd"}
    for sample in mixed:
        assert np.array_equal(np.asarray(sample.image), alone[sample.member][sample.prompt, sample.seed])
        assert np.array_equal(sample.weights, shares)


# ------------------------------------------------------------------------------------------------ costs, weights

def test_cost_counts_what_runs(ensemble, fit, monkeypatch):
    calls = []
    member = type(ensemble.members[0])
    forward = member.__call__

    def counted(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        calls.append(len(out))
        return out

    monkeypatch.setattr(member, "__call__", counted)
    by_level = Weights(np.array([[1, 0, 0], [0.5, 0.5, 0]]), None, ensemble.names, "test", np.array([-8.0, 0.0, 8.0]))
    cases = [("uniform", None, 1.0), ("uniform", None, 4.0), ("scorefusion", [0.5, 0.5, 0], 1.0), ("mixture", [0.4, 0.6, 0], 1.0)]
    for name, weights, guidance in cases:
        calls.clear()
        one = plan(weights=weights, guidance=guidance, seeds=range(4))
        list(METHODS[name].run(ensemble, fit, one))
        assert METHODS[name].cost(ensemble, fit, one).evaluations == sum(calls) / 4
    assert METHODS["scorefusion_levels"].cost(ensemble, fit, plan(weights=by_level)).evaluations == 1.5 * 3  # if levels come equally often


def test_memory_ratio_counts_shared_parts_once(ensemble):
    network = sum(p.numel() * 4 for p in ensemble.members[0].network.parameters())
    parts = [ensemble.pipeline.vae, ensemble.pipeline.text_encoder]
    rest = sum(t.numel() * t.element_size() for m in parts for t in [*m.parameters(), *m.buffers()])
    assert memory_ratio(ensemble) == pytest.approx((rest + 3 * network) / (rest + network), rel=1e-3)
    assert memory_ratio(ensemble, [1]) == 1.0


def test_best_single_is_the_member_whose_own_pictures_look_like_the_target(ensemble):
    own = [small.gram(ensemble, small.pictures(12, seed, 70 * seed), seed=seed) for seed in range(3)]
    from fusion.calibration import Calibration
    from fusion.fitting import fit_all

    calibration = Calibration.from_grams(own)
    for member, target in enumerate(own):
        assert best_single(fit_all(target, calibration)) == member


def test_normalised_leaves_exact_weights_alone():
    exact = np.array([0.1, 0.2, 0.7])
    assert normalised(exact) is exact
    assert normalised(np.array([0.333, 0.333, 0.333])).tolist() == pytest.approx([1 / 3] * 3)


def test_checked_weights_takes_off_rounding(ensemble):
    assert (checked_weights(ensemble, np.array([1 + 1e-9, -1e-9, 0.0])) == [1, 0, 0]).all()


def test_draw_module_leaves_no_progress_bar(ensemble, fit, capsys):
    list(drawing_module.draw(ensemble, plan(seeds=[0]), np.array([1.0, 0, 0]), method="test"))
    assert capsys.readouterr().err == ""
