"""What a hosted page may do, and how its work reaches a GPU that is lent for seconds: limits of `spaces.yaml`, `@spaces.GPU`.

Off a Space everything passes through unchanged. On ZeroGPU the main process never touches CUDA: `call` and `stream` run a task in a
forked process that holds the GPU for a stated time; what the task reports crosses over as plain events, what it returns as CPU data.
"""

from __future__ import annotations

import functools
import math
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing

from fusion.manifest import FILE, Limits, ManifestError, Target, targets
from fusion.stopping import Interrupted
from models.causes import kind
from models.room import DiskFull

TARGET = "SCOREFUSION_TARGET"  # environment variable that names the target of spaces.yaml
SHORTEST = 10  # seconds of GPU asked for at least
forked = threading.Event()  # set in the process that holds the GPU

if os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):
    import spaces  # before CUDA starts: it stands in for CUDA in this process from here on
else:
    spaces = None


@functools.lru_cache(maxsize=1)
def target() -> Target | None:
    """The target this page was deployed as; None on one's own machine. Raises ManifestError for a name that is not in spaces.yaml."""
    name = os.environ.get(TARGET)
    if not name and not hosted():
        return None
    known = targets(FILE)
    if not name and len(known) == 1:  # a rendered Space holds its own entry only
        return next(iter(known.values()))
    if name not in known:
        raise ManifestError(f"the environment variable {TARGET} is {name!r}: set it to one of those in spaces.yaml, {', '.join(known)}")
    return known[name]


def hosted() -> bool:
    """True on a Space, where what a visitor sends travels to a server."""
    return bool(os.environ.get("SPACE_ID"))


def limits() -> Limits:
    """What a visitor may ask for here."""
    here = target()
    return Limits() if here is None else here.limits


def offered(name: str) -> bool:
    """Whether the model of this id is on offer here."""
    here = target()
    return here is None or here.models is None or name in here.models


def check(models=None, **amounts: int) -> None:
    """Raise ValueError, in words for a visitor, where more is asked for than this page gives: `images=`, `looks=`, `samples=`, ...

    `models`: the cards chosen.
    """
    words = {"images": "target pictures", "looks": "looks at each picture (noise levels times draws)", "samples": "images of a method",
             "steps": "sampling steps", "calibration": "calibration images of a model",
             "training": "seconds of training"}  # fmt: skip
    allowed = limits()
    if models is not None:
        if allowed.models is not None and len(models) > allowed.models:
            raise ValueError(f"this page fuses at most {allowed.models} models at once, and {len(models)} are chosen: leave some out")
        strangers = [card.title for card in models if not offered(card.id)]
        if strangers:
            raise ValueError(f"this page does not offer {', '.join(strangers)}: choose from its list, or run the page on your own machine")
    for name, amount in amounts.items():
        most = getattr(allowed, name)
        if most == 0 and amount:
            raise ValueError(f"this page gives no {words[name]}: run it on your own machine for that")
        if most is not None and amount > most:
            raise ValueError(f"this page gives at most {most} {words[name]}, and {amount} are asked for: take fewer")


# ------------------------------------------------------------------------------------------------ a GPU lent for seconds

def zerogpu() -> bool:
    """Whether work must be handed to a process that is lent a GPU: on ZeroGPU, outside of that process."""
    return spaces is not None and not forked.is_set()


def device() -> str:
    """Where models are loaded in this process: never on the GPU that only a lent process has."""
    return "cpu" if zerogpu() else "auto"


def seconds(evaluations: float, images: int = 0, more: float = 0.0) -> int:
    """For how long the GPU is asked, from K x steps x images evaluations. Raises ValueError when this page does not lend it that long.

    `images`: encoded or decoded. `more`: seconds of other work.
    """
    here = target()
    if here is None or here.pace is None:
        return SHORTEST
    needed = here.pace["load"] + evaluations * here.pace["evaluation"] + images * here.pace["image"] + more
    needed = max(SHORTEST, math.ceil(needed))
    if here.limits.seconds is not None and needed > here.limits.seconds:
        raise ValueError(f"this would hold the GPU for about {needed} seconds and this page gives {here.limits.seconds} at once: "
                         "take fewer models, pictures or steps")  # fmt: skip
    return needed


