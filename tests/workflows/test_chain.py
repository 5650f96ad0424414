"""Chains against a model of the disk, and all that can be wrong with them."""

from __future__ import annotations

import io
import itertools
import os
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestream import (
    BackupInfo,
    DiscardSink,
    Extent,
    RawImageSink,
    RawImageSource,
    Reader,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
    restore_chain,
)
from tapestream.errors import (
    ChainError,
    CorruptStreamError,
    DigestMismatchError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    UsageError,
)
from tapestream.model.checkpoints import in_order, name
from tapestream.model.extents import Extents, Kind
from tapestream.model.overlay import Layers
from tapestream.tar import format as fmt
from tests.chains import (
    CLEAN,
    DATA,
    WEEK,
    ZERO,
    K,
    Link,
    Watched,
    chain,
    chains,
    info,
    link,
    untouched,
    week,
)
from tests.memory import MemorySink, MemorySource
from tests.tar.tars import split

SMALL: Any = {"buffer_size": 4096, "buffer_memory": 16384}
THREE = WEEK[-1].disk


def restored(sources: Sequence[Source], sink: MemorySink | None = None, **options: Any) -> bytes:
    """The disk out of a chain."""
    sink = sink or MemorySink()
    restore_chain(sources, sink, **{**SMALL, **options})
    assert sink.state == "committed"
    return bytes(sink.disk)


# --- Any chain, from any sources, into any sink ---


@contextmanager
def any_sources(draw: st.DataObject, links: Sequence[Link], directory: Path) -> Iterator[list[Any]]:
    """The backups as sources of mixed kinds, in any order."""
    with ExitStack() as stack:
        made: list[Source] = []
        for i, one in enumerate(links):
            kind = draw.draw(st.sampled_from(["memory", "tar", "file", "raw"][: 4 - bool(i)]))
            if kind == "memory":
                made.append(one.memory(max_readers=draw.draw(st.integers(1, 3))))
                continue
            path = directory / f"{i}"
            if kind == "raw":
                path.write_bytes(one.disk)
                made.append(stack.enter_context(RawImageSource(path, info=one.info)))
                continue
            tar = one.tar(
                part_size=512 * draw.draw(st.integers(1, 20)),
                checksum=draw.draw(st.sampled_from(["sha256", "blake2b", "crc32", None])),
                record_size=512 * draw.draw(st.integers(1, 5)),
            )
            if kind == "tar":
                made.append(TarStreamSource(io.BytesIO(tar)))
            else:
                path.write_bytes(tar)
                made.append(stack.enter_context(TarStreamSource(path)))
        yield draw.draw(st.permutations(made))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("chains")
    return path


@settings(max_examples=150)
@given(links=chains(), data=st.data())
def test_restored(directory: Path, links: list[Link], data: st.DataObject) -> None:
    sink = MemorySink(max_writers=data.draw(st.integers(1, 4)), sequential=data.draw(st.booleans()))
    workers = data.draw(st.integers(1, 4))
    gap = data.draw(st.sampled_from(["auto", 0, 700, 100_000]))
    with any_sources(data, links, directory) as sources:
        assert restored(sources, sink, max_workers=workers, max_gap=gap) == links[-1].disk
    assert sink.info == replace(
        links[-1].info, size=len(links[-1].disk), context="zero", parent_checkpoint_id=None
    )


@settings(max_examples=80)
@given(links=chains(), data=st.data())
def test_merged_to_a_tar(directory: Path, links: list[Link], data: st.DataObject) -> None:
    """It is a full backup as any other, and a base for later incremental ones."""
    out = io.BytesIO()
    cut = data.draw(st.integers(1, len(links)))
    with (
        any_sources(data, links[:cut], directory) as sources,
        TarStreamSink(out, part_size=512 * data.draw(st.integers(1, 20))) as sink,
    ):
        copy(merge_chain(sources), sink, **SMALL)
    image = MemorySink()
    out.seek(0)
    copy(TarStreamSource(out), image, **SMALL)
    assert bytes(image.disk) == links[cut - 1].disk
    out.seek(0)
    rest = [one.memory() for one in links[cut:]]
    assert restored([*rest, TarStreamSource(out)]) == links[-1].disk


@settings(max_examples=80)
@given(links=chains(), data=st.data())
def test_one_after_another_on_one_drive(links: list[Link], data: st.DataObject) -> None:
    """What shares a device is read one at a time, and every one to its end, once."""
    open_now: list[Watched] = []
    drives = data.draw(st.lists(st.sampled_from("aab-"), min_size=len(links), max_size=len(links)))
    watched = [
        Watched(
            TarStreamSource(io.BytesIO(one.tar())),
            device=None if drive == "-" else drive,
            open_now=open_now if drive == "a" else None,
        )
        for one, drive in zip(links, drives, strict=True)
    ]
    sink = MemorySink(max_writers=data.draw(st.integers(1, 4)))
    sources = data.draw(st.permutations(watched))
    assert restored(sources, sink) == links[-1].disk
    for one in watched:
        assert one.calls.count("open_reader") == one.calls.count("finish") == 1
        assert "close" not in one.calls


def test_into_a_sequential_sink_from_one_drive() -> None:
    """A tar needs the data in the order of the disk, which a drive cannot give."""
    watched = [Watched(source, device="drive") for source in week()]
    sink = MemorySink(sequential=True)
    with pytest.raises(UsageError, match="copy all but one of the streams to files"):
        restored(watched, sink)
    assert untouched(sink)
    assert not any("open_reader" in one.calls for one in watched)
    with pytest.raises(UsageError, match="one tape drive"):
        copy(merge_chain(watched), MemorySink(), block_hash=True)
    assert restored(watched) == THREE


