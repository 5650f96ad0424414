"""The clauses about how a sink ends: commit, abort, close, and errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from unittest import SkipTest

from ...errors import TapestreamError
from .disks import Disk, empty, full, incremental, mixed, odd
from .target import Hand, SinkCase, Target, copied, do
from .turns import slow_threads

# How often something is repeated to see whether it leaks each time.
ROUNDS = 3


class SourceFailsError(Exception):
    """What the source of a check raises in the middle of a copy."""


def sink_untouched(case: SinkCase) -> None:
    """A sink that was closed or aborted before `begin` has changed nothing."""
    with case.target() as target:
        if case.is_marked:
            with target.sink():
                pass
            target.expect_no(mixed(case.size), "after a close without a begin")
        if case.existing == "none":
            return
        target.hold(old := full(case.size))
        for aborted in (True, False):
            with target.sink() as sink:
                if aborted:
                    sink.abort()
            target.expect(old)


def sink_refuses(case: SinkCase) -> None:
    """A sink that cannot take a disk raises in `begin`, and has written nothing."""
    disks = {
        "an odd size": odd(case.size),
        "no bytes": empty(),
        "an incremental backup": incremental(case.size),
        "twice the size": mixed(2 * case.size),
    }
    refused = 0
    for disk in disks.values():
        with case.target() as target:
            target.hold(old := full(case.size))
            try:
                with target.sink() as sink:
                    Hand(sink, disk).begin()
            except TapestreamError:
                refused += 1
                target.expect(old)
    if not refused:
        raise SkipTest(f"it refuses no disk: none with {', '.join(disks)}")


def sink_commit(case: SinkCase) -> None:
    """When `commit` returns, everything is there: not only after `close`, nor a moment later."""
    with case.target() as target, target.sink() as sink:
        disk = mixed(case.size)
        with disk.source() as source:
            copied(source, sink)
        target.expect(disk)
    with case.target() as target, slow_threads() as slow, target.sink() as sink:
        hand = Hand(sink, disk).begin()
        writer = hand.open()
        for step in hand.steps():
            do(writer, step)
        slow.set()
        hand.finish_writers().commit()
        target.expect(disk, when="after a commit, with the threads of the sink slowed down")


def sink_commit_last(case: SinkCase) -> None:
    """Before `commit`, nothing looks complete, even after every writer was closed.

    An old backup that `commit` would replace is still there: a power failure does not lose it.
    """
    needs_marks(case)
    with case.target() as target, target.sink() as sink:
        disk = mixed(case.size)
        hand = Hand(sink, disk).begin().write_all()
        target.expect_no(disk, "before the commit")
        hand.commit()
    if case.existing == "none":
        return
    old = full(case.size)
    for name, disk, stopped in stops(case):
        with case.target() as target:
            target.hold(old)
            with target.sink() as sink:
                stopped(Hand(sink, disk))
                target.expect_no(disk, f"{name}, without an abort", before=old)
                sink.abort()


def sink_close(case: SinkCase) -> None:
    """`close` without a `commit` is an abort: it leaves nothing that looks complete."""
    needs_marks(case)
    for name, disk, stopped in stops(case):
        with case.target() as target:
            with target.sink() as sink:
                stopped(Hand(sink, disk))
            target.expect_no(disk, f"after a close {name}")


def sink_abort(case: SinkCase) -> None:
    """After an abort at any time, nothing looks like a complete backup or a restored disk."""
    needs_marks(case)
    for name, disk, stopped in stops(case):
        with case.target() as target:
            with target.sink() as sink:
                stopped(Hand(sink, disk))
                sink.abort()
            target.expect_no(disk, f"after an abort {name}")
    with case.target() as target:
        disk = mixed(case.size)
        with suppress(SourceFailsError):
            target.copy(disk, failing_at(disk.listed[-2].start))
            raise AssertionError("a copy whose source fails has returned")
        target.expect_no(disk, "after a copy whose source failed")


def sink_abort_keeps(case: SinkCase) -> None:
    """What was complete before an aborted copy is complete after it.

    Only `commit` replaces an old backup.
    """
    if case.existing not in ("kept", "overwritten"):
        raise SkipTest(f"existing is {case.existing!r}")
    old = full(case.size)
    for name, disk, stopped in stops(case):
        with case.target() as target:
            target.hold(old)
            with target.sink() as sink:
                stopped(Hand(sink, disk))
                sink.abort()
            target.expect_no(disk, f"after an abort {name}", before=old)


def sink_after_abort(case: SinkCase) -> None:
    """After an abort, a new sink can write to the same target.

    Nothing that was written before the abort is left in it.
    """
    if case.existing == "none":
        raise SkipTest("existing is 'none': no sink gets the target of another one")
    for name, aborted, stopped in stops(case, full(case.size)):
        with case.target() as target:
            with target.sink() as sink:
                stopped(Hand(sink, aborted))
                sink.abort()
            target.copy(disk := mixed(case.size))
            target.expect(disk, when=f"after another copy was aborted {name}")


def sink_abort_after_commit(case: SinkCase) -> None:
    """After a `commit`, `abort` does nothing: what was committed stays."""
    with case.target() as target:
        with target.sink() as sink:
            disk = mixed(case.size)
            Hand(sink, disk).begin().write_all().commit()
            sink.abort()
        target.expect(disk)


def sink_again(case: SinkCase) -> None:
    """`abort` and `close` may be called more than once, and in either order."""
    disk = mixed(case.size)
    for committed in (True, False):
        with case.target() as target, target.sink() as sink:
            hand = Hand(sink, disk).begin().write_all()
            if committed:
                hand.commit()
            for end in (sink.abort, sink.abort, sink.close, sink.close, sink.abort):
                end()
            if committed:
                target.expect(disk)


def sink_releases(case: SinkCase) -> None:
    """`close` releases everything: no descriptor and no thread is left.

    This holds after a commit and after an abort.
    """
    for committed in (True, False):
        left = [_left_by(case, committed=committed) for _ in range(1 + ROUNDS)]
        # The first may have started what all of them share.
        descriptors, threads = (min(each) for each in zip(*left[1:], strict=True))
        how = "a commit" if committed else "an abort"
        assert descriptors <= 0, f"{descriptors} descriptors are left open after {how} and a close"
        assert threads <= 0, f"{threads} threads are left after {how} and a close"


def sink_errors(case: SinkCase) -> None:
    """Data that could not be stored is an error, never a success.

    Any call may raise it, including `flush`, `commit` and the `close` of a writer.
    """
    with case.target() as target:
        disk = mixed(case.size)
        error = _failure(case, target, disk)
        assert error is not None, "copy() returned although the sink could not store the disk"
        if case.is_marked:
            target.expect_no(disk, "after an error")


def sink_error_kind(case: SinkCase) -> None:
    """If the user can do something about an error, it is a `TapestreamError`.

    It says what happened.
    """
    with case.target() as target:
        error = _failure(case, target, mixed(case.size))
        if error is None:
            raise SkipTest("it raised no error: see sink-errors")
        kind = type(error).__name__
        assert isinstance(error, TapestreamError), f"copy() raised {kind}: {error}"
        assert str(error), f"the {kind} has an empty text"


def needs_marks(case: SinkCase) -> None:
    """Go on if the target shows whether it is complete.

    Raises:
        SkipTest: It does not.
    """
    if not case.is_marked:
        raise SkipTest("existing is 'unmarked': the target does not show whether it is complete")


def stops(
    case: SinkCase, disk: Disk | None = None
) -> Iterator[tuple[str, Disk, Callable[[Hand], object]]]:
    """The places at which a copy can end: what they are called, the disk, and the calls so far."""
    disk = disk or mixed(case.size)

    def half(hand: Hand) -> None:
        writer = hand.begin().open()
        steps = hand.steps()
        for step in steps[: len(steps) // 2]:
            do(writer, step)
        hand.close_writers()

    def all_but_the_flush(hand: Hand) -> None:
        writer = hand.begin().open()
        for step in hand.steps():
            do(writer, step)
        hand.close_writers()

    def opened(hand: Hand) -> None:
        hand.begin().open()
        hand.close_writers()

    yield "after begin()", disk, Hand.begin
    yield "before the first write", disk, opened
    yield "with half of the data written", disk, half
    yield "with all data written, but not flushed", disk, all_but_the_flush
    yield "just before the commit", disk, lambda hand: hand.begin().write_all()


def failing_at(offset: int) -> Callable[[int, int], None]:
    """A hook for a source that fails to read what begins at an offset or after it."""

    def before_read(start: int, length: int) -> None:
        if start + length > offset:
            raise SourceFailsError

    return before_read


def _failure(case: SinkCase, target: Target, disk: Disk) -> Exception | None:
    if case.failing is None:
        raise SkipTest("no failing= was given")
    try:
        with target.sink(case.failing) as sink, disk.source() as source:
            copied(source, sink)
    except Exception as e:  # noqa: BLE001 - what it is, is what the caller asks
        return e
    return None


def _left_by(case: SinkCase, *, committed: bool) -> tuple[int, int]:
    """How many more descriptors and threads there are after a copy than before."""
    with case.target() as target:
        before = _open_now()
        with target.sink() as sink:
            hand = Hand(sink, mixed(case.size)).begin()
            writer = hand.open()  # kept, so that Python does not release what the writer should
            for step in hand.steps():
                do(writer, step)
            hand.finish_writers()
            if committed:
                hand.commit()
        after = _open_now()
    return after[0] - before[0], after[1] - before[1]


def _open_now() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(threading.enumerate())


END = (
    sink_untouched,
    sink_refuses,
    sink_commit,
    sink_commit_last,
    sink_close,
    sink_abort,
    sink_abort_keeps,
    sink_after_abort,
    sink_abort_after_commit,
    sink_again,
    sink_releases,
    sink_errors,
    sink_error_kind,
)
