"""Which backups make a chain, and what is refused before the first write."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestream import (
    BackupInfo,
    Extent,
    RawImageSource,
    Reader,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
    restore_chain,
)
from tapestream.errors import ChainError, UsageError
from tapestream.model.checkpoints import describe_backup, order_by_checkpoint
from tapestream.model.extents import Kind
from tapestream.testing.memory import MemorySink, MemorySource
from tests.chains import CLEAN, DATA, ZERO, K, Link, chain, info, untouched
from tests.workflows.restoring import restored


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
    found = [given_order[i] for i in order_by_checkpoint(given_order)]
    assert found == made[max(fulls) - 1 :]


def test_one_backup_needs_no_ids() -> None:
    assert order_by_checkpoint([BackupInfo(context="zero")]) == [0]


def test_the_last_one_needs_no_checkpoint() -> None:
    last = replace(info(2), checkpoint_id=None)
    assert order_by_checkpoint([last, info(1, full=True)]) == [1, 0]


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
                order_by_checkpoint(mixed)
        sources = [_Unread(one) for one in mixed]
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


def test_backups_that_do_not_say_of_which_disk(caplog: pytest.LogCaptureFixture) -> None:
    """It goes by their checkpoints, with a warning; a backup alone needs none."""
    order_by_checkpoint([replace(FULL, disk_id=None)])
    assert caplog.text == ""
    assert order_by_checkpoint([replace(one, disk_id=None) for one in (info(2), FULL)]) == [1, 0]
    assert "do not say of which disk" in caplog.text


def test_nothing_to_restore() -> None:
    sink = MemorySink()
    with pytest.raises(UsageError, match="no backup"):
        restore_chain([], sink)
    with pytest.raises(UsageError):
        merge_chain(iter(()))
    assert untouched(sink)


def test_how_a_backup_is_called() -> None:
    assert describe_backup(info(1, full=True)) == "the full backup b1 of 2026-11-23 21:00 UTC"
    assert (
        describe_backup(BackupInfo(checkpoint_id="c", context="dirty"))
        == "the incremental backup c"
    )
    assert describe_backup(BackupInfo()) == "the full backup without id"


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


def test_a_backup_that_became_a_full_one_is_the_base_of_the_chain() -> None:
    """A server may fall back, which only the extents show: what is before is not read."""

    class FallsBack(MemorySource):
        def extents(self) -> Any:
            self.info = replace(self.info, size=16, context="zero", fallback=True)
            return super().extents()

    old = MemorySource(b"a" * 16, info=info(1, full=True))
    live = FallsBack(b"b" * 16)
    live.info = info(2)
    last = MemorySource(
        b"c" * 16, [Extent(0, 8, dirty=True), Extent(8, 8, dirty=False)], info=info(3)
    )
    assert restored([old, live, last]) == b"c" * 8 + b"b" * 8
    assert old.readers == []