# --- Layers ---


@st.composite
def layered(draw: st.DrawFn) -> list[Extents]:
    """Layers of a disk that grows; what is clean may lie anywhere."""
    made = []
    size = draw(st.integers(0, 40))
    for i in range(draw(st.integers(1, 5))):
        lengths = draw(st.lists(st.integers(1, 12), max_size=12))
        runs, at = [], 0
        for wanted in [*lengths, size]:
            length = min(wanted, size - at)
            if length:
                zero, dirty = draw(st.booleans()), draw(st.booleans()) if i else None
                runs.append(Extent(at, length, zero=zero, dirty=dirty))
                at += length
        made.append(Extents.of(runs))
        size += draw(st.integers(0, 6))
    return made


def told(layers: Sequence[Extents]) -> list[tuple[Any, int]]:
    """For every byte, its kind and the layer that tells it, by plain search."""
    found = []
    for at in range(layers[-1].size):
        answer = (ZERO, 0)
        for layer in reversed(range(len(layers))):
            kind = next(
                (e.kind for e in layers[layer] if e.start <= at < e.start + e.length), CLEAN
            )
            if kind is not CLEAN:
                answer = (kind, layer)
                break
        found.append(answer)
    return found


@settings(max_examples=300)
@given(layers=layered(), data=st.data())
def test_the_newest_layer_wins(layers: list[Extents], data: st.DataObject) -> None:
    model = told(layers)
    size = len(model)
    found = Layers(layers)
    assert found.extents.size == size
    whole = list(found.within(0, size))
    assert [(s.kind, s.layer) for s in whole for _ in range(s.length)] == model
    assert [s.start for s in whole] == [sum(s.length for s in whole[:i]) for i in range(len(whole))]
    kinds = [(e.kind, e.length) for e in found.extents]
    assert [kind for kind, length in kinds for _ in range(length)] == [kind for kind, _ in model]
    assert all(a[0] is not b[0] for a, b in itertools.pairwise(kinds))
    assert [found.layer_at(at) for at in range(size)] == [layer for _, layer in model]
    told_by = [(layer, *run) for layer in range(len(layers)) for run in found.told_by(layer)]
    bytes_told = {
        start + i: (kind, layer) for layer, start, length, kind in told_by for i in range(length)
    }
    assert sum(length for _, _, length, _ in told_by) == size
    assert [bytes_told[at] for at in range(size)] == model
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    part = list(found.within(start, end))
    assert [(s.kind, s.layer) for s in part for _ in range(s.length)] == model[start:end]
    assert sum(s.length for s in part) == end - start
    assert [s.start for s in part[:1]] == [start][: len(part)]
    assert list(found.data_within(start, end)) == [s for s in part if s.kind is DATA]


# --- Which backups make a chain ---


def incremental(number: int, **fields: Any) -> BackupInfo:
    return info(number, **fields)


@given(
    length=st.integers(1, 8),
    fulls=st.sets(st.integers(1, 8)),
    parents=st.booleans(),
    data=st.data(),
)
def test_in_order(length: int, fulls: set[int], parents: bool, data: st.DataObject) -> None:
    """Whatever the order they come in; what is before the last full one is left out."""
    fulls = {1, *(n for n in fulls if n <= length)}
    made = [info(n, full=n in fulls, parent=n - 1 if n > 1 else None) for n in range(1, length + 1)]
    if parents:  # the first may have one, too, which nobody has
        made[0] = replace(made[0], parent_checkpoint_id="c0")
    given_order = data.draw(st.permutations(made))
    found = [given_order[i] for i in in_order(given_order)]
    assert found == made[max(fulls) - 1 :]


def test_one_backup_needs_no_ids() -> None:
    assert in_order([BackupInfo(context="zero")]) == [0]


def test_the_last_one_needs_no_checkpoint() -> None:
    last = replace(info(2), checkpoint_id=None)
    assert in_order([last, info(1, full=True)]) == [1, 0]


FULL = info(1, full=True)
BAD: dict[str, tuple[list[BackupInfo], str]] = {
    "a parent is missing": (
        [FULL, info(2), info(4), info(5)],
        r"no backup leads from the \w+ backup b\d .* to the \w+ backup b\d ",
    ),
    "the full one is missing": ([info(2), info(3)], "b2 .* starts from checkpoint c1: no backup"),
    "alone": ([info(2)], "the incremental backup b2 of 2026-11-24 21:00 UTC starts from .* c1"),
    "no parent id": (
        [info(1, full=True), replace(info(2), parent_checkpoint_id=None)],
        "no backup leads from the full backup b1 .* to the incremental backup b2",
    ),
    "alone, no parent id": (
        [replace(info(2), parent_checkpoint_id=None)],
        "the incremental backup b2 .* does not say from which checkpoint",
    ),
    "two from one parent": (
        [FULL, info(2), info(3, parent=1)],
        "two backups start from checkpoint c1: the incremental backup b2 .* and .* b3",
    ),
    "the same backup twice": ([FULL, info(2), info(2)], "two backups (made|start).*b2.*b2"),
    "the full one twice": ([FULL, FULL, info(2)], "two backups made checkpoint c1: .* b1.* b1"),
    "the same checkpoint twice": (
        [FULL, info(2), info(3, checkpoint_id="c2", parent=2)],
        "two backups made checkpoint c2: .* b2 .* and .* b3",
    ),
    "other disk": (
        [FULL, info(2, disk_id="other")],
        "b1 .* is of disk disk, the incremental backup b2 .* of other",
    ),
    "unknown disk": ([FULL, info(2, disk_id=None)], "b1 .* is of disk disk, .* b2 .* of None"),
    "known disk": ([replace(FULL, disk_id=None), info(2)], "b1 .* of disk None, .* b2 .* of disk"),
    "circle": ([info(1, parent=3), info(2), info(3)], "in a circle"),
    "circle with a full one": (
        [info(1, full=True, parent=3), info(2), info(3)],
        "in a circle",
    ),
    "its own parent": ([info(2, parent=2)], "in a circle"),
    "circle beside": (
        [FULL, info(2), info(7, parent=9), info(8), info(9)],
        "the incremental backup b[789] .* is not of the chain of the others",
    ),
    "two full ones": (
        [FULL, info(2, full=True)],
        "no backup leads from the full backup b1 .* to the full backup b2 .*, nor back",
    ),
    "two chains": ([FULL, info(2), info(5, full=True), info(6)], "no backup leads .*b2.* to .*b6"),
}


