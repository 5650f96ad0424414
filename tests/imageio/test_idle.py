"""The connection that is kept for the next request, and when it must not be used any more."""

from __future__ import annotations

import gc
import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tapestream import Cancel, ImageioHTTPSource, ImageioUploadSink, copy
from tapestream.errors import TicketError
from tapestream.imageio.capabilities import Capabilities
from tapestream.imageio.connection import Connection
from tapestream.imageio.endpoint import Endpoint, Timeouts
from tapestream.imageio.idle import IdleConnection
from tapestream.imageio.queries import get_capabilities
from tapestream.imageio.url import TransferURL
from tapestream.testing import MemorySink, MemorySource
from tests.disks import noise
from tests.hostile import Connection as Served
from tests.hostile import Fault, HostileServer, Status
from tests.hostile import Reply as Answer
from tests.imageio.support import KIB, SMALL, TLSServer, asked, content, eventually, on

IMAGE = noise(256 * KIB)


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer(IMAGE) as server:
        yield server


def connections(server: HostileServer) -> list[int]:
    """The number of the connection of each request."""
    return [request.connection for request in server.requests]


def hang_up(server: HostileServer) -> None:
    """Close all connections, as a server does with those that were idle for a while."""
    for connection, thread in server._connections:
        connection.socket.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


def has_none_open(server: HostileServer) -> bool:
    return not any(thread.is_alive() for _, thread in server._connections)


def test_one_connection_for_a_whole_backup(server: HostileServer) -> None:
    sink = MemorySink()
    with ImageioHTTPSource(server.url, secure=False) as source:
        copy(source, sink, **SMALL)
        assert sink.disk == IMAGE
        assert set(connections(server)) == {1}
    eventually(lambda: has_none_open(server))


def test_a_second_copy_from_the_same_source(server: HostileServer) -> None:
    with ImageioHTTPSource(server.url, secure=False) as source:
        for connection in (1, 2):  # the reader of the first copy has closed its connection
            sink = MemorySink()
            copy(source, sink, **SMALL)
            assert sink.disk == IMAGE
            assert connections(server)[-1] == connection


def test_what_is_written_goes_over_other_connections(server: HostileServer) -> None:
    """What is lost with a connection is what was written over it, so it carries nothing else."""
    with ImageioUploadSink(server.url, secure=False) as sink:
        copy(MemorySource(IMAGE[::-1]), sink, **SMALL)
        assert {r.connection for r in server.requests if r.method in ("OPTIONS", "GET")} == {1}
        assert {r.connection for r in server.requests if r.method in ("PUT", "PATCH")} == {2}
        eventually(lambda: has_none_open(server))
    assert content(server) == IMAGE[::-1]


@pytest.mark.parametrize("open_", [ImageioHTTPSource, ImageioUploadSink])
def test_close_closes_it(server: HostileServer, open_: Callable[..., Any]) -> None:
    opened = open_(server.url, secure=False)
    assert not has_none_open(server)
    opened.close()
    eventually(lambda: has_none_open(server))
    opened.keep_alive()  # what is used after that keeps nothing
    eventually(lambda: has_none_open(server))
    assert connections(server) == [1, 2]


def test_a_sink_that_cannot_be_made_leaves_none(server: HostileServer) -> None:
    with HostileServer(IMAGE, max_writers=0) as server:
        with pytest.raises(TicketError) as caught:
            ImageioUploadSink(server.url, secure=False)
        eventually(lambda: has_none_open(server))
    assert caught


def test_a_source_that_nobody_closes_leaves_none(server: HostileServer) -> None:
    """Warnings are errors here: that of an unclosed socket would be one."""
    ImageioHTTPSource(server.url, secure=False)
    gc.collect()
    eventually(lambda: has_none_open(server))


@pytest.mark.parametrize("retries", [0, 8])
@pytest.mark.parametrize("before", ["extents", "reader"])
def test_a_server_that_hung_up_meanwhile(server: HostileServer, before: str, retries: int) -> None:
    """That is normal for a server, and no failure."""
    sink = MemorySink()
    with ImageioHTTPSource(server.url, secure=False, retries=retries) as source:
        if before == "reader":
            source.extents()
        hang_up(server)
        copy(source, sink, **SMALL)
    assert sink.disk == IMAGE
    assert set(connections(server)) == {1, 2}
    assert len(asked(server, "GET", "/extents")) == 1


