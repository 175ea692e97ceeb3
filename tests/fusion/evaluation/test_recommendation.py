"""The recommendation on rows made for it: the nearest method, the honest doubt, the price, and never the loss."""

import re

import numpy as np
import pytest

from fusion.evaluation import Estimate, Row
from fusion.evaluation.families import Descent
from fusion.evaluation.features import difference_of_distances, distance_of_means
from fusion.evaluation.kid import kid
from fusion.evaluation.recommendation import price, recommend
from fusion.methods import Cost


def case(shifts: dict, count: int = 60, costs: dict | None = None, kind: str = "kid"):
    """Rows and readings of methods whose samples lie `shift` from the target, same noise in every method, and the held-out readings."""
    rng = np.random.default_rng(0)
    noise, held_out = rng.normal(size=(count, 4)), rng.normal(size=(count, 4))
    readings = {name: noise + shift for name, shift in shifts.items()}
    measure = kid if kind == "kid" else distance_of_means
    rows = [
        Row(name, name.title(), {}, (costs or {}).get(name, Cost(10, 1)), loss=Estimate(9 - i, 0, 10), **{kind: measure(x, held_out)})
        for i, (name, x) in enumerate(readings.items())
    ]
    return rows, readings, held_out


def test_a_clear_lead_is_recommended_with_its_price():
    rows, readings, held = case({"single": 0.8, "uniform": 0.5, "mixture": 0.0}, costs={"mixture": Cost(40, 1.5, 30, 500)})
    found = recommend(rows, readings, held, paired=True)
    assert found.method == "mixture" and found.decided and found.ties == () and found.lead.low > 0
    assert found.sentence.startswith("Recommended: Mixture. It comes nearer to the held-out images than the best single model by more than")
    assert re.fullmatch(r".*\(KID −?0\.\d+ against \d\.\d+\)\.", found.sentence) and found.rival == "single"
    sure, price = found.details
    assert "by 60 samples a method and 60 held-out images." in sure and "95 % interval" in sure
    assert "4 times the network evaluations" in price and "1.5 times the memory" in price
    assert "about 30 s of training and 500 evaluations of preparation once" in price


def test_the_verdict_is_one_short_sentence():
    shifts = {"single": 0.3, **{f"method {n}": 0.3 + 0.001 * n for n in range(12)}, "mixture": 0.28}
    rows, readings, held = case(shifts, count=12)
    found = recommend(rows, readings, held, copying=["method 3"])
    assert len(found.ties) == 12 and len(found.sentence) < 160 and found.sentence.count(". ") == 1
    assert not any(row.title in found.sentence for row in rows if row.method in found.ties and row.method != found.rival)


def test_a_lead_within_noise_says_so_and_names_the_cheapest():
    rows, readings, held = case({"single": 0.3, "mixture": 0.26}, count=12, costs={"mixture": Cost(40, 1)})
    found = recommend(rows, readings, held)
    assert found.method == "mixture" and not found.decided and found.ties == ("single",)
    assert found.sentence.startswith("Recommended, but not certain: Mixture. Its lead over the best single model is within noise (KID")
    assert found.details[0].endswith("by 12 samples a method and 12 held-out images: draw more to be sure.")
    assert found.details[1].endswith("; of those not told apart, Single costs least.")


def test_a_single_model_that_leads_within_noise_is_as_uncertain():
    rows, readings, held = case({"single": 0.26, "mixture": 0.3}, count=12)
    found = recommend(rows, readings, held)
    assert found.method == "single" and not found.decided and found.sentence.startswith("Recommended, but not certain: Single. Its lead")
    assert "over the next, Mixture, is within noise" in found.sentence and "draw more to be sure" in found.details[0]


def test_of_equal_costs_the_simplest_is_named():
    rows, readings, held = case({"merge": 0.26, "uniform": 0.28, "single": 0.3}, count=12, costs={"uniform": Cost(40, 1)})
    found = recommend(rows, readings, held)
    assert found.method != "single" and "Single costs least" in found.details[1]
    rows, readings, held = case({"merge": 0.26, "switch": 0.28, "mixture": 0.3}, count=12)
    assert "Mixture costs least" in recommend(rows, readings, held).details[1]  # no single model: the order of METHODS


