"""Shares of a mixture by maximum likelihood: exact maximum, profile intervals, a logistic model and a shrunk covariance. Plain numpy.

`f` is everywhere `(..., N, K)`: the likelihood of image n under member k, up to a factor per image. `l(pi) = mean_n log sum_k pi_k f_nk` is
concave on the simplex (Saerens et al. 2002; Lipton et al. 2018 for its use on classifier outputs).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from fusion.simplex import solve_simplex


def log_likelihood(pi: np.ndarray, f: np.ndarray, prior: float = 0.0) -> np.ndarray:
    """Mean over images of `log pi . f_n`, `(...,)`; `prior` counts as so many further images of each member, seen with certainty."""
    seen = np.log(np.maximum(np.einsum("...nk,...k->...n", f, pi), 1e-300)).mean(-1)
    return seen + prior / f.shape[-2] * np.log(np.maximum(pi, 1e-300)).sum(-1) if prior else seen


def expansion(pi: np.ndarray, f: np.ndarray, prior: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Second-order expansion at `pi`, as `Q` (..., K, K) and `c` (..., K): `-l(x) = x' Q x - 2 c' x + constant` near `pi`.

    With scores `s_n = f_n / pi . f_n`: gradient `g = mean s`, curvature `H = mean s s'`, `H pi = g`; so `Q = H / 2`, `c = g`.
    """
    s = f / np.maximum(np.einsum("...nk,...k->...n", f, pi), 1e-300)[..., None]
    Q, c = np.einsum("...ni,...nj->...ij", s, s) / (2 * f.shape[-2]), s.mean(-2)
    if prior:
        pull = prior / f.shape[-2] / np.maximum(pi, 1e-12)
        Q, c = Q + np.eye(pi.shape[-1]) * (pull / np.maximum(pi, 1e-12))[..., None] / 2, c + pull
    return Q, c


def shares(f: np.ndarray, prior: float = 0.0, steps: int = 60) -> np.ndarray:
    """Maximum-likelihood shares `(..., K)`: a few EM steps, then Newton steps that each solve a quadratic program on the simplex.

    `prior` > 0: the maximum with that many certain images of each member added (a Dirichlet prior), which is never on the boundary.
    """
    f = f / f.max(-1, keepdims=True)
    pi = np.full((*f.shape[:-2], f.shape[-1]), 1 / f.shape[-1])
    for _ in range(10):
        pi = pi * expansion(pi, f, prior)[1]
        pi = pi / pi.sum(-1, keepdims=True)
    for _ in range(steps):
        Q, c = expansion(pi, f, prior)
        move, now, size = solve_simplex(Q, c) - pi, log_likelihood(pi, f, prior), np.ones(pi.shape[:-1])
        slope = (c * move).sum(-1)
        if slope.max() < 1e-12:  # KKT: no feasible direction rises
            break
        for _ in range(30):  # Armijo: halve where the step was too long
            worse = log_likelihood(pi + size[..., None] * move, f, prior) < now + 1e-4 * size * slope - 1e-15
            size = np.where(worse, size / 2, size)
            if not worse.any():
                break
        pi = pi + size[..., None] * move
    pi = np.maximum(pi, 0)
    return pi / pi.sum(-1, keepdims=True)