class Elsewhere(RuntimeError):
    """A failure in the process that held the GPU: of which kind (`models.causes.KINDS`), and for the log its traceback as text."""

    def __init__(self, kind: str, trace: str = ""):
        super().__init__(trace)
        self.kind = kind


def call(task: Callable, *arguments: object, job, seconds: int = SHORTEST) -> object:
    """`task(*arguments, job=job)`, where there is a GPU. On ZeroGPU `task` and `arguments` are pickled: functions of modules, CPU data."""
    if not zerogpu():
        return task(*arguments, job=job)
    with closing(_on_gpu(task, arguments, seconds)) as events:
        for name, content in events:
            if name == "result":
                return content
            _heard(name, content, job)
    raise Elsewhere("gpu", "the GPU was taken away before the work was done: try again")


def stream(task: Callable, *arguments: object, job, seconds: int = SHORTEST) -> Iterator:
    """What the generator `task(*arguments, job=job)` yields, as it comes; it ends early once the job is stopped."""
    if not zerogpu():
        yield from task(*arguments, job=job)
        return
    with closing(_on_gpu(task, arguments, seconds)) as events:
        for name, content in events:
            if name == "given":
                yield content
            elif name == "result":
                return
            else:
                try:
                    _heard(name, content, job)
                except Interrupted:
                    return


def _heard(name: str, content, job) -> None:
    """Pass one event on to the job. Raises what the task raised, and Interrupted once the job is stopped."""
    if name == "failed":
        what, text = content
        raise ValueError(text) if what == "ours" else MemoryError(text) if what == "memory" else Elsewhere(what, text)
    getattr(job, name)(*content)
    if job.stopped():
        raise Interrupted


class Wire:
    """Stands for the job in the process that holds the GPU: what is reported to it becomes events; `stop` reaches the task."""

    def __init__(self):
        self.events: queue.SimpleQueue = queue.SimpleQueue()
        self._stop = threading.Event()

    def report(self, done: int, total: int, message: str = "") -> None:
        self.events.put(("report", (int(done), int(total), str(message))))

    def loading(self, done: int, total: int, message: str = "") -> None:
        if self.stopped():
            raise Interrupted
        self.report(done, total, message)

    def enter(self, stage: str) -> None:
        self.events.put(("enter", (stage,)))

    def stop(self) -> None:
        self._stop.set()

    def stopped(self) -> bool:
        return self._stop.is_set()

    def work(self, task: Callable, arguments: tuple) -> None:
        """Run the task to its end; its results and its failure are events, too: an exception itself would lose its words on the way."""
        try:
            result = task(*arguments, job=self)
            if isinstance(result, Iterator):
                for one in result:
                    self.events.put(("given", one))
                result = None
            self.events.put(("result", result))
        except Exception as error:
            what = "ours" if isinstance(error, DiskFull) else kind(error)
            self.events.put(("failed", (what, str(error) if what == "ours" else traceback.format_exc())))


def _events(task: Callable, arguments: tuple, seconds: int) -> Iterator[tuple[str, object]]:
    """What happens while the task runs, as it happens; the last event is its result or its failure. Closing it stops the task."""
    forked.set()
    wire = Wire()
    worker = threading.Thread(target=wire.work, args=(task, arguments), daemon=True)
    worker.start()
    try:
        while True:
            name, content = wire.events.get()
            yield name, content
            if name in ("result", "failed"):
                return
    finally:
        wire.stop()
        worker.join(30)


# ZeroGPU looks for decorated functions when the page starts
_on_gpu = _events if spaces is None else spaces.GPU(duration=lambda task, arguments, seconds: seconds)(_events)