def test_a_failure_ends_it() -> None:
    """Nobody knows what else would come over a connection that had one."""
    with (
        HostileServer(IMAGE, on_extents=on(1, Status(403))) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        with pytest.raises(TicketError):
            source.extents()
        source.extents()
        assert [(r.connection, r.method) for r in server.requests[:3]] == [
            (1, "OPTIONS"),
            (1, "GET"),
            (2, "GET"),
        ]


class Late(Fault):
    """Send more than was asked for, a moment after the reply."""

    def play(self, connection: Served, reply: Answer) -> None:
        connection.send(reply.head(), reply.body())
        connection.pause(0.05)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")


def test_what_nobody_asked_for_is_no_reply() -> None:
    with (
        HostileServer(IMAGE, on_options=on(1, Late())) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        time.sleep(0.2)
        assert source.extents().size == len(IMAGE)
        assert connections(server)[:2] == [1, 2]


class Full(Fault):
    """Send more than was asked for in the TLS record of the reply: more than is read of it."""

    def play(self, connection: Served, reply: Answer) -> None:
        asked = reply.head() + b"".join(reply.body())
        more = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
        connection.socket.sendall(asked.ljust(io.DEFAULT_BUFFER_SIZE) + more)


def test_what_nobody_asked_for_is_no_reply_over_tls() -> None:
    """The socket has nothing to read then: the rest of the record was taken from it already."""
    with (
        TLSServer(IMAGE, on_options=on(1, Full())) as server,
        ImageioHTTPSource(server.url, secure=False) as source,
    ):
        assert source.extents().size == len(IMAGE)
        assert connections(server)[:2] == [1, 2]


def test_a_cancelled_one_is_not_used_again(server: HostileServer) -> None:
    cancel = Cancel()
    with ImageioHTTPSource(server.url, secure=False, cancel=cancel) as source:
        source.cancel()  # a copy that ends early does that; the next may read it anew
        sink = MemorySink()
        copy(source, sink, **SMALL)
    assert sink.disk == IMAGE


# --- The place where it is kept ---


@contextmanager
def used(server: HostileServer) -> Iterator[Connection]:
    """A connection that has had a reply."""
    url = TransferURL.parse(server.url, secure=False)
    endpoint = Endpoint(url, Timeouts(5, 5, 5, 5), None, frozenset())
    connection = Connection(endpoint, Capabilities())
    try:
        get_capabilities(connection)
        yield connection
    finally:
        connection.close()


def test_it_is_taken_once(server: HostileServer) -> None:
    idle = IdleConnection()
    with used(server) as one, used(server) as another:
        assert idle.take() is None
        idle.keep(one)
        idle.keep(another)  # there is room for one
        assert (one.is_open, another.is_open) == (True, False)
        assert idle.take() is one
        assert idle.take() is None
        idle.keep(another)  # it is not open
        assert idle.take() is None


def test_one_with_a_request_under_way_is_not_kept(server: HostileServer) -> None:
    idle = IdleConnection()
    with used(server) as connection:
        connection.request_range(0, 1)
        idle.keep(connection)
        assert not connection.is_open
        assert idle.take() is None


def test_one_that_was_idle_for_long_is_not_used(server: HostileServer) -> None:
    """A firewall may have forgotten it: a request would wait for its reply until the timeout."""
    idle = IdleConnection(longest=0)
    with used(server) as connection:
        idle.keep(connection)
        assert idle.take() is None
        assert not connection.is_open


def test_one_that_is_cancelled_while_it_is_kept(server: HostileServer) -> None:
    idle = IdleConnection()
    with used(server) as connection:
        idle.keep(connection)
        connection.cancel()
        assert idle.take() is None


def test_a_forked_process_does_not_use_it(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes would get parts of each other's replies."""
    idle = IdleConnection()
    with used(server) as connection:
        idle.keep(connection)
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            assert idle.take() is None
        assert not connection.is_open


def test_many_threads(server: HostileServer) -> None:
    """However they take turns, nobody shares a connection, and none stays open."""
    idle = IdleConnection()
    holders: dict[int, int] = {}
    shared: list[Connection] = []

    def work() -> None:
        for _ in range(300):
            connection = idle.take()
            if connection is None:
                continue
            if holders.setdefault(id(connection), threading.get_ident()) != threading.get_ident():
                shared.append(connection)
            del holders[id(connection)]
            idle.keep(connection)

    with used(server) as connection:
        idle.keep(connection)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not shared
        idle.close()
        assert not connection.is_open
