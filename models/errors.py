"""The exceptions of this floor: every message says what is wrong and what to do about it."""

from __future__ import annotations


class ModelError(ValueError):
    """A model that cannot be described, loaded or fused. The message is written for the person who chose it: cause, then cure."""


class Unreached(ModelError):
    """The hub did not answer: what is here already may do."""
