"""copy(): arguments, result, progress, and what is called when."""

from __future__ import annotations

import inspect
import io
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    BackupInfo,
    CopyResult,
    DiscardSink,
    RawImageSink,
    RawImageSource,
    Reader,
    TarStreamSink,
    TarStreamSource,
    copy,
)
from tapestream.engine.hashing import BlockHasher
from tapestream.engine.options import CopyKeywords
from tapestream.errors import BlockHashMismatchError, ExtentsError, UsageError
from tapestream.model.blockhash import BlockHash
from tapestream.model.extents import Extent, Extents
from tapestream.model.info import Context
from tapestream.testing.memory import MemorySink, MemorySource
from tests.engine.test_hashing import reference

MIB = 1024**2
PAGE = 4096


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """8 MiB with 1 MiB + 1 bytes of data at 1 MiB, and 100 bytes at 5 MiB."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as f:
        f.truncate(8 * MIB)
        f.seek(MIB)
        f.write(b"a" * (MIB + 1))
        f.seek(5 * MIB)
        f.write(b"b" * 100)
    return path


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_workers": 0},
        {"buffer_size": 0},
        {"buffer_size": 5000},
        {"buffer_memory": 1024**2},
        {"max_gap": -1},
        {"max_gap": "much"},
        {"max_gap": 1.5},
    ],
)
def test_arguments_that_cannot_work(wrong: dict[str, Any], image: Path) -> None:
    with RawImageSource(image) as src, pytest.raises(UsageError):
        copy(src, DiscardSink(), **wrong)


def test_result(image: Path) -> None:
    with RawImageSource(image) as src:
        extents = src.extents()
        result = copy(src, TarStreamSink(io.BytesIO()), max_gap=0)
    data = [e for e in extents if not e.zero]
    assert isinstance(result, CopyResult)
    assert result.size == 8 * MIB
    assert result.context == "zero"
    assert result.extents == len(extents)
    assert result.data_extents == len(data) == 2
    assert result.data_bytes == result.read_bytes == sum(e.length for e in data)
    assert result.zero_bytes == 8 * MIB - result.data_bytes
    assert result.requests == 2
    assert result.checksum == "sha256"
    assert result.rate == result.data_bytes / result.seconds


def test_gaps_count_as_read(image: Path) -> None:
    with RawImageSource(image) as src:
        result = copy(src, DiscardSink(), max_gap=4 * MIB)
    assert result.requests == 1
    assert result.read_bytes > result.data_bytes
    assert result.checksum is None


@pytest.mark.parametrize(("max_gap", "requests"), [(0, 300), (PAGE, 200), (2 * PAGE, 100)])
def test_a_fixed_gap_stays(max_gap: int, requests: int) -> None:
    """Gaps of one, two and three pages in turn."""
    extents: list[Extent] = []
    for i in range(300):
        start = extents[-1].start + extents[-1].length if extents else 0
        extents.append(Extent(start, PAGE))
        extents.append(Extent(start + PAGE, (1 + i % 3) * PAGE, zero=True))
    disk = bytes(extents[-1].start + extents[-1].length)
    result = copy(MemorySource(disk, extents), MemorySink(), max_gap=max_gap)
    assert result.requests == requests


class Tqdm:
    def __init__(self) -> None:
        self.total: int | None = None
        self.n = 0

    def update(self, n: int) -> None:
        self.n += n


class ImageioProgressBar:
    def __init__(self) -> None:
        self.size: int | None = None
        self.n = 0

    def update(self, n: int) -> None:
        self.n += n


class Plain:
    def __init__(self) -> None:
        self.n = 0

    def update(self, n: int) -> None:
        self.n += n


@pytest.mark.parametrize(
    "bar", [Tqdm(), ImageioProgressBar(), Plain()], ids=lambda b: type(b).__name__
)
def test_progress(bar: Any, image: Path, tmp_path: Path) -> None:
    with RawImageSource(image) as src, RawImageSink(tmp_path / "copy.raw") as dst:
        result = copy(src, dst, buffer_size=4096, progress=bar)
    assert bar.n == result.data_bytes
    assert getattr(bar, "total", getattr(bar, "size", bar.n)) == bar.n


def test_a_source_whose_extents_do_not_fit_its_size(image: Path) -> None:
    class Liar(RawImageSource):
        def extents(self) -> Extents:
            return Extents.of([Extent(0, 5)])

    out = io.BytesIO()
    with Liar(image) as src, pytest.raises(ExtentsError, match="5 bytes of a disk of 8388608"):
        copy(src, TarStreamSink(out))
    assert out.getvalue() == b""


def test_a_sink_takes_one_copy(image: Path, tmp_path: Path) -> None:
    with RawImageSource(image) as src:
        for sink in (TarStreamSink(tmp_path / "a.tar"), RawImageSink(tmp_path / "a.raw")):
            copy(src, sink)
            with pytest.raises(UsageError, match="make a new one"):
                copy(src, sink)
            sink.close()
    assert (tmp_path / "a.raw").stat().st_size == 8 * MIB
    with TarStreamSource(tmp_path / "a.tar") as again:
        copy(again, DiscardSink())


def test_a_tar_source_is_read_once(image: Path, tmp_path: Path) -> None:
    with RawImageSource(image) as src:
        copy(src, TarStreamSink(tmp_path / "a.tar"))
    with TarStreamSource(tmp_path / "a.tar") as src2:
        copy(src2, DiscardSink())
        with pytest.raises(UsageError, match="read once"):
            copy(src2, DiscardSink())


def test_an_abort_that_fails_hides_nothing(image: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(DiscardSink):
        def commit(self) -> None:
            raise KeyError("first")

        def abort(self) -> None:
            raise ValueError("second")

    with RawImageSource(image) as src, pytest.raises(KeyError, match="first"):
        copy(src, Bad())
    assert "second" in caplog.text


@pytest.mark.parametrize("side", ["source", "sink"])
def test_backends_that_allow_nothing(side: str, image: Path, tmp_path: Path) -> None:
    class Src(RawImageSource):
        max_readers = 0 if side == "source" else 1

    class Dst(RawImageSink):
        max_writers = 0 if side == "sink" else 1

    with Src(image) as src, Dst(tmp_path / "copy") as dst, pytest.raises(UsageError):
        copy(src, dst)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("context", "extents"),
    [
        ("zero", [Extent(0, 4 * MIB, dirty=True), Extent(4 * MIB, 4 * MIB, dirty=False)]),
        ("dirty", [Extent(0, 8 * MIB)]),
    ],
)
def test_extents_of_another_context_make_no_tar(
    context: Context, extents: list[Extent], image: Path, tmp_path: Path
) -> None:
    """No reader could make sense of it."""

    class Confused(RawImageSource):
        @property
        def info(self) -> BackupInfo:
            return replace(super().info, context=context)

        def extents(self) -> Extents:
            return Extents.of(extents)

    with (
        Confused(image) as src,
        TarStreamSink(tmp_path / "a.tar") as sink,
        pytest.raises(ExtentsError, match="context"),
    ):
        copy(src, sink)
    assert [p.name for p in tmp_path.iterdir()] == ["disk.raw"]


def test_wrong_arguments_abort_the_sink(image: Path, tmp_path: Path) -> None:
    sink = TarStreamSink(tmp_path / "a.tar")
    with RawImageSource(image) as src, pytest.raises(UsageError):
        copy(src, sink, max_workers=0)
    assert [p.name for p in tmp_path.iterdir()] == ["disk.raw"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_reader_that_cannot_be_closed(
    fails: bool, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Reader):
        def readinto(self, start: int, buffer: memoryview) -> None:
            if fails:
                raise KeyError("first")

        def close(self) -> None:
            raise ValueError("second")

    class Src(RawImageSource):
        def open_reader(self) -> Reader:
            return Bad()

    with Src(image) as src, pytest.raises(KeyError if fails else ValueError):
        copy(src, DiscardSink(), max_workers=1)
    assert ("second" in caplog.text) is fails


def test_finish_comes_before_commit(image: Path) -> None:
    calls: list[str] = []

    class Src(RawImageSource):
        def finish(self) -> None:
            calls.append("finish")
            raise KeyError

    class Dst(DiscardSink):
        def commit(self) -> None:
            calls.append("commit")

        def abort(self) -> None:
            calls.append("abort")

    with Src(image) as src, pytest.raises(KeyError):
        copy(src, Dst())
    assert calls == ["finish", "abort"]


# --- The block hash ---

DISK = random.Random(0).randbytes(2 * MIB + PAGE) + bytes(3 * MIB) + random.Random(1).randbytes(999)
EXTENTS = [
    Extent(0, 2 * MIB + PAGE),
    Extent(2 * MIB + PAGE, 3 * MIB, zero=True),
    Extent(5 * MIB + PAGE, 999),
]
HASH = BlockHash(reference(DISK))
WRONG = BlockHash("00" * 32)
SMALL: CopyKeywords = {"buffer_size": PAGE, "buffer_memory": 64 * PAGE, "block_hash": True}


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("readers", [1, 4])
def test_block_hash(readers: int, sequential: bool) -> None:
    pauses = random.Random(2)

    def pause(start: int, length: int) -> None:
        time.sleep(pauses.choice([0, 0, 0.001]))

    src = MemorySource(DISK, EXTENTS, max_readers=readers, before_read=pause)
    dst = MemorySink(sequential=sequential, max_writers=1 if sequential else 4)
    assert copy(src, dst, **SMALL).block_hash == HASH
    assert dst.state == "committed"


def test_block_hash_of_nothing() -> None:
    result = copy(MemorySource(b""), MemorySink(), block_hash=True)
    assert result.block_hash == BlockHash(reference(b""))


def test_no_block_hash_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(BlockHasher, "update")
    monkeypatch.delattr(BlockHasher, "result")
    src = MemorySource(DISK, EXTENTS, info=BackupInfo(block_hash=WRONG))
    assert copy(src, MemorySink()).block_hash is None


def test_the_right_block_hash() -> None:
    src = MemorySource(DISK, EXTENTS, info=BackupInfo(block_hash=HASH))
    assert copy(src, MemorySink(), block_hash=True).block_hash == HASH


def test_the_wrong_block_hash() -> None:
    src, dst = MemorySource(DISK, EXTENTS, info=BackupInfo(block_hash=WRONG)), MemorySink()
    with pytest.raises(BlockHashMismatchError, match="not 0000") as caught:
        copy(src, dst, block_hash=True)
    assert (caught.value.expected, caught.value.found) == (WRONG.checksum, HASH.checksum)
    assert src.finished
    assert dst.state == "aborted"


def test_the_wrong_block_hash_leaves_no_file(tmp_path: Path) -> None:
    src = MemorySource(DISK, EXTENTS, info=BackupInfo(block_hash=WRONG))
    with TarStreamSink(tmp_path / "disk.tar") as dst, pytest.raises(BlockHashMismatchError):
        copy(src, dst, block_hash=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "other", [BlockHash("00" * 32, "sha256"), BlockHash("00" * 32, block_size=MIB)]
)
def test_a_block_hash_of_another_kind_is_not_compared(other: BlockHash) -> None:
    src = MemorySource(DISK, EXTENTS, info=BackupInfo(block_hash=other))
    assert copy(src, MemorySink(), block_hash=True).block_hash == HASH


def test_an_incremental_backup_has_no_block_hash() -> None:
    dst = MemorySink()
    with pytest.raises(UsageError, match="only a full backup") as caught:
        copy(MemorySource(b"disk", [Extent(0, 4, dirty=True)]), dst, block_hash=True)
    assert "Leave block_hash out" in caught.value.hint
    assert dst.writes == dst.zeros == []
    assert dst.info == BackupInfo()


def test_the_options_are_those_of_copy() -> None:
    parameters = inspect.signature(copy).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert list(CopyKeywords.__annotations__) == keywords


@pytest.mark.parametrize(
    ("processors", "shared", "readers"),
    [
        *[(1, False, 1), (2, False, 2), (3, False, 3), (4, False, 4), (64, False, 4)],
        *[(1, True, 1), (2, True, 1), (3, True, 1), (4, True, 2), (8, True, 4), (64, True, 4)],
    ],
)
def test_as_many_readers_as_have_processors(
    processors: int, shared: bool, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LocalSource(MemorySource):
        server_is_local = shared

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    source = LocalSource(DISK, EXTENTS, max_readers=9)
    sink = MemorySink(max_writers=9)
    copy(source, sink)
    assert len(source.readers) == readers
    assert len(sink.writers) == 4


@pytest.mark.parametrize(
    ("options", "is_local", "largest"),
    [
        ({}, True, 4 << 20),
        ({}, False, 4 << 20),
        ({}, None, 2 << 20),
        ({"buffer_size": 1 << 20}, True, 1 << 20),
        ({"buffer_memory": 4 << 20}, True, 2 << 20),
        ({"max_rate": 1 << 30}, True, 1 << 20),
    ],
)
def test_a_server_gets_more_in_each_write(
    options: CopyKeywords, is_local: bool | None, largest: int
) -> None:
    """But not if the caller has chosen a size, or how much memory to use, or a rate."""

    class ServerSink(MemorySink):
        server_is_local = is_local

    sink = MemorySink() if is_local is None else ServerSink()
    size = 12 << 20
    copy(MemorySource(bytes(size), [Extent(0, size)]), sink, **options)
    assert {length for _, length in sink.writes} == {largest}


@pytest.mark.parametrize(
    ("processors", "shared", "asked", "allowed", "writers"),
    [
        *[(1, True, None, 9, 2), (2, True, None, 9, 2), (4, True, None, 9, 2)],
        *[(6, True, None, 9, 3), (8, True, None, 9, 4), (64, True, None, 9, 4)],
        *[(2, True, None, 1, 1), (2, True, 3, 9, 3), (2, True, 1, 9, 1), (1, False, None, 9, 4)],
    ],
)
def test_a_server_on_a_small_host_has_fewer_writers(
    processors: int,
    shared: bool,
    asked: int | None,
    allowed: int,
    writers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class LocalSink(MemorySink):
        server_is_local = shared

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    sink = LocalSink(max_writers=allowed)
    copy(MemorySource(DISK, EXTENTS), sink, max_workers=asked)
    assert len(sink.writers) == writers
