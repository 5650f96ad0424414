"""The block hash: that of all bytes, whatever the order, the pieces and the threads."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import Buffer

from tapestream import DiscardSink, Extent, copy
from tapestream.backend import abilities
from tapestream.backend.abilities import ability
from tapestream.engine.hashing import BlockHasher, HashingSource
from tapestream.engine.options import CopyKeywords
from tapestream.model.blockhash import BLOCK_SIZE, BlockHash
from tapestream.model.extents import Extents
from tapestream.testing.memory import MemorySource
from tests.disks import noise

KIB = 1024
MIB = 1024 * KIB
TIB = 1024**4

Stretch = tuple[int, int]


def blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def reference(image: bytes, block_size: int = BLOCK_SIZE) -> str:
    blocks = [image[i : i + block_size] for i in range(0, len(image), block_size)]
    return blake(b"".join(map(blake, blocks))).hex()


def feed(hasher: BlockHasher, image: bytes, pieces: Iterable[Stretch]) -> None:
    """Feed pieces from a buffer that is used again for the next."""
    for start, length in pieces:
        buffer = bytearray(image[start : start + length])
        hasher.update(start, memoryview(buffer))
        buffer[:] = b"\xee" * length


# --- Sizes ---

SIZES = [0, 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 8 * MIB, 9 * MIB + 12345]


@pytest.mark.parametrize("size", SIZES)
def test_all_data_in_one_piece(size: int) -> None:
    image = noise(size)
    hasher = BlockHasher(size, [(0, size)])
    feed(hasher, image, [(0, size)])
    assert hasher.result() == BlockHash(reference(image))
    assert hasher.result() == BlockHash(reference(image))


@pytest.mark.parametrize("size", SIZES)
def test_all_zeros(size: int) -> None:
    assert BlockHasher(size, []).result().checksum == reference(bytes(size))


@pytest.mark.parametrize("size", [size for size in SIZES if size])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_one_byte_of_data(size: int, at_the_end: bool) -> None:
    start = size - 1 if at_the_end else 0
    image = bytes(start) + b"7" + bytes(size - start - 1)
    hasher = BlockHasher(size, [(start, 1)])
    feed(hasher, image, [(start, 1)])
    assert hasher.result().checksum == reference(image)


def test_data_that_is_zeros_counts_as_zeros() -> None:
    hasher = BlockHasher(9 * MIB, [(MIB, 6 * MIB)])
    feed(hasher, bytes(9 * MIB), [(MIB, 6 * MIB)])
    assert hasher.result() == BlockHasher(9 * MIB, []).result()


# --- Any order, any pieces, any threads ---


@st.composite
def disks(draw: st.DrawFn) -> tuple[bytes, list[Stretch], list[Stretch]]:
    """A disk, its data, and this data in pieces, shuffled."""
    lengths = draw(st.lists(st.integers(1, 9000), max_size=12))
    image, data, start = bytearray(), [], 0
    for length in lengths:
        is_data = draw(st.booleans())
        image += noise(length + start)[:length] if is_data else bytes(length)
        if is_data:
            data.append((start, length))
        start += length
    pieces = [piece for stretch in data for piece in draw(cuts(*stretch))]
    return bytes(image), data, draw(st.permutations(pieces))


@st.composite
def cuts(draw: st.DrawFn, start: int, length: int) -> list[Stretch]:
    inner = draw(st.sets(st.integers(start, start + length), max_size=5))
    borders = sorted({start, *inner, start + length})
    return [(a, b - a) for a, b in itertools.pairwise(borders)]


@given(disk=disks(), block_size=st.sampled_from([1, 512, 4096, 10000]))
def test_any_order(disk: tuple[bytes, list[Stretch], list[Stretch]], block_size: int) -> None:
    image, data, pieces = disk
    hasher = BlockHasher(len(image), iter(data), block_size=block_size)
    feed(hasher, image, pieces)
    assert hasher.result().checksum == reference(image, block_size)


@given(disk=disks(), threads=st.integers(2, 4))
def test_any_threads(disk: tuple[bytes, list[Stretch], list[Stretch]], threads: int) -> None:
    image, data, pieces = disk
    hasher = BlockHasher(len(image), iter(data), block_size=4096)
    feed_in_threads(hasher, image, pieces, threads)
    assert hasher.result().checksum == reference(image, 4096)


def feed_in_threads(
    hasher: BlockHasher, image: bytes, pieces: Sequence[Stretch], threads: int
) -> None:
    ready = threading.Barrier(threads)

    def work(number: int) -> None:
        ready.wait()
        feed(hasher, image, pieces[number::threads])

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, number) for number in range(threads)]:
            done.result()


def test_many_threads_on_the_same_blocks() -> None:
    """Pieces long enough for hashlib to let the other threads run."""
    size = 13 * MIB + 777
    image = noise(size)
    rnd = random.Random(1)
    for _ in range(5):
        borders = sorted({0, size, *rnd.sample(range(size), 200)})
        pieces = [(a, b - a) for a, b in itertools.pairwise(borders)]
        rnd.shuffle(pieces)
        hasher = BlockHasher(size, [(0, size)])
        feed_in_threads(hasher, image, pieces, 6)
        assert hasher.result().checksum == reference(image)


class Gate:
    """Holds the first thread that comes, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(60)


