"""What a fit says of its two answers: never more than the intervals bear out, and the pull towards equal only where there was one."""

from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest

from fusion.commands import shared
from fusion.fitting import Fit
from fusion.images import Intake
from fusion.objective import fit_gram
from fusion.ui import engine, jobs
from tests.fusion import small


def fitted(published, shares, widths) -> Fit:
    """A fit of four models with calibrated intervals of these half-widths."""
    shares, widths = np.array(shares), np.array(widths)
    interval = np.clip(np.stack([shares - widths, shares + widths], 1), 0, 1)
    gram = type("Gram", (), {"names": ("ada", "bea", "cyd", "dot"), "__len__": lambda self: 12})()
    calibrated = SimpleNamespace(proportions_=shares, interval_=interval)
    return Fit(gram, SimpleNamespace(weights_=np.array(published)), None, None, calibrated)


@pytest.mark.parametrize(("published", "shares", "widths", "verdict", "word"), [
    ([0.4, 0.2, 0.2, 0.2], [0.9, 0.05, 0.03, 0.02], [0.1] * 4, "evened", "ada 40% where its calibrated share is 90%, because averaging"),
    ([0.0, 0.0, 0.82, 0.18], [0.08, 0.01, 0.71, 0.2], [0.05] * 4, "mixed", "cyd 82% where its calibrated share is 71%, because the loss"),
    ([0.0, 0.0, 0.82, 0.18], [0.08, 0.01, 0.71, 0.2], [0.2] * 4, "open", "12 images cannot tell"),
    ([0.37, 0.29, 0.0, 0.34], [0.41, 0.25, 0.01, 0.33], [0.5, 0.5, 0.2, 0.6], "open", "12 images cannot tell"),  # alike, but undecided
    ([0.37, 0.29, 0.0, 0.34], [0.41, 0.25, 0.01, 0.33], [0.01] * 4, "agree", "within 10%"),
    ([0.5, 0.5, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0], [0.1, 0.3, 0.0, 0.0], "evened", "ada 50%"),
])  # fmt: skip
def test_a_fit_says_what_its_intervals_bear_out(published, shares, widths, verdict, word):
    found = fitted(published, shares, widths)
    assert found.verdict() == verdict and word in found.explain()


def test_a_wide_interval_is_undecided():
    assert fitted([1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.3, 0.1, 0, 0]).undecided
    assert not fitted([1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.1, 0, 0]).undecided
    assert not Fit(None, None, None, None).undecided and Fit(None, None, None, None).verdict() == "uncalibrated"


def test_a_picture_s_noise_is_its_own(tiny_ensemble):
    """Taking one picture away, or adding one in front, changes nothing of the others: not even what is asked of the networks."""
    ensemble, pictures, captions = tiny_ensemble("sd"), small.pictures(4), ["a", "b", "c", "d"]
    every = fit_gram(ensemble, pictures, captions, levels=2)
    fewer = fit_gram(ensemble, pictures[1:], captions[1:], levels=2)
    np.testing.assert_array_equal(fewer.levels, every.levels[1:])
    np.testing.assert_allclose(fewer.plain, every.plain[1:], rtol=1e-4)  # a batch of other pictures rounds otherwise
    assert np.abs(fewer.plain / every.plain[:-1] - 1).max() > 1e-3, "the pictures differ by more than rounding"


def test_page_and_command_measure_one_statistic(tiny_cards):
    cards, pictures, captions = tiny_cards("sd"), small.pictures(3), ["a cat", "a dog", "a cat"]
    by_page = engine.measured(cards, pictures, captions, 2, 1, job=jobs.Job("fit", lambda job: None))
    args = Namespace(calibrate=0, calibration=None, levels=2)
    intakes = [Intake(picture, f"{n}.png") for n, picture in enumerate(pictures)]
    by_command = shared.fitted(args, engine.ensemble(cards), intakes, captions, None, lambda: False).gram
    np.testing.assert_array_equal(by_page.levels, by_command.levels)
    np.testing.assert_array_equal(by_page.plain, by_command.plain)
