"""Own chains inside a stock pipeline: the pipeline reads the prompts and makes noise and timesteps, the chain goes down the levels.

A module in the denoiser slot takes over at the pipeline's first call, with everything the pipeline passes its denoiser (embeddings,
guidance, sizes; each member its own), runs the chain to its end, and hands the latents back. So chains serve every family and start from
the same latent as the stock sampler. This module chooses no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from fusion.guidance import inside
from fusion.methods.drawing import arguments_for, generators_for, quiet, size_of
from fusion.methods.plan import Remark, SamplingPlan
from fusion.methods.reverse import Predict, Step, schedule
from fusion.sampler import FusedDenoiser, LevelTable
from models.conditioning import named_arguments
from models.families import decode

Chain = Callable[[Predict, Tensor, list[Step], Callable[[], Tensor]], tuple[Tensor, list[Remark]]]
"""`chain(predict, x, steps, draw) -> (latents, remarks)`: from unit noise `x` (B, ...) to images, with fresh noise from `draw()`."""


class Finished(Exception):
    """Ends the pipeline's run once the chain has."""


class Takeover(FusedDenoiser):
    """Stands in the denoiser slot, and at its first call runs `chain` on the members whose weight is not 0."""

    def __init__(self, ensemble, weights: np.ndarray, relay, chain: Chain, plan: SamplingPlan, generators: Sequence[torch.Generator],
                 clock: Callable[[], Tensor]):  # fmt: skip
        super().__init__(ensemble, LevelTable(weights, len(ensemble)), relay, plan.interval, clock)
        self.active, self.chain, self.guidance, self.generators = np.flatnonzero(weights > 0), chain, plan.guidance, generators
        self.latents, self.remarks = None, []

    def forward(self, *args: object, return_dict: bool = True, **kwargs: object) -> NoReturn:
        given = named_arguments(self.networks[0], args, kwargs)
        x = given.pop(self.ensemble.family.sample)
        del given["timestep"]
        x = x[: len(self.generators)].float()  # the pipeline shows it twice where guidance needs both predictions
        timesteps, levels = self._levels()
        noise = lambda: torch.stack([torch.randn(x.shape[1:], generator=g) for g in self.generators]).to(x.device)  # noqa: E731
        predict = lambda latents, i: self._clean(latents, timesteps[i], levels[i], given, inside(self.interval, i, len(levels)))  # noqa: E731
        self.latents, self.remarks = self.chain(predict, x, schedule(self.ensemble.noise, levels), noise)
        raise Finished

    def _levels(self) -> tuple[Tensor, Tensor]:
        """`(n,)` network times and float64 levels that the pipeline's scheduler has set, those left out that do not fall."""
        timesteps, scale = self.clock().cpu(), self.ensemble.family.time_scale
        timesteps = timesteps if scale == 1 else timesteps * scale
        levels = self.ensemble.noise.level(timesteps.double())
        falls = torch.cat([torch.tensor([True]), levels[1:] < levels.cummin(0).values[:-1]])  # multistep starts repeat a timestep
        return timesteps[falls], levels[falls]

    def _clean(self, x: Tensor, timestep: Tensor, level: Tensor, given: dict, guided: bool) -> Tensor:
        """The active members' predicted clean samples `(K', B, ...)`, guided as the pipeline would guide them, or not guided."""
        family, here, rows = self.ensemble.family, self.ensemble.noise, len(x)
        twice = guided and self.guidance > 1 and family.guidance == "batch"
        shown = (x.repeat(2, *[1] * (x.ndim - 1)) if twice else x).to(self.dtype)
        t = timestep.to(x.device).expand(len(shown))
        at = level.to(x.device, torch.float32).expand(len(shown))
        found = []
        for k in self.active.tolist():
            prediction = family.mean(self._predict(k, shown, t, at, given, guided), shown).float()
            if twice:
                without, with_prompt = prediction.chunk(2)
                prediction = without + self.guidance * (with_prompt - without)
            found.append(here.to_sample(prediction, x, at[:rows]))
        return torch.stack(found)


def by_chain(ensemble, plan: SamplingPlan, weights: np.ndarray, batch: Sequence[tuple[str, int]],
             chain: Chain) -> tuple[list, list[Remark]]:  # fmt: skip
    """`(images, remarks)` of one batch of `(prompt, seed)`: text encoded and latents decoded once."""
    pipeline, relay = ensemble.own_pipeline(), ensemble.relay(plan.reading)
    generators, size = generators_for(batch), size_of(ensemble, plan)
    takeover = Takeover(ensemble, weights, relay, chain, plan, generators, lambda: pipeline.scheduler.timesteps)
    setattr(pipeline, ensemble.family.slot, takeover)
    try:
        quiet(pipeline)
        with torch.no_grad(), relay.installed(pipeline):
            pipeline(**arguments_for(pipeline, plan, ensemble, batch), generator=generators)
    except Finished:
        pass
    return decode(pipeline, ensemble.family, takeover.latents, size), takeover.remarks
