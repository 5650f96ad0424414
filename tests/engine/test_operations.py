"""Fewer operations for a chunk have the same effect as one for each piece."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tapestream.engine.learning.gap import Limits
from tapestream.engine.operations import Operation, coalesced, one_by_one
from tapestream.engine.plan import Chunk, plan_requests
from tapestream.model.extents import Extent, Extents
from tests.strategies import extent_lists

CONTENT = bytes(1 + i % 255 for i in range(10_000))


def chunks(extents: list[Extent], buffer_size: int) -> list[Chunk]:
    requests = plan_requests(
        Extents.of(extents).runs(),
        segment_size=1000,
        request_size=1000,
        buffer_size=buffer_size,
        limits=lambda: Limits(1000, 1000),
    )
    return [chunk for request in requests for chunk in request.chunks]


def filled(chunk: Chunk) -> memoryview | None:
    """A buffer as a reader fills it; what is no data is undefined."""
    if not chunk.length:
        return None
    buffer = bytearray(b"?" * chunk.length)
    for piece in chunk.pieces:
        if piece.segment is not None:
            offset = piece.start - chunk.start
            buffer[offset : offset + piece.length] = CONTENT[piece.start :][: piece.length]
    return memoryview(buffer)


def apply(disk: bytearray, operation: Operation) -> None:
    end = operation.start + operation.length
    disk[operation.start : end] = operation.data or bytes(operation.length)


@given(extent_lists(max_length=120), st.integers(1, 500), st.integers(0, 150))
def test_the_same_disk(extents: list[Extent], buffer_size: int, coalesce_zeros: int) -> None:
    size = sum(extent.length for extent in extents)
    separate, fewer = bytearray(b"o" * size), bytearray(b"o" * size)
    for chunk in chunks(extents, buffer_size):
        single = list(one_by_one(chunk, filled(chunk)))
        few = list(coalesced(chunk, filled(chunk), coalesce_zeros))
        assert len(few) <= len(single)
        for operation in single:
            apply(separate, operation)
        for operation in few:
            apply(fewer, operation)
    assert fewer == separate


def data(start: int, length: int) -> Extent:
    return Extent(start, length, zero=False)


def zero(start: int, length: int) -> Extent:
    return Extent(start, length, zero=True)


FRAGMENTED = [data(0, 10), zero(10, 10), data(20, 10), zero(30, 10), data(40, 10), zero(50, 10)]


def shape(extents: list[Extent], coalesce_zeros: int) -> list[tuple[int, int, str]]:
    [chunk] = chunks(extents, 1000)
    return [
        (o.start, o.length, "zero" if o.data is None else "data")
        for o in coalesced(chunk, filled(chunk), coalesce_zeros)
    ]


def test_a_stretch_is_zeroed_at_once() -> None:
    assert shape(FRAGMENTED, 0) == [
        (10, 50, "zero"),
        (0, 10, "data"),
        (20, 10, "data"),
        (40, 10, "data"),
    ]


def test_small_zeros_ride_along() -> None:
    assert shape(FRAGMENTED, 10) == [(50, 10, "zero"), (0, 50, "data")]


def test_what_is_clean_is_left_alone() -> None:
    dirty = [
        Extent(0, 10, zero=True, dirty=True),
        Extent(10, 10, dirty=True),
        Extent(20, 10, dirty=False),
        Extent(30, 10, dirty=True),
        Extent(40, 10, zero=True, dirty=True),
    ]
    operations = [
        (o.start, o.length) for c in chunks(dirty, 1000) for o in coalesced(c, filled(c), 100)
    ]
    assert all(start + length <= 20 or start >= 30 for start, length in operations)
