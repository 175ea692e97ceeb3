"""Sampling from fused scores: one module in the denoiser slot of a stock pipeline, which keeps doing everything else.

At every step it calls the members and returns `sum_k w_k prediction_k`, the weighted score of ScoreFusion (Liu et al. 2025, arXiv
2406.19619): averaging predictions in one parametrisation at one noise level is averaging scores (design/maths.md, "The path"). Members of
another parametrisation or schedule are called at equal logSNR and converted to member 0's. A lone member with weight 1 answers untouched:
one-hot weights reproduce that model bit for bit. Weights of 0 cost nothing, and neither does guidance outside its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from fusion import guidance
from models.conditioning import Relay, Slot, conditional_half, named_arguments
from models.noise import predict_pair

if TYPE_CHECKING:
    from models.families import Family
    from models.loading import Ensemble

    from .weights import Weights


class LevelTable:
    """Checked weights by noise level: `(K,)` for all levels, or `(L, K)` rows between the `L + 1` rising edges `strata`."""

    def __init__(self, weights: np.ndarray | Sequence | Weights, members: int, strata: np.ndarray | None = None):
        if hasattr(weights, "strata"):  # a Weights record brings its own strata
            weights, strata = weights.values, weights.strata if strata is None else strata
        values = weights.detach().cpu().numpy() if isinstance(weights, Tensor) else weights
        self.values = np.atleast_2d(np.array(values, dtype=np.float64))
        if self.values.ndim != 2 or self.values.shape[1] != members:
            raise ValueError(f"there are {members} members, but the weights have shape {np.shape(values)}: give one weight per member")
        if not np.isfinite(self.values).all():
            raise ValueError("a weight is not a number: fit again, or set the weights by hand")
        if (self.values < 0).any():
            raise ValueError(f"weights must not be negative, but the smallest is {self.values.min():.3g}")
        sums = self.values.sum(1, keepdims=True)
        if np.abs(sums - 1).max() > 1e-3:
            raise ValueError(f"weights must sum to 1, not {sums[np.abs(sums - 1).argmax(), 0]:.4g}")
        self.values = self.values / sums
        levels = len(self.values)
        if np.ndim(values) == 2 and levels > 1 and strata is None:
            raise ValueError(f"weights for {levels} noise levels need their {levels + 1} edges: pass strata=")
        self.edges = None if levels == 1 or strata is None else torch.as_tensor(np.asarray(strata, dtype=np.float64))
        if self.edges is not None and (self.edges.shape != (levels + 1,) or not bool((self.edges.diff() > 0).all())):
            shape = tuple(self.edges.shape)
            raise ValueError(f"weights for {levels} noise levels need {levels + 1} rising edges, not strata of shape {shape}")

    def at(self, level: Tensor) -> Tensor:
        """`(B, K)` float64 on the CPU for levels `(B,)`; beyond the outer edges the outer rows hold."""
        table = torch.from_numpy(self.values)
        if self.edges is None:
            return table.expand(len(level), -1)
        return table[torch.bucketize(level.detach().to("cpu", torch.float64), self.edges[1:-1], right=True)]


class FusedDenoiser(Slot):
    """Stands in `pipe.unet` or `pipe.transformer` and answers for the whole ensemble.

    interval: where the pipeline's guidance is to act (`fusion.guidance`), None for everywhere; with one, the pipeline must be guiding.
    Outside of it both halves of a doubled batch get the conditional prediction, evaluated once, so that the pipeline's
    `u + g (c - u)` is c exactly; a network that is given the guidance as a number gets 1. clock: the pipeline's timesteps.
    """

    def __init__(self, ensemble: Ensemble, weights: LevelTable, relay: Relay, interval: guidance.Interval | None = None,
                 clock: Callable[[], Tensor] | None = None):  # fmt: skip
        super().__init__(tuple(dict.fromkeys(member.network for member in ensemble.members)))
        self.ensemble, self.weights, self.relay = ensemble, weights, relay
        self.interval, self.clock = guidance.checked(interval), clock

    @property
    def device(self) -> torch.device:
        return self.ensemble.device

    def forward(self, *args: object, return_dict: bool = True, **kwargs: object) -> Transformer2DModelOutput | tuple[Tensor]:
        """The fused prediction `(B, ...)` in member 0's parametrisation, for its latent and timestep among the arguments."""
        given = named_arguments(self.networks[0], args, kwargs)
        x_t, t = given.pop(self.ensemble.family.sample), given.pop("timestep")
        guided = self.interval is None or guidance.inside(self.interval, *guidance.place(t, self._times()))
        twice = not guided and self.ensemble.family.guidance == "batch"
        if twice:  # the unconditional half comes first
            rows = len(x_t) // 2
            x_t, t = x_t[rows:], t[rows:] if torch.is_tensor(t) and t.ndim and len(t) > 1 else t
        level = self.ensemble.noise.level(torch.as_tensor(t, device=x_t.device)).expand(len(x_t))
        weights = self.weights.at(level)  # (B, K)
        total = None
        for k in weights.any(0).nonzero().flatten().tolist():
            prediction = self._predict(k, x_t, t, level, given, guided)
            if bool((weights[:, k] == 1).all()):  # alone: untouched, not multiplied
                total = prediction
                break
            wide = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
            part = weights[:, k].to(wide).view(-1, *[1] * (wide.ndim - 1)) * wide
            total = part if total is None else total + part
        total = total.to(prediction.dtype)
        total = torch.cat([total, total]) if twice else total
        return Transformer2DModelOutput(sample=total) if return_dict else (total,)

    def _times(self) -> Tensor:
        """The timesteps of the run, as the network is told them."""
        return self.clock() * self.ensemble.family.time_scale

    def _predict(self, k: int, x_t: Tensor, t: Tensor, level: Tensor, given: dict, guided: bool = True) -> Tensor:
        """Member k's prediction in member 0's parametrisation. Unguided: for the conditional half of what `given` is for."""
        member, here = self.ensemble.members[k], self.ensemble.noise
        conditioning, family = self.relay.arguments(k, given), self.ensemble.family
        if not guided:
            conditioning = _unguided(conditioning, family)
        name, answers = family.sample, []
        if member.noise.calls_like(here):
            return member(**{name: x_t, "timestep": t}, **conditioning)

        def network(x: Tensor, at: Tensor) -> Tensor:
            answers.append(member(**{name: x.to(x_t.dtype), "timestep": member.noise.timestep(at)}, **conditioning))
            return family.mean(answers[0], x)

        sample, noise = predict_pair(network, x_t, level, here, member.noise)
        return family.answer(here.from_pair(sample, noise, level).to(x_t.dtype), answers[0])


