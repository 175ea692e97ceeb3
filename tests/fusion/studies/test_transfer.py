"""The transfer paper's experiments: stacks train like networks apart, samples and posteriors agree with closed forms, studies resume."""

import gzip
import json
import math

import numpy as np
import pytest
import torch

from fusion.evaluation.estimate import Estimate
from fusion.studies import STUDIES, diffusion_paths, transfer_report
from fusion.studies.shared_representation import Encoder, Pairs, Score, Sizes, Training, errors, sample, select, train
from fusion.studies.shelf import Shelf
from fusion.studies.transfer_protocol import Protocol, Runner, World, spread

SIZES = Sizes(x=3, y=4, code=2, score=(2, 32), encoder=(3, 16))


def pairs_of(count, n=64, seed=0):
    """Populations whose x depends on y through two numbers, the same two for all."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(count, n, SIZES.y, generator=generator)
    maps = torch.randn(count, 2, SIZES.x, generator=generator)
    return y[..., :2] @ maps + 0.1 * torch.randn(count, n, SIZES.x, generator=generator), y


# ------------------------------------------------------------------------------------------------ networks and training


def test_a_layer_computes_what_torch_computes():
    stack = Encoder(SIZES, 2, seed=3)
    y = torch.randn(2, 5, SIZES.y)
    for member in range(2):
        x = y[member]
        for number, (weight, bias) in enumerate(zip(stack.layers.weights, stack.layers.biases)):
            x = torch.nn.functional.linear(x, weight[member].T, bias[member, 0])
            x = x.relu() if number < 2 else x
        assert torch.allclose(stack(y)[member], x, atol=1e-6)
    one = select(stack, [1])
    assert torch.allclose(one(y), torch.stack([stack(y[[0, 0]])[1], stack(y)[1]]), atol=1e-6), "one encoder reads every group"


def test_a_stack_trains_like_its_networks_apart(monkeypatch):
    x, y = pairs_of(2)
    drawn, apart = [], []
    original = Pairs.draw
    monkeypatch.setattr(Pairs, "draw", lambda self, batch, generator: drawn.append(original(self, batch, generator)) or drawn[-1])
    noise = torch.Generator().manual_seed(5)
    monkeypatch.setattr("fusion.studies.shared_representation.errors", lambda s, c, x, n, g, **k: errors(s, c, x, n, noise, shared=True))
    start, h = Score(SIZES, 2, 1), Encoder(SIZES, 2, 2)
    score, encoder, plan = select(start, [0, 1]), select(h, [0, 1]), Training(12, 8, 2, 1e-2)
    train(score, encoder, Pairs.all(x, y), plan, seed=4)
    for member in range(2):
        noise.manual_seed(5)
        replay = iter(list(drawn[:12]))
        monkeypatch.setattr(Pairs, "draw", lambda self, *_, replay=replay, member=member: tuple(v[[member]] for v in next(replay)))
        alone = (select(start, [member]), select(h, [member]))
        train(*alone, Pairs.all(x[[member]], y[[member]]), plan, seed=4)
        apart.append(alone)
    for stack, before, singles in ((score, start, [s for s, _ in apart]), (encoder, h, [e for _, e in apart])):
        for name, values in stack.state_dict().items():
            moved = (values - before.state_dict()[name]).square().mean().sqrt()
            off = (values - torch.cat([one.state_dict()[name] for one in singles])).square().mean().sqrt()
            assert moved > 0.01 and off < 0.05 * moved, (name, moved, off)


def test_a_pair_beyond_the_count_is_never_drawn():
    x = torch.arange(20.0).view(2, 10, 1)
    drawn, same = Pairs(x, x, torch.tensor([0, 0, 1]), torch.tensor([2, 5, 3])).draw(200, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, same) and [one.unique().tolist() for one in drawn] == [[0, 1], [0, 1, 2, 3, 4], [10, 11, 12]]


class Gaussian:
    """The exact denoiser of x ~ N(code, variance), for a stack of one."""

    def __init__(self, sizes, variance):
        self.sizes, self.variance = sizes, variance

    def __call__(self, x, angle, code):
        a, s = angle.cos()[..., None], angle.sin()[..., None]
        return code + a * self.variance / (a * a * self.variance + s * s) * (x - a * code)


def test_sampling_with_the_exact_denoiser_gives_its_gaussian():
    code = torch.tensor([[[1.0, -2.0], [0.5, 0.0]]])
    exact = Gaussian(Sizes(2, 1, 2, (2, 1), (2, 1)), 0.3)
    samples = sample(exact, code, 2000, steps=50)
    assert samples.shape == (1, 2, 2000, 2)
    assert torch.allclose(samples.mean(2), code, atol=1e-4), "antithetic noise leaves no error in the mean of a linear map"
    assert torch.allclose(samples.var(2), torch.full((1, 2, 2), 0.3), rtol=0.1)
    with pytest.raises(ValueError, match="antithetic"):
        sample(exact, code, 3)


def test_the_exact_denoiser_has_the_lowest_error_in_both_parametrisations():
    x = torch.randn(1, 400, 2, generator=torch.Generator().manual_seed(0)) * math.sqrt(0.3)
    code = torch.zeros(1, 400, 2)
    for velocity in (True, False):
        sizes = Sizes(2, 1, 2, (2, 1), (2, 1), velocity)
        loss = [errors(Gaussian(sizes, v), code, x, 8, torch.Generator().manual_seed(1)).mean() for v in (0.1, 0.3, 0.9)]
        assert loss[1] < min(loss[0], loss[2])
    score = Score(SIZES, 1, 1)
    plain = Score(Sizes(3, 4, 2, (2, 32), (3, 16), False), 1, 1)
    at, angle, c = torch.randn(1, 7, 3), torch.full((1, 7), 0.4), torch.randn(1, 7, 2)
    assert torch.allclose(score(at, angle, c), math.cos(0.4) * at - math.sin(0.4) * plain(at, angle, c), atol=1e-6)


def test_a_shared_representation_is_learned_and_helps(tmp_path):
    """Four sources whose x depends on two of forty numbers: with h from them a target with 24 pairs is learned better than without."""
    sizes = Sizes(x=3, y=40, code=2, score=(2, 32), encoder=(3, 32))
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(5, 600, 40, generator=generator)
    x = y[..., :2] @ torch.randn(5, 2, 3, generator=generator) + 0.1 * torch.randn(5, 600, 3, generator=generator)
    truth = x[4:, 300:]
    world = World(("t",), x[:4], y[:4], x[4:, :24], y[4:, :24], y[4:, 300:],
                  lambda samples, of: {"error": (samples.mean(2) - truth).square().sum(-1).mean(-1)})  # fmt: skip
    protocol = Protocol(sizes, (24,), Training(500, 64, 4, 3e-3), Training(300, 16, 4, 3e-3), draws=4, steps=10)
    rows = Runner(world, protocol, Shelf(tmp_path, {}, 3), "toy", 0).rows(("transferred", "scratch", "untrained"))
    error = {row["way"]: row["error"] for row in rows if row["last"]}
    assert error["transferred"] < 0.5 * error["scratch"] and error["transferred"] < 0.5 * error["untrained"], error
    assert {row["step"] for row in rows} == {30, 90, 300}


def test_sources_are_spread_evenly():
    assert spread(10, 10) == list(range(10)) and spread(2, 10) == [0, 9] and spread(1, 9) == [4] and spread(3, 9) == [0, 4, 8]


def test_the_closest_source_is_found(tmp_path):
    x, y = pairs_of(3, 400)
    world = World(("a", "b"), x, y, x[[2, 1], :50], y[[2, 1], :50], y[:2, :4], lambda samples, of: {"error": samples.mean((1, 2, 3))})
    protocol = Protocol(SIZES, (20, 50), Training(400, 96, 4, 3e-3), Training(1, 1, 1))
    runner = Runner(world, protocol, Shelf(tmp_path, {}, 1), "near", 0)
    assert runner.closest(*runner.networks()) == [2, 2, 1, 1]


# ------------------------------------------------------------------------------------------------ paths


def test_the_gradient_of_the_posterior_is_its_derivative():
    m = diffusion_paths.projection()
    x, y = diffusion_paths.draw_pairs(7.0, 5, m, 1)
    point = x.double().requires_grad_()
    value, gradient = diffusion_paths.log_density(point, y.double(), torch.full((5, 1), 7.0, dtype=torch.float64), m)
    (expected,) = torch.autograd.grad(value.sum(), point)
    assert torch.allclose(gradient, expected, atol=1e-9)


def test_the_reference_sampler_reaches_the_closed_form():
    m = diffusion_paths.projection()
    _, y = diffusion_paths.draw_pairs(0.0, 4, m, 1)
    mean, variance, error = diffusion_paths.posterior(y, 0.0, m, burn=60, keep=150)
    exact, covariance = diffusion_paths.brownian_posterior(y, m)
    assert (mean - exact).square().sum(1).mean() < 4 * error.mean() < 0.02
    assert torch.allclose(variance.sum(1), covariance.trace(), rtol=0.1)


def test_the_closed_form_is_gaussian_conditioning():
    m = diffusion_paths.projection()
    x, y = (values.double() for values in diffusion_paths.draw_pairs(0.0, 40_000, m, 3))
    mean, covariance = diffusion_paths.brownian_posterior(y, m)
    assert torch.allclose((x - mean).square().sum(1).mean(), covariance.trace(), rtol=0.02)
    assert ((x - mean).T @ y / len(y)).abs().max() < 0.02, "the error of a conditional mean is uncorrelated with what was seen"


def test_strong_drift_takes_paths_into_the_wells():
    ends = diffusion_paths.draw_pairs(15.0, 2000, diffusion_paths.projection(), 0)[0][:, -1].abs()
    assert abs(ends.mean() - 1) < 0.05 and ends.std() < 0.3
    free = diffusion_paths.draw_pairs(0.0, 4000, diffusion_paths.projection(), 0)[0]
    assert abs(free[:, -1].var() - 1) < 0.07 and abs(free[:, 24].var() - 0.5) < 0.04


# ------------------------------------------------------------------------------------------------ report


def row(seed, way, m, error, step=100, last=True):
    return {"seed": seed, "target": "t", "way": way, "m": m, "step": step, "last": last, "error": error, "K": 1, "n": 1}


def test_a_verdict_follows_the_paired_differences():
    rows = [row(s, w, m, e + s) for s in range(3) for w, m, e in (("a", 10, 1.0), ("b", 10, 2.0), ("a", 20, 2.0), ("b", 20, 1.5))]
    rows += [row(s, w, 30, e) for s, w, e in ((0, "a", 1), (1, "a", 2), (2, "a", 3), (0, "b", 3), (1, "b", 2), (2, "b", 1.5))]
    found = transfer_report.compared(rows, "t", "error", (10, 20, 30), "a", "b")
    assert found[10].value == 1.0 and found[10].high - found[10].low == 0, "what seeds share is no uncertainty of the difference"
    said = transfer_report.verdict(found, "A", "B")
    assert said.startswith("A against B: better by more than chance at m = 10 (1.00")
    assert "worse by more than chance at m = 20 (-0.50" in said
    assert "within chance at m = 30" in said
    worse = transfer_report.verdict({10: Estimate(-1.0, -1.5, -0.5)}, "A", "B")  # the same sign in every group
    assert worse == "A against B: worse by more than chance at m = 10 (-1.00 ± 0.50)."


def test_the_best_moment_of_each_training_is_its_lowest_error():
    rows = [row(0, "a", 10, 3.0, 10, False), row(0, "a", 10, 1.0, 30, False), row(0, "a", 10, 2.0), row(1, "a", 10, 5.0)]
    assert [(r["step"], r["error"]) for r in transfer_report.stopped_best(rows, "error")] == [(30, 1.0), (100, 5.0)]
    table = transfer_report.against_m(rows[2:], "t", "error", {"a": "way a"}, (10,), {"a": (9.0,)})
    assert "| published: way a | 9.00 |" in table and "| way a | 3.50" in table


# ------------------------------------------------------------------------------------------------ the studies


def test_conditioned_diffusion_runs_resumes_and_writes_its_page(tmp_path):
    study = STUDIES["conditioned-diffusion"]
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    calls = iter(range(10**6))
    assert study.run(out, work, quick=True, seeds=1, progress=None, stop=lambda: next(calls) > 6) == {"stopped": True}
    kept = {path.name: path.read_bytes() for path in work.iterdir()}
    assert 1 < len(kept) and not list(out.iterdir())
    seen = []
    summary = study.run(out, work, quick=True, seeds=1, progress=lambda *told: seen.append(told), stop=lambda: False)
    assert all((work / name).read_bytes() == content for name, content in kept.items()), "finished parts are not done again"
    assert seen[-1][0] == seen[-1][1] and json.dumps(summary, allow_nan=False)
    page = (out / "README.md").read_text()
    assert "β₀ = 15, beyond the sources" in page and "linear regression" in page and "{" not in page
    assert (out / "results.csv").read_text().count("\n") > 20 and (out / "error.svg").stat().st_size < 150_000


def idx(values):
    return bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.astype(np.uint8).tobytes()


@pytest.fixture
def digits(tmp_path):
    """A folder of tiny digits: every label has a bright bar at a place of its own."""
    labels = np.repeat(np.arange(10), 12)
    images = np.random.default_rng(0).integers(0, 60, (len(labels), 6, 6))
    images[np.arange(len(labels)), labels % 6] += 180
    (tmp_path / "t-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_restoration_runs_on_any_idx_folder_and_writes_its_page(digits, tmp_path):
    study = STUDIES["restoration"]
    out = tmp_path / "out"
    out.mkdir()
    summary = study.run(out, tmp_path / "work", quick=True, seeds=1, progress=None, stop=None, data=digits)
    assert summary["n"] == 12 and json.dumps(summary, allow_nan=False)
    page = (out / "README.md").read_text()
    assert "Wiener" in page and "120 images in the folder" in page and "{" not in page
    assert all((out / name).stat().st_size < 150_000 for name in ("results.csv", "error.svg", "digits.png"))
    for wrong, said in ((None, "needs handwritten"), (tmp_path / "out", "no idx files")):
        with pytest.raises(ValueError, match=said):
            study.run(out, tmp_path / "other", quick=True, seeds=1, progress=None, stop=None, data=wrong)
    with pytest.raises(ValueError, match="200 of the digit 0"):
        study.run(out, tmp_path / "other", quick=False, seeds=1, progress=None, stop=None, data=digits)


def test_the_wiener_filter_is_the_posterior_mean_of_a_gaussian():
    from fusion.studies.restoration import NOISE, wiener

    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator)
    x = torch.randn(20_000, 6, generator=generator) @ root + 2
    y = x + NOISE * torch.randn(x.shape, generator=generator)
    prior = root.T @ root
    exact = 2 + (y - 2) @ torch.linalg.inv(prior + NOISE**2 * torch.eye(6)) @ prior
    assert torch.allclose(wiener(x, y[:50]), exact[:50], atol=0.05)
