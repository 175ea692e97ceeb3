"""KID against sums written out and against closed forms; its intervals against what repeated draws do."""

import numpy as np
import pytest

from fusion.evaluation.kid import Sums, difference, kid


def written_out(x, y):
    """The estimator of the paper, entry by entry."""
    k = lambda a, b: (sum(p * q for p, q in zip(a, b)) / len(a) + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    within = lambda z: sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))  # noqa: E731
    return within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.4


def test_kid_is_the_published_estimator(sets):
    assert kid(*sets).value == pytest.approx(written_out(*sets), rel=1e-12)


def test_leaving_images_out_is_measuring_without_them(sets):
    x, y = sets
    sums = Sums.of(x, y)
    assert sums.without_x() == pytest.approx([written_out(np.delete(x, i, 0), y) for i in range(7)], rel=1e-10)
    assert sums.without_y() == pytest.approx([written_out(x, np.delete(y, j, 0)) for j in range(5)], rel=1e-10)


def test_shifted_normals_measure_their_closed_form():
    """For N(m, I) against N(0, I) with F features: moments of x.y/F are known up to the third, so the expectation is a polynomial."""
    F, shift, rng = 4, 0.5, np.random.default_rng(1)
    mean = np.full(F, shift)

    def expected(a, b):  # E (x.y / F + 1)^3 for independent x ~ N(a, I), y ~ N(b, I)
        aa, bb, ab = a @ a, b @ b, a @ b
        second, third = aa + bb + F + ab**2, ab**3 + 3 * ab * (aa + bb + F) + 6 * ab
        return third / F**3 + 3 * second / F**2 + 3 * ab / F + 1

    zero = np.zeros(F)
    truth = expected(mean, mean) + expected(zero, zero) - 2 * expected(mean, zero)
    found = [kid(rng.normal(size=(60, F)) + mean, rng.normal(size=(40, F))) for _ in range(300)]
    values = np.array([e.value for e in found])
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / np.sqrt(300))
    assert 0.88 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.995


def test_one_population_measures_zero_on_average_at_any_number_of_images():
    rng = np.random.default_rng(2)
    for n, m in ((6, 4), (30, 12)):
        values = np.array([kid(rng.normal(size=(n, 5)), rng.normal(size=(m, 5))).value for _ in range(400)])
        assert abs(values.mean()) < 4 * values.std() / 20 and (values < 0).any()


def test_a_difference_is_signed_and_narrower_than_the_two_distances(sets):
    rng = np.random.default_rng(3)
    noise, y = rng.normal(size=(80, 4)), rng.normal(size=(40, 4))
    near, far = noise + 0.1, noise + 0.6
    lead = difference(far, near, y, paired=True)
    assert lead.value == pytest.approx(kid(far, y).value - kid(near, y).value) and lead.low > 0
    assert difference(near, far, y, paired=True).high < 0
    alone = (kid(far, y).high - kid(far, y).low) + (kid(near, y).high - kid(near, y).low)
    apart = difference(far, near, y)
    assert lead.high - lead.low < apart.high - apart.low < alone
    wider = difference(far, near, y, paired=True, level=0.999)
    assert wider.low < lead.low and wider.high > lead.high


def test_equal_methods_are_told_apart_as_seldom_as_promised():
    rng = np.random.default_rng(4)
    leads = [difference(rng.normal(size=(40, 3)), rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) + 0.3) for _ in range(200)]
    assert np.mean([lead.low > 0 or lead.high < 0 for lead in leads]) < 0.1


def test_refusals(sets):
    x, y = sets
    with pytest.raises(ValueError, match="at least 3"):
        kid(x[:2], y)
    with pytest.raises(ValueError, match="same network"):
        kid(x, y[:, :2])
    with pytest.raises(ValueError, match="paired"):
        difference(x, y, y, paired=True)
