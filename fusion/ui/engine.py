"""The door from the page to `models` and to fitting: cards, ensembles, fits, what the probe reads. Plain functions, no HTML.

The cache of loaded ensembles is the only thing that visitors share; it is locked, and holds what cannot differ between them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fusion import hosting

from . import jobs

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DEFAULT_MODELS = ("portraits/harbor", "portraits/summit", "portraits/meadow", "portraits/delta")
KEPT_ENSEMBLES = 2
KEPT_ANSWERS = {True: 64 * 2**20, False: 2 * 2**30}  # hosted? -> bytes of a visitor's folder for what the models said

loading = threading.Lock()  # held while libraries are imported, and patched for every thread: two at once find them half made
_ensembles: OrderedDict[tuple, object] = OrderedDict()


def cards() -> dict:
    """id -> ModelCard of everything on offer whose files are here, or that a hub can give."""
    from models.catalog import catalog

    return {name: card for name, card in catalog.items() if hosting.offered(name) and available(card)}


def available(card) -> bool:
    """False for a shipped card whose folder has not been trained or fetched yet."""
    from models.catalog import local_path

    local = [p for p in (card.source, *(one.source for one in card.adapters)) if (str(p).startswith("assets/") or Path(p).is_absolute())]
    return all(local_path(p).exists() for p in local)


def device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"


def key_of(chosen: Iterable) -> tuple:
    """What tells one choice of models from another: the whole cards, since nearly all they say changes what is loaded, and the device."""
    return hosting.device(), *chosen


def loaded(chosen: Iterable):
    """The ensemble of these cards if it is in memory, else None: nothing is loaded for the asking."""
    return _ensembles.get(key_of(chosen))


def warnings(chosen: Iterable) -> tuple[str, ...]:
    """What loading these models had to say, one sentence each; nothing while they are not loaded."""
    together = loaded(chosen)
    return () if together is None else tuple(together.warnings)


def memory(chosen: Iterable):
    """The memory plan that these models are held by (`models.placement.MemoryPlan`); None while they are not loaded."""
    together = loaded(chosen)
    return None if together is None else together.plan


def ensemble(chosen: Iterable, progress=None):
    """The loaded ensemble of these cards, from the cache where possible. Raises ModelError with cause and cure."""
    chosen = tuple(chosen)
    hosting.check(models=chosen)
    key = key_of(chosen)
    others = contextlib.nullcontext() if key in _ensembles or hosting.forked.is_set() else jobs.alone()  # a fork inherits shut locks
    with others, loading:
        from models.loading import load_ensemble

        if key not in _ensembles:
            _make_room()
            _ensembles[key] = load_ensemble(chosen, device=hosting.device(), meeting=(None, None), progress=progress)
        _ensembles.move_to_end(key)
        return _ensembles[key]


def _make_room() -> None:
    """Let the longest unused ensembles go before another is loaded, not after: memory for one more than we keep need not be there."""
    from fusion.memory import free

    full = len(_ensembles) >= KEPT_ENSEMBLES
    while len(_ensembles) >= KEPT_ENSEMBLES:
        _ensembles.popitem(last=False)
    if full:
        gc.collect()  # networks and their hooks refer to one another: counting references alone does not free them
        free()


def shipped_calibration(chosen: Iterable, gram):
    """The calibration that comes with these models, reduced to them; None if there is none for this choice or these settings."""
    from fusion.calibration import Calibration

    path = ASSETS / "calibration" / "portraits.safetensors"
    names = [c.title for c in chosen]
    if not path.is_file() or not all(c.id.startswith("portraits/") for c in chosen):
        return None
    whole = Calibration.load(path)
    alike = len(whole.strata) == len(gram.strata) and whole.draws == gram.draws
    return whole.select(names) if alike and set(names) <= set(whole.names) else None


def fit(chosen, images, captions, *, levels: int, draws: int, job, folder: Path | None = None):
    """A `Fit` of these models to these pictures; when stopped, of the pictures that were finished.

    What the models say is kept in `folder`: another picture or model, or a fit that was cut short, asks only what is new.
    """
    from fusion.fitting import fit_all
    from fusion.target import Target

    hosting.check(models=chosen, images=len(images), looks=levels * draws)
    time = hosting.seconds(2 * len(chosen) * levels * draws * len(images), len(images))
    gram = hosting.call(measured, chosen, images, captions, levels, draws, folder, job=job, seconds=time)
    return fit_all(gram, shipped_calibration(chosen, gram), Target(images[: len(gram)], captions[: len(gram)]))


def measured(chosen, images, captions, levels: int, draws: int, folder: Path | None = None, *, job):
    """The statistic alone: the part of a fit that needs a GPU, and little enough to come back from one that is lent."""
    from fusion.objective import fit_gram

    together = ensemble(chosen, job.loading)
    kept = _kept(folder, together, len(images), levels * draws)
    job.enter("fitting")
    return fit_gram(together, images, captions, levels=levels, draws=draws, progress=job.report, stop=job.stopped, kept=kept)


def _kept(folder: Path | None, together, images: int, looks: int):
    """The visitor's folder of answers, emptied where it would outgrow its share of the disk; None where even this fit would."""
    from fusion.kept import Kept, size_of

    needed, most = size_of(together, images, looks), KEPT_ANSWERS[hosted()]
    if folder is None or needed > most:
        return None
    if Kept(folder).size() + needed > most:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return Kept(folder) if needed < shutil.disk_usage(folder).free / 2 else None


