"""What the shipped attribute probe reads off portraits: populations for the audit, professions for captions. Plain functions, no HTML."""

from __future__ import annotations

from collections.abc import Sequence

from . import engine


def available() -> bool:
    """Whether the probe's file is here."""
    return (engine.ASSETS / "models" / "portraits" / "probe.safetensors").is_file()


def _probe():
    """The probe, built while no model is being loaded: loading patches torch for every thread."""
    with engine.loading:
        from models.portraits import probe

        probe.load()
    return probe


def professions(images: Sequence) -> list[str | None]:
    """The profession in each picture, None where the probe is not certain."""
    return _probe().professions(list(images))


def audit(groups) -> list[dict]:
    """Population of each `(name, images, seeds)` as the probe reads it; its distance to the first group's, and what chance alone gives.

    `seeds`: how many of its images are independent: those of one seed under several prompts start from the same noise.
    """
    _probe()
    from fusion.evaluation.population import cells, distance_of_counts
    from models.portraits.population import PRESENTATIONS, TONES

    counts = [(name, cells(images)) for name, images, _ in groups]
    target = counts[0][1]
    found = [distance_of_counts(c, target, known=False, effective=seeds) for (_, c), (_, _, seeds) in zip(counts, groups)]
    return [
        {
            "name": name,
            "count": int(c.sum()),
            "table": (c / c.sum()).reshape(3, 6),
            "rows": list(PRESENTATIONS),
            "columns": list(TONES),
            "distance": f.value,
            "low": f.low,
            "high": f.high,
            "floor": f.floor,
        }
        for (name, c), f in zip(counts, found)
    ]