class SlowHash:
    """Goes through a gate before, or after, data is hashed; or before its digest is made."""

    def __init__(self, gate: Gate, when: str) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self._gate, self._when = gate, when

    def update(self, data: Buffer) -> None:
        if self._when == "before" and memoryview(data).nbytes:
            self._gate.pass_through()
        self._hash.update(data)
        if self._when == "after" and memoryview(data).nbytes:
            self._gate.pass_through()

    def digest(self) -> bytes:
        if self._when == "digest":
            self._gate.pass_through()
        return self._hash.digest()


@pytest.mark.parametrize("when", ["before", "after"])
def test_nobody_waits_for_a_thread_that_hashes(when: str) -> None:
    size = 3 * BLOCK_SIZE
    image = noise(size)
    gate = Gate()
    hasher = BlockHasher(size, [(0, size)], new_hash=lambda: SlowHash(gate, when))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(feed, hasher, image, [(0, KIB)])
        assert gate.reached.wait(60)
        feed(hasher, image, [(KIB, MIB), (MIB + KIB, size - MIB - KIB)])
        gate.opened.set()
        first.result()
    assert hasher.result().checksum == reference(image)


def test_the_hash_of_the_disk_is_made_in_order() -> None:
    """By one thread at a time, while others complete more blocks."""
    size = 3 * BLOCK_SIZE
    image = noise(size)
    gate = Gate()
    hasher = BlockHasher(size, [(0, size)], new_hash=lambda: SlowHash(gate, "digest"))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(feed, hasher, image, [(0, BLOCK_SIZE)])
        assert gate.reached.wait(60)
        feed(hasher, image, [(BLOCK_SIZE, 2 * BLOCK_SIZE)])
        gate.opened.set()
        first.result()
    assert hasher.result().checksum == reference(image)


# --- Faults of the caller ---


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_data(missing: int) -> None:
    stretches = [(0, KIB), (5 * MIB, KIB), (5 * MIB + 2 * KIB, 9 * MIB)]
    hasher = BlockHasher(20 * MIB, stretches)
    image = noise(20 * MIB)
    feed(hasher, image, [s for i, s in enumerate(stretches) if i != missing])
    with pytest.raises(RuntimeError, match="not all data"):
        hasher.result()


def test_no_data_at_all() -> None:
    with pytest.raises(RuntimeError, match="not all data"):
        BlockHasher(5, [(1, 2)]).result()


def test_data_where_none_was_expected() -> None:
    hasher = BlockHasher(20 * MIB, [(0, KIB)])
    with pytest.raises(RuntimeError, match="no data was expected"):
        feed(hasher, bytes(20 * MIB), [(8 * MIB, KIB)])


# --- Time and memory ---


def zero_blocks(count: int) -> bytes:
    return blake(bytes(BLOCK_SIZE)) * count


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak() -> int:
    return tracemalloc.get_traced_memory()[1]


