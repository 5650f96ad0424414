"""Threads that take turns in the middle of a line, which shows what is not thread-safe."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

# Probability that another thread gets its turn. It is random, so threads do not run in step.
CHANCE = 0.25
# Seconds. Even the shortest sleep lets another thread run.
PAUSE = 1e-6
# The most pauses of one thread: a client of a server has thousands of steps in each call.
PAUSES = 2000
# Seconds. If a commit does not wait for a thread, the disk is checked before this time is over.
LATE = 0.3


def beside_each_other(work: Sequence[Sequence[Callable[[], object]]]) -> None:
    """Make these calls, each list in its own thread, and raise the first error."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(work))

    def run(number: int, calls: Sequence[Callable[[], object]]) -> None:
        start.wait()
        sys.settrace(_Turns(number))  # of this thread only
        try:
            for call in calls:
                call()
        except BaseException as e:  # noqa: BLE001 - raised again below
            errors.append(e)
        finally:
            sys.settrace(None)

    threads = [
        threading.Thread(target=run, args=each, name="contract-worker", daemon=True)
        for each in enumerate(work)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@contextmanager
def slow_threads() -> Iterator[threading.Event]:
    """Let threads that start in this block pause once, as soon as the event is set.

    If something should wait for such a thread, but does not, it then comes too early.
    """
    event = threading.Event()
    before = threading.gettrace()
    threading.settrace(_Late(event))
    try:
        yield event
    finally:
        threading.settrace(before)


class _Late:
    """A trace function that ends with a pause."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, _frame: FrameType, _event: str, _arg: object) -> _Late | None:
        if not self._event.is_set():
            return self
        sys.settrace(None)
        time.sleep(LATE)
        return None


class _Turns:
    """A trace function: Python calls it before each step of its thread."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._left = PAUSES

    def __call__(self, frame: FrameType, _event: str, _arg: object) -> _Turns | None:
        if not self._left:
            return None
        frame.f_trace_opcodes = True
        if self._random.random() < CHANCE:
            self._left -= 1
            time.sleep(PAUSE)
        return self