def test_a_method_that_repeats_fitted_images_is_not_recommended():
    rows, readings, held = case({"single": 0.8, "uniform": 0.4, "finetune": 0.0})
    found = recommend(rows, readings, held, paired=True, copying=["finetune"])
    assert found.method == "uniform" and found.decided and found.copying == ("finetune",) and "finetune" not in found.ties
    assert "Left out for repeating images it was fitted to: Finetune (nearer: KID" in found.details[2] and found.value == rows[1].kid.value
    none = recommend(rows[1:], readings, held, copying=["finetune"])
    assert none.method is None and none.copying == ("finetune",) and none.details[0].endswith("fitted to: Finetune.")


def test_a_method_that_had_nothing_to_correct_is_not_recommended():
    rows, readings, held = case({"single": 0.8, "uniform": 0.4, "barycenter": 0.0, "finetune": 0.1})
    found = recommend(rows, readings, held, paired=True, copying=["finetune"], uncorrected=["barycenter"])
    assert found.method == "uniform" and found.uncorrected == ("barycenter",) and not {"barycenter", "finetune"} & set(found.ties)
    assert "fitted to: Finetune (nearer" in found.details[2] and "none was corrected: Barycenter (nearer" in found.details[3]


def test_where_nothing_is_left_to_compare_the_sentence_says_why():
    rows, readings, held = case({"single": 0.8, "finetune": 0.0, "transfer": 0.1})
    one = recommend(rows, readings, held, copying=["finetune", "transfer"])
    none = recommend(rows[1:], readings, held, copying=["finetune", "transfer"])
    assert one.method is None and "Single alone was not left out" in one.sentence and "Finetune; Transfer." in one.details[0]
    assert none.method is None and "every method was left out" in none.sentence
    rows, readings, held = case({"single": 0.8, "switch": 0.8})
    same = recommend(rows, readings | {"switch": readings["single"]}, held)
    assert same.method is None and "Single, Switch drew the same images (Single costs least)" in same.sentence
    assert "There is no evidence" not in one.sentence + none.sentence + same.sentence


def test_the_single_model_is_recommended_where_nothing_is_nearer():
    rows, readings, held = case({"uniform": 0.9, "single": 0.0, "mixture": 0.6})
    found = recommend(rows, readings, held, paired=True)
    assert found.method == "single" and found.decided and found.sentence.startswith("Recommended: Single. The next, Mixture, is")
    assert "farther by more than chance explains" in found.sentence


def test_methods_that_cannot_be_told_from_the_best_are_named():
    rows, readings, held = case({"single": 1.0, "mixture": 0.01, "merge": 0.0}, costs={"merge": Cost(40, 2)})
    found = recommend(rows, readings, held)
    assert found.decided and set(found.ties) == {"merge", "mixture"} - {found.method}


def test_a_method_with_the_very_same_samples_is_no_rival():
    rows, readings, held = case({"single": 0.0, "switch": 0.0, "mixture": 0.8})
    found = recommend(rows, readings, held, paired=True)
    assert found.method == "single" and found.ties == ("switch",) and found.decided and "The next, Mixture" in found.sentence
    assert recommend(rows[:2], readings, held).method is None


def test_the_best_single_model_is_named_before_its_own_row():
    rows, readings, held = case({"single/ada": 0.0, "single": 0.0, "single/bea": 0.8})
    found = recommend(rows, readings, held, paired=True)
    assert found.method == "single" and found.ties == ("single/ada",) and found.sentence.startswith("Recommended: Single. The next")


def test_families_make_a_lead_less_certain():
    rows, readings, held = case({"single": 0.5, "barycenter": 0.0})
    kin = np.repeat(np.arange(12), 5)
    readings["barycenter"] = readings["barycenter"][kin] + 0.1 * np.random.default_rng(1).normal(size=(60, 4))
    sure, unsure = (recommend(rows, readings, held, descent=Descent(families)) for families in ({}, {"barycenter": kin}))
    width = lambda found: found.lead.high - found.lead.low  # noqa: E731
    assert sure.method == unsure.method == "barycenter" and width(unsure) > 1.2 * width(sure)


