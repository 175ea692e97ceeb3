"""Exact quadratic programs on the simplex: minimise `w' R w - 2 c' w` with `w >= 0`, `sum w = 1`, batched and in float64.

Up to `ENUMERATED` members every support is tried: on each the problem is one small linear system, and the answer is the smallest support
whose point passes the optimality certificate, so it vectorises over the batch. For more members, active-set steps (Nocedal & Wright,
Numerical Optimization, alg. 16.3) from the best single member; for chains of simplices (per-level weights), from a primal-dual interior
point (ch. 16.6). Both return exact zeros.

The certificate: where every member's slope is at least the mean slope under `w`, `w` is a minimum, and otherwise the shortfall bounds what
is missed (convexity). It is judged against the rounding of that very slope, `|R| w + |c|`, not against the largest number of the matrix:
members of error 1e-3 beside one of 1e3 are weighed as exactly as alone, and any order of float operations gives an answer as good.
This module knows matrices only.
"""

from __future__ import annotations

import itertools

import numpy as np

ENUMERATED = 6
_SINGULAR = 1e-13  # pivot of a matrix with unit diagonal below which a support is skipped: a smaller support is as good
_ROUNDING = 256 * np.finfo(float).eps  # shortfall, in units of the slope's own terms, that is rounding: a sum of a few dozen terms


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
    largest = np.maximum(np.abs(R).max((1, 2), initial=0), np.abs(c).max(1, initial=0))
    power = 2.0 ** -np.frexp(np.where(largest > 0, largest, 1.0))[1]  # exact, and no square below leaves the range of floats
    R, c = R * power[:, None, None], c * power[:, None]
    if members <= ENUMERATED:
        return _enumerate(R, c).reshape(*batch, members)
    first = np.eye(members)[(np.einsum("bii->bi", R) - 2 * c).argmin(1)]
    return np.array([_active_set(*each, np.ones((1, members))) for each in zip(R, c, first)]).reshape(*batch, members)


def _enumerate(R: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The smallest support whose stationary point passes the certificate, else the best, (B, K); what none passes is finished by steps.

    The members are ordered by their diagonal, so that the last of any support, which the others are measured from, is its smallest.
    """
    members, best = R.shape[-1], np.full(len(R), np.inf)
    order = np.argsort(-np.einsum("bii->bi", R), axis=1, kind="stable")
    R, c = np.take_along_axis(np.take_along_axis(R, order[:, :, None], 1), order[:, None], 2), np.take_along_axis(c, order, 1)
    answer = np.zeros((len(R), members))
    for size in range(1, members + 1):
        for support in map(list, itertools.combinations(range(members), size)):
            w = np.zeros((len(R), members))
            inner, feasible = _stationary(R[:, support][:, :, support], c[:, support])
            w[:, support] = np.where(feasible[:, None], inner, 0)
            missed = np.maximum(_shortfall(R, c, w, np.ones((1, members))).max(1), _ROUNDING)
            better = feasible & (missed < best)
            best[better], answer[better] = missed[better], w[better]
    for at in np.flatnonzero(best > _ROUNDING):
        answer[at] = _active_set(R[at], c[at], answer[at], np.ones((1, members)))
    weights = np.empty_like(answer)
    np.put_along_axis(weights, order, answer, axis=1)
    return weights


def _shortfall(R: np.ndarray, c: np.ndarray, w: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """How far each member's slope lies below the mean slope of its block under `w`, (..., M), in units of the terms it is summed from."""
    slope = np.einsum("...ij,...j->...i", R, w) - c
    terms = np.einsum("...ij,...j->...i", np.abs(R), w) + np.abs(c)
    mean = lambda x: (x * w) @ sums.T @ sums
    return (mean(slope) - slope) / np.maximum(mean(terms) + terms, np.finfo(float).tiny)


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

    `Q` (..., M, M) positive semi-definite. `finish=False` skips the active-set finish: right to about 1e-9 of the largest number of `Q`
    and `c`, faster for long batches.
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
        w = np.where(w > 1e-7, w, 0.0)
        w = w / (w @ sums.T @ sums)
        w = np.array([_active_set(*each, sums) for each in zip(H, g, w)])
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


def _active_set(H: np.ndarray, g: np.ndarray, w: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Primal active-set steps for `w' H w / 2 - g' w` from a feasible `w` (M,) to one that passes the certificate, with exact zeros.

    Directions in which the loss does not curve (copies among the members) are followed downhill until a weight is spent, so that the
    answer stands on members none of which the others can replace.
    """
    free, refused = w > 0, np.zeros(len(w), dtype=bool)  # refused: entered and was turned away at once, by rounding
    for _ in range(20 * len(w)):
        step, flat = _step(H, H @ w - g, free, sums)
        reach = np.where(free & (step < 0), w / np.where(step < 0, -step, 1.0), np.inf)
        if flat or reach.min() <= 1:  # as far as the first weight that reaches zero, which then leaves
            leaving = int(reach.argmin())
            refused[leaving] = reach[leaving] == 0
            w = np.maximum(w + reach[leaving] * step, 0)
            w[leaving], free[leaving] = 0.0, False
            continue
        w = w + step
        w = w / (sums.T @ (sums @ w))
        gain = np.where(free | refused, 0.0, _shortfall(H, g, w, sums))
        if gain.max() <= _ROUNDING:
            break
        refused[:] = False
        free[gain.argmax()] = True
    return w / (sums.T @ (sums @ w))


def _step(H: np.ndarray, slope: np.ndarray, free: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, bool]:
    """Newton step among the free weights (M,), or, second result true, a direction without curvature that does not rise.

    Each block's steps are measured from its free member of least curvature, on a unit diagonal: no large number hides a small one.
    """
    Z = []
    for block in sums > 0:
        inside = np.flatnonzero(block & free)
        last = inside[np.diag(H)[inside].argmin()]
        Z += [np.eye(len(free))[i] - np.eye(len(free))[last] for i in inside if i != last]
    if not Z:
        return np.zeros(len(free)), False
    Z = np.array(Z).T  # (M, F)
    tangent = Z.T @ H @ Z
    scale = np.sqrt(np.maximum(np.diag(tangent), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(tangent / np.outer(scale, scale))
    down = -(Z.T @ slope) / scale
    if values[0] <= _SINGULAR:
        direction = Z @ (vectors[:, 0] * (scale.min() / scale))
        return (direction if vectors[:, 0] @ down >= 0 else -direction), True
    return Z @ (vectors @ ((vectors.T @ down) / values) / scale), False
