"""Tiny pipelines rewritten as single files in the layout of the original code, with the names that such files really have."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from models.checkpoint import layouts
from models.checkpoint_names import sources

LAYOUT = {"sd": "sd1", "sd2": "sd2", "sdxl": "sdxl", "sd3": "sd3", "sd35": "sd35-medium", "flux": "flux-dev", "schnell": "flux-schnell"}


def parts_of(layout: str) -> list[str]:
    """The parts a file of this layout may hold."""
    return [part for part, told in layouts()[layout]["parts"].items() if "names" in told]


def original(pipeline, layout: str, parts: list[str] | None = None, alone: bool = False) -> dict[str, torch.Tensor]:
    """`{original name: tensor}` of a pipeline's parts. alone: the denoiser without its prefix, as in files that hold nothing else."""
    found = {}
    for part in parts_of(layout) if parts is None else parts:
        told, module = layouts()[layout]["parts"][part], getattr(pipeline, part)
        state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        prefix = "" if alone else told["prefixes"][0]
        config = module.config if isinstance(module.config, dict) else module.config.to_dict()
        named = sources(told["names"], {name: tuple(value.shape) for name, value in state.items()}, config)
        rows: dict[str, list] = {}
        for name, source in named.items():
            value = torch.cat(state[name].chunk(2)[::-1]) if source.swapped else state[name]
            value = value.T if source.turned else value
            rows.setdefault(prefix + source.key, []).append((source.rows[0] if source.rows else 0, value))
        for key, pieces in rows.items():
            ordered = [value for _, value in sorted(pieces, key=lambda piece: piece[0])]
            single = len({at for at, _ in pieces}) == 1
            value = (ordered[0] if single else torch.cat(ordered)).contiguous()
            found[key] = value[:, :, None, None].contiguous() if ".mid.attn_1." in key and value.ndim == 2 else value
    return found


def write(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    return path
