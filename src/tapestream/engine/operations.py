"""What a writer is asked to do for one chunk: one call for each piece, or fewer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .plan import Chunk, Piece


class Operation(NamedTuple):
    """One call of a writer: write these bytes, or, where there are none, zeros."""

    start: int
    length: int
    data: memoryview | None


def one_by_one(chunk: Chunk, buffer: memoryview | None) -> Iterator[Operation]:
    """One operation for each piece, in ascending order."""
    for piece in chunk.pieces:
        yield _operation(piece, chunk, buffer)


def coalesced(chunk: Chunk, buffer: memoryview | None, join_gap: int) -> Iterator[Operation]:
    """Fewer operations for a writer that takes them in any order.

    Where data and zeros alternate, the whole stretch is zeroed in one operation, and then its
    data is written: all the data in there belongs to this chunk. What is left alone in an
    incremental backup lies in no stretch.

    Args:
        chunk: The chunk.
        buffer: Its data. Zeros that become data are written into it.
        join_gap: Largest stretch of zeros in bytes that is written as data, together with the
            data on both sides.
    """
    for stretch in _stretches(_joined(chunk, buffer, join_gap)):
        zeros = [piece for piece in stretch if piece.segment is None]
        if zeros:
            yield Operation(zeros[0].start, _end(zeros[-1]) - zeros[0].start, None)
        for piece in stretch:
            if piece.segment is not None:
                yield _operation(piece, chunk, buffer)


def data_of(piece: Piece, chunk: Chunk, buffer: memoryview) -> memoryview:
    """Where a piece lies in the buffer of its chunk."""
    offset = piece.start - chunk.start
    return buffer[offset : offset + piece.length]


def _stretches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces that touch each other, together."""
    stretch: list[Piece] = []
    for piece in pieces:
        if stretch and piece.start != _end(stretch[-1]):
            yield stretch
            stretch = []
        stretch.append(piece)
    if stretch:
        yield stretch


def _joined(chunk: Chunk, buffer: memoryview | None, join_gap: int) -> Iterator[Piece]:
    """The pieces, with data and the small zeros in it made one piece."""
    held: list[Piece] = []  # begins with data
    for piece in chunk.pieces:
        small = piece.segment is not None or piece.length <= join_gap
        if held and small and piece.start == _end(held[-1]):
            held.append(piece)
            continue
        yield from _merged(held, chunk, buffer)
        held = [piece]
        if piece.segment is None:
            yield piece
            held = []
    yield from _merged(held, chunk, buffer)


def _merged(held: list[Piece], chunk: Chunk, buffer: memoryview | None) -> Iterator[Piece]:
    """One piece of data, up to the last one; zeros behind it stay what they are."""
    behind: list[Piece] = []
    while held and held[-1].segment is None:
        behind.insert(0, held.pop())
    if held and buffer is not None:
        for piece in held:
            if piece.segment is None:
                data_of(piece, chunk, buffer)[:] = bytes(piece.length)
        first = held[0]
        yield Piece(first.start, _end(held[-1]) - first.start, first.segment)
    yield from behind


def _operation(piece: Piece, chunk: Chunk, buffer: memoryview | None) -> Operation:
    if piece.segment is None or buffer is None:
        return Operation(piece.start, piece.length, None)
    return Operation(piece.start, piece.length, data_of(piece, chunk, buffer))


def _end(piece: Piece) -> int:
    return piece.start + piece.length
