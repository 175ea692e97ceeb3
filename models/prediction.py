"""What a network predicts, asked of the network itself: for single files that do not say whether they answer with noise or with v.

At the noisiest level the latent is almost all noise. A network that predicts noise must then answer with nearly its input; one that
predicts v or the sample with something that hardly depends on it. With x0 of unit variance the regression of the answer on the input has
slope s for noise and a s (1 - var x0) = 0 for v (design/maths.md, "The path").
"""

from __future__ import annotations

import torch

from .conditioning import record
from .errors import ModelError
from .families import Family, latent_shape
from .inspection import Description
from .noise import NoisePath

CLEAR = 0.3  # slopes within this of 1 or 0 decide
CELLS = 16  # side of the latents that are asked about


@torch.no_grad()
def slope(pipeline: object, family: Family, draws: int = 2) -> float:
    """Regression of the network's answer on pure noise at its last timestep, without a prompt: about 1 for epsilon, about 0 for v."""
    side = CELLS * pipeline.vae_scale_factor
    network = getattr(pipeline, family.slot)
    conditioning = record(pipeline, family, [""], (side, side))
    shape = latent_shape(pipeline, family, (side, side))
    x = torch.randn(draws, *shape, generator=torch.Generator().manual_seed(0)).to(network.device, network.dtype)
    path = NoisePath.from_scheduler(pipeline.scheduler, family.time_scale)
    t = torch.full((draws,), path.training_timesteps[-1] * path.time_scale, device=network.device)
    call = lambda **given: network(**given, return_dict=False)[0]
    answer = conditioning.predict(call, x, t, torch.zeros(draws, dtype=torch.long)).float()
    return float((answer * x.float()).sum() / x.float().square().sum())


def settle_prediction(pipeline: object, model: Description) -> tuple[str, ...]:
    """Give the pipeline's scheduler the prediction type where the checkpoint does not state one. Returns warnings.

    Raises ModelError when neither the kind of model nor the network's answer decides.
    """
    file = model.checkpoint
    if file is None or file.stated:
        return ()
    found = slope(pipeline, model.family)
    seen = "epsilon" if abs(found - 1) < CLEAR else "v_prediction" if abs(found) < CLEAR else None
    if file.prediction is not None:
        if seen in (None, file.prediction):
            return ()
        return (f"{file.name} does not say what it predicts; {file.prediction} is usual for {file.title}, but its answer to noise looks "
                f"like {seen}: if its images are noise, give prediction={seen}",)  # fmt: skip
    if seen is None:
        told = f"its answer to noise ({found:.2f}, where 1 means noise and 0 means v) does not tell"
        raise ModelError(f"'{model.name}': {file.name} does not say whether it predicts noise or v, and {told}: "
                         "give prediction=epsilon or v_prediction")  # fmt: skip
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type=seen)
    return (f"{file.name} does not say what it predicts; its answer to noise shows {seen}",)
