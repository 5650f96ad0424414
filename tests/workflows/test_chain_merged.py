"""A merged chain as a source, and how it uses its links."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tapestream import Extent, Reader, Source, TarStreamSource, copy, merge_chain
from tapestream.errors import LocalIOError, UsageError
from tapestream.testing.memory import MemorySink, MemorySource
from tests.chains import DATA, WEEK, K, Watched, info, link, untouched, week
from tests.workflows.restoring import THREE, restored


def test_what_a_merged_chain_says_of_itself() -> None:
    sources = week()
    merged: Any = merge_chain(reversed(sources))
    assert merged.info == replace(
        sources[2].info, context="zero", parent_checkpoint_id=None, fallback=False
    )
    assert merged.info.checkpoint_id == "c3"
    assert merged.info.size == len(THREE)
    assert merged.sequential
    assert merged.max_readers == 1
    assert merged.digest_name == "sha256"
    assert merged.device is None
    assert not merged.server_is_local


@pytest.mark.parametrize("served", range(3))
def test_a_chain_of_which_a_server_here_has_a_part(served: int) -> None:
    class ServedSource(MemorySource):
        server_is_local = True

    extents = [[Extent(0, K, dirty=n > 1 or None)] for n in (1, 2, 3)]
    chain: list[Source] = [
        (ServedSource if n == served else MemorySource)(
            bytes(K), extents[n], info=info(n + 1, full=n == 0)
        )
        for n in range(3)
    ]
    merged: Any = merge_chain(chain)
    assert merged.server_is_local


def test_the_checksums_of_a_merged_chain() -> None:
    def merged(*names: str | None) -> str | None:
        tars = [one.tar(checksum=checksum) for one, checksum in zip(WEEK, names, strict=True)]
        chain: Any = merge_chain([TarStreamSource(io.BytesIO(tar)) for tar in tars])
        name: str | None = chain.digest_name
        return name

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
    merged: Any = merge_chain(week())
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
    calls: list[int] = []
    sources = [one.memory() for one in WEEK]
    for i, source in enumerate(sources):
        vars(source)["keep_alive"] = partial(calls.append, i)
    merged: Any = merge_chain(sources)
    merged.keep_alive()
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
    merged: Any = merge_chain([full, monday])
    assert merged.device == "drive"
    assert restored([tuesday, merged]) == THREE
