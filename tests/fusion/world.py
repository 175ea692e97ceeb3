"""A small world where everything is known: 18 cells of portraits as Gaussian bumps in a few 'pixels', members that denoise exactly
for their own population plus a systematic training error of their own, and the `Ensemble` contract around them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from models.portraits.population import MEMBER_POPULATIONS, PROFESSIONS

MEMBERS = ("harbor", "summit", "meadow", "delta")
POPULATIONS = np.stack([MEMBER_POPULATIONS[name].ravel() for name in MEMBERS])  # (4, 18)


class Path:
    """Variance preserving; level = log(s^2 / a^2)."""

    range = (-8.0, 9.0)

    def coefficients(self, level):
        return torch.sqrt(torch.sigmoid(-level)), torch.sqrt(torch.sigmoid(level))

    def level_weights(self, strata):
        edges = np.asarray(strata)
        time = 1 / (1 + np.exp(-edges / 3))  # a made-up schedule
        return {"simple": np.diff(time) / (time[-1] - time[0]), "likelihood": np.diff(edges) / (edges[-1] - edges[0])}


@dataclass
class World:
    """`error`: size of the members' training errors, as the standard deviation of predicted noise; `spread`: within-cell deviation."""

    populations: np.ndarray = field(default_factory=lambda: POPULATIONS)  # (K, 18)
    error: float = 0.12
    spread: float = 0.3
    size: int = 32
    seed: int = 0
    names: tuple = MEMBERS
    dtype: torch.dtype = torch.float32
    noise: Path = field(default_factory=Path)
    calls: int = 0
    device: torch.device = torch.device("cpu")

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        presentation = rng.normal(size=(3, self.size)) * 0.55
        tone = np.linspace(-1.2, 1.2, 6)[:, None] * rng.normal(size=self.size) * 0.6 + 0.15 * rng.normal(size=(6, self.size))
        self.centres = torch.tensor((presentation[:, None] + tone[None]).reshape(18, -1))  # (18, D)
        self.jobs = torch.tensor(rng.normal(size=(16, self.size)) * 0.6)  # (16, D): the prompt fixes it
        members, width = len(self.populations), 48
        self.frequency = torch.tensor(rng.normal(size=(members, self.size + 1, width)) / np.sqrt(self.size) * 1.5)
        self.phase = torch.tensor(rng.uniform(0, 2 * np.pi, (members, 1, width)))
        self.mixing = torch.tensor(rng.normal(size=(members, width, self.size)) * np.sqrt(2 / width))
        self.log_population = torch.tensor(np.log(self.populations))

    # ---- images: (cell, job, latent)
    def draw(self, shares, count: int, seed: int):
        """Cells (N,), prompts (N,), images: list of (D,) tensors from the mixture `shares` of the members, or an (18,) population."""
        rng = np.random.default_rng(seed)
        shares = np.asarray(shares, dtype=float)
        population = shares if len(shares) == 18 else shares @ self.populations
        cells, jobs = rng.choice(18, size=count, p=population / population.sum()), rng.integers(16, size=count)
        x0 = self.centres[cells] + self.jobs[jobs] + self.spread * torch.tensor(rng.normal(size=(count, self.size)))
        return cells, [f"a portrait of a {list(PROFESSIONS)[j]}" for j in jobs], list(x0.to(self.dtype))

    # ---- the Ensemble contract
    def encode(self, images):
        return torch.stack(list(images))

    def predictor(self, prompts, *, guidance=None):
        jobs = self.jobs[[list(PROFESSIONS).index(p.removeprefix("a portrait of a ")) for p in prompts]]

        def predict(x_t, level, index=None, members=None):
            shift = jobs if index is None else jobs[index]
            asked = list(range(len(self.populations)) if members is None else members)
            self.calls += len(asked) * len(x_t)
            return self.predict(x_t.double(), level.double(), shift).to(x_t.dtype)[asked]

        return predict

    def predict(self, x_t, level, shift):
        """Exact E[eps | x_t] under each member's population, plus its smooth, fixed error: (K, B, D)."""
        a, s = (c[:, None] for c in self.noise.coefficients(level))
        variance = a**2 * self.spread**2 + s**2  # (B, 1)
        centred = x_t - a * shift
        distance = (centred**2).sum(-1, keepdim=True) - 2 * a * (centred @ self.centres.T) + a**2 * (self.centres**2).sum(-1)
        cell = torch.softmax(self.log_population[:, None] - distance / (2 * variance), dim=-1)  # (K, B, 18)
        mean = cell @ self.centres  # (K, B, D)
        exact = s / variance * (centred - a * mean)
        inputs = torch.cat([x_t / torch.sqrt(a**2 + s**2), level[:, None] / 4], dim=-1)
        return exact + self.error * torch.cos(inputs @ self.frequency + self.phase) @ self.mixing


def oracle(cells: np.ndarray, populations: np.ndarray) -> np.ndarray:
    """Maximum-likelihood proportions from the true cells, (K,), by a long EM."""
    likelihood = populations[:, cells]  # (K, N)
    shares = np.full(len(populations), 1 / len(populations))
    for _ in range(1000):
        shares = shares * (likelihood / (shares @ likelihood)).mean(1)
    return shares / shares.sum()
