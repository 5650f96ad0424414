"""Every sink of ours keeps the contract, and so do the wrappers."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    BackupInfo,
    DiscardSink,
    Extents,
    ImageioUploadSink,
    RawImageSink,
    TarStreamSink,
    TarStreamSource,
    Writer,
    copy,
)
from tapestream.backend import ForwardingSink, ForwardingWriter, SinkLike
from tapestream.tape import TapeDrive
from tapestream.testing import ImageioDaemon, MemorySink, check_sink, serve_image, sink_checks
from tapestream.testing.drive import Cartridge, FakeDrive
from tests.tape.tapes import impatient

from . import sinks

SIZE = 1024**2
# What is asked only of sinks with this ability.
NO_FLUSH, NO_DIGESTS, NO_LOSS = {"sink-flush"}, {"sink-digests"}, {"sink-lost"}
NO_KEEP_ALIVE, NO_BLOCKING = {"sink-keep-alive"}, {"sink-cancel"}
NO_FAILURE = {"sink-errors", "sink-error-kind"}
NO_LENDING = {"sink-memory"}
IN_ORDER = {"sink-zero-then-data", "sink-order", "sink-writers"}
TAKES_ANY = {"sink-refuses"}
# What cannot be checked if the target does not show whether it is complete.
UNMARKED = {"sink-commit-last", "sink-close", "sink-abort", "sink-abort-keeps", "sink-resize"}
# What cannot be asked if each target is new.
NEW = {"sink-zero", "sink-resize", "sink-refuses", "sink-abort-keeps", "sink-after-abort"}


@dataclass(frozen=True)
class Asked:
    """A sink of ours, as `check_sink` gets it, and the clauses that cannot be asked of it."""

    make: Callable[[Path], Any]
    read_back: Callable[[Path], Any]
    skipped: set[str]
    existing: Any = "kept"
    failing: Callable[[Path], Any] | None = None
    blocking: Callable[[Path], Any] | None = None
    expected: Mapping[str, str] | None = None

    def check(self) -> None:
        report = check_sink(
            self.make,
            self.read_back,
            existing=self.existing,
            size=SIZE,
            failing=self.failing,
            blocking=self.blocking,
            expected_failures=self.expected,
        )
        report.raise_()
        assert report.skipped.keys() == self.skipped


def restored(source: TarStreamSource) -> bytes:
    with source, MemorySink() as sink:
        copy(source, sink)
    return bytes(sink.disk)


def image(path: Path) -> bytes | None:
    return (path / "disk").read_bytes() if (path / "disk").exists() else None


def raw_image(path: Path) -> SinkLike:
    return RawImageSink(path / "disk")


def no_directory(path: Path) -> SinkLike:
    return RawImageSink(path / "gone" / "disk")


class ToFile(ForwardingSink):
    """A tar into a file that is closed with it."""

    def __init__(self, fd: int) -> None:
        self.file = os.fdopen(fd, "wb", buffering=0)
        super().__init__(TarStreamSink(self.file))

    def close(self) -> None:
        super().close()
        self.file.close()


class UnreadPipe(ToFile):
    """A tar into a pipe that is full, and that nobody reads."""

    def __init__(self, path: Path) -> None:
        self.read_end, write_end = os.pipe()
        super().__init__(write_end)
        os.set_blocking(write_end, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write_end, bytes(4096))
        os.set_blocking(write_end, True)

    def close(self) -> None:
        is_open = not self.file.closed
        super().close()
        if is_open:
            os.close(self.read_end)


def full_device(path: Path) -> SinkLike:
    return ToFile(os.open("/dev/full", os.O_WRONLY))


def raw_images() -> Asked:
    skipped = NO_FLUSH | NO_DIGESTS | NO_LENDING | NO_LOSS | NO_KEEP_ALIVE | NO_BLOCKING | TAKES_ANY
    return Asked(raw_image, image, skipped, existing="overwritten", failing=no_directory)


def tar_files() -> Asked:
    return Asked(
        lambda path: TarStreamSink(path / "disk.tar"),
        lambda path: restored(TarStreamSource(path / "disk.tar")),
        IN_ORDER | NO_LOSS | NO_KEEP_ALIVE | TAKES_ANY,
        failing=full_device,
        blocking=UnreadPipe,
    )


def tar_streams() -> Asked:
    files: dict[Path, io.BytesIO] = {}

    def make(path: Path) -> SinkLike:
        files[path] = io.BytesIO()
        return TarStreamSink(files[path])

    def read_back(path: Path) -> bytes:
        return restored(TarStreamSource(io.BytesIO(files[path].getvalue())))

    skipped = NEW | IN_ORDER | NO_LOSS | NO_KEEP_ALIVE | NO_FAILURE | NO_BLOCKING
    return Asked(make, read_back, skipped, existing="none")


def tapes() -> Asked:
    drives: dict[Path, TapeDrive] = {}

    def sink_on(tape: Cartridge, path: Path) -> SinkLike:
        if path not in drives:
            drives[path] = impatient(TapeDrive("/dev/nst0", open_device=FakeDrive(tape).open))
        return TarStreamSink(drives[path], record_size=64 * 1024)

    def read_back(path: Path) -> bytes | None:
        complete = [entry for entry in drives[path].scan() if entry.complete and entry.info]
        if not complete:
            return None
        drives[path].go_to_file(complete[-1].file)
        return restored(TarStreamSource(drives[path]))

    return Asked(
        lambda path: sink_on(Cartridge(), path),
        read_back,
        IN_ORDER | NO_LOSS | NO_KEEP_ALIVE | NO_BLOCKING | TAKES_ANY,
        failing=lambda path: sink_on(Cartridge(SIZE // 2, 64 * 1024), path),
        expected={"sink-commit-last": "a tape cannot be read while the sink writes to it"},
    )


def memory() -> Asked:
    make, read_back = sinks.memory_sink()
    skipped = NEW | NO_DIGESTS | NO_LENDING | NO_LOSS | NO_KEEP_ALIVE | NO_FAILURE | NO_BLOCKING
    return Asked(make, read_back, skipped, existing="none")


class Throttled(ForwardingSink):
    """Lets each write wait a little."""

    def open_writer(self) -> Writer:
        return ThrottledWriter(super().open_writer())


class ThrottledWriter(ForwardingWriter):
    def write(self, start: int, buffer: memoryview) -> None:
        time.sleep(len(buffer) / 1e9)
        super().write(start, buffer)


class Counting(ForwardingSink):
    """Counts what is written, and hashes each piece after it was written."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.hashes: list[bytes] = []

    def open_writer(self) -> Writer:
        return CountingWriter(super().open_writer(), self)


