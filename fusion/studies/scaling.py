"""What a fit and a drawing run cost, and how that grows with models, pictures, noise levels and processes: measured and modelled.

Time is processor time of the busiest process, one thread each, so that a shared machine does not count as a slow one. A model with one
constant for each kind of work is fitted to the measurements and held to them. Everything runs on the CPU.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fusion.studies.shelf import Shelf

TITLE = "Scaling: what a fit costs"
MEMBERS = ("harbor", "summit", "meadow", "delta", "sketch", "base")
PARTS = ("network", "encode", "algebra")


@dataclass(frozen=True)
class Fit:
    """One measured fit: K models, N pictures, L noise levels, P processes."""

    k: int
    n: int
    l: int  # noqa: E741 (the maths' own letter)
    p: int = 1

    @property
    def evaluations(self) -> int:
        return 2 * self.k * self.n * self.l


@dataclass(frozen=True)
class Size:
    """What is measured: fits, drawing runs `(K, processes)` of `images` in `steps`, each `repeats` times."""

    fits: tuple[tuple[int, int, int, int], ...] = (
        *((k, 12, 8, 1) for k in (1, 2, 3, 4, 6)),
        *((3, n, 8, 1) for n in (6, 24, 48)),
        *((3, 12, l, 1) for l in (4, 16, 32)),  # noqa: E741
        *((3, 12, 16, p) for p in (2, 3, 4)),
    )
    draws: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (4, 1), (4, 2), (4, 4))
    images: int = 64
    steps: int = 1
    repeats: int = 3


QUICK = Size(
    fits=((1, 2, 2, 1), (2, 2, 2, 1), (2, 4, 2, 1), (2, 2, 4, 1), (2, 4, 4, 2)), draws=((2, 1), (2, 2)), images=2, steps=1, repeats=1
)


def run(out: Path, work: Path, *, quick: bool, seeds: int | None, progress, stop) -> dict:
    """Measure, fit the model of the cost, write the page. `seeds`: repetitions. When stopped: `{"stopped": True}`, nothing is written."""
    from fusion.studies import scaling_report

    size = QUICK if quick else Size()
    repeats = seeds or size.repeats
    shelf = Shelf(work, asdict(size), repeats * (len(size.fits) + len(size.draws)), progress, stop)
    bench = Bench(max(k for k, *_ in (*size.fits, *size.draws)), max(n for _, n, *_ in size.fits), Path(work))
    try:
        fits, drawn = [], []
        for repeat in range(repeats):
            for point in (Fit(*values) for values in size.fits):
                name = f"fit-k{point.k}-n{point.n}-l{point.l}-p{point.p}-{repeat}"
                fits.append((point, repeat, shelf.part(name, lambda point=point: bench.fit(point))))
            for k, p in size.draws:
                name = f"draw-k{k}-p{p}-{repeat}"
                drawn.append((k, p, repeat, shelf.part(name, lambda k=k, p=p: bench.draw(k, p, size.images, size.steps))))
    except RuntimeError:
        if stop is None or not stop():
            raise
        return {"stopped": True}
    return scaling_report.write(Path(out), fits, drawn, size)


# ------------------------------------------------------------------------------------------------ measuring

class Bench:
    """The shipped members, loaded when first needed, and pictures to fit; measurements as small arrays."""

    def __init__(self, members: int, pictures: int, work: Path):
        self.members, self.count, self.work, self._loaded = members, pictures, work, None

    def _ready(self):
        if self._loaded is None:
            import torch
            from PIL import Image

            from models.catalog import REPOSITORY, catalog
            from models.loading import load_ensemble

            torch.set_num_threads(1)  # so that forked processes do not wait for threads they have not
            ensemble = load_ensemble([catalog[f"portraits/{name}"] for name in MEMBERS[: self.members]], device="cpu")
            files = sorted((REPOSITORY / "assets" / "targets").glob("*/*/*.png"))[: self.count]
            if len(files) < self.count:
                raise ValueError(f"the shipped targets hold {len(files)} pictures and this study needs {self.count}: fetch assets/targets")
            self._loaded = ensemble, [Image.open(file).convert("RGB") for file in files]
        return self._loaded

    def fit(self, point: Fit) -> dict[str, np.ndarray]:
        """Seconds of the busiest process by kind of work, (3,) in the order of `PARTS`, and of all processes together."""
        ensemble, pictures = self._ready()
        return self._busiest(point.p, _fit, ensemble=ensemble.subset(range(point.k)), pictures=pictures[: point.n], levels=point.l)

    def draw(self, k: int, processes: int, images: int, steps: int) -> dict[str, np.ndarray]:
        """Seconds of the busiest process, (1,), and of all."""
        ensemble, _ = self._ready()
        return self._busiest(processes, _draw, ensemble=ensemble.subset(range(k)), images=images, steps=steps)

    def _busiest(self, processes: int, work, **named) -> dict[str, np.ndarray]:
        from fusion import processes as forked

        each = forked.run(processes, work, self.work, **named)  # one process, too: the same conditions for all
        if any(one is None for one in each):
            raise ValueError("a measuring process ended early: its error stands above")
        seconds = np.stack([one["seconds"] for one in each])  # (P, parts)
        return {"busiest": seconds[seconds.sum(1).argmax()], "all": seconds.sum(0)}


class _Timed:
    """An ensemble that counts the processor time of its networks and its encoder."""

    def __init__(self, ensemble):
        self.ensemble, self.network, self.encoding = ensemble, 0.0, 0.0

    def __getattr__(self, name: str):
        return getattr(self.ensemble, name)

    def __len__(self) -> int:
        return len(self.ensemble)

    def encode(self, images):
        start = time.process_time()
        latents = self.ensemble.encode(images)
        self.encoding += time.process_time() - start
        return latents

    def predictor(self, prompts, **more):
        start = time.process_time()
        predict = self.ensemble.predictor(prompts, **more)
        self.network += time.process_time() - start

        def timed(*args, **kwargs):
            start = time.process_time()
            answer = predict(*args, **kwargs)
            self.network += time.process_time() - start
            return answer

        return timed


def _fit(team, ensemble, pictures, levels: int) -> dict:
    """Runs in its own process: pictures share one prompt, the dearest case for the smooth target."""
    from fusion.objective import fit_gram

    timed, start = _Timed(ensemble), time.process_time()
    fit_gram(timed, pictures, "a portrait of a cook", levels=levels, team=team)
    whole = time.process_time() - start
    return {"seconds": np.array([timed.network, timed.encoding, whole - timed.network - timed.encoding])}


def _draw(team, ensemble, images: int, steps: int) -> dict:
    from fusion.methods.drawing import draw
    from fusion.methods.plan import Part, SamplingPlan

    start, part = time.process_time(), Part(team.rank, team.size)
    plan = SamplingPlan(["a portrait of a cook"], range(images), steps=steps, part=part, batch_size=min(16, max(1, images // 2)))
    for _ in draw(ensemble, plan, np.ones(len(ensemble)) / len(ensemble), method="uniform"):
        pass
    return {"seconds": np.array([time.process_time() - start])}


# ------------------------------------------------------------------------------------------------ the model of the cost

def work_of(point: Fit, batch: int = 64) -> dict[str, np.ndarray]:
    """What each constant is multiplied with, by kind of work, for the busiest process: that of every P-th batch from the first one on."""
    copies = 2 * point.n * point.l  # noisy copies, each shown to all K models
    batches = -(-copies // batch)
    share = min(-(-batches // point.p) * batch, copies)
    return {
        "network": np.array([point.k * share]),
        "encode": np.array([-(-point.n // point.p)]),
        "algebra": np.array([share, share * point.k**2, share * point.k * point.n]),
    }


CONSTANTS = {
    "network": ("one network evaluation",),
    "encode": ("one picture encoded",),
    "algebra": ("one noisy copy", "its K x K products", "its K x N products with the pictures of its prompt"),
}


def fitted(points: list[tuple[Fit, np.ndarray]]) -> dict[str, np.ndarray]:
    """Seconds for each unit of work by kind, none below zero, of least squared relative error. `points`: `(fit, (3,) seconds)`."""
    from scipy.optimize import nnls

    found = {}
    for at, part in enumerate(PARTS):
        seconds = np.array([measured[at] for _, measured in points])
        units = np.array([work_of(point)[part] for point, _ in points], dtype=float)
        scale = 1 / np.maximum(seconds, 1e-9)
        found[part] = nnls(units * scale[:, None], seconds * scale)[0]
    return found


def predicted(constants: dict[str, np.ndarray], point: Fit) -> np.ndarray:
    """Seconds of the busiest process by kind of work, (3,)."""
    return np.array([constants[part] @ work_of(point)[part] for part in PARTS])