@pytest.mark.parametrize("which", BAD)
def test_not_a_chain(which: str) -> None:
    """In any order, the error names a backup; nothing is written, and no extents are read."""
    infos, message = BAD[which]
    for seed in range(6):
        mixed = random.Random(seed).sample(infos, len(infos))
        if seed == 0:
            mixed = infos
            with pytest.raises(ChainError, match=message):
                in_order(mixed)
        sources = [_Named(one) for one in mixed]
        sink = MemorySink()
        with pytest.raises(ChainError) as caught:
            restore_chain(sources, sink)
        assert untouched(sink)
        assert any(one.backup_id and one.backup_id in str(caught.value) for one in infos) or (
            "circle" in message
        )
        with pytest.raises(ChainError):
            merge_chain(sources)


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine where it is one hour later than in UTC."""
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def files(tmp_path: Path, *numbers: int, **of_number: Any) -> list[Source]:
    """Those days as tars, in files that are named after them."""
    sources: list[Source] = []
    for number in numbers:
        path = tmp_path / f"day-{number}.tar"
        source = MemorySource(b"")
        source.info = info(number, full=number == 1, disk_name="system", **of_number)
        if number > 1:
            source = MemorySource(b"x", [Extent(0, 1, dirty=True)])
            source.info = replace(info(number, disk_name="system"), size=1)
        with TarStreamSink(path) as sink:
            copy(source, sink)
        sources.append(TarStreamSource(path))
    return sources


def closing_all(sources: Sequence[Source]) -> ExitStack:
    stack = ExitStack()
    for source in sources:
        stack.enter_context(source)
    return stack


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize("days", [(1, 2, 4), (1, 4), (4, 1, 2, 5), (4,), (4, 5)])
def test_the_backup_that_is_missing_is_named(days: tuple[int, ...], tmp_path: Path) -> None:
    """By the checkpoint that it made, and which of the files needs it."""
    sources = files(tmp_path, *days)
    sink = MemorySink()
    with closing_all(sources), pytest.raises(ChainError) as caught:
        restore_chain(sources, sink)
    assert (
        "the incremental backup b4 of disk system of 2026-11-26 22:00 CET "
        f"({tmp_path / 'day-4.tar'}) starts from checkpoint c3: no backup that made it was given"
    ) in caught.value.args[0]
    assert "the backup whose checkpoint_id is c3" in caught.value.hint
    assert untouched(sink)


@pytest.mark.usefixtures("in_berlin")
def test_what_does_not_say_which_checkpoint_it_made(tmp_path: Path) -> None:
    sources = files(tmp_path, 1, 2, checkpoint_id=None)
    with closing_all(sources), pytest.raises(ChainError) as caught:
        merge_chain(sources)
    assert f"b1 of disk system of 2026-11-23 22:00 CET ({tmp_path / 'day-1.tar'}) does not say" in (
        str(caught.value)
    )


def test_two_chains_are_named_by_their_files(tmp_path: Path) -> None:
    sources = files(tmp_path, 1, 2)
    image = tmp_path / "disk.raw"
    image.write_bytes(b"x")
    full = info(9, full=True, checkpoint_id="c9")
    sources.append(RawImageSource(image, info=full))
    with closing_all(sources), pytest.raises(ChainError, match="two chains") as caught:
        merge_chain(sources)
    for path in (tmp_path / "day-2.tar", image):
        assert f"({path})" in str(caught.value)
    assert "of one of them alone" in caught.value.hint


class _Named(MemorySource):
    """A source of which nothing but its info may be asked."""

    def __init__(self, given: BackupInfo) -> None:
        self.info = given

    def extents(self) -> list[Extent]:
        raise AssertionError("extents can take minutes")


def test_backups_that_do_not_say_of_which_disk(caplog: pytest.LogCaptureFixture) -> None:
    """It goes by their checkpoints, with a warning; a backup alone needs none."""
    in_order([replace(FULL, disk_id=None)])
    assert caplog.text == ""
    assert in_order([replace(one, disk_id=None) for one in (info(2), FULL)]) == [1, 0]
    assert "do not say of which disk" in caplog.text


def test_nothing_to_restore() -> None:
    sink = MemorySink()
    with pytest.raises(UsageError, match="no backup"):
        restore_chain([], sink)
    with pytest.raises(UsageError):
        merge_chain(iter(()))
    assert untouched(sink)


def test_how_a_backup_is_called() -> None:
    assert name(info(1, full=True)) == "the full backup b1 of 2026-11-23 21:00 UTC"
    assert name(BackupInfo(checkpoint_id="c", context="dirty")) == "the incremental backup c"
    assert name(BackupInfo()) == "the full backup without id"


class _Unread(Source):
    """A source of which only the info may be asked."""

    max_readers = 1
    sequential = True

    def __init__(self, given: BackupInfo) -> None:
        self._info = given

    @property
    def info(self) -> BackupInfo:
        return self._info

    def extents(self) -> list[Extent]:
        raise AssertionError("it is not needed")

    def open_reader(self) -> Reader:
        raise AssertionError("it is not needed")

    def rewind(self) -> None:
        raise AssertionError("it is not needed")

    check_complete = rewind
    finish = rewind

    def close(self) -> None:
        pass


@pytest.mark.parametrize("verify_first", [False, True])
def test_a_fallback_in_the_middle(verify_first: bool) -> None:
    """oVirt could not make an incremental backup, and took a full one: it is a new beginning."""
    links = chain([(8 * K, DATA)], [(8 * K, DATA)], [(4 * K, CLEAN), (4 * K, DATA)])
    tars = [one.tar() for one in links]
    middle = replace(links[1].info, context="zero", fallback=True)
    full = MemorySource(links[1].disk, info=middle)
    out = io.BytesIO()
    with full, TarStreamSink(out) as sink:
        copy(full, sink)
    out.seek(0)
    sources = [TarStreamSource(io.BytesIO(tars[2])), _Unread(links[0].info), TarStreamSource(out)]
    assert restored(sources, verify_first=verify_first) == links[2].disk
    merged = merge_chain([_Unread(links[0].info), TarStreamSource(io.BytesIO(out.getvalue()))])
    assert (merged.info.fallback, merged.info.parent_checkpoint_id) == (False, None)


def test_a_disk_that_shrank() -> None:
    full = MemorySource(bytes(100), info=info(1, full=True))
    less = MemorySource(bytes(99), [Extent(0, 99, dirty=False)], info=info(2))
    sink = MemorySink()
    with pytest.raises(ChainError, match=r"b1 .* has 100 bytes, that of .* b2 .* only 99: a disk"):
        restore_chain([less, full], sink)
    assert untouched(sink)


NEW_PARTS: dict[str, list[Extent]] = {
    "all": [Extent(0, 100, dirty=False), Extent(100, 50, dirty=False)],
    "first": [Extent(0, 100, dirty=True), Extent(100, 1, dirty=False), Extent(101, 49, dirty=True)],
    "last": [
        Extent(0, 90, dirty=False),
        Extent(90, 59, dirty=True),
        Extent(149, 1, dirty=False),
    ],
    "middle": [
        Extent(0, 120, dirty=True),
        Extent(120, 10, dirty=False),
        Extent(130, 20, zero=True, dirty=False),
    ],
}


@pytest.mark.parametrize("which", NEW_PARTS)
def test_a_disk_that_grew_by_data_that_nobody_has(which: str) -> None:
    full = MemorySource(b"a" * 100, info=info(1, full=True))
    more = MemorySource(b"b" * 150, NEW_PARTS[which], info=info(2))
    last = MemorySource(b"b" * 150, [Extent(0, 150, dirty=True)], info=info(3))
    sink = MemorySink()
    with pytest.raises(ChainError, match=r"grown to 150 bytes by the incremental backup b2"):
        restore_chain([last, full, more], sink)
    assert untouched(sink)


CLUSTER = 2 * 1024 * K


def without_clean_zeros(given: Link) -> Source:
    """A backup as of a disk with large clusters: what is unchanged is never known to be zero."""
    extents = [replace(e, zero=e.zero and bool(e.dirty)) for e in given.extents]
    return replace(given, extents=extents).memory()


@pytest.mark.parametrize(
    ("old_end", "runs"),
    [
        # What is written is a part of its cluster; the rest is allocated, too, and reads as zeros.
        (CLUSTER, [(CLUSTER, CLEAN), (64 * K, CLEAN), (K, DATA), (CLUSTER - 65 * K, CLEAN)]),
        (CLUSTER, [(CLUSTER, CLEAN), (CLUSTER - K, CLEAN), (2 * K, DATA), (CLUSTER - K, CLEAN)]),
        (CLUSTER, [(CLUSTER, CLEAN), (64 * K, CLEAN), (K, ZERO), (64 * K, CLEAN)]),
        # The last cluster before it has grown, of which the last part was written.
        (64 * K, [(K, CLEAN), (63 * K, DATA), (100 * K, CLEAN)]),
    ],
)
def test_a_disk_that_grew_by_parts_of_clusters(old_end: int, runs: list[tuple[int, Kind]]) -> None:
    """A large cluster is data as a whole, while its bitmap has marks for parts of it."""
    full, more = chain([(old_end, DATA)], runs)
    assert restored([full.memory(), without_clean_zeros(more)]) == more.disk


def test_a_disk_that_grew_by_a_cluster_of_data_that_nobody_has() -> None:
    """It has nothing that was written, between two clusters that have."""
    runs = [(CLUSTER, CLEAN), (K, DATA), (3 * CLUSTER - 2 * K, CLEAN), (K, DATA)]
    full, more = chain([(CLUSTER, DATA)], runs)
    with pytest.raises(ChainError, match="leaves out data"):
        restored([full.memory(), without_clean_zeros(more)])


def test_a_disk_that_grew_by_data_across_the_old_end() -> None:
    """All of a preallocated disk is data: one clean extent, far across the old end."""
    size = 16 * 1024 * K
    full = MemorySource(bytes(8), info=info(1, full=True))
    more = MemorySource(b"b" * size, [Extent(0, size, dirty=False)], info=info(2))
    with pytest.raises(ChainError):
        restore_chain([full, more], MemorySink())


# --- What a merged chain is ---


def test_what_a_merged_chain_says_of_itself() -> None:
    sources = week()
    merged = merge_chain(reversed(sources))
    assert merged.info == replace(
        sources[2].info, context="zero", parent_checkpoint_id=None, fallback=False
    )
    assert merged.info.checkpoint_id == "c3"
    assert merged.size == len(THREE)
    assert merged.sequential
    assert merged.max_readers == 1
    assert merged.checksum == "sha256"
    assert merged.device is None
    assert not merged.shares_processors


@pytest.mark.parametrize("served", range(3))
def test_a_chain_of_which_a_server_here_has_a_part(served: int) -> None:
    class ServedSource(MemorySource):
        shares_processors = True

    extents = [[Extent(0, K, dirty=n > 1 or None)] for n in (1, 2, 3)]
    chain: list[Source] = [
        (ServedSource if n == served else MemorySource)(
            bytes(K), extents[n], info=info(n + 1, full=n == 0)
        )
        for n in range(3)
    ]
    assert merge_chain(chain).shares_processors


def test_the_checksums_of_a_merged_chain() -> None:
    def merged(*names: str | None) -> str | None:
        tars = [one.tar(checksum=checksum) for one, checksum in zip(WEEK, names, strict=True)]
        return merge_chain([TarStreamSource(io.BytesIO(tar)) for tar in tars]).checksum

    assert merged("crc32", "sha256", "crc32") == "crc32, sha256"
    assert merged("crc32", None, "crc32") is None


def test_closing_it_leaves_the_sources_open(tmp_path: Path) -> None:
    paths = [tmp_path / "1", tmp_path / "2"]
    for path, one in zip(paths, WEEK, strict=False):
        path.write_bytes(one.tar())
    with TarStreamSource(paths[0]) as full, TarStreamSource(paths[1]) as more:
        with merge_chain([full, more]) as merged:
            pass
        merged.close()
        sink = MemorySink()
        copy(merged, sink)
    assert bytes(sink.disk) == WEEK[1].disk


@pytest.mark.parametrize("device", [None, "drive"])
@pytest.mark.parametrize("verify_first", [False, True])
def test_every_source_is_used_as_it_must_be(device: str | None, verify_first: bool) -> None:
    """Read and finished once, or twice, even where nothing of it is needed; never closed."""
    open_now: list[Watched] = []
    extra = link(WEEK[-1], 4, [(len(THREE), DATA)])  # supersedes all others
    watched = [
        Watched(TarStreamSource(io.BytesIO(one.tar())), device=device, open_now=open_now)
        for one in [*WEEK, extra]
    ]
    if not device:
        for one in watched:
            one.open_now = []
    assert restored(watched, verify_first=verify_first) == extra.disk
    for one in watched:
        count = 2 if verify_first else 1
        assert one.calls.count("check_complete") == 1
        assert one.calls.count("open_reader") == one.calls.count("finish") == count
        assert "close" not in one.calls


def test_copied_twice() -> None:
    """After a rewind, which tells if it can be."""
    merged = merge_chain(week())
    for _ in range(2):
        sink = MemorySink()
        copy(merged, sink)
        assert bytes(sink.disk) == THREE
        merged.rewind()


def test_an_error_in_one_source_closes_all_readers() -> None:
    def fail(start: int, length: int) -> None:
        if start >= 20 * K:
            raise LocalIOError("it broke")

    for i, count in ((0, 3), (0, 1)):
        sources = [one.memory(max_readers=count) for one in WEEK]
        sources[i].before_read = fail
        sink = MemorySink(max_writers=2)
        with pytest.raises(LocalIOError, match="it broke"):
            restored(sources, sink)
        for source in sources:
            assert source.readers
            assert all(reader.closed for reader in source.readers)
            assert not source.finished
            assert not source.closed
        assert sink.state == "aborted"


def test_a_source_that_cannot_be_opened_closes_those_before() -> None:
    sources = [one.memory() for one in WEEK]

    def fail() -> Reader:
        raise LocalIOError("it broke")

    sources[2].open_reader = fail  # type: ignore[method-assign]
    sink = MemorySink()
    with pytest.raises(LocalIOError, match="it broke"):
        restored(sources, sink)
    assert all(reader.closed for source in sources for reader in source.readers)
    assert sink.state == "aborted"


def test_kept_alive() -> None:
    calls = []
    sources = [one.memory() for one in WEEK]
    for i, source in enumerate(sources):
        source.keep_alive = lambda i=i: calls.append(i)  # type: ignore[method-assign,misc]
    merge_chain(sources).keep_alive()
    assert calls == [0, 1, 2]


# A merged chain is a source, and may be a link of another chain.


def test_a_merged_chain_in_a_chain() -> None:
    full, monday, tuesday = week()
    assert restored([tuesday, merge_chain([monday, full])], max_workers=1) == THREE


@pytest.mark.parametrize("more", [None, "drive"])
def test_a_merged_chain_of_one_drive_in_a_chain(more: str | None) -> None:
    """It cannot be read in the order of the disk: it is said what to do instead."""
    sources = [Watched(source, device="drive") for source in week()[:2]]
    tuesday = Watched(TarStreamSource(io.BytesIO(WEEK[2].tar())), device=more)
    sink = MemorySink()
    with pytest.raises(UsageError, match="in the order of the disk"):
        restored([tuesday, merge_chain(sources)], sink)
    assert untouched(sink)
    assert restored([tuesday, *sources]) == THREE


def test_a_merged_chain_shares_a_drive_with_another_link() -> None:
    """Of the one on the drive and the one that is not, the chain is on the drive."""
    open_now: list[Watched] = []
    full, monday, tuesday = (
        Watched(source, device=device, open_now=open_now if device else None)
        for source, device in zip(week(), ["drive", None, "drive"], strict=True)
    )
    merged = merge_chain([full, monday])
    assert merged.device == "drive"
    assert restored([tuesday, merged]) == THREE


# --- Damage ---


def positions(tar: bytes) -> dict[str, int]:
    """Where a damaged byte is interesting, in the tar of the second day."""
    members = split(tar)
    data = next(m for m in members if m.name.startswith("extent-"))
    return {
        "info": tar.index(b'"vm_id"') + 3,
        "extents": tar.index(b'"start"') + 3,
        "header": tar.index(data.name.encode()) + 130,
        "first byte of data": tar.index(data.data),
        "last byte of data": tar.index(data.data) + len(data.data) - 1,
        "superseded data": tar.index(data.data) + 20,
        "manifest": tar.index(b'"data_bytes"') + 14,
        "digest": tar.index(b'"segments":["') + 15,
        "end": tar.index(fmt.MANIFEST.encode()) + 512 + len(members[-1].data) + 600,
    }


POSITIONS = sorted(positions(WEEK[1].tar()))
# The last of three days: the first data of the second day is superseded, and some of the rest.
DAMAGED = [WEEK[0], WEEK[1], link(WEEK[1], 3, [(5 * K, DATA), (35 * K, CLEAN)])]


def damaged(where: str, number: int = 1) -> list[bytes]:
    tars = [one.tar() for one in DAMAGED]
    broken = bytearray(tars[number])
    broken[positions(tars[1])[where]] ^= 0x40
    tars[number] = bytes(broken)
    return tars


def opened(tars: Sequence[bytes]) -> list[Source]:
    return [TarStreamSource(io.BytesIO(tar)) for tar in tars]


@pytest.mark.parametrize("where", POSITIONS)
def test_a_damaged_byte(where: str, tmp_path: Path) -> None:
    """The image does not get its name."""
    image = tmp_path / "disk.raw"
    with pytest.raises(StreamError), RawImageSink(image) as sink:
        restore_chain(opened(damaged(where)), sink)
    assert list(tmp_path.iterdir()) == []
    memory = MemorySink()
    with pytest.raises(StreamError), memory:
        restored(opened(damaged(where)), memory)
    assert memory.state == "aborted"
    assert untouched(memory) is (where in ("info", "extents", "header"))


@pytest.mark.parametrize("where", ["superseded data", "last byte of data", "digest", "end"])
def test_a_damaged_byte_and_an_image_that_was_there(where: str, tmp_path: Path) -> None:
    """It is no longer what it was, and not what it should be: it loses its name."""
    image = tmp_path / "disk.raw"
    image.write_bytes(b"old" * 1000)
    with pytest.raises(CorruptStreamError), RawImageSink(image) as sink:
        restore_chain(opened(damaged(where)), sink)
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw.partial"]


@pytest.mark.parametrize("where", POSITIONS)
def test_a_damaged_byte_found_first(where: str, tmp_path: Path) -> None:
    """With `verify_first` nothing was written, also where the damaged byte is superseded."""
    image = tmp_path / "disk.raw"
    image.write_bytes(b"old" * 1000)
    sink = MemorySink()
    with pytest.raises(StreamError):
        restored(opened(damaged(where)), sink, verify_first=True)
    assert untouched(sink)
    with pytest.raises(StreamError), RawImageSink(image) as raw:
        restore_chain(opened(damaged(where)), raw, verify_first=True)
    assert image.read_bytes() == b"old" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]


@pytest.mark.parametrize("verify_first", [False, True])
@pytest.mark.parametrize("device", [None, "drive"])
def test_which_byte_of_which_backup_is_damaged(device: str | None, verify_first: bool) -> None:
    sources = [Watched(s, device=device) for s in opened(damaged("first byte of data"))]
    message = "^the incremental backup b2 of 2026-11-24 21:00 UTC: BytesIO: extent-1@4096: the "
    with pytest.raises(DigestMismatchError, match=message) as caught:
        restored(sources, verify_first=verify_first)
    assert caught.value.start == 4 * K
    assert str(caught.value).count("backup b2") == 1


def test_a_superseded_backup_is_read_to_its_end() -> None:
    """All of it, too, where nothing of it is needed; on one drive and side by side."""
    links = chain([(8 * K, DATA)], [(8 * K, DATA)], [(8 * K, DATA)])
    for number in range(3):
        tars = [bytearray(one.tar()) for one in links]
        tars[number][tars[number].index(links[number].disk[:100]) + 5000] ^= 1
        for device in (None, "drive"):
            open_now: list[Watched] | None = [] if device else None
            streams = opened([bytes(tar) for tar in tars])
            sources = [Watched(s, device=device, open_now=open_now) for s in streams]
            sink = MemorySink()
            with pytest.raises(DigestMismatchError):
                restored(sources, sink)
            assert sink.state == "aborted"
    assert restored(opened([one.tar() for one in links])) == links[2].disk


def cuts(tar: bytes) -> dict[str, int]:
    """Lengths to which a tar can be cut."""
    members = {m.name: tar.index(m.name.encode()) for m in split(tar)}
    first, *_, last = (at for n, at in members.items() if n.startswith("extent-"))
    manifest = members[fmt.MANIFEST]
    size = len(split(tar)[-1].data)
    return {
        "before the data": first,
        "in the first header": first + 100,
        "behind the first header": first + 512,
        "in the data": first + 2000,
        "before the last data": last,
        "in the last data": last + 900,
        "one byte before the manifest": manifest - 1,
        "before the manifest": manifest,
        "in the manifest's header": manifest + 511,
        "behind the manifest's header": manifest + 512,
        "in the manifest": manifest + 512 + size // 2,
        "in the manifest's padding": manifest + 512 + size + 1,
        "behind the manifest": manifest + 512 + fmt.padded(size),
        "in the end": manifest + 512 + fmt.padded(size) + 700,
        "before the last byte of the end": manifest + 512 + fmt.padded(size) + 1023,
    }


# Two data members, of which the second is no multiple of 512.
CUT = [WEEK[0], link(WEEK[0], 2, [(5 * K, DATA), (20 * K, CLEAN), (1000, DATA), (14360, CLEAN)])]
CUTS = cuts(CUT[1].tar(record_size=10240))


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("number", [0, 1], ids=["full", "incremental"])
def test_a_cut_stream_is_refused_before_the_first_write(
    tmp_path: Path, where: str, number: int
) -> None:
    tars = [one.tar(record_size=10240) for one in CUT]
    paths = [tmp_path / "1.tar", tmp_path / "2.tar"]
    tars[number] = tars[number][: cuts(tars[number])[where]]
    for path, tar in zip(paths, tars, strict=True):
        path.write_bytes(b"before" + tar)

    def at_its_start(path: Path) -> Any:
        file = path.open("rb")
        file.seek(6)
        return file

    def as_path(path: Path) -> Path:
        path.write_bytes(path.read_bytes().removeprefix(b"before"))
        return path

    def unbuffered(path: Path) -> Any:
        file = path.open("rb", buffering=0)
        file.seek(6)
        return file

    for opens in (at_its_start, unbuffered, as_path):
        with ExitStack() as stack:
            files = [opens(path) for path in paths]
            for file in files:
                if opens is not as_path:
                    stack.enter_context(file)
            sink = MemorySink()
            with pytest.raises(IncompleteStreamError):
                restored([stack.enter_context(TarStreamSource(file)) for file in files], sink)
            assert untouched(sink)


@pytest.mark.parametrize("where", CUTS)
def test_a_cut_stream_that_cannot_be_looked_at(where: str) -> None:
    """What is no file is cut when it is read: the sink is aborted."""
    tars = [one.tar(record_size=10240) for one in CUT]
    tars[1] = tars[1][: cuts(tars[1])[where]]
    sink = MemorySink()
    with pytest.raises(IncompleteStreamError), sink:
        restored(opened(tars), sink)
    assert sink.state == "aborted"
    sink = MemorySink()
    with through_pipes(tars) as files, pytest.raises(IncompleteStreamError), sink:
        restored([TarStreamSource(file) for file in files], sink)
    assert sink.state == "aborted"


def test_cut_in_the_padding_of_the_last_record(tmp_path: Path) -> None:
    """All data is there: that is found only when it is read; but it is not a restored disk."""
    paths = [tmp_path / "1.tar", tmp_path / "2.tar"]
    for path, one in zip(paths, CUT, strict=True):
        path.write_bytes(one.tar(record_size=10240))
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    for verify_first in (False, True):
        sink = MemorySink()
        with (
            TarStreamSource(paths[0]) as full,
            TarStreamSource(paths[1]) as more,
            pytest.raises(IncompleteStreamError, match="all data is there"),
        ):
            restored([full, more], sink, verify_first=verify_first)
        assert untouched(sink) is verify_first


@contextmanager
def through_pipes(tars: Sequence[bytes]) -> Iterator[list[Any]]:
    """Pipes that give these bytes."""

    def feed(fd: int, tar: bytes) -> None:
        with open(fd, "wb", buffering=0) as f, suppress(BrokenPipeError):
            f.write(tar)

    ends = [os.pipe() for _ in tars]
    threads = [
        threading.Thread(target=feed, args=(write, tar))
        for (_, write), tar in zip(ends, tars, strict=True)
    ]
    for thread in threads:
        thread.start()
    with ExitStack() as stack:
        yield [stack.enter_context(open(read, "rb", buffering=0)) for read, _ in ends]
    for thread in threads:
        thread.join()


def test_through_pipes() -> None:
    with through_pipes([one.tar() for one in WEEK]) as files:
        assert restored([TarStreamSource(file) for file in files]) == THREE


def test_verify_first_and_a_pipe(tmp_path: Path) -> None:
    """Said before anything is read: without `verify_first` it goes on with the same sources."""
    path = tmp_path / "1.tar"
    path.write_bytes(WEEK[0].tar())
    with through_pipes([one.tar() for one in WEEK[1:]]) as files, TarStreamSource(path) as full:
        sources = [*(TarStreamSource(file) for file in files), full]
        sink = MemorySink()
        with pytest.raises(UsageError, match="can be read only once"):
            restored(sources, sink, verify_first=True)
        assert untouched(sink)
        assert restored(sources) == THREE


def test_verify_first_and_a_raw_image(tmp_path: Path) -> None:
    (tmp_path / "1.raw").write_bytes(WEEK[0].disk)
    with RawImageSource(tmp_path / "1.raw", info=WEEK[0].info) as full:
        rest = opened([one.tar() for one in WEEK[1:]])
        assert restored([full, *rest], verify_first=True) == THREE


OTHER = replace(WEEK[1], info=replace(WEEK[1].info, backup_id="other"))
REPLACEMENTS: dict[str, Callable[[], bytes]] = {
    "another backup": lambda: replace(CUT[1], info=OTHER.info).tar(),
    "another backup of the same extents": OTHER.tar,
    "other extents": CUT[1].tar,
    "another layout": lambda: WEEK[1].tar(part_size=1024),
    "something else": lambda: b"PK" + bytes(20000),
    "zeros": lambda: bytes(20000),
    "nothing": lambda: b"",
    "less": lambda: WEEK[1].tar()[:600],
}


@pytest.mark.parametrize("which", REPLACEMENTS)
def test_a_stream_that_is_replaced_after_it_was_opened(tmp_path: Path, which: str) -> None:
    path = tmp_path / "2.tar"
    path.write_bytes(WEEK[1].tar())
    with TarStreamSource(path) as source:
        source.extents()
        sources = [*opened([WEEK[0].tar(), WEEK[2].tar()]), source]
        path.write_bytes(REPLACEMENTS[which]())
        sink = MemorySink()
        with pytest.raises(StreamError):
            restored(sources, sink, verify_first=True)
        assert untouched(sink)
    path.write_bytes(WEEK[1].tar())
    with TarStreamSource(path) as source:
        source.extents()
        path.write_bytes(REPLACEMENTS[which]())
        with pytest.raises(StreamError):
            source.rewind()


def test_a_stream_that_is_replaced_by_one_of_the_same_name(tmp_path: Path) -> None:
    """As `TarStreamSink` does it, under a new name and renamed: what was opened is read on."""
    path = tmp_path / "2.tar"
    path.write_bytes(WEEK[1].tar())
    with TarStreamSource(path) as source:
        with OTHER.memory() as other, TarStreamSink(path) as sink:
            copy(other, sink)
        sources = [*opened([WEEK[0].tar(), WEEK[2].tar()]), source]
        assert restored(sources, verify_first=True) == THREE


def test_sources_that_were_read_before(tmp_path: Path) -> None:
    """They must be rewound, or opened anew; nothing is wrong with the backups."""
    paths = [tmp_path / "1", tmp_path / "2", tmp_path / "3"]
    for path, one in zip(paths, WEEK, strict=True):
        path.write_bytes(one.tar())
    with ExitStack() as stack:
        sources = [stack.enter_context(TarStreamSource(path)) for path in paths]
        assert restored(sources) == THREE
        for source in sources:
            source.rewind()
        assert restored(sources) == THREE
        with pytest.raises(UsageError, match="open it anew"):
            restored(sources)


def test_rewound_in_the_middle(tmp_path: Path) -> None:
    """Wherever the reading stopped."""
    path = tmp_path / "tar"
    path.write_bytes(b"other" + WEEK[0].tar())
    with path.open("rb") as file:
        file.seek(5)
        source = TarStreamSource(file)
        for _ in range(2):
            source.extents()
            with pytest.raises(LocalIOError, match="enough"):
                copy(source, MemorySink(before_write=_enough), **SMALL)
            source.rewind()
        sink = MemorySink()
        copy(source, sink, **SMALL)
        assert bytes(sink.disk) == WEEK[0].disk
        with pytest.raises(UsageError, match="rewind it"):
            source.open_reader()


def _enough(start: int, length: int) -> None:
    if start > 8 * K:
        raise LocalIOError("enough")


class Counting(io.RawIOBase):
    """A file object that counts what is read of it."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.count = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self.count += count
        return count

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@pytest.mark.parametrize("device", [None, "drive"])
def test_every_stream_is_read_once(device: str | None) -> None:
    """From the first byte to the last; with `verify_first` twice, and its head once more."""
    links = [*WEEK, link(WEEK[-1], 4, [(20 * K, DATA), (len(THREE) - 20 * K, CLEAN)])]
    tars = [one.tar() for one in links]
    for verify_first in (False, True):
        files = [Counting(tar + b"the next stream") for tar in tars]
        open_now: list[Watched] | None = [] if device else None
        sources = [
            Watched(TarStreamSource(file), device=device, open_now=open_now) for file in files
        ]
        heads = []
        for source, file in zip(sources, files, strict=True):
            source.extents()
            heads.append(file.count)
        assert restored(sources, verify_first=verify_first) == links[-1].disk
        for file, tar, head in zip(files, tars, heads, strict=True):
            assert file.count <= (2 * len(tar) + head + 512 if verify_first else len(tar))
            assert file.count >= (2 if verify_first else 1) * len(tar)
            assert file.tell() == len(tar)


