"""compare(): two sources are the same disk, or it is told where they are not."""

from __future__ import annotations

import io
import itertools
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapestream import (
    CompareReport,
    Extent,
    ImageioHTTPSource,
    RawImageSource,
    Source,
    TarStreamSource,
    compare,
)
from tapestream.errors import (
    DigestMismatchError,
    ExtentsError,
    IncompleteStreamError,
    LocalIOError,
    TapestreamError,
    UsageError,
)
from tapestream.model.extents import Kind, Run
from tapestream.testing import ImageioDaemon, serve_image
from tapestream.testing.memory import MemorySource, Pattern
from tests.chains import Watched
from tests.disks import noise
from tests.tar.layouts import Layout, flipped
from tests.tar.tars import tar_of

pytestmark = pytest.mark.timeout(120)

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4
# Stands where nobody may look: in what the extents call zeros, or clean.
POISON = b"\xdd"


def changed(disk: bytes, *offsets: int) -> bytes:
    return flipped(disk, *offsets)


def zero(start: int, length: int) -> Extent:
    return Extent(start, length, zero=True)


# --- All pairs of real sources ---

SIZE = 6 * MIB + 3 * 512  # of a size that is no multiple of anything but a sector
EXTENTS = [
    Extent(0, 2 * MIB),
    zero(2 * MIB, 2 * MIB - 64 * KIB),
    Extent(4 * MIB - 64 * KIB, 128 * KIB),
    zero(4 * MIB + 64 * KIB, MIB),
    Extent(5 * MIB + 64 * KIB, SIZE - 5 * MIB - 64 * KIB),
]


def make_disk() -> bytes:
    disk = bytearray(SIZE)
    for e in EXTENTS:
        if not e.zero:
            disk[e.start : e.start + e.length] = noise(e.length, e.start)
    disk[MIB : MIB + 4096] = bytes(4096)  # data that is all zero
    return bytes(disk)


DISK = make_disk()
# One byte is in data; one in what is zeros otherwise; two in blocks that touch; and the last.
WHERE = [5, 3 * MIB, 4 * MIB - 1, 4 * MIB, SIZE - 1]
OTHER = changed(DISK, *WHERE)
OTHER_EXTENTS = [
    Extent(0, 2 * MIB),
    zero(2 * MIB, MIB),
    Extent(3 * MIB, MIB + 128 * KIB),
    zero(4 * MIB + 128 * KIB, 5 * MIB + 64 * KIB - 4 * MIB - 128 * KIB),
    Extent(5 * MIB + 64 * KIB, SIZE - 5 * MIB - 64 * KIB),
]
DIFFERING = ((0, MIB), (3 * MIB, 2 * MIB), (6 * MIB, 3 * 512))


@dataclass
class Disk:
    """A disk to be opened in any way."""

    content: bytes
    extents: Sequence[Extent]
    raw: Path
    nbd_url: str
    daemon: ImageioDaemon

    @contextmanager
    def open(self, kind: str) -> Iterator[Source]:
        with ExitStack() as stack:
            if kind == "memory":
                source: Source = MemorySource(self.content, self.extents)
            elif kind == "raw":
                source = RawImageSource(self.raw)
            elif kind == "tar":
                tar = tar_of(MemorySource(self.content, self.extents), part_size=MIB)
                source = TarStreamSource(io.BytesIO(tar))
            else:
                url = self.daemon.add_ticket(self.nbd_url, len(self.content))
                unix = kind == "unix"
                source = ImageioHTTPSource(url, cafile=self.daemon.cafile, use_unix_socket=unix)
                assert source.over_unix_socket is unix
            yield stack.enter_context(source)


def sparse(path: Path, content: bytes, extents: Sequence[Extent]) -> None:
    with path.open("wb") as f:
        f.truncate(len(content))
        for e in extents:
            if not e.zero:
                f.seek(e.start)
                f.write(content[e.start : e.start + e.length])


