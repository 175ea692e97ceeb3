"""The papers' experiments, run from the command line, and what the product claims, measured where the truth is known.

A study is a module of this package with `TITLE` and `run(out, work, *, quick, seeds, progress, stop) -> dict` (plain JSON values):
it resumes from `work` and writes its README.md, tables and figures into `out`. Importing this package loads none of them.
"""

from fusion.lazy import Lazy

NAMES: tuple[str, ...] = (
    "gaussians",
    "digits",
    "portraits",
    "conditioned-diffusion",
    "restoration",
    "evidence",
    "recommendation",
    "sample-size",
    "scaling",
)
STUDIES = Lazy(NAMES, "fusion.studies")
