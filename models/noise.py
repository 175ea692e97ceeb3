"""Noise paths: what `x_t = a x0 + s noise` means for one network, and how its predictions become noise (design/maths.md, "The path").

A level is everywhere `2 log(s/a) = -logSNR`, a float tensor `(B,)`, rising towards more noise. Members trained on other schedules agree on
it by construction, so it is the only clock that crosses from one network to another. This module knows no network and no pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .errors import ModelError

# Zero terminal SNR (Lin et al. 2023, arXiv 2305.08891) ends at a = 0, level = infinity. The table needs a finite stand-in above all others:
# a^2 = 2^-24, where half precision and diffusers' Euler scheduler stop, or one more than the level before if that is already higher.
TERMINAL = 24 * math.log(2)
PREDICTIONS = ("epsilon", "v_prediction", "flow", "sample")


def _column(values: Tensor, like: Tensor) -> Tensor:
    """`(B,)` to `(B, 1, ..., 1)` on the device of `like`, at least float32."""
    return values.to(like.device, torch.promote_types(like.dtype, torch.float32)).view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class NoisePath:
    """One network's schedule and parametrisation.

    kind: `vp` (a^2 + s^2 = 1), `flow` (a = 1 - sigma, s = sigma) or `ve` (a = 1, s = sigma).
    prediction_type: `epsilon`, `v_prediction` (Salimans & Ho 2022), `flow` (Lipman et al. 2023) or `sample`.
    training_levels `(T,)`: rising levels of the training timesteps; terminal: the last one holds no signal and has a stand-in (`TERMINAL`).
    training_timesteps `(T,)`: the number the scheduler gives each of them. time_scale: the network's t per scheduler's t (Flux: 1/1000).
    """

    kind: str
    prediction_type: str
    training_levels: tuple[float, ...]
    training_timesteps: tuple[float, ...]
    time_scale: float = 1.0
    terminal: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("vp", "flow", "ve"):
            raise ModelError(f"unknown noise path '{self.kind}': use vp, flow or ve")
        if self.prediction_type not in PREDICTIONS:
            raise ModelError(f"unknown prediction type '{self.prediction_type}': use one of {', '.join(PREDICTIONS)}")
        levels, rising = np.array(self.training_levels), np.all(np.diff(self.training_levels) > 0)
        if not np.all(np.isfinite(levels)) or len(levels) != len(self.training_timesteps) or not rising:
            raise ModelError("a noise path needs one finite level per training timestep, rising: check scheduler_config.json")

    # -------------------------------------------------------------------------------------------- constructors

    @classmethod
    def variance_preserving(cls, alphas_cumprod: Tensor, prediction_type: str = "epsilon", time_scale: float = 1.0,
                            terminal: bool = False) -> NoisePath:  # fmt: skip
        """From the DDPM product `a^2` `(T,)` of timesteps 0..T-1 (Ho et al. 2020, eq. 4). terminal: the last one stands for 0."""
        a2 = np.asarray(alphas_cumprod, dtype=np.float64)
        terminal = terminal or bool(a2[-1] == 0)
        kept = a2[:-1] if terminal else a2
        levels = _with_terminal(np.log1p(-kept) - np.log(kept)) if terminal else np.log1p(-kept) - np.log(kept)
        return cls("vp", prediction_type, tuple(levels.tolist()), tuple(map(float, range(len(a2)))), time_scale, terminal)

    @classmethod
    def rectified_flow(cls, steps: int = 1000, shift: float = 1.0, prediction_type: str = "flow", time_scale: float = 1.0) -> NoisePath:
        """sigma = shift u / (1 + (shift - 1) u), u = 1/T..1 (Esser et al. 2024, eq. 23); the network's t is T sigma."""
        u = np.arange(1, steps + 1) / steps
        sigma = shift * u / (1 + (shift - 1) * u)
        levels = _with_terminal(2 * (np.log(sigma[:-1]) - np.log1p(-sigma[:-1])))
        return cls("flow", prediction_type, tuple(levels.tolist()), tuple((steps * sigma).tolist()), time_scale, True)

    @classmethod
    def variance_exploding(cls, sigmas: Tensor, timesteps: Tensor, prediction_type: str = "epsilon", time_scale: float = 1.0) -> NoisePath:
        """From rising deviations `(T,)` and the t the network is given at each (Song et al. 2021, eq. 9)."""
        levels = 2 * np.log(np.asarray(sigmas, dtype=np.float64))
        return cls("ve", prediction_type, tuple(levels.tolist()), tuple(np.asarray(timesteps, dtype=np.float64).tolist()), time_scale)

    @classmethod
    def from_scheduler(cls, scheduler: object, time_scale: float = 1.0) -> NoisePath:
        """The path a diffusers scheduler's configuration describes. Raises ModelError for schedules that are none of ours."""
        config, name = scheduler.config, type(scheduler).__name__
        steps, prediction = config.get("num_train_timesteps", 1000), config.get("prediction_type", "epsilon")
        if "FlowMatch" in name or config.get("use_flow_sigmas"):
            # dynamic shifting chooses sampling steps by image size; training saw the plain grid
            shift = 1.0 if config.get("use_dynamic_shifting") else config.get("shift", config.get("flow_shift", 1.0))
            return cls.rectified_flow(steps, shift, "flow", time_scale)
        if config.get("timestep_type") == "continuous" or "EDM" in name or getattr(scheduler, "alphas_cumprod", None) is None:
            raise ModelError(f"{name} with these settings is neither a DDPM nor a flow schedule: such models cannot be fused here")
        prediction = "flow" if prediction == "flow_prediction" else prediction
        return cls.variance_preserving(scheduler.alphas_cumprod, prediction, time_scale, bool(config.get("rescale_betas_zero_snr")))

    # -------------------------------------------------------------------------------------------- the clock

    @cached_property
    def range(self) -> tuple[float, float]:
        """Lowest and highest level of training. A terminal level without signal is left out: nothing can be learned there."""
        return self.training_levels[0], self.training_levels[-2 if self.terminal else -1]

    def clamp(self, level: Tensor) -> Tensor:
        """The nearest level this network was trained on, the terminal one included (sigma = 1, level infinite, on a flow path)."""
        return level.clamp(self.training_levels[0], math.inf if self.kind == "flow" else self.training_levels[-1])

    def calls_like(self, other: NoisePath) -> bool:
        """Whether networks of both paths take the same latent and t at every level and answer in the same parametrisation."""
        mine, yours = (self.kind, self.prediction_type, self.time_scale), (other.kind, other.prediction_type, other.time_scale)
        if mine != yours or self.kind != "flow":
            return self == other
        return self._flow_steps == other._flow_steps  # the shift only chooses which sigmas training visits

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """`(a, s)`, both `(B,)`, of `x_t = a x0 + s noise`."""
        if self.kind == "vp":
            return torch.sigmoid(-level).sqrt(), torch.sigmoid(level).sqrt()
        if self.kind == "flow":
            return torch.sigmoid(-level / 2), torch.sigmoid(level / 2)
        return torch.ones_like(level), (level / 2).exp()

    def timestep(self, level: Tensor) -> Tensor:
        """`(B,)` float: what the network wants as t. Exact for flow paths, interpolated in the table otherwise, ends held."""
        if self.kind == "flow":
            return self._flow_steps * torch.sigmoid(level / 2) * self.time_scale
        return _interpolate(level, self.training_levels, self.training_timesteps) * self.time_scale

    def level(self, timestep: Tensor) -> Tensor:
        """`(B,)` float: inverse of `timestep`; what the network is given as t, of any dtype, to its level."""
        t = torch.as_tensor(timestep).reshape(-1)
        t = (t if t.is_floating_point() and t.dtype == torch.float64 else t.float()) / self.time_scale
        if self.kind == "flow":
            sigma = t / self._flow_steps
            return 2 * (sigma.log() - torch.log1p(-sigma))
        return _interpolate(t, self.training_timesteps, self.training_levels)

    @property
    def _flow_steps(self) -> float:
        return self.training_timesteps[-1]  # sigma = 1

    def level_weights(self, strata: Tensor) -> dict[str, Tensor]:
        """Shares of the strata `[e_l, e_l+1)` between the rising edges `(L + 1,)`: `simple` and `likelihood`, each `(L,)`, summing to 1.

        simple: of the uniform training timestep (Ho et al. 2020, eq. 14); likelihood: of logSNR (the ELBO, Kingma et al. 2021).
        """
        edges = torch.as_tensor(strata, dtype=torch.float64).reshape(-1)
        if len(edges) < 2 or not bool((edges.diff() > 0).all()):
            raise ModelError("strata must be at least two rising levels")
        position = _interpolate(edges, self.training_levels, tuple(map(float, range(len(self.training_levels)))))
        simple, likelihood = position.diff(), edges.diff()
        if simple.sum() <= 0:
            raise ModelError(f"strata {edges[0]:.2f} to {edges[-1]:.2f} lie outside this model's noise levels {self.range}")
        return {"simple": simple / simple.sum(), "likelihood": likelihood / likelihood.sum()}

    # -------------------------------------------------------------------------------------------- predictions

    def to_noise(self, prediction: Tensor, x_t: Tensor, level: Tensor) -> Tensor:
        """The noise that a prediction in this path's parametrisation means, `(B, ...)`, for `x_t` at `level` `(B,)`."""
        a, s = (_column(c, x_t) for c in self.coefficients(level))
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "v_prediction":
            return (s * x_t + a * prediction) / (a * a + s * s)
        if self.prediction_type == "flow":
            return (x_t + a * prediction) / (a + s)
        return (x_t - a * prediction) / s

    def to_sample(self, prediction: Tensor, x_t: Tensor, level: Tensor) -> Tensor:
        """The clean sample that a prediction in this path's parametrisation means, `(B, ...)`."""
        a, s = (_column(c, x_t) for c in self.coefficients(level))
        if self.prediction_type == "epsilon":
            return (x_t - s * prediction) / a
        if self.prediction_type == "v_prediction":
            return (a * x_t - s * prediction) / (a * a + s * s)
        if self.prediction_type == "flow":
            return (x_t - s * prediction) / (a + s)
        return prediction

    def from_pair(self, sample: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The prediction in this path's parametrisation of a pair with `x_t = a sample + s noise`; defined at every level."""
        a, s = (_column(c, noise) for c in self.coefficients(level))
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return a * noise - s * sample
        if self.prediction_type == "flow":
            return noise - sample
        return sample

    def from_noise(self, noise: Tensor, x_t: Tensor, level: Tensor) -> Tensor:
        """Inverse of `to_noise`. Where a = 0 only `epsilon` is defined: the noise then says nothing about the sample."""
        a, s = (_column(c, x_t) for c in self.coefficients(level))
        return noise if self.prediction_type == "epsilon" else self.from_pair((x_t - s * noise) / a, noise, level)


def _with_terminal(levels: np.ndarray) -> np.ndarray:
    """`(T - 1,)` finite levels with the stand-in for the terminal one behind them."""
    return np.append(levels, max(TERMINAL, levels[-1] + 1))


def _interpolate(values: Tensor, xs: tuple[float, ...], ys: tuple[float, ...]) -> Tensor:
    """Piecewise linear through rising `xs`, ends held; float64 inside, dtype and device of `values` kept."""
    x = torch.tensor(xs, dtype=torch.float64)
    y = torch.tensor(ys, dtype=torch.float64)
    v = values.detach().to("cpu", torch.float64).clamp(xs[0], xs[-1])
    right = torch.searchsorted(x, v).clamp(1, len(xs) - 1)
    share = (v - x[right - 1]) / (x[right] - x[right - 1])
    return torch.lerp(y[right - 1], y[right], share).to(values.device, values.dtype)


def predict_pair(network: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, level: Tensor, here: NoisePath, there: NoisePath,
                 ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(sample, noise)` that a network of path `there` sees in `x_t` of path `here` at `level` `(B,)`, in float32 or better.

    `network(x, level)` is called at equal logSNR with the latent rescaled to its own path. Beyond its training range it is called at the
    nearest level it knows, and the half of its answer that is meaningful there is kept: the sample above the range, the noise below it.
    """
    nearest = there.clamp(level)
    a, s = (_column(c, x_t) for c in here.coefficients(level))
    a_there, s_there = (_column(c, x_t) for c in there.coefficients(nearest))
    wide = x_t.to(a.dtype)
    x = wide * ((a_there.square() + s_there.square()) / (a.square() + s.square())).sqrt()
    prediction = network(x, nearest).to(a.dtype)
    sample, noise = there.to_sample(prediction, x, nearest), there.to_noise(prediction, x, nearest)
    above, below = _column(level > nearest, x_t).bool(), _column(level < nearest, x_t).bool()
    return torch.where(below, (wide - s * noise) / a, sample), torch.where(above, (wide - a * sample) / s, noise)
