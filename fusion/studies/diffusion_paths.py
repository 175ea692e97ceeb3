"""Paths of a diffusion in a double well, seen through a noisy linear map, and their posterior by Hamiltonian Monte Carlo.

`du = beta u (1 - u^2) / (1 + u^2) ds + dw`, `u_0 = 0` (Cui, Law, Marzouk 2016, arXiv 1411.3688), in 50 Euler steps;
`x = (u_0.02, ..., u_1.00)`; `y = M x + N(0, I / 4)` in R^100. With beta = 0 the path is Brownian and the posterior Gaussian, in closed
form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LENGTH, OBSERVED, STEP, NOISE = 50, 100, 0.02, 0.5


def projection(seed: int = 0, unit: bool = True) -> Tensor:
    """The map M (100, 50) float64: directions drawn from the sphere, or (not `unit`) independent N(0, 1) entries."""
    rows = torch.randn(OBSERVED, LENGTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True) if unit else rows


def drift(u: Tensor, beta: float | Tensor) -> Tensor:
    return beta * u * (1 - u * u) / (1 + u * u)


def draw_pairs(beta: float, count: int, matrix: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """`x` (count, 50) and `y` (count, 100), float32."""
    generator = torch.Generator().manual_seed(seed)
    steps = math.sqrt(STEP) * torch.randn(count, LENGTH, generator=generator, dtype=torch.float64)
    u, path = torch.zeros(count, dtype=torch.float64), []
    for k in range(LENGTH):
        u = u + STEP * drift(u, beta) + steps[:, k]
        path.append(u)
    x = torch.stack(path, 1)
    y = x @ matrix.T + NOISE * torch.randn(count, OBSERVED, generator=generator, dtype=torch.float64)
    return x.float(), y.float()


def log_density(x: Tensor, y: Tensor, beta: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`log p(x | y)` up to a constant, (C,), and its gradient in x, (C, 50), for chains x (C, 50), y (C, 100), beta (C, 1); float64."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    innovation = x - before - STEP * drift(before, beta)
    residual = y - x @ matrix.T
    value = -innovation.square().sum(1) / (2 * STEP) - residual.square().sum(1) / (2 * NOISE**2)
    u2 = x * x
    slope = 1 + STEP * beta * (1 - 4 * u2 - u2 * u2) / (1 + u2) ** 2  # of the next mean in this value
    gradient = -innovation / STEP + residual @ matrix / NOISE**2
    gradient[:, :-1] += innovation[:, 1:] * slope[:, :-1] / STEP
    return value, gradient


def brownian_posterior(y: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N, 50) and covariance (50, 50) of x given y (N, 100) for beta = 0: both Gaussian, in closed form. float64."""
    times = STEP * torch.arange(1, LENGTH + 1, dtype=torch.float64)
    prior = torch.minimum(times[:, None], times[None, :])
    covariance = torch.linalg.inv(torch.linalg.inv(prior) + matrix.T @ matrix / NOISE**2)
    return y.double() @ matrix @ covariance / NOISE**2, covariance


def posterior(y: Tensor, beta: float, matrix: Tensor, *, chains: int = 8, burn: int = 150, keep: int = 400, leaps: int = 6,
              seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Mean and variance (N, 50) of `p(x | y)` for y (N, 100), and each mean's Monte Carlo variance summed over x (N,). float64.

    Hamiltonian Monte Carlo (Duane et al. 1987; exact accept-reject) in the coordinates that whiten the Brownian posterior; `chains` chains
    for every y start from independent draws of it. The last figure is the variance between chains divided by their number: it contains
    what slow mixing leaves.
    """
    start, covariance = brownian_posterior(y, matrix)
    root = torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(seed)
    normal = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    ys, betas = y.double().repeat_interleave(chains, 0), torch.full((len(y) * chains, 1), float(beta), dtype=torch.float64)
    origin = start.repeat_interleave(chains, 0)
    density = lambda z: log_density(origin + z @ root.T, ys, betas, matrix)
    z = normal(origin.shape)
    value, gradient = density(z)
    size, total, square = torch.full((len(z), 1), 0.35, dtype=torch.float64), torch.zeros_like(z), torch.zeros_like(z)
    for step in range(burn + keep):
        momentum = normal(z.shape)
        energy = value - momentum.square().sum(1) / 2
        at, slope, now = z, gradient @ root, value
        stride = size * (0.8 + 0.4 * torch.rand(size.shape, generator=generator, dtype=torch.float64))
        for _ in range(leaps):
            momentum = momentum + stride / 2 * slope
            at = at + stride * momentum
            now, new_gradient = density(at)
            slope = new_gradient @ root
            momentum = momentum + stride / 2 * slope
        accepted = torch.rand(len(z), generator=generator, dtype=torch.float64).log() < now - momentum.square().sum(1) / 2 - energy
        z, gradient = torch.where(accepted[:, None], at, z), torch.where(accepted[:, None], new_gradient, gradient)
        value = torch.where(accepted, now, value)
        if step < burn:  # towards an acceptance of 0.8, frozen afterwards
            size = size * torch.exp(0.1 * (accepted.double() - 0.8))[:, None]
        else:
            x = origin + z @ root.T
            total, square = total + x, square + x * x
    means = (total / keep).view(len(y), chains, -1)
    variance = (square / keep).view(len(y), chains, -1).mean(1) - means.mean(1).square()
    return means.mean(1), variance, means.var(1).sum(-1) / chains
