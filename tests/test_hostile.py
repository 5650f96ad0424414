from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hostile import (
    CLUSTER,
    PIECE,
    Chunked,
    CloseBeforeReply,
    Cut,
    Fault,
    Garbage,
    HostileServer,
    Request,
    Reset,
    SparseImage,
    Stall,
    Status,
    Whole,
    WrongLength,
    WrongRange,
)

IMAGE = bytes(range(256)) * 4
TIB = 1024**4


class Client:
    """One connection to the server, as the standard library makes it."""

    def __init__(self, server: HostileServer, timeout: float = 10) -> None:
        url = urlsplit(server.url)
        assert url.hostname
        self.path = url.path
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=timeout)
        self.close = self.connection.close

    def ask(
        self, method: str, suffix: str = "", body: bytes | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        # A refused request may be cut off while its body is sent; the reply says why.
        with suppress(ConnectionError):
            self.connection.request(method, self.path + suffix, body, named)
        return self.connection.getresponse()

    def get(self, start: int = 0, length: int = 8) -> http.client.HTTPResponse:
        return self.ask("GET", Range=f"bytes={start}-{start + length - 1}")

    def put(self, start: int, data: bytes, query: str = "?flush=n") -> http.client.HTTPResponse:
        content_range = f"bytes {start}-{start + len(data) - 1}/*"
        return self.ask("PUT", query, data, Content_Range=content_range)

    def patch(self, **message: Any) -> http.client.HTTPResponse:
        return self.ask("PATCH", body=json.dumps(message).encode())


def once(fault: Fault) -> Callable[..., Fault | None]:
    return lambda n, *_: fault if n == 1 else None


def get_with(
    fault: Fault, start: int = 0, length: int = 8
) -> tuple[http.client.HTTPResponse, bytes]:
    """The first GET, which meets the fault; the second one on a new connection must not."""
    with HostileServer(IMAGE, on_get=once(fault)) as server:
        try:
            with closing(Client(server)) as client:
                response = client.get(start, length)
                return response, response.read()
        finally:
            with closing(Client(server)) as client:
                assert client.get(start, length).read() == IMAGE[start : start + length]


# --- The honest server ---


def test_options() -> None:
    with HostileServer(IMAGE, unix_socket="\0/x") as server, closing(Client(server)) as client:
        assert json.loads(client.ask("OPTIONS").read()) == {
            "unix_socket": "\0/x",
            "features": ["extents", "zero", "flush", "checksum"],
            "max_readers": 8,
            "max_writers": 8,
        }


def test_options_without_readers_and_writers() -> None:
    behaviour: dict[str, Any] = {"features": (), "max_readers": None, "max_writers": None}
    with HostileServer(IMAGE, **behaviour) as server, closing(Client(server)) as client:
        assert json.loads(client.ask("OPTIONS").read()) == {"features": []}


@pytest.mark.parametrize("status", [204, 405])
def test_old_server(status: int) -> None:
    with HostileServer(IMAGE, options_status=status) as server, closing(Client(server)) as client:
        response = client.ask("OPTIONS")
        assert response.status == status
        assert bool(response.read()) == (status == 405)
        assert _status(client.ask("GET", "/extents")) == 404
        assert client.get().read() == IMAGE[:8]
        assert {request.connection for request in server.requests} == {1}
        assert _status(client.patch(op="flush")) == 405


def test_get() -> None:
    with HostileServer(IMAGE) as server, closing(Client(server)) as client:
        response = client.get(10, 20)
        assert (response.status, response.read()) == (206, IMAGE[10:30])
        assert response.headers["Content-Range"] == "bytes 10-29/1024"
        response = client.ask("GET")
        assert (response.status, response.read()) == (200, IMAGE)
        response = client.ask("GET", Range="bytes=1000-")
        assert (response.status, response.read()) == (206, IMAGE[1000:])
        assert server.image.read(0, 1024) == IMAGE


@pytest.mark.parametrize("wanted", ["bytes=1000-1024", "bytes=2000-", "bytes=-5", "bytes=0-1,4-5"])
def test_get_beyond_the_end_or_not_a_range(wanted: str) -> None:
    with HostileServer(IMAGE) as server, closing(Client(server)) as client:
        response = client.ask("GET", Range=wanted)
        assert response.status == 416
        assert response.headers["Content-Range"] == "bytes */1024"


def test_put_zero_flush() -> None:
    with HostileServer(bytes(100)) as server, closing(Client(server)) as client:
        assert _status(client.put(10, b"data")) == 200
        assert _status(client.put(20, b"more", query="")) == 200
        assert _status(client.patch(op="zero", offset=11, size=2, flush=False)) == 200
        assert _status(client.patch(op="flush")) == 200
        assert server.image.read(0, 100) == bytes(10) + b"d\0\0a" + bytes(6) + b"more" + bytes(76)
        assert (server.unflushed_puts, server.flushed) == (1, 1)


def test_requests_refused() -> None:
    with HostileServer(bytes(100)) as server, closing(Client(server)) as client:
        assert _status(client.ask("PUT", body=b"no range")) == 400
        assert _status(client.put(98, b"data")) == 416
        assert _status(client.patch(op="zero", offset=99, size=2)) == 416
        assert _status(client.patch(op="zero")) == 400
        assert _status(client.patch(op="trim", size=1)) == 400
        assert _status(client.ask("PATCH", body=b"not json")) == 400
        assert _status(client.ask("POST")) == 405
        assert _status(client.ask("GET", "/checksum")) == 404
        assert server.image.read(0, 100) == bytes(100)


def test_chunked_put_poisons_the_connection() -> None:
    with HostileServer(bytes(100)) as server, closing(Client(server)) as client:
        with suppress(ConnectionError):
            client.connection.request("PUT", client.path, iter([b"data"]), encode_chunked=True)
        assert _status(client.connection.getresponse()) == 400
        with pytest.raises((http.client.BadStatusLine, ConnectionError)):
            client.ask("OPTIONS")


def test_ticket() -> None:
    with HostileServer(IMAGE, ticket_known=False) as server, closing(Client(server)) as client:
        for response in client.get(), client.ask("OPTIONS"), client.put(0, b"data"):
            assert (response.status, response.headers["Connection"]) == (403, "close")
            assert b"No such ticket secret-ticket-0123456789" in response.read()


def test_read_only_ticket() -> None:
    with HostileServer(IMAGE, ops=("read",)) as server, closing(Client(server)) as client:
        assert _status(client.get()) == 206
        for response in client.put(0, b"data"), client.patch(op="flush"):
            assert response.status == 403
            assert b"Transfer=(ticket/secret-ticket-0123) forbids write" in response.read()


def test_requests() -> None:
    with HostileServer(IMAGE) as server:
        for _ in range(2):
            with closing(Client(server)) as client:
                client.put(0, b"data").read()
                client.get().read()
        put, get, *others = server.requests
        assert isinstance(put, Request)
        assert (put.method, put.path) == ("PUT", client.path + "?flush=n")
        assert put.headers["content-range"] == "bytes 0-3/*"
        assert (put.body_length, get.body_length) == (4, 0)
        assert [r.connection for r in (put, get, *others)] == [1, 1, 2, 2]


# --- Extents ---


def _zero(start: int, length: int, zero: bool) -> dict[str, object]:
    return {"start": start, "length": length, "zero": zero, "hole": False}


def test_extents() -> None:
    image = bytes(CLUSTER) + b"x" * (CLUSTER + 1) + bytes(3 * CLUSTER)
    with HostileServer(image) as server, closing(Client(server)) as client:
        assert json.loads(client.ask("GET", "/extents").read()) == [
            _zero(0, CLUSTER, True),
            _zero(CLUSTER, 2 * CLUSTER, False),
            _zero(3 * CLUSTER, 2 * CLUSTER + 1, True),
        ]
        assert _status(client.ask("GET", "/extents?context=dirty")) == 404


def test_extents_as_given() -> None:
    with HostileServer(IMAGE, extents=b"[{") as server, closing(Client(server)) as client:
        assert client.ask("GET", "/extents").read() == b"[{"
    extents = {"dirty": b"[1]"}
    with HostileServer(IMAGE, extents=extents) as server, closing(Client(server)) as client:
        assert client.ask("GET", "/extents?context=dirty").read() == b"[1]"
        assert _status(client.ask("GET", "/extents")) == 404


def test_extents_status() -> None:
    with HostileServer(IMAGE, extents_status=500) as server, closing(Client(server)) as client:
        assert _status(client.ask("GET", "/extents")) == 500


def test_sparse_image() -> None:
    image = SparseImage(8 * TIB, {5 * TIB: b"deep", 8 * TIB - 3: b"end"})
    with HostileServer(image) as server, closing(Client(server)) as client:
        assert client.get(5 * TIB - 2, 8).read() == b"\0\0deep\0\0"
        assert client.get(TIB, 3 * PIECE + 1).read() == bytes(3 * PIECE + 1)
        assert json.loads(client.ask("GET", "/extents").read()) == [
            _zero(0, 5 * TIB, True),
            _zero(5 * TIB, CLUSTER, False),
            _zero(5 * TIB + CLUSTER, 3 * TIB - 2 * CLUSTER, True),
            _zero(8 * TIB - CLUSTER, CLUSTER, False),
        ]
        client.patch(op="zero", offset=2, size=8 * TIB - 2).read()
        client.put(5 * TIB + 1, b"new").read()
        assert client.get(5 * TIB, 5).read() == b"\0new\0"
        assert client.get(8 * TIB - 3, 3).read() == bytes(3)


# --- Faults of GET ---


def test_cut() -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        get_with(Cut(5))
    assert caught.value.partial == IMAGE[:5]


def test_reset() -> None:
    with HostileServer(IMAGE, on_get=once(Reset(5))) as server, closing(Client(server)) as client:
        response = client.get()
        assert response.read(5) == IMAGE[:5]
        with pytest.raises(ConnectionResetError):
            response.read()


@pytest.mark.parametrize("after", [None, 0, 5])
def test_stall(after: int | None) -> None:
    began = time.monotonic()
    _, body = get_with(Stall(after, 0.2))
    assert body == IMAGE[:8]
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(("after", "heard"), [(None, None), (0, b""), (5, IMAGE[:5])])
def test_stall_longer_than_the_client_waits(after: int | None, heard: bytes | None) -> None:
    stall = Stall(after, 60)
    with (
        HostileServer(IMAGE, on_get=once(stall)) as server,
        closing(Client(server, timeout=0.5)) as client,
    ):
        if heard is None:
            with pytest.raises(TimeoutError):
                client.get()
        else:
            response = client.get()
            assert response.read(len(heard)) == heard
            with pytest.raises(TimeoutError):
                response.read()


def test_status() -> None:
    response, body = get_with(Status(500, "check logs"))
    assert (response.status, body) == (500, b"check logs\n")


@pytest.mark.parametrize("delta", [-3, 3])
def test_wrong_length(delta: int) -> None:
    response, body = get_with(WrongLength(delta))
    assert response.headers["Content-Range"] == "bytes 0-7/1024"
    assert response.headers["Content-Length"] == str(8 + delta)
    assert body == IMAGE[: 8 + delta]


def test_wrong_length_beyond_the_end() -> None:
    assert get_with(WrongLength(4), start=1020, length=4)[1] == IMAGE[1020:] + bytes(4)


def test_whole() -> None:
    response, body = get_with(Whole(), start=16)
    assert (response.status, body) == (200, IMAGE)
    assert "Content-Range" not in response.headers


@pytest.mark.parametrize("shift", [-4, 4])
def test_wrong_range(shift: int) -> None:
    response, body = get_with(WrongRange(shift), start=16)
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {16 + shift}-{23 + shift}/1024"
    assert body == IMAGE[16 + shift :][:8]


def test_chunked() -> None:
    response, body = get_with(Chunked())
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in response.headers
    assert body == IMAGE[:8]


def test_garbage() -> None:
    with pytest.raises(http.client.BadStatusLine):
        get_with(Garbage())


def test_close_before_reply() -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        get_with(CloseBeforeReply())


def test_close_after_each() -> None:
    with HostileServer(IMAGE, close_after_each=True) as server, closing(Client(server)) as client:
        response = client.get()
        assert response.read() == IMAGE[:8]
        assert "Connection" not in response.headers
        with pytest.raises(ConnectionError):
            client.get()


def test_hook_sees_number_and_range() -> None:
    seen: list[tuple[int, ...]] = []

    def hook(*args: int) -> None:
        seen.append(args)

    hooks: dict[str, Any] = {"on_get": hook, "on_put": hook}
    with HostileServer(IMAGE, **hooks) as server, closing(Client(server)) as client:
        client.get(3, 5).read()
        client.ask("GET").read()
        client.put(7, b"data").read()
    assert seen == [(1, 3, 5), (2, 0, 1024), (1, 7, 4)]


# --- Faults of the others ---


def test_put_status_after_the_body() -> None:
    with HostileServer(bytes(9), on_put=once(Status(500, "no"))) as server:
        with closing(Client(server)) as client:
            assert _status(client.put(0, b"data")) == 500
            assert server.image.read(0, 9) == bytes(9)
            assert _status(client.put(0, b"data")) == 200
            assert server.image.read(0, 9) == b"data" + bytes(5)
        assert {request.connection for request in server.requests} == {1}
        assert server.unflushed_puts == 1


def test_put_status_before_the_body() -> None:
    data = bytes(64 * PIECE)
    early = Status(403, "no such ticket", early=True)
    image = SparseImage(len(data), {})
    with HostileServer(image, on_put=once(early)) as server, closing(Client(server)) as client:
        headers = {"Content-Range": "bytes 0-*/*"}
        with pytest.raises(ConnectionError):
            client.connection.request("PUT", client.path, data, headers)
        response = client.connection.getresponse()  # It is there all the same.
        assert (response.status, response.headers["Connection"]) == (403, "close")
        assert response.read() == b"no such ticket\n"


@pytest.mark.parametrize(
    ("hook", "method", "suffix", "body"),
    [
        ("on_options", "OPTIONS", "", None),
        ("on_extents", "GET", "/extents", None),
        ("on_put", "PUT", "", b"data"),
        ("on_patch", "PATCH", "", b'{"op": "zero", "offset": 0, "size": 1}'),
    ],
)
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Status(500), 500),
        (Stall(None, 0.1), 200),
        (Garbage(), http.client.BadStatusLine),
        (CloseBeforeReply(), http.client.RemoteDisconnected),
    ],
)
def test_faults_of_the_others(
    hook: str,
    method: str,
    suffix: str,
    body: bytes | None,
    fault: Fault,
    outcome: int | type[Exception],
) -> None:
    behaviour: dict[str, Any] = {hook: once(fault)}
    with HostileServer(b"x" * 100, **behaviour) as server:

        def status() -> int:
            with closing(Client(server)) as client:
                return _status(client.ask(method, suffix, body, Content_Range="bytes 0-9/*"))

        if isinstance(outcome, int):
            assert status() == outcome
        else:
            with pytest.raises(outcome):
                status()
        if outcome != 200:
            assert server.image.read(0, 100) == b"x" * 100
        assert status() == 200


# --- Leaving ---


@pytest.mark.parametrize("fault", [None, Stall(5, 60)])
def test_leaves_promptly_with_open_connections(fault: Fault | None) -> None:
    before = threading.active_count()
    with HostileServer(IMAGE, on_get=lambda n, start, length: fault) as server:
        clients = [Client(server) for _ in range(3)]
        for client in clients:
            client.get().read(5)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert threading.active_count() == before
    for client in clients:
        client.close()


def test_leaves_promptly_while_sending() -> None:
    with HostileServer(SparseImage(TIB, {})) as server:
        client = Client(server)
        assert client.ask("GET").read(10) == bytes(10)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    client.close()


def _status(response: http.client.HTTPResponse) -> int:
    response.read()
    return response.status
