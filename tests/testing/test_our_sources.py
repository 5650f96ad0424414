"""Our own sources keep every clause of the contract that can be asked of them."""

from __future__ import annotations

import io
import os
import subprocess
import threading
from collections.abc import Callable, Set
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    Extent,
    Extents,
    ImageioHTTPSource,
    Kind,
    RawImageSource,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
)
from tapestream.backend import ForwardingSource, SourceLike
from tapestream.engine.hashing import HashingSource
from tapestream.testing import (
    ImageioDaemon,
    MemorySource,
    check_source,
    create_image,
    serve_image,
    write_pattern,
)
from tests.chains import Link, chain
from tests.disks import noise
from tests.drive.stations import FakeStation
from tests.hostile import Fault, HostileServer, Stall, Status
from tests.imageio.support import FOREVER
from tests.tape.chaining import put_all
from tests.tape.tapes import tape_drive
from tests.throttle import Throttled

KIB = 1024
Make = Callable[[], SourceLike]
Z, D, C = Kind.ZERO, Kind.DATA, Kind.CLEAN
FULL, CHANGED = chain(
    [(50_001, D), (70_000, Z), (1, D), (30_000, Z), (40_000, D), (9_000, Z), (4_321, D)],
    [(20_000, C), (30_001, D), (70_000, Z), (1, C), (30_000, D), (48_321, C), (5_000, D)],
)
TARS = FULL.tar(), CHANGED.tar()

# What a source needs to be asked for these clauses.
FAILING = {"errors", "error-kind", "error-close"}
BLOCKING = {"cancel-blocked", "close-blocked"}
SEVERAL = {"max-readers", "independent", "threads", "reader-close"}
GAPS = {"across-extents", "within-gaps"}
PREFETCHES = {"prefetch", "prefetch-unread", "shapes"}
CANCELS = {"cancel-any-time", *BLOCKING}
CHECKS = {"finish", "finish-early", "digest"}
SALVAGES = {"salvage", "salvage-damage"}
# These sources have nothing else.
PLAIN = {"keep-alive", "check-complete", "rewind", "read-order", "missing-until", "wrapped"}
TAR = {"keep-alive", "read-order", "wrapped", *SEVERAL, *PREFETCHES}
CHAIN = {"check-complete", "missing-until", "wrapped", *SALVAGES}
IMAGEIO = {*CHECKS, *SALVAGES, "check-complete", "read-order", "missing-until", "wrapped"}


def check(
    make: Make,
    content: bytes,
    skipped: Set[str],
    *,
    without: Set[str] = frozenset(),
    **options: Any,
) -> None:
    """Check a source, and make sure that only these clauses are skipped.

    Args:
        make: See `check_source`.
        content: See `check_source`.
        skipped: The clauses that cannot be checked.
        without: Those among them that are asked all the same.
        **options: See `check_source`.
    """
    report = check_source(make, content, **options)
    report.raise_()
    assert {each.removeprefix("source-") for each in report.skipped} == skipped - without


# In memory, and wrapped


MEMORY = {*FAILING, *BLOCKING, *SALVAGES, *PLAIN, "digest", "shapes"}


@pytest.mark.parametrize("link", [FULL, CHANGED])
def test_memory(link: Link) -> None:
    check(link.memory, link.disk, MEMORY)


@pytest.mark.parametrize("size", [0, 1, 512])
def test_memory_without_gaps(size: int) -> None:
    disk = noise(size)
    check(lambda: MemorySource(disk), disk, {*MEMORY, *GAPS})


@pytest.mark.parametrize("wrap", [ForwardingSource, Throttled])
def test_wrapped(wrap: Callable[[SourceLike], SourceLike]) -> None:
    check(lambda: wrap(FULL.memory()), FULL.disk, MEMORY, without={"wrapped"})


def test_hashed() -> None:
    extents = Extents.of(FULL.extents)
    make = partial(HashingSource, extents=extents)
    check(lambda: make(FULL.memory()), FULL.disk, MEMORY, without={"wrapped", "missing-until"})


# A raw image


def test_raw_image(tmp_path: Path) -> None:
    path, piece = tmp_path / "disk", 64 * KIB
    disk = noise(piece) + bytes(4 * piece) + noise(piece + 1)

    def make(size: int) -> Source:
        with path.open("wb") as file:
            file.write(disk[:piece])
            file.seek(5 * piece)
            file.write(disk[5 * piece :])
        source = RawImageSource(path)
        os.truncate(path, size)
        return source

    skipped = {*SALVAGES, *PREFETCHES, *CANCELS, *CHECKS, *PLAIN}
    shorter = partial(make, len(disk) - 1)
    check(partial(make, len(disk)), disk, skipped, without={"rewind"}, failing=shorter)


