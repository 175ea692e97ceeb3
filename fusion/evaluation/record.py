"""How often such recommendations were right: on drawn targets whose true populations are known (`assets/studies/recommendation`)."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

from models.catalog import REPOSITORY

FILE = REPOSITORY / "assets" / "studies" / "recommendation" / "recommendation.json"


@dataclass(frozen=True)
class Record:
    """`right` of `clear` fresh targets whose two best methods differ by more than chance, judged by `held_out` pictures each."""

    right: int
    clear: int
    held_out: int

    def __str__(self) -> str:
        return (f"Such recommendations were right for {self.right} of {self.clear} fresh targets with a clear best method, by "
                f"{self.held_out} held-out pictures.")  # fmt: skip


def record(held_out: int) -> Record | None:
    """What is known for so many held-out pictures: the study's larger number of them from there on, else its smaller. None without the
    study's file, as in an installation without assets."""
    found = _read()
    if found is None:
        return None
    few, many = found
    return many if held_out >= many.held_out else few


@functools.cache
def _read() -> tuple[Record, Record] | None:
    if not FILE.is_file():
        return None
    content = json.loads(FILE.read_text("utf-8"))
    fresh, count = content["fresh"], content["settings"]["held_out"]
    return (Record(fresh["decisions"]["right_clear"], fresh["clear"], count),
            Record(fresh["decisions twice"]["right_clear"], fresh["clear"], 2 * count))  # fmt: skip
