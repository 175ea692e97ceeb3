"""Evidence about methods, always with intervals: held-out loss, population, calibrated features; `compare` collects it in a `Report`."""

from fusion.evaluation.compare import compare
from fusion.evaluation.estimate import Estimate
from fusion.evaluation.report import Report, Row

__all__ = ["Estimate", "Report", "Row", "compare"]
