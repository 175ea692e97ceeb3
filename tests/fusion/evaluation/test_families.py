"""Families of near-copies: estimates and intervals that take each for one draw, against draws repeated many times."""

from types import SimpleNamespace

import numpy as np
import pytest

from fusion.evaluation.diversity import copies, diversity
from fusion.evaluation.estimate import jackknife_variance
from fusion.evaluation.families import Descent, effective, families_of, joined, labels, resampled_means
from fusion.evaluation.features import difference_of_distances, distance_of_means
from fusion.evaluation.kid import Sums, difference, kid

FOUR = np.repeat(np.arange(12), 4)  # 12 families of 4


def near_copies(rng, families=FOUR, dimensions=4):
    """Samples (N, F) of a standard normal population, near-copies within each family."""
    base = rng.normal(size=(families.max() + 1, dimensions))
    return np.sqrt(0.96) * base[families] + 0.2 * rng.normal(size=(len(families), dimensions))


def covers(estimates, truth):
    return np.mean([one.low <= truth <= one.high for one in estimates])


def test_labels_and_the_number_of_independent_samples():
    samples = [SimpleNamespace(family=f, seed=n) for n, f in enumerate((None, ("a cat", 1), None, ("a cat", 1), ("a dog", 1)))]
    assert families_of(samples).tolist() == [0, 1, 2, 1, 3]
    grid = [SimpleNamespace(family=None, seed=seed) for _prompt in range(3) for seed in (7, 8)]  # one noise under three prompts
    assert families_of(grid).tolist() == [0, 1, 0, 1, 0, 1] and effective(families_of(grid)) == 2
    assert effective(families_of(samples)) == pytest.approx(25 / 7) and effective(np.arange(9)) == 9 and effective(np.zeros(9, int)) == 1
    assert labels(["b", "a", "b"], 3).tolist() == [1, 0, 1] and labels(None, 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="one label for each"):
        labels([1, 2], 3)


def test_joined_families_hold_both_labellings_whole():
    assert joined(np.array([0, 0, 1, 2, 3]), np.array([0, 1, 1, 2, 2])).tolist() == [0, 0, 0, 1, 1]
    assert joined(np.arange(4), np.arange(4)).tolist() == [0, 1, 2, 3]


def test_leaving_a_family_out_is_measuring_without_it():
    rng, families = np.random.default_rng(0), np.array([0, 1, 0, 2, 3, 3, 3])
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    rest = [np.flatnonzero(families != f) for f in range(4)]
    assert Sums.of(x, y, families).without_x() == pytest.approx([Sums.of(x[at], y, families[at]).value() for at in rest], rel=1e-10)
    groups = np.array([0, 0, 0, 1, 2, 2, 2])  # families 0 and 1 together
    together = [kid(x[at], y, families[at]).value for at in (np.flatnonzero(groups != g) for g in (1, 2))]
    assert Sums.of(x, y, families).without_x(groups)[1] == pytest.approx(together[0], rel=1e-10)
    spread = np.array([diversity(x[at], y, families[at]).value for at in rest if len(set(families[at])) >= 3])
    assert len(spread) == 4 and jackknife_variance(spread) > 0
    picked = resampled_means(x, families, np.array([[0, 0, 3, 1]]))
    assert picked[0] == pytest.approx(np.concatenate([x[[0, 2]], x[[0, 2]], x[4:], x[[1]]]).mean(0))


def test_kid_of_near_copies_is_unbiased_and_its_interval_covers():
    rng = np.random.default_rng(1)
    sets = [(near_copies(rng), rng.normal(size=(100, 4))) for _ in range(200)]
    blind, told = ([kid(x, y, families) for x, y in sets] for families in (None, FOUR))
    values = np.array([e.value for e in told])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(200)
    assert covers(told, 0) > 0.9 and covers(blind, 0) < 0.7  # taken for 48 independent draws they look far from their own population


def test_diversity_of_near_copies_covers():
    rng = np.random.default_rng(2)
    sets = [(near_copies(rng), rng.normal(size=(30, 4))) for _ in range(200)]
    assert covers([diversity(x, y, FOUR) for x, y in sets], 1) > 0.88 > 0.8 > covers([diversity(x, y) for x, y in sets], 1)


@pytest.mark.parametrize("paired", [False, True])
def test_differences_between_near_copies_are_claimed_as_seldom_as_promised(paired):
    rng, kid_leads, mean_leads, blind = np.random.default_rng(3), [], [], []
    for seed in range(150):
        a, b, y = near_copies(rng), rng.normal(size=(48, 4)), rng.normal(size=(30, 4)) + 0.3
        kid_leads.append(difference(a, b, y, paired=paired, families=(FOUR, None)))
        mean_leads.append(difference_of_distances(a, b, y, paired=paired, draws=200, seed=seed, families=(FOUR, None)))
        blind.append(difference_of_distances(a, b, y, paired=paired, draws=200, seed=seed))
    assert covers(kid_leads, 0) > 0.88 and covers(mean_leads, 0) > covers(blind, 0) + 0.1 and covers(mean_leads, 0) > 0.82


