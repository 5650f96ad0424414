"""The plan: which bytes are read together, and which go from a reader to a writer together.

    extent    what the server lists; may be terabytes
    segment   at most `segment_size` bytes of one data extent, cut from its start
    request   segments, with the small gaps between them, that one reader reads in one go
    chunk     what one buffer holds: a request is cut into chunks of `buffer_size`
    piece     the bytes of one segment in one chunk, or a zero extent

Everything is a generator: a plan over a million extents costs no memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from ..model.extents import Kind, Run, Segment, cut
from .learning.gap import Limits

# A disk that was trimmed everywhere has many zero extents without data: they must not become one
# request for one writer.
MAX_PIECES = 1024


class Piece(NamedTuple):
    """What a writer gets in one call: bytes of a segment, or zeros if there is no segment."""

    start: int
    length: int
    segment: Segment | None


class Chunk(NamedTuple):
    """What one buffer holds: `length` bytes from `start` on. Only the pieces of it are used."""

    start: int
    length: int
    pieces: list[Piece]


class Request(NamedTuple):
    """What one reader reads in one go. If `length` is 0, there are only zeros to pass on."""

    start: int
    length: int
    chunks: list[Chunk]
    limits: Limits
    data: int  # bytes of segments in it; the rest is gaps
    segments: int


def plan_requests(
    runs: Iterable[Run],
    *,
    segment_size: int | None,
    request_size: int,
    buffer_size: int,
    limits: Callable[[], Limits],
    piece_size: int = 1,
) -> Iterator[Request]:
    """Group the extents of a disk into requests.

    Args:
        runs: (start, length, kind) of every extent, ordered.
        segment_size: Largest segment in bytes; a request never ends inside a segment. None if no
            digests are made: then segments end where pieces of the sink do.
        request_size: Largest request in bytes, unless a single segment is larger.
        buffer_size: Largest chunk in bytes.
        limits: Called once for each request, to get the gaps that it may read through.
        piece_size: See `HasPieceSize`: chunks end at multiples of this. At most `buffer_size`.

    Yields:
        Requests whose pieces, in ascending order, cover all data and all zero extents exactly
        once. Zeros travel with the data before them.
    """
    cut_extent = (
        partial(cut, size=segment_size)
        if segment_size
        else partial(
            _cut_at_pieces,
            size=max(request_size // piece_size, 1) * piece_size,
            piece_size=piece_size,
        )
    )
    chunk_size = buffer_size - buffer_size % piece_size
    group = _Group(limits(), request_size)
    for start, length, kind in runs:
        if kind is Kind.ZERO:
            if len(group.pieces) >= MAX_PIECES:
                yield group.request(chunk_size, piece_size)
                group = _Group(limits(), request_size)
            group.pieces.append(Piece(start, length, None))
        elif kind is Kind.DATA:
            for segment in cut_extent(start, length):
                if not group.takes(segment):
                    yield group.request(chunk_size, piece_size)
                    group = _Group(limits(), request_size)
                group.add(segment)
    if group.pieces:
        yield group.request(chunk_size, piece_size)


class _Group:
    """Collects the pieces of one request: only zeros, or data first and then both."""

    def __init__(self, limits: Limits, request_size: int) -> None:
        self.pieces: list[Piece] = []
        self.end = 0  # of the last segment
        self.data = 0  # bytes of all segments
        self.segments = 0
        self.limits = limits
        self._request_size = request_size
        self._has_gap = False

    def takes(self, segment: Segment) -> bool:
        if not self.pieces:
            return True
        if not self.end:
            return False
        gap = segment.start - self.end
        span = segment.start + segment.length - self.pieces[0].start
        largest = self.limits.span if gap or self._has_gap else self._request_size
        return gap <= self.limits.max_gap and span <= largest

    def add(self, segment: Segment) -> None:
        self._has_gap |= bool(self.end) and segment.start > self.end
        self.pieces.append(Piece(segment.start, segment.length, segment))
        self.end = segment.start + segment.length
        self.data += segment.length
        self.segments += 1

    def request(self, chunk_size: int, piece_size: int) -> Request:
        """Make the request, cut into chunks, which end at multiples of both sizes."""
        start = self.pieces[0].start
        origin = start - start % piece_size
        if not self.end:
            return Request(start, 0, [Chunk(start, 0, self.pieces)], self.limits, 0, 0)
        borders = [start, *range(origin + chunk_size, self.end, chunk_size), self.end]
        chunks = [Chunk(a, b - a, []) for a, b in pairwise(borders)]
        for piece in self.pieces:
            i = (piece.start - origin) // chunk_size
            if piece.segment is None:
                chunks[min(i, len(chunks) - 1)].pieces.append(piece)
            elif piece.start - origin + piece.length <= (i + 1) * chunk_size:
                chunks[i].pieces.append(piece)
            else:
                for number, part in enumerate(_split(piece, origin, chunk_size), i):
                    chunks[number].pieces.append(part)
        length = self.end - start
        return Request(start, length, chunks, self.limits, self.data, self.segments)


def lost_parts(runs: Iterable[Run], lost: Sequence[tuple[int, int]]) -> Iterator[Run]:
    """Yield what must be written again: the data in the lost ranges, and all zeros.

    Args:
        runs: (start, length, kind), ordered.
        lost: (start, end), ordered.
    """
    ends = [end for _, end in lost]
    for start, length, kind in runs:
        if kind is not Kind.DATA:
            yield start, length, kind
            continue
        for lost_start, lost_end in lost[bisect_right(ends, start) :]:
            if lost_start >= start + length:
                break
            first = max(lost_start, start)
            yield first, min(lost_end, start + length) - first, kind


def _cut_at_pieces(start: int, length: int, size: int, piece_size: int) -> Iterator[Segment]:
    """Cut an extent at multiples of `piece_size`, into segments of up to `size` bytes."""
    first = min(size - start % piece_size, length)
    yield Segment(start, first)
    yield from cut(start + first, length - first, size)


def _split(piece: Piece, origin: int, buffer_size: int) -> Iterator[Piece]:
    """Split a segment at the boundaries of chunks, which are counted from `origin`."""
    position, end = piece.start, piece.start + piece.length
    while position < end:
        border = position + buffer_size - (position - origin) % buffer_size
        yield Piece(position, min(border, end) - position, piece.segment)
        position = border
