"""A `Cancel` at random moments of each kind of copy, in each of its threads, and what is left.

A tracer cancels before a line of tapestream is executed, in whichever thread that is: in the
constructors, while extents are read, while data moves, in the commit, the abort and where things
are closed. What is judged is the same as for a Ctrl-C; see interrupts.py. Besides, a job that was
cancelled before its commit began must not succeed, and each must end soon.

`make interrupts` runs as many as asked for; the tests, a few of each kind.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tapestream import Cancel, OperationCancelledError, copy
from tapestream.engine import copy as engine
from tapestream.testing import MemorySink

from .interrupts import (
    CANCEL,
    OURS,
    Job,
    Outcome,
    Place,
    Tracer,
    all_jobs,
    full_source,
    options,
    second_try,
)
from .leftovers import left_over, open_files

COMMITTING = next(
    number
    for number, line in enumerate(Path(str(engine.__file__)).read_text().splitlines(), 1)
    if 'done(dst, "commit")' in line
)


class AnyThread(Tracer):
    """Does the same in every thread that begins meanwhile.

    Attributes:
        too_late: The last commit had begun, or was about to, when it was done.
        at: When it was done.
    """

    too_late = False
    at = 0.0
    _commits = False

    def __enter__(self) -> Tracer:
        threading.settrace(self._on_call)
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        threading.settrace(None)
        super().__exit__()

    def _on_line(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if event == "line" and code.co_filename == engine.__file__:
            self._commits |= frame.f_lineno == COMMITTING
        hit = self.hit
        traced = super()._on_line(frame, event, arg)
        if self.hit and not hit:
            self.at = time.monotonic()
            # `check` has looked at the Cancel, and the commit comes next.
            self.too_late = self._commits or code.co_name in ("check", "check_cancel")
        return traced


def in_memory(directory: Path) -> None:
    sink = MemorySink()
    with full_source() as source, sink:
        try:
            copy(source, sink, **options())
        finally:
            (directory / sink.state).touch()


def judge_memory(directory: Path, done: bool) -> str | None:
    found = {path.name for path in directory.iterdir()}
    allowed = [{"committed"}] if done else [set(), {"aborted"}]
    return None if found in allowed else f"the sink is {found}"


def forget(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


IN_MEMORY = Job(in_memory, judge_memory, clean=forget)


@dataclass(frozen=True)
class TimedOutcome(Outcome):
    """What came of one cancel.

    Attributes:
        seconds: How long the job went on.
    """

    seconds: float


def places_of(job: Job) -> Counter[tuple[str, int]]:
    """The lines that a job executes in all its threads, and how often."""
    for _ in range(2):  # what is made only once does not count
        with tempfile.TemporaryDirectory() as name:
            job.prepare(Path(name))
            with AnyThread() as tracer:
                job.work(Path(name))
    return tracer.counts


def sample(job: Job, count: int, rng: random.Random) -> list[Place]:
    """Where to cancel a job: one half any line, the other half any moment."""
    counts = places_of(job)
    lines = [Place(*rng.choice(list(counts))) for _ in range(count // 2)]
    moments = rng.choices(list(counts), list(counts.values()), k=count - len(lines))
    return lines + [Place(*key, rng.randint(1, counts[key])) for key in moments]


def cancel(job: Job, place: Place) -> TimedOutcome:
    """Cancel a job at one moment, and judge what is left."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        directory = Path(name)
        job.prepare(directory)
        before = open_files()
        given = Cancel()
        tracer = AnyThread(place, lambda: given.cancel(str(place)))
        token = CANCEL.set(given)
        try:
            wrong, done = _run(job, directory, tracer)
        finally:
            CANCEL.reset(token)
        seconds = time.monotonic() - tracer.at if tracer.hit else 0.0
        left = left_over(before, OURS)
        wrong = wrong or left or job.judge(directory, done)
        if wrong is None and tracer.hit:
            job.clean(directory)
            wrong = second_try(job, directory)
    return TimedOutcome(place, tracer.hit, wrong, seconds)


def _run(job: Job, directory: Path, tracer: AnyThread) -> tuple[str | None, bool]:
    try:
        with tracer:
            job.work(directory)
    except OperationCancelledError as e:
        wrong = None if tracer.hit and e.reason == str(tracer.target) else f"the reason is {e}"
        return wrong, False
    except BaseException as e:  # noqa: BLE001 - that is what is looked for
        return f"raises {e!r}", False
    ignored = tracer.hit and not tracer.too_late
    return "ignores the cancel" if ignored else None, True


def main() -> int:
    parser = argparse.ArgumentParser(description="Cancel copies at random moments.")
    parser.add_argument("--count", type=int, default=5000, help="how many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--job", help="only jobs whose name contains this")
    parsed = parser.parse_args()
    rng = random.Random(parsed.seed)
    wrong = total = 0
    with tempfile.TemporaryDirectory() as name, all_jobs(Path(name)) as jobs:
        chosen = {
            name: job
            for name, job in {"in memory": IN_MEMORY, **jobs}.items()
            if not parsed.job or parsed.job in name
        }
        for job_name, job in chosen.items():
            each = -(-parsed.count // len(chosen))
            outcomes = [cancel(job, place) for place in sample(job, each, rng)]
            bad = [outcome for outcome in outcomes if outcome.wrong]
            for outcome in bad:
                print(f"{job_name}, {outcome.place}: {outcome.wrong}")
            hit = sum(outcome.hit for outcome in outcomes)
            took = max(outcome.seconds for outcome in outcomes)
            print(
                f"{job_name}: {len(outcomes)} cancels, {hit} hit, {len(bad)} wrong, "
                f"ended within {took:.2f} s",
                flush=True,
            )
            wrong, total = wrong + len(bad), total + len(outcomes)
    print(f"{total} cancels, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