class CountingWriter(ForwardingWriter):
    def __init__(self, wrapped: Writer, sink: Counting) -> None:
        super().__init__(wrapped)
        self.sink = sink

    def write(self, start: int, buffer: memoryview) -> None:
        super().write(start, buffer)
        self.sink.hashes.append(hashlib.sha256(buffer).digest())


def wrapping(kind: Callable[[SinkLike], SinkLike]) -> Callable[[], Asked]:
    """Asks a wrapper around a sink with all abilities."""

    def asked() -> Asked:
        make, read_back = sinks.made_by(sinks.GoodSink)
        return Asked(
            lambda path: kind(make(path)),
            read_back,
            TAKES_ANY | NO_LENDING,
            failing=lambda path: kind(sinks.FullShelf({}, path)),
            blocking=lambda path: kind(sinks.Blocks({}, path)),
        )

    return asked


ASKED = {
    "raw images": raw_images,
    "tar files": tar_files,
    "tar streams": tar_streams,
    "tapes": tapes,
    "memory": memory,
    "forwarding": wrapping(ForwardingSink),
    "throttled": wrapping(Throttled),
    "counting": wrapping(Counting),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_it_keeps_the_contract(asked: Callable[[], Asked]) -> None:
    asked().check()


class LosesItsTicket(ForwardingSink):
    """An upload whose ticket is gone when the first data comes."""

    def __init__(self, wrapped: SinkLike, lose: Callable[[], None]) -> None:
        super().__init__(wrapped)
        self.lose = lose

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.lose()


def empty_image(path: Path) -> Path:
    """The image in a directory, which is made if it is not there."""
    with (path / "disk").open("ab") as file:
        file.truncate(SIZE)
    return path / "disk"


def test_an_upload_keeps_the_contract(daemon: ImageioDaemon) -> None:
    def ticket(path: Path) -> str:
        return daemon.add_ticket(f"file://{empty_image(path)}", SIZE, ops=["write"])

    def make(path: Path) -> SinkLike:
        return ImageioUploadSink(ticket(path), cafile=daemon.cafile)

    def failing(path: Path) -> SinkLike:
        url = ticket(path)
        upload = ImageioUploadSink(url, cafile=daemon.cafile)
        return LosesItsTicket(upload, lambda: daemon.remove_ticket(url))

    # The daemon allows only one writer of a file.
    skipped = UNMARKED | NO_DIGESTS | NO_LENDING | NO_BLOCKING | {"sink-writers"}
    Asked(make, image, skipped, existing="unmarked", failing=failing).check()


@pytest.mark.parametrize("clause", ["sink-writers", "sink-max-writers", "sink-flush", "sink-lost"])
def test_an_upload_with_several_writers_keeps_the_contract(
    daemon: ImageioDaemon, clause: str
) -> None:
    with ExitStack() as servers:

        def make(path: Path) -> SinkLike:
            url = servers.enter_context(
                serve_image(empty_image(path), format="raw", read_only=False)
            )
            ticket = daemon.add_ticket(url, SIZE, ops=["write"])
            return ImageioUploadSink(ticket, cafile=daemon.cafile)

        dict(sink_checks())[clause](make, image, existing="unmarked", size=SIZE)


def test_a_sink_that_discards_keeps_what_can_be_asked_of_it() -> None:
    report = check_sink(lambda _: DiscardSink(), lambda _: None, size=SIZE)
    assert all(why == "the target holds nothing complete" for why in report.failed.values()), report
    asked = {"sink-names", "sink-abilities", "sink-releases", "sink-returns", "sink-abort"}
    assert asked <= set(report.passed)
