"""Evidence about methods, always with intervals: KID, calibrated features, population, diversity, loss; `compare` makes a `Report` of it.

`weigh` does the same for samples that are already drawn.
"""

from fusion.evaluation.compare import compare
from fusion.evaluation.estimate import Estimate
from fusion.evaluation.recommendation import Recommendation
from fusion.evaluation.report import Report, Row
from fusion.evaluation.weighing import weigh

__all__ = ["Estimate", "Recommendation", "Report", "Row", "compare", "weigh"]
