"""What every source must keep: how it fails, and how it ends.

The name of each check is the id of its clause, and its docstring is the clause.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from contextlib import suppress
from unittest import SkipTest

from ...backend.checks import (
    fill,
    reader_of,
)
from ...backend.protocols import Reader, SourceLike
from ...errors import TapestreamError
from .reading import (
    NOISE,
    SMALL,
    MakeSource,
    SourceCase,
    finish,
    listed,
    opened,
    plainly,
    read,
    read_all,
    reader_from,
    requests,
    require_data,
    require_several,
)

# Seconds to wait until everything is released: a thread or a connection of a server that runs in
# this process may end a little later.
PATIENCE = 5.0


# How it fails


def source_errors(case: SourceCase) -> None:
    """Data that cannot be read is an error, at the latest in `finish`: the commit comes next."""
    error, in_close = _error_of(_failing(case))
    assert error or not in_close, (
        f"the failing source raised {type(in_close).__name__} only in its close(): too late, the "
        "sink is committed before"
    )
    assert error, (
        "the failing source was read to its end, and finished, without an error: a copy of it "
        "would be committed"
    )


def source_error_kind(case: SourceCase) -> None:
    """If the user can do something about an error, it is a `TapestreamError`."""
    error, _ = _error_of(_failing(case))
    if error is None:
        raise SkipTest("the failing source raised no error")
    assert isinstance(error, TapestreamError), (
        f"the failing source raised {type(error).__name__}: {error}. Whoever calls copy() expects "
        "a TapestreamError, such as a LocalIOError that says what happened and where"
    )


def source_error_close(case: SourceCase) -> None:
    """After an error, the readers and the source can be closed."""
    make = _failing(case)
    readers: list[Reader] = []
    try:
        source = make()
    except Exception as e:
        raise SkipTest("the failing source cannot be made") from e
    with suppress(Exception):  # another check is about it
        _read_to_end(source, readers)
    for reader in readers:
        reader.close()
    source.close()


# How it ends


def source_close_twice(case: SourceCase) -> None:
    """`close` may be called more than once."""
    with opened(case.make) as source:
        read_all(source, listed(source))
        finish(source)
        source.close()
        source.close()


def source_close_early(case: SourceCase) -> None:
    """`close` may be called at any time.

    Examples: before `extents`, before a reader is opened, after half of the data.
    """
    for stage in range(4):
        with opened(case.make) as source:
            extents = listed(source) if stage else None
            if extents is not None and stage > 1:
                with reader_from(source) as reader:
                    planned = list(requests(source, extents, SMALL)) if stage > 2 else []
                    read(reader, planned[: len(planned) // 2], bytearray(extents.size))


def source_reader_close(case: SourceCase) -> None:
    """Closing one reader does not end another."""
    plain = plainly(case)
    with opened(case.make) as source:
        require_several(source, 2)
        extents = listed(source)
        found = bytearray(extents.size)
        with reader_from(source) as kept:
            with reader_from(source) as closed:
                read(closed, list(requests(source, extents, SMALL))[:1], found)
            read(kept, requests(source, extents, SMALL), found)
    require_data(found, plain, "a reader after another one was closed")


def source_releases(case: SourceCase) -> None:
    """`close` releases everything: no descriptor and no thread is left."""
    kept = []  # otherwise Python would release what the source does not

    def use() -> None:
        with opened(case.make) as source:
            extents = listed(source)
            with reader_from(source) as reader:
                read(reader, requests(source, extents), bytearray(extents.size))
            finish(source)
            kept.extend([source, reader])

    use()  # modules are loaded, and caches are filled
    gc.collect()
    before = _held()
    use()
    use()
    until = time.monotonic() + min(PATIENCE, case.limit / 2)
    while (left := _more(before, _held())) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left, f"after close(), twice, there are still {left} more than before"


# Helpers


def _failing(case: SourceCase) -> MakeSource:
    if case.failing is None:
        raise SkipTest("no failing= was given")
    return case.failing


def _error_of(make: MakeSource) -> tuple[Exception | None, Exception | None]:
    """The error of a source that is read to its end, and the one that its `close` raised."""
    error: Exception | None = None
    try:
        source = make()
    except Exception as e:  # noqa: BLE001 - whatever it raises is what is asked for
        return e, None
    readers: list[Reader] = []
    try:
        _read_to_end(source, readers)
    except Exception as e:  # noqa: BLE001 - as above
        error = e
    for close in *(reader.close for reader in readers), source.close:
        try:
            close()
        except Exception as e:  # noqa: BLE001 - as above
            return error, e
    return error, None


def _read_to_end(source: SourceLike, readers: list[Reader]) -> None:
    """Do what a copy does to a source before it commits its sink.

    Args:
        source: The source.
        readers: Gets the reader while it is open.
    """
    extents = listed(source)
    readers.append(reader_of(source))
    read(readers[0], requests(source, extents), bytearray(extents.size), _checked)
    readers.pop().close()
    finish(source)


def _checked(reader: Reader, start: int, length: int) -> bytearray:
    """Lend a buffer as the engine does: a wrong count is an error."""
    buffer = bytearray([NOISE]) * length
    fill(reader, start, memoryview(buffer))
    return buffer


def _held() -> dict[str, int]:
    """How many threads and descriptors this process has."""
    return {"threads": threading.active_count(), "descriptors": len(os.listdir("/proc/self/fd"))}


def _more(before: dict[str, int], now: dict[str, int]) -> str:
    grown = {what: now[what] - before[what] for what in now if now[what] > before[what]}
    return " and ".join(f"{count} {what}" for what, count in grown.items())


END = (
    source_errors,
    source_error_kind,
    source_error_close,
    source_close_twice,
    source_close_early,
    source_reader_close,
    source_releases,
)
