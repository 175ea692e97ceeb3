"""Network evaluations and time of our fit against the published recipe, at equal or better held-out loss.

The setting is ScoreFusion's one-dimensional study with exact members: target 0.6 N(-6, 0.8^2) + 0.4 N(6, 0.8^2), auxiliaries 0.5/0.5 at
(-3, 10) and 0.7/0.3 at (-7, 9) with deviation 1, variance-exploding path with sigma = 25. The published recipe is re-created: softmax
logits, SGD with rate 0.1 and momentum 0.9, 128 epochs, fresh t and noise for every sample in every epoch. Ours: every sample draws one
antithetic pair at one level, residuals against the smooth target, and one quadratic program. Held-out loss is a quadratic form, so both
are scored on the same large test set without noise of their own.

    python -m tests.benchmarks.fit_vs_published [--samples 1024] [--seeds 6] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np
import torch

from fusion.objective import residual_gram
from fusion.simplex import solve_simplex
from fusion.weights import SimplexWeights

SIGMA, EPOCHS, BATCH, FIRST = 25.0, 128, 64, 1e-3  # FIRST: the smallest t that training visits
TARGET = ([0.6, 0.4], [-6.0, 6.0], 0.8)
MEMBERS = [([0.5, 0.5], [-3.0, 10.0], 1.0), ([0.7, 0.3], [-7.0, 9.0], 1.0)]


def deviation(t):
    """Marginal deviation of the path dx = SIGMA^t dw."""
    return torch.sqrt((SIGMA ** (2 * t) - 1) / (2 * math.log(SIGMA)))


def noise_of(mixture, x_t, s):
    """Exact E[eps | x_t] of a mixture of Gaussians at noise `s`, (B, 1) like `x_t`."""
    shares, means, spread = mixture
    variance = spread**2 + s**2
    log = torch.log(torch.tensor(shares, dtype=x_t.dtype)) - (x_t - torch.tensor(means, dtype=x_t.dtype)) ** 2 / (2 * variance)
    return s * (x_t - (torch.softmax(log, -1) * torch.tensor(means, dtype=x_t.dtype)).sum(-1, keepdim=True)) / variance


class Members:
    """The frozen networks, counting what they are asked."""

    def __init__(self):
        self.evaluations = 0

    def __call__(self, x_t, s):
        self.evaluations += len(MEMBERS) * len(x_t)
        return torch.stack([noise_of(m, x_t, s) for m in MEMBERS])


class Exploding:
    """x_t = x0 + s eps; level = log s^2."""

    range = tuple(2 * math.log(float(deviation(torch.tensor(t, dtype=torch.float64)))) for t in (FIRST, 1.0))

    def coefficients(self, level):
        return torch.ones_like(level), torch.exp(level / 2)


def draw(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    shares, means, spread = TARGET
    which = torch.multinomial(torch.tensor(shares), count, replacement=True, generator=generator)
    return (torch.tensor(means)[which] + spread * torch.randn(count, generator=generator)).double()[:, None]


def published(x0, seed: int):
    """Weights by gradient descent on fresh noise: Liu et al. 2025 as in their code."""
    members, generator = Members(), torch.Generator().manual_seed(seed)
    logits = torch.zeros(len(MEMBERS), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=0.1, momentum=0.9)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x0), generator=generator).split(BATCH):
            t = FIRST + (1 - FIRST) * torch.rand(len(rows), 1, generator=generator, dtype=torch.float64)
            eps, s = torch.randn(len(rows), 1, generator=generator, dtype=torch.float64), deviation(t)
            with torch.no_grad():
                guess = members(x0[rows] + s * eps, s)
            loss = ((torch.einsum("k,kbd->bd", logits.softmax(0), guess) - eps) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return logits.softmax(0).detach().numpy(), members.evaluations


def ours(x0, seed: int):
    """One antithetic pair for each sample, then the exact minimum."""
    members, generator = Members(), torch.Generator().manual_seed(seed)
    gram = residual_gram(lambda x, level: members(x, torch.exp(level / 2)[:, None]), x0, Exploding(), Exploding.range,
                         generator=generator, batch_size=512)  # fmt: skip
    return SimplexWeights(bootstrap=1).fit(gram).weights_, members.evaluations


def held_out_matrix(count: int = 400_000):
    """The published objective on unseen samples, uniform in t, as a 2 x 2 matrix."""
    x0, members, generator = draw(count, seed=10_000), Members(), torch.Generator().manual_seed(1)
    s = deviation(FIRST + (1 - FIRST) * (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) / count)
    eps = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    target = noise_of(TARGET, x0 + s * eps, s)  # the best prediction there is: the same minimum, no noise from the target
    residual = (members(x0 + s * eps, s) - target)[..., 0]
    return (residual @ residual.T / count).numpy()


def measure(samples: int, seeds: int) -> dict:
    R = held_out_matrix()
    best = solve_simplex(R)
    runs = {"published": [], "ours": []}
    for seed in range(seeds):
        x0 = draw(samples, seed)
        for name, recipe in (("published", published), ("ours", ours)):
            start = time.perf_counter()
            w, evaluations = recipe(x0, 100 + seed)
            runs[name].append((w @ R @ w - best @ R @ best, evaluations, time.perf_counter() - start, w[0]))
    mean = {name: np.mean(rows, axis=0) for name, rows in runs.items()}
    table = {name: dict(zip(("excess_loss", "evaluations", "seconds", "weight_of_first"), map(float, row))) for name, row in mean.items()}
    ratios = {key: table["published"][key] / table["ours"][key] for key in ("excess_loss", "evaluations", "seconds")}
    return {"samples": samples, "seeds": seeds, "best_weight_of_first": float(best[0]), **table, "published_over_ours": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=1024, help="target samples (default 1024)")
    parser.add_argument("--seeds", type=int, default=6, help="independent target sets to average over (default 6)")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(arguments.samples, arguments.seeds)
    print(json.dumps(result, indent=2))
    print(f"\n| {arguments.samples} samples, mean of {arguments.seeds} sets | published recipe | ours | ratio |\n| --- | --- | --- | --- |")
    for key, title in (("evaluations", "network evaluations"), ("seconds", "seconds"), ("excess_loss", "held-out loss above the minimum")):
        one, two, ratio = result["published"][key], result["ours"][key], result["published_over_ours"][key]
        print(f"| {title} | {one:.4g} | {two:.4g} | {ratio:.3g} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
