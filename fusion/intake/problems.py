"""What is to be said of one file: one sentence or two, with what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One sentence or two about one file: what is wrong with it, and what to do. `kind`: `bad`, `warn` or `info`."""

    name: str
    cause_and_cure: str
    harmless: bool = False  # nothing needs to be done
    used: bool = False  # the file was used all the same

    @property
    def kind(self) -> str:
        return "info" if self.harmless else "warn" if self.used else "bad"

    def __str__(self) -> str:
        return f"{self.name}: {self.cause_and_cure}"
