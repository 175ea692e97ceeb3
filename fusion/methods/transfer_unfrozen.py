"""Transfer with the representation trained on, too, which the paper's Phase 2 freezes: the ablation it lacks."""

from __future__ import annotations

from fusion.methods.training import Way, method_of

METHOD = method_of(
    Way("transfer_unfrozen", "Transfer, unfrozen", "As Transfer, but what all models taught is trained on, too.", "shared", freeze=False)
)