@pytest.mark.usefixtures("traced")
def test_a_huge_empty_disk() -> None:
    began = time.monotonic()
    found = BlockHasher(16 * TIB, []).result()
    assert time.monotonic() - began < 10
    assert peak() < MIB
    assert found.checksum == blake(zero_blocks(16 * TIB // BLOCK_SIZE)).hex()


@pytest.mark.usefixtures("traced")
def test_a_huge_disk_with_data_here_and_there() -> None:
    size = 16 * TIB + 5
    starts = [0, 7 * TIB + 3 * MIB, 16 * TIB]
    hasher = BlockHasher(size, [(start, 5) for start in starts])
    for start in reversed(starts):
        hasher.update(start, memoryview(b"hello"))
    found = hasher.result()
    assert peak() < MIB
    between = 7 * TIB // BLOCK_SIZE
    digests = (
        blake(b"hello" + bytes(BLOCK_SIZE - 5))
        + zero_blocks(between - 1)
        + blake(bytes(3 * MIB) + b"hello" + bytes(MIB - 5))
        + zero_blocks(16 * TIB // BLOCK_SIZE - between - 1)
        + blake(b"hello")
    )
    assert found.checksum == blake(digests).hex()


@pytest.mark.usefixtures("traced")
def test_memory_does_not_grow_with_the_extents() -> None:
    """100,000 of them, out of order by up to 64."""
    count, step, block_size = 100_000, 128, 4096
    rnd = random.Random(0)
    starts = [start for i in range(0, count, 64) for start in shuffled(rnd, i, min(i + 64, count))]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    hasher = BlockHasher(
        count * step, ((i * step, 64) for i in range(count)), block_size=block_size
    )
    data = memoryview(b"d" * 64)
    for i in starts:
        hasher.update(i * step, data)
    found = hasher.result()
    assert peak() - before < 128 * KIB
    assert found.checksum == reference((b"d" * 64 + bytes(64)) * count, block_size)


def shuffled(rnd: random.Random, first: int, end: int) -> list[int]:
    numbers = list(range(first, end))
    rnd.shuffle(numbers)
    return numbers


def test_only_what_came_too_early_is_kept() -> None:
    """The rest of the first block; of the others their digests."""
    size = 64 * MIB
    image = noise(size)
    data = memoryview(image)
    expected = reference(image)
    hasher = BlockHasher(size, [(0, size)])
    tracemalloc.start()
    try:
        for start in range(KIB, size, 256 * KIB):
            hasher.update(start, data[start : start + 256 * KIB])
        assert BLOCK_SIZE - KIB <= peak() < BLOCK_SIZE + 256 * KIB
        hasher.update(0, data[:KIB])
        assert tracemalloc.get_traced_memory()[0] < 64 * KIB
    finally:
        tracemalloc.stop()
    assert hasher.result().checksum == expected


# --- The wrapper of a source that is copied ---

PAGE = 4096
NOISE = random.Random(3).randbytes(64 * PAGE)
# Two pages of data, one of zeros, and so on. What lies in the zeros is noise, too.
EXTENTS = [
    Extent(start, (1 if zero else 2) * PAGE, zero=zero)
    for third in range(0, 63 * PAGE, 3 * PAGE)
    for start, zero in ((third, False), (third + 2 * PAGE, True))
] + [Extent(63 * PAGE, PAGE)]
IMAGE = b"".join(
    bytes(e.length) if e.zero else NOISE[e.start : e.start + e.length] for e in EXTENTS
)
HASH = BlockHash(reference(IMAGE))


@pytest.mark.parametrize("max_gap", [0, PAGE])
@pytest.mark.parametrize("readers", [1, 4])
def test_gaps_that_are_read_through_are_not_hashed(max_gap: int, readers: int) -> None:
    src = MemorySource(NOISE, EXTENTS, max_readers=readers)
    options: CopyKeywords = {
        "max_workers": readers,
        "buffer_size": PAGE,
        "buffer_memory": 16 * PAGE,
        "max_gap": max_gap,
        "block_hash": True,
    }
    result = copy(src, DiscardSink(), **options)
    assert result.block_hash == HASH
    assert (result.read_bytes > result.data_bytes) == bool(max_gap)


class Able(MemorySource):
    """Has every ability of a source, and its readers those of a reader."""

    device = None
    digest_name = "md5"
    server_is_local = True
    place = "here"
    missing_until: int | None = None

    def finish(self) -> str:  # type: ignore[override]
        self.finished = False  # may be called again
        super().finish()
        return self.digest_name

    def cancel(self) -> None:
        pass

    def keep_alive(self) -> None:
        pass

    def rewind(self) -> None:
        pass

    def check_complete(self) -> None:
        pass

    def read_order(self) -> None:
        pass


OF_A_SOURCE = [
    abilities.Cancels,
    abilities.KeepsAlive,
    abilities.HasPlace,
    abilities.HasLocalServer,
    abilities.HasDigests,
    abilities.ChecksItself,
    abilities.ChecksEnd,
    abilities.Rewinds,
    abilities.HoldsDevice,
    abilities.HasReadOrder,
]


@pytest.mark.parametrize("kind", OF_A_SOURCE)
def test_the_wrapper_loses_no_ability_of_a_source(kind: Any) -> None:
    src = Able(NOISE, EXTENTS)
    assert ability(HashingSource(src, Extents.of(EXTENTS)), kind) is src


@pytest.mark.parametrize("kind", [abilities.Cancels, abilities.Prefetches])
def test_the_wrapper_loses_no_ability_of_a_reader(kind: Any) -> None:
    src = MemorySource(NOISE, EXTENTS)
    src.extents()
    assert ability(HashingSource(src, Extents.of(EXTENTS)).open_reader(), kind) is src.readers[0]


def test_missing_data_is_read_for_its_zeros() -> None:
    class Missing(Able):
        missing_until = 4 * PAGE

    image = bytes(4 * PAGE) + IMAGE[4 * PAGE :]
    src = Missing(bytes(4 * PAGE) + NOISE[4 * PAGE :], EXTENTS)
    result = copy(src, DiscardSink(), block_hash=True)
    assert result.block_hash == BlockHash(reference(image))
    assert result.data_bytes == sum(e.length for e in EXTENTS if not e.zero)


def test_what_is_sent_again_is_hashed_once() -> None:
    class Losing(DiscardSink):
        losses: Any = iter([[(0, 2 * PAGE)], [(PAGE, 9 * PAGE)]])

        def lost(self) -> Any:
            return next(self.losses, ())

    src = Able(NOISE, EXTENTS)
    result = copy(src, Losing(), block_hash=True)
    assert result.block_hash == HASH
    assert result.verified == "md5"
    assert len(src.readers) > 1
