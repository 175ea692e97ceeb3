"""Do the sources share a representation? Measured before anything is promised. Tensors only.

Three figures. What conditioning through h loses, per source, as a share of what the condition is worth to its network (loss without
any condition minus loss with all of it), on held-out samples. How many numbers of h are really used. And the one that transfer rests on:
what is lost on a source by an h that was learned without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fusion.transfer.learning import Source
from fusion.transfer.representation import Representation
from fusion.transfer.task import Condition, Task, same

BEARABLE = 0.25  # of the condition's worth: more lost than that, and prompts no longer say what they said
USED = 0.05  # of the condition's worth: what leaving numbers of h out may cost
LEVELS = 4  # of every held-out sample, each with a pair of noises


@dataclass(frozen=True)
class Loss:
    """Of one source, on held-out samples. `full`, `through`, `blank`: mean loss with the whole condition, through h, with none.

    `share`: (through - full) / (blank - full), what h loses of the condition's worth; `interval`: 95 %, by bootstrap over samples.
    `worth`: whether the condition is surely worth anything at all.
    """

    source: str
    full: float
    through: float
    blank: float
    share: float
    interval: tuple[float, float]
    worth: bool


@dataclass(frozen=True)
class Dimension:
    """How many numbers of h are used. `spectrum`: shares of what the decoder's output varies along principal axes of h, falling;
    `participation`: their participation ratio; `used`: the fewest axes that lose at most `USED` of the condition's worth; `lost`: (axes,
    share lost beyond h's own) for the numbers of axes tried."""

    spectrum: tuple[float, ...]
    participation: float
    used: int
    lost: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Diagnosis:
    """`losses`: through the joint h; `left_out`: of each source through an h that never saw it; `shared`: None where nobody can tell."""

    losses: tuple[Loss, ...]
    dimension: Dimension
    left_out: tuple[Loss, ...]
    shared: bool | None
    verdict: str

    def summary(self) -> dict:
        """Plain JSON values."""
        return asdict(self)


def diagnose(representation: Representation, sources: Sequence[Source], blank: Condition, left_out: Sequence[Loss] = (), *,
             stop: Callable[[], bool] | None = None) -> Diagnosis:  # fmt: skip
    """Figures and verdict. `blank`: one row of every tensor, the condition that says nothing. `left_out`: one from `leave_out` a source."""
    losses = tuple(loss_through(source.held_out, representation, blank, stop=stop) for source in sources)
    dimension = effective_dimension(representation, sources, losses, stop=stop)
    shared, verdict = judge(losses, tuple(left_out))
    return Diagnosis(losses, dimension, tuple(left_out), shared, verdict)


def leave_out(learn: Callable[[Sequence[Source]], Representation], sources: Sequence[Source], k: int, blank: Condition, *,
              stop: Callable[[], bool] | None = None) -> Loss:  # fmt: skip
    """What source k loses through an h that `learn` made of the others. Raises ValueError for a lone source."""
    others = [source for i, source in enumerate(sources) if i != k]
    if not others:
        raise ValueError("one source alone cannot show that a representation is shared: give at least two")
    return loss_through(sources[k].held_out, learn(others), blank, stop=stop)


def loss_through(task: Task, representation: Callable[[Condition], Condition], blank: Condition, *, seed: int = 0, resamples: int = 1000,
                 stop: Callable[[], bool] | None = None) -> Loss:  # fmt: skip
    """The three losses on the same draws, and the share lost with its interval over samples."""

    def nothing(condition: Condition) -> Condition:
        rows = len(next(iter(condition.values())))
        return {**condition, **{name: row.expand(rows, *row.shape[1:]).to(condition[name]) for name, row in blank.items()}}

    full, through, none = (task.measure(r, levels=LEVELS, seed=seed, stop=stop) for r in (same, representation, nothing))
    lost, worth = through - full, none - full  # (n,), paired
    again = torch.randint(len(lost), (resamples, len(lost)), generator=torch.Generator().manual_seed(seed))
    ratios = (lost[again].mean(1) / worth[again].mean(1).clamp_min(1e-12)).sort().values
    edges = (float(ratios[round(0.025 * (resamples - 1))]), float(ratios[round(0.975 * (resamples - 1))]))
    known = float(worth.mean()) > 1.96 * float(worth.std()) / len(worth) ** 0.5
    share = float(lost.mean() / worth.mean().clamp_min(1e-12))
    return Loss(task.name, float(full.mean()), float(through.mean()), float(none.mean()), share, edges, known)


