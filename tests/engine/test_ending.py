"""A copy that is cancelled ends soon, whatever it waits for, and says why."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from tapestream import (
    BackupInfo,
    Cancel,
    CopyResult,
    CopyStatus,
    DiscardSink,
    Extent,
    Extents,
    OperationCancelledError,
    RawImageSink,
    Reader,
    TarStreamSink,
    TarStreamSource,
    Writer,
    copy,
)
from tapestream.errors import LocalIOError, NotDurableError, ServerError
from tapestream.testing import MemorySink, MemorySource
from tapestream.testing.memory import MemoryReader, MemoryWriter
from tests.leftovers import threads

from .kept import copy_kept_alive

LONG = 60.0
KIB = 1024
DISK = bytes(range(256)) * 4 * 256
EXTENTS = [
    Extent(0, 128 * KIB),
    Extent(128 * KIB, 64 * KIB, zero=True),
    Extent(192 * KIB, 64 * KIB),
]
SMALL: dict[str, Any] = {"buffer_size": 16 * KIB, "buffer_memory": 64 * KIB}


class Gate:
    """Makes one kind of call block until it is cancelled, as a server that hangs does.

    Args:
        at: The kind of call.
        forgets: A call that begins after `cancel` blocks all the same, until the next `cancel`.
    """

    def __init__(self, at: str, *, forgets: bool = False) -> None:
        self.at = at
        self.reached = threading.Event()
        self.cancelled = threading.Event()
        self.cancelled_by: list[str] = []
        self.aborts = 0
        self._forgets = forgets

    def pass_through(self, call: str) -> None:
        if call != self.at:
            return
        self.reached.set()
        if self._forgets:
            while not self.cancelled_by:
                time.sleep(0.005)
            self.cancelled.clear()
        assert self.cancelled.wait(LONG)
        raise LocalIOError(f"{call} was cut")

    def cancel(self, *calls: str) -> None:
        """End the call that blocks, if it is one of these."""
        if self.at in calls:
            self.cancelled_by.append(threading.current_thread().name)
            self.cancelled.set()


class Source(MemorySource):
    def __init__(self, gate: Gate) -> None:
        super().__init__(DISK, EXTENTS)
        self.gate = gate

    @override
    def extents(self) -> Iterable[Extent]:
        self.gate.pass_through("extents")
        return super().extents()

    @override
    def open_reader(self) -> Reader:
        self.gate.pass_through("open_reader")
        super().open_reader()
        self.readers[-1] = GatedReader(self)
        return self.readers[-1]

    @override
    def finish(self) -> None:
        self.gate.pass_through("finish")

    def cancel(self) -> None:
        self.gate.cancel("extents", "open_reader", "finish", "keep_alive")


class GatedReader(MemoryReader):
    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.gate = source.gate

    @override
    def prefetch(self, start: int, length: int) -> None:
        self.gate.pass_through("prefetch")
        super().prefetch(start, length)

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        if start:
            self.gate.pass_through("readinto")
        super().readinto(start, buffer)

    @override
    def cancel(self) -> None:
        super().cancel()
        self.gate.cancel("prefetch", "readinto")


class Sink(MemorySink):
    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @override
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.gate.pass_through("begin")

    @override
    def open_writer(self) -> Writer:
        self.gate.pass_through("open_writer")
        super().open_writer()
        self.writers[-1] = GatedWriter(self)
        return self.writers[-1]

    def lost(self) -> list[tuple[int, int]]:
        self.gate.pass_through("lost")
        return []

    @override
    def commit(self) -> None:
        self.gate.pass_through("commit")
        super().commit()

    @override
    def abort(self) -> None:
        if self.state != "committed":
            self.gate.aborts += 1
        super().abort()

    def cancel(self) -> None:
        self.gate.cancel("begin", "open_writer", "lost", "commit", "abort")


class GatedWriter(MemoryWriter):
    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.gate = sink.gate

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        self.gate.pass_through("write")
        super().write(start, buffer)

    @override
    def zero(self, start: int, length: int) -> None:
        self.gate.pass_through("zero")
        super().zero(start, length)

    @override
    def flush(self) -> None:
        self.gate.pass_through("flush")
        super().flush()

    @override
    def cancel(self) -> None:
        super().cancel()
        self.gate.cancel("write", "zero", "flush")


@contextmanager
def running(work: Callable[[], object]) -> Any:
    with ThreadPoolExecutor(thread_name_prefix="copier") as pool:
        yield pool.submit(work)


CALLS = [
    *("extents", "begin", "open_reader", "open_writer", "prefetch", "readinto"),
    *("write", "zero", "flush", "finish", "lost", "commit"),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_blocks_is_ended(call: str) -> None:
    before = threading.enumerate()
    cancel, gate = Cancel(), Gate(call)
    source, sink = Source(gate), Sink(gate)
    with running(lambda: copy(source, sink, cancel=cancel, **SMALL)) as future:
        assert gate.reached.wait(LONG)
        began = time.monotonic()
        cancel.cancel("job 7 was deleted")
        error = future.exception(LONG)
        assert time.monotonic() - began < 5
    assert isinstance(error, OperationCancelledError)
    assert error.reason == "job 7 was deleted"
    assert sink.state == "aborted"
    assert gate.aborts == 1
    assert threads("tapestream", before) == []
    # Never by the thread that cancels: it could be a signal handler in the midst of such a call.
    assert "MainThread" not in gate.cancelled_by


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_begins_to_block_after_the_cancel(call: str) -> None:
    """A backend may remember no cancel: then it is cancelled once more."""
    cancel, gate = Cancel(), Gate(call, forgets=True)
    sink = Sink(gate)
    with running(lambda: copy(Source(gate), sink, cancel=cancel, **SMALL)) as future:
        assert gate.reached.wait(LONG)
        cancel.cancel("twice")
        with pytest.raises(OperationCancelledError, match="twice"):
            future.result(LONG)
    assert sink.state == "aborted"


def test_what_the_cancel_caused_is_the_context() -> None:
    cancel, gate = Cancel(), Gate("extents")
    with running(lambda: copy(Source(gate), Sink(gate), cancel=cancel)) as future:
        assert gate.reached.wait(LONG)
        cancel.cancel()
        error = future.exception(LONG)
    assert isinstance(error.__context__, LocalIOError)
    assert "extents was cut" in str(error.__context__)


@pytest.mark.parametrize("old", [None, b"old" * 4096])
@pytest.mark.parametrize("kind", [TarStreamSink, RawImageSink])
def test_cancelled_before_it_begins(kind: Any, old: bytes | None, tmp_path: Path) -> None:
    """The copy does nothing: nobody is asked for anything, and the target stays as it is."""

    class Untouchable(MemorySource):
        @override
        def extents(self) -> Iterable[Extent]:
            pytest.fail("asked for extents")

        def keep_alive(self) -> None:
            pytest.fail("kept alive")

    target = tmp_path / "target"
    if old is not None:
        target.write_bytes(old)
    cancel = Cancel()
    cancel.cancel("too late")
    with kind(target) as sink, pytest.raises(OperationCancelledError, match="too late"):
        copy_kept_alive(Untouchable(DISK), sink, interval=0.0, cancel=cancel)
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["target"])
    assert old is None or target.read_bytes() == old


def test_cancelled_after_the_end() -> None:
    before = threading.enumerate()
    cancel, sink = Cancel(), MemorySink()
    result = copy(MemorySource(DISK, EXTENTS), sink, cancel=cancel)
    assert threads("tapestream", before) == []
    cancel.cancel("too late")
    assert sink.state == "committed"
    assert isinstance(result, CopyResult)
    with pytest.raises(OperationCancelledError):
        copy(MemorySource(DISK), MemorySink(), cancel=cancel)


def test_cancelled_after_the_last_byte() -> None:
    """A cancel that returned before the commit began always aborts the sink."""
    cancel, sink = Cancel(), MemorySink()

    class Last:
        left = len(DISK) - 64 * KIB

        def update(self, n: int) -> None:
            self.left -= n
            if not self.left:
                cancel.cancel("at the end")

    with pytest.raises(OperationCancelledError, match="at the end"):
        copy(MemorySource(DISK, EXTENTS), sink, cancel=cancel, progress=Last(), **SMALL)
    assert sink.state == "aborted"


def test_cancelled_when_the_commit_is_announced() -> None:
    """A progress bar with a button: its last report comes before the commit begins."""
    cancel, sink = Cancel(), MemorySink()

    class Button:
        def report_status(self, status: CopyStatus) -> None:
            if status.phase == "commit":
                cancel.cancel("pressed")

    with pytest.raises(OperationCancelledError, match="pressed"):
        copy(MemorySource(DISK), sink, progress=Button(), cancel=cancel)
    assert sink.state == "aborted"


def test_cancelled_in_finish() -> None:
    """The same: what ran just before the commit cancels."""
    cancel, sink = Cancel(), MemorySink()

    class Cancelling(MemorySource):
        @override
        def finish(self) -> None:
            cancel.cancel("while it was checked")

    with pytest.raises(OperationCancelledError, match="while it was checked"):
        copy(Cancelling(DISK), sink, cancel=cancel)
    assert sink.state == "aborted"


def test_a_commit_that_has_begun_may_succeed(tmp_path: Path) -> None:
    """A sink that is committed all the same is never reported as cancelled."""
    cancel = Cancel()

    class Committing(TarStreamSink):
        @override
        def commit(self) -> None:
            cancel.cancel("too late")
            time.sleep(0.1)  # the cancel reaches the sink
            super().commit()

    with Committing(tmp_path / "a.tar") as sink:
        assert copy(MemorySource(DISK), sink, cancel=cancel).data_bytes == len(DISK)
    with TarStreamSource(tmp_path / "a.tar") as source:
        copy(source, DiscardSink())


def test_a_file_that_has_its_name_is_not_reported_as_cancelled() -> None:
    cancel = Cancel()

    class Committing(DiscardSink):
        @override
        def commit(self) -> None:
            cancel.cancel("too late")
            raise NotDurableError("a.tar is complete, but its directory is not", OSError(5, "EIO"))

    with pytest.raises(NotDurableError, match=r"a\.tar is complete"):
        copy(MemorySource(DISK), Committing(), cancel=cancel)


def test_an_abort_is_not_cancelled() -> None:
    """The first error stays, and the sink is aborted in peace."""
    cancel, gate = Cancel(), Gate("abort")
    aborting = threading.Event()

    class Failing(Sink):
        @override
        def commit(self) -> None:
            raise ServerError("no space")

        @override
        def abort(self) -> None:
            super().abort()
            cancel.cancel("too late")
            aborting.set()
            time.sleep(0.5)

    with pytest.raises(ServerError, match="no space"):
        copy(Source(gate), Failing(gate), cancel=cancel)
    assert aborting.is_set()
    assert gate.cancelled_by == []


def test_an_interrupt_stays_an_interrupt() -> None:
    cancel, sink = Cancel(), MemorySink()

    class Interrupted(MemorySource):
        @override
        def extents(self) -> Iterable[Extent]:
            cancel.cancel("and a Ctrl-C")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(Interrupted(DISK), sink, cancel=cancel)
    assert sink.state == "aborted"


def test_a_signal_handler_cancels_its_own_thread() -> None:
    """The copy's thread is interrupted while it holds the lock that its source's `cancel` takes."""
    cancel, sink = Cancel(), MemorySink()

    class Locked(MemorySource):
        lock = threading.Lock()
        cancelled = False

        @override
        def extents(self) -> Iterable[Extent]:
            with self.lock:
                signal.raise_signal(signal.SIGUSR1)
            until = time.monotonic() + LONG
            while not self.cancelled and time.monotonic() < until:
                time.sleep(0.005)
            raise LocalIOError("cut")

        def cancel(self) -> None:
            with self.lock:
                self.cancelled = True

    source = Locked(DISK)
    before = signal.signal(signal.SIGUSR1, lambda *_: cancel.cancel("SIGUSR1"))
    try:
        with pytest.raises(OperationCancelledError, match="SIGUSR1"):
            copy(source, sink, cancel=cancel)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert source.cancelled
    assert sink.state == "aborted"


def test_several_copies_share_one() -> None:
    cancel = Cancel()
    gates = [Gate("readinto"), Gate("commit"), Gate("begin"), Gate("extents")]
    sinks = [Sink(gate) for gate in gates]
    with ThreadPoolExecutor() as pool:
        futures = [
            pool.submit(copy, Source(gate), sink, cancel=cancel, **SMALL)
            for gate, sink in zip(gates, sinks, strict=True)
        ]
        for gate in gates:
            assert gate.reached.wait(LONG)
        cancel.cancel("all of them")
        for future in futures:
            with pytest.raises(OperationCancelledError, match="all of them"):
                future.result(LONG)
    assert [sink.state for sink in sinks] == ["aborted"] * 4


def test_a_call_that_keeps_alive_is_ended() -> None:
    """No thread outlives a copy that was cancelled if its source can be cancelled."""
    cancel, gate = Cancel(), Gate("keep_alive")
    began = threading.Event()

    class Kept(Source):
        def keep_alive(self) -> None:
            began.set()
            gate.pass_through("keep_alive")

        @override
        def extents(self) -> Iterable[Extent]:
            assert began.wait(LONG)
            cancel.cancel("hangs")
            return super().extents()

    with pytest.raises(OperationCancelledError, match="hangs"):
        copy_kept_alive(Kept(gate), Sink(gate), interval=0.01, patience=LONG, cancel=cancel)
    assert "tapestream-cancel" in gate.cancelled_by
    assert not [t for t in threading.enumerate() if t.name.startswith("tapestream")]


def test_without_it_there_is_no_thread_more() -> None:
    """It costs nothing where it is not used."""
    seen: set[str] = set()

    class Looking(MemorySource):
        @override
        def extents(self) -> Iterable[Extent]:
            seen.update(t.name for t in threading.enumerate())
            return super().extents()

    copy(Looking(DISK), MemorySink())
    assert "tapestream-cancel" not in seen
    copy(Looking(DISK), MemorySink(), cancel=Cancel())
    assert "tapestream-cancel" in seen


def test_the_thread_that_stops_a_copy_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "tapestream-cancel":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sink = MemorySink()
    with pytest.raises(LocalIOError, match="cannot start the thread tapestream-cancel"):
        copy(MemorySource(DISK), sink, cancel=Cancel())
    assert sink.state == "aborted"
