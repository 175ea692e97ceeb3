"""The same network and LoRA without transfer: the representation starts at random and has the target images alone to learn from."""

from __future__ import annotations

from fusion.methods.training import Way, method_of

METHOD = method_of(
    Way("scratch", "No transfer", "As Transfer, but the few numbers have the target images alone to learn from.", "random", freeze=False)
)
