"""Make the shipped family: `python -m models.portraits.train STAGE` (see --help). Every stage resumes, logs, and is seeded.

    python -m models.portraits.train all        # every stage in order; hours of two CPU cores, minutes of a GPU

Checkpoints and logs go to `--work` (outside version control), results to `assets/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import autoencoder
from .denoiser import Denoiser, World, fresh_denoiser
from .loop import Trainer
from .population import MEMBER_POPULATIONS

MEMBERS = ("harbor", "summit", "meadow", "delta")
ADAPTED = ("harbor", "summit")  # members that also exist as LoRA adapters on the base
LORA_RANK = 6  # two adapters on this small base stay below 1.15 of its memory
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "time_emb_proj"]
FINE_TUNING_KINDS = (0.70, 0.05, 0.05, 0.10, 0.10)  # of denoiser.KINDS: a member differs from the base in what bare prompts give


def latents(work: Path, device: str) -> torch.Tensor:
    """Latents of the cached renderings, `(288 * A, 4, 16, 16)`; computed once the encoder is final."""
    file = work / "latents.safetensors"
    if not file.is_file():
        vae = autoencoder.train(work, device=device)
        pixels = autoencoder.renderings(autoencoder.AUGMENTATIONS, seed=1)
        save_file({"latents": autoencoder.encode(vae, pixels.to(device)).cpu()}, file)
    return load_file(file)["latents"].to(device)


def train_base(work: Path, device: str, *, name: str = "base", steps: int = 5000, batch: int = 32) -> Denoiser:
    """All 288, uniform; text encoder and U-Net together. `sketch` is the same recipe stopped far too early."""
    denoiser, tokenizer = fresh_denoiser()
    world = World(latents(work, device), MEMBER_POPULATIONS[name], tokenizer)
    Trainer(denoiser.to(device).train(), lambda g: world.loss(denoiser, batch, g), name=name, work=work, steps=steps, lr=1e-3, seed=7).run()
    return _finish(denoiser, work, name)


def train_member(work: Path, device: str, name: str, *, steps: int = 1400, batch: int = 32) -> Denoiser:
    """Fine-tune the base's U-Net on the member's own population; the text encoder stays the family's."""
    denoiser, tokenizer = fresh_denoiser()
    denoiser.load_state_dict(load_file(work / "base.safetensors"))
    autoencoder.freeze(denoiser.text_encoder)
    world = World(latents(work, device), MEMBER_POPULATIONS[name], tokenizer, kinds=FINE_TUNING_KINDS, high_noise=0.8)
    seed = 11 + list(MEMBER_POPULATIONS).index(name)
    Trainer(denoiser.to(device).train(), lambda g: world.loss(denoiser, batch, g), name=name, work=work, steps=steps, lr=5e-4, seed=seed,
            average_over=100).run()  # fmt: skip
    return _finish(denoiser, work, name)


def train_sketch(work: Path, device: str, *, steps: int = 400) -> Denoiser:
    """Undertrained on purpose: the base's recipe for the U-Net alone, from scratch, with a fraction of the steps."""
    denoiser, tokenizer = fresh_denoiser()
    base = load_file(work / "base.safetensors")
    denoiser.text_encoder.load_state_dict({k.removeprefix("text_encoder."): v for k, v in base.items() if k.startswith("text_encoder.")})
    autoencoder.freeze(denoiser.text_encoder)
    world = World(latents(work, device), MEMBER_POPULATIONS["sketch"], tokenizer)
    Trainer(denoiser.to(device).train(), lambda g: world.loss(denoiser, 32, g), name="sketch", work=work, steps=steps, lr=1e-3, seed=5,
            average_over=50).run()  # fmt: skip
    return _finish(denoiser, work, "sketch")


def train_lora(work: Path, device: str, name: str, *, steps: int = 400, batch: int = 32) -> None:
    """The member once more, as a LoRA on the frozen base ; writes the adapter's own weights."""
    from peft import LoraConfig

    denoiser, tokenizer = fresh_denoiser()
    denoiser.load_state_dict(load_file(work / "base.safetensors"))
    autoencoder.freeze(denoiser)
    torch.manual_seed(3)
    denoiser.unet.add_adapter(LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=LORA_TARGETS), adapter_name=name)
    world = World(latents(work, device), MEMBER_POPULATIONS[name], tokenizer, kinds=FINE_TUNING_KINDS, high_noise=0.8)
    Trainer(denoiser.to(device).train(), lambda g: world.loss(denoiser, batch, g), name=f"{name}-lora", work=work, steps=steps, lr=2e-3,
            seed=31, average_over=100).run()  # fmt: skip
    adapter = {k: v.detach().cpu().contiguous() for k, v in denoiser.unet.state_dict().items() if "lora_" in k}
    save_file(adapter, work / f"{name}-lora.safetensors")


def _finish(denoiser: Denoiser, work: Path, name: str) -> Denoiser:
    save_file({k: v.cpu().contiguous() for k, v in denoiser.state_dict().items()}, work / f"{name}.safetensors")
    return denoiser.eval()


def main(argv: list[str] | None = None) -> None:
    from . import export, measure, probe

    stages = {
        "autoencoder": lambda a: autoencoder.train(a.work, device=a.device, **a.limit),
        "base": lambda a: train_base(a.work, a.device, **a.limit),
        "sketch": lambda a: train_sketch(a.work, a.device, **a.limit),
        **{name: lambda a, name=name: train_member(a.work, a.device, name, **a.limit) for name in MEMBERS},
        **{f"{name}-lora": lambda a, name=name: train_lora(a.work, a.device, name, **a.limit) for name in ADAPTED},
        "probe": lambda a: probe.train(a.work, a.assets, device=a.device, **a.limit),
        "export": lambda a: export.export(a.work, a.assets / "models" / "portraits"),
        "targets": lambda a: export.write_targets(a.assets / "targets"),
        "measure": lambda a: measure.main(a.assets, a.work, device=a.device, names=a.members or measure.NAMES),
    }
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m models.portraits.train", description=__doc__, formatter_class=raw)
    parser.add_argument("stage", nargs="+", choices=[*stages, "all"], help="what to make; later stages need the earlier ones")
    parser.add_argument("--work", type=Path, default=Path(".train"), help="checkpoints and logs (default: .train)")
    parser.add_argument("--assets", type=Path, default=Path("assets"), help="where results go (default: assets)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="override the number of training steps of the stage")
    parser.add_argument("--members", nargs="+", help="measure these only")
    parser.add_argument("--threads", type=int, help="CPU threads")
    arguments = parser.parse_args(argv)
    arguments.limit = {"steps": arguments.steps} if arguments.steps else {}
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for stage in stages if "all" in arguments.stage else arguments.stage:
        stages[stage](arguments)


if __name__ == "__main__":
    main()