def test_the_loss_recommends_nothing():
    rows, readings, held = case({"single": 0.0, "uniform": 0.9})  # uniform has the lower loss
    assert recommend(rows, readings, held, paired=True).method == "single"
    alone = [Row("single", "Single", {}, loss=Estimate(2, 1, 3)), Row("uniform", "Uniform", {}, loss=Estimate(1, 0.5, 1.5))]
    found = recommend(alone, {}, held)
    assert found.method is None and "no method is recommended" in found.sentence and not found.decided


def test_choosing_the_nearest_of_many_is_not_taken_for_a_lead():
    """Twelve equal methods: one is nearest by chance, and a lead is claimed no more often than 5 %."""
    rng, decided = np.random.default_rng(1), []
    for _ in range(60):
        held = rng.normal(size=(24, 3)) + 0.4
        readings = {name: rng.normal(size=(24, 3)) for name in ("single", *(f"m{i}" for i in range(11)))}
        rows = [Row(name, name, {}, Cost(1, 1), kid=kid(x, held)) for name, x in readings.items()]
        decided.append(recommend(rows, readings, held).decided)
    assert np.mean(decided) <= 0.08


def test_calibrated_features_serve_where_there_is_no_kid():
    rows, readings, held = case({"single": 0.8, "mixture": 0.0}, kind="features")
    found = recommend(rows, readings, held, kind="features", paired=True)
    assert found.method == "mixture" and found.kind == "features" and found.decided and "calibrated features" in found.sentence


@pytest.mark.parametrize("samples, images", [(1, 20), (2, 20), (20, 1), (20, 2)])
def test_too_few_images_give_no_interval_and_no_certainty(samples, images):
    rows, readings, held = case({"single": 9.0, "mixture": 0.0}, count=20, kind="features")
    found = recommend(rows, {name: x[:samples] for name, x in readings.items()}, held[:images], kind="features", paired=True)
    assert found.method == "mixture" and not found.decided and found.lead.low == -np.inf
    assert "so few images give no interval" in found.details[0] and "within noise" in found.sentence
    assert f"and {images} held-out image{'s' if images > 1 else ''}: draw more" in found.details[0]
    whole = distance_of_means(readings["single"][:samples], held[:images])
    assert (whole.low, whole.high) == (0.0, np.inf)


@pytest.mark.parametrize("count", [3, 8, 16])
def test_few_images_are_as_seldom_certain_as_many(count):
    rng, claimed = np.random.default_rng(5), 0
    for seed in range(300):
        a, b, v = rng.normal(size=(count, 3)), rng.normal(size=(count, 3)), rng.normal(size=(48, 3))
        found = difference_of_distances(a, b, v, draws=200, seed=seed, paired=True)
        claimed += found.low > 0 or found.high < 0
    assert claimed / 300 <= 0.09  # 0.05 where the distances are smooth; without Student's quantiles 0.16 at 8


def test_the_floor_is_what_two_sets_of_one_population_measure_on_average():
    rng = np.random.default_rng(6)
    found = [distance_of_means(rng.normal(size=(5, 3)), rng.normal(size=(96, 3)), draws=200, seed=i) for i in range(300)]
    measured = np.mean([one.value for one in found])
    assert 0.8 * measured < np.mean([one.floor for one in found]) <= measured  # a bootstrap of five is too narrow, never too wide


def test_differences_of_distances_are_signed_and_cover():
    rng, inside = np.random.default_rng(2), []
    for seed in range(100):
        a, b, v = rng.normal(size=(50, 2)) + [1.5, 0], rng.normal(size=(50, 2)) + [0.5, 0], rng.normal(size=(40, 2))
        found = difference_of_distances(a, b, v, draws=200, seed=seed)
        inside.append(found.low <= 1.0 <= found.high)
    assert 0.85 <= np.mean(inside) <= 1.0
    assert difference_of_distances(b, a, v).value == pytest.approx(-difference_of_distances(a, b, v).value)
    with pytest.raises(ValueError, match="paired"):
        difference_of_distances(a[:3], b, v, paired=True)


def test_price_in_words():
    row = lambda name, cost: Row(name, name.title(), {}, cost)  # noqa: E731
    assert price(row("a", Cost(10, 1)), row("single", Cost(10, 1))) == "at no more than the cost of the single model"
    assert "a cost that was not stated" in price(row("a", None), row("single", Cost(10, 1)))
