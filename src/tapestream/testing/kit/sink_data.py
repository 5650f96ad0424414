"""The clauses about what a sink stores: every byte, from any thread, in any order it allows."""

from __future__ import annotations

from contextlib import closing, suppress
from functools import partial
from typing import Any, cast
from unittest import SkipTest

from ...backend.checks import check_sink, sink_of
from ...backend.protocols import SinkLike, Writer
from .disks import (
    BLOCK,
    Disk,
    almost_blank,
    blank,
    empty,
    fragmented,
    full,
    incremental,
    mixed,
    named,
    odd,
)
from .frame import within
from .target import Hand, SinkCase, calls, do, flush
from .turns import beside_each_other

# More writers at the same time do not find more.
WRITERS = 8
# Bytes. With this, two writers write parts of the same block, whatever the size of a block.
ODD_PIECE = 2 * BLOCK + 1
# The methods of a sink that do not return None.
RETURN_SOMETHING = {"open_writer", "commit", "lost", "new_hash"}


def sink_names(case: SinkCase) -> None:
    """A sink has the seven names of a sink, and its writers have the three of a writer.

    Each number and each flag has the right type.
    """
    with case.target() as target, target.sink() as sink:
        check_sink(sink_of(sink))
        hand = Hand(sink, mixed(case.size)).begin()
        hand.open()
        hand.close_writers()


def sink_data(case: SinkCase) -> None:
    """After a copy, the target holds the disk: every byte of data, and zeros where it has zeros."""
    with case.target() as target:
        target.copy(disk := mixed(case.size))
        target.expect(disk)


def sink_fragments(case: SinkCase) -> None:
    """A disk may have any number of small extents.

    Short zeros between data read as zeros, even if the sink asks to get them as data.
    """
    with case.target() as target:
        target.copy(disk := fragmented(case.size))
        target.expect(disk)


def sink_odd(case: SinkCase) -> None:
    """Extents may begin and end at any byte, and a disk may have any size."""
    case.takes(disk := odd(case.size), "a disk with an odd size")
    with case.target() as target:
        target.copy(disk)
        target.expect(disk)


def sink_empty(case: SinkCase) -> None:
    """A disk may have no data, or no bytes at all; it is still committed."""
    with case.target() as target:
        target.copy(disk := blank(case.size))
        target.expect(disk)
    case.takes(disk := empty(), "a disk of no bytes")
    with case.target() as target:
        target.copy(disk)
        target.expect(disk)


def sink_info(case: SinkCase) -> None:
    """The info of a backup may have all of its fields, with any text, or none."""
    with case.target() as target:
        target.copy(disk := named(case.size))
        target.expect(disk)


def sink_incremental(case: SinkCase) -> None:
    """An incremental backup writes only what has changed.

    A target that is overwritten keeps the rest.
    """
    before = full(case.size) if case.existing in ("overwritten", "unmarked") else None
    case.takes(disk := incremental(case.size), "an incremental backup", before)
    with case.target() as target:
        if before is not None:
            target.hold(before)
        target.copy(disk)
        target.expect(disk, None if before is None else before.content)


def sink_zero(case: SinkCase) -> None:
    """A range that was zeroed reads as zeros, whatever the target held there before."""
    with case.target() as target:
        target.hold(full(case.size))
        target.copy(disk := mixed(case.size))
        target.expect(disk)
    with suppress(SkipTest):
        case.takes(disk := odd(case.size), "a disk with an odd size")
        with case.target() as target:
            target.hold(full(case.size))
            target.copy(disk)
            target.expect(disk)


def sink_resize(case: SinkCase) -> None:
    """A target may hold a larger or a smaller disk before. Nothing of that is left."""
    if not case.is_marked:
        raise SkipTest("existing is 'unmarked': a disk cannot change its size")
    small, large = mixed(case.size), full(2 * case.size)
    case.takes(large, "a disk of twice the size")
    for old, new in (large, small), (small, large):
        with case.target() as target:
            target.hold(old)
            target.copy(new)
            target.expect(new)


def sink_zero_then_data(case: SinkCase) -> None:
    """A sink that is not sequential may be asked to zero a range with data in it.

    The data is written afterwards.
    """
    with case.by_hand(mixed(case.size)) as hand:
        if hand.sink.sequential:
            raise SkipTest("it is sequential: it gets each range once")
        writer = hand.open()
        writer.zero(0, case.size)
        for step in hand.steps():
            if step.data is not None:
                do(writer, step)


def sink_order(case: SinkCase) -> None:
    """A sink that is not sequential takes data and zeros in any order."""
    with case.by_hand(mixed(case.size)) as hand:
        if hand.sink.sequential:
            raise SkipTest("it is sequential: it gets everything in ascending order")
        writer = hand.open()
        for step in reversed(hand.steps()):
            do(writer, step)


