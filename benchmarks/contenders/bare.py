"""What is left when all else is taken away: a yardstick for what one thread of Python can do."""

from __future__ import annotations

import hashlib
import io
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from benchmarks.model import KIB, MIB, Job

# As tapestream asks, and for its reasons.
FIRST_GET, GET = 8 * MIB, 4 * MIB
CHUNK = 256 * KIB  # what stays in the processor's cache between receiving and digesting


def loop(job: Job) -> None:
    """Receive the whole image over two connections in turn, digest it, write it; no checks."""
    connections = [_connect(job) for _ in range(2)]
    files = [connection.makefile("rb") for connection in connections]
    buffer = memoryview(bytearray(CHUNK))
    pieces = _pieces(job.size)
    asked = [_ask(job, connection, next(pieces, None)) for connection in connections]
    with open(job.target, "wb", buffering=0) as out:
        turn = 0
        while left := asked[turn]:
            digest = hashlib.sha256()
            for count in _body(connections[turn], files[turn], left, buffer):
                if job.options["digest"]:
                    digest.update(buffer[:count])
                out.write(buffer[:count])
            asked[turn] = _ask(job, connections[turn], next(pieces, None))
            turn = 1 - turn
    for connection, file in zip(connections, files, strict=True):
        file.close()
        connection.close()


def _connect(job: Job) -> socket.socket:
    if job.unix_socket:
        local = socket.socket(socket.AF_UNIX)
        local.connect(job.unix_socket)
        return local
    url = urlsplit(job.url)
    assert url.hostname
    remote = socket.create_connection((url.hostname, url.port))
    context = ssl.create_default_context(cafile=job.cafile)
    return context.wrap_socket(remote, server_hostname=url.hostname)


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    """First and last byte of each GET."""
    yield 0, min(FIRST_GET, size) - 1
    for start in range(FIRST_GET, size, GET):
        yield start, min(start + GET, size) - 1


def _ask(job: Job, connection: socket.socket, piece: tuple[int, int] | None) -> int:
    """Send a GET, unless all was asked for: for how many bytes."""
    if piece is None:
        return 0
    first, last = piece
    path = urlsplit(job.url).path
    head = f"GET {path} HTTP/1.1\r\nHost: imageio\r\nRange: bytes={first}-{last}\r\n\r\n"
    connection.sendall(head.encode())
    return last + 1 - first


def _body(
    connection: socket.socket, file: io.BufferedReader, left: int, buffer: memoryview
) -> Iterator[int]:
    """Receive the reply into the buffer, again and again: how many bytes are there."""
    assert b" 206 " in file.readline()
    while file.readline() != b"\r\n":
        pass
    begun = len(file.peek())
    file.readinto(buffer[:begun])
    yield begun
    left -= begun
    while left:
        filled, wanted = 0, min(left, CHUNK)
        while filled < wanted:
            filled += connection.recv_into(buffer[filled:wanted])
        yield wanted
        left -= wanted
