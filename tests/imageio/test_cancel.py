"""A copy that is given up ends at once, although the server does not."""

from __future__ import annotations

import _thread
import contextlib
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
    Cancel,
    DiscardSink,
    Extent,
    ImageioHTTPSource,
    ImageioUploadSink,
    TapestreamError,
    copy,
)
from tapestream.engine.copy import copying
from tapestream.errors import (
    OperationCancelledError,
    ServerError,
    ServerUnreachableError,
    TicketError,
    TransferError,
)
from tapestream.imageio.capabilities import Capabilities
from tapestream.imageio.connection import Connection
from tapestream.imageio.endpoint import Endpoint, Timeouts
from tapestream.imageio.retry import Tries
from tapestream.imageio.sockets import Cancellation, tls_context
from tapestream.imageio.url import TransferURL
from tapestream.testing import MemorySink, MemorySource
from tests.disks import noise
from tests.hostile import Fault, HostileServer, Stall, Status
from tests.imageio.support import (
    FOREVER,
    KIB,
    MIB,
    ChecksumServer,
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

        def cancel_and_connect(endpoint: Endpoint, cancellation: Cancellation) -> socket.socket:
            reader.cancel()
            return connect(endpoint, cancellation)

        monkeypatch.setattr(Endpoint, "connect", cancel_and_connect)
        # The first reader gets the connection that was kept.
        with closing(source.open_reader()), closing(source.open_reader()) as reader:
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


# --- A connection that is being made ---


@contextlib.contextmanager
def silent(*, full: bool) -> Iterator[int]:
    """The port of a server that accepts nothing, or, if its queue is full, not even a connect."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0 if full else 5)
        port = listener.getsockname()[1]
        for _ in range(3 if full else 0):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield port


def connection_to(host: str, port: int, *, scheme: str) -> Connection:
    url = TransferURL.parse(f"{scheme}://{host}:{port}/images/ticket", secure=False)
    timeouts = Timeouts(FOREVER, FOREVER, FOREVER, FOREVER)
    tls = tls_context(None, secure=False) if scheme == "https" else None
    return Connection(Endpoint(url, timeouts, tls, frozenset()), Capabilities())


def is_in_state(port: int, state: str) -> bool:
    """Whether this host has a connection to the port in this state, as /proc/net/tcp has it."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(f":{port:04X} {state}" in line for line in lines)


def cancelled_connect(connection: Connection, is_waiting: Callable[[], bool]) -> float:
    """How long it takes to cancel a connection that waits."""
    errors: list[TransferError] = []

    def ask() -> None:
        try:
            connection.ask("OPTIONS")
        except TransferError as e:
            errors.append(e)

    thread = threading.Thread(target=ask)
    thread.start()
    eventually(is_waiting)
    time.sleep(0.05)  # for its next step to block
    assert thread.is_alive()
    began = time.monotonic()
    connection.cancel()
    thread.join(FOREVER)
    assert [e.message for e in errors] == ["cancelled"]
    return time.monotonic() - began


SYN_SENT, ESTABLISHED = "02", "01"


def test_a_connect_that_nobody_answers_ends_when_cancelled() -> None:
    with silent(full=True) as port:
        connection = connection_to("127.0.0.1", port, scheme="http")
        assert cancelled_connect(connection, lambda: is_in_state(port, SYN_SENT)) < 5


def test_a_handshake_that_nobody_answers_ends_when_cancelled() -> None:
    with silent(full=False) as port:
        connection = connection_to("127.0.0.1", port, scheme="https")
        assert cancelled_connect(connection, lambda: is_in_state(port, ESTABLISHED)) < 5


def test_a_name_that_nobody_resolves_is_given_up_when_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A double of the system's resolver, which cannot be made to wait here."""
    asked, answers = threading.Event(), threading.Event()
    look_up = socket.getaddrinfo

    def hang(*args: Any, **options: Any) -> Any:
        if not options:
            asked.set()
            answers.wait(FOREVER)
        return look_up(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    connection = connection_to("localhost", 1, scheme="http")
    try:
        assert cancelled_connect(connection, asked.is_set) < 5
    finally:
        answers.set()
    eventually(lambda: "tapestream-resolver" not in {t.name for t in threading.enumerate()})


def test_a_call_that_keeps_alive_and_hangs_ends_with_its_copy() -> None:
    def all_but_the_first(n: int) -> Fault | None:
        return Stall(None, FOREVER) if n > 1 else None

    with (
        HostileServer(IMAGE, on_options=all_but_the_first) as server,
        ImageioHTTPSource(server.url, secure=False, read_timeout=FOREVER) as source,
        copying(source, DiscardSink(), interval=0.01),
    ):
        eventually(lambda: len(asked(server, "OPTIONS")) == 2)


# --- What waits outside a copy ---


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("make", [ImageioHTTPSource, ImageioUploadSink])
def test_a_constructor_is_cancelled(
    make: type[ImageioHTTPSource | ImageioUploadSink], full: bool, before: bool
) -> None:
    """While it connects, or sets up TLS."""
    cancel = Cancel()
    if before:
        cancel.cancel("enough")
    with silent(full=full) as port:
        state = SYN_SENT if full else ESTABLISHED
        with (
            contextlib.nullcontext()
            if before
            else Later(lambda: is_in_state(port, state), lambda: cancel.cancel("enough")),
            pytest.raises(OperationCancelledError) as caught,
        ):
            make(
                f"https://127.0.0.1:{port}/images/t",
                secure=False,
                connect_timeout=FOREVER,
                cancel=cancel,
            )
    assert caught.value.reason == "enough"


def test_a_constructor_that_waits_for_its_next_try_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Tries, "first_pause", FOREVER)
    monkeypatch.setattr(Tries, "longest_pause", FOREVER)
    cancel = Cancel()
    with (
        HostileServer(IMAGE, options_status=500) as server,
        Later(lambda: bool(asked(server, "OPTIONS")), lambda: cancel.cancel("enough")),
        pytest.raises(OperationCancelledError),
    ):
        ImageioHTTPSource(server.url, secure=False, cancel=cancel)


def test_extents_are_cancelled() -> None:
    cancel = Cancel()
    with (
        HostileServer(IMAGE, on_extents=always(Stall(None, FOREVER))) as server,
        ImageioHTTPSource(server.url, secure=False, cancel=cancel) as source,
        Later(lambda: bool(asked(server, "GET", "/extents")), lambda: cancel.cancel("enough")),
        pytest.raises(OperationCancelledError),
    ):
        source.extents()


def test_a_block_hash_is_cancelled() -> None:
    cancel = Cancel()
    with (
        ChecksumServer(IMAGE, Stall(None, FOREVER)) as server,
        ImageioUploadSink(server.url, secure=False, cancel=cancel) as sink,
        Later(lambda: bool(asked(server, "GET", "/checksum")), lambda: cancel.cancel("enough")),
        pytest.raises(OperationCancelledError),
    ):
        sink.block_hash()


def test_a_name_is_resolved() -> None:
    with HostileServer(IMAGE) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with ImageioHTTPSource(url, secure=False) as source:
            assert source.extents().size == len(IMAGE)


def test_a_name_is_resolved_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The double of a machine that has no thread left."""
    start = threading.Thread.start

    def start_all_but_one(thread: threading.Thread) -> None:
        if thread.name == "tapestream-resolver":
            raise RuntimeError("can't start new thread")
        start(thread)

    with HostileServer(IMAGE) as server:
        monkeypatch.setattr(threading.Thread, "start", start_all_but_one)
        url = server.url.replace("127.0.0.1", "localhost")
        with ImageioHTTPSource(url, secure=False) as source:
            assert source.extents().size == len(IMAGE)


def test_a_name_without_an_address_is_an_error() -> None:
    with pytest.raises(ServerUnreachableError):
        ImageioHTTPSource("http://no-such-host.invalid/images/t", secure=False, retries=0)