def test_the_distance_of_means_knows_how_far_chance_takes_near_copies():
    rng = np.random.default_rng(4)
    found = [distance_of_means(near_copies(rng), rng.normal(size=(30, 4)), families=FOUR, draws=200, seed=i) for i in range(60)]
    assert np.mean([e.value for e in found]) == pytest.approx(np.mean([e.floor for e in found]), rel=0.15)


def test_copies_of_one_copy_are_one_piece_of_evidence():
    rng = np.random.default_rng(5)
    fitted, held_out = rng.normal(size=(6, 8)), rng.normal(size=(9, 8))
    samples = np.concatenate([fitted[:1] + 0.01 * rng.normal(size=(4, 8)), rng.normal(size=(8, 8)) + 3])
    alone, told = copies(samples, fitted, held_out), copies(samples, fitted, held_out, [0] * 4 + list(range(1, 9)))
    assert alone.which == told.which == (0, 1, 2, 3) and alone.share == told.share
    assert alone.flagged is False or alone.p_value < told.p_value
    assert told.p_value == pytest.approx(9 / 18)  # one family of 9 comes before 9 held-out images


def test_too_few_families_claim_nothing():
    rng = np.random.default_rng(6)
    x, y, two = rng.normal(size=(8, 3)), rng.normal(size=(5, 3)), [0] * 4 + [1] * 4
    with pytest.raises(ValueError, match="2 particles"):
        kid(x, y, two)
    with pytest.raises(ValueError, match="2 particles"):
        diversity(x, y, two)
    assert distance_of_means(x, y, families=two).high == np.inf
    assert difference_of_distances(x, x[::-1], y, families=(two, None)).low == -np.inf
    across, along = [0, 0, 0, 1, 1, 1, 2, 3], [0, 1, 2, 2, 3, 4, 4, 4]  # together they leave one group
    assert difference(x, x + 1, y, paired=True, families=(across, along)).high == np.inf


# ------------------------------------------------------------------------------------------------ prompts

def asked(rng, prompts, spread=1.0):
    """Pictures (N, 4) of which much is what the prompt asks for."""
    meanings = np.random.default_rng(99).normal(size=(8, 4)) * spread
    return meanings[[int(p) for p in prompts]] + rng.normal(size=(len(prompts), 4))


def test_leaving_pairs_of_one_family_out_does_not_draw_a_method_nearer():
    """Families lie within prompts: without the rule a sampler of the very target would measure below 0."""
    rng, prompts, held = np.random.default_rng(7), [str(i % 8) for i in range(64)], [str(i % 8) for i in range(40)]
    kin = np.array([int(p) * 4 + i // 16 for i, p in enumerate(prompts)])  # pairs of one prompt
    descent = Descent({"barycenter": kin}, {"barycenter": prompts, "single": prompts}, held)
    of, plain = (lambda name: descent.of(name)), []
    values, leads = [], []
    for _ in range(200):
        a, b, y = asked(rng, prompts), asked(rng, prompts), asked(rng, held)
        values.append(kid(a, y, **of("barycenter")).value)
        plain.append(kid(a, y, kin).value)
        both = [of(name) for name in ("single", "barycenter")]
        leads.append(difference(b, a, y, **{key: tuple(one[key] for one in both) for key in both[0]}).value)
    assert np.mean(plain) < -3 * np.std(plain) / np.sqrt(200)
    for found in (values, leads):
        assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)


def test_pairs_of_one_prompt_are_left_out_where_there_are_enough_prompts():
    prompts, held = ["a", "b", "c", "a"], ["a", "b", "d"]
    some = Descent({"barycenter": [0, 1, 2, 0]}, {"barycenter": prompts, "single": prompts}, held)
    assert some.of("single") == {"families": None, "prompts": (prompts, held)} and some.of("barycenter")["families"] == [0, 1, 2, 0]
    assert Descent().of("x") == {"families": None, "prompts": None}
    for own, others in ((["a"] * 4, held), (prompts, ["a", "b", "a"])):
        assert Descent({"barycenter": [0, 0, 1, 2]}, {"barycenter": own}, others).of("barycenter")["prompts"] is None
    rng, left = np.random.default_rng(8), [np.delete(np.arange(4), i) for i in range(4)]
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    k = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    mean = lambda us, vs, ps, qs: np.mean([k(u, v) for u, p in zip(us, ps) for v, q in zip(vs, qs) if p != q])  # noqa: E731
    written = lambda at: (mean(x[at], x[at], np.array(prompts)[at], np.array(prompts)[at]) + mean(y, y, held, held)  # noqa: E731
                          - 2 * mean(x[at], y, np.array(prompts)[at], held))  # fmt: skip
    sums = Sums.of(x, y, None, (prompts, held))
    assert sums.value() == pytest.approx(written(np.arange(4))) and sums.without_x() == pytest.approx([written(at) for at in left])
    with pytest.raises(ValueError, match="3 and 3 prompts for 4 samples"):
        kid(x, y, None, (prompts[:3], held))
