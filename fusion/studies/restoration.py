"""Image restoration: the transfer paper's experiment on handwritten digits (arXiv 2502.04491, section 5), with error bars and ablations.

Digits under Gaussian noise are restored by samples of `p(x | y)`. Sources are the digits 1 to 9, the target is the digit 0. Judged by the
mean square error of the posterior mean, and of single samples, against the clean image. Pixels lie in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from fusion.studies.idx import read_digits
from fusion.studies.shared_representation import Sizes, Training
from fusion.studies.shelf import Shelf
from fusion.studies.transfer_protocol import WAYS, Protocol, Runner, World, spread

TITLE = "Image restoration: transfer by a shared representation"
NOISE, SHOWN = 0.5, 8
SOURCES, TARGET = tuple(range(1, 10)), 0
BASELINES = {
    "Wiener": "Wiener filter of the m images",
    "Wiener, sources": "Wiener filter of the sources' images",
    "nearest": "exact posterior mean if the m images were all there are",
    "mean": "the mean of the m images",
    "noisy": "the noisy image itself",
}
SIZES = Sizes(x=784, y=784, code=64, score=(3, 512), encoder=(5, 512), velocity=False)


@dataclass(frozen=True)
class Size:
    """How much is done. `most`: images of a source, where the data has as many; `settings`: (K, share of n) of the ablations, the paper's
    first; `tests`: test images of the target."""

    protocol: Protocol = Protocol(SIZES, (10, 20, 30, 40, 50, 100), Training(2000, 144, 4), Training(400, 16, 4), (0.3, 1.0), 8, 20, True)
    most: int = 5000
    settings: tuple[tuple[int, float], ...] = ((9, 1.0), (3, 1.0), (1, 1.0), (9, 0.25), (9, 0.05))
    ways: tuple[str, ...] = tuple(WAYS)
    seeds: int = 3
    tests: int = 100


QUICK = Size(Protocol(Sizes(784, 784, 4, (3, 16), (5, 16), False), (2, 4), Training(10, 18, 2), Training(10, 4, 2), (1.0,), 2, 3, True),
             settings=((3, 1.0), (1, 1.0), (3, 0.5)), seeds=2, tests=3)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Digits:
    """Clean images of every digit in [-1, 1]: `images[d]` (N_d, pixels)."""

    images: tuple[Tensor, ...]

    @classmethod
    def read(cls, folder: str | None, pairs: int, tests: int) -> Digits:
        """ValueError where a digit is missing or the target has too few images."""
        pixels, labels = read_digits(folder)
        flat = torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float32)) / 127.5 - 1
        images = tuple(flat[torch.from_numpy(labels == digit)] for digit in range(10))
        least = min(len(images[digit]) for digit in SOURCES)
        if least < 2 or len(images[TARGET]) < pairs + tests:
            raise ValueError(f"the study needs images of all digits, {pairs + tests} of the digit {TARGET}: the folder holds "
                             f"{', '.join(f'{len(part)} of {digit}' for digit, part in enumerate(images))}")  # fmt: skip
        return cls(images)

    @property
    def fewest(self) -> int:
        """Images of the source that has the fewest."""
        return min(len(self.images[digit]) for digit in SOURCES)


def run(out: Path, work: Path, *, quick: bool, seeds: int | None, progress, stop, data: str | None = None) -> dict:
    """The whole study; goes on from `work`. `data`: a folder of idx files. When stopped: `{"stopped": True}`, and nothing is written."""
    from fusion.studies import restoration_report

    size = QUICK if quick else Size()
    digits = Digits.read(data, max(size.protocol.pairs), size.tests)
    pixels = digits.images[0].shape[1]
    size = replace(size, protocol=replace(size.protocol, sizes=replace(size.protocol.sizes, x=pixels, y=pixels)))
    repeats, n = seeds or size.seeds, min(size.most, digits.fewest)
    facts = {"n": n, "zeros": len(digits.images[TARGET]), "images": sum(map(len, digits.images))}
    shelf = Shelf(work, {**asdict(size), **facts}, repeats * (len(size.ways) + len(size.settings) - 1), progress, stop)
    try:
        rows = [row for seed in range(repeats) for row in _seed(size, digits, n, shelf, seed)]
        pictures = gallery(*build(digits, size.settings[0][0], n, size, 0), size, shelf)
    except RuntimeError:
        if stop is None or not stop():
            raise
        return {"stopped": True}
    return restoration_report.write(out, rows, pictures, facts, size)


def name_of(count: int, n: int, seed: int) -> str:
    """What the parts of one setting are called."""
    return f"K{count}-n{n}-seed{seed}"


def _seed(size: Size, digits: Digits, n: int, shelf: Shelf, seed: int) -> list[dict]:
    """Rows of one seed with `seed`, `K`, `n`, `target`, `way`, `m`, `step`, `last`, `error`, `sample`."""
    rows = []
    for number, (count, share) in enumerate(size.settings):
        each = max(2, round(share * n))
        world, _ = build(digits, count, each, size, seed)
        runner = Runner(world, size.protocol, shelf, name_of(count, each, seed), seed)
        found = runner.rows(size.ways if number == 0 else ("transferred",))
        if number == 0:
            found += baselines(world, size.protocol.pairs)
        rows += [{"seed": seed, "K": count, "n": each, **row} for row in found]
    return rows


def build(digits: Digits, count: int, n: int, size: Size, seed: int) -> tuple[World, Tensor]:
    """Sources, target pairs and tests of one seed, and the clean tests (N, pixels). Drawn without repetition; what is drawn of the
    target does not depend on the sources."""

    def drawn(digit: int, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(100 * seed + digit)
        x = digits.images[digit][torch.randperm(len(digits.images[digit]), generator=generator)[:number]]
        return x, x + NOISE * torch.randn(x.shape, generator=generator)

    source = [torch.stack(values) for values in zip(*(drawn(SOURCES[k], n) for k in spread(count, len(SOURCES))))]
    x, y = drawn(TARGET, max(size.protocol.pairs) + size.tests)
    truth = x[-size.tests :]

    def measure(samples: Tensor, of: Tensor) -> dict[str, Tensor]:
        mean = samples.mean(2)
        return {"error": (mean - truth).square().mean((1, 2)), "sample": (samples - truth[:, None]).square().mean((1, 2, 3)),
                "picture": mean[:, :SHOWN]}  # fmt: skip

    pairs = slice(0, max(size.protocol.pairs))
    return World((str(TARGET),), *source, x[None, pairs], y[None, pairs], y[None, -size.tests :], measure), truth


def baselines(world: World, pairs: Sequence[int]) -> list[dict]:
    """The same rows for what needs no training: Gaussian and empirical priors in closed form, and doing nothing."""
    y, images = world.test_y[0], world.target_x[0]
    known = {"Wiener, sources": wiener(world.source_x.flatten(0, 1), y), "noisy": y}
    rows = []
    for m in pairs:
        known["Wiener"], known["mean"] = wiener(images[:m], y), images[:m].mean(0).expand_as(y)
        known["nearest"] = torch.softmax(-torch.cdist(y, images[:m]).square() / (2 * NOISE**2), 1) @ images[:m]
        for way, estimate in known.items():
            error = float(world.measure(estimate[None, :, None], torch.zeros(1, dtype=torch.long))["error"])
            rows.append({"target": world.targets[0], "way": way, "m": m, "step": 0, "last": True, "error": error})
    return rows


def wiener(images: Tensor, y: Tensor) -> Tensor:
    """Posterior mean (N, pixels) for y (N, pixels) under a Gaussian prior fitted to `images` (n, pixels), shrunk (Ledoit, Wolf)."""
    x = images.double().numpy()
    mean, covariance = x.mean(0), ledoit_wolf(x)[0]
    gain = np.linalg.solve(covariance + NOISE**2 * np.eye(len(mean)), covariance)
    return torch.from_numpy(mean + (y.double().numpy() - mean) @ gain).float()


def gallery(world: World, clean: Tensor, size: Size, shelf: Shelf) -> dict[str, np.ndarray]:
    """Label -> pictures (8, pixels) of the first tests of the first seed: clean, noisy, and restored with the most pairs."""
    y, m = world.test_y[0, :SHOWN], max(size.protocol.pairs)
    pictures = {"clean": clean[:SHOWN].numpy(), "noisy": y.numpy()}
    for way in ("scratch", "transferred", "source"):
        part = load_file(shelf.file(f"{name_of(len(world.source_x), world.source_x.shape[1], 0)}-{way}"))
        pictures[WAYS[way]] = part["picture"][-1, size.protocol.pairs.index(m)]
    return pictures | {BASELINES["Wiener"]: wiener(world.target_x[0, :m], y).numpy()}
