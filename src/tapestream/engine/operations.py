"""Turns a chunk into calls of a writer: one call for each piece, or fewer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .plan import Chunk, Piece


class Operation(NamedTuple):
    """One call of a writer: write these bytes, or zeros if there are none."""

    start: int
    length: int
    data: memoryview | None


def one_by_one(chunk: Chunk, buffer: memoryview | None) -> Iterator[Operation]:
    """One operation for each piece, in ascending order."""
    for piece in chunk.pieces:
        yield _operation(piece, chunk, buffer)


def coalesced(chunk: Chunk, buffer: memoryview | None, coalesce_zeros: int) -> Iterator[Operation]:
    """Fewer operations, for a writer that takes them in any order.

    If data and zeros alternate, the whole stretch is zeroed in one operation, and then its data is
    written. This destroys nothing: all data in a stretch belongs to this chunk, and what an
    incremental backup leaves alone is in no stretch.

    Args:
        chunk: The chunk.
        buffer: Its data. Zeros that become data are put into it.
        coalesce_zeros: Write zeros of up to this many bytes as data, together with the data on
            both sides.
    """
    for touching in _stretches(chunk.pieces):
        stretch = list(_joined(touching, chunk, buffer, coalesce_zeros))
        zeros = [piece for piece in stretch if piece.segment is None]
        if zeros:
            yield Operation(zeros[0].start, _end(zeros[-1]) - zeros[0].start, None)
        for piece in stretch:
            if piece.segment is not None:
                yield _operation(piece, chunk, buffer)


def data_of(piece: Piece, chunk: Chunk, buffer: memoryview) -> memoryview:
    """The part of a chunk's buffer that belongs to a piece."""
    offset = piece.start - chunk.start
    return buffer[offset : offset + piece.length]


def _stretches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Group pieces that touch each other."""
    stretch: list[Piece] = []
    for piece in pieces:
        if stretch and piece.start != _end(stretch[-1]):
            yield stretch
            stretch = []
        stretch.append(piece)
    if stretch:
        yield stretch


def _joined(
    stretch: list[Piece], chunk: Chunk, buffer: memoryview | None, coalesce_zeros: int
) -> Iterator[Piece]:
    """The pieces of a stretch. Data with only small zeros between it becomes one piece."""
    data: Piece | None = None
    zeros: list[Piece] = []  # after the data
    for piece in stretch:
        if piece.segment is None:
            zeros.append(piece)
            continue
        if data and buffer and all(each.length <= coalesce_zeros for each in zeros):
            for each in zeros:
                data_of(each, chunk, buffer)[:] = bytes(each.length)
            data = Piece(data.start, _end(piece) - data.start, data.segment)
        else:
            yield from _those(data, zeros)
            data = piece
        zeros = []
    yield from _those(data, zeros)


def _those(data: Piece | None, zeros: list[Piece]) -> list[Piece]:
    return zeros if data is None else [data, *zeros]


def _operation(piece: Piece, chunk: Chunk, buffer: memoryview | None) -> Operation:
    if piece.segment is None or buffer is None:
        return Operation(piece.start, piece.length, None)
    return Operation(piece.start, piece.length, data_of(piece, chunk, buffer))


def _end(piece: Piece) -> int:
    return piece.start + piece.length
