"""Replies that come slowly, or without end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tapestream import ImageioHTTPSource
from tapestream.errors import ServerError, ServerProtocolError, TicketError
from tapestream.testing import MemorySink, MemorySource
from tests.disks import noise
from tests.hostile import HONEST, Connection, Fault, HostileServer, Reply
from tests.imageio.support import KIB, Say, Speak, always, download, upload

IMAGE = noise(200 * KIB)


def test_a_reply_that_has_little_to_say_may_not_be_long() -> None:
    """57 MB of JSON would take more than a GiB of memory."""
    options = b'{"features": [' + b"1," * 100_000 + b"1]}"
    with (
        HostileServer(IMAGE, on_options=always(Say(200, options))) as server,
        pytest.raises(ServerProtocolError, match="more than"),
    ):
        ImageioHTTPSource(server.url, secure=False)


@dataclass(frozen=True)
class Drip(Fault):
    """Send this again and again, for far longer than a reply may take; then what was asked for."""

    first: bytes
    again: bytes
    then: bytes

    def play(self, connection: Connection, reply: Reply) -> None:
        connection.send(self.first)
        for _ in range(200):
            connection.send(self.again)
            connection.pause(0.05)
        connection.send(self.then)
        HONEST.play(connection, reply)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = [
    Drip(b"", CONTINUE, b""),
    Drip(b"HTTP/1.1 100 Continue\r\nx: ", b"x", b"\r\n\r\n"),
]
DRIPPING_BODIES = [
    Drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", b"0\r\n\r\n"),
    Drip(OK + b"Content-Length: 200\r\n\r\n", b" ", b""),
]


@pytest.mark.parametrize("where", ["on_options", "on_extents", "on_get"])
@pytest.mark.parametrize("drip", DRIPS, ids=["continue", "header"])
def test_a_head_that_only_drips_comes_to_an_end(where: str, drip: Fault) -> None:
    """Every byte comes in time, but not the reply."""
    with (
        HostileServer(IMAGE, **{where: always(drip)}) as server,  # type: ignore[arg-type]
        pytest.raises(ServerError, match="in time"),
    ):
        download(server, MemorySink(), read_timeout=0.2, extents_timeout=0.2, retries=0)


@pytest.mark.parametrize("where", ["on_options", "on_extents"])
@pytest.mark.parametrize("drip", DRIPPING_BODIES, ids=["chunks", "bytes"])
def test_a_body_without_data_that_only_drips_comes_to_an_end(where: str, drip: Fault) -> None:
    with (
        HostileServer(IMAGE, **{where: always(drip)}) as server,  # type: ignore[arg-type]
        pytest.raises(ServerError, match="in time"),
    ):
        download(server, MemorySink(), read_timeout=0.2, extents_timeout=0.2, retries=0)


@pytest.mark.parametrize(("where", "again"), [("on_put", CONTINUE), ("on_patch", b"x: y\r\n")])
def test_the_reply_to_an_upload_that_only_drips_comes_to_an_end(where: str, again: bytes) -> None:
    drip = Drip(b"" if again is CONTINUE else OK, again, b"\r\n")
    with (
        HostileServer(IMAGE, **{where: always(drip)}) as server,  # type: ignore[arg-type]
        pytest.raises(ServerError, match="in time"),
    ):
        upload(server, MemorySource(IMAGE), read_timeout=0.2, zero_timeout=0.2)


@pytest.mark.parametrize("where", ["on_options", "on_extents", "on_get"])
def test_a_refusal_counts_although_its_text_only_drips(where: str) -> None:
    refuse = Drip(b"HTTP/1.1 403 no\r\nContent-Length: 300\r\n\r\n", b" ", b"")
    with (
        HostileServer(IMAGE, **{where: always(refuse)}) as server,  # type: ignore[arg-type]
        pytest.raises(TicketError, match="403"),
    ):
        download(server, MemorySink(), read_timeout=0.2, extents_timeout=0.2)


@pytest.mark.parametrize("where", ["on_options", "on_extents", "on_get"])
def test_a_head_without_end(where: str) -> None:
    endless = Speak(CONTINUE * 100_000)
    with HostileServer(IMAGE, **{where: always(endless)}) as server:  # type: ignore[arg-type]
        with pytest.raises(ServerProtocolError, match="head"):
            download(server, MemorySink())
        assert len(server.requests) <= 4


def test_data_may_drip() -> None:
    """A slow line is none that does not answer: the timeout is for the next bytes of the data."""

    @dataclass(frozen=True)
    class Slow(Fault):
        def play(self, connection: Connection, reply: Reply) -> None:
            connection.send(reply.head())
            for at in range(0, reply.length, 512):
                connection.pause(0.05)
                connection.send(b"", reply.body(at, at + 512))

    sink = MemorySink()
    image = noise(16 * 512)
    with HostileServer(image, on_get=always(Slow())) as server:
        download(server, sink, read_timeout=0.3, retries=0)
    assert sink.disk == image
