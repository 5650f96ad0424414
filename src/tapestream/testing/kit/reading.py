"""How the checks of a source read it: with the engine's own plan, in every way it may choose.

Way       how large the requests and the buffers are, and whether gaps are read through
Lend      gives a buffer to a reader for one call of readinto, and takes it back
disk      what was read: a bytearray as large as the disk, in which only the data is set
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple
from unittest import SkipTest

from ...backend.abilities import ChecksItself, Prefetches, ability
from ...backend.checks import read_order, reader_of, source_of
from ...backend.protocols import Reader, SourceLike
from ...engine.learning.gap import Limits
from ...engine.options import BUFFER_SIZE, REQUEST_SIZE
from ...engine.plan import Request, plan_requests
from ...errors import UsageError
from ...model.extents import Extents, Kind, Run
from ..memory import Content
from .frame import Case

# What a buffer holds before a reader fills it.
NOISE = 0xA5
# Bytes. A larger gap is not read through: on a sparse disk, that would take hours.
MAX_GAP = 16 * 1024**2

MakeSource = Callable[[], SourceLike]


@dataclass(frozen=True)
class SourceCase(Case):
    """How to make the source that is checked; see `check_source`."""

    make: MakeSource
    content: Content | None = None
    failing: MakeSource | None = None
    blocking: MakeSource | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("make", "failing", "blocking"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "make"):
                raise UsageError(f"{name} must be a function, not {value!r}")
        given = self.content
        if given is not None and (isinstance(given, str) or not hasattr(given, "__getitem__")):
            raise UsageError(f"content must be bytes, not a {type(given).__name__}")
        object.__setattr__(self, "make", _each_new(self.make))


def _each_new(make: MakeSource) -> MakeSource:
    """Make sure that every source is a new one: the checks read and close what they get."""
    last: list[SourceLike] = []

    def make_new() -> SourceLike:
        source = make()
        assert not any(source is each for each in last), (
            "make() returned the same object twice: it must make a new source each time"
        )
        last[:] = [source]
        return source

    return make_new


class Way(NamedTuple):
    """How a disk is read. The default is how the engine reads it if no gap is worth reading.

    Attributes:
        request: Largest request in bytes.
        buffer: Largest range of one `readinto`, in bytes.
        gaps: True to read through all gaps between the data; False to read each extent alone.
    """

    request: int = REQUEST_SIZE
    buffer: int = BUFFER_SIZE
    gaps: bool = False


PLAIN = Way()
# Primes: nearly all of the ranges begin and end at odd offsets.
ODD = Way(request=3 * 4099, buffer=4099)
SMALL = Way(request=16 * 1024, buffer=4096)
THROUGH_GAPS = Way(gaps=True)

Lend = Callable[[Reader, int, int], bytearray]


def lend(reader: Reader, start: int, length: int, *, noise: int = NOISE) -> bytearray:
    """Let a reader fill a buffer, and return what the buffer then holds."""
    buffer = bytearray([noise]) * length
    reader.readinto(start, memoryview(buffer))
    return buffer


@contextmanager
def opened(make: MakeSource) -> Iterator[SourceLike]:
    """Make a source, and close it at the end."""
    made = make()
    try:
        yield source_of(made)
    except BaseException:
        with suppress(Exception):  # the first error says more
            made.close()
        raise
    made.close()


@contextmanager
def reader_from(source: SourceLike) -> Iterator[Reader]:
    """Open a reader, and close it at the end."""
    reader = reader_of(source)
    try:
        yield reader
    except BaseException:
        with suppress(Exception):  # the first error says more
            reader.close()
        raise
    reader.close()


def listed(source: SourceLike) -> Extents:
    """The extents of a source, if they describe any disk at all."""
    return Extents.of(source.extents())


def passes(source: SourceLike, extents: Extents) -> Iterator[Iterable[Run]]:
    """The runs of a disk, in the order in which the source must be read."""
    yield from read_order(source, extents) or [extents.runs()]


def requests(source: SourceLike, extents: Extents, way: Way = PLAIN) -> Iterator[Request]:
    """Plan all requests for data."""
    if not way.gaps:
        return ranges(data_runs(source, extents), way)
    planned = (_planned(runs, way, extents.size) for runs in passes(source, extents))
    return (request for request in chain.from_iterable(planned) if request.length)


def ranges(wanted: Iterable[tuple[int, int]], way: Way = PLAIN) -> Iterator[Request]:
    """Plan requests for each of these (start, length), one after another."""
    alone = (_planned([(start, length, Kind.DATA)], way, 0) for start, length in wanted)
    return chain.from_iterable(alone)


def _planned(runs: Iterable[Run], way: Way, span: int) -> Iterator[Request]:
    limits = Limits(MAX_GAP, span)
    return plan_requests(
        runs,
        segment_size=way.request,
        request_size=max(way.request, span),
        buffer_size=way.buffer,
        limits=lambda: limits,
    )


def data_runs(source: SourceLike, extents: Extents) -> list[tuple[int, int]]:
    """(start, length) of all data, in the order in which the source must be read."""
    return [
        (start, length)
        for runs in passes(source, extents)
        for start, length, kind in runs
        if kind is Kind.DATA
    ]


def announce(reader: Reader, request: Request) -> None:
    """Announce a request, if the reader has that ability."""
    prefetches = ability(reader, Prefetches)
    if prefetches is not None:
        prefetches.prefetch(request.start, request.length)


def fetch(
    reader: Reader, request: Request, disk: bytearray, lending: Lend = lend
) -> Generator[None, None, None]:
    """Read a request that was announced, and put its data into the disk; yield after each range."""
    for chunk in request.chunks:
        found = lending(reader, chunk.start, chunk.length)
        for piece in chunk.pieces:
            if piece.segment is not None:
                first = piece.start - chunk.start
                disk[piece.start : piece.start + piece.length] = found[first : first + piece.length]
        yield


def steps(
    reader: Reader, wanted: Iterable[Request], disk: bytearray, lending: Lend = lend
) -> Generator[None, None, None]:
    """Read requests one after another; yield after each range."""
    for request in wanted:
        announce(reader, request)
        yield from fetch(reader, request, disk, lending)


def read(reader: Reader, wanted: Iterable[Request], disk: bytearray, lending: Lend = lend) -> None:
    """Read requests one after another."""
    for _ in steps(reader, wanted, disk, lending):
        pass


def read_all(
    source: SourceLike, extents: Extents, way: Way = PLAIN, lending: Lend = lend
) -> bytearray:
    """Read all data with one reader."""
    disk = bytearray(extents.size)
    with reader_from(source) as reader:
        read(reader, requests(source, extents, way), disk, lending)
    return disk


def finish(source: SourceLike) -> str | None:
    """Let a source check itself, if it has that ability."""
    checks = ability(source, ChecksItself)
    return None if checks is None else checks.finish()


class Plain(NamedTuple):
    """What a source delivers when nothing special is asked of it."""

    extents: Extents
    disk: bytearray


def plainly(case: SourceCase) -> Plain:
    """Read a new source with one reader, each extent alone."""
    with opened(case.make) as source:
        extents = listed(source)
        return Plain(extents, read_all(source, extents))


def require_data(found: bytearray, plain: Plain, doing: str) -> None:
    """Make sure that data is the same as when it was read plainly.

    Args:
        found: What was read.
        plain: What it must be.
        doing: How it was read, for the error.
    """
    for start, length, kind in plain.extents.runs():
        end = start + length
        if kind is Kind.DATA and found[start:end] != plain.disk[start:end]:
            at = first_difference(found, plain.disk, start, end)
            raise AssertionError(
                f"{doing} delivered {_bytes(found, at, end)} at offset {at}, in the data extent "
                f"of {length} bytes at {start}; one reader that reads this extent alone delivers "
                f"{_bytes(plain.disk, at, end)}"
            )


def first_difference(one: Content, other: Content, start: int, end: int) -> int:
    """Offset of the first byte that differs; there must be one."""
    a, b = bytes(one[start:end]), bytes(other[start:end])
    return start + next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)


def _bytes(disk: bytearray, start: int, end: int) -> str:
    return bytes(disk[start : min(end, start + 8)]).hex(" ")


def require_several(source: SourceLike, most: int) -> int:
    """How many readers to open, at least 2 and up to `most`. Skips if there can be only one."""
    if source.sequential or source.max_readers < 2:
        raise SkipTest("it can have only one reader")
    return min(source.max_readers, most)
