"""Transfer by a shared representation (arXiv 2502.04491): prompts go through what all sources taught, the network gets a small LoRA."""

from __future__ import annotations

from fusion.methods.training import Way, method_of

METHOD = method_of(
    Way("transfer", "Transfer", "Prompts pass through a few numbers that all models taught; the best model is trained a little.", "shared")
)
