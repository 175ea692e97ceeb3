"""Long work in a thread, so that the page keeps answering: progress out, one stop flag in. Knows nothing of models or of the page."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator

from fusion.stopping import Interrupted

COUNTED = ("loading", "fitting", "drawing", "reading")  # stages whose units a reader knows: parts, looks, steps, pictures
PLACES = {  # kind of work -> the panel that starts it, stops it and says what went wrong
    "fit": "fit",
    "calibrate": "fit",
    "compare": "compare",
    "sweep": "compare",
    "redraw": "comeback",
    "measure": "measure",
}


_device = threading.RLock()


@contextlib.contextmanager
def alone(wait: bool = True, stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """The device for one thread at a time; yields whether it is ours (always, with `wait`). Raises Interrupted once `stop()` is true.

    Gradio's queue holds one long event at a time, but work that outlives its event, since its visitor left in mid-step, still uses the
    models that visitors share; and models that load set defaults of PyTorch for all threads.
    """
    ours = _device.acquire(timeout=0.1) if wait else _device.acquire(blocking=False)
    while wait and not ours:
        if stop():
            raise Interrupted
        ours = _device.acquire(timeout=0.1)
    try:
        yield ours
    finally:
        if ours:
            _device.release()


class Job:
    """Runs `work(job)` in a thread. `work` calls `job.report(done, total, message)` and looks at `job.stopped()`.

    `kind` names it on the page, `stage` what it is doing (a key of the texts below `run.`). After the end
    `result` or `error` is set; what a stopped job had finished is its result too.
    """

    def __init__(self, kind: str, work: Callable[[Job], object]):
        self.kind, self._work = kind, work
        self.done, self.total, self.message, self.stage = 0, 0, "", "loading"
        self.label, self.percent = "", False  # a name shown before the stage; whether the count means something to a reader
        self.result: object | None = None
        self.error: Exception | None = None
        self.started = time.monotonic()
        self._stop = threading.Event()
        self._changed = threading.Event()
        here = contextvars.copy_context()  # a lent GPU is accounted to the visitor, whose request lies in the context
        self._thread = threading.Thread(target=here.run, args=(self._run,), daemon=True)

    def _run(self) -> None:
        try:
            with alone(stop=self.stopped):
                self.result = self._work(self)
        except Exception as error:  # shown on the page by whoever waits for this job
            self.error = error
        finally:
            self._changed.set()

    def report(self, done: int, total: int, message: str = "") -> None:
        self.done, self.total, self.message = int(done), int(total), message
        self._changed.set()

    def loading(self, done: int, total: int, message: str = "") -> None:
        """`report` for work that cannot be asked to stop but tells how far it is: raises Interrupted once Stop was pressed."""
        if self.stopped():
            raise Interrupted
        self.report(done, total, message)

    def enter(self, stage: str) -> None:
        """A new part of the work begins; its count starts anew."""
        self.stage, self.done, self.total, self.percent = stage, 0, 0, stage not in COUNTED
        self._changed.set()

    def stop(self) -> None:
        self._stop.set()

    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def ticks(self, every: float = 0.2) -> Iterator[None]:
        """Starts the work and yields whenever there is something new to show, at least each second. Stops it if the listener leaves."""
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._changed.wait(1.0)
                self._changed.clear()
                yield
                self._thread.join(every)
        finally:
            if self._thread.is_alive():
                self.stop()
                self._thread.join(30)
