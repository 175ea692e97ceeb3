"""Every way of drawing from several models, in one dictionary: a method is a function and a line here."""

from fusion.methods import matched, mixture, scorefusion, scorefusion_levels, single, uniform
from fusion.methods.plan import Cost, Method, MethodError, Sample, SamplingPlan
from fusion.methods.single import best_single, singles

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD for module in (single, uniform, scorefusion, scorefusion_levels, mixture, matched)
}

__all__ = ["METHODS", "Cost", "Method", "MethodError", "Sample", "SamplingPlan", "best_single", "singles"]
