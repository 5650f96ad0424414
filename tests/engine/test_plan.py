"""The plan: everything exactly once, in order, within the limits."""

from hypothesis import given
from hypothesis import strategies as st

from tapestream.engine.learning.gap import Limits
from tapestream.engine.plan import MAX_PIECES, Request, lost_parts, plan_requests
from tapestream.model.extents import Extent, Extents, Kind
from tests.strategies import extent_lists


def plan(
    extents: list[Extent],
    *,
    segment: int | None = 16,
    request: int = 64,
    buffer: int = 8,
    gap: int = 0,
    piece: int = 1,
) -> list[Request]:
    return list(
        plan_requests(
            Extents.of(extents).runs(),
            segment_size=segment,
            request_size=request,
            buffer_size=buffer,
            limits=lambda: Limits(gap, request),
            piece_size=piece,
        )
    )


def data(start: int, length: int) -> Extent:
    return Extent(start, length, zero=False)


def zero(start: int, length: int) -> Extent:
    return Extent(start, length, zero=True)


def ranges(requests: list[Request]) -> list[tuple[int, int]]:
    return [(request.start, request.length) for request in requests]


def test_an_empty_disk_has_one_request_without_data() -> None:
    [request] = plan([zero(0, 100)])
    assert request.length == 0
    assert [(p.start, p.length, p.segment) for p in request.chunks[0].pieces] == [(0, 100, None)]


def test_no_extents_no_requests() -> None:
    assert plan([]) == []


def test_a_large_extent_is_cut_into_requests_of_whole_segments() -> None:
    requests = plan([data(0, 150)])
    assert ranges(requests) == [(0, 64), (64, 64), (128, 22)]


def test_segments_larger_than_a_request_are_not_cut() -> None:
    assert ranges(plan([data(0, 250)], segment=100)) == [(0, 100), (100, 100), (200, 50)]


def test_neighbours_share_a_request_and_gaps_separate() -> None:
    disk = [data(0, 10), zero(10, 5), data(15, 10), data(25, 3)]
    assert ranges(plan(disk)) == [(0, 10), (15, 13)]
    assert ranges(plan(disk, gap=4)) == [(0, 10), (15, 13)]
    assert ranges(plan(disk, gap=5)) == [(0, 28)]


def test_limits_hold_for_one_request() -> None:
    limits = iter([Limits(100, 3), Limits(0, 64), Limits(100, 64)])
    requests = plan_requests(
        Extents.of(data(i, 1) if i % 2 == 0 else zero(i, 1) for i in range(9)).runs(),
        segment_size=16,
        request_size=64,
        buffer_size=8,
        limits=lambda: next(limits),
    )
    assert ranges(list(requests)) == [(0, 3), (4, 1), (6, 3)]


def test_the_span_limits_only_requests_with_gaps() -> None:
    disk = [data(0, 150), zero(150, 1), data(151, 4)]
    requests = plan_requests(
        Extents.of(disk).runs(),
        segment_size=16,
        request_size=64,
        buffer_size=8,
        limits=lambda: Limits(100, 20),
    )
    assert ranges(list(requests)) == [(0, 64), (64, 64), (128, 22), (151, 4)]


def test_a_disk_trimmed_everywhere_is_more_than_one_request() -> None:
    disk = [Extent(i, 1, zero=True, dirty=i % 2 == 0) for i in range(10 * MAX_PIECES)]
    requests = plan(disk)
    assert len(requests) == 5
    assert all(len(r.chunks[0].pieces) <= MAX_PIECES for r in requests)


def test_a_plan_is_lazy() -> None:
    huge = plan_requests(
        iter([(0, 2**62, Kind.DATA)]),
        segment_size=2**24,
        request_size=2**24,
        buffer_size=2**20,
        limits=lambda: Limits(0, 0),
    )
    assert next(huge).length == 2**24


