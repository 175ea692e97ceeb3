"""Long work in a thread: progress, stop, errors, and a listener that leaves."""

from __future__ import annotations

import time

from fusion.ui.jobs import Job


def counting(job):
    """Steps until it is stopped, however late the machine gets round to that."""
    n = 0
    while not job.stopped():
        job.report(n, 1000, "step")
        time.sleep(0.01)
        n += 1
    return n


def test_progress_and_result():
    job = Job("fit", lambda j: [j.report(1, 2, "half"), "done"][1])
    list(job.ticks(0.01))
    assert (job.result, job.error, job.done, job.total, job.message) == ("done", None, 1, 2, "half")
    assert not job.stopped()  # it came to its end by itself


def test_stop_ends_within_a_step_and_keeps_what_was_done():
    job = Job("fit", counting)
    for tick, _ in enumerate(job.ticks(0.01)):
        if tick == 2:
            job.stop()
    assert job.error is None and job.result > 0 and not job.running


def test_an_error_is_kept_and_not_lost():
    def work(job):
        raise ValueError("cause and cure")

    job = Job("fit", work)
    list(job.ticks(0.01))
    assert isinstance(job.error, ValueError) and job.result is None


def test_a_listener_that_leaves_stops_the_work():
    job = Job("fit", counting)
    ticks = job.ticks(0.01)
    next(ticks)
    ticks.close()
    assert job.stopped() and not job.running
