"""Diversity and copies: ratios written out, exact probabilities by counting orders, and what each must and must not notice."""

import itertools

import numpy as np
import pytest

from fusion.evaluation.diversity import copies, diversity


def test_diversity_is_a_ratio_of_mean_distances():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(5, 3))
    mean = lambda z: np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(z, 2)])  # noqa: E731
    found = diversity(x, y)
    assert found.value == pytest.approx(mean(x) / mean(y), rel=1e-12) and found.low < found.value < found.high
    assert diversity(3 * x, 3 * y).value == pytest.approx(found.value) and diversity(x, x).value == pytest.approx(1.0)


def test_its_interval_covers_and_notices_narrow_samples():
    rng = np.random.default_rng(1)
    found = [diversity(rng.normal(size=(40, 4)), rng.normal(size=(30, 4))) for _ in range(200)]
    assert 0.88 <= np.mean([e.low <= 1 <= e.high for e in found]) <= 0.99
    assert diversity(0.5 * rng.normal(size=(40, 4)), rng.normal(size=(30, 4))).high < 0.7


def test_fresh_images_are_copies_as_often_as_chance_says():
    rng = np.random.default_rng(2)
    found = [copies(rng.normal(size=(20, 6)), rng.normal(size=(5, 6)), rng.normal(size=(9, 6))) for _ in range(500)]
    assert np.mean([c.share for c in found]) == pytest.approx(0.1, abs=0.02) and found[0].chance == 0.1
    assert np.mean([c.flagged for c in found]) <= 0.03  # at level 0.01


def test_the_probability_of_so_many_copies_is_exact():
    """Three samples and two held-out images in a random order: in how many of all orders do the first two come from the samples?"""
    fitted, samples, held_out = np.zeros((1, 1)), np.array([[1.0], [2.0], [9.0]]), np.array([[3.0], [4.0]])
    found = copies(samples, fitted, held_out)
    orders = set(itertools.permutations("sssHH"))
    assert found.which == (0, 1) and found.p_value == pytest.approx(sum(o[:2] == ("s", "s") for o in orders) / len(orders))


def test_repeated_images_are_flagged():
    rng = np.random.default_rng(3)
    fitted, held_out = rng.normal(size=(6, 8)), rng.normal(size=(48, 8))
    mixed = np.concatenate([fitted[:5] + 0.01, rng.normal(size=(19, 8))])
    found = copies(mixed, fitted, held_out)
    assert found.flagged and set(found.which) == set(range(5)) and found.share < 0.5


def test_refusals():
    with pytest.raises(ValueError, match="at least 3"):
        diversity(np.zeros((2, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="same picture"):
        diversity(np.random.default_rng(0).normal(size=(4, 2)), np.ones((5, 2)))
