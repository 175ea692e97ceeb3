"""Fusing two SDXL LoRAs: our sampler against the design of the published pipeline and against plain single runs, in seconds and ratios.

    python -m tests.benchmarks.sdxl            # full-size SDXL with random weights, 1024 pixels, bfloat16: wants a GPU of 24 GB or more
    python -m tests.benchmarks.sdxl --tiny     # the same code on tiny networks, seconds on a CPU

The published pipeline (design/facts: two deep copies of the U-Net with unfused adapters, cache emptied each step) is re-created here from
that description: `published`. Ours: adapters switched on one network, and adapters merged into copies. Speed and memory do not depend on
what the weights are, so random ones serve. Aims: at most half the published design's time and memory, at most 1.05 K single runs.

Half the memory is out of reach in this reading, which lets the copied network go: its two networks are 10.3 GB in 16 bits, ours one of 5.1,
and both hold 1.7 GB of encoders and autoencoder and what decoding takes, so even the limit is (5.1 + 1.7 + d) / (10.3 + 1.7 + d) >= 0.57.
Where the network that was copied is held, too, the limit is (5.1 + 1.7 + d) / (15.4 + 1.7 + d) >= 0.40.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import diffusers
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from fusion.methods import METHODS, SamplingPlan
from fusion.objective import fit_gram
from models.catalog import ModelCard
from models.loading import load_ensemble

PROMPT, GUIDANCE = "a photo of a mathematics scientist", 5.0
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
AIMS = {"time against published": 0.5, "memory against published": 0.5, "time against K single runs": 1.05}
SIZE = {"sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}  # fmt: skip  # stable-diffusion-xl-base-1.0's


def full_size(folder: Path, device: str, dtype: torch.dtype) -> Path:
    """SDXL's own shapes with random weights, as a pipeline folder."""
    from tests import tiny

    text = dict(vocab_size=49408, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    words = tiny.tokenizer()
    words.model_max_length = 77
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel(**SIZE).to(dtype)
        vae = diffusers.AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[128, 256, 512, 512],
            layers_per_block=2, latent_channels=4, sample_size=1024, scaling_factor=0.13025).to(dtype)  # fmt: skip
        one = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **text))
        wide = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280)
        two = CLIPTextModelWithProjection(CLIPTextConfig(**wide, **text))
    steps = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    parts = (vae, one.to(dtype), two.to(dtype), words, words, unet, steps)
    diffusers.StableDiffusionXLPipeline(*parts).save_pretrained(folder)
    return folder


