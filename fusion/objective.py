"""The objective: one small matrix per image and noise level.

With residuals `r_i = eps_i - eps` and weights `w` that sum to 1, `E ||sum_i w_i eps_i - eps||^2 / D = w' R w` with
`R_ij = E <r_i, r_j> / D`. Networks run once, forward only; every fit afterwards is linear algebra on the `(N, L, K, K)` statistic.
This module takes tensors and a function that predicts noise. It knows no pipeline, no network and no optimiser.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch

from fusion.gram import ResidualGram

QUIETEST = -6.0  # level = -logSNR below which the networks' training errors drown what they know about the population


class _SmoothRows:
    """Rao-Blackwell rows: every draw of an image informs all images that share its prompt.

    Given the finite target set, `x_t` came from image m with `p_m ~ exp(-||x_t - a x0_m||^2 / 2 s^2)` (Xu et al. 2023, "Stable target
    field"). Row m collects `p_m <eps_i - eps_m, eps_j - eps_m>` with `eps_m = (x_t - a x0_m) / s` over all draws: its expectation is that
    of the plain row (balance heuristic), so bootstrap and leave-one-out stay honest; summed over m it is
    `<eps_i - eps_bar, eps_j - eps_bar>` against the posterior mean `eps_bar`, plus a constant that moves no argmin.
    """

    def __init__(self, x0: torch.Tensor, groups: torch.Tensor, levels: int, members: int):
        self.x0, self.groups = x0, groups  # (N, D) float64, (N,)
        self.sums = torch.zeros(len(x0), levels, members, members, dtype=torch.float64)
        self.counts = torch.zeros(int(groups.max()) + 1, levels, dtype=torch.float64)

    def add(self, image, stratum, x_t, noise, a, s) -> None:
        """`image`, `stratum`, `a`, `s` (B,); `x_t` (B, D); `noise` (K, B, D) predicted; all float64."""
        group = self.groups[image]
        self.counts.index_put_((group, stratum), torch.ones_like(a), accumulate=True)
        for g, at in {(int(g), int(at)) for g, at in zip(group, stratum)}:
            b, m = (group == g) & (stratum == at), (self.groups == g).nonzero()[:, 0]
            eps, x, ref, a_b, s_b = noise[:, b], x_t[b], self.x0[m], a[b, None], s[b, None]
            own = torch.einsum("ibd,jbd->bij", eps, eps)
            cross = ((eps * x).sum(-1, keepdim=True) - a_b * (eps @ ref.T)) / s_b  # (K, b, M): <eps_i, eps_m>
            size = ((x * x).sum(-1, keepdim=True) - 2 * a_b * (x @ ref.T) + a_b**2 * (ref * ref).sum(-1)) / s_b**2  # (b, M): ||eps_m||^2
            p = torch.softmax(-size / 2, dim=-1)  # (b, M)
            mixed = torch.einsum("bm,ibm->mi", p, cross)
            total = torch.einsum("bm,bij->mij", p, own) - mixed[:, :, None] - mixed[:, None, :] + (p * size).sum(0)[:, None, None]
            self.sums[m, at] += total / x.shape[1]

    def finish(self, done: int) -> torch.Tensor:
        """Rows of the first `done` images; what a stopped run attributed to unfinished ones is shared out, so no draw is lost."""
        out = self.sums[:done].clone()
        for g in self.groups[:done].unique():
            kept, lost = (self.groups[:done] == g).nonzero()[:, 0], (self.groups[done:] == g).nonzero()[:, 0] + done
            rows = out[kept] + self.sums[lost].sum(0) / len(kept)
            out[kept] = rows * (len(kept) / self.counts[g])[None, :, None, None]
        return out


class _Draws:
    """Levels and noise of every image, made when asked for: image n depends on its place and the seed alone."""

    def __init__(self, count: int, size: int, strata: torch.Tensor, draws: int, antithetic: bool, generator: torch.Generator):
        self.seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        self.size, self.strata, self.draws, self.signs = size, strata, draws, (1.0, -1.0) if antithetic else (1.0,)
        self.per_level = draws * len(self.signs)
        self.per_image = (len(strata) - 1) * self.per_level
        self.levels = torch.zeros(count, len(strata) - 1, dtype=torch.float64)
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _image(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels (R,) and noise (R, D) of image n; draw d of a stratum lies in the d-th part of it."""
        own = torch.Generator().manual_seed(self.seeds[n])
        part = (torch.arange(self.draws) + torch.rand(len(self.strata) - 1, self.draws, generator=own, dtype=torch.float64)) / self.draws
        level = self.strata[:-1, None] + part * self.strata.diff()[:, None]  # (L, draws)
        eps = torch.randn(level.numel(), self.size, generator=own)
        self.levels[n] = level.mean(1)
        eps = torch.stack([sign * eps for sign in self.signs], 1).reshape(-1, self.size)
        return level.reshape(-1).repeat_interleave(len(self.signs)), eps.double()

    def rows(self, row: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For rows of the long list (image-major): image, stratum, level (B,) and noise (B, D)."""
        image, slot = row // self.per_image, row % self.per_image
        self._kept = {int(n): self._kept.get(int(n)) or self._image(int(n)) for n in image.unique()}
        level, eps = (torch.stack([self._kept[n][part][k] for n, k in zip(image.tolist(), slot.tolist())]) for part in (0, 1))
        return image, slot // self.per_level, level, eps


def residual_gram(predict, x0, noise, strata, *, generator, antithetic=True, smooth_target=True, groups=None, draws=1,
                  batch_size=64, progress=None, stop=None, names=None, prompts=None) -> ResidualGram:  # fmt: skip
    """Measure the statistic of clean latents `x0` (N, ...), on the CPU.

    `predict(x_t, level)` or `predict(x_t, level, index)` stacks the members' predicted noise, (K, B, ...), with `level = -logSNR` (B,)
    and `index` (B,) the image each row comes from. `noise.coefficients(level) -> (a, s)`; where it also has `level_weights(strata)`
    these become the gram's, otherwise every level counts alike. Every image draws its own `draws` levels inside each stratum, and its
    noise, from a generator seeded by `generator` and its place: images added at the end leave the others' plain rows unchanged.
    `groups` (N,) integers: images with one number share a smooth target (None: all). `progress(done, total, message)` counts noisy copies.
    When `stop()` turns true the images finished so far are returned; RuntimeError if there are none.
    """
    strata, count, clean = torch.as_tensor(strata, dtype=torch.float64), len(x0), x0.reshape(len(x0), -1).double()
    if not count:
        raise ValueError("no image to measure: give at least one")
    groups = torch.zeros(count, dtype=torch.long) if groups is None else torch.unique(torch.as_tensor(groups), return_inverse=True)[1]
    source = _Draws(count, clean.shape[1], strata, draws, antithetic, generator)
    ask = predict if len(inspect.signature(predict).parameters) > 2 else lambda x_t, level, _: predict(x_t, level)
    total, done, plain, smooth = count * source.per_image, 0, None, None
    while done < total and not (stop is not None and stop()):
        image, stratum, level, eps = source.rows(torch.arange(done, min(done + batch_size, total)))
        a, s = noise.coefficients(level)
        x_t = a[:, None] * clean[image] + s[:, None] * eps
        with torch.no_grad():
            guess = ask(x_t.to(x0.dtype).reshape(-1, *x0.shape[1:]), level.to(x0.dtype), image)
        guess = guess.to("cpu", torch.float64).reshape(len(guess), len(image), -1)  # (K, B, D)
        if plain is None:
            names = tuple(names or (f"member {k + 1}" for k in range(len(guess))))
            plain = torch.zeros(count, len(strata) - 1, len(guess), len(guess), dtype=torch.float64)
            smooth = _SmoothRows(clean, groups, len(strata) - 1, len(guess)) if smooth_target else None
        _refuse_nonfinite(guess, names)
        residual = guess - eps
        products = torch.einsum("ibd,jbd->bij", residual, residual) / (source.size * source.per_level)
        plain.index_put_((image, stratum), products, accumulate=True)
        if smooth is not None:
            smooth.add(image, stratum, x_t, guess, a, s)
        done += len(image)
        if progress is not None:
            progress(done, total, f"image {int(image[-1]) + 1} of {count}")
    finished = done // source.per_image
    if not finished:
        raise RuntimeError("stopped before the first image was finished: nothing was measured")
    return ResidualGram(
        plain=plain[:finished].numpy(), smooth=None if smooth is None else smooth.finish(finished).numpy(),
        levels=source.levels[:finished].numpy(), strata=strata.numpy(), level_weights=_level_weights(noise, strata), names=names,
        prompts=tuple(prompts or ("",) * count)[:finished], evaluations=done * len(names), dimensions=source.size,
        draws=source.per_level)  # fmt: skip


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


def fit_gram(ensemble, images, prompts, *, levels=16, draws=1, seed=0, batch_size=None, progress=None, stop=None) -> ResidualGram:
    """`residual_gram` over an `Ensemble`, PIL images and one prompt for each (or one for all).

    Images with the same prompt share a smooth target. `batch_size` None keeps a batch near 2^18 latent numbers, at most 64 copies.
    The result does not depend on it beyond the networks' own rounding.
    """
    images = list(images)
    prompts = [prompts] * len(images) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(images):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts: give one prompt for each image, or one for all")
    if not images:
        raise ValueError("no image to fit: give at least one")
    distinct = sorted(set(prompts))
    groups = torch.tensor([distinct.index(p) for p in prompts])
    predict, x0 = ensemble.predictor(distinct), ensemble.encode(images).float().cpu()
    return residual_gram(
        lambda x_t, level, index: predict(x_t, level, groups[index]), x0, ensemble.noise, strata_of(ensemble.noise, levels),
        generator=torch.Generator().manual_seed(seed), groups=groups, draws=draws, progress=progress, stop=stop, names=ensemble.names,
        prompts=prompts, batch_size=batch_size or max(1, min(64, 2**18 // x0[0].numel())))  # fmt: skip
