"""Chains, verify and compare end soon when they are cancelled, whatever a source of them does."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from typing_extensions import override

from tapestream import (
    Cancel,
    Extent,
    OperationCancelledError,
    Reader,
    Sink,
    Source,
    TarStreamSource,
    compare,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.backend import ForwardingReader, ForwardingSource
from tapestream.backend.abilities import ChecksEnd, ability
from tapestream.backend.checks import finish, rewind
from tapestream.errors import LocalIOError
from tapestream.testing.memory import MemorySink
from tests.chains import WEEK
from tests.leftovers import threads

from .restoring import SMALL

LONG = 60.0


class Stuck(ForwardingSource):
    """A tar of which one call hangs until it is cancelled.

    Args:
        tar: The tar.
        at: The call; None for none.
    """

    def __init__(self, tar: bytes, at: str | None = None) -> None:
        super().__init__(TarStreamSource(io.BytesIO(tar)))
        self.at = at
        self.reached = threading.Event()
        self.cancelled = threading.Event()

    def pass_through(self, call: str) -> None:
        if call == self.at:
            self.reached.set()
            assert self.cancelled.wait(LONG)
            raise LocalIOError(f"{call} was cut")

    @override
    def extents(self) -> Iterable[Extent]:
        self.pass_through("extents")
        return super().extents()

    def check_complete(self) -> None:
        self.pass_through("check_complete")
        checks = ability(self.wrapped, ChecksEnd)
        assert checks is not None
        checks.check_complete()

    @override
    def open_reader(self) -> Reader:
        self.pass_through("open_reader")
        return StuckReader(super().open_reader(), self)

    def finish(self) -> str | None:
        self.pass_through("finish")
        return finish(self.wrapped)

    def rewind(self) -> None:
        self.pass_through("rewind")
        rewind(self.wrapped)

    def cancel(self) -> None:
        self.cancelled.set()


class StuckReader(ForwardingReader):
    def __init__(self, wrapped: Reader, source: Stuck) -> None:
        super().__init__(wrapped)
        self.source = source

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        self.source.pass_through("readinto")
        super().readinto(start, buffer)

    def cancel(self) -> None:
        self.source.cancel()


def restored(sources: list[Source], sink: Sink, cancel: Cancel) -> object:
    return restore_chain(sources, sink, cancel=cancel, **SMALL)


def verified_and_restored(sources: list[Source], sink: Sink, cancel: Cancel) -> object:
    return restore_chain(sources, sink, verify_first=True, cancel=cancel, **SMALL)


def merged(sources: list[Source], sink: Sink, cancel: Cancel) -> object:
    return copy(merge_chain(sources, cancel=cancel), sink, cancel=cancel, **SMALL)


def verified(sources: list[Source], sink: Sink, cancel: Cancel) -> object:
    return verify(sources[1], cancel=cancel, **SMALL)


def compared(sources: list[Source], sink: Sink, cancel: Cancel) -> object:
    other = TarStreamSource(io.BytesIO(WEEK[1].tar()))
    return compare(sources[1], other, cancel=cancel, **SMALL)


def compared_with_it(sources: list[Source], sink: Sink, cancel: Cancel) -> object:
    other = TarStreamSource(io.BytesIO(WEEK[1].tar()))
    return compare(other, sources[1], cancel=cancel, **SMALL)


Work = Callable[[list[Source], Sink, Cancel], object]
READING = ["extents", "open_reader", "readinto", "finish"]


@pytest.mark.parametrize(
    ("work", "at"),
    [
        *((work, at) for work in (restored, merged) for at in [*READING, "check_complete"]),
        *((verified_and_restored, at) for at in [*READING, "check_complete", "rewind"]),
        *((work, at) for work in (verified, compared, compared_with_it) for at in READING),
    ],
)
def test_a_source_that_hangs_is_cancelled(work: Work, at: str) -> None:
    before = threading.enumerate()
    cancel, sink = Cancel(), MemorySink()
    sources = [Stuck(day.tar(), at if day is WEEK[1] else None) for day in WEEK]
    with ThreadPoolExecutor() as pool:
        future = pool.submit(work, [*sources], sink, cancel)
        assert sources[1].reached.wait(LONG), future.exception(0)
        cancel.cancel("the disk was deleted")
        with pytest.raises(OperationCancelledError, match="the disk was deleted"):
            future.result(LONG)
    assert sink.state in ("aborted", "new")
    assert threads("tapestream", before) == []


@pytest.mark.parametrize("work", [restored, merged])
def test_the_other_backups_are_not_asked_for_their_extents(work: Work) -> None:
    """Even if no source can be cancelled: there may be many, and each can take its time."""
    cancel = Cancel()
    asked = list[int]()

    class Slow(Stuck):
        @override
        def extents(self) -> Iterable[Extent]:
            asked.append(1)
            cancel.cancel("after the first")
            return super().extents()

    with pytest.raises(OperationCancelledError, match="after the first"):
        work([Slow(day.tar()) for day in WEEK], MemorySink(), cancel)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "work", [restored, verified_and_restored, merged, verified, compared, compared_with_it]
)
def test_cancelled_before_it_begins(work: Work) -> None:
    """No source is asked for anything."""
    cancel, sink = Cancel(), MemorySink()
    cancel.cancel("too late")

    class Untouchable(Stuck):
        @override
        def pass_through(self, call: str) -> None:
            pytest.fail(f"{call} was called")

    with pytest.raises(OperationCancelledError, match="too late"):
        work([Untouchable(day.tar()) for day in WEEK], sink, cancel)
    assert sink.state in ("aborted", "new")


def test_cancelled_before_the_sources_are_opened() -> None:
    cancel = Cancel()
    cancel.cancel("too late")

    def opening() -> Iterator[Source]:
        pytest.fail("a source was opened")
        yield

    with pytest.raises(OperationCancelledError):
        restore_chain(opening(), MemorySink(), cancel=cancel)
    with pytest.raises(OperationCancelledError):
        merge_chain(opening(), cancel=cancel)


@pytest.mark.parametrize(
    "work", [restored, verified_and_restored, merged, verified, compared, compared_with_it]
)
def test_a_cancel_that_is_not_used_changes_nothing(work: Work) -> None:
    before = threading.enumerate()
    sources: list[Source] = [Stuck(day.tar()) for day in WEEK]
    assert work(sources, MemorySink(), Cancel())
    assert threads("tapestream", before) == []
