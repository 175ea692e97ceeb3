"""The study `digits`: its data and networks, small score networks in general, and the whole of it in its quick size on made-up digits."""

import gzip
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from fusion.evaluation.nll import bits_per_dimension, log_density
from fusion.studies import digits, digits_data, training
from fusion.studies.digits_data import SEVENS, decode, encode, log_volume, split
from fusion.studies.digits_network import Reader, UNet, train_reader
from fusion.studies.digits_world import share_of_sevens
from fusion.weights import Weights
from tests.fusion.studies.test_shared import idx


def made_up(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sevens and nines drawn with lines, moved at random, and some eights that must be left alone."""
    rng, pictures, labels = np.random.default_rng(seed), [], []
    for number in range(count):
        label = (7, 9, 8)[number % 3]
        picture, (x, y) = Image.new("L", (28, 28)), rng.integers(6, 10, 2)
        pen = ImageDraw.Draw(picture)
        if label != 7:
            pen.ellipse((x, y, x + 10, y + 8), outline=255, width=2)
        pen.line((x, y, x + 10, y, x + 4, y + 14) if label == 7 else (x + 10, y + 4, x + 8, y + 14), fill=255, width=2)
        pictures.append(np.asarray(picture))
        labels.append(label)
    return np.stack(pictures), np.array(labels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, (images, labels) = tmp_path_factory.mktemp("digits"), made_up(240)
    (folder / "made-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "made-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


# ------------------------------------------------------------------------------------------------ data


def test_the_split_is_disjoint_and_has_the_right_shares():
    images, labels = np.zeros((3000, 28, 28), np.uint8), np.tile([7, 9, 8], 1000)
    images[:, 0, 0], images[:, 0, 1] = np.arange(3000) // 256, np.arange(3000) % 256  # every picture tells its number
    parts = split(images, labels, sizes=(32, 512, 4000), evaluation=100, calibration=50, least=100, most=300)
    number = lambda pixels: pixels[:, 0, 0, 0].long() * 256 + pixels[:, 0, 0, 1]  # noqa: E731
    groups = [torch.cat([number(p) for p in parts.members]), number(parts.evaluation), torch.cat([number(p) for p in parts.calibration]),
              torch.cat([number(p) for p in parts.target])]  # fmt: skip
    sets = [set(g.tolist()) for g in groups]
    assert parts.sizes == (32, 512) and all(not a & b for i, a in enumerate(sets) for b in sets[:i])
    sevens = lambda pixels: float(torch.from_numpy(labels[number(pixels)] == 7).float().mean())  # noqa: E731
    assert [round(sevens(p), 2) for p in parts.members] == [round(sevens(p), 2) for p in parts.calibration] == list(SEVENS.values())
    assert sevens(parts.evaluation) == pytest.approx(0.6) and {len(p) for p in parts.members} == {300}
    small, large, other = parts.drawn(32, 0), parts.drawn(512, 0), parts.drawn(32, 1)
    assert len(small) == 32 and round(sevens(small) * 32) == 19 and set(number(small).tolist()) <= set(number(large).tolist())
    assert set(number(other).tolist()) != set(number(small).tolist())
    assert set(number(parts.reader[0]).tolist()) >= sets[2] and not set(number(parts.reader[0]).tolist()) & (sets[0] | sets[3])
    assert np.array_equal(labels[number(parts.check[0])] == 9, parts.check[1].bool())


def test_too_few_digits_are_refused_with_the_count():
    images, labels = made_up(60)
    with pytest.raises(ValueError, match="20 sevens and 20 nines are too few"):
        split(images, labels, sizes=(32,), evaluation=10, calibration=10, least=50, most=100)
    with pytest.raises(ValueError, match="28 x 28"):
        split(images[:, 1:], labels, sizes=(8,), evaluation=4, calibration=4, least=4, most=100)


def test_pixels_survive_the_map_and_its_volume_is_its_jacobian():
    pixels = torch.tensor([[[[0, 1, 127, 254, 255]]]], dtype=torch.uint8)
    z = encode(pixels, torch.Generator().manual_seed(0))
    assert torch.equal((decode(z) * 256).floor().to(torch.uint8), pixels) and z.abs().max() <= 1
    x = (torch.tensor([[0.3, 100.7, 255.2]], dtype=torch.float64) / 256).requires_grad_()
    v = digits_data.EDGE + (1 - 2 * digits_data.EDGE) * x
    slope = torch.autograd.grad((torch.logit(v) / digits_data.REACH).sum(), x)[0] / 256
    assert torch.allclose(log_volume((torch.logit(v) / digits_data.REACH).detach()), slope.log().sum(1))


def test_bits_of_a_model_that_knows_the_pixels_exactly():
    """Pixels that are dark or bright with probability 0.8 and 0.2 need 0.722 bits each; the exact score of that population finds it."""
    path = training.even_path(-9.0, 6.0)
    own = torch.Generator().manual_seed(0)
    pool = {value: encode(torch.full((1, 1, 1, 4000), value, dtype=torch.uint8), own).flatten().double() for value in (0, 255)}
    # the noised population, by quadrature over dequantised values
    points = torch.cat([pool[0][:400], pool[255][:400]])
    weight = torch.cat([torch.full((400,), math.log(0.8 / 400)), torch.full((400,), math.log(0.2 / 400))])

    def noise(x, level):
        a, s = (c[0].double() for c in path.coefficients(level))
        p = torch.softmax(weight - (x[..., None] - a * points).square() / (2 * s**2), -1)
        return ((x[..., None] - a * points) / s * p).sum(-1)

    data = torch.where(torch.rand(40, 8, generator=own) < 0.2, pool[255][1000:1320].view(40, 8), pool[0][1000:1320].view(40, 8))
    log = log_density(noise, path, data, steps=160, generator=own) + log_volume(data)
    bright = (data > 0).double().mean()
    expected = -(bright * math.log2(0.2) + (1 - bright) * math.log2(0.8))
    assert float(bits_per_dimension(log, 8).mean()) == pytest.approx(float(expected), abs=0.1)


# ------------------------------------------------------------------------------------------------ networks


def test_training_learns_stops_in_time_and_repeats_itself():
    path, z = training.even_path(-6.0, 6.0), torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) * 0.5 + 1.0

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))

        def forward(self, x, level):
            return self.layers(torch.cat([x, training.embedding(level, 8)], 1))

    def fit(count, held_out, steps=300):
        torch.manual_seed(0)
        network = Small()
        story = training.train(network, path, lambda i, _: z[i], count, steps=steps, batch=32, lr=1e-2, held_out=held_out, every=20,
                               average_over=20, half=False)  # fmt: skip
        return network, story

    level, own = torch.full((400,), 0.0), torch.Generator().manual_seed(1)
    eps = torch.randn(400, 2, generator=own)
    a, s = (c[0] for c in path.coefficients(level))
    x = a * z + s * eps
    exact = s / (a**2 * 0.25 + s**2) * (x - a * 1.0)
    loss = lambda noise: float((noise - eps).square().mean())  # noqa: E731
    network, story = fit(400, 0.0)
    assert loss(exact) <= loss(training.noise_of(network, path)(x, level).detach()) < 1.15 * loss(exact) and story["kept"] == 300
    again, _ = fit(400, 0.0)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), again.parameters()))
    few, stopped = fit(10, 0.3, steps=2000)
    assert stopped["kept"] < stopped["steps"] < 2000 and stopped["held_out_loss"] > 0
    with pytest.raises(RuntimeError, match="stopped"):
        training.train(Small(), path, lambda i, _: z[i], 10, steps=5, stop=lambda: True)


def test_fused_noise_averages_members_and_skips_those_without_weight():
    calls = []
    members = [lambda x, level, k=k: calls.append(k) or (k + 1) * x for k in range(3)]
    x, level = torch.ones(2, 1), torch.zeros(2)
    constant = Weights(np.array([0.25, 0.75, 0.0]), None, ("a", "b", "c"), "")
    assert torch.allclose(training.fused(members, constant)(x, level), torch.full((2, 1), 1.75)) and calls == [0, 1]
    levels = Weights(np.array([[1.0, 0, 0], [0, 0, 1.0]]), None, ("a", "b", "c"), "", np.array([-1.0, 0.5, 2.0]))
    assert training.fused(members, levels)(x, level)[0] == 1 and training.fused(members, levels)(x, level + 1)[0] == 3
    assert training.stacked(members)(x, level).shape == (3, 2, 1)


def test_the_unet_begins_at_zero_and_tells_levels_apart():
    network, x = UNet((8, 16)), torch.randn(2, 1, 28, 28)
    assert network(x, torch.zeros(2)).abs().max() == 0
    torch.nn.init.normal_(network.end.weight)
    one, other = network(x, torch.full((2,), -5.0)), network(x, torch.full((2,), 5.0))
    assert one.shape == x.shape and not torch.allclose(one, other, atol=1e-3)
    assert sum(p.numel() for p in UNet().parameters()) == pytest.approx(400_000, rel=0.1)


def test_the_reader_reads_and_its_errors_are_taken_out():
    images, labels = made_up(300)
    keep = labels != 8
    brightness = torch.from_numpy(images[keep])[:, None].float() / 255
    torch.manual_seed(0)
    reader = Reader(4)
    train_reader(reader, brightness[:100], torch.from_numpy(labels[keep] == 9)[:100], steps=60)
    right = (reader(brightness[100:]) > 0) == torch.from_numpy(labels[keep] == 9)[100:]
    assert right.float().mean() > 0.9
    called = np.repeat([True, False], [44, 56])  # 60 sevens of which a tenth is called nine, 40 nines of which 95 % are
    assert share_of_sevens(called, (0.1, 0.95)) == pytest.approx(0.6)


# ------------------------------------------------------------------------------------------------ the whole study


def test_the_quick_study_writes_its_page_and_goes_on_where_it_was(tmp_path, folder):
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    run = lambda stop=lambda: False: digits.run(out, work, quick=True, seeds=None, progress=None, stop=stop, data=folder)  # noqa: E731
    calls = iter(range(10**9))
    assert run(lambda: next(calls) > 60) == {"stopped": True} and not list(out.iterdir())
    begun = {file.name: file.stat().st_mtime_ns for file in work.glob("member-*")}
    summary = run()
    assert begun and all((work / name).stat().st_mtime_ns == when for name, when in begun.items())
    assert json.loads(json.dumps(summary)) == summary and set(f"{m}, n = 8" for m in digits.METHODS) <= set(summary["nll"])
    page = (out / "README.md").read_text()
    assert "80 sevens and 80 nines" in page and "| 16384 | published | 0.18 | 0.31 |" in page and str(tmp_path) not in page
    assert Image.open(out / "samples.png").size[0] > 700 and (out / "samples.png").stat().st_size < 150_000
    assert run() == summary and (out / "README.md").read_text() == page


def test_the_study_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match="needs handwritten digits"):
        digits.run(tmp_path, tmp_path / "work", quick=True, seeds=None, progress=None, stop=None, data=None)