# A tar


def damaged(tar: bytes, data: bytes) -> bytes:
    """A tar in which a byte of this data is another one."""
    at = tar.index(data)
    return tar[:at] + bytes([tar[at] ^ 1]) + tar[at + 1 :]


CUT = [TARS[0][:80_000], damaged(TARS[0], FULL.disk[20_100:20_200])]


class Pipe(ForwardingSource):
    """A tar that comes through a pipe. If it stalls, the pipe is not closed after the last byte."""

    def __init__(self, tar: bytes, *, stalls: bool = False) -> None:
        read, self.written = os.pipe()
        self.writer = threading.Thread(target=self.write, args=(memoryview(tar), stalls))
        self.writer.start()
        self.file = open(read, "rb", buffering=0)  # noqa: SIM115 - closed in close
        super().__init__(TarStreamSource(self.file))

    def write(self, tar: memoryview, stalls: bool) -> None:
        with suppress(BrokenPipeError):
            while tar:
                tar = tar[os.write(self.written, tar) :]
        if not stalls:
            os.close(self.written)

    def close(self) -> None:
        super().close()
        self.file.close()
        if self.writer.is_alive():
            self.writer.join()


@pytest.mark.parametrize(("link", "bad"), [(FULL, CUT[0]), (FULL, CUT[1]), (CHANGED, CUT[0])])
def test_tar_in_a_file(link: Link, bad: bytes, tmp_path: Path) -> None:
    path, failing = tmp_path / "tar", tmp_path / "failing"
    path.write_bytes(link.tar())
    failing.write_bytes(bad)
    check(
        lambda: TarStreamSource(path),
        link.disk,
        {*TAR, *BLOCKING},
        failing=lambda: TarStreamSource(failing),
    )


def test_tar_in_a_file_that_is_salvaged(tmp_path: Path) -> None:
    path = tmp_path / "tar"
    path.write_bytes(TARS[0])
    skipped = {*TAR, *BLOCKING, *FAILING, "salvage-damage"}
    check(lambda: TarStreamSource(path, allow_incomplete=True), FULL.disk, skipped)


@pytest.mark.parametrize("zero", [False, True])
def test_tar_of_a_small_disk(zero: bool) -> None:
    disk = bytes(512) if zero else noise(512)
    tar = io.BytesIO()
    with MemorySource(disk, [Extent(0, 512, zero=zero)]) as source, TarStreamSink(tar) as sink:
        copy(source, sink)
    skipped = {*TAR, *BLOCKING, *FAILING, *GAPS, "salvage-damage"}
    check(lambda: TarStreamSource(io.BytesIO(tar.getvalue())), disk, skipped)


def test_tar_in_a_pipe() -> None:
    check(
        lambda: Pipe(TARS[0]),
        FULL.disk,
        {*TAR, "rewind"},
        without={"wrapped"},
        failing=lambda: Pipe(CUT[0]),
        blocking=lambda: Pipe(CUT[0], stalls=True),
    )


# A chain


def test_chain_in_memory() -> None:
    skipped = {*CHAIN, *FAILING, *BLOCKING, *PREFETCHES, "rewind"}
    check(lambda: merge_chain([FULL.memory(), CHANGED.memory()]), CHANGED.disk, skipped)


def test_chain_of_tars() -> None:
    def make(*tars: bytes) -> Source:
        return merge_chain([TarStreamSource(io.BytesIO(tar)) for tar in tars])

    replaced = damaged(TARS[0], FULL.disk[30_100:30_200])  # in data that the newer backup replaces
    check(
        partial(make, *TARS),
        CHANGED.disk,
        {*CHAIN, *BLOCKING, *PREFETCHES, *SEVERAL},
        failing=partial(make, replaced, TARS[1]),
    )


class ChainOfPipes(ForwardingSource):
    def __init__(self, *pipes: Pipe) -> None:
        self.pipes = pipes
        super().__init__(merge_chain(pipes))

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()


