"""What a server acknowledged and had not flushed when it died is sent again, or an error says so.

The server's death is real: SIGKILL for qemu-nbd, the daemon or both, while the source pauses. So is
what it loses: the image is put back to what it was after the last flush.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    BackupInfo,
    Extent,
    ImageioHTTPSource,
    ImageioUploadSink,
    Reader,
    Sink,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
)
from tapestream.backend.forwarding import ForwardingReader, ForwardingSource
from tapestream.errors import LostWritesError
from tapestream.model.extents import Extents
from tapestream.testing import ImageioDaemon, ImageServer, MemorySource, create_image
from tests.disks import noise
from tests.engine.kept import copy_kept_alive
from tests.hostile import HONEST, Answer, Connection, Fault, HostileServer, Reply, Request
from tests.imageio.support import MIB, Last, content, eventually

SIZE = 32 * MIB
ZEROS = 8 * MIB, 12 * MIB
OLD = b"\xee"
BOTH = pytest.mark.parametrize("unix", [False, True], ids=["tls", "unix"])
# The pause comes here, when everything before was sent.
PAUSE = 20 * MIB

IMAGE = bytearray(noise(SIZE))
IMAGE[ZEROS[0] : ZEROS[1]] = bytes(ZEROS[1] - ZEROS[0])
EXTENTS = [
    Extent(0, ZEROS[0]),
    Extent(ZEROS[0], ZEROS[1] - ZEROS[0], zero=True),
    Extent(ZEROS[1], SIZE - ZEROS[1]),
]
IN_ORDER: dict[str, Any] = {"max_workers": 1, "buffer_size": MIB, "buffer_memory": 2 * MIB}


@pytest.fixture(autouse=True)
def no_pauses() -> None:
    """Retries take their time here: a server that died needs some to start again."""


class Pausing(ForwardingSource):
    """Lets something happen once, in the middle of what another source reads."""

    def __init__(self, inner: Source, happen: Callable[[], None], at: int = PAUSE) -> None:
        super().__init__(inner)
        self._at, self._happen = at, happen
        self._happened = False

    def open_reader(self) -> Reader:
        return _PausingReader(super().open_reader(), self)

    def pause(self, end: int) -> None:
        if end > self._at and not self._happened:
            self._happened = True
            self._happen()


class _PausingReader(ForwardingReader):
    def __init__(self, inner: Reader, source: Pausing) -> None:
        super().__init__(inner)
        self._source = source

    def readinto(self, start: int, buffer: memoryview) -> None:
        self._source.pause(start + len(buffer))
        super().readinto(start, buffer)


class Target:
    """A raw disk full of old data, behind a qemu-nbd and a daemon that can die."""

    def __init__(self, directory: Path, *, as_file: bool = False) -> None:
        self.path = directory / "target.raw"
        self._saved = directory / "saved.raw"
        self.path.write_bytes(OLD * SIZE)
        self.save()
        self.daemon = ImageioDaemon(directory / "daemon", local_socket=f"{directory}/local")
        self.nbd = ImageServer(self.path, format="raw", read_only=False)
        self._as_file = as_file
        self._ticket: str | None = None

    def __enter__(self) -> Target:
        self.nbd.__enter__()
        self.daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        self.nbd.__exit__()

    def save(self) -> None:
        """This is what survives."""
        shutil.copyfile(self.path, self._saved)

    def ticket(self) -> str:
        backend = self.path.as_uri() if self._as_file else self.nbd.url
        url = self.daemon.add_ticket(backend, SIZE, ops=["write"], ticket_id=self._ticket)
        self._ticket = url.rpartition("/")[2]
        return url

    def sink(self, **options: Any) -> ImageioUploadSink:
        return ImageioUploadSink(self.ticket(), cafile=self.daemon.cafile, **options)

    def die(self, *, daemon: bool = False) -> None:
        """Lose all that was not flushed, and come back."""
        if daemon:
            self.daemon.kill()
        self.nbd.kill()
        shutil.copyfile(self._saved, self.path)
        self.nbd.start()
        if daemon:
            self.daemon.start()
            self.ticket()

    def check(self) -> None:
        self.nbd.stop()
        assert self.path.read_bytes() == IMAGE


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with Target(tmp_path) as running:
        yield running


def disk() -> MemorySource:
    return MemorySource(bytes(IMAGE), EXTENTS)


def tar_of(source: Source, path: Path) -> str:
    with TarStreamSink(str(path)) as sink:
        copy(source, sink)
    return str(path)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed after the test."""
    with ExitStack() as stack:
        yield stack