@pytest.fixture(scope="module")
def disks(
    tmp_path_factory: pytest.TempPathFactory, daemon: ImageioDaemon
) -> Iterator[tuple[Disk, Disk]]:
    directory = tmp_path_factory.mktemp("compare")
    one, other = directory / "one.raw", directory / "other.raw"
    sparse(one, DISK, EXTENTS)
    sparse(other, OTHER, OTHER_EXTENTS)
    with (
        serve_image(one, format="raw") as one_url,
        serve_image(other, format="raw") as other_url,
    ):
        yield (
            Disk(DISK, EXTENTS, one, one_url, daemon),
            Disk(OTHER, OTHER_EXTENTS, other, other_url, daemon),
        )


KINDS = ("memory", "raw", "tar", "unix", "tls")
PAIRS = pytest.mark.parametrize(("a", "b"), [*itertools.product(KINDS, KINDS)])


@PAIRS
def test_equal_disks(a: str, b: str, disks: tuple[Disk, Disk]) -> None:
    with disks[0].open(a) as one, disks[0].open(b) as other:
        report = compare(one, other)
    assert report == CompareReport(differing=(), compared=SIZE)
    assert report.equal


@PAIRS
def test_differing_disks(a: str, b: str, disks: tuple[Disk, Disk]) -> None:
    with disks[0].open(a) as one, disks[1].open(b) as other:
        report = compare(one, other)
    assert report == CompareReport(differing=DIFFERING, compared=SIZE)
    assert not report.equal


# --- Where they differ ---


def compared(a: Source, b: Source, **options: Any) -> CompareReport:
    """Compare, and make sure that each is finished once, and stays open."""
    with a, b:
        one, other = Watched(a), Watched(b)
        report = compare(one, other, **options)
        for source in (one, other):
            assert source.calls.count("finish") == 1
            assert source.calls.count("open_reader") >= 1
            assert "close" not in source.calls
        return report


def sources(
    one: bytes, other: bytes, *extents: Sequence[Extent] | None, readers: int = 4
) -> tuple[MemorySource, MemorySource]:
    listed = [*extents, None, None]
    return (
        MemorySource(one, listed[0], max_readers=readers),
        MemorySource(other, listed[1], max_readers=readers),
    )


@pytest.mark.parametrize(
    ("size", "where", "expected"),
    [
        (3 * MIB, [0], [(0, MIB)]),
        (3 * MIB, [MIB - 1], [(0, MIB)]),
        (3 * MIB, [MIB], [(MIB, MIB)]),
        (3 * MIB, [MIB - 1, MIB], [(0, 2 * MIB)]),
        (3 * MIB, [3 * MIB - 1], [(2 * MIB, MIB)]),
        (3 * MIB, [0, 3 * MIB - 1], [(0, MIB), (2 * MIB, MIB)]),
        (3 * MIB, [0, MIB, 2 * MIB], [(0, 3 * MIB)]),
        (3 * MIB + 1, [3 * MIB], [(3 * MIB, 1)]),
        (3 * MIB + 1, [3 * MIB - 1, 3 * MIB], [(2 * MIB, MIB + 1)]),
        (1, [0], [(0, 1)]),
        (9 * MIB, [2 * MIB + 5, 4 * MIB, 5 * MIB, 8 * MIB], None),
    ],
)
@pytest.mark.parametrize("buffer_size", [64 * KIB, 3 * 256 * KIB, 4 * MIB])
def test_one_byte_here_and_there(
    size: int, where: list[int], expected: list[tuple[int, int]] | None, buffer_size: int
) -> None:
    if expected is None:
        expected = [(2 * MIB, MIB), (4 * MIB, 2 * MIB), (8 * MIB, MIB)]
    disk = noise(size)
    report = compared(
        *sources(disk, changed(disk, *where)),
        buffer_size=buffer_size,
        buffer_memory=4 * buffer_size,
    )
    assert report == CompareReport(tuple(expected), size)


