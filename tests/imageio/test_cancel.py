"""A copy that is given up ends at once, although the server does not."""

from __future__ import annotations

import _thread
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    DiscardSink,
    Extent,
    ImageioHTTPSource,
    ImageioUploadSink,
    TapestreamError,
    copy,
)
from tapestream.errors import ServerError, TicketError
from tapestream.imageio.endpoint import Endpoint
from tapestream.imageio.retry import Tries
from tapestream.testing import MemorySink, MemorySource
from tests.disks import noise
from tests.hostile import Fault, HostileServer, Stall, Status
from tests.imageio.support import (
    FOREVER,
    KIB,
    MIB,
    Last,
    StuckImage,
    TLSServer,
    always,
    asked,
    authority,
    eventually,
    gets,
)

pytestmark = pytest.mark.timeout(20)

PIECE = 256 * KIB  # too much to be pipelined
EXTENTS = [Extent(i * PIECE, PIECE, zero=i % 2 == 1) for i in range(64)]
IMAGE = b"".join(bytes(PIECE) if e.zero else noise(PIECE) for e in EXTENTS)
WORKERS = 2
CONNECTIONS = 4  # two for each reader


class StopError(Exception):
    pass


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("tapestream-")]


@pytest.fixture
def cafile(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def interrupt_main() -> None:
    _thread.interrupt_main()


def raise_signal() -> None:
    signal.raise_signal(signal.SIGINT)


def kill_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill_main_thread() -> None:
    main = threading.main_thread().ident
    assert main
    signal.pthread_kill(main, signal.SIGINT)


INTERRUPTS = pytest.mark.parametrize(
    "interrupt", [interrupt_main, raise_signal, kill_process, kill_main_thread]
)
SCHEMES = pytest.mark.parametrize("server_type", [HostileServer, TLSServer])


class Later:
    """Do something in another thread as soon as a condition is true."""

    def __init__(self, condition: Callable[[], bool], action: Callable[[], None]) -> None:
        self._condition = condition
        self._action = action
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)

    def _run(self) -> None:
        eventually(self._condition)
        time.sleep(0.05)  # For the clients to wait for what does not come.
        self._action()


def source_of(server: HostileServer, cafile: Path) -> ImageioHTTPSource:
    return ImageioHTTPSource(
        server.url, secure=False, cafile=cafile, read_timeout=FOREVER, use_unix_socket=False
    )


def sink_of(server: HostileServer, cafile: Path) -> ImageioUploadSink:
    return ImageioUploadSink(
        server.url, secure=False, cafile=cafile, read_timeout=FOREVER, zero_timeout=FOREVER
    )


# --- Downloads ---


