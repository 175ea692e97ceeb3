"""The target images that a fit has seen, kept for the methods that train on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, eq=False)
class Target:
    """`images`: RGB pictures; `prompts`: one for each. Raises ValueError when their numbers differ or there are none."""

    images: Sequence[Image.Image]
    prompts: Sequence[str]

    def __post_init__(self):
        if not self.images or len(self.images) != len(self.prompts):
            raise ValueError(f"{len(self.images)} target images and {len(self.prompts)} prompts: give one prompt for each image")

    def __len__(self) -> int:
        return len(self.images)
