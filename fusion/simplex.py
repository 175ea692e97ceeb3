"""Exact quadratic programs on the simplex: minimise `w' R w - 2 c' w` with `w >= 0`, `sum w = 1`, batched and in float64.

Up to `ENUMERATED` members every support is tried: on each the problem is one small linear system, the minimum is the best feasible one,
so the answer is exact and vectorises over the batch. For more members, and for chains of simplices (per-level weights), a primal-dual
interior point (Nocedal & Wright, Numerical Optimization, ch. 16.6) with an active-set finish that returns exact zeros.
This module knows matrices only.
"""

from __future__ import annotations

import itertools

import numpy as np

ENUMERATED = 6
_SINGULAR = 1e-13  # pivot of a matrix with unit diagonal below which a support is skipped: a smaller support is as good


def solve_simplex(R: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    """Minimiser `(..., K)` of `w' R w - 2 c' w` over the simplex; `R` (..., K, K) positive semi-definite, `c` (..., K) or None.

    Where several weights are equally good (members that are copies), one of them with the fewest members. ValueError when not finite.
    """
    R = np.asarray(R, dtype=np.float64)
    c = np.zeros(R.shape[:-1]) if c is None else np.broadcast_to(np.asarray(c, dtype=np.float64), R.shape[:-1])
    if not (np.isfinite(R).all() and np.isfinite(c).all()):
        raise ValueError("the matrix of residual products is not finite: a member's predictions are damaged")
    members, batch = R.shape[-1], R.shape[:-2]
    R, c = (R + R.swapaxes(-1, -2)).reshape(-1, members, members) / 2, c.reshape(-1, members)
    if members <= ENUMERATED:
        return _enumerate(R, c).reshape(*batch, members)
    return np.stack([solve_blocks(r, b, 1) for r, b in zip(R, c)]).reshape(*batch, members)


def _enumerate(R: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Best feasible stationary point over all supports, (B, K). Supports grow, so that ties go to fewer members."""
    members, best = R.shape[-1], np.full(len(R), np.inf)
    answer = np.zeros((len(R), members))
    shift = np.trace(R, axis1=1, axis2=2)[:, None, None] / members
    for size in range(1, members + 1):
        for support in map(list, itertools.combinations(range(members), size)):
            w = np.zeros((len(R), members))
            inner, feasible = _stationary(R[:, support][:, :, support], c[:, support])
            w[:, support] = np.where(feasible[:, None], inner, 0)
            value = np.einsum("bi,bij,bj->b", w, R - shift, w) - 2 * (w * c).sum(-1)  # the shift moves no argmin and saves digits
            better = feasible & (value < best)
            best[better], answer[better] = value[better], w[better]
    return answer


def _stationary(R: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimiser on `sum w = 1` alone, (B, k), and whether it is defined and positive, (B,)."""
    if R.shape[-1] == 1:
        return np.ones((len(R), 1)), np.ones(len(R), dtype=bool)
    # w = e_k + v - e_k sum(v): the last member takes what the others leave
    tangent = R[:, :-1, :-1] - R[:, :-1, -1:] - R[:, -1:, :-1] + R[:, -1:, -1:]
    slope = c[:, :-1] - c[:, -1:] - R[:, :-1, -1] + R[:, -1:, -1]
    v, defined = _solve_positive(tangent, slope)
    w = np.concatenate([v, 1 - v.sum(-1, keepdims=True)], axis=-1)
    return w, defined & (w > 0).all(-1)


def _solve_positive(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve A v = b by Cholesky on a unit diagonal, (B, k, k) and (B, k); second result: is A safely positive definite, (B,)."""
    scale = np.sqrt(np.maximum(np.einsum("bii->bi", A), np.finfo(float).tiny))
    A, size = A / (scale[:, :, None] * scale[:, None, :]), A.shape[-1]
    L, v, safe = np.zeros_like(A), b / scale, np.ones(len(A), dtype=bool)
    for j in range(size):
        pivot = A[:, j, j] - (L[:, j, :j] ** 2).sum(-1)
        safe &= pivot > _SINGULAR
        L[:, j, j] = np.sqrt(np.where(pivot > _SINGULAR, pivot, 1.0))
        for i in range(j + 1, size):
            L[:, i, j] = (A[:, i, j] - (L[:, i, :j] * L[:, j, :j]).sum(-1)) / L[:, j, j]
    for j in range(size):
        v[:, j] = (v[:, j] - (L[:, j, :j] * v[:, :j]).sum(-1)) / L[:, j, j]
    for j in reversed(range(size)):
        v[:, j] = (v[:, j] - (L[:, j + 1 :, j] * v[:, j + 1 :]).sum(-1)) / L[:, j, j]
    return np.where(safe[:, None], v / np.where(safe[:, None], scale, 1.0), 0.0), safe


def solve_blocks(Q: np.ndarray, c: np.ndarray, blocks: int, *, finish: bool = True) -> np.ndarray:
    """Minimiser `(..., M)` of `w' Q w - 2 c' w` where each of `blocks` equal, consecutive parts of `w` lies on its own simplex.

    `Q` (..., M, M) positive semi-definite. `finish=False` skips the active-set finish: right to about 1e-9, faster for long batches.
    """
    Q, c = np.asarray(Q, dtype=np.float64), np.asarray(c, dtype=np.float64)
    size = Q.shape[-1]
    batch = np.broadcast_shapes(Q.shape[:-2], c.shape[:-1])
    H = 2 * np.broadcast_to(Q, (*batch, size, size)).reshape(-1, size, size)
    g = 2 * np.broadcast_to(c, (*batch, size)).reshape(-1, size)
    sums = np.kron(np.eye(blocks), np.ones(size // blocks))  # (blocks, M)
    scale = np.maximum(np.abs(H).max((1, 2)), np.abs(g).max(1))
    scale = np.where(scale > 0, scale, 1.0)
    H, g = H / scale[:, None, None], g / scale[:, None]
    w = _interior(H, g, sums)
    if finish:
        w = np.stack([_finish(*each, sums) for each in zip(H, g, w)])
    return w.reshape(*batch, size)


def _interior(H: np.ndarray, g: np.ndarray, sums: np.ndarray, steps: int = 60) -> np.ndarray:
    """Primal-dual path following with a fixed-fraction step, from the uniform weights, which are feasible."""
    batch, size = g.shape
    w = np.full((batch, size), len(sums) / size)
    z, y = np.full((batch, size), 1.0), np.zeros((batch, len(sums)))
    for _ in range(steps):
        gap = (w * z).mean(-1)
        dual = np.einsum("bij,bj->bi", H, w) - g - y @ sums - z
        if gap.max() < 1e-15 and np.abs(dual).max() < 1e-13:
            break
        centre = np.where(np.abs(dual).max(-1) > 10 * gap, 0.5, 0.1) * gap
        A = H + np.einsum("bi,ij->bij", z / w, np.eye(size))
        right = -dual - z + centre[:, None] / w
        both = np.linalg.solve(A, np.concatenate([right[..., None], np.broadcast_to(sums.T, (batch, *sums.T.shape))], -1))
        u, V = both[..., 0], both[..., 1:]
        dy = np.linalg.solve(sums @ V, (1 - (w + u) @ sums.T)[..., None])[..., 0]
        dw = u + np.einsum("bij,bj->bi", V, dy)
        dz = centre[:, None] / w - z - z * dw / w
        step = [0.995 / np.maximum(-d / x, 0.995).max(-1, keepdims=True) for d, x in ((dw, w), (dz, z))]
        step = np.minimum(*step)
        w, z, y = w + step * dw, z + step * dz, y + step * dy
    return w


def _finish(H: np.ndarray, g: np.ndarray, w: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Primal active-set steps from the interior point's answer: exact on its support, and exact zeros (Nocedal & Wright, alg. 16.3)."""
    w = np.where(w > 1e-7, w, 0.0)
    w = w / (sums.T @ (sums @ w))
    free = w > 0
    for _ in range(4 * len(w)):
        E = sums[:, free]
        system = np.block([[H[np.ix_(free, free)], E.T], [E, np.zeros((len(E), len(E)))]])
        slope = H @ w - g
        step = np.zeros_like(w)
        step[free] = np.linalg.lstsq(system, np.concatenate([-slope[free], np.zeros(len(E))]), rcond=None)[0][: free.sum()]
        blocking = free & (step < 0) & (w + step <= 0)
        if blocking.any():  # as far as the first weight that reaches zero, which then leaves
            reach = np.where(blocking, w / np.where(blocking, -step, 1.0), np.inf)
            w = w + reach.min() * step
            w[reach.argmin()], free[reach.argmin()] = 0.0, False
            w = np.maximum(w, 0)
            continue
        w = w + step
        slope = H @ w - g
        price = np.array([slope[(one > 0) & free].mean() for one in sums]) @ sums  # the common slope of a block's free weights
        gain = np.where(free, 0.0, price - slope)
        if gain.max() <= 1e-14:
            break
        free[gain.argmax()] = True
    return w / (sums.T @ (sums @ w))