# --- Memory ---

COUNT = 200_000


def many(step: int) -> Extents:
    """So many extents, of which every so many-th is dirty."""
    size = 8 * K
    texts = (
        f'{{"start": {i * size}, "length": {size}, "dirty": {"false" if i % step else "true"}}}'
        for i in range(COUNT)
    )
    return Extents.parse(("[" + ",".join(texts) + "]").encode(), context="dirty")


def test_memory_of_many_extents() -> None:
    """About 17 bytes for every stretch that one backup tells, 9 for every extent of the disk."""
    full = Extents.of_runs((i * 8 * K, 8 * K, ZERO if i % 2 else DATA) for i in range(COUNT))
    columns = [full, many(3), many(5)]
    tracemalloc.start()
    try:
        layers = Layers(columns)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stretches = len(layers._starts)
    assert stretches > 0.9 * COUNT
    assert left < 20 * stretches + 12 * len(layers.extents)
    assert peak < 24 * stretches + 12 * len(layers.extents)


class _Columns(MemorySource):
    def extents(self) -> Any:
        self._listed = True
        return self._extents


def test_memory_of_a_restore_of_many_extents() -> None:
    """What is told by whom stays in columns, all the time; nothing is kept of what was restored."""
    count = 50_000
    disk = random.Random(1).randbytes(count)
    full = Extents.of_runs((i, 1, ZERO if i % 2 else DATA) for i in range(count))
    more = [Extent(i * 2, 2, dirty=bool(i % 2)) for i in range(count // 2)]
    sources = [
        _Columns(disk, full, info=info(1, full=True), max_readers=1),
        _Columns(disk, Extents.of(more), info=info(2), max_readers=1),
    ]
    tracemalloc.start()
    try:
        merged = merge_chain(sources)
        copy(merged, DiscardSink(), **SMALL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * count
