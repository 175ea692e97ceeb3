"""Every way of drawing from several models, in one dictionary: a method is a function in a file of its name, and its name here."""

from __future__ import annotations

from fusion.lazy import Lazy
from fusion.methods.plan import Cost, Method, MethodError, Sample, SamplingPlan, Unfinished

NAMES: tuple[str, ...] = (
    "single",
    "uniform",
    "scorefusion",
    "scorefusion_levels",
    "mixture",
    "matched",
    "barycenter",
    "superposition",
    "superposition_and",
    "merge",
    "switch",
    "finetune",
    "transfer",
    "transfer_unfrozen",
    "scratch",
)
TRAINED = ("finetune", "transfer", "transfer_unfrozen", "scratch")  # these draw with what they trained; their recipes need its file
SHARING = ("transfer", "transfer_unfrozen")  # ... of these, those that read prompts through what all models share
SINGLES = "singles"  # no method, but every member alone: one for each, named single/MEMBER (`fusion.methods.single.singles`)
METHODS = Lazy(NAMES, "fusion.methods", "METHOD")  # name -> Method; torch is imported when the first one is taken out

__all__ = ["METHODS", "NAMES", "Cost", "Method", "MethodError", "Sample", "SamplingPlan", "SHARING", "SINGLES", "TRAINED", "Unfinished"]
