"""The exceptions of this floor: every message says what is wrong and what to do about it."""

from __future__ import annotations


class ModelError(ValueError):
    """A model that cannot be described, loaded or fused. The message is written for the person who chose it: cause, then cure."""


class SizesDiffer(ModelError):
    """Models that could be fused at one size, and make pictures of different ones. size: `(height, width)` in pixels that is proposed."""

    def __init__(self, message: str, size: tuple[int, int]):
        super().__init__(message)
        self.size = size


class Unreached(ModelError):
    """The hub did not answer: what is here already may do."""
