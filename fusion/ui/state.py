"""What one visitor has chosen, dropped in, fitted and generated. `Session` lives in a `gr.State`: nothing is shared."""

from __future__ import annotations

import copy
import hashlib
import math
import secrets
import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from urllib.parse import quote

from gradio.utils import get_upload_folder
from PIL import Image

from . import texts

MARKS = "●■▲◆★⬟▼✚"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6FD1", "#7A7A7A")  # Okabe-Ito, then two of our own
MODES = ("mix", "blend")
MAX_SEED = 2**53 - 1  # what a browser counts exactly; seeds of other programs reach 2^32


@dataclass
class Picture:
    """One accepted target picture; `path` is its copy that the page may serve."""

    image: Image.Image
    name: str
    caption: str
    path: str
    note: str = ""
    recipe: object | None = None  # fusion.recipe.Recipe, or fusion.foreign.Foreign, where the file carried one
    proposed: bool = False  # the caption was read off the picture, not given
    place: str = ""  # in the zip that it came in

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.image.tobytes() + self.caption.encode()).hexdigest()[:16]


@dataclass
class Shot:
    """One generated image on screen: where its PNG lies and what made it."""

    path: str
    prompt: str
    seed: int
    weights: tuple[float, ...]
    member: str | None = None
    note: str = ""  # what the method says of this image, e.g. an effective sample size


@dataclass
class Column:
    """One method's images in the grid; `key` names the settings they were made with."""

    method: str
    key: str
    shots: dict[tuple[str, int], Shot] = field(default_factory=dict)
    cost: object | None = None  # fusion.methods.Cost
    weights: tuple[float, ...] | None = None
    trained: str = ""  # path of what the method trained, which its images' recipes name
    found: str = ""  # a sentence where that training found nothing


@dataclass
class Plan:
    """What Compare is asked to draw."""

    prompts: tuple[str, ...] = ("a portrait of a scientist",)
    first_seed: int = 0
    count: int = 4
    steps: int = 20
    methods: tuple[str, ...] = ("single", "uniform", "scorefusion", "mixture")
    guidance: float | None = None  # None: what the models are usually drawn with
    negative: str = ""  # what guidance pulls away from
    clip_skip: int = 0  # 0: the family's own

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.first_seed, self.first_seed + self.count))