@pytest.mark.parametrize("offset", [0, 1, 511, 4095, 4096, MIB - 1, MIB, 2 * MIB - 1])
def test_one_byte_in_what_the_other_has_as_zeros(offset: int) -> None:
    one = bytearray(2 * MIB)
    one[offset] = 1
    other = POISON * (2 * MIB)
    block = (offset // MIB * MIB, MIB)
    for pair in (
        sources(bytes(one), other, None, [zero(0, 2 * MIB)]),
        sources(other, bytes(one), [zero(0, 2 * MIB)], None),
    ):
        assert compared(*pair) == CompareReport((block,), 2 * MIB)


def test_zeros_are_zeros() -> None:
    as_data, as_zeros = [Extent(0, 3 * MIB)], [zero(0, 3 * MIB)]
    mixed = [Extent(0, 5), zero(5, MIB), Extent(MIB + 5, 2 * MIB - 5)]
    for first, second in itertools.product((as_data, as_zeros, mixed), repeat=2):
        one = MemorySource(hidden(bytes(3 * MIB), first), first)
        other = MemorySource(hidden(bytes(3 * MIB), second), second)
        assert compared(one, other) == CompareReport((), 3 * MIB)


def hidden(disk: bytes, extents: Sequence[Extent]) -> bytes:
    """The disk with poison where nobody may look."""
    found = bytearray(disk)
    for e in extents:
        if e.kind is not Kind.DATA:
            found[e.start : e.start + e.length] = POISON * e.length
    return bytes(found)


def test_empty_disks() -> None:
    assert compared(MemorySource(b""), MemorySource(b"")) == CompareReport((), 0)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (2 * MIB, 3 * MIB, (2 * MIB, MIB)),
        (2 * MIB, 5 * MIB + 7, (2 * MIB, 3 * MIB + 7)),
        (2 * MIB + 100, 3 * MIB, (2 * MIB, MIB)),  # in whole blocks
        (0, 1, (0, 1)),
        (0, 3 * MIB, (0, 3 * MIB)),
    ],
)
def test_disks_of_different_sizes(one: int, other: int, expected: tuple[int, int]) -> None:
    disk = noise(other)
    for a, b in ((disk[:one], disk), (disk, disk[:one])):
        assert compared(*sources(a, b)) == CompareReport((expected,), one)
    assert compared(
        TarStreamSource(io.BytesIO(tar_of(MemorySource(disk)))), MemorySource(disk[:one])
    ).differing == (expected,)
    # What is behind is different, even if it is zeros.
    zeros = [zero(0, other)]
    assert compared(*sources(bytes(one), bytes(other), None, zeros)).differing == (expected,)


# --- Incremental backups ---


def dirty(*extents: tuple[int, Kind]) -> list[Extent]:
    made: list[Extent] = []
    start = 0
    for length, kind in extents:
        made.append(Extent(start, length, zero=kind is Kind.ZERO, dirty=kind is not Kind.CLEAN))
        start += length
    return made


CHANGES = dirty(
    (MIB, Kind.CLEAN), (2 * MIB, Kind.DATA), (MIB, Kind.ZERO), (2 * MIB, Kind.CLEAN), (9, Kind.DATA)
)
NOW = noise(3 * MIB) + bytes(MIB) + noise(2 * MIB + 9, 2)


@pytest.mark.parametrize("as_tar", [False, True], ids=["memory", "tar"])
def test_an_incremental_backup_with_the_disk(as_tar: bool) -> None:
    def incremental() -> Source:
        source = MemorySource(hidden(NOW, CHANGES), CHANGES)
        return TarStreamSource(io.BytesIO(tar_of(source))) if as_tar else source

    size = 3 * MIB + 9
    # Nobody knows of what is clean, so that it is another there does not matter.
    same = changed(NOW, 5, MIB - 1, 4 * MIB, 6 * MIB - 1)
    for full in (NOW, same):
        assert compared(incremental(), MemorySource(full)) == CompareReport((), size)
        assert compared(MemorySource(full), incremental()) == CompareReport((), size)
    other = changed(same, MIB, 4 * MIB - 1, 6 * MIB)
    expected = CompareReport(((MIB, MIB), (3 * MIB, MIB), (6 * MIB, 9)), size)
    assert compared(incremental(), MemorySource(other)) == expected
    assert compared(MemorySource(other), incremental()) == expected