def calibrate(chosen, result, *, job, samples: int = 96, folder: Path | None = None, guidance: float | None = None):
    """The same fit with proportions, after drawing `samples` images from each model at the guidance that will be drawn with."""
    from fusion.fitting import fit_all

    hosting.check(models=chosen, calibration=samples)
    settings = result.gram.settings
    drawn = 20 * (2 if guidance is None or guidance > 1 else 1)  # steps, with guidance the unconditional half, too
    each = drawn + 2 * len(chosen) * settings["levels"] * settings["draws"]  # then looked at by all
    time = hosting.seconds(len(chosen) * samples * each, 2 * len(chosen) * samples)
    made = hosting.call(calibrated, chosen, samples, sorted(set(result.gram.prompts)), settings, folder, guidance, job=job, seconds=time)
    return fit_all(result.gram, made, result.target)


def calibrated(chosen, samples: int, prompts, settings: dict, folder: Path | None = None, guidance: float | None = None, *, job):
    """The calibration alone, as `measured` is the statistic alone."""
    from fusion.calibration import calibrate as run

    together = ensemble(chosen, job.loading)
    kept = _kept(folder, together, samples * len(together), settings["levels"] * settings["draws"])
    job.enter("drawing")
    return run(together, None, samples=samples, prompts=prompts, guidance=guidance, **settings, progress=job.report, stop=job.stopped,
               kept=kept)  # fmt: skip


def refit(gram_path: Path, chosen, count: int | None = None):
    """The fit of a stored statistic, of its first `count` images (None: all): no network runs. None if it does not hold all the chosen
    models. Frozen, so visitors may share it."""
    return _refit(gram_path, gram_path.stat().st_mtime_ns, tuple(chosen), count)


@functools.lru_cache(maxsize=32)
def _refit(gram_path: Path, _changed: int, chosen: tuple, count: int | None):
    from fusion.fitting import fit_all
    from fusion.objective import ResidualGram

    gram = ResidualGram.load(gram_path)
    names = [c.title for c in chosen]
    if not names or not set(names) <= set(gram.names):
        return None
    gram = gram.select(None if count is None else range(count), [gram.names.index(n) for n in names])
    return fit_all(gram, shipped_calibration(chosen, gram))


def subset(result, chosen):
    """The fit of fewer models from a fit of more: nothing is run again."""
    from fusion.fitting import fit_all

    names = [c.title for c in chosen]
    if len(names) < 2 or not set(names) <= set(result.gram.names):
        return None
    smaller = result.gram.select(members=[result.gram.names.index(n) for n in names])
    return fit_all(smaller, shipped_calibration(chosen, smaller), result.target)


def with_target(result, images, captions):
    """`result` with the pictures it was measured on, for methods that train; stored statistics come without."""
    from dataclasses import replace

    from fusion.target import Target

    return replace(result, target=Target(tuple(images), tuple(captions)))


def distance_form(result, match=None) -> dict:
    """Distance of samples from the target as numbers that a browser can evaluate: of a Mix, or, with `match`, of a Blend."""
    from fusion.methods.matching import distance_form as form

    return form(result, match)


def default_weights(result, mode: str) -> np.ndarray:
    """What `Fitted` sets: the calibrated proportions to mix, the matched weights to blend (else the published ones)."""
    if mode == "mix":
        return np.asarray(result.calibrated.proportions_ if result.calibrated is not None else result.mixture.proportions_, float)
    return np.asarray(result.matched.values if result.matched is not None else result.published.weights_, float)


def hosted() -> bool:
    """True on a hosted Space, where pictures travel to a server."""
    return hosting.hosted()


def open_images(paths) -> list:
    from PIL import Image

    return [Image.open(p).convert("RGB") for p in paths]


def with_matched_weights(result, stored: dict):
    """`result` with matched weights that were found before: `{"values", "interval"}`."""
    from dataclasses import replace

    from fusion.weights import Weights

    return replace(result, matched=Weights(np.array(stored["values"]), np.array(stored["interval"]), tuple(result.gram.names), "matched"))
