"""How large the parts of an ensemble are, counted from configurations and headers; equal parts count once, as they are held once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .fusable import same_part
from .inspection import Description, merges_adapters
from .integrity import full_header


@dataclass(frozen=True)
class Sizes:
    """Parameters of the distinct parts of an ensemble, before adapters.

    networks: of each distinct one; copies: LoRA members of each, alone: those of them that are always merged;
    adapters: of all LoRAs together; text: of each text encoder. widest:
    channels of the autoencoder's widest layer at full size; pixels: of one image.
    """

    networks: tuple[int, ...]
    copies: tuple[int, ...] = ()
    adapters: int = 0
    text: tuple[int, ...] = ()
    autoencoder: int = 0
    widest: int = 0
    pixels: int = 512 * 512
    family: str = "sd"
    alone: tuple[int, ...] = ()

    @classmethod
    def of(cls, models: Sequence[Description], size: tuple[int, int] | None = None) -> Sizes:
        """From configurations and headers; the weights must be there. size: (height, width) in pixels, None for the models' own."""
        distinct = [model for at, model in enumerate(models) if not any(model.key == before.key for before in models[:at])]
        first, family = distinct[0], distinct[0].family
        worn = {model.key: {other.adapters: other for other in models if other.key == model.key and other.adapters} for model in distinct}
        alone = {key: sum(merges_adapters(other) for other in found.values()) for key, found in worn.items()}

        def new(part: str) -> list[int]:
            return [_numbers(model, part) for at, model in enumerate(distinct)
                    if not any(same_part(before, model, part) for before in distinct[:at])]  # fmt: skip

        text = [count for part in family.text for count in new(part)]
        widths = tuple(first.autoencoder.get("block_out_channels") or (0,))
        return cls(
            tuple(_numbers(model, family.slot) for model in distinct), tuple(len(worn[model.key]) for model in distinct),
            sum(full_header(file, file.name).numbers for found in worn.values() for other in found.values() if not merges_adapters(other)
                for file, _ in other.adapters),
            tuple(count for count in text if count), sum(new("vae")) if "vae" in first.parts else 0, max(widths[:2]),
            _pixels(first, widths, size), family.name, tuple(alone[model.key] for model in distinct),
        )  # fmt: skip


def _numbers(model: Description, part: str) -> int:
    """Parameters of one part."""
    if part not in model.parts:
        return 0
    if model.place(part):
        tensors = {name: tensor for file in model.weights(part) for name, tensor in full_header(file, model.name).tensors.items()}
    elif model.checkpoint is not None and part in model.checkpoint.held:
        held = model.checkpoint.header.tensors
        tensors = {key: held[key] for key in model.checkpoint.keys(part).values()}
    else:
        return 0
    return sum(tensor.numbers for tensor in tensors.values())


def _pixels(model: Description, widths: tuple[int, ...], size: tuple[int, int] | None) -> int:
    if size is not None:
        return size[0] * size[1]
    side = model.network.get("sample_size") or 128  # Flux's pipeline decides: 128
    height, width = (side, side) if isinstance(side, int) else side
    return height * width * 4 ** (len(widths) - 1)