def sink_long_write(case: SinkCase) -> None:
    """`write` writes the whole buffer, and `zero` zeros the whole range, however long they are."""
    with case.by_hand(full(case.size), piece=case.size) as hand:
        [step] = hand.steps()
        do(hand.open(), step)
    if case.existing == "none":
        return  # nothing could be there that a long stretch of zeros must overwrite
    with case.target() as target:
        target.hold(full(case.size))
        target.copy(disk := almost_blank(case.size))
        target.expect(disk)


def sink_buffers(case: SinkCase) -> None:
    """When `write` returns, its buffer is used for other data: the writer must not need it then."""
    with case.by_hand(mixed(case.size)) as hand:
        writer = hand.open()
        memory = bytearray(hand.piece)
        for step in hand.steps():
            memory[: step.length] = step.data or b""
            do(writer, step, memoryview(memory)[: step.length])
            memory[:] = b"\xee" * hand.piece


def sink_buffer_unchanged(case: SinkCase) -> None:
    """`write` does not change its buffer: something else, such as a wrapper, may still read it."""
    with case.by_hand(mixed(case.size)) as hand:
        writer = hand.open()
        for step in hand.steps():
            buffer = memoryview(bytearray(step.data or b""))
            do(writer, step, buffer)
            assert buffer == (step.data or b""), f"write() at {step.start} changed its buffer"


def sink_returns(case: SinkCase) -> None:
    """All methods of a sink and of its writers return None, never a count.

    Only `open_writer` and `commit` return something.
    """
    with case.target() as target, closing(Silent(case.make(target.path))) as silent:
        hand = Hand(cast("SinkLike", silent), disk := mixed(case.size))
        silent.begin(disk.source().info, disk.extents)
        writer = cast("Writer", Silent(hand.open()))
        for step in hand.steps():
            do(writer, step)
        flush(writer)
        writer.close()
        silent.abort()


class Silent:
    """Passes all calls on, and makes sure that they return None if they should."""

    def __init__(self, backend: object) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)
        if not callable(method) or name in RETURN_SOMETHING:
            return method

        def call(*args: object) -> None:
            returned = method(*args)
            assert returned is None, f"{name}() returned {returned!r}, not None"

        return call


def sink_max_writers(case: SinkCase) -> None:
    """Up to `max_writers` writers may be open at the same time; some may get nothing to write."""
    with case.by_hand(mixed(case.size)) as hand:
        most = 1 if hand.sink.sequential else hand.sink.max_writers
        first, *_ = [hand.open() for _ in range(min(most, WRITERS))]
        for step in hand.steps():
            do(first, step)


def sink_writers(case: SinkCase) -> None:
    """Several writers may write at the same time, each in its own thread."""
    _write_beside_each_other(case, mixed(case.size), BLOCK)
    with suppress(SkipTest):
        case.takes(disk := odd(case.size), "a disk with an odd size")
        _write_beside_each_other(case, disk, ODD_PIECE)


def _write_beside_each_other(case: SinkCase, disk: Disk, piece: int) -> None:
    with case.by_hand(disk, piece) as hand:
        sink = hand.sink
        count = 1 if sink.sequential else min(sink.max_writers, WRITERS)
        if count < 2:
            raise SkipTest("it has only one writer at a time")
        writers = [hand.open() for _ in range(count)]
        steps = hand.steps()
        beside_each_other(
            [
                [call for step in steps[i::count] for call in calls(writer, step)]
                for i, writer in enumerate(writers)
            ]
        )


def sink_threads(case: SinkCase) -> None:
    """A writer is used by one thread at a time, but not always by the same one.

    Any thread may close it.
    """
    with case.by_hand(mixed(case.size)) as hand:
        writer = hand.open()
        for i, step in enumerate(hand.steps()):
            if i % 2:
                do(writer, step)
            else:
                within(case.limit, partial(do, writer, step))
        within(case.limit, partial(flush, writer))
        within(case.limit, writer.close)
        hand.writers.clear()


def sink_independent(case: SinkCase) -> None:
    """Two sinks with different targets share nothing: both may be used at the same time."""
    with case.by_hand(mixed(case.size, 11)) as one, case.by_hand(mixed(case.size, 12)) as other:
        writers = one.open(), other.open()
        for steps in zip(one.steps(), other.steps(), strict=True):
            for writer, step in zip(writers, steps, strict=True):
                do(writer, step)


DATA = (
    sink_names,
    sink_data,
    sink_fragments,
    sink_odd,
    sink_empty,
    sink_info,
    sink_incremental,
    sink_zero,
    sink_resize,
    sink_zero_then_data,
    sink_order,
    sink_long_write,
    sink_buffers,
    sink_buffer_unchanged,
    sink_returns,
    sink_max_writers,
    sink_writers,
    sink_threads,
    sink_independent,
)