def adapters(folder: Path, base: Path, rank: int, dtype: torch.dtype, device: str) -> list[Path]:
    """Two LoRA folders with random weights on every attention projection of the U-Net."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel.from_pretrained(base, subfolder="unet", dtype=dtype).to(device)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False, target_modules=ATTENTION))
        layers = {key: 0.01 * value.cpu() for key, value in get_peft_model_state_dict(unet).items()}
        diffusers.StableDiffusionXLPipeline.save_lora_weights(folder / f"lora-{seed}", unet_lora_layers=layers)
        found.append(folder / f"lora-{seed}")
    return found


# ------------------------------------------------------------------------------------------------ the published design

class Published:
    """Two deep copies of the U-Net, an unfused adapter on each, their guided noise averaged in a loop that empties the cache."""

    def __init__(self, base: Path, loras: list[Path], dtype: torch.dtype, device: str):
        self.pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(base, dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        bare, self.unets = self.pipeline.unet, []
        for number, lora in enumerate(loras):
            self.pipeline.unet = copy.deepcopy(bare)
            self.pipeline.load_lora_weights(str(lora), adapter_name=f"member_{number}")
            self.unets.append(self.pipeline.unet)
        self.pipeline.unet = self.unets[0]  # the network they were copied from is let go: the kinder reading of the description

    @property
    def modules(self) -> list[nn.Module]:
        return [self.unets[1], *(part for part in self.pipeline.components.values() if isinstance(part, nn.Module))]

    @torch.no_grad()
    def __call__(self, steps: int, weights: tuple[float, ...] = (0.5, 0.5)) -> Image.Image:
        pipe, device = self.pipeline, self.pipeline.unet.device
        positive, negative, pooled, pooled_negative = pipe.encode_prompt(PROMPT, device=device)
        text, pooled = torch.cat([negative, positive]), torch.cat([pooled_negative, pooled])
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        ids = torch.tensor([[side, side, 0, 0, side, side]] * 2, device=device, dtype=text.dtype)
        pipe.scheduler.set_timesteps(steps, device=device)
        shape = (1, pipe.unet.config.in_channels, *(side // pipe.vae_scale_factor,) * 2)
        latent = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, text.dtype) * pipe.scheduler.init_noise_sigma
        for t in pipe.scheduler.timesteps:
            latent = self._step(latent, t, text, {"text_embeds": pooled, "time_ids": ids}, weights)
        image = pipe.vae.decode((latent / pipe.vae.config.scaling_factor).to(pipe.vae.dtype)).sample
        return pipe.image_processor.postprocess(image.float(), output_type="pil")[0]

    def _step(self, latent: Tensor, t: Tensor, text: Tensor, added: dict, weights: tuple[float, ...]) -> Tensor:
        scaled = self.pipeline.scheduler.scale_model_input(torch.cat([latent] * 2), t)
        fused = 0
        for weight, unet in zip(weights, self.unets):
            without, prompted = unet(scaled, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0].chunk(2)
            fused = fused + weight * (without + GUIDANCE * (prompted - without))
        if latent.device.type == "cuda":
            torch.cuda.empty_cache()
        return self.pipeline.scheduler.step(fused, t, latent, return_dict=False)[0]


# ------------------------------------------------------------------------------------------------ measuring

def release(device: torch.device | str) -> None:
    """Give back what the last candidate held, so that the next one starts alone."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def weight_bytes(modules: list[nn.Module]) -> int:
    """Bytes of the distinct tensors."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def timed(run: Callable[[], object], device: str, repeats: int) -> dict:
    """Median seconds of `repeats` runs after a first that is not counted, and the peak memory on a GPU in bytes."""
    seconds, gpu = [], torch.device(device).type == "cuda"
    for _ in range(repeats + 1):
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        run()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if gpu else None
    return {"seconds": sorted(seconds[1:])[(repeats - 1) // 2], "peak": peak}


def measure(folder: Path, *, tiny: bool, device: str, steps: int, repeats: int, images: int, levels: int) -> dict:
    """Every figure of the table. `images`, `levels`: of the fit."""
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    if tiny:
        from tests import tiny as small

        base = small.sdxl(folder / "base")
    else:
        base = full_size(folder / "base", device, dtype)
    loras = adapters(folder, base, 2 if tiny else 16, dtype, device)
    found = {"published": _published(base, loras, dtype, device, steps, repeats)}
    cards = [ModelCard(f"lora-{n}", f"LoRA {n}", "sdxl", str(base), adapter=str(lora)) for n, lora in enumerate(loras, 1)]
    for way in ("switch", "merge"):
        found[way] = _ours(cards, way, dtype, device, steps, repeats)
    found["single"] = _ours(cards[:1], "merge", dtype, device, steps, repeats)
    ensemble = load_ensemble(cards, device=device, dtype=dtype, lora="merge")
    pictures = [Image.effect_noise(ensemble.size, 64).convert("RGB") for _ in range(images)]
    found["fit"] = timed(lambda: fit_gram(ensemble, pictures, PROMPT, levels=levels), device, 1) | {"images": images, "levels": levels}
    where = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else str(device)
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    settings = {"device": where, "dtype": str(dtype), "steps": steps, "size": list(ensemble.size), "tiny": tiny, "date": when}
    return found | {"settings": settings | {"torch": torch.__version__, "diffusers": diffusers.__version__}}


def _published(base: Path, loras: list[Path], dtype: torch.dtype, device: str, steps: int, repeats: int) -> dict:
    release(device)
    published = Published(base, loras, dtype, device)
    return timed(lambda: published(steps), device, repeats) | {"weights": weight_bytes(published.modules)}


def _ours(cards: list[ModelCard], way: str, dtype: torch.dtype, device: str, steps: int, repeats: int) -> dict:
    release(device)
    ensemble = load_ensemble(cards, device=device, dtype=dtype, lora=way)
    plan = SamplingPlan([PROMPT], [0], steps=steps, guidance=GUIDANCE)
    found = timed(lambda: list(METHODS["uniform"].run(ensemble, None, plan)), device, repeats)
    parts = [part for member in ensemble.members for part in (member.network, *member.components.values()) if isinstance(part, nn.Module)]
    return found | {"weights": weight_bytes(parts)}


def ratios(found: dict, members: int = 2) -> dict[str, dict]:
    """For each of our two ways: time and memory against the published design, time against K single runs, memory against one model."""
    held = "weights" if found["published"]["peak"] is None else "peak"
    return {way: {"time against published": found[way]["seconds"] / found["published"]["seconds"],
                  "memory against published": found[way][held] / found["published"][held],
                  "time against K single runs": found[way]["seconds"] / (members * found["single"]["seconds"]),
                  "memory against one model": found[way][held] / found["single"][held]} for way in ("switch", "merge")}  # fmt: skip


WAYS = {"published": "published design", "switch": "ours, adapters switched", "merge": "ours, adapters merged", "single": "one LoRA alone"}


def table(found: dict) -> str:
    """Seconds and gigabytes, then the ratios with their aims, as Markdown, and where and when they were measured."""
    fit, where = found["fit"], found["settings"]
    lines = ["| one image | seconds | peak memory, GB | weights, GB |", "| --- | --- | --- | --- |"]
    lines += [f"| {title} | {found[way]['seconds']:.3g} | {_gigabytes(found[way]['peak'])} | {_gigabytes(found[way]['weights'])} |"
              for way, title in WAYS.items()]  # fmt: skip
    rows, pixels = ratios(found), " x ".join(map(str, where["size"]))
    lines += ["", "| two LoRAs fused | switched | merged | aim |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {rows['switch'][name]:.2f} | {rows['merge'][name]:.2f} | {AIMS.get(name, '')} |" for name in rows["switch"]]
    memory = "weights held" if found["published"]["peak"] is None else "peak memory"
    fitting = f"Fitting {fit['images']} images x {fit['levels']} levels took {fit['seconds']:.3g} s"
    place = f"{where['device']}, {where['dtype']}, torch {where['torch']}, diffusers {where['diffusers']}, {where['date']}"
    size = f"{pixels} pixels, {where['steps']} steps" + (", tiny networks: the figures only show that it runs" if where["tiny"] else "")
    return "\n".join(lines) + f"\n\nMemory in the ratios is {memory}. {fitting}. Images of {size}. Measured on {place}."


def _gigabytes(size: int | None) -> str:
    return "not measured on a CPU" if size is None else f"{size / 1e9:.3g}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sdxl", description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny random networks: the same code in seconds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    args = parser.parse_args(argv)
    if not args.tiny and args.device == "cpu":
        print("Full-size SDXL at 1024 pixels takes hours on a CPU: run this where there is a GPU, or with --tiny.")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), tiny=args.tiny, device=args.device, steps=args.steps, repeats=args.repeats,
                        images=4 if args.tiny else 32, levels=4 if args.tiny else 16)  # fmt: skip
    print(json.dumps(found | {"ratios": ratios(found)}, indent=2))
    if not args.json:
        print(f"\n{table(found)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
