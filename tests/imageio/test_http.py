"""Several requests under way on one connection, against a server of bare bytes."""

from __future__ import annotations

import gc
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import pytest

from tapestream.imageio.http import Exchange
from tapestream.imageio.response import DisconnectedError
from tapestream.imageio.sockets import connect_tcp
from tapestream.imageio.url import TransferURL

pytestmark = pytest.mark.timeout(20)

HOSTS = {
    "https://host/images/x": "host:443",
    "https://host:54322/images/x": "host:54322",
    "http://10.1.2.3/images/x": "10.1.2.3:80",
    "https://[2001:db8::1]:54322/images/x": "[2001:db8::1]:54322",
    "https://[fe80::1%25eth0]:54322/images/x": "[fe80::1]:54322",
    "https://b\u00fccher.example/images/x": "xn--bcher-kva.example:443",
}

Serve = Callable[[socket.socket], None]


@contextmanager
def server(*serve: Serve) -> Iterator[Exchange]:
    """A server that treats its first connection, its second, ... like this, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for each in serve:
                sock, _ = listener.accept()
                with sock:
                    each(sock)

        thread = threading.Thread(target=run)
        thread.start()
        port = listener.getsockname()[1]
        connect = partial(connect_tcp, "127.0.0.1", port, 5)
        with closing(Exchange(connect, "a.host:1")) as client:
            yield client
        thread.join(10)
        assert not thread.is_alive()


def test_a_handshake_that_fails_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        port = listener.getsockname()[1]
        tls = ssl.create_default_context()
        exchange = Exchange(partial(connect_tcp, "127.0.0.1", port, 5, tls), "a.host:1")
        with pytest.raises(OSError):  # noqa: PT011
            exchange.connect()
        assert exchange.sock is None
        thread.join(10)


def reply(body: bytes, status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


def receive(sock: socket.socket, requests: int) -> bytes:
    """So many requests without a body, or what came of them."""
    received = b""
    while received.count(b"\r\n\r\n") < requests and (more := sock.recv(65536)):
        received += more
    return received


def until_closed(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def get(client: Exchange, target: str) -> None:
    client.connect()
    client.send("GET", target, {})


def body(client: Exchange) -> bytes:
    data = client.reply().read()
    client.end_reply()
    return data


def test_all_are_sent_before_the_first_reply() -> None:
    received = b""

    def serve(sock: socket.socket) -> None:
        nonlocal received
        received = receive(sock, 3)
        sock.sendall(reply(b"one") + reply(b"two") + reply(b"three"))

    with server(serve) as client:
        for n in range(3):
            get(client, f"/{n}")
        assert client.under_way == 3
        assert [body(client) for _ in range(3)] == [b"one", b"two", b"three"]
        assert client.under_way == 0
    assert received == b"".join(b"GET /%d HTTP/1.1\r\nHost: a.host:1\r\n\r\n" % n for n in range(3))


REPLIES = reply(b"first") + reply(b"") + reply(b"HTTP/1.1 404 No\r\n\r\n") + reply(b"last")


@pytest.mark.parametrize("at", range(1, len(REPLIES)))
def test_replies_may_be_torn_anywhere(at: int) -> None:
    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receive(sock, 4)
        sock.sendall(REPLIES[:at])
        time.sleep(0.001)
        sock.sendall(REPLIES[at:])

    with server(serve) as client:
        for _ in range(4):
            get(client, "/")
        expected = [b"first", b"", b"HTTP/1.1 404 No\r\n\r\n", b"last"]
        assert [body(client) for _ in range(4)] == expected


def test_the_bodies_of_requests_follow_them() -> None:
    received = b""

    def serve(sock: socket.socket) -> None:
        nonlocal received
        while b"second" not in received:
            received += sock.recv(65536)
        sock.sendall(reply(b"", "200 OK") * 2)

    with server(serve) as client:
        client.connect()
        for data in (b"first", b"second"):
            client.send("PUT", "/x", {"Content-Length": str(len(data))}, memoryview(data))
        assert [body(client), body(client)] == [b"", b""]
    head = b"PUT /x HTTP/1.1\r\nHost: a.host:1\r\nContent-Length: %d\r\n\r\n"
    assert received == head % 5 + b"first" + head % 6 + b"second"


def test_a_request_and_its_body_arrive_together() -> None:
    """The head alone would wake up the server, only for it to wait for the body."""
    # Each receive of such a socket gets what one call has sent.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, closing(Exchange(lambda: ours, "a.host:1")) as client:
        client.connect()
        client.send("PUT", "/x", {}, memoryview(b"some bytes"))
        assert theirs.recv(65536) == b"PUT /x HTTP/1.1\r\nHost: a.host:1\r\n\r\nsome bytes"


@pytest.mark.parametrize(("head", "length"), [(10, 1 << 20), (1 << 20, 10), (1 << 19, 1 << 19)])
def test_a_request_that_the_server_receives_slowly(head: int, length: int) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent, received = random.Random(1).randbytes(length), bytearray()

    def receive_all() -> None:
        while piece := theirs.recv(5000):
            received.extend(piece)

    with theirs, closing(Exchange(lambda: ours, "a.host:1")) as client:
        thread = threading.Thread(target=receive_all)
        thread.start()
        client.connect()
        client.send("PUT", "/x", {"X": "x" * head}, memoryview(sent))
        client.close()
        thread.join(10)
    expected = b"PUT /x HTTP/1.1\r\nHost: a.host:1\r\nX: %b\r\n\r\n" % (b"x" * head) + sent
    assert received == expected


def test_a_connection_that_was_dropped_while_idle_is_made_anew() -> None:
    def once(sock: socket.socket) -> None:
        receive(sock, 1)
        sock.sendall(reply(b"bye"))

    with server(once, once) as client:
        for _ in range(2):
            get(client, "/")
            assert body(client) == b"bye"
            while not client.has_unread_input:
                time.sleep(0.001)


def test_a_connection_with_replies_under_way_is_kept() -> None:
    def serve(sock: socket.socket) -> None:
        receive(sock, 1)
        sock.sendall(reply(b"one"))
        receive(sock, 1)
        sock.sendall(reply(b"two"))

    with server(serve) as client:
        get(client, "/")
        while not client.has_unread_input:
            time.sleep(0.001)
        get(client, "/")
        assert [body(client), body(client)] == [b"one", b"two"]


def test_no_reply_is_taken_for_that_of_another_request() -> None:
    """After the server hung up, the replies that did not come are lost, and said to be."""

    def serve(sock: socket.socket) -> None:
        receive(sock, 3)
        sock.sendall(reply(b"one"))

    with server(serve, until_closed) as client:
        for _ in range(3):
            get(client, "/")
        assert body(client) == b"one"
        with pytest.raises((DisconnectedError, ConnectionResetError)):
            client.reply()
        client.close()
        client.connect()
        assert client.under_way == 0
        with pytest.raises(DisconnectedError):
            client.reply()


def test_a_reply_too_many_is_not_taken_for_the_next() -> None:
    def serve(sock: socket.socket) -> None:
        receive(sock, 1)
        sock.sendall(reply(b"one") + reply(b"one"))
        receive(sock, 1)

    with server(serve) as client:
        get(client, "/")
        assert body(client) == b"one"
        get(client, "/")
        with pytest.raises((DisconnectedError, ConnectionResetError)):
            client.reply()


def test_it_persists_when_a_reply_said_so() -> None:
    def twice(sock: socket.socket) -> None:
        for more in ([], ["Connection: close"]):
            receive(sock, 1)
            sock.sendall(reply(b"", "200 OK", *more))

    with server(twice) as client:
        assert not client.persists
        get(client, "/")
        assert not client.persists
        body(client)
        assert client.persists
        get(client, "/")
        body(client)
        assert not client.persists
        assert client.sock is None


@pytest.mark.filterwarnings("error")
def test_a_connection_that_broke_leaves_nothing_behind() -> None:
    def serve(sock: socket.socket) -> None:
        receive(sock, 1)

    with server(serve) as client:
        get(client, "/")
        with pytest.raises(DisconnectedError):
            client.reply()
        client.close()
        gc.collect()


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
def test_what_was_not_sent_in_full_has_not_arrived(status: str) -> None:
    """The server may say why; whatever else it says, it has not got everything."""
    data = memoryview(bytes(64 * 1024**2))

    def serve(sock: socket.socket) -> None:
        receive(sock, 1)
        sock.sendall(reply(b"") + reply(b"so there", status))

    with server(serve) as client:
        get(client, "/")
        headers = {"Content-Length": str(len(data))}
        client.send("PUT", "/", headers, data)
        assert client.is_cut
        assert body(client) == b""
        if status.startswith("200"):
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                client.reply()
        else:
            response = client.reply()
            assert (response.status, response.read()) == (403, b"so there")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.send("GET", "/", {})


@pytest.mark.parametrize(("url", "host"), HOSTS.items())
def test_how_a_host_is_named(url: str, host: str) -> None:
    assert TransferURL.parse(url, secure=False).authority == host
