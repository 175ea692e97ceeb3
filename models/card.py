"""One model on offer: the record that says what it is, where it comes from and what it may be used for. Nothing is loaded or fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .errors import ModelError
from .families import FAMILIES
from .noise import PREDICTIONS
from .stacks import COMMIT, Adapter

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = "SCOREFUSION_MODELS"  # environment variable: further folders below which a typed path may lie, separated like PATH
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
HUB_FILE = re.compile(rf"({HUB_ID.pattern})/((?:[\w.-]+/)*[\w. -]+\.safetensors)")  # one file of a repository
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelCard:
    """One model on offer.

    source, adapter: a path relative to the repository, an absolute path, or a hub id `owner/name`; either may be or name one file,
    `owner/name/file.safetensors`. revision: the hub commit. strength: the adapter's; further: more adapters on the same model, whose
    changes add to its own (`adapters`: all of them). prediction: the prediction type, where the files are wrong or silent about it.
    components: for single files, a folder or a hub id `owner/name[@commit]` that gives the parts the file lacks.
    sha256: `{path below the folder: hash}`, an adapter's files under `adapter:`; empty means unchecked.
    limits: what it is not for, one sentence each. population: `(3, 6)` over presentation and tone, portraits only.
    guidance: the scale it is meant to be drawn with, 1 for none; None: its family's. steps: those it is meant to be drawn in; at most 16
    say that it was distilled to few. None: its files tell (`models.samplers`).
    calibration, thumbnail, representation: paths below assets/ (representation: `fusion.transfer`).
    """

    id: str
    title: str
    family: str
    source: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    strength: float = 1.0
    further: tuple[Adapter, ...] = ()
    prediction: str | None = None
    components: str | None = None
    prompt_template: str = "{prompt}"
    licence: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    limits: tuple[str, ...] = ()
    thumbnail: str | None = None
    population: tuple[tuple[float, ...], ...] | None = None
    calibration: str | None = None
    representation: str | None = None
    guidance: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        where = f"card '{self.id}'"
        for name in ("id", "title", "family", "source", "prompt_template"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise ModelError(f"{where} needs a {name}: write it as text")
        if self.family not in FAMILIES:
            raise ModelError(f"{where} has the unknown family '{self.family}': use one of {', '.join(FAMILIES)}")
        if "{prompt}" not in self.prompt_template:
            raise ModelError(f"{where}: the prompt template '{self.prompt_template}' must say where the prompt goes, as {{prompt}}")
        for name in ("revision", "adapter_revision"):
            if getattr(self, name) is not None and not COMMIT.fullmatch(str(getattr(self, name))):
                raise ModelError(f"{where}: {name} must be a full commit (40 hexadecimal digits), because branches and tags can move")
        if self.adapter is None and (self.further or self.strength != 1):
            raise ModelError(f"{where} has a strength, or further adapters, without a first one: name it as adapter")
        if any(one.revision is not None and not COMMIT.fullmatch(one.revision) for one in self.adapters):  # a strength is refused, too
            raise ModelError(f"{where}: the revision of an adapter must be a full commit (40 hexadecimal digits), because branches and "
                             "tags can move")  # fmt: skip
        if self.prediction is not None and self.prediction not in PREDICTIONS:
            raise ModelError(f"{where} has the unknown prediction type '{self.prediction}': use one of {', '.join(PREDICTIONS)}")
        if self.companion is not None and self.companion[1] is not None and not COMMIT.fullmatch(self.companion[1]):
            raise ModelError(f"{where}: components must name a full commit behind the @ (40 hexadecimal digits), or none")
        if self.guidance is not None and not (isinstance(self.guidance, (int, float)) and 0 <= self.guidance <= 100):
            raise ModelError(f"{where}: the guidance must be a number from 0 to 100, not {self.guidance!r}")
        if self.steps is not None and not (type(self.steps) is int and 1 <= self.steps <= 1000):
            raise ModelError(f"{where}: the steps must be a whole number from 1 to 1000, not {self.steps!r}")
        bad = [path for path, value in self.sha256.items() if not HASH.fullmatch(str(value))]
        if bad:
            raise ModelError(f"{where}: the sha256 of {bad[0]} must be 64 hexadecimal digits")
        if self.population is not None:
            _check_population(self.population, where)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """All adapters, the first one first. Their order changes nothing."""
        return () if self.adapter is None else (Adapter(self.adapter, self.adapter_revision, self.strength), *self.further)

    def wearing(self, adapters: Sequence[Adapter]) -> ModelCard:
        """The card with these adapters in place of its own; none: its bare base."""
        if not adapters:
            return replace(self, adapter=None, adapter_revision=None, strength=1.0, further=())
        first, *further = adapters
        return replace(self, adapter=first.source, adapter_revision=first.revision, strength=first.strength, further=tuple(further))

    @property
    def is_hub(self) -> bool:
        """Whether the source must be fetched from the hub."""
        return is_hub_id(self.source) or hub_file(self.source) is not None

    @property
    def is_file(self) -> bool:
        """Whether the source is a single-file checkpoint."""
        return self.source.endswith(".safetensors")

    @property
    def usual_guidance(self) -> float:
        """The guidance it is drawn with where nobody says otherwise, as far as a card knows (`Ensemble.guidance` knows the network)."""
        return float(FAMILIES[self.family].usual_guidance if self.guidance is None else self.guidance)

    @property
    def companion(self) -> tuple[str, str | None] | None:
        """`(source, commit)` of the model that gives the missing parts."""
        return None if self.components is None else split_commit(self.components)

    def __hash__(self) -> int:
        return hash((self.id, self.source, self.revision, self.adapters, self.prediction, self.components))


def _check_population(table: tuple[tuple[float, ...], ...], where: str) -> None:
    total = sum(sum(row) for row in table)
    if len(table) != 3 or any(len(row) != 6 or min(row) < 0 for row in table) or abs(total - 1) > 1e-6:
        raise ModelError(f"{where}: the population must be 3 rows of 6 shares that sum to 1, not {total:.4f}")


def split_commit(text: str) -> tuple[str, str | None]:
    """`SOURCE[@COMMIT]` as source and commit; a path that is there keeps its @."""
    source, at, commit = text.partition("@")
    return (text, None) if not at or local_path(text).exists() else (source, commit)


def allowed(path: Path) -> bool:
    """Whether a resolved path lies in the repository or below a folder that SCOREFUSION_MODELS names."""
    roots = [REPOSITORY, *(Path(root).expanduser() for root in os.environ.get(ROOTS, "").split(os.pathsep) if root)]
    return any(path.is_relative_to(root.resolve()) for root in roots)


def located(typed: str) -> str | None:
    """The absolute path of what a person typed, from the working directory or else the repository; None where nothing allowed is there."""
    for place in (Path.cwd(), REPOSITORY):
        try:
            path = (place / os.path.expanduser(typed)).resolve()
            if typed and path.exists() and allowed(path):
                return str(path)
        except (OSError, ValueError):  # too long for a path, a zero byte
            return None
    return None


def local_path(source: str) -> Path:
    """The path a local source means: as it is when absolute, below the repository otherwise."""
    return Path(source) if Path(source).is_absolute() else REPOSITORY / source


def is_hub_id(source: str) -> bool:
    """`owner/name`, unless a folder of that name lies in the repository."""
    return bool(HUB_ID.fullmatch(source)) and not local_path(source).exists()


def hub_file(source: str) -> tuple[str, str] | None:
    """`(owner/name, file)` of one file on the hub; None for anything else, also for a file of that name in the repository."""
    hit = HUB_FILE.fullmatch(source)
    return (hit[1], hit[2]) if hit and ".." not in source and not local_path(source).exists() else None
