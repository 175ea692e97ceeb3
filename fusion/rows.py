"""Rows of the statistic: which noisy copies of an image the networks are shown, and what their answers add up to. Plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fusion.parallel import Team


class Draws:
    """Levels and noise of every image, made when asked for: image n depends on its seed alone, whoever asks.

    seeds (N,): a whole number below 2^63 for each image. size: numbers in a latent. strata (L + 1,): rising edges of level.
    """

    def __init__(self, seeds: Sequence[int], size: int, strata: torch.Tensor, draws: int, antithetic: bool):
        self.seeds = [int(seed) for seed in seeds]
        self.size, self.strata, self.draws, self.signs = size, strata, draws, (1.0, -1.0) if antithetic else (1.0,)
        self.per_level = draws * len(self.signs)
        self.per_image = (len(strata) - 1) * self.per_level
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _levels(self, n: int, own: torch.Generator) -> torch.Tensor:
        """(L, draws): draw d of a stratum lies in the d-th part of it."""
        part = (torch.arange(self.draws) + torch.rand(len(self.strata) - 1, self.draws, generator=own, dtype=torch.float64)) / self.draws
        return self.strata[:-1, None] + part * self.strata.diff()[:, None]

    def levels(self, count: int) -> torch.Tensor:
        """(count, L): mean level of each image's draws in each stratum."""
        return torch.stack([self._levels(n, torch.Generator().manual_seed(self.seeds[n])).mean(1) for n in range(count)])

    def _image(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels (R,) and noise (R, D) of image n."""
        own = torch.Generator().manual_seed(self.seeds[n])
        level = self._levels(n, own)
        eps = torch.randn(level.numel(), self.size, generator=own)
        eps = torch.stack([sign * eps for sign in self.signs], 1).reshape(-1, self.size)
        return level.reshape(-1).repeat_interleave(len(self.signs)), eps.double()

    def rows(self, row: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For rows of the long list (image-major): image, stratum, level (B,) and noise (B, D)."""
        image, slot = row // self.per_image, row % self.per_image
        self._kept = {int(n): self._kept.get(int(n)) or self._image(int(n)) for n in image.unique()}
        level, eps = (torch.stack([self._kept[n][part][k] for n, k in zip(image.tolist(), slot.tolist())]) for part in (0, 1))
        return image, slot // self.per_level, level, eps


class SmoothRows:
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


class Tally:
    """Sums that the members' predictions are added to, batch by batch, in every process its own; `together` joins them."""

    def __init__(self, source: Draws, clean: torch.Tensor, groups: torch.Tensor | None, members: int):
        levels = len(source.strata) - 1
        self.source = source
        self.plain = torch.zeros(len(clean), levels, members, members, dtype=torch.float64)
        self.smooth = None if groups is None else SmoothRows(clean, groups, levels, members)
        self.seen = torch.zeros(len(clean), dtype=torch.float64)  # noisy copies of each image that were looked at

    def add(self, image, stratum, x_t, eps, guess, a, s) -> None:
        """`image`, `stratum`, `a`, `s` (B,); `x_t`, `eps` (B, D); `guess` (K, B, D) predicted; all float64."""
        residual = guess - eps
        products = torch.einsum("ibd,jbd->bij", residual, residual) / (self.source.size * self.source.per_level)
        self.plain.index_put_((image, stratum), products, accumulate=True)
        self.seen.index_put_((image,), torch.ones_like(a), accumulate=True)
        if self.smooth is not None:
            self.smooth.add(image, stratum, x_t, guess, a, s)

    def together(self, team: Team) -> tuple[int, int, np.ndarray, np.ndarray | None]:
        """`(finished, seen, plain, smooth)` of all processes: images finished without a gap, copies seen, and those images' rows."""
        parts = [self.plain, self.seen] + ([] if self.smooth is None else [self.smooth.sums, self.smooth.counts])
        for part, total in zip(parts, team.total(*(part.numpy() for part in parts))):
            part.copy_(torch.from_numpy(total))
        unfinished = (self.seen < self.source.per_image).nonzero()
        finished = int(unfinished[0]) if len(unfinished) else len(self.seen)
        smooth = self.smooth.finish(finished).numpy() if self.smooth is not None and finished else None
        return finished, int(self.seen.sum()), self.plain[:finished].numpy(), smooth
