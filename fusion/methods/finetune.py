"""A LoRA on the best single member, trained on the target images and stopped early on held-out ones of them: what most people would do."""

from __future__ import annotations

from fusion.methods.training import Way, method_of

METHOD = method_of(Way("finetune", "Fine-tune", "The best single model, trained a little on the target images."))