@dataclass(eq=False)
class Session:
    """Mutable, and changed only by this visitor's own events."""

    language: str = texts.DEFAULT
    selected: list[str] = field(default_factory=list)
    added: dict = field(default_factory=dict)  # id -> ModelCard typed in by this visitor
    pictures: list[Picture] = field(default_factory=list)
    example: str | None = None
    default_caption: str = ""  # of pictures without one: whatever stood here would be taken for part of the population
    fit: object | None = None  # fusion.fitting.Fit, or None
    fit_ids: tuple[str, ...] = ()  # which models, in order, and which pictures it was made of
    fit_pictures: str = ""
    blend: dict | None = None  # distance form of blends, once `matched` has measured some
    mix_form: tuple | None = None  # (calibrated fit, its distance form)
    mode: str = "mix"
    weights: dict = field(default_factory=dict)  # mode -> (K,) of the selected models
    releases: int = 0  # how many releases of the mixer have arrived
    plan: Plan = field(default_factory=Plan)
    columns: list[Column] = field(default_factory=list)
    prices: dict = field(default_factory=dict)  # (method, state of fit and plan) -> its Cost, or why it cannot run
    sweep: list[Shot] = field(default_factory=list)
    sweep_key: str = ""
    vote: dict = field(default_factory=dict)
    audit: tuple | None = None  # (files, what the probe read off them)
    tab: str = "level"
    level_count: int = 16
    draws: int = 1
    notes: dict = field(default_factory=dict)  # place -> list of (kind, sentence key or plain text)
    job: object | None = None
    waiting: str = ""
    files: dict = field(default_factory=dict)  # report files that can be downloaded
    held: list[Picture] = field(default_factory=list)  # images to measure against, never fitted
    report: dict | None = None  # the last measurement, as plain values
    measure_count: int = 32
    sort: dict = field(default_factory=dict)  # table -> (column, descending)
    loaded: object | None = None  # comeback.Loaded, once a recipe was taken back
    filled: Plan | None = None  # the plan before another program's picture filled it, for Undo
    sent: dict = field(default_factory=dict)  # panel -> what the browser shows, so that only changes travel
    stamp: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def __deepcopy__(self, memo) -> Session:
        return Session()  # gr.State copies its default once per visitor: always start fresh, share nothing

    @property
    def folder(self) -> Path:
        """Where this visitor's images lie; below Gradio's upload folder, so that the page may serve them."""
        path = Path(get_upload_folder()) / "scorefusion" / self.token
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def answers(self) -> Path:
        """Where what the models say of this visitor's images is kept."""
        return self.folder / "answers"

    def say(self, key: str, **values) -> str:
        return texts.html(self.language, key, **values)

    def tell(self, key: str, **values) -> str:
        """Plain text, for places that escape it themselves."""
        return texts.say(self.language, key, **values)

    def stale(self) -> bool:
        """True if a fit is there, but of other models, pictures or settings."""
        return self.fit is not None and (set(self.fit_ids) != set(self.selected) or self.fit_pictures != self.picture_key())

    def stale_before(self, ids: list[str]) -> bool:
        """Whether the fit was already out of date while `ids` were the selected models."""
        return self.fit_ids != tuple(ids) or self.fit_pictures != self.picture_key()

    def picture_key(self) -> str:
        return hashlib.sha256("|".join([*(p.digest for p in self.pictures), str(self.level_count), str(self.draws)]).encode()).hexdigest()[
            :16
        ]

    def take_fit(self, fit, ids: tuple[str, ...]) -> None:
        """Make `fit` the current one, of the pictures and settings as they are now."""
        self.blend = None
        self.fit, self.fit_ids, self.fit_pictures = fit, tuple(ids), self.picture_key()
        self.stamp += 1

    def column_key(self, method: str) -> str:
        parts = [
            self.fit_pictures,
            *self.fit_ids,
            *sorted(self.selected),
            str(self.plan.steps),
            str(self.plan.guidance),
            *(p for p in self.plan.prompts),
            *((self.plan.negative, str(self.plan.clip_skip)) if self.plan.negative or self.plan.clip_skip else ()),
            str(self.plan.seeds),
        ]
        if method == "yours":
            parts += [self.mode, *(f"{w:.4f}" for w in self.weights.get(self.mode, ()))]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

    def note(self, place: str, kind: str, *sentences: str) -> None:
        """Replace what is said at `place`; kind is `bad`, `warn` or `info`."""
        self.notes[place] = [(kind, s) for s in sentences]

    @property
    def lock(self) -> threading.RLock:
        """Held by one event of this visitor at a time. Not a field: Gradio copies those."""
        return _turns.setdefault(self.token, threading.RLock())

    def adopt(self, other: Session) -> None:
        """Become a copy of `other`, except for what belongs to an open page: its work, and what its browser shows. Files are shared."""
        _turns.pop(self.token, None)
        for name in (f.name for f in fields(self) if f.name not in OF_A_PAGE):
            setattr(self, name, copy.copy(getattr(other, name)))
        self.pictures, self.held = [replace(p) for p in other.pictures], [replace(p) for p in other.held]
        self.columns = [replace(column, shots=dict(column.shots)) for column in other.columns]
        _sharing[self.token] += 1

    def close(self) -> None:
        """Stop what runs and forget the files, unless another session goes on with them."""
        if self.job is not None:
            self.job.stop()
        if _sharing[self.token]:
            _sharing[self.token] -= 1
            return
        for by_token in (_turns, _sharing):
            by_token.pop(self.token, None)
        shutil.rmtree(Path(get_upload_folder()) / "scorefusion" / self.token, ignore_errors=True)


OF_A_PAGE = ("language", "job", "waiting", "sent", "releases")
_sharing: Counter[str] = Counter()  # token -> how many sessions beyond the first hold its files
_turns: dict[str, threading.RLock] = {}  # visitor's token -> lock
_running: dict[str, object] = {}
_running_lock = threading.Lock()


def register(session_hash: str | None, job: object | None) -> None:
    """Remember which job belongs to which open tab, so that closing the tab stops it. None forgets."""
    with _running_lock:
        if job is None:
            _running.pop(session_hash, None)
        else:
            _running[session_hash] = job


def tab_closed(session_hash: str | None) -> None:
    """Called when a tab is closed or reloaded: its job stops within one step."""
    with _running_lock:
        job = _running.pop(session_hash, None)
    if job is not None:
        job.stop()


def link(path: str | Path) -> str:
    """Address of a file that the page may serve, relative to the page."""
    return "gradio_api/file=" + quote(str(path))


def whole(text: object, default: int, low: int, high: int) -> int:
    """A whole number within bounds; `default` for what is none."""
    try:
        return min(max(int(float(str(text))), low), high)
    except (TypeError, ValueError, OverflowError):
        return default


def guidance(text: object, default: float | None) -> float | None:
    """A guidance scale from 1 to 30; `default` for what is none."""
    try:
        found = float(str(text))
    except ValueError:
        return default
    return min(max(found, 1.0), 30.0) if math.isfinite(found) else default