def _unguided(conditioning: Mapping, family: Family) -> Mapping:
    """What guidance 1 would have a network told, from what guidance above 1 tells it."""
    if family.guidance == "batch":
        return conditional_half(conditioning, family)
    told = conditioning.get("guidance")
    return conditioning if told is None else {**conditioning, "guidance": torch.ones_like(told)}


@contextmanager
def fused(ensemble: Ensemble, weights: np.ndarray | Sequence | Weights, *, strata: np.ndarray | None = None,
          interval: guidance.Interval | None = None, reading: str = "prompt") -> Iterator[object]:  # fmt: skip
    """A stock pipeline of the ensemble with the fused denoiser in its slot: this call's own, so that nothing has to be put back.

    weights: `(K,)`, `(L, K)` with `strata (L + 1,)`, or a `Weights`. They must sum to 1; ValueError says what is wrong with them.
    interval: the share of the steps in which guidance acts (`fusion.guidance`); give one only when the pipeline is called with guidance
    above 1.
    reading: how prompts are read: `prompt`, with weights and of any length where the family's encoders can; `text`, as they stand, of any
    length; `cut`, as they stand, what is too long dropped (`models.prompts`).
    Members with their own prompt template or text encoders hear the pipeline's prompt through these; the negative prompt is left as it is.
    Any number of threads may draw from one ensemble at once; a pipeline that is yielded is for one of them.
    """
    pipeline, relay = ensemble.own_pipeline(), ensemble.relay(reading)
    clock = lambda: pipeline.scheduler.timesteps  # noqa: E731
    denoiser = FusedDenoiser(ensemble, LevelTable(weights, len(ensemble), strata), relay, interval, clock)
    setattr(pipeline, ensemble.family.slot, denoiser)
    with relay.installed(pipeline):
        yield pipeline
