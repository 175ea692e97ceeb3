"""The objective: one small matrix per image and noise level.

With residuals `r_i = eps_i - eps` and weights `w` that sum to 1, `E ||sum_i w_i eps_i - eps||^2 / D = w' R w` with
`R_ij = E <r_i, r_j> / D`. Networks run once, forward only; every fit afterwards is linear algebra on the `(N, L, K, K)` statistic.
This module takes tensors and a function that predicts noise. It knows no pipeline, no network and no optimiser.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from fusion import pace
from fusion.gram import ResidualGram
from fusion.memory import halving
from fusion.parallel import ALONE, Team
from fusion.rows import Draws, Tally
from fusion.stopping import Interrupted, attentive

NOTHING = "stopped before the first image was finished: nothing was measured"
QUIETEST = -6.0  # level = -logSNR below which the networks' training errors drown what they know about the population


def residual_gram(predict, x0, noise, strata, *, generator=None, antithetic=True, smooth_target=True, groups=None, draws=1,
                  batch_size=64, progress=None, stop=None, names=None, prompts=None, seeds=None,
                  team: Team = ALONE) -> ResidualGram:  # fmt: skip
    """Measure the statistic of clean latents `x0` (N, ...), on the CPU.

    `predict(x_t, level)` or `predict(x_t, level, index)` stacks the members' predicted noise, (K, B, ...), with `level = -logSNR` (B,)
    and `index` (B,) the image each row comes from. `noise.coefficients(level) -> (a, s)`; where it also has `level_weights(strata)`
    these become the gram's, otherwise every level counts alike. Every image draws its own `draws` levels inside each stratum, and its
    noise, from a generator seeded by `generator` and its place: images added at the end leave the others' plain rows unchanged.
    `seeds` (N,) instead of `generator`: one for each image. `groups` (N,) integers: images with one number share a smooth target (None:
    all). `progress(done, total, message)` counts noisy copies. When `stop()` turns true the images finished so far are returned;
    RuntimeError if there are none; a `predict` that raises `Interrupted` stops within a batch. `team`: processes that share the copies out,
    batch by batch; all get the whole statistic, which is the same for any number of them but for the order of float64 sums.
    """
    strata, count, clean = torch.as_tensor(strata, dtype=torch.float64), len(x0), x0.reshape(len(x0), -1).double()
    if not count:
        raise ValueError("no image to measure: give at least one")
    groups = torch.zeros(count, dtype=torch.long) if groups is None else torch.unique(torch.as_tensor(groups), return_inverse=True)[1]
    if seeds is None and generator is None:
        raise ValueError("give a generator, or a seed for each image: the draws must be repeatable")
    seeds = torch.randint(2**62, (count,), generator=generator).tolist() if seeds is None else seeds
    source, tally, done = Draws(seeds, clean.shape[1], strata, draws, antithetic), None, 0
    ask = predict if len(inspect.signature(predict).parameters) > 2 else lambda x_t, level, _: predict(x_t, level)
    total = count * source.per_image
    for rows in team.mine(torch.arange(total).split(batch_size)):
        if stop is not None and stop():
            break
        image, stratum, level, eps = source.rows(rows)
        a, s = noise.coefficients(level)
        x_t = a[:, None] * clean[image] + s[:, None] * eps
        try:
            with torch.no_grad():
                guess = ask(x_t.to(x0.dtype).reshape(-1, *x0.shape[1:]), level.to(x0.dtype), image)
        except Interrupted:
            break
        guess = guess.to("cpu", torch.float64).reshape(len(guess), len(image), -1)  # (K, B, D)
        names = tuple(names or (f"member {k + 1}" for k in range(len(guess))))
        tally = tally or Tally(source, clean, groups if smooth_target else None, len(guess))
        _refuse_nonfinite(guess, names)
        tally.add(image, stratum, x_t, eps, guess, a, s)
        done += len(image)
        if progress is not None:
            progress(min(done * team.size, total), total, f"image {int(image[-1]) + 1} of {count}")
    members = team.most(0 if tally is None else tally.plain.shape[-1])  # a process may have been stopped before its first batch
    tally = tally or Tally(source, clean, groups if smooth_target else None, members)
    finished, seen, plain, smooth = tally.together(team)
    if not finished:
        raise RuntimeError(NOTHING)
    names = tuple(names or (f"member {k + 1}" for k in range(members)))
    return ResidualGram(
        plain=plain, smooth=smooth, levels=source.levels(finished).numpy(), strata=strata.numpy(),
        level_weights=_level_weights(noise, strata), names=names, prompts=tuple(prompts or ("",) * count)[:finished],
        evaluations=seen * members, dimensions=source.size, draws=source.per_level)  # fmt: skip


def _refuse_nonfinite(guess: torch.Tensor, names: Sequence[str]) -> None:
    for name, one in zip(names, guess):
        if not torch.isfinite(one).all():
            raise FloatingPointError(f"{name} predicts values that are not finite: its weights are damaged or its precision is too low")


def _level_weights(noise, strata: torch.Tensor) -> dict[str, np.ndarray]:
    """Shares of the strata, each summing to 1; without a training schedule all of logSNR counts alike."""
    width = (strata.diff() / (strata[-1] - strata[0])).numpy()
    given = noise.level_weights(strata) if hasattr(noise, "level_weights") else {"simple": width, "likelihood": width}
    return {key: np.asarray(value, dtype=np.float64) for key, value in given.items()}


def strata_of(noise, levels: int = 16) -> torch.Tensor:
    """`(levels + 1,)` edges, equal in logSNR, from `QUIETEST` (or the schedule's own start) to the schedule's noisiest level."""
    lowest, highest = (float(end) for end in noise.range)
    return torch.linspace(max(lowest, min(QUIETEST, highest - 1.0)), highest, levels + 1, dtype=torch.float64)


def fit_gram(ensemble, images, prompts, *, levels=16, draws=1, seed=0, batch_size=None, progress=None, stop=None, seeds="picture",
             kept=None, team: Team = ALONE) -> ResidualGram:  # fmt: skip
    """`residual_gram` over an `Ensemble`, PIL images and one prompt for each (or one for all).

    Images with the same prompt share a smooth target. `batch_size` None keeps a batch near 2^18 latent numbers (2^16 on a CPU), at most 64
    copies, and halves it where memory runs out; the result does not depend on it beyond the networks' own rounding.
    `seeds`: an image draws its noise by `seed` and the `picture` itself, so that pictures may be added and taken away anywhere and leave
    the others' draws unchanged, or by `seed` and its `place` among the images, so that sets of samples are read under common noise.
    `kept` (`fusion.kept.Kept`): what the networks said before is read from there and not asked again, what they say now is kept.
    `team`: processes that share the work, see `residual_gram`.
    """
    images = list(images)
    prompts = [prompts] * len(images) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(images):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts: give one prompt for each image, or one for all")
    if not images:
        raise ValueError("no image to fit: give at least one")
    if seeds not in ("place", "picture"):
        raise ValueError(f"seeds={seeds!r} is not a choice: use place or picture")
    distinct = sorted(set(prompts))
    groups = torch.tensor([distinct.index(p) for p in prompts])
    x0 = _encoded(ensemble, images, kept, team, stop)
    predict = asked = _Asked(halving(attentive(ensemble.predictor(distinct), len(ensemble.names), stop)), len(ensemble.names))
    room = 2**16 if ensemble.device.type == "cpu" else 2**18  # latent numbers a call: Stop waits for one
    if kept is not None:
        predict = kept.predictor(ensemble, predict, distinct)
    begun = pace.clock()
    try:
        found = residual_gram(
            lambda x_t, level, index: predict(x_t, level, groups[index]), x0, ensemble.noise, strata_of(ensemble.noise, levels),
            generator=torch.Generator().manual_seed(seed), groups=groups, draws=draws, progress=progress, stop=stop, names=ensemble.names,
            prompts=prompts, batch_size=batch_size or max(1, min(64, room // x0[0].numel())), team=team,
            seeds=picture_seeds(images, seed) if seeds == "picture" else None)  # fmt: skip
        if asked.evaluations == 2 * levels * draws * len(images) * len(ensemble.names):  # all of it, here and now
            pace.read(ensemble, asked.evaluations, pace.clock() - begun)
        return found
    finally:
        if kept is not None:
            kept.flush()


class _Asked:
    """A predictor that counts the network evaluations it was asked for."""

    def __init__(self, predict, members: int):
        self.predict, self.every, self.evaluations = predict, range(members), 0

    def __call__(self, x_t, level, index, **more):
        self.evaluations += len(x_t) * len(more.get("members", self.every))
        return self.predict(x_t, level, index, **more)


def _encoded(ensemble, images: Sequence, kept, team: Team, stop) -> torch.Tensor:
    """Latents (N, ...), each image encoded alone, so that neither company nor the number of processes changes a bit of them."""
    encode = ensemble.encode if kept is None else kept.encoder(ensemble)
    mine = team.mine(range(len(images)))
    own = []
    for n in mine:
        if team.size == 1 and stop is not None and stop():  # of several processes each must reach the sum below
            raise RuntimeError(NOTHING)
        own.append(encode([images[n]]).float().cpu())
    if team.size == 1:
        return torch.cat(own)
    shape = (len(images), *ensemble.shape)
    latents = np.zeros(shape)
    for n, one in zip(mine, own):
        latents[n] = one[0].numpy()
    return torch.from_numpy(team.total(latents)[0]).float()  # the others hold zeros: the sum is exact


def picture_seeds(images: Sequence, seed: int) -> list[int]:
    """A seed below 2^62 for each picture, from its pixels and `seed`; equal pictures get different ones, by their order."""
    found, times = [], {}
    for image in images:
        known = isinstance(image, Image.Image)  # of a computed array the last bits are no identity: it has its place
        pixels = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest() if known else f"array {len(found)}"
        times[pixels] = times.get(pixels, -1) + 1
        found.append(int.from_bytes(hashlib.sha256(f"{seed} {pixels} {times[pixels]}".encode()).digest()[:8], "big") >> 2)
    return found