def judge(losses: Sequence[Loss], left_out: Sequence[Loss]) -> tuple[bool | None, str]:
    """`(shared, sentence)`: yes where every source surely loses less than `BEARABLE`, also when left out; no where one surely does not."""
    blind = [loss.source for loss in losses if not loss.worth]
    if blind:
        return None, (f"Whether the sources share a representation cannot be told: to {', '.join(blind)} the prompt makes no "
                      "difference. Give prompts that differ, or more images.")  # fmt: skip
    limit = f"{BEARABLE:.0%} of what the prompt is worth"
    for kind, found in (("through the joint representation", losses), ("through one that never saw it", left_out)):
        over = [loss for loss in found if loss.interval[0] > BEARABLE]
        if over:
            worst = max(over, key=lambda loss: loss.share)
            low, high = worst.interval
            return False, (f"The sources do not share a representation of this size: {kind}, {worst.source} loses {worst.share:.0%} "
                           f"({low:.0%} to {high:.0%}), more than {limit}. Do not expect transfer to help.")  # fmt: skip
    worst = max([*losses, *left_out], key=lambda loss: loss.interval[1])
    if worst.interval[1] > BEARABLE:
        return None, (f"Whether the sources share a representation cannot be told: {worst.source} loses {worst.share:.0%}, but up to "
                      f"{worst.interval[1]:.0%} is possible. Measure with more images.")  # fmt: skip
    if not left_out:
        return None, (f"Every source keeps its prompts (at most {_lost(worst.interval[1])} is lost), but whether that carries over to a "
                      "new population was not tried: leave sources out in turn.")  # fmt: skip
    own, other = (max(found, key=lambda loss: loss.share) for found in (losses, left_out))
    return True, (f"The sources share a representation: through it {own.source} loses most, {_lost(own.share)} of what the prompt is "
                  f"worth; through one learned without it, {other.source} loses most, {_lost(other.share)}.")  # fmt: skip


def _lost(share: float) -> str:
    """A share as it is said: a source that chance lets gain a little loses nothing."""
    return f"{max(0.0, share):.0%}"


# ------------------------------------------------------------------------------------------------ effective dimension

def effective_dimension(representation: Representation, sources: Sequence[Source], losses: Sequence[Loss], *, prompts: int = 64,
                        stop: Callable[[], bool] | None = None) -> Dimension:  # fmt: skip
    """Principal axes of h in the decoder's eyes, and the loss with all but the first few of them held at their mean."""
    numbers, axes, back, values = _axes(representation, sources, prompts)
    spectrum = values / values.sum().clamp_min(1e-12)
    tried, used = [], representation.about.dimensions
    for count in [n for n in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if n < used]:
        keep = back[:, :count] @ axes[:count]  # (d, d): project on the first axes

        def cut(condition: Condition, keep: Tensor = keep) -> Condition:
            z = representation.encode(condition)
            decoded = representation.decode(numbers + (z - numbers) @ keep.T)
            return {**condition, **{name: decoded[name].to(condition[name].dtype) for name in decoded}}

        shares = []
        for source, loss in zip(sources, losses):
            part = source.held_out.part(torch.arange(min(len(source.held_out), 48)))
            lost = part.measure(cut, levels=LEVELS, stop=stop).mean() - part.measure(representation, levels=LEVELS, stop=stop).mean()
            shares.append(float(lost) / max(loss.blank - loss.full, 1e-12))
        tried.append((count, sum(shares) / len(shares)))
        if tried[-1][1] <= USED:
            used = count
            break
    return Dimension(tuple(spectrum.tolist()), float(1 / spectrum.square().sum()), used, tuple(tried))


@torch.no_grad()
def _axes(representation: Representation, sources: Sequence[Source], prompts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`(mean (d,), axes (d, d), back (d, d), values (d,))`, with `z - mean = sum_i back[:, i] (axes[i] . (z - mean))`.

    The principal axes of `G^(1/2) S G^(1/2)`: G the decoder's mean Gram of derivatives, S the covariance of h over the samples.
    """
    z = torch.cat([representation.encode({name: s.fitted.condition[name] for name in representation.about.shapes})[s.fitted.index]
                   for s in sources]).double()  # fmt: skip
    mean, d = z.mean(0), z.shape[1]
    covariance = torch.cov(z.T, correction=0).reshape(d, d)
    chosen = z[torch.linspace(0, len(z) - 1, min(prompts, len(z))).long()].float()
    scale = [getattr(representation, f"scale_{i}").square().mean().sqrt() + 1e-8 for i in range(len(representation.about.shapes))]

    def read(one: Tensor) -> Tensor:
        return torch.cat([tensor.flatten() / s for tensor, s in zip(representation.decode(one[None]).values(), scale)])

    gram = torch.stack([(j := torch.func.jacfwd(read)(one)).T @ j for one in chosen]).mean(0).double()
    root, weights = torch.linalg.eigh(gram + 1e-9 * gram.trace() * torch.eye(d, dtype=gram.dtype, device=gram.device))
    half = weights @ torch.diag(root.clamp_min(0).sqrt()) @ weights.T
    inverse = weights @ torch.diag(root.clamp_min(1e-12).rsqrt()) @ weights.T
    values, vectors = torch.linalg.eigh(half @ covariance @ half)
    order = values.argsort(descending=True)
    vectors = vectors[:, order]
    return mean.float(), (vectors.T @ half).float(), (inverse @ vectors).float(), values[order].clamp_min(0)

