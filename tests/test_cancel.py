"""Cancel: from threads, signal handlers, and inside its own methods."""

from __future__ import annotations

import logging
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType
from typing import Any

import pytest

import tapestream.cancel
from tapestream import Cancel, OperationCancelledError, TapestreamError


def test_nothing_is_cancelled_at_first() -> None:
    cancel = Cancel()
    assert not cancel.cancelled
    assert cancel.reason is None
    cancel.check()
    with cancel.calling(pytest.fail):
        pass
    cancel.cancel()  # after the block, the function is not called any more


def test_the_error_has_the_reason() -> None:
    cancel = Cancel()
    cancel.cancel("job 7 was deleted")
    assert cancel.cancelled
    assert cancel.reason == "job 7 was deleted"
    with pytest.raises(OperationCancelledError, match="was cancelled: job 7 was deleted") as caught:
        cancel.check()
    assert isinstance(caught.value, TapestreamError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, str(again)) == ("job 7 was deleted", str(caught.value))


def test_a_reason_is_not_needed() -> None:
    cancel = Cancel()
    cancel.cancel()
    assert (cancel.cancelled, cancel.reason) == (True, "")
    with pytest.raises(OperationCancelledError, match=r"^the operation was cancelled\. "):
        cancel.check()


def test_the_first_reason_stays() -> None:
    cancel = Cancel()
    cancel.cancel("first")
    cancel.cancel("second")
    assert cancel.reason == "first"


def test_many_threads_cancel_and_one_of_them_is_first() -> None:
    cancel, seen, called = Cancel(), SimpleQueue[str | None](), SimpleQueue[int]()
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        cancel.cancel(f"thread {number}")
        seen.put(cancel.reason)

    with cancel.calling(lambda: called.put(1)):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {seen.get() for _ in threads} == {cancel.reason}
    assert called.qsize() == 1


def test_what_blocks_is_ended_from_another_thread() -> None:
    cancel, ended = Cancel(), SimpleQueue[int]()
    canceller = threading.Timer(0.05, cancel.cancel, ["enough"])
    with cancel.calling(lambda: ended.put(threading.get_ident())):
        canceller.start()
        by = ended.get(timeout=30)
    canceller.join()
    assert by == canceller.ident


def test_a_block_that_begins_too_late_is_called_immediately() -> None:
    cancel, called = Cancel(), list[int]()
    cancel.cancel()
    with cancel.calling(lambda: called.append(threading.get_ident())):
        assert called == [threading.get_ident()]
    cancel.cancel()
    assert len(called) == 1


def test_all_operations_that_share_one_end() -> None:
    cancel, called = Cancel(), list[int]()
    with (
        cancel.calling(lambda: called.append(1)),
        cancel.calling(lambda: called.append(2)),
        cancel.calling(lambda: called.append(3)),
    ):
        cancel.cancel()
        assert sorted(called) == [1, 2, 3]


def test_a_function_that_raises_does_not_keep_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cancel, called = Cancel(), list[int]()

    def fail() -> None:
        raise ValueError("no such socket")

    with cancel.calling(lambda: called.append(1)), cancel.calling(fail):
        with cancel.calling(lambda: called.append(2)):
            cancel.cancel()
        assert sorted(called) == [1, 2]
    with cancel.calling(fail):  # and it does not replace what the block does
        pass
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 2
    assert "no such socket" in caplog.text


def test_a_block_that_raises_is_forgotten() -> None:
    cancel = Cancel()
    with pytest.raises(KeyError), cancel.calling(pytest.fail):
        raise KeyError
    cancel.cancel()


def test_a_function_may_use_the_cancel_itself() -> None:
    cancel, called = Cancel(), list[str | None]()

    def again() -> None:
        cancel.cancel("again")
        with cancel.calling(lambda: called.append(cancel.reason)):
            pass

    with cancel.calling(again):
        cancel.cancel("first")
    assert called == ["first"]


Trace = Callable[[FrameType, str, Any], Any]


def each_step(use: Callable[[Cancel], None]) -> Iterator[Cancel]:
    """Yield a Cancel that a signal handler cancelled before each bytecode of cancel.py, in turn."""
    step, done = 0, False
    while not done:
        cancel, left = Cancel(), step

        def trace(frame: FrameType, event: str, _: object, cancel: Cancel = cancel) -> Trace | None:
            nonlocal left
            if frame.f_code.co_filename != tapestream.cancel.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left == -1:
                    sys.settrace(None)
                    signal.raise_signal(signal.SIGUSR1)
            return trace

        before = signal.signal(signal.SIGUSR1, lambda *_, cancel=cancel: cancel.cancel("signal"))
        tracing = sys.gettrace()
        try:
            sys.settrace(trace)
            with suppress(OperationCancelledError):
                use(cancel)
        finally:
            sys.settrace(tracing)
            signal.signal(signal.SIGUSR1, before)
        done = left >= 0
        if not done:
            yield cancel
        step += 1
    assert step > 5


def test_a_signal_handler_cancels_at_each_step_of_calling() -> None:
    called = list[str]()

    def use(cancel: Cancel) -> None:
        called.clear()
        with cancel.calling(lambda: called.append("called")):
            seen = cancel.cancelled
        assert called in ([], ["called"])
        assert called or not seen

    for cancel in each_step(use):
        assert cancel.reason == "signal"


def test_a_signal_handler_cancels_at_each_step_of_cancel() -> None:
    called = list[str]()

    def use(cancel: Cancel) -> None:
        called.clear()
        with cancel.calling(lambda: called.append("a")), cancel.calling(lambda: called.append("b")):
            cancel.cancel("main")
            assert sorted(called) == ["a", "b"]

    reasons = {cancel.reason for cancel in each_step(use)}
    assert reasons == {"signal", "main"}


def test_a_signal_handler_cancels_at_each_step_of_check() -> None:
    def use(cancel: Cancel) -> None:
        cancel.check()
        assert not cancel.cancelled or cancel.reason is not None

    for cancel in each_step(use):
        assert cancel.reason == "signal"


def test_a_signal_handler_cancels_while_other_threads_do() -> None:
    """The main thread is interrupted in any method, again and again, and never waits for ever."""
    stop = threading.Event()
    current = [Cancel()]

    def work() -> None:
        while not stop.is_set():
            cancel = current[0]
            with cancel.calling(lambda: None):
                cancel.cancel("worker")

    worker = threading.Thread(target=work)
    before = signal.signal(signal.SIGALRM, lambda *_: current[0].cancel("signal"))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    worker.start()
    try:
        for _ in range(2000):
            current[0] = cancel = Cancel()
            with cancel.calling(lambda: None):
                cancel.cancel("main")
            assert cancel.reason in ("worker", "signal", "main")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stop.set()
        worker.join(30)
    assert not worker.is_alive()
