"""What every source must keep: what it says about the disk, and how it reads.

The name of each check is the id of its clause, and its docstring is the clause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise, zip_longest
from unittest import SkipTest

from ...backend.checks import (
    check_unchanged,
    flag_of,
    info_of,
    number_of,
    read_order,
    reader_of,
)
from ...backend.protocols import Reader
from ...engine.copy import copy
from ...model.extents import Extents, Kind
from ..memory import MemorySink
from .reading import (
    NOISE,
    ODD,
    PLAIN,
    SMALL,
    THROUGH_GAPS,
    Lend,
    SourceCase,
    Way,
    data_runs,
    finish,
    lend,
    listed,
    opened,
    plainly,
    ranges,
    read,
    read_all,
    reader_from,
    requests,
    require_data,
    require_several,
    steps,
)
from .turns import beside_each_other

# Readers that are opened together. The engine opens four, or as many as the caller asks for.
MOST_READERS = 8


# What it says about the disk


def source_names(case: SourceCase) -> None:
    """A source has the six names of a source.

    `max_readers` is at least 1, and `sequential` is True or False.
    """
    with opened(case.make) as source:
        number_of(source, "max_readers", least=1)
        flag_of(source, "sequential")


def source_info(case: SourceCase) -> None:
    """`info` is a `BackupInfo`, even before `extents` is called."""
    with opened(case.make) as source:
        info_of(source)
        listed(source)
        info_of(source)


def source_extents_cover(case: SourceCase) -> None:
    """The extents cover the disk from offset 0, in order, without gaps or overlaps."""
    with opened(case.make) as source:
        Extents.of(source.extents())


def source_extents_again(case: SourceCase) -> None:
    """`extents` may be called more than once, and returns the same extents each time."""
    with opened(case.make) as source:
        first, second = list(listed(source)), list(listed(source))
    with opened(case.make) as source:
        third = list(listed(source))
    for again, when in (second, "the second time"), (third, "of another source that make() made"):
        different = next(((a, b) for a, b in zip_longest(first, again) if a != b), None)
        assert different is None, (
            f"extents() listed {len(first)} extents at first, and {len(again)} {when}; the first "
            f"that differs was {different[0]}, and then {different[1]}"
        )


def source_size(case: SourceCase) -> None:
    """After `extents`, `info.size` is the size of the disk: where the last extent ends."""
    with opened(case.make) as source:
        extents, info = listed(source), info_of(source)
        assert info.size == extents.size, (
            f"info.size is {info.size}, but the extents cover {extents.size} bytes"
        )
        given = None if case.content is None else len(case.content)
        assert given in (None, extents.size), (
            f"the extents cover {extents.size} bytes, but the content has {given}"
        )


def source_context(case: SourceCase) -> None:
    """`info.context` is "dirty" if the extents say what is dirty, otherwise "zero"."""
    with opened(case.make) as source:
        extents = listed(source)
        context = info_of(source).context
        assert context in ("zero", "dirty"), f"info.context is {context!r}, not 'zero' or 'dirty'"
        Extents.of(extents, context=context)


def source_info_stays(case: SourceCase) -> None:
    """The size and the context in `info` do not change while the disk is read."""
    with opened(case.make) as source:
        extents, before = listed(source), info_of(source)
        with ExitStack() as stack:
            for _ in range(1 if source.sequential else min(source.max_readers, MOST_READERS)):
                reader = stack.enter_context(reader_from(source))
                check_unchanged(source, before)
            read(reader, requests(source, extents), bytearray(extents.size))
            check_unchanged(source, before)
        finish(source)
        check_unchanged(source, before)


def source_zeros(case: SourceCase) -> None:
    """Where the extents say that there are zeros, the disk has zeros: a copy does not read them."""
    if case.content is None:
        raise SkipTest("no content= was given")
    with opened(case.make) as source:
        for start, length, kind in listed(source).runs():
            found = bytes(case.content[start : start + length]) if kind is Kind.ZERO else b""
            assert not any(found), (
                f"the extents say that {length} bytes at {start} are zeros, but the content has "
                "data there: a copy would lose it"
            )


# How it is read


def source_reader(case: SourceCase) -> None:
    """`open_reader` returns a reader. If it has `prefetch`, its `prefetch_depth` is 1 or more."""
    with opened(case.make) as source:
        listed(source)
        reader_of(source).close()


def source_content(case: SourceCase) -> None:
    """`readinto` reads the bytes of the disk that begin at `start`."""
    if case.content is None:
        raise SkipTest("no content= was given")
    extents, disk = plainly(case)
    for start, length, kind in extents.runs():
        expected = bytes(case.content[start : start + length])
        found = bytes(disk[start : start + length])
        if kind is Kind.DATA and found != expected:
            i = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            raise AssertionError(
                f"at offset {start + i} the source delivers {found[i : i + 8].hex(' ')}, but the "
                f"disk has {expected[i : i + 8].hex(' ')}"
            )


def source_fills(case: SourceCase) -> None:
    """`readinto` fills the whole buffer, whatever was in it before."""
    extents, disk = plainly(case)
    with opened(case.make) as source:
        again = read_all(source, listed(source), lending=partial(lend, noise=NOISE ^ 0xFF))
    for start, length, kind in extents.runs():
        one, other = disk[start : start + length], again[start : start + length]
        if kind is Kind.DATA and one != other:
            i = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
            kept = one[i] == NOISE and other[i] == NOISE ^ 0xFF
            assert not kept, (
                f"readinto did not fill its buffer: the byte for offset {start + i} is still what "
                "it was before the call. It must fill all of the buffer, or raise an error"
            )
            raise AssertionError(f"read twice, the disk differs at offset {start + i}")


def source_returns(case: SourceCase) -> None:
    """`readinto` returns None, never a count. Reading less than the whole buffer is an error."""

    def counted(reader: Reader, start: int, length: int) -> bytearray:
        buffer = bytearray([NOISE]) * length
        returned: object = reader.readinto(start, memoryview(buffer))
        assert returned is None or (type(returned) is int and returned == length), (
            f"readinto at offset {start} returned {returned!r} for {length} bytes: it must fill "
            "the whole buffer, or raise an error, and return None"
        )
        return buffer

    _read_in_ways(case, counted)


def source_bounds(case: SourceCase) -> None:
    """`readinto` writes only into its buffer, not into the memory around it."""
    border = 4096

    def guarded(reader: Reader, start: int, length: int) -> bytearray:
        whole = bytearray([NOISE]) * (border + length + border)
        reader.readinto(start, memoryview(whole)[border : border + length])
        around = whole[:border] + whole[border + length :]
        assert around.count(NOISE) == 2 * border, (
            f"readinto of {length} bytes at offset {start} wrote outside of its buffer, into "
            "memory where other data may be"
        )
        return whole[border : border + length]

    _read_in_ways(case, guarded)


def source_buffers(case: SourceCase) -> None:
    """When `readinto` returns, its buffer is used for other data.

    The reader must not keep any part of it.
    """
    lent: list[tuple[int, bytearray, bytes]] = []

    def taken_back(reader: Reader, start: int, length: int) -> bytearray:
        buffer = bytearray([NOISE]) * length
        view = memoryview(buffer)
        reader.readinto(start, view)
        try:
            view.release()
            buffer.append(0)  # fails while any other view exists
        except BufferError:
            raise AssertionError(
                f"readinto at offset {start} kept its buffer, or a part of it: the buffer is used "
                "again for other data as soon as the call returns"
            ) from None
        del buffer[-1]
        lent.append((start, buffer, bytes(buffer)))
        return buffer

    _read_in_ways(case, taken_back)
    for start, buffer, before in lent:
        assert buffer == before, (
            f"the buffer of the readinto at offset {start} was changed after the call: it is used "
            "again for other data as soon as the call returns"
        )


def source_odd(case: SourceCase) -> None:
    """A range may begin at any offset in a data extent, and have any length."""
    _read_like(case, ODD, f"reading ranges of {ODD.buffer} bytes")


def source_single_bytes(case: SourceCase) -> None:
    """A range may be a single byte, such as the last one of the disk or of an extent."""
    plain = plainly(case)
    with opened(case.make) as source:
        data = data_runs(source, listed(source))
        found = bytearray(plain.disk)
        with reader_from(source) as reader:
            for start, length in data:
                for at in sorted({start, start + length - 1}):
                    found[at] ^= 0xFF
                    read(reader, ranges([(at, 1)]), found)
                    assert found[at] == plain.disk[at], (
                        f"reading the single byte at offset {at}, of the data extent of {length} "
                        f"bytes at {start}, delivered {found[at]:#x}, not {plain.disk[at]:#x}"
                    )


def source_across_extents(case: SourceCase) -> None:
    """A range may extend across extents. Its data is right; the gaps may contain anything."""
    with opened(case.make) as source:
        planned = requests(source, listed(source), THROUGH_GAPS)
        if all(request.segments < 2 for request in planned):
            raise SkipTest("its disk has no two data extents close to each other")
    _read_like(case, THROUGH_GAPS, "reading across extents")


def source_within_gaps(case: SourceCase) -> None:
    """A range may begin or end in a gap between data, or contain no data at all."""
    gap = _require_gap(case)
    way = THROUGH_GAPS._replace(buffer=min(max(1, gap // 3), ODD.buffer))
    _read_like(case, way, f"reading through gaps in ranges of {way.buffer} bytes")


def source_skips(case: SourceCase) -> None:
    """A reader may be asked for a range further on: it skips the data before it."""
    plain = plainly(case)
    with opened(case.make) as source:
        extents = listed(source)
        data = data_runs(source, extents)
        asked = [(start + length // 2, length - length // 2) for start, length in data[1::2]]
        if len(data) == 1 and data[0][1] > 1:
            asked = [(sum(data[0]) - 1, 1)]
        found = bytearray(plain.disk)
        for start, length in asked:
            found[start : start + length] = bytes(NOISE for _ in range(length))
        with reader_from(source) as reader:
            read(reader, ranges(asked), found)
    require_data(found, plain, "reading the end of every second data extent, and no other data,")


def source_max_readers(case: SourceCase) -> None:
    """Up to `max_readers` readers may be open at the same time."""
    with opened(case.make) as source, ExitStack() as stack:
        listed(source)
        for _ in range(require_several(source, MOST_READERS)):
            stack.enter_context(reader_from(source))


def source_independent(case: SourceCase) -> None:
    """Reading with one reader does not move another: each call says where to read."""
    plain = plainly(case)
    with opened(case.make) as source, ExitStack() as stack:
        count = require_several(source, 3)
        extents = listed(source)
        found = bytearray(extents.size)
        planned = list(requests(source, extents, SMALL))
        running = [
            steps(stack.enter_context(reader_from(source)), planned[i::count], found)
            for i in range(count)
        ]
        _take_turns(running)
    require_data(found, plain, f"{count} readers that read ranges in turn, in one thread,")


def source_threads(case: SourceCase) -> None:
    """Several readers may read at the same time, each in its own thread."""
    plain = plainly(case)
    with opened(case.make) as source, ExitStack() as stack:
        count = require_several(source, 4)
        extents = listed(source)
        found = bytearray(extents.size)
        planned = list(requests(source, extents, SMALL))
        readers = [stack.enter_context(reader_from(source)) for _ in range(count)]
        beside_each_other(
            [[partial(read, each, planned[i::count], found)] for i, each in enumerate(readers)]
        )
    require_data(found, plain, f"{count} readers that read at the same time")


def source_any_thread(case: SourceCase) -> None:
    """A reader may be opened in one thread, read in another, and closed in a third."""
    plain = plainly(case)
    with opened(case.make) as source:
        extents = listed(source)
        found = bytearray(extents.size)
        planned = list(requests(source, extents))
        reader = reader_of(source)
        try:
            beside_each_other([[partial(read, reader, planned, found)]])
        finally:
            beside_each_other([[reader.close]])
    require_data(found, plain, "a reader in a thread other than the one that opened it")


def source_copy(case: SourceCase) -> None:
    """A copy with any number of readers delivers the same data as one reader."""
    plain = plainly(case)
    for sequential, workers, gap in (False, 1, "auto"), (True, 4, 0), (False, 4, 1024**2):
        sink = MemorySink(max_writers=workers, sequential=sequential)
        with opened(case.make) as source, sink:
            if sequential and read_order(source, listed(source)) is not None:
                continue  # such a sink can take only the order of the disk
            copy(
                source,
                sink,
                max_workers=workers,
                max_gap=gap,  # type: ignore[arg-type]
                buffer_size=4096,
                buffer_memory=64 * 1024,
            )
        require_data(sink.disk, plain, f"a copy with up to {workers} readers")


# Helpers


def _read_in_ways(case: SourceCase, lending: Lend) -> None:
    """Read all data in large and in odd ranges."""
    for way in PLAIN, ODD:
        with opened(case.make) as source:
            read_all(source, listed(source), way, lending)


def _read_like(case: SourceCase, way: Way, doing: str) -> None:
    """Read all data in some way, and make sure that it is right."""
    plain = plainly(case)
    with opened(case.make) as source:
        found = read_all(source, listed(source), way)
    require_data(found, plain, doing)


def _require_gap(case: SourceCase) -> int:
    """Length in bytes of the smallest gap between data that the engine may read through."""
    with opened(case.make) as source:
        planned = list(requests(source, listed(source), THROUGH_GAPS))
    gaps = [
        after.start - before.start - before.length
        for request in planned
        for before, after in pairwise(
            piece for chunk in request.chunks for piece in chunk.pieces if piece.segment is not None
        )
        if after.start > before.start + before.length
    ]
    if not gaps:
        raise SkipTest("its disk has no gap of up to 16 MiB between data")
    return min(gaps)


def _take_turns(running: Sequence[Iterator[None]]) -> None:
    for _ in zip_longest(*running):
        pass


DATA = (
    source_names,
    source_info,
    source_extents_cover,
    source_extents_again,
    source_size,
    source_context,
    source_info_stays,
    source_zeros,
    source_reader,
    source_content,
    source_fills,
    source_returns,
    source_bounds,
    source_buffers,
    source_odd,
    source_single_bytes,
    source_across_extents,
    source_within_gaps,
    source_skips,
    source_max_readers,
    source_independent,
    source_threads,
    source_any_thread,
    source_copy,
)
