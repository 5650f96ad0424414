"""What a sink says about its pieces, and a source about its gaps, and what a copy then does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestream import Extent, copy
from tapestream.backend import ForwardingSource
from tapestream.engine.learning.gap import AutoGap, Limits
from tapestream.engine.options import REQUEST_SIZE, CopyOptions
from tapestream.errors import BackendError, UsageError
from tapestream.testing import MemorySink, MemorySource
from tests.strategies import extent_lists

KIB = 1024
DISK = random.Random(5).randbytes(1000 * KIB)
BUFFERS: dict[str, Any] = {"buffer_size": 64 * KIB, "buffer_memory": 256 * KIB}


class Pieces(MemorySink):
    """A sink in memory that asks for pieces."""

    def __init__(self, piece_size: Any, **options: Any) -> None:
        super().__init__(**options)
        self.piece_size = piece_size


@settings(max_examples=50, deadline=None)
@given(
    extent_lists(min_size=1, max_length=80 * KIB, max_size=12),
    st.integers(1, 64 * KIB),
    st.sampled_from([{"sequential": True}, {"max_writers": 3}]),
    st.sampled_from([0, 5000, "auto"]),
    st.sampled_from([None, 10**9]),
)
def test_whole_pieces_come_in_one_write(
    extents: list[Extent],
    piece_size: int,
    options: dict[str, Any],
    max_gap: Any,
    max_rate: int | None,
) -> None:
    piece_size = min(piece_size, 32 * KIB if max_rate else 64 * KIB)  # a limit halves the buffers
    size = extents[-1].start + extents[-1].length
    source = MemorySource(DISK[:size], extents)
    sink = Pieces(piece_size, **options)
    copy(source, sink, max_gap=max_gap, max_rate=max_rate, **BUFFERS)
    borders = {0, size, *(e.start for e in extents)}
    for start, length in sink.writes:
        assert start % piece_size == 0 or start in borders
        assert (start + length) % piece_size == 0 or start + length in borders


def test_the_same_data_gives_the_same_pieces_wherever_it_begins() -> None:
    """Without the ability, data is cut by how far its extent's start is from the next buffer's."""

    def pieces(begins: int, **options: Any) -> set[tuple[int, int]]:
        extents = [Extent(0, begins, zero=True), Extent(begins, len(DISK) - begins)]
        sink = Pieces(32 * KIB) if options.pop("asks") else MemorySink()
        copy(MemorySource(DISK, extents), sink, **BUFFERS)
        return {write for write in sink.writes if write[0] >= 100 * KIB}

    assert pieces(1000, asks=True) == pieces(2000, asks=True)
    assert pieces(1000, asks=False) != pieces(2000, asks=False)


def test_a_piece_must_fit_into_a_buffer() -> None:
    sink = Pieces(65 * KIB)
    with pytest.raises(
        UsageError, match=r"piece_size is 66560 bytes.*a buffer of this copy has only 65536"
    ):
        copy(MemorySource(DISK), sink, **BUFFERS)
    assert sink.state == "aborted"
    with pytest.raises(BackendError, match="piece_size is a str, not a whole number"):
        copy(MemorySource(DISK), Pieces("4k"))
    with pytest.raises(UsageError, match="piece_size is 0: it must be at least 1"):
        copy(MemorySource(DISK), Pieces(0))


class Dear(ForwardingSource):
    skips_gaps = True


def test_a_source_that_skips_gaps_is_read_without_them() -> None:
    source = MemorySource(DISK)
    assert CopyOptions().gap(Dear(source), 2, None) == Limits(0, REQUEST_SIZE)
    assert isinstance(CopyOptions().gap(source, 2, None), AutoGap)
    assert CopyOptions(max_gap=KIB).gap(Dear(source), 2, None) == Limits(KIB, REQUEST_SIZE)
    requests = {"read": 0}

    def count(start: int, length: int) -> None:
        requests["read"] += length

    fragmented = [Extent(i * KIB, KIB, zero=bool(i % 2)) for i in range(1000)]
    copy(Dear(MemorySource(DISK, fragmented, before_read=count)), MemorySink())
    assert requests["read"] == 500 * KIB


def test_a_flag_must_be_a_flag() -> None:
    class Wrong(ForwardingSource):
        skips_gaps = 1

    with pytest.raises(BackendError, match=r"skips_gaps is .* not True or False"):
        copy(Wrong(MemorySource(DISK)), MemorySink())
