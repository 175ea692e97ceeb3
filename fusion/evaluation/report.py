"""What a comparison found: rows of figures with intervals, the images, one sentence; as JSON for scripts and as one HTML file to send."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fusion.evaluation.columns import FIGURES, Column, notes, shown
from fusion.evaluation.estimate import Estimate
from fusion.evaluation.html import page
from fusion.evaluation.recommendation import NONE, Recommendation
from fusion.evaluation.record import record
from fusion.evaluation.text import table
from fusion.methods import Cost, Sample
from models import room

SHOWN = 60  # characters of a text that is too long, to know it by
ENDINGS = (".html", ".json")  # what a report can be saved as


@dataclass(frozen=True)
class Row:
    """One method; `fusion.evaluation.columns` says what each figure means. `problem`: why it did not run, in a sentence, else empty.
    `effective`: how many independent images the samples are worth. `notes`: sentences on single cells by column, beside those that follow
    from the figures (`columns.notes`)."""

    method: str
    title: str
    weights: Mapping[str, float]
    cost: Cost | None = None
    seconds: float | None = None  # per image, measured
    loss: Estimate | None = None
    gain: Estimate | None = None
    population: Estimate | None = None
    features: Estimate | None = None
    kid: Estimate | None = None
    diversity: Estimate | None = None
    copies: Estimate | None = None
    effective: float | None = None
    samples: tuple[Sample, ...] = ()
    problem: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """`fit`: plain values on how the weights were found; `settings`: steps, guidance and so on; `stopped`: ended before all was drawn.
    `unread`: what text encoders did not read, `{"what", "prompt", "not_read", "by", "model"}` each; `what` is `prompt`, `negative prompt`
    or `caption`. `fitted`: the fit itself, with what the methods prepared; it is not saved."""

    rows: tuple[Row, ...]
    models: tuple[Mapping, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Mapping = field(default_factory=dict)
    fit: Mapping = field(default_factory=dict)
    recommendation: Recommendation = Recommendation(NONE)
    stopped: bool = False
    unread: tuple[Mapping, ...] = ()
    fitted: object = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> str:
        """The recommendation's sentence."""
        return self.recommendation.sentence

    def record(self) -> tuple[str, ...]:
        """How often such recommendations were right, in a sentence; nothing where nothing is recommended."""
        known = record(int(self.settings.get("held-out images", 0))) if self.recommendation.method else None
        return () if known is None else (str(known),)

    def columns(self) -> tuple[Column, ...]:
        """The columns that have anything to show, with what they mean."""
        return shown(self.rows)

    def unread_words(self) -> list[str]:
        """A sentence on every text that was too long, once for all encoders that read it to the same place."""
        by: dict[tuple[str, str, str], list[str]] = {}
        for row in self.unread:
            by.setdefault((row["what"], row["prompt"], row["not_read"]), []).append(f"{row['model']}'s {row['by']}")
        return [f"The {what} \"{prompt[:SHOWN]}{'…' * (len(prompt) > SHOWN)}\" is too long; not read by {', '.join(readers)}: \"{rest}\""
                for (what, prompt, rest), readers in by.items()]  # fmt: skip

    def row(self, method: str) -> Row:
        return next(row for row in self.rows if row.method == method)

    def to_dict(self) -> dict:
        """Plain JSON values, without images; figures that are not finite become None."""
        content = {key: getattr(self, key) for key in ("verdict", "models", "prompts", "seeds", "settings", "fit", "stopped")}
        told = {"recommendation": asdict(self.recommendation), "record": list(self.record())}
        told["columns"] = [asdict(column) for column in self.columns()]
        told["not_read"] = list(self.unread)
        return plain(content | told | {"rows": [_row(row) for row in self.rows]})

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_text(self) -> str:
        """The figures as an aligned table, and the recommendation, for a terminal."""
        return table(self)

    def to_html(self) -> str:
        """One self-contained page: no script, no request to anywhere."""
        return page(self)

    def save(self, path: str | Path) -> Path:
        """HTML or JSON by the ending of the name. Raises ValueError for another ending."""
        path = Path(path)
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"a report is saved as {' or '.join(ENDINGS)}, not {path.suffix or 'without an ending'}")
        text = self.to_html() if path.suffix.lower() == ".html" else self.to_json()
        with room.writing(path, len(text)):
            path.write_text(text, encoding="utf-8")
        return path


def _row(row: Row) -> dict:
    kept = {key: getattr(row, key) for key in ("method", "title", "weights", "seconds", "effective", "problem")}
    kept["cost"] = None if row.cost is None else asdict(row.cost)
    for name in FIGURES:
        estimate = getattr(row, name)
        kept[name] = None if estimate is None else asdict(estimate)
    kept["notes"] = notes(row)
    kept["samples"] = [{"prompt": s.prompt, "seed": s.seed, "member": s.member} for s in row.samples]
    return kept


def plain(value):
    """Plain JSON values of mappings, lists, arrays and numbers; None for those that are not finite, such as the ends of no interval."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