def test_two_incremental_backups_of_which_little_is_dirty_in_both() -> None:
    one = dirty((2 * MIB, Kind.DATA), (2 * MIB, Kind.CLEAN))
    other = dirty((MIB, Kind.CLEAN), (3 * MIB, Kind.DATA))
    disk = noise(4 * MIB)
    for content, expected in ((disk, ()), (changed(disk, 0, MIB, 2 * MIB), ((MIB, MIB),))):
        pair = sources(hidden(disk, one), hidden(content, other), one, other)
        assert compared(*pair) == CompareReport(expected, MIB)


# --- Against a model ---


@st.composite
def extents_of(draw: st.DrawFn, size: int, *, incremental: bool) -> list[Extent]:
    lengths = st.one_of(st.integers(1, 3000), st.sampled_from([4096, 64 * KIB, MIB, 3 * MIB]))
    kinds = [Kind.DATA, Kind.DATA, Kind.ZERO] + [Kind.CLEAN] * incremental
    made: list[Extent] = []
    start = 0
    while start < size:
        length = min(draw(lengths), size - start) if len(made) < 20 else size - start
        kind = draw(st.sampled_from(kinds))
        flag = kind is not Kind.CLEAN if incremental else None
        made.append(Extent(start, length, zero=kind is Kind.ZERO, dirty=flag))
        start += length
    return made


def model(
    one: bytes, other: bytes, one_extents: Sequence[Extent], other_extents: Sequence[Extent]
) -> CompareReport:
    """What each says of each byte, block by block."""
    size = min(len(one), len(other))
    known = bytearray(b"\x01") * size
    disks = []
    for content, extents in ((one, one_extents), (other, other_extents)):
        disk = bytearray(content)
        for e in extents:
            here = slice(e.start, e.start + e.length)
            if e.kind is Kind.ZERO:
                disk[here] = bytes(e.length)
            elif e.kind is Kind.CLEAN:
                known[here] = bytes(len(known[here]))
        disks.append(disk)
    end = max(len(one), len(other))
    blocks = [slice(block, block + MIB) for block in range(0, end, MIB)]
    differ = [
        block.start
        for block in blocks
        if (len(one) != len(other) and block.stop > size)
        or _differs(known[block], *(disk[block] for disk in disks))
    ]
    return CompareReport(_stretches(differ, end), sum(known))


def _differs(known: bytearray, one: bytearray, other: bytearray) -> bool:
    pieces = zip(known, one, other, strict=True)
    return one != other and any(k and a != b for k, a, b in pieces)


def _stretches(blocks: Sequence[int], end: int) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for block in blocks:
        start = found.pop()[0] if found and sum(found[-1]) == block else block
        found.append((start, min(block + MIB, end) - start))
    return tuple(found)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_disks(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 4096, MIB, 3 * MIB + 5, 5 * MIB]))
    grown = data.draw(st.sampled_from([0, 0, 0, 1, 2 * MIB]))
    disks, listed = [], []
    for length in (size, size + grown):
        disk = bytearray(
            bytes(length) if data.draw(st.booleans()) else noise(size + grown)[:length]
        )
        extents = data.draw(extents_of(length, incremental=data.draw(st.booleans())))
        listed.append(extents)
        disks.append(disk)
    for disk in disks:
        for _ in range(data.draw(st.integers(0, 3))):
            disk[data.draw(st.integers(0, len(disk) - 1))] ^= 0x55
    if data.draw(st.booleans()):  # mostly the same
        disks[1][:size] = disks[0]
        for _ in range(data.draw(st.integers(0, 2))):
            disks[1][data.draw(st.integers(0, len(disks[1]) - 1))] ^= 0x55
    expected = model(bytes(disks[0]), bytes(disks[1]), *listed)
    buffer_size = data.draw(st.sampled_from([4096, 64 * KIB, 4 * MIB]))
    made: list[Source] = []
    for disk, extents in zip(disks, listed, strict=True):
        source: Source = MemorySource(
            bytes(disk), extents, max_readers=data.draw(st.integers(1, 4))
        )
        if data.draw(st.booleans()):
            tar = tar_of(source, part_size=data.draw(st.sampled_from([512 * 100, MIB])))
            source = TarStreamSource(io.BytesIO(tar))
        made.append(source)
    if data.draw(st.booleans()):
        made.reverse()
    report = compared(*made, buffer_size=buffer_size, buffer_memory=4 * buffer_size)
    assert report == expected