@INTERRUPTS
@SCHEMES
@pytest.mark.parametrize("after", [None, 0, 1000])
def test_an_interrupt_while_the_server_stalls(
    interrupt: Callable[[], None],
    server_type: type[HostileServer],
    after: int | None,
    cafile: Path,
) -> None:
    sink = MemorySink()
    with (
        server_type(IMAGE, on_get=always(Stall(after, FOREVER))) as server,
        source_of(server, cafile) as source,
        Later(lambda: len(gets(server)) == CONNECTIONS, interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        copy(source, sink, max_workers=WORKERS, max_gap=0)
    assert sink.state == "aborted"
    assert not sink.writes


def test_an_interrupt_while_the_extents_stall(cafile: Path) -> None:
    with (
        HostileServer(IMAGE, on_extents=always(Stall(None, FOREVER))) as server,
        source_of(server, cafile) as source,
        Later(lambda: bool(asked(server, "GET", "/extents")), kill_main_thread),
        pytest.raises(KeyboardInterrupt),
    ):
        copy(source, DiscardSink())


class Raise:
    """A progress that raises as soon as all readers wait for the server."""

    def __init__(self, error: BaseException, stalled: Callable[[], bool]) -> None:
        self._error = error
        self._stalled = stalled

    def update(self, n: int) -> None:
        eventually(self._stalled)
        raise self._error


@SCHEMES
@pytest.mark.parametrize("error", [KeyboardInterrupt(), StopError()], ids=repr)
@pytest.mark.parametrize("where", ["progress", "sink"])
def test_an_error_of_the_sink_while_the_server_stalls(
    server_type: type[HostileServer], error: BaseException, where: str, cafile: Path
) -> None:
    """One range comes, and its reader asks for another one."""

    def all_but_the_first(n: int, start: int, length: int) -> Fault | None:
        return Stall(10, FOREVER) if start else None

    with (
        server_type(IMAGE, on_get=all_but_the_first) as server,
        source_of(server, cafile) as source,
    ):
        progress = Raise(error, lambda: len(gets(server)) == CONNECTIONS + 1)
        in_sink = where == "sink"
        sink = MemorySink(max_writers=WORKERS)
        if in_sink:
            sink.before_write = lambda start, length: progress.update(length)
        with pytest.raises(type(error)) as caught:
            copy(
                source,
                sink,
                max_workers=WORKERS,
                max_gap=0,
                progress=None if in_sink else progress,
            )
    assert caught.value is error
    assert sink.state == "aborted"


@SCHEMES
def test_an_error_of_one_reader_while_the_others_stall(
    server_type: type[HostileServer], cafile: Path
) -> None:
    def refuse_the_first(n: int, start: int, length: int) -> Fault | None:
        if start > 0:
            return Stall(None, FOREVER)
        eventually(lambda: len(gets(server)) == CONNECTIONS)
        return Status(403, "enough")

    with (
        server_type(IMAGE, on_get=refuse_the_first) as server,
        source_of(server, cafile) as source,
        pytest.raises(TicketError, match="enough"),
    ):
        copy(source, MemorySink(), max_workers=WORKERS, max_gap=0)


def test_the_pause_between_two_tries_ends(monkeypatch: pytest.MonkeyPatch, cafile: Path) -> None:
    monkeypatch.setattr(Tries, "first_pause", FOREVER)
    monkeypatch.setattr(Tries, "longest_pause", FOREVER)
    with (
        HostileServer(IMAGE, on_get=always(Status(500))) as server,
        source_of(server, cafile) as source,
        Later(lambda: len(gets(server)) == CONNECTIONS, kill_main_thread),
        pytest.raises(KeyboardInterrupt),
    ):
        copy(source, MemorySink(), max_workers=WORKERS, max_gap=0)


# --- Uploads ---


@INTERRUPTS
@SCHEMES
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_interrupt_while_the_upload_stalls(
    interrupt: Callable[[], None], server_type: type[HostileServer], method: str, cafile: Path
) -> None:
    """Data, or zeros, that are taken but not confirmed."""
    disk = MemorySource(IMAGE, EXTENTS if method == "PUT" else [Extent(0, len(IMAGE), zero=True)])
    behaviour: dict[str, Any] = {f"on_{method.lower()}": always(Stall(None, FOREVER))}
    with (
        server_type(b"\xee" * len(IMAGE), **behaviour) as server,
        sink_of(server, cafile) as sink,
        Later(lambda: bool(asked(server, method)), interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        copy(disk, sink, max_workers=WORKERS)


@SCHEMES
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_while_the_server_does_not_read(
    server_type: type[HostileServer], workers: int, cafile: Path
) -> None:
    """More than the buffers of the kernel hold: sending itself waits."""
    size = 32 * MIB
    image = StuckImage(size)
    with server_type(image) as server, sink_of(server, cafile) as sink:
        try:
            with (
                Later(lambda: len(asked(server, "PUT")) == workers, kill_main_thread),
                pytest.raises(KeyboardInterrupt),
            ):
                copy(
                    MemorySource(noise(size)),
                    sink,
                    max_workers=workers,
                    buffer_size=size // 2,
                    buffer_memory=size,
                )
        finally:
            image.released.set()
        assert server.flushed == 0


def test_an_error_of_one_writer_while_the_others_stall(cafile: Path) -> None:
    def refuse_the_first(n: int, start: int, length: int) -> Fault | None:
        if start > 0:
            return Stall(None, FOREVER)
        eventually(lambda: len(asked(server, "PUT")) == WORKERS)
        return Status(500, "enough")

    with (
        HostileServer(b"\xee" * len(IMAGE), on_put=refuse_the_first) as server,
        sink_of(server, cafile) as sink,
        pytest.raises(ServerError, match="enough"),
    ):
        copy(MemorySource(IMAGE, EXTENTS), sink, max_workers=WORKERS, buffer_size=PIECE)
    assert server.flushed == 0


def test_an_error_of_the_source_while_the_upload_stalls(cafile: Path) -> None:
    error = TapestreamError("the tape tore")

    def tear(start: int, length: int) -> None:
        if start:
            eventually(lambda: bool(asked(server, "PUT")))
            raise error

    with (
        HostileServer(bytes(len(IMAGE)), on_put=always(Stall(None, FOREVER))) as server,
        sink_of(server, cafile) as sink,
        pytest.raises(TapestreamError) as caught,
    ):
        copy(MemorySource(IMAGE, before_read=tear), sink, max_workers=1, buffer_size=PIECE)
    assert caught.value is error


# --- One reader ---


def cancelled_reader(server: HostileServer) -> bool:
    """True if a reader that waits for the server ends when it is cancelled."""
    with ImageioHTTPSource(server.url, secure=False, read_timeout=4, retries=0) as source:
        source.extents()
        with closing(source.open_reader()) as reader:
            errors: list[Exception] = []

            def read() -> None:
                try:
                    reader.readinto(0, memoryview(bytearray(PIECE)))
                except TapestreamError as e:
                    errors.append(e)

            reader.prefetch(0, PIECE)
            thread = threading.Thread(target=read)
            thread.start()
            eventually(lambda: bool(gets(server)))
            time.sleep(0.1)  # For the first bytes to be read.
            reader.cancel()
            thread.join(2)
            ended = not thread.is_alive()
            thread.join()
            assert errors
    return ended


@pytest.mark.parametrize("after", [None, 0, 1000])
def test_a_reader_ends_when_cancelled(after: int | None) -> None:
    with HostileServer(IMAGE, on_get=always(Stall(after, FOREVER))) as server:
        assert cancelled_reader(server)


@pytest.mark.parametrize("after", [0, 1000])
def test_a_reader_of_a_last_reply_ends_when_cancelled(after: int) -> None:
    with HostileServer(IMAGE, on_get=always(Last(Stall(after, FOREVER)))) as server:
        assert cancelled_reader(server)


def test_a_reader_that_is_cancelled_while_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        HostileServer(IMAGE, on_get=always(Stall(None, FOREVER)), max_readers=1) as server,
        ImageioHTTPSource(server.url, secure=False, read_timeout=0.3, retries=0) as source,
    ):
        source.extents()
        connect = Endpoint.connect

        def cancel_and_connect(endpoint: Endpoint) -> socket.socket:
            reader.cancel()
            return connect(endpoint)

        monkeypatch.setattr(Endpoint, "connect", cancel_and_connect)
        with closing(source.open_reader()) as reader:
            reader.prefetch(0, PIECE)
            with pytest.raises(ServerError):
                reader.readinto(0, memoryview(bytearray(PIECE)))
        assert not gets(server)


def test_a_reader_that_was_cancelled_asks_for_nothing() -> None:
    with (
        HostileServer(IMAGE) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
        closing(source.open_reader()) as reader,
    ):
        reader.cancel()
        reader.prefetch(0, PIECE)
        with pytest.raises(ServerError, match="cancelled"):
            reader.readinto(0, memoryview(bytearray(PIECE)))
        assert not gets(server)


@pytest.mark.parametrize("times", [1, 2])
def test_cancelling_what_is_closed_does_nothing(times: int) -> None:
    with (
        HostileServer(IMAGE) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        extents = source.extents()
        sink.begin(source.info, extents)
        reader, writer = source.open_reader(), sink.open_writer()
        reader.prefetch(0, PIECE)
        reader.readinto(0, memoryview(bytearray(PIECE)))
        writer.write(0, memoryview(b"data"))
        for end in (reader, writer):
            end.close()
            for _ in range(times):
                end.cancel()
