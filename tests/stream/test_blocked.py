"""Copies that are blocked by a fifo or a pipe are freed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestream import Cancel, TarStreamSink, TarStreamSource, copy
from tapestream.errors import OperationCancelledError
from tapestream.testing.memory import MemorySink, MemorySource
from tests.stream.support import (
    LARGE,
    TAR,
    TIMEOUT,
    BoomError,
    backup,
    interrupt,
    meanwhile,
    restore,
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


@pytest.mark.parametrize("make", [TarStreamSink, TarStreamSource])
def test_a_fifo_without_its_other_end_is_cancelled(
    fifo: Path, make: type[TarStreamSink | TarStreamSource]
) -> None:
    cancel = Cancel()
    timer = threading.Timer(0.1, cancel.cancel, ["enough"])
    timer.start()
    with pytest.raises(OperationCancelledError) as caught:
        make(fifo, cancel=cancel)
    assert caught.value.reason == "enough"
    timer.join()


def test_a_fifo_whose_reader_comes_late(fifo: Path) -> None:
    found: list[bytes] = []
    reader = threading.Timer(0.2, lambda: found.append(fifo.read_bytes()))
    reader.start()
    backup(fifo)
    reader.join()
    assert restore(io.BytesIO(found[0])) == DISK


def test_a_fifo_whose_writer_comes_late(fifo: Path) -> None:
    writer = threading.Timer(0.2, lambda: fifo.write_bytes(TAR))
    writer.start()
    assert restore(fifo) == DISK
    writer.join()


@pytest.mark.parametrize("kind", ["a socket", "a pipe without /proc"])
def test_what_is_in_blocking_mode_is_freed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader stalls, and the source fails. A write of all that is left would never return."""
    if kind == "a socket":
        ours, theirs = (sock.detach() for sock in socket.socketpair())
    else:
        theirs, ours = os.pipe()
        opened = os.open

        def open_nothing_again(path: str, *args: Any, **options: Any) -> int:
            if str(path).startswith("/proc/self/fd"):
                raise FileNotFoundError(path)
            return opened(path, *args, **options)

        monkeypatch.setattr(os, "open", open_nothing_again)
    with open(ours, "wb", 0) as target, open(theirs, "rb"):

        def fail_when_full(start: int, length: int) -> None:
            if start + length == len(LARGE):
                wait_until_full(target.fileno())
                raise BoomError

        with TarStreamSink(target) as sink, pytest.raises(BoomError):
            copy(MemorySource(LARGE, before_read=fail_when_full), sink)
        assert os.get_blocking(target.fileno())