def whole_and_changed(directory: Path, opened: ExitStack) -> list[TarStreamSource]:
    """A chain of two: a full backup, and the second half of the disk, which was written since."""
    before = bytes(IMAGE[: SIZE // 2]) + noise(SIZE // 2)
    full = MemorySource(before, EXTENTS)
    full_info = BackupInfo(size=SIZE, checkpoint_id="1")
    changed = [Extent(0, SIZE // 2, dirty=False), Extent(SIZE // 2, SIZE // 2, dirty=True)]
    now = MemorySource(bytes(IMAGE), changed)
    info = BackupInfo(size=SIZE, context="dirty", checkpoint_id="2", parent_checkpoint_id="1")

    class WithInfo(Pausing):
        def __init__(self, inner: Source, info: BackupInfo) -> None:
            super().__init__(inner, lambda: None, SIZE)
            self._info = info

        info = property(lambda self: self._info)

    paths = [
        tar_of(WithInfo(full, full_info), directory / "full.tar"),
        tar_of(WithInfo(now, info), directory / "changed.tar"),
    ]
    return [opened.enter_context(TarStreamSource(path)) for path in paths]


SOURCES: dict[str, Callable[[Path, ExitStack], Source]] = {
    "disk": lambda *_: disk(),
    "tar": lambda directory, _: TarStreamSource(tar_of(disk(), directory / "disk.tar")),
    "chain": lambda directory, opened: merge_chain(whole_and_changed(directory, opened)),
}


@BOTH
@pytest.mark.parametrize("kind", SOURCES)
def test_a_qemu_nbd_that_dies_while_the_source_pauses(
    target: Target, tmp_path: Path, opened: ExitStack, unix: bool, kind: str
) -> None:
    source = Pausing(SOURCES[kind](tmp_path, opened), target.die)
    with source, target.sink(use_unix_socket=unix) as sink:
        result = copy(source, sink, **IN_ORDER)
    assert result.data_bytes == SIZE - (ZEROS[1] - ZEROS[0])
    target.check()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_host_that_dies_while_the_source_pauses(
    target: Target, tmp_path: Path, opened: ExitStack, kind: str, workers: int
) -> None:
    """The daemon, too: it closes all connections, as after a pause that is too long."""
    written = Written()

    def die() -> None:
        eventually(lambda: written.bytes == PAUSE - (ZEROS[1] - ZEROS[0]))
        eventually(lambda: target.daemon.ticket_info(url)["active"] is False)
        target.die(daemon=True)

    source = Pausing(SOURCES[kind](tmp_path, opened), die)
    with source, target.sink() as sink:
        url = target.ticket()
        copy(source, sink, **{**IN_ORDER, "max_workers": workers}, progress=written)
    target.check()


class AtTheEnd:
    """Lets something happen when all data was written, before it is flushed."""

    def __init__(self, happen: Callable[[], None]) -> None:
        self._left = SIZE - (ZEROS[1] - ZEROS[0])
        self._happen = happen

    def update(self, n: int) -> None:
        self._left -= n
        if self._left == 0:
            self._happen()


@pytest.mark.parametrize("daemon", [False, True])
def test_a_server_that_dies_before_the_last_flush(target: Target, daemon: bool) -> None:
    def die() -> None:
        eventually(lambda: target.daemon.ticket_info(url)["active"] is False)
        target.die(daemon=daemon)

    with disk() as source, target.sink() as sink:
        url = target.ticket()
        copy(source, sink, **IN_ORDER, progress=AtTheEnd(die))
    target.check()


def test_a_daemon_that_dies_and_wrote_to_a_file_itself(tmp_path: Path) -> None:
    with Target(tmp_path, as_file=True) as target:

        def die() -> None:
            eventually(lambda: target.daemon.ticket_info(url)["active"] is False)
            target.die(daemon=True)

        with Pausing(disk(), die) as source, target.sink() as sink:
            url = target.ticket()
            assert sink.max_writers == 1
            copy(source, sink, **IN_ORDER)
        target.check()


class Written:
    """Counts."""

    bytes = 0

    def update(self, n: int) -> None:
        self.bytes += n


def test_what_was_flushed_in_a_pause_is_not_sent_again(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    written = Written()

    def uses() -> int:
        log = target.daemon.read_log()
        return log.count("FLUSH") + log.count("OPTIONS")

    def pause_and_die() -> None:
        eventually(lambda: written.bytes == PAUSE - (ZEROS[1] - ZEROS[0]))
        # Each of two connections is passed by once, since it was in use, then flushed, and then
        # only used.
        enough = uses() + 6
        eventually(lambda: uses() >= enough)
        target.save()
        target.die()

    with Pausing(disk(), pause_and_die) as source, target.sink() as sink:
        copy_kept_alive(source, sink, **IN_ORDER, progress=written, interval=0.1)
    # What was sent to the dead one, and refused.
    lost = re.findall(r"lost before bytes (\d+) to", caplog.text)
    assert lost
    assert all(int(start) >= PAUSE for start in lost)
    target.check()


def test_a_source_that_can_be_read_only_once(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "disk.tar"
    tar_of(disk(), path)
    read, write = os.pipe()

    def feed() -> None:
        with open(write, "wb") as out:
            out.write(path.read_bytes())

    feeder = threading.Thread(target=feed)
    feeder.start()
    with (
        open(read, "rb") as pipe,
        Pausing(TarStreamSource(pipe), target.die) as source,
        target.sink() as sink,
        pytest.raises(LostWritesError, match="can be read only once") as caught,
    ):
        copy(source, sink, **IN_ORDER)
    feeder.join()
    assert caught.value.ranges[0][0] == 0
    assert caught.value.ranges[-1][1] >= PAUSE - 2 * MIB
    assert "Do not use the disk" in str(caught.value)
    assert str(target.daemon.port) not in str(caught.value)


def test_a_wrapper_that_forgets_what_was_lost(target: Target) -> None:
    """It has the core alone: the sink itself refuses to commit."""

    class Wrapper:
        sequential = False

        def __init__(self, inner: Sink) -> None:
            self._inner = inner
            self.max_writers = inner.max_writers
            self.begin, self.open_writer = inner.begin, inner.open_writer
            self.commit, self.abort, self.close = inner.commit, inner.abort, inner.close

    with (
        Pausing(disk(), target.die) as source,
        target.sink() as sink,
        pytest.raises(LostWritesError),
    ):
        copy(source, Wrapper(sink), **IN_ORDER)


def test_zeros_of_an_attempt_before_that_were_never_flushed(target: Target) -> None:
    """The disk reads as zeros when the restore begins, and is full of old data after the crash."""
    with target.sink() as sink:
        sink.begin(BackupInfo(size=SIZE), Extents.of([Extent(0, SIZE, zero=True)]))
        writer = sink.open_writer()
        writer.zero(0, SIZE)
        writer.close()
    with Pausing(disk(), target.die) as source, target.sink() as sink:
        copy(source, sink, **IN_ORDER)
    target.check()


def test_a_qcow2_disk_loses_by_itself_what_was_not_flushed(tmp_path: Path) -> None:
    """Its qemu-nbd keeps the tables of the image in memory."""
    path = tmp_path / "target.qcow2"
    create_image(path, SIZE)
    with (
        ImageioDaemon(tmp_path / "daemon") as daemon,
        ImageServer(path, read_only=False) as nbd,
    ):

        def die() -> None:
            nbd.kill()
            nbd.start()

        url = daemon.add_ticket(nbd.url, SIZE, ops=["write"])
        with (
            Pausing(disk(), die) as source,
            ImageioUploadSink(url, cafile=daemon.cafile) as sink,
        ):
            copy(source, sink, **IN_ORDER)
        with ImageioHTTPSource(daemon.add_ticket(nbd.url, SIZE), cafile=daemon.cafile) as back:
            reader = back.open_reader()
            buffer = memoryview(bytearray(SIZE))
            reader.prefetch(0, SIZE)
            reader.readinto(0, buffer)
            reader.close()
        assert bytes(buffer) == IMAGE


# --- With a double: what a real server does not do on demand ---


class Forgetful(HostileServer):
    """Has only on storage what was flushed; a crash takes the rest.

    Args:
        refuses: What it answers with `status`, although it says that it can do it.
    """

    def __init__(
        self, image: bytes, *, refuses: str = "", status: int = 405, **behaviour: Any
    ) -> None:
        super().__init__(image, **behaviour)
        self._stored = bytearray(image)
        self._refuses, self._status = refuses, status

    def crash(self) -> None:
        self.image.write(0, bytes(self._stored))

    def _store(self, start: int, length: int) -> None:
        self._stored[start : start + length] = self.image.read(start, length)

    def _put(self, request: Request, body: Iterator[bytes]) -> Answer:
        answer = super()._put(request, body)
        if not request.path.endswith("flush=n"):
            start = int(request.headers["content-range"].split()[1].partition("-")[0])
            self._store(start, request.body_length)
        return answer

    def _operate(self, op: str, size: int = -1, offset: int = 0, flush: bool = False) -> None:
        super()._operate(op, size, offset, flush)
        if op == "flush":
            self._store(0, self.image.size)
        elif flush:
            self._store(offset, size)

    def _patch(self, request: Request, body: Iterator[bytes]) -> Answer:
        message = b"".join(body)
        if self._refuses and json.loads(message)["op"] == self._refuses:
            return Reply(self._status), HONEST
        return super()._patch(request, iter([message]))


@dataclass(frozen=True)
class Crash(Fault):
    """The server has answered, and crashes."""

    spoils = False
    server: list[Forgetful]

    def play(self, connection: Connection, reply: Reply) -> None:
        self.server[0].crash()
        Last(HONEST).play(connection, reply)


def uploaded(server: Forgetful, image: bytes = bytes(IMAGE)) -> None:
    with disk() as source, ImageioUploadSink(server.url, secure=False) as sink:
        copy(source, sink, **IN_ORDER)
    server.crash()
    assert content(server) == image


def test_the_tail_of_a_larger_disk_is_zeroed_again_after_a_crash() -> None:
    servers: list[Forgetful] = []
    crash = Crash(servers)
    disk = OLD * (SIZE + MIB)
    with Forgetful(disk, on_patch=lambda n: crash if n == 1 else None, max_writers=1) as server:
        servers.append(server)
        uploaded(server, bytes(IMAGE) + bytes(MIB))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_crash_after_some_of_the_writes(n: int) -> None:
    servers: list[Forgetful] = []
    crash = Crash(servers)
    with Forgetful(
        OLD * SIZE, on_put=lambda count, *_: crash if count == n else None, max_writers=1
    ) as server:
        servers.append(server)
        uploaded(server)


def test_a_server_that_crashes_again_and_again() -> None:
    servers: list[Forgetful] = []
    crash = Crash(servers)

    class Again(Forgetful):
        def _put(self, request: Request, body: Iterator[bytes]) -> Answer:
            return super()._put(request, body)[0], crash

    with Again(OLD * SIZE) as server:
        servers.append(server)
        uploaded(server)


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("refuses", ["zero", "flush"])
def test_a_feature_that_is_a_lie(refuses: str, status: int) -> None:
    with Forgetful(OLD * SIZE, refuses=refuses, status=status) as server:
        uploaded(server)
