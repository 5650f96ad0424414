"""Damaged, cut, replaced and superseded links of a chain."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    RawImageSink,
    RawImageSource,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    restore_chain,
)
from tapestream.errors import (
    CorruptStreamError,
    DigestMismatchError,
    IncompleteStreamError,
    LocalIOError,
    StreamError,
    UsageError,
)
from tapestream.tar import format as fmt
from tapestream.testing.memory import MemorySink
from tests.chains import CLEAN, DATA, WEEK, K, Watched, chain, link, untouched
from tests.tar.tars import split
from tests.workflows.restoring import SMALL, THREE, restored


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
