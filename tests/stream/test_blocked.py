"""Copies that are blocked by a fifo or a pipe are freed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapestream import TarStreamSink, TarStreamSource, copy
from tapestream.testing.memory import MemorySink, MemorySource
from tests.stream.support import (
    LARGE,
    TIMEOUT,
    BoomError,
    backup,
    interrupt,
    meanwhile,
    wait_until_full,
)
from tests.tar.tars import DISK


@contextlib.contextmanager
def open_fifo(path: Path) -> Iterator[int]:
    """Keep a fifo open, so that neither end waits for the other, and nobody sees its end."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("buffering", [None, 0, -1])
def test_a_failing_source_frees_a_writer_that_nobody_reads(
    fifo: Path, buffering: int | None
) -> None:
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(open_fifo(fifo))
        target = fifo if buffering is None else stack.enter_context(open(fifo, "wb", buffering))

        def fail_when_full(start: int, length: int) -> None:
            if start + length == len(LARGE):
                wait_until_full(fd)
                raise BoomError

        with TarStreamSink(target) as sink, pytest.raises(BoomError):
            copy(MemorySource(LARGE, before_read=fail_when_full), sink)


def test_ctrl_c_frees_a_writer_that_nobody_reads(fifo: Path) -> None:
    with open_fifo(fifo) as fd:

        def interrupt_when_full() -> None:
            wait_until_full(fd)
            interrupt()

        with (
            TarStreamSink(fifo) as sink,
            meanwhile(interrupt_when_full),
            pytest.raises(KeyboardInterrupt),
        ):
            copy(MemorySource(LARGE), sink)


def when_writer_starts(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Do something in the thread that starts the writer, before its start() returns."""
    start = threading.Thread.start

    def start_and_more(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("tapestream-writer"):
            then()

    monkeypatch.setattr(threading.Thread, "start", start_and_more)


@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
def test_a_reader_to_which_nobody_writes_is_freed(
    fifo: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer fails, or the user gives up, while the reader waits for the rest of the tar."""
    tar = io.BytesIO()
    backup(tar)
    start_of_tar = tar.getvalue()[: tar.getvalue().index(DISK) + 5000]
    all_started = threading.Event()
    when_writer_starts(monkeypatch, all_started.set)

    def end(start: int, length: int) -> None:
        assert all_started.wait(TIMEOUT)
        if error is BoomError:
            raise BoomError
        interrupt()

    sink = MemorySink(before_write=end)
    with open_fifo(fifo) as fd:
        assert os.write(fd, start_of_tar) == len(start_of_tar)
        with TarStreamSource(fifo) as source, pytest.raises(error):
            copy(source, sink, buffer_size=4096)
    assert sink.state == "aborted"
    assert len(sink.writes + sink.zeros) <= 1


def test_ctrl_c_while_the_threads_start(monkeypatch: pytest.MonkeyPatch) -> None:
    writing = threading.Event()
    closed_too_early: list[bool] = []

    def ctrl_c() -> None:
        assert writing.wait(TIMEOUT)
        raise KeyboardInterrupt

    def write_until_cancelled(start: int, length: int) -> None:
        writing.set()
        pause = threading.Event()
        while not sink.writers[0].cancelled:
            pause.wait(0.01)
        closed_too_early.append(pause.wait(0.1) or sink.writers[0].closed)

    sink = MemorySink(before_write=write_until_cancelled)
    when_writer_starts(monkeypatch, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        copy(MemorySource(DISK), sink)
    left = [t for t in threading.enumerate() if t.name.startswith("tapestream")]
    for thread in left:
        thread.join(TIMEOUT)
    assert not left
    assert closed_too_early == [False]


def test_ctrl_c_frees_a_source_to_which_nobody_writes_at_all(fifo: Path) -> None:
    def on_alarm(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    def read_in_vain() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        TarStreamSource(fifo)

    previous = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with open_fifo(fifo), pytest.raises(KeyboardInterrupt):
            read_in_vain()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
