"""The clauses about the abilities of a sink and of its writers."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from unittest import SkipTest

from ...backend.abilities import (
    Cancels,
    CoalescesZeros,
    Digests,
    Flushes,
    Hash,
    HasPlace,
    HasShapes,
    KeepsAlive,
    LendsMemory,
    LosesWrites,
    Streams,
    TakesDigests,
    Wraps,
    ability,
)
from ...backend.checks import check_sink, lost_of, memory_of, new_hash_of
from ...cancel import Cancel
from ...engine.copy import copy
from ...errors import OperationCancelledError
from .disks import fragmented, mixed
from .frame import within
from .target import Hand, SinkCase, copied, do, flush

OF_SINK = (Cancels, CoalescesZeros, Digests, HasPlace, KeepsAlive, LosesWrites, Streams, Wraps)
OF_WRITER = (Cancels, Flushes, HasShapes, LendsMemory, TakesDigests, Wraps)

A = TypeVar("A")

# How many pieces a writer lends memory for before the first of them is written.
AHEAD = 4
# Seconds between two calls of `keep_alive`: short, because a copy takes a few milliseconds.
OFTEN = 0.001


# Seconds. A copy that is not done after this long is blocked.
BLOCKED = 0.3
# A cancelled copy ends within a second. A loaded machine may need longer: this part of the limit.
ENDS_WITHIN = 0.1


def sink_abilities(case: SinkCase) -> None:
    """A sink or writer with one member of an ability has all of them.

    Each value has the right type, and each method can be called.
    """
    with case.target() as target, target.sink() as sink:
        check_sink(sink)
        hand = Hand(sink, mixed(case.size)).begin()
        try:
            for backend, kinds in ((sink, OF_SINK), (hand.open(), OF_WRITER)):
                for kind in kinds:
                    _check_methods(ability(backend, kind), kind)
        finally:
            hand.close_writers()
            sink.abort()


def sink_flush(case: SinkCase) -> None:
    """`flush` is called after the last write of a writer, while other writers may still write."""
    with case.by_hand(mixed(case.size)) as hand:
        count = 1 if hand.sink.sequential else min(hand.sink.max_writers, 2)
        writers = [hand.open() for _ in range(count)]
        if all(ability(writer, Flushes) is None for writer in writers):
            raise SkipTest("its writers have no flush()")
        steps = hand.steps()
        for i, writer in enumerate(writers):
            for step in steps[i::count]:
                do(writer, step)
            flush(writer)
        hand.close_writers()


def sink_digests(case: SinkCase) -> None:
    """A sink that names a digest makes hashes of that kind, independent of each other.

    Its writers take the digests.
    """
    with case.target() as target:
        with target.sink() as sink:
            digests, new_hash = of(sink, Digests), new_hash_of(sink)
            name = digests.digest_name
            if name is None or new_hash is None:
                raise SkipTest("its digest_name is None")
            made = [each for each in (new_hash(), new_hash()) if each is not None]
            for each in made:
                each.update(b"tape")
            for each in made:
                each.update(b"stream")
            for each in made:
                _check_digest(name, each, b"tapestream")
            with (disk := fragmented(case.size)).source() as source:
                result = copied(source, sink)
            takes = not made or result.checksum == name
            assert takes, f"its digest_name is {name!r}, but its writers have no digested()"
        target.expect(disk)


def sink_memory(case: SinkCase) -> None:
    """Memory that a writer lends keeps the data that was read into it until that data is written.

    Memory for several pieces is asked for before the first of them is written.
    """
    with case.by_hand(mixed(case.size)) as hand:
        writer = hand.open()
        if not hand.sink.sequential:
            raise SkipTest("it is not sequential: it is never asked to lend memory")
        lends = of(writer, LendsMemory)
        steps = hand.steps()
        lent: list[memoryview | None] = []
        for i, step in enumerate(steps):
            for ahead in steps[len(lent) : i + AHEAD]:
                data = ahead.data or b""
                memory = memory_of(lends, ahead.start, ahead.length) if data else None
                if memory is not None:
                    memory[:] = data
                lent.append(memory)
            do(writer, step, lent[i])


def sink_keep_alive(case: SinkCase) -> None:
    """`keep_alive` may be called at any time during a copy, even before `begin`.

    It is called from another thread while data moves, and disturbs nothing.
    """
    with case.target() as target:
        with target.sink() as sink:
            keeps = of(sink, KeepsAlive)
            keeps.keep_alive()
            disk = fragmented(case.size)
            with disk.source() as source, again_and_again(keeps.keep_alive):
                copied(source, sink)
        target.expect(disk)


@contextmanager
def again_and_again(call: Callable[[], object]) -> Iterator[None]:
    """Call a function in another thread during a block, and raise its first error at the end."""
    over = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not over.wait(OFTEN):
                call()
        except BaseException as e:  # noqa: BLE001 - raised again below
            errors.append(e)

    thread = threading.Thread(target=run, name="contract-keep-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


def sink_lost(case: SinkCase) -> None:
    """`lost` reports what was lost since its last call; new writers may then write it again."""
    with case.by_hand(mixed(case.size)) as hand:
        of(hand.sink, LosesWrites)
        hand.write_all()
        lost_of(hand.sink)
        again = lost_of(hand.sink)
        assert not again, (
            f"lost() reports {again} again, although nothing was written since its last call"
        )
        hand.write_all()
        assert not lost_of(hand.sink), "lost() reports what was just rewritten"


def sink_cancel_idle(case: SinkCase) -> None:
    """`cancel` may be called at any time, more than once, from another thread.

    The sink can still be aborted and closed.
    """
    with case.target() as target:
        with target.sink() as sink:
            disk = mixed(case.size)
            hand = Hand(sink, disk).begin()
            try:
                cancels = [each for each in (sink, hand.open()) if ability(each, Cancels)]
                if not cancels:
                    raise SkipTest("neither it nor its writers have cancel()")
                do(hand.writers[0], hand.steps()[0])
                for each in (*cancels, *cancels):
                    within(case.limit, of(each, Cancels).cancel)
            finally:
                hand.close_writers()
                sink.abort()
        if case.is_marked:
            target.expect_no(disk, "after a cancel and an abort")


def sink_cancel(case: SinkCase) -> None:
    """`cancel` ends a call that blocks, so that a copy can be cancelled at any time."""
    if case.blocking is None:
        raise SkipTest("no blocking= was given")
    with case.target() as target:
        disk = mixed(case.size)
        cancel = Cancel()
        ended: list[BaseException | None] = []

        def run() -> None:
            try:
                with target.sink(case.blocking) as sink, disk.source() as source:
                    copy(source, sink, cancel=cancel)
                ended.append(None)
            except BaseException as e:  # noqa: BLE001 - whether it ended is what the check asks
                ended.append(e)

        thread = threading.Thread(target=run, name="contract-copy", daemon=True)
        thread.start()
        thread.join(BLOCKED)
        assert thread.is_alive(), f"the sink of blocking= does not block: {ended}"
        cancel.cancel("the kit checks that this ends the copy")
        thread.join(seconds := case.limit * ENDS_WITHIN)
        assert not thread.is_alive(), f"the copy still runs {seconds:g} seconds after its cancel"
        assert isinstance(ended[0], OperationCancelledError), (
            f"it should end with an OperationCancelledError, but ended with {ended}"
        )
        if case.is_marked:
            target.expect_no(disk, "after a cancel")


# `Callable`, not `type[A]`: a type checker would refuse a protocol there.
def of(backend: object, kind: Callable[..., A]) -> A:
    """The ability of a backend.

    Raises:
        SkipTest: It has none.
    """
    found = ability(backend, kind)
    if found is None:
        raise SkipTest(f"it does not have the ability {kind.__name__}")
    return found


def _check_methods(backend: object | None, kind: type) -> None:
    for name, of_kind in vars(kind).items():
        if backend is not None and callable(of_kind) and not name.startswith("_"):
            method = getattr(backend, name)
            assert callable(method), f"{name} of {type(backend).__qualname__} is not a method"


def _check_digest(name: str, made: Hash, data: bytes) -> None:
    found = made.digest()
    if name == "crc32":
        wanted = zlib.crc32(data).to_bytes(4, "big")
    elif name.startswith("blake2"):
        wanted = getattr(hashlib, name)(data, digest_size=len(found)).digest()
    elif name in hashlib.algorithms_available and not name.startswith("shake"):
        wanted = hashlib.new(name, data).digest()
    else:
        return  # a digest of its own
    assert found == wanted, f"new_hash() does not compute {name}"


ABILITIES = (
    sink_abilities,
    sink_flush,
    sink_digests,
    sink_memory,
    sink_keep_alive,
    sink_lost,
    sink_cancel_idle,
    sink_cancel,
)