def profile_intervals(f: np.ndarray, best: np.ndarray, level: float = 0.95, points: int = 80) -> np.ndarray:
    """`(K, 2)`: for each member the shares v whose best explanation loses less than half a chi-square quantile of log-likelihood.

    `f` (N, K), `best` its `shares`. Stays inside 0..1, is not symmetric, and near the boundary errs towards too wide.
    """
    members, count = f.shape[1], len(f)
    if members == 1:
        return np.ones((1, 2))
    drop = NormalDist().inv_cdf((1 + level) / 2) ** 2 / 2 / count  # of mean log-likelihood
    v = np.linspace(0, 1, points + 1)
    f = f / f.max(1, keepdims=True)
    out, top = np.empty((members, 2)), log_likelihood(best, f)
    for k in range(members):
        others = np.delete(f, k, axis=1)  # (N, K - 1): EM for the rest, with share v of member k held
        rest = np.full((points + 1, members - 1), 1 / (members - 1))
        for _ in range(200):
            mixed = v[:, None] * f[:, k] + (1 - v[:, None]) * (rest @ others.T)  # (points, N)
            rest = rest * ((1 / np.maximum(mixed, 1e-300)) @ others)
            rest = rest / rest.sum(1, keepdims=True)
        mixed = v[:, None] * f[:, k] + (1 - v[:, None]) * (rest @ others.T)
        loss = top - np.log(np.maximum(mixed, 1e-300)).mean(1)
        out[k] = _crossings(v, loss - drop, best[k])
    return out


def _crossings(v: np.ndarray, excess: np.ndarray, best: float) -> tuple[float, float]:
    """Where a convex `excess` on the grid `v`, negative at `best`, turns positive on either side (linear between points)."""
    v, excess = np.append(v, best), np.append(excess, min(excess.min(), -1e-12))
    order = np.argsort(v, kind="stable")
    v, excess = v[order], excess[order]
    inside = np.flatnonzero(excess <= 0)
    low, high = inside[0], inside[-1]
    cross = lambda a, b: v[a] + (v[b] - v[a]) * excess[a] / (excess[a] - excess[b])  # noqa: E731
    return (cross(low, low - 1) if low else v[0]), (cross(high, high + 1) if high + 1 < len(v) else v[-1])


def ledoit_wolf(X: np.ndarray) -> np.ndarray:
    """Shrunk covariance `(F, F)` of centred rows `(M, F)` towards a multiple of the identity (Ledoit & Wolf 2004, section 3.2)."""
    count, size = X.shape
    S = X.T @ X / count
    if size == 0:  # a single member has nothing to compare
        return S
    mean = np.trace(S) / size
    distance = ((S - mean * np.eye(size)) ** 2).sum()
    noise = (((X**2).sum(1) ** 2).sum() / count - (S**2).sum()) / count
    shrink = 0.0 if distance == 0 else min(max(noise, 0.0) / distance, 1.0)
    return (1 - shrink) * S + (shrink * mean + 1e-9 * mean + 1e-30) * np.eye(size)


def logistic(X: np.ndarray, owner: np.ndarray, weight: np.ndarray, ridge: float = 1.0, start: np.ndarray | None = None) -> np.ndarray:
    """Multinomial logistic coefficients `(..., d, K)` of rows `X` (M, d, constant included), for row weights `(..., M)`.

    Newton's method with a step limit; `ridge` on all coefficients keeps separable classes finite.
    """
    members, batch = int(owner.max()) + 1, weight.shape[:-1]
    d, truth = X.shape[1], np.eye(members)[owner]
    theta = np.zeros((*batch, d, members)) if start is None else np.broadcast_to(start, (*batch, d, members)).copy()
    for _ in range(25 if start is None else 5):
        p = softmax(X @ theta)  # (..., M, K)
        gradient = np.einsum("mi,...mk->...ik", X, weight[..., None] * (truth - p)) - ridge * theta
        wp = weight[..., None] * p
        same = np.einsum("...mk,mi,mj->...kij", wp, X, X, optimize=True)
        cross = np.einsum("...mki,...mlj->...ikjl", wp[..., None] * X[:, None], p[..., None] * X[:, None], optimize=True)
        H = -cross
        for k in range(members):
            H[..., :, k, :, k] += same[..., k, :, :]
        H = H.reshape(*batch, d * members, d * members) + ridge * np.eye(d * members)
        step = np.linalg.solve(H, gradient.reshape(*batch, d * members, 1)).reshape(theta.shape)
        theta = theta + step / np.maximum(1, np.abs(step).max((-1, -2), keepdims=True) / 2)
        if np.abs(step).max() < 1e-8:
            break
    return theta


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)
