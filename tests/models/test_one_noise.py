"""One seed is one starting noise in whatever precision networks run: before PyTorch 2.13 half precision has random numbers of its own."""

import importlib

import pytest
import torch

from models.own import own_pipeline


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux"])
def test_starting_noise_is_drawn_in_single_precision_and_rounded(tiny_ensemble, monkeypatch, kind, dtype):
    pipeline, asked = tiny_ensemble(kind).pipeline, []
    module = importlib.import_module(type(pipeline).__module__)
    draw = module.randn_tensor

    def elsewhere(shape, dtype=None, **more):
        """What a generator gives on another machine: other numbers in half precision."""
        asked.append(dtype)
        return draw(shape, dtype=dtype, **more) + (0.0 if dtype == torch.float32 else 1.0)

    monkeypatch.setattr(module, "randn_tensor", elsewhere)
    mine = own_pipeline(own_pipeline(pipeline))
    if kind.startswith("sd") and kind != "sd3":  # which scale their noise by the scheduler's first level
        mine.scheduler.set_timesteps(2)
    generators = lambda: [torch.Generator("cpu").manual_seed(seed) for seed in (0, 1)]  # noqa: E731
    found = mine.prepare_latents(2, 4, 32, 32, dtype, torch.device("cpu"), generators())
    whole = mine.prepare_latents(2, 4, 32, 32, torch.float32, torch.device("cpu"), generators())
    first, exact = (one[0] if isinstance(one, tuple) else one for one in (found, whole))
    assert set(asked) == {torch.float32} and first.dtype == dtype and torch.equal(first, exact.to(dtype))
    assert getattr(pipeline.prepare_latents, "__func__", None) is type(pipeline).prepare_latents  # the shared one is as it was
