"""An error at every call to the system, in each kind of copy, and what is left after it.

Each call that a job makes to `os` and `fcntl`, in any of its threads, fails in turn, as does each
command to the tape drive. Nothing is judged by what tapestream says but the kind of its error: see
`interrupts`.

EINTR is left out: Python makes the call again itself, so it never comes to us (PEP 475).
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import random
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tapestream import TapestreamError
from tapestream.testing.drive import FakeDrive

from .interrupts import OURS, Job, local_jobs, second_try, tape_jobs
from .leftovers import left_over, open_files

CALLS: dict[Any, tuple[str, ...]] = {
    os: (
        *("open", "close", "pipe2", "dup", "set_blocking"),
        *("stat", "fstat", "lseek", "ftruncate", "fsync", "rename", "unlink"),
        *("readv", "pread", "preadv", "write", "pwrite"),
    ),
    fcntl: ("fcntl", "flock"),
    FakeDrive: ("fault",),
}
NUMBERS = {
    "open": (errno.EIO, errno.EMFILE, errno.ENOSPC),
    "pipe2": (errno.EMFILE,),
    "dup": (errno.EMFILE,),
    "write": (errno.EIO, errno.ENOSPC),
    "pwrite": (errno.EIO, errno.ENOSPC),
    "ftruncate": (errno.EIO, errno.EFBIG),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.EROFS),
    "fault": (errno.EIO, errno.ENOMEM),
}


class Call(NamedTuple):
    """The nth call to a function."""

    name: str
    nth: int
    number: int = errno.EIO

    def __str__(self) -> str:
        return f"{self.name} ({self.nth}): {errno.errorcode[self.number]}"


class Calls:
    """Counts the calls of a job, and lets one fail.

    Attributes:
        counts: How many there were of each.
        hit: One has failed.
    """

    def __init__(self, failing: Call | None = None) -> None:
        self.counts: dict[str, int] = {}
        self.hit = False
        self._failing = failing
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before = {(at, n): getattr(at, n) for at, names in CALLS.items() for n in names}
        try:
            for (at, name), call in before.items():
                setattr(at, name, self._wrapped(name, call))
            yield
        finally:
            for (at, name), call in before.items():
                setattr(at, name, call)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            if not self._fails(name):
                return call(*args, **options)
            if name == "close":  # Linux closes it all the same
                call(*args)
            assert self._failing is not None
            raise OSError(self._failing.number, os.strerror(self._failing.number))

        return wrapped

    def _fails(self, name: str) -> bool:
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + 1
            fails = self._failing is not None and self._failing[:2] == (name, self.counts[name])
            self.hit = self.hit or fails
        return fails


def calls_of(job: Job) -> list[Call]:
    """All calls of a job, each with every error that it can well fail with."""
    with tempfile.TemporaryDirectory() as name:
        job.prepare(Path(name))
        calls = Calls()
        with calls():
            job.work(Path(name))
    return [
        Call(name, nth, number)
        for name, count in calls.counts.items()
        for nth in range(1, count + 1)
        for number in NUMBERS.get(name, (errno.EIO,))
    ]


def fail(job: Job, call: Call) -> str | None:
    """Let one call of a job fail: what is wrong after it."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        directory = Path(name)
        job.prepare(directory)
        before = open_files()
        calls = Calls(call)
        done = False
        try:
            with calls():
                job.work(directory)
            done = True
        except TapestreamError:
            pass
        except BaseException as e:  # noqa: BLE001 - that is what is looked for
            return f"raises {e!r}"
        if left := left_over(before, OURS):
            return left
        if warned:
            return f"it was left to the garbage collector: {warned[0].message}"
        wrong = job.judge(directory, done)
        if wrong is None and not done:
            job.clean(directory)
            wrong = second_try(job, directory)
        return wrong


def sample(calls: list[Call], count: int | None, rng: random.Random) -> list[Call]:
    """Evenly spread; all when `count` is None."""
    if count is None or count >= len(calls):
        return calls
    step = len(calls) / count
    return [calls[int(i * step + rng.random() * step)] for i in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Let calls to the system fail, one in each copy.")
    parser.add_argument("--count", type=int, help="how many in each job; all when not given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--job", default="", help="only jobs whose name contains this")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    wrong = total = 0
    for name, job in {**local_jobs(), **tape_jobs()}.items():
        if options.job not in name:
            continue
        calls = sample(calls_of(job), options.count, rng)
        bad = [(call, problem) for call in calls if (problem := fail(job, call))]
        for call, problem in bad:
            print(f"{name}, {call}: {problem}")
        print(f"{name}: {len(calls)} errors, {len(bad)} wrong", flush=True)
        wrong, total = wrong + len(bad), total + len(calls)
    print(f"{total} errors, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
