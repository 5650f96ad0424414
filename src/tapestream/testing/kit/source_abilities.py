"""The clauses for the abilities of a source and of its readers: each does what it says.

The name of each function is the id of its clause, and its docstring is the clause. A clause is
skipped if the source does not have its ability.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import cycle, islice
from threading import Thread
from typing import TypeVar
from unittest import SkipTest

from ...backend.abilities import (
    Cancels,
    ChecksEnd,
    ChecksItself,
    FindsMissing,
    HasDigests,
    HasReadOrder,
    HasShapes,
    KeepsAlive,
    Prefetches,
    Rewinds,
    Salvages,
    Wraps,
    ability,
)
from ...backend.checks import check_source as check_values
from ...backend.checks import (
    class_of,
    digest_name_of,
    done,
    missing_until,
    reader_of,
    shapes_of,
    source_of,
)
from ...backend.checks import finish as checked_finish
from ...backend.closing import Closing
from ...backend.protocols import Reader, SourceLike
from ...engine.copy import copy
from ...engine.plan import Request
from ...errors import TapestreamError, UsageError
from ...model.damage import Findings
from ..memory import MemorySink
from .frame import within
from .reading import (
    SMALL,
    MakeSource,
    SourceCase,
    announce,
    fetch,
    finish,
    listed,
    opened,
    passes,
    plainly,
    read,
    read_all,
    reader_from,
    requests,
    require_data,
    steps,
)
from .turns import beside_each_other

A = TypeVar("A")

# More ranges than this are not announced, whatever a reader's `prefetch_depth`.
MOST_AHEAD = 16
# Seconds after which a call that must not block for long has blocked for too long.
SOON = 5.0
# Seconds in the same call, after which a source that was made to block is taken to block.
BLOCKED = 0.5
# Seconds between two calls of `cancel`, as in the engine: a call may begin to block just after it
# was cancelled.
AGAIN = 0.2


def source_ability_values(case: SourceCase) -> None:
    """The values of abilities have the right types: text, True or False, whole numbers, or None."""
    with opened(case.make) as source:
        check_values(source)
        listed(source)
        check_values(source)
        finds = ability(source, FindsMissing)
        if finds is not None:
            missing_until(finds)


# Prefetches


def source_prefetch(case: SourceCase) -> None:
    """Up to `prefetch_depth` ranges may be announced before the first of them is read."""
    plain = plainly(case)
    with opened(case.make) as source:
        extents = listed(source)
        found = bytearray(extents.size)
        with reader_from(source) as reader:
            depth = min(_claimed(reader, Prefetches).prefetch_depth, MOST_AHEAD)
            planned = requests(source, extents, SMALL)
            waiting = deque(islice(planned, depth))
            for request in waiting:
                announce(reader, request)
            while waiting:
                _exhaust(fetch(reader, waiting.popleft(), found))
                for request in islice(planned, 1):
                    announce(reader, request)
                    waiting.append(request)
    require_data(found, plain, f"reading ranges that were announced, up to {depth} of them ahead,")


def source_prefetch_unread(case: SourceCase) -> None:
    """A reader can be closed before all announced ranges are read."""
    with opened(case.make) as source:
        extents = listed(source)
        with reader_from(source) as reader:
            depth = min(_claimed(reader, Prefetches).prefetch_depth, MOST_AHEAD)
            announced = list(islice(requests(source, extents, SMALL), depth))
            for request in announced:
                announce(reader, request)
            for request in announced[:1]:
                next(fetch(reader, request, bytearray(extents.size)))


# HasShapes


def source_shapes(case: SourceCase) -> None:
    """A reader delivers the same data in each of its shapes, also when the shape changes."""
    plain = plainly(case)
    with opened(case.make) as source:
        extents = listed(source)
        found = bytearray(extents.size)
        with reader_from(source) as reader:
            has_shapes = _claimed(reader, HasShapes)
            shapes = cycle(shapes_of(has_shapes, 1))
            prefetches = ability(reader, Prefetches)
            depth = 1 if prefetches is None else min(prefetches.prefetch_depth, MOST_AHEAD)
            waiting: deque[Request] = deque()
            for request in requests(source, extents, SMALL):
                if len(waiting) == depth:
                    _exhaust(fetch(reader, waiting.popleft(), found))
                done(has_shapes, "use", next(shapes))
                announce(reader, request)
                waiting.append(request)
            for request in waiting:
                _exhaust(fetch(reader, request, found))
    require_data(found, plain, "reading with another shape for each request")


# Cancels


def source_cancel_blocked(case: SourceCase) -> None:
    """`cancel` makes a call that blocks in another thread fail soon."""
    visit = _Visit(source_of(_blocked(case)()))
    name = visit.cancel(case)
    assert not visit.thread.is_alive(), (
        f"{name} still blocked {_patience(case):g} seconds after cancel(): it must fail soon"
    )
    visit.close()
    assert visit.error is not None, (
        f"{name} returned after cancel(), as if it had done its work: it must raise an error"
    )


def source_close_blocked(case: SourceCase) -> None:
    """If a source inherits from `Source` and can be cancelled, `close` ends its copy."""
    visit = _Visit(source_of(_blocked(case)()))
    name = visit.cancel(case)
    assert not visit.thread.is_alive(), f"{name} did not end when it was cancelled"
    visit.close()
    source = source_of(_blocked(case)())
    if Closing not in type(source).__mro__:
        raise SkipTest("it does not inherit from Source")
    errors: list[Exception] = []

    def go() -> None:
        try:
            copy(source, MemorySink())
        except Exception as e:  # noqa: BLE001 - whatever it is, the copy has ended
            errors.append(e)

    thread = Thread(target=go, name="contract-copy", daemon=True)
    thread.start()
    thread.join(min(BLOCKED, case.limit / 8))
    assert thread.is_alive(), f"its copy did not block, but ended with {errors}"
    source.close()
    thread.join(_patience(case))
    assert not thread.is_alive(), "the copy did not end when its source was closed"
    assert errors, "the copy was committed although its source was closed while it blocked"


def source_cancel_any_time(case: SourceCase) -> None:
    """`cancel` may be called at any time, more than once. A later call fails, or does its work."""
    plain = plainly(case)
    asked = 0
    for before in range(3):
        with opened(case.make) as source:
            extents = listed(source)
            with reader_from(source) as reader:
                found = bytearray(plain.disk)
                planned = list(requests(source, extents, SMALL))
                reading = steps(reader, planned, found)
                for _ in islice(reading, before * before):
                    pass
                both = [each for each in (source, reader) if ability(each, Cancels) is not None]
                asked += len(both)
                for each in both:
                    cancels = _claimed(each, Cancels)
                    beside_each_other([[cancels.cancel]])
                    cancels.cancel()
                with suppress(Exception):  # it was cancelled
                    _exhaust(reading)
        require_data(found, plain, "reading after cancel()")
    if not asked:
        raise SkipTest("neither it nor its readers have cancel()")


# KeepsAlive


def source_keep_alive(case: SourceCase) -> None:
    """`keep_alive` may be called at any time, from another thread, and disturbs nothing."""
    plain = plainly(case)
    with opened(case.make) as source:
        keeps = _claimed(source, KeepsAlive)
        call = partial(within, _patience(case), keeps.keep_alive)
        call()
        extents = listed(source)
        found = bytearray(extents.size)
        with reader_from(source) as reader:
            reading = steps(reader, requests(source, extents, SMALL), found)
            for _ in islice(reading, 4):
                call()
            beside_each_other([[partial(_exhaust, reading)], [call] * 3])
        call()
        finish(source)
    require_data(found, plain, "reading with calls of keep_alive() meanwhile")


# ChecksItself, ChecksEnd, HasDigests


def source_finish(case: SourceCase) -> None:
    """After all data is read, `finish` returns the name of a digest, or None."""
    with opened(case.make) as source:
        _claimed(source, ChecksItself)
        read_all(source, listed(source))
        checked_finish(source)


def source_finish_early(case: SourceCase) -> None:
    """`finish` may be called when only part of the data was read, or none.

    A chain reads only what it needs.
    """
    for share in (0, 2):
        with opened(case.make) as source:
            _claimed(source, ChecksItself)
            extents = listed(source)
            planned = list(requests(source, extents, SMALL))
            with reader_from(source) as reader:
                wanted = planned[: len(planned) // share] if share else []
                read(reader, wanted, bytearray(extents.size))
            checked_finish(source)


def source_digest(case: SourceCase) -> None:
    """If `digest_name` names a digest, `finish` compares all data with it, and returns the name."""
    with opened(case.make) as source:
        _claimed(source, HasDigests)
        read_all(source, listed(source))
        compared, name = checked_finish(source), digest_name_of(source)
        assert compared == name, (
            f"digest_name is {name!r}, but finish() returned {compared!r}: it must return the name "
            "of the digest that all data was compared with"
        )


def source_check_complete(case: SourceCase) -> None:
    """`check_complete` finds nothing missing in a complete source. The source can then be read."""
    plain = plainly(case)
    with opened(case.make) as source:
        checks = _claimed(source, ChecksEnd)
        extents = listed(source)
        checks.check_complete()
        found = read_all(source, extents)
        finish(source)
    require_data(found, plain, "reading after check_complete()")


# Rewinds, HasReadOrder, HoldsDevice


def source_rewind(case: SourceCase) -> None:
    """After `rewind`, a source is read again, exactly as the first time.

    `rewind` may also be called before the first time.
    """
    plain = plainly(case)
    with opened(case.make) as source:
        rewinds = _claimed(source, Rewinds)
        for when in "a new source", "a source that was read and finished":
            try:
                rewinds.rewind()
            except UsageError as e:
                raise SkipTest(f"it can be read only once: {e}") from None
            again = listed(source)
            assert list(again) == list(plain.extents), (
                f"after rewind() of {when}, extents() lists {len(again)} extents, which differ "
                f"from the {len(plain.extents)} before"
            )
            found = read_all(source, again)
            finish(source)
            require_data(found, plain, f"reading after rewind() of {when}")


def source_read_order(case: SourceCase) -> None:
    """The passes of `read_order` have all data and all zeros, each byte once. Each pass ascends."""
    with opened(case.make) as source:
        _claimed(source, HasReadOrder)
        for runs in passes(source, listed(source)):
            _exhaust(runs)  # each is checked, and all of them at the end


# Salvages, FindsMissing


def source_salvage(case: SourceCase) -> None:
    """`salvaging` returns a source of the same data. If nothing is damaged, it reports nothing."""
    plain = plainly(case)
    findings = Findings()
    with opened(case.make) as source:
        view = _salvaging(source, findings)
        extents = listed(view)
        found = read_all(view, extents)
        finish(view)
    require_data(found, plain, "the source that salvaging() returned")
    assert findings.complete, "the source is complete, but the findings do not say so"
    wrong = [*findings.problems, *map(str, findings.damage)]
    assert not wrong, f"nothing is wrong with the source, but salvaging it found: {wrong}"


def source_salvage_damage(case: SourceCase) -> None:
    """What `salvaging` returns records damage in the findings, instead of raising an error."""
    if case.failing is None:
        raise SkipTest("no failing= was given")
    findings = Findings()
    error = None
    with opened(case.failing) as source:
        view = _salvaging(source, findings)
        try:
            read_all(view, listed(view))
            finish(view)
        except TapestreamError as e:
            error = e  # so damaged that nothing can be salvaged
    assert error or findings.damage or findings.problems or not findings.complete, (
        "the failing source was salvaged without an error, and the findings say that nothing is "
        "wrong: it must record damage and problems there"
    )


def source_missing_until(case: SourceCase) -> None:
    """`missing_until` never reports data as missing that is there."""
    with opened(case.make) as source:
        finds = _claimed(source, FindsMissing)
        extents = listed(source)
        disk = bytearray(extents.size)
        with reader_from(source) as reader:
            for request in requests(source, extents):
                until = missing_until(finds)
                assert until is None or until <= request.start, (
                    f"missing_until is {until}, but the data at {request.start} is not missing: a "
                    "copy would write zeros there"
                )
                read(reader, [request], disk)


# Wraps


def source_wrapped(case: SourceCase) -> None:
    """The `wrapped` of a source is a source, and the `wrapped` of a reader is a reader."""
    with opened(case.make) as source:
        wrapped = source_of(_claimed(source, Wraps).wrapped)
        listed(source)
        assert wrapped is not source, "wrapped is the wrapper itself"
        with reader_from(source) as reader:
            inner = getattr(reader, "wrapped", None)
            assert inner is None or callable(getattr(inner, "readinto", None)), (
                f"the reader's wrapped is a {type(inner).__name__}, which has no readinto"
            )


# Helpers


# `Callable`, not `type[A]`: a type checker would refuse a protocol there.
def _claimed(backend: object, kind: Callable[..., A]) -> A:
    """What has an ability. Skips if nothing has it."""
    found = ability(backend, kind)
    if found is None:
        members = [f"{name}" for name in vars(kind) if not name.startswith("_")]
        raise SkipTest(f"{class_of(backend)} has no {' and no '.join(members)}")
    return found


def _salvaging(source: SourceLike, findings: Findings) -> SourceLike:
    view = _claimed(source, Salvages).salvaging(findings)
    if view is None:
        raise SkipTest("its salvaging() returned None")
    return source_of(view)


def _exhaust(each: Iterable[object]) -> None:
    for _ in each:
        pass


def _blocked(case: SourceCase) -> MakeSource:
    if case.blocking is None:
        raise SkipTest("no blocking= was given")
    return case.blocking


def _patience(case: SourceCase) -> float:
    """Seconds that a call may take that must not take long."""
    return min(SOON, case.limit / 2)


class _Visit:
    """Reads a source to its end in another thread, and knows which call it is in.

    Attributes:
        thread: The thread.
        error: What the last call raised; None if it returned.
        is_over: Set it to make no further call.
    """

    def __init__(self, source: SourceLike) -> None:
        self.error: Exception | None = None
        self.is_over = False
        self._source = source
        self._reader: Reader | None = None
        self._call: tuple[object, str] = source, "extents"
        self._calls = 0
        self.thread = Thread(target=self._go, name="contract-blocked", daemon=True)
        self.thread.start()

    def cancel(self, case: SourceCase) -> str:
        """Cancel the call that blocks, until it ends, and return its name.

        Raises:
            SkipTest: It cannot be cancelled.
        """
        backend, call = self._wait_until_blocked(case)
        cancels = _claimed(backend, Cancels)
        self.is_over = True
        until = time.monotonic() + _patience(case)
        while self.thread.is_alive() and time.monotonic() < until:
            cancels.cancel()
            self.thread.join(AGAIN)
        return f"{class_of(backend)}.{call}()"

    def _wait_until_blocked(self, case: SourceCase) -> tuple[object, str]:
        until = time.monotonic() + _patience(case)
        seen, since = self._calls, time.monotonic()
        while time.monotonic() < until:
            self.thread.join(0.05)
            if self._calls != seen:
                seen, since = self._calls, time.monotonic()
            assert self.thread.is_alive(), (
                "the source that blocking() made did not block: it was read to its end, or until "
                f"it raised {self.error!r}"
            )
            if time.monotonic() - since >= min(BLOCKED, case.limit / 8):
                return self._call
        raise AssertionError(
            "the source that blocking() made did not block: it never stopped reading"
        )

    def close(self) -> None:
        """Close what is open, after the thread has ended."""
        if self._reader is not None:
            self._reader.close()
        self._source.close()

    def _go(self) -> None:
        try:
            self._read()
        except _OverError:
            pass  # the call that was cancelled returned as if nothing had happened
        except Exception as e:  # noqa: BLE001 - the check is about it
            self.error = e

    def _read(self) -> None:
        extents = self._do(self._source, "extents", partial(listed, self._source))
        planned = list(requests(self._source, extents))
        self._reader = reader = self._do(
            self._source, "open_reader", partial(reader_of, self._source)
        )
        for request in planned:
            self._do(reader, "prefetch", partial(announce, reader, request))
            reading = fetch(reader, request, bytearray(extents.size))
            while self._do(reader, "readinto", partial(next, reading, _END)) is not _END:
                pass
        self._reader = None
        self._do(reader, "close", reader.close)
        self._do(self._source, "finish", partial(finish, self._source))

    def _do(self, backend: object, name: str, call: Callable[[], A]) -> A:
        if self.is_over:
            raise _OverError
        self._call = backend, name
        self._calls += 1
        return call()


_END = object()


class _OverError(Exception):
    """No further call is made."""


ABILITIES = (
    source_ability_values,
    source_prefetch,
    source_prefetch_unread,
    source_shapes,
    source_cancel_blocked,
    source_close_blocked,
    source_cancel_any_time,
    source_keep_alive,
    source_finish,
    source_finish_early,
    source_digest,
    source_check_complete,
    source_rewind,
    source_read_order,
    source_salvage,
    source_salvage_damage,
    source_missing_until,
    source_wrapped,
)