# --- Huge disks ---


def zeros(size: int) -> MemorySource:
    """A huge disk of zeros, of which nothing may be read."""

    def fail(start: int, length: int) -> None:
        raise AssertionError("zeros are not read")

    return MemorySource(Pattern(b"\0", size), [zero(0, size)], before_read=fail)


def huge(path: Path, size: int, *bytes_at: int) -> RawImageSource:
    with path.open("wb") as f:
        f.truncate(size)
        for at in bytes_at:
            f.seek(at)
            f.write(b"x")
    return RawImageSource(path)


@pytest.mark.timeout(20)
def test_huge_zeros_cost_nothing(tmp_path: Path) -> None:
    tar = TarStreamSource(io.BytesIO(tar_of(zeros(TIB))))
    for one, other in (
        (zeros(TIB), zeros(TIB)),
        (tar, zeros(TIB)),
        (zeros(TIB), huge(tmp_path / "empty.raw", TIB)),
    ):
        assert compared(one, other) == CompareReport((), TIB)


@pytest.mark.timeout(20)
def test_single_bytes_of_huge_disks(tmp_path: Path) -> None:
    at = (5, 7 * GIB, TIB - 1)
    blocks = tuple((offset // MIB * MIB, MIB) for offset in at)
    for i, pair in enumerate([(at, ()), (at, at), (at, at[:1]), (at[1:], at)]):
        one = huge(tmp_path / f"one{i}.raw", TIB, *pair[0])
        other = huge(tmp_path / f"other{i}.raw", TIB, *pair[1])
        expected = tuple(
            b for b, o in zip(blocks, at, strict=True) if (o in pair[0]) != (o in pair[1])
        )
        assert compared(one, other) == CompareReport(expected, TIB)


def test_a_huge_difference_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        report = compared(zeros(TIB), zeros(MIB))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.differing == ((MIB, TIB - MIB),)
    assert peak < 4 * MIB


# --- Errors, and what is left behind ---


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda tar: flipped(tar, Layout(tar).data[0].data), DigestMismatchError),
        (lambda tar: tar[: Layout(tar).data[0].data + 5], IncompleteStreamError),
        (lambda tar: tar[:-1], IncompleteStreamError),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("other", ["memory", "tar"])
def test_a_damaged_tar_is_that_and_not_a_difference(
    damage: Callable[[bytes], bytes], error: type[TapestreamError], swapped: bool, other: str
) -> None:
    tar = tar_of(MemorySource(noise(3 * MIB)))
    good: Source = MemorySource(noise(3 * MIB))
    if other == "tar":
        good = TarStreamSource(io.BytesIO(tar_of(good)))
    with good, TarStreamSource(io.BytesIO(damage(tar))) as bad:
        pair = (good, bad) if swapped else (bad, good)
        with pytest.raises(error):
            compare(*pair)


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_of_one_ends_both(broken: int) -> None:
    def fail(start: int, length: int) -> None:
        if start >= 2 * MIB:
            raise LocalIOError("it broke")

    disk = noise(4 * MIB)
    pair = [MemorySource(disk), MemorySource(disk)]
    pair[broken] = MemorySource(disk, before_read=fail)
    with pytest.raises(LocalIOError, match="it broke"):
        compare(*pair, buffer_size=64 * KIB, buffer_memory=256 * KIB)
    for source in pair:
        assert not source.finished
        assert not source.closed
        assert all(reader.closed for reader in source.readers)
        source.close()


@pytest.mark.parametrize("broken", [0, 1])
def test_extents_that_lie(broken: int) -> None:
    class Liar(MemorySource):
        def extents(self) -> list[Extent]:
            return [Extent(0, 5), Extent(6, 10)]

    pair = [MemorySource(bytes(16)), MemorySource(bytes(16))]
    pair[broken] = Liar(bytes(16))
    with pytest.raises(ExtentsError):
        compare(*pair)


@pytest.mark.parametrize("broken", [0, 1])
def test_extents_that_do_not_cover_the_disk(broken: int) -> None:
    class Short(MemorySource):
        def extents(self) -> list[Extent]:
            super().extents()
            return [Extent(0, 16)]

    pair = [MemorySource(bytes(32)), MemorySource(bytes(32))]
    pair[broken] = Short(bytes(32))
    with pytest.raises(ExtentsError):
        compare(*pair)


@pytest.mark.parametrize("other_way", [False, True])
def test_what_is_not_read_in_the_order_of_the_disk_is_refused(other_way: bool) -> None:
    """As a chain whose streams are on one tape drive: before anything is read."""

    class Chain(MemorySource):
        sequential = True

        def read_order(self) -> Sequence[Iterable[Run]]:
            return [[(16, 16, Kind.DATA)], [(0, 16, Kind.DATA)]]

    chain, live = Chain(bytes(32)), MemorySource(bytes(32))
    with pytest.raises(UsageError, match="order of the disk"):
        compare(*((chain, live) if other_way else (live, chain)))
    assert chain.readers == live.readers == []


def test_a_salvaged_tar_has_zeros_for_what_is_missing() -> None:
    disk = noise(3 * MIB)
    tar = tar_of(MemorySource(disk), part_size=MIB)
    cut = Layout(tar).data[1].data + 5
    with TarStreamSource(io.BytesIO(tar[:cut]), allow_incomplete=True) as source:
        report = compare(source, MemorySource(disk))
        assert report.differing == ((MIB, 2 * MIB),)
        assert source.findings is not None
        assert source.findings.damage == Layout(tar).missing(cut, len(tar))


def test_options_are_those_of_a_copy() -> None:
    class Progress:
        total = done = 0

        def update(self, n: int) -> None:
            self.done += n

    progress = Progress()
    one, other = sources(noise(MIB), noise(MIB))
    compare(one, other, progress=progress, max_workers=2)
    assert (progress.total, progress.done) == (MIB, MIB)
    assert len(one.readers) == 2
    assert len(other.readers) == 1


def test_what_can_be_read_in_parallel_is() -> None:
    disk = noise(8 * MIB)
    for swapped in (False, True):
        memory = MemorySource(disk)
        with TarStreamSource(io.BytesIO(tar_of(MemorySource(disk)))) as tar:
            pair = (memory, tar) if swapped else (tar, memory)
            assert compare(*pair, max_workers=4).equal
        assert len(memory.readers) == 4


def test_a_long_stretch_of_zeros_is_not_compared_to_its_end() -> None:
    """When the copy fails: what reads it is cancelled between two blocks."""
    reading, failed = threading.Event(), threading.Event()
    blocks = 400  # of a MiB each

    def fail(start: int, length: int) -> None:
        reading.wait()
        failed.set()
        raise LocalIOError("it broke")

    def slowly(start: int, length: int) -> None:
        reading.set()
        failed.wait()
        time.sleep(0.02)
        reads.append(start)

    reads: list[int] = []
    size = blocks * MIB
    zeros = [Extent(0, size, zero=True), Extent(size, MIB)]
    disk = bytes(size + MIB)
    a = MemorySource(disk, zeros, before_read=fail)
    b = MemorySource(disk, before_read=slowly, max_readers=1)
    with pytest.raises(LocalIOError, match="it broke"):
        compare(a, b)
    assert len(reads) < blocks