def test_chain_of_pipes() -> None:
    check(
        lambda: ChainOfPipes(*map(Pipe, TARS)),
        CHANGED.disk,
        {*CHAIN, *PREFETCHES, *SEVERAL, "rewind"},
        without={"wrapped"},
        failing=lambda: ChainOfPipes(Pipe(CUT[0]), Pipe(TARS[1])),
        blocking=lambda: ChainOfPipes(Pipe(CUT[0], stalls=True), Pipe(TARS[1])),
    )


# A tape, in a double of a drive


class OnTape(ForwardingSource):
    """One backup on a tape, or a chain of several, with a drive of their own."""

    def __init__(self, station: FakeStation, *files: int, fails: bool = False) -> None:
        self.drive = tape_drive(station)
        self.streams = [TarStreamSource(self.drive, file=file) for file in files]
        super().__init__(self.streams[0] if len(files) == 1 else merge_chain(self.streams))
        if fails:
            station.fail("read", 2)

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        self.drive.close()


def loaded() -> FakeStation:
    """A drive with a tape that has both backups."""
    station = FakeStation()
    with tape_drive(station) as drive:
        put_all(drive, [FULL, CHANGED])
    return station


@pytest.mark.parametrize(("link", "file"), [(FULL, 0), (CHANGED, 1)])
def test_tape(link: Link, file: int) -> None:
    station, failing = loaded(), loaded()
    check(
        lambda: OnTape(station, file),
        link.disk,
        {*TAR, *BLOCKING},
        without={"wrapped"},
        failing=lambda: OnTape(failing, file, fails=True),
    )


def test_chain_on_one_tape() -> None:
    """It is read in two passes, one backup after the other."""
    station, failing = loaded(), loaded()
    check(
        lambda: OnTape(station, 0, 1),
        CHANGED.disk,
        {*CHAIN, *BLOCKING, *SEVERAL, "shapes"},
        without={"wrapped"},
        failing=lambda: OnTape(failing, 0, 1, fails=True),
    )


# An imageio server


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    create_image(path, 2 * 1024 * KIB + 512)
    write_pattern(path, ["write -P 1 0 64k", "write -P 2 192k 128k", "write -P 3 2M 512"])
    return path


def content_of(image: Path) -> bytes:
    raw = image.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)], check=True)
    return raw.read_bytes()


def test_imageio_full(daemon: ImageioDaemon, image: Path) -> None:
    content = content_of(image)
    with serve_image(image) as nbd:
        url = daemon.add_ticket(nbd, len(content))
        make = partial(ImageioHTTPSource, url, cafile=daemon.cafile)
        check(make, content, {*IMAGEIO, *FAILING, *BLOCKING})


def test_imageio_dirty(daemon: ImageioDaemon, image: Path) -> None:
    subprocess.run(["qemu-img", "bitmap", "--add", str(image), "changes"], check=True)
    write_pattern(image, ["write -P 4 256k 128k", "write -z 0 64k", "write -P 5 1M 1"])
    content = content_of(image)
    with serve_image(image, bitmap="changes") as nbd:
        url = daemon.add_ticket(nbd, len(content), dirty=True)
        make = partial(
            ImageioHTTPSource, url, context="dirty", cafile=daemon.cafile, use_unix_socket=False
        )
        check(make, content, {*IMAGEIO, *FAILING, *BLOCKING})


HOSTILE = noise(64 * KIB) + bytes(64 * KIB) + noise(100 * KIB + 512)


def on_last_byte(fault: Fault) -> Callable[[int, int, int], Fault | None]:
    return lambda _, start, length: fault if start + length == len(HOSTILE) else None


@pytest.mark.parametrize(
    ("fails", "stalls"),
    [
        (
            {"on_get": on_last_byte(Status(416))},
            {"on_get": on_last_byte(Stall(100, FOREVER))},
        ),
        (
            {"on_extents": lambda _: Status(500)},
            {"on_extents": lambda _: Stall(1, FOREVER)},
        ),
    ],
    ids=["data", "extents"],
)
def test_imageio_that_fails_or_stalls(fails: dict[str, Any], stalls: dict[str, Any]) -> None:
    def download(server: HostileServer) -> Source:
        return ImageioHTTPSource(server.url, secure=False, retries=0)

    with (
        HostileServer(HOSTILE) as server,
        HostileServer(HOSTILE, **fails) as failing,
        HostileServer(HOSTILE, **stalls) as stalling,
    ):
        check(
            partial(download, server),
            HOSTILE,
            IMAGEIO,
            failing=partial(download, failing),
            blocking=partial(download, stalling),
        )
