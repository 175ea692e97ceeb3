"""Pictures that are nearly one: the same motif in another size or compression, told by which neighbour is brighter on a grid of 16 x 16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

GRID = 16
NEAR = 0.06  # of the comparisons may differ; unrelated pictures differ in about half


def near(images: Sequence[Image.Image]) -> list[tuple[int, int]]:
    """`(later, earlier)` pairs of pictures that look alike; each picture is named once. Pictures without a motif are left out."""
    grids = [np.asarray(image.convert("L").resize((GRID + 1, GRID), Image.Resampling.BOX), int) for image in images]
    marks = [(grid[:, 1:] > grid[:, :-1]).ravel() for grid in grids]
    flat = [np.ptp(grid) < 8 for grid in grids]
    colours = [np.asarray(image.resize((4, 4), Image.Resampling.BOX), int) for image in images]
    found = []
    for later in range(len(images)):
        for earlier in range(later):
            alike = (marks[later] != marks[earlier]).mean() <= NEAR and np.abs(colours[later] - colours[earlier]).max() < 24
            if not flat[later] and not flat[earlier] and alike:
                found.append((later, earlier))
                break
    return found