@given(
    extent_lists(max_length=300),
    st.integers(1, 200),
    st.integers(1, 400),
    st.integers(1, 100),
    st.integers(0, 300),
)
def test_everything_exactly_once_in_order(
    extents: list[Extent], segment: int, request: int, buffer: int, gap: int
) -> None:
    requests = plan(extents, segment=segment, request=request, buffer=buffer, gap=gap)
    chunks = [chunk for r in requests for chunk in r.chunks]
    pieces = [piece for chunk in chunks for piece in chunk.pieces]

    assert [p.start for p in pieces] == sorted(p.start for p in pieces)
    assert bytes_of(pieces, zeros=False) == bytes_of_kind(extents, Kind.DATA)
    assert bytes_of(pieces, zeros=True) == bytes_of_kind(extents, Kind.ZERO)

    for r in requests:
        assert sum(chunk.length for chunk in r.chunks) == r.length
        assert r.length <= max(request, segment)
        whole = {p.segment for chunk in r.chunks for p in chunk.pieces if p.segment is not None}
        assert (r.segments, r.data) == (len(whole), sum(each.length for each in whole))
        position = r.start
        for chunk in r.chunks:
            assert chunk.start == position
            assert chunk.length <= buffer
            position += chunk.length
            for piece in chunk.pieces:
                if piece.segment is not None:
                    assert chunk.start <= piece.start
                    assert piece.start + piece.length <= position
        assert_gaps_are_small(r, gap)

    assert_segments(extents, requests, segment)


@given(
    extent_lists(max_length=300),
    st.integers(1, 400),
    st.integers(1, 60),
    st.integers(0, 100),
    st.integers(0, 300),
)
def test_whole_pieces_of_a_sink_come_whole(
    extents: list[Extent], request: int, size: int, more: int, gap: int
) -> None:
    requests = plan(extents, segment=None, request=request, buffer=size + more, gap=gap, piece=size)
    chunks = [chunk for r in requests for chunk in r.chunks]
    pieces = [piece for chunk in chunks for piece in chunk.pieces]
    assert bytes_of(pieces, zeros=False) == bytes_of_kind(extents, Kind.DATA)
    assert bytes_of(pieces, zeros=True) == bytes_of_kind(extents, Kind.ZERO)
    borders = {border for e in extents for border in (e.start, e.start + e.length)}
    for piece in pieces:
        if piece.segment is not None:
            for border in (piece.start, piece.start + piece.length):
                assert border % size == 0 or border in borders
    for r in requests:
        assert sum(chunk.length for chunk in r.chunks) == r.length
        assert r.length <= max(request, size)
        assert_gaps_are_small(r, gap)
    for chunk in chunks:
        assert chunk.length <= size + more
        for piece in chunk.pieces:
            if piece.segment is not None:
                assert chunk.start <= piece.start
                assert piece.start + piece.length <= chunk.start + chunk.length


def assert_gaps_are_small(request: Request, gap: int) -> None:
    end = request.start
    for chunk in request.chunks:
        for piece in chunk.pieces:
            if piece.segment is not None:
                assert piece.start - end <= gap
                end = piece.start + piece.length
    assert end == request.start + request.length


def assert_segments(extents: list[Extent], requests: list[Request], size: int) -> None:
    """Segments are counted from the start of their extent, and never leave their request."""
    wanted = [
        (start, min(size, e.start + e.length - start))
        for e in extents
        if e.kind is Kind.DATA
        for start in range(e.start, e.start + e.length, size)
    ]
    found = []
    for r in requests:
        seen = {p.segment for chunk in r.chunks for p in chunk.pieces if p.segment is not None}
        found += sorted(seen)
        for start, length in seen:
            assert r.start <= start
            assert start + length <= r.start + r.length
    assert found == wanted


def bytes_of(pieces: list, *, zeros: bool) -> list[int]:  # type: ignore[type-arg]
    return [
        offset
        for p in pieces
        if (p.segment is None) is zeros
        for offset in range(p.start, p.start + p.length)
    ]


def bytes_of_kind(extents: list[Extent], kind: Kind) -> list[int]:
    return [o for e in extents if e.kind is kind for o in range(e.start, e.start + e.length)]


def test_what_was_lost_is_read_again_and_all_zeros_are_zeroed_again() -> None:
    runs = [
        (0, 10, Kind.DATA),
        (10, 5, Kind.ZERO),
        (15, 5, Kind.CLEAN),
        (20, 30, Kind.DATA),
        (50, 10, Kind.DATA),
    ]
    lost = [(2, 4), (8, 22), (30, 31), (40, 55), (100, 200)]
    assert list(lost_parts(runs, lost)) == [
        (2, 2, Kind.DATA),
        (8, 2, Kind.DATA),
        (10, 5, Kind.ZERO),
        (15, 5, Kind.CLEAN),
        (20, 2, Kind.DATA),
        (30, 1, Kind.DATA),
        (40, 10, Kind.DATA),
        (50, 5, Kind.DATA),
    ]
