"""A Ctrl-C at lines of the main thread, errors of calls to the system, and a `Cancel` at lines of
any thread: a fixed sample of each.

`make interrupts` runs more of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestream.files.atomic import AtomicFile
from tapestream.testing import ImageioDaemon

from . import call_errors, cancels, interrupts
from .interrupts import Job, imageio_jobs, local_jobs, tape_jobs

LOCAL = [
    "a raw image to a tar, over an old one",
    "a tar to a new raw image",
    "a tar to an old raw image",
    "a tar to an old raw image that grows",
    "an incremental tar to a raw image",
    "to a file object",
    "through a pipe",
    "a chain to a raw image",
    "a chain to a tar",
    "verify and compare",
    "to tape",
    "from tape",
]
IMAGEIO = ["a download", "an upload"]
# In each job.
INTERRUPTS, ERRORS, CANCELS = 25, 20, 3


@pytest.fixture(scope="module")
def jobs(
    daemon: ImageioDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Job]]:
    with imageio_jobs(daemon, tmp_path_factory.mktemp("served")) as more:
        yield {"in memory": cancels.IN_MEMORY, **local_jobs(), **tape_jobs(), **more}


def test_no_kind_of_copy_is_forgotten(jobs: dict[str, Job]) -> None:
    assert set(jobs) == {"in memory", *LOCAL, *IMAGEIO}


@pytest.mark.parametrize("name", LOCAL + IMAGEIO)
def test_an_interrupt_leaves_nothing(name: str, jobs: dict[str, Job]) -> None:
    job = jobs[name]
    places = interrupts.sample(job, INTERRUPTS, random.Random(name))
    outcomes = [interrupts.interrupt(job, place) for place in places]
    assert [f"{o.place}: {o.wrong}" for o in outcomes if o.wrong] == []
    assert any(outcome.hit for outcome in outcomes)


@pytest.mark.parametrize("name", LOCAL)
def test_an_error_of_the_system_leaves_nothing(name: str, jobs: dict[str, Job]) -> None:
    job = jobs[name]
    calls = call_errors.sample(call_errors.calls_of(job), ERRORS, random.Random(name))
    problems = [(str(call), call_errors.fail(job, call)) for call in calls]
    assert [problem for problem in problems if problem[1]] == []


@pytest.mark.parametrize("name", ["in memory", *LOCAL, *IMAGEIO])
def test_a_cancel_ends_it_and_leaves_nothing(name: str, jobs: dict[str, Job]) -> None:
    job = jobs[name]
    places = cancels.sample(job, CANCELS, random.Random(name))
    outcomes = [cancels.cancel(job, place) for place in places]
    assert [f"{o.place}: {o.wrong}" for o in outcomes if o.wrong] == []
    assert any(outcome.hit for outcome in outcomes)
    assert max(outcome.seconds for outcome in outcomes) < 10


# --- The judges themselves ---


def test_what_is_left_is_found(jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not taken away after an interrupt."""
    monkeypatch.setattr(AtomicFile, "abort", lambda _: None)
    job = jobs["a tar to a new raw image"]
    places = interrupts.sample(job, 20, random.Random(1))
    assert any(
        (interrupts.interrupt(job, place).wrong or "").startswith("there") for place in places
    )


def test_a_cancel_that_is_ignored_is_found(jobs: dict[str, Job]) -> None:
    """A copy that goes on."""
    job = jobs["a tar to a new raw image"]
    deaf = Job(lambda path: run_deaf(job, path), job.judge, job.prepare, job.clean)
    places = cancels.sample(job, 10, random.Random(1))
    assert "ignores the cancel" in [cancels.cancel(deaf, place).wrong for place in places]


def run_deaf(job: Job, directory: Path) -> None:
    token = interrupts.CANCEL.set(None)
    try:
        job.work(directory)
    finally:
        interrupts.CANCEL.reset(token)


def test_the_end_of_a_with_statement_is_left_out() -> None:
    """Where Python looks for no signals, before it calls `__exit__`."""

    class Manager:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    def work() -> int:
        with Manager():
            return 1

    assert len(interrupts.exits(work.__code__)) in (1, 2)
    assert not interrupts.exits(test_no_kind_of_copy_is_forgotten.__code__)
