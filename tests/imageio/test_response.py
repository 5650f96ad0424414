"""Heads and bodies of replies: the same as http.client finds in them, or an error."""

from __future__ import annotations

import http.client
import io
import socket
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tapestream.imageio.response import (
    MAX_HEADERS,
    MAX_LINE,
    BadReplyError,
    DisconnectedError,
    EndedEarlyError,
    HeadReader,
    Response,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

HEAD = (
    b"HTTP/1.1 206 Partial Content\r\nServer: imageio/2.5.0\r\nContent-Length: 4\r\n"
    b"Content-Range: bytes 0-3/4096\r\n\r\n"
)


def parse(text: bytes) -> Response:
    return HeadReader().read(io.BufferedReader(io.BytesIO(text)))


class Socket:
    """What http.client needs of a socket."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._text)


def parse_as_python(text: bytes) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(cast("socket.socket", Socket(text)))
    response.begin()
    return response


# --- Whatever a server sends ---

ENDS = st.sampled_from([b"\r\n"] * 60 + [b"\n", b"\r", b"\r\r\n", b"", b"\r\n ", b"\0\r\n"])
STATUS_LINES = st.builds(
    b" ".join,
    st.tuples(
        st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP", b""]),
        st.sampled_from([b"206", b"200", b"100", b"103", b"204", b"304", b"416", b"099", b"+20"]),
        st.sampled_from([b"OK", b"", b"Partial Content", b"\xe4"]),
    ),
)
NAMES = st.sampled_from(
    b"Content-Length|content-range|Transfer-Encoding|CONNECTION|Keep-Alive|X"
    b"|X Y||From x|\xe4|Content-Length | X".split(b"|")
)
VALUES = st.sampled_from(
    b"4|007|-4|+4|4_0|4, 5|x||99999999999999999999|4;|chunked|Chunked|identity|gzip"
    b"|gzip, chunked|close|keep-alive|Close, x|bytes 0-3/4|bytes 0-3/4 |a:b|\xe4\xff".split(b"|")
)
LINES = st.builds(
    lambda name, colon, value: name + colon + value,
    NAMES,
    st.sampled_from([b": "] * 4 + [b":", b":\t ", b"", b" :"]),
    VALUES,
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    lines = [draw(STATUS_LINES), *draw(st.lists(LINES, max_size=4)), b""]
    return b"".join(line + draw(ENDS) for line in lines) + draw(st.sampled_from([b"", b"body"]))


@given(heads() | st.binary(max_size=60))
@example(HEAD)
@example(HEAD[:-2])
@example(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD)
def test_any_head(text: bytes) -> None:
    try:
        ours = parse(text)
    except (BadReplyError, DisconnectedError):
        return
    theirs = parse_as_python(text)
    assert (ours.status, ours.chunked, ours.length) == (
        theirs.status,
        theirs.chunked,
        theirs.length,
    )
    for name in ("content-range", "allow"):
        assert ours.headers.get(name, "") == ", ".join(
            value.strip(" \t") for value in theirs.headers.get_all(name, [])
        )
    assert ours.will_close >= theirs.will_close  # http.client looks only at the first "Connection"


REPLIES = st.tuples(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: %d\n\n",
            b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: %d\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: %d\r\n\r\n",
        ]
    ),
    st.sampled_from([b"", b"x", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n"]),
)


class Arriving(io.BytesIO):
    """Replies that arrive a few bytes at a time."""

    def __init__(self, text: bytes, step: int) -> None:
        super().__init__(text)
        self._step = step

    def readinto(self, buffer: Buffer) -> int:
        return super().readinto(memoryview(buffer)[: self._step])


@given(st.lists(REPLIES, max_size=8), st.integers(1, 300))
@example([(b"HTTP/1.1 200 OK\nContent-Length: %d\n\n", b"\r\n\r\n")] * 2, 300)
def test_replies_after_each_other(replies: list[tuple[bytes, bytes]], step: int) -> None:
    """Many of them have the same head."""
    text = b"".join(head % len(body) + body for head, body in replies)
    stream: io.BufferedReader = io.BufferedReader(Arriving(text, step))
    heads = HeadReader()
    for head, body in replies:
        found, alone = heads.read(stream), parse(head % len(body) + body)
        assert (found.status, found.headers, found.will_close) == (
            alone.status,
            alone.headers,
            alone.will_close,
        )
        assert found.read() == body
    with pytest.raises(DisconnectedError):
        heads.read(stream)


def read_chunks(response: Response, most: int) -> bytes:
    found = bytearray()
    while piece := response.read(most):
        assert len(piece) <= most
        found += piece
    return bytes(found)


CHUNKS = st.lists(st.binary(min_size=1, max_size=20), max_size=4)


@given(CHUNKS, st.integers(1, 30), st.sampled_from([b"", b"Sum: 1\r\n"]), st.data())
def test_any_chunks(chunks: list[bytes], most: int, trailer: bytes, data: st.DataObject) -> None:
    body = b"".join(b"%x;a=b\r\n%b\r\n" % (len(each), each) for each in chunks)
    body += b"0\r\n" + trailer + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = parse(head + body)
    assert read_chunks(response, most) == b"".join(chunks) == parse_as_python(head + body).read()
    assert response.is_closed
    assert not response.will_close
    cut = parse(head + body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(EndedEarlyError):
        read_chunks(cut, most)


# --- Where http.client guesses ---


@pytest.mark.parametrize("end", range(len(HEAD)))
def test_a_head_that_breaks_off(end: int) -> None:
    with pytest.raises(EndedEarlyError if end else DisconnectedError):
        parse(HEAD[:end])


@pytest.mark.parametrize(
    "line",
    [
        "no colon",
        ": without a name",
        "Content-Length : 4",
        "X: 1\r\n folded",
        "X: 1\rContent-Length: 4",
        "X: \0",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: +4",
        "Content-Length: 4_0",
        "Content-Length: -1",
        "Content-Length: ",
        "Content-Length: " + "9" * 20,
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "X: " + "x" * MAX_LINE,
        "X: 1\r\n" * MAX_HEADERS + "X: 1",
    ],
)
def test_what_no_server_means(line: str) -> None:
    with pytest.raises(BadReplyError) as caught:
        parse(f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
    assert not isinstance(caught.value, EndedEarlyError)


@pytest.mark.parametrize(
    "text", [b"\r\n", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 20\r\n", b"x" * 70000]
)
def test_what_is_no_http(text: bytes) -> None:
    with pytest.raises(BadReplyError):
        parse(text)


def test_a_length_that_is_said_twice() -> None:
    assert parse(HEAD[:-2] + b"content-length:4\r\n\r\n").length == 4


@pytest.mark.parametrize(
    ("version", "header", "will_close"),
    [
        ("1.1", "X: 1", False),
        ("1.1", "Connection: Close", True),
        ("1.1", "Connection: keep-alive\r\nConnection: close", True),
        ("1.0", "X: 1", True),
        ("1.0", "Connection: keep-alive", False),
    ],
)
def test_whether_more_may_follow(version: str, header: str, will_close: bool) -> None:
    head = f"HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{header}\r\n\r\n"
    assert parse(head.encode()).will_close is will_close


# --- Bodies ---


def test_a_body_is_read_to_its_length_and_no_further() -> None:
    response = parse(HEAD + b"diskHTTP/1.1")
    assert (response.read(3), response.is_closed) == (b"dis", False)
    assert (response.read(3), response.is_closed) == (b"k", True)
    assert response.read(3) == b""


def test_a_body_that_breaks_off() -> None:
    assert parse(HEAD + b"di").read(4) == b"di"
    with pytest.raises(EndedEarlyError):
        parse(HEAD + b"di").read()


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    response = parse(b"HTTP/1.1 200 OK\r\n\r\ndisk")
    assert response.will_close
    assert (response.read(3), response.read(3), response.read(3)) == (b"dis", b"k", b"")
    assert response.is_closed


@pytest.mark.parametrize(
    "chunks", [b"x\r\n", b"-1\r\nd\r\n", b"1\r\ndi\r\n0\r\n\r\n", b"\r\n", b"0\r\nx\r\n"]
)
def test_chunks_that_make_no_sense(chunks: bytes) -> None:
    response = parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    with pytest.raises(BadReplyError):
        read_chunks(response, 9)
