"""Reads the head of an HTTP reply, and a body whose length it says, or that comes in chunks.

`http.client` takes 34 to 39 us for a head, because it parses it as the head of an e-mail; this
takes a fifth of that. And it need not be imported, which took 11 ms. It also guesses where this
refuses: at a head that breaks off, a header without a colon, a length that is no number. As there,
lines may end with LF.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

# The limits of http.client: bytes of a line, and headers of a reply.
MAX_LINE = 65536
MAX_HEADERS = 100

_STATUS_LINE = re.compile(rb"HTTP/(1\.[0-9]+|0\.9) +([1-9][0-9][0-9])(?: [^\r\0]*)?")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A whole head, as servers send it; any other is read line by line.
_PLAIN_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-9][0-9][0-9])(?: [^\r\n\0]*)?\r\n((?:%b:[^\r\n\0]*\r\n){0,%d})\r\n"
    % (_NAME.pattern, MAX_HEADERS)
)
_LENGTH = re.compile(r"[0-9]{1,19}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\0]*)?")


class BadReplyError(Exception):
    """The server sent something that is no HTTP reply."""


class EndedEarlyError(BadReplyError):
    """The connection ended in the middle of a reply."""


class DisconnectedError(ConnectionResetError):
    """The connection ended before a reply."""


class Head(NamedTuple):
    """The head of a reply.

    Attributes:
        status: The status code.
        headers: Names in lower case; the values of headers with the same name, joined by ", ".
        length: How many bytes the body has; None if only its end will show that.
        chunked: True if the body comes in chunks.
        will_close: True if nothing may follow over this connection.
    """

    status: int
    headers: dict[str, str]
    length: int | None
    chunked: bool
    will_close: bool

    @classmethod
    def of(cls, status: int, version: str, headers: dict[str, str]) -> Head:
        """Find out how the body comes, and what may follow.

        Args:
            status: The status code.
            version: "1.1", or another version of HTTP.
            headers: See `Head`.

        Raises:
            BadReplyError: The headers contradict each other.
        """
        encoding = headers.get("transfer-encoding", "identity").lower()
        if encoding not in {"identity", "chunked"}:
            raise BadReplyError("the reply has an unknown transfer encoding")
        chunked = encoding == "chunked"
        length = None if chunked else _length(headers.get("content-length"))
        if status in {204, 304} or status < 200:
            length = 0
        connection = headers.get("connection", "").lower()
        is_kept = version not in {"1.0", "0.9"} or "keep-alive" in connection
        will_close = not is_kept or "close" in connection or (length is None and not chunked)
        return cls(status, headers, length, chunked, will_close)


class Response:
    """A reply, of which the head was read.

    Args:
        stream: Where the rest comes from.
        head: Its head.

    Attributes:
        status: See `Head`, as for the other attributes.
        length: How many bytes of the body are left; None if only its end will show that.
    """

    def __init__(self, stream: io.BufferedReader, head: Head) -> None:
        self.status, self.headers, self.length, self.chunked, self.will_close = head
        self._stream = stream
        self._is_closed = False
        self._chunk = 0  # bytes that are left of the current chunk

    @property
    def is_closed(self) -> bool:
        """True after the end of the body, and after `close`."""
        return self._is_closed

    def close(self) -> None:
        """Read no more."""
        self._is_closed = True

    def read(self, most: int | None = None) -> bytes:
        """Read up to `most` bytes of the body, fewer only at its end, or where it breaks off.

        By default, read all of a body whose length is known.

        Raises:
            EndedEarlyError: All is wanted, or a chunk, and breaks off.
            BadReplyError: The chunks make no sense.
        """
        if most is None:
            return self._read_all()
        if self._is_closed:
            return b""
        if self.chunked:
            return self._read_chunks(most)
        data = self._stream.read(most if self.length is None else min(most, self.length))
        if self.length is not None:
            self.length -= len(data)
        self._is_closed = self.length == 0 or len(data) < most
        return data

    def _read_all(self) -> bytes:
        data = self.read(self.length or 0)
        if self.length:
            raise EndedEarlyError("the body is shorter than its length")
        return data

    def _read_chunks(self, most: int) -> bytes:
        data = bytearray()
        while len(data) < most:
            if not self._chunk and not self._begin_chunk():
                self._is_closed = True
                break
            part = self._stream.read(min(self._chunk, most - len(data)))
            if not part:
                raise EndedEarlyError("the reply ended within a chunk")
            data += part
            self._chunk -= len(part)
            if not self._chunk and _line(self._stream):
                raise BadReplyError("a chunk is longer than its size")
        return bytes(data)

    def _begin_chunk(self) -> bool:
        """Read the size of the next chunk; False if that was the last one."""
        found = _CHUNK.fullmatch(_line(self._stream))
        if found is None:
            raise BadReplyError("a chunk without a size")
        self._chunk = int(found[1], 16)
        if not self._chunk:
            _headers(self._stream)
        return self._chunk > 0


class HeadReader:
    """Reads the heads of replies.

    A head that has arrived whole is parsed in one go, which takes half as long as line by line. The
    replies to uploads mostly have the same head, which is parsed once: to parse each would be a
    tenth of the client's work for a small upload.
    """

    def __init__(self) -> None:
        self._text = b""  # of the last head
        self._last: Head | None = None

    def read(self, stream: io.BufferedReader) -> Response:
        """Read the head of the next reply; those with "100 Continue" are skipped.

        Raises:
            DisconnectedError: The connection ended before it.
            BadReplyError: It is no head of an HTTP reply.
        """
        arrived = stream.peek()
        if self._last is None or not arrived.startswith(self._text):
            plain = _PLAIN_HEAD.match(arrived)
            if plain is None:
                return _read_lines(stream)
            headers = _named(plain[2].decode("latin1").split("\r\n")[:-1])
            self._text, self._last = plain[0], Head.of(int(plain[1]), "1.1", headers)
        stream.read(len(self._text))
        return Response(stream, self._last)


def _read_lines(stream: io.BufferedReader) -> Response:
    while True:
        line = stream.readline(MAX_LINE + 1)
        if not line:
            raise DisconnectedError("Remote end closed connection without response")
        found = _STATUS_LINE.fullmatch(_without_end(line))
        if found is None:
            raise BadReplyError("the server does not speak HTTP")
        headers = _headers(stream)
        if found[2] != b"100":
            return Response(stream, Head.of(int(found[2]), found[1].decode(), headers))


def _headers(stream: io.BufferedReader) -> dict[str, str]:
    lines: list[str] = []
    while line := _line(stream):
        name, colon, rest = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or b"\r" in rest or b"\0" in rest:
            raise BadReplyError("a line in the head of the reply is no header")
        if len(lines) == MAX_HEADERS:
            raise BadReplyError(f"the reply has more than {MAX_HEADERS} headers")
        lines.append(line.decode("latin1"))
    return _named(lines)


def _named(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _length(text: str | None) -> int | None:
    """The length of the body; a server may repeat it (RFC 9110, 8.6)."""
    if text is None:
        return None
    values = {each.strip() for each in text.split(",")}
    value = values.pop()
    if values or not _LENGTH.fullmatch(value):
        raise BadReplyError("the length of the reply is no number")
    return int(value)


def _line(stream: io.BufferedReader) -> bytes:
    return _without_end(stream.readline(MAX_LINE + 1))


def _without_end(line: bytes) -> bytes:
    if not line.endswith(b"\n"):
        if len(line) > MAX_LINE:
            raise BadReplyError(f"a line of the reply has more than {MAX_LINE} bytes")
        raise EndedEarlyError("the head of the reply breaks off")
    return line[:-2] if line.endswith(b"\r\n") else line[:-1]
