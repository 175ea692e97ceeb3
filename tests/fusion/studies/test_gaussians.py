"""The study `gaussians`: its closed forms against independent ones, its fit and samplers on them, and the whole of it in its quick size."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from fusion.studies import gaussians
from fusion.studies.chains import drawn
from fusion.studies.gaussians import AUXILIARY, TARGET, Line
from fusion.studies.mixtures import PATH, Mixture, distance_of_densities, geometric_average, published_path

MEMBERS = [one.moved(one.mean, one.spread) for one in AUXILIARY]


def test_the_noise_of_a_mixture_is_the_gradient_of_its_density():
    one, level = MEMBERS[1], torch.tensor([-1.0], dtype=torch.float64)
    a, s = (c[0] for c in PATH.coefficients(level))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].requires_grad_()
    noised = torch.distributions.Normal(a * torch.tensor(one.means), ((a * one.deviation) ** 2 + s**2).sqrt())
    log = torch.logsumexp(torch.tensor(one.shares).log() + noised.log_prob(x), 1)
    score = torch.autograd.grad(log.sum(), x)[0]
    assert torch.allclose(one.noise(x.detach(), level.expand(9)), -s * score, atol=1e-6)


def test_moments_and_standard_coordinates():
    samples = TARGET.draw(200_000, np.random.default_rng(0))
    assert TARGET.mean == pytest.approx(samples.mean(), abs=0.05) and TARGET.spread == pytest.approx(samples.std(), abs=0.05)
    moved = TARGET.moved(TARGET.mean, TARGET.spread)
    assert moved.mean == pytest.approx(0, abs=1e-12) and moved.spread == pytest.approx(1)
    line = Line.of(samples)
    assert np.allclose(line.back(line.see(samples)[:, 0].double().numpy()), samples, atol=1e-4)


def test_distances_agree_with_scipy():
    rng = np.random.default_rng(1)
    ours, theirs = TARGET.draw(4000, rng), AUXILIARY[0].draw(4000, rng)
    fine = TARGET.quantiles((np.arange(40_000) + 0.5) / 40_000)
    assert TARGET.distance(theirs) == pytest.approx(wasserstein_distance(theirs, fine), rel=0.01)
    assert TARGET.distance(ours) < 0.3 < TARGET.distance(theirs)
    grid = np.linspace(-20, 20, 40_001)
    exact = distance_of_densities(AUXILIARY[0].density(grid), TARGET.density(grid), grid)
    assert exact == pytest.approx(4.7, abs=0.01)  # 0.5 of the mass from -6 to -3, 0.1 from -6 to 10, 0.4 from 6 to 10


def test_the_geometric_average_of_normals_is_normal():
    one, other = Mixture((0.0,), 1.0, (1.0,)), Mixture((4.0,), 0.5, (1.0,))
    grid = np.linspace(-8, 8, 4001)
    precision = 0.3 / 1.0 + 0.7 / 0.25
    expected = Mixture((0.7 * 4.0 / 0.25 / precision,), precision**-0.5, (1.0,)).density(grid)
    assert np.allclose(geometric_average([one, other], (0.3, 0.7), grid), expected, atol=1e-6)


def test_the_barycenter_reaches_the_exact_average_and_fusion_does_not():
    weights, grid = (0.6, 0.4), np.linspace(-4, 4, 8001)
    exact = geometric_average(MEMBERS, weights, grid)
    quantiles = lambda n: np.interp((np.arange(n) + 0.5) / n, np.cumsum(exact) / exact.sum(), grid)  # noqa: E731
    members, off = [one.noise for one in MEMBERS], {}
    for correct in (False, True):
        z = drawn(members, PATH, weights, (4000, 1), 60, seed=0, correct=correct, batch=4000)[:, 0].numpy()
        off[correct] = wasserstein_distance(z, quantiles(4000))
    assert off[True] < 0.07 and off[False] > 3 * off[True], off


def test_superposition_with_its_proportions_is_the_mixture():
    z = drawn([one.noise for one in MEMBERS], PATH, None, (4000, 1), 60, seed=0, posterior=(0.3, 0.7), batch=4000)[:, 0].numpy()
    shares = tuple(w * p for w, member in zip((0.3, 0.7), MEMBERS) for p in member.shares)
    truth = Mixture(MEMBERS[0].means + MEMBERS[1].means, 0.14, shares)  # deviations differ by a tenth
    assert truth.distance(z) < 0.05


def test_level_weights_of_the_published_path_are_shares_of_its_time():
    edges = torch.linspace(-11, 7, 13)
    share = published_path().level_weights(edges)["simple"].numpy()
    t = np.random.default_rng(0).uniform(1e-5, 1, 200_000)
    levels = np.log((25.0 ** (2 * t) - 1) / (2 * np.log(25.0)))
    drawn_share = np.histogram(levels, edges.numpy())[0]
    assert np.allclose(share, drawn_share / drawn_share.sum(), atol=0.003)


# ------------------------------------------------------------------------------------------------ the whole study


def run(folder, **more):
    return gaussians.run(folder / "out", folder / "work", quick=True, **{"seeds": None, "progress": None, "stop": lambda: False} | more)


def test_the_quick_study_writes_its_page_and_goes_on_where_it_was(tmp_path):
    (tmp_path / "out").mkdir()
    calls = iter(range(10**9))
    assert run(tmp_path, stop=lambda: next(calls) > 100) == {"stopped": True} and not list((tmp_path / "out").iterdir())
    begun = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "work").glob("member-*")}
    told = []
    summary = run(tmp_path, progress=lambda done, total, message: told.append((done, total)))
    assert begun and all((tmp_path / "work" / name).stat().st_mtime_ns == when for name, when in begun.items())
    assert told[-1][0] == told[-1][1] and json.loads(json.dumps(summary)) == summary
    page = (tmp_path / "out" / "README.md").read_text()
    assert "python -m fusion study gaussians" in page and "0.5781" in page and str(tmp_path) not in page
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) > 60
    assert (tmp_path / "out" / "curves.svg").stat().st_size < 150_000
    first = page
    run(tmp_path)
    assert (tmp_path / "out" / "README.md").read_text() == first


def test_results_of_other_settings_are_not_mixed(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="other settings"):
        run(tmp_path)
