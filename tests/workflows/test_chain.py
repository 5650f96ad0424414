"""Restore chains: the disk as it was, from any backups, in one pass."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestream import (
    DiscardSink,
    Extent,
    RawImageSource,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
)
from tapestream.errors import UsageError
from tapestream.model.extents import Extents
from tapestream.model.overlay import Overlay
from tapestream.testing.memory import MemorySink, MemorySource
from tests.chains import DATA, ZERO, K, Link, Watched, chains, info, untouched, week
from tests.forgetful import ForgetfulSource
from tests.workflows.restoring import SMALL, THREE, restored

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


def test_what_comes_in_turn_must_be_announced() -> None:
    """A reader must know from which backup it is to read."""
    merged = merge_chain([Watched(source, device="drive") for source in week()])
    with pytest.raises(UsageError, match=r"one after another.*prefetch\(\)"):
        copy(ForgetfulSource(merged), MemorySink())


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
        layers = Overlay(columns)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stretches = len(layers._starts)
    assert stretches > 0.9 * COUNT
    assert left < 20 * stretches + 12 * len(layers.extents)
    assert peak < 24 * stretches + 12 * len(layers.extents)


def test_memory_of_a_restore_of_many_extents() -> None:
    """What is told by whom stays in columns, all the time; nothing is kept of what was restored."""
    count = 50_000
    disk = random.Random(1).randbytes(count)
    full = Extents.of_runs((i, 1, ZERO if i % 2 else DATA) for i in range(count))
    more = [Extent(i * 2, 2, dirty=bool(i % 2)) for i in range(count // 2)]
    sources = [
        MemorySource(disk, full, info=info(1, full=True), max_readers=1),
        MemorySource(disk, Extents.of(more), info=info(2), max_readers=1),
    ]
    tracemalloc.start()
    try:
        merged = merge_chain(sources)
        copy(merged, DiscardSink(), **SMALL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * count
