"""What must take any bytes: it returns, or raises an error of ours, and is soon done."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from tapestream import (
    BackupInfo,
    DiscardSink,
    Extent,
    ImageioHTTPSource,
    ImageioUploadSink,
    TapestreamError,
    TarStreamSink,
    TarStreamSource,
    copy,
    verify,
)
from tapestream.engine.options import CopyKeywords
from tapestream.model.extents import Extents
from tapestream.testing.memory import MemorySource

KIB = 1024
BLOCK = 512
# Between the replies to one request and the next.
NEXT = b"\n~~~\n"
SECONDS = 0.3
# Making large buffers would take most of the time.
SMALL: CopyKeywords = {"buffer_size": 4 * KIB, "buffer_memory": 64 * KIB}


def tar(data: bytes) -> None:
    """Restore and verify a tar, as it is and with the checksums of its headers put right."""
    for stream in (data, with_checksums(data)):
        for lenient in (False, True):
            with (
                contextlib.suppress(TapestreamError),
                TarStreamSource(io.BytesIO(stream), allow_incomplete=lenient) as source,
                DiscardSink() as sink,
            ):
                copy(source, sink, **SMALL)
        with contextlib.suppress(TapestreamError), TarStreamSource(io.BytesIO(stream)) as source:
            str(verify(source, **SMALL))


def with_checksums(data: bytes) -> bytes:
    """Put the checksum of whatever looks like a header right: else a fuzzer gets no further."""
    blocks = bytearray(data)
    for at in range(0, len(blocks) - BLOCK + 1, BLOCK):
        header = blocks[at : at + BLOCK]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(blocks)


def extents(data: bytes) -> None:
    """Read a list of extents of either kind."""
    for context in ("zero", "dirty"):
        with contextlib.suppress(TapestreamError):
            for _ in Extents.parse(data, context=context):
                pass


def download(data: bytes) -> None:
    """Read a disk from a server that sends these replies."""
    with _Replies(data) as server:
        for context in ("zero", "dirty"):
            with (
                contextlib.suppress(TapestreamError),
                ImageioHTTPSource(
                    server.url,
                    context=context,
                    secure=False,
                    retries=0,
                    connect_timeout=SECONDS,
                    read_timeout=SECONDS,
                    extents_timeout=SECONDS,
                ) as source,
                DiscardSink() as sink,
            ):
                copy(source, sink, **SMALL)


def upload(data: bytes) -> None:
    """Write a disk to a server that sends these replies."""
    with (
        _Replies(data) as server,
        contextlib.suppress(TapestreamError),
        MemorySource(
            bytes(range(256)) * 64, [Extent(0, 8 * KIB), Extent(8 * KIB, 8 * KIB, zero=True)]
        ) as source,
        ImageioUploadSink(
            server.url,
            secure=False,
            retries=0,
            connect_timeout=SECONDS,
            read_timeout=SECONDS,
            zero_timeout=SECONDS,
        ) as sink,
    ):
        copy(source, sink, **SMALL)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (tar, extents, download, upload)
}


def examples(name: str) -> list[bytes]:
    """Good inputs of a target, to begin with, and all that once broke it."""
    found = [
        path.read_bytes() for path in sorted((Path(__file__).parent / "seeds" / name).glob("*"))
    ]
    return [*_EXAMPLES[name](), *found]


def _tars() -> list[bytes]:
    made = []
    for context_dirty in (False, True):
        out = io.BytesIO()
        dirty = True if context_dirty else None
        disk = [
            Extent(0, 3 * KIB, dirty=dirty),
            Extent(3 * KIB, KIB, zero=True, dirty=dirty),
            Extent(4 * KIB, 2 * KIB, dirty=False if context_dirty else None),
            Extent(6 * KIB, KIB, dirty=dirty),
        ]
        info = BackupInfo(disk_name="d", checkpoint_id="c", metadata={"a": [1, None]})
        with (
            MemorySource(bytes(range(256)) * 28, disk, info=info) as source,
            TarStreamSink(out, record_size=BLOCK, attachments={"vm.ovf": b"<x/>"}) as sink,
        ):
            copy(source, sink)
        made.append(out.getvalue())
    return made


def _lists() -> list[bytes]:
    zero = [{"start": 0, "length": 4096, "zero": False, "hole": False}]
    zero += [{"start": 4096, "length": 8192, "zero": True, "hole": True}]
    dirty = [{"start": 0, "length": 4096, "zero": False, "dirty": True}]
    dirty += [{"start": 4096, "length": 8192, "zero": False, "dirty": False}]
    return [json.dumps(each).encode() for each in (zero, dirty)]


def _replies() -> list[bytes]:
    options = {"features": ["extents", "zero", "flush"], "max_readers": 8, "max_writers": 8}
    size = 16 * KIB
    both = [{"start": 0, "length": size, "zero": False, "hole": False, "dirty": True}]
    beyond = b"HTTP/1.1 416 Beyond\r\nContent-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n" % size
    data = _reply(206, bytes(size), b"Content-Range: bytes 0-%d/%d\r\n" % (size - 1, size))
    ok = _reply(200, b"")
    return [
        NEXT.join(
            [_reply(200, json.dumps(options).encode()), _reply(200, json.dumps(both).encode())]
        )
        + NEXT
        + NEXT.join([beyond, data, ok, ok, ok, ok])
    ]


def _reply(status: int, body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d OK\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body)


_EXAMPLES: dict[str, Callable[[], list[bytes]]] = {
    "tar": _tars,
    "extents": _lists,
    "download": _replies,
    "upload": _replies,
}


class _Replies:
    """A double of a server that answers each request with the next of the replies."""

    def __init__(self, data: bytes) -> None:
        self._replies = data.split(NEXT)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/images/fuzz"
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> _Replies:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with self._lock:
                    self._open.append(sock)
                threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            file = sock.makefile("rb")
            while head := _head(file):
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                if length:
                    file.read(int(length[1]))
                with self._lock:
                    reply = self._replies.pop(0) if self._replies else None
                if reply is None:
                    return
                sock.sendall(reply)


def _head(file: io.BufferedReader) -> bytes:
    head = b""
    while (line := file.readline()) not in (b"", b"\r\n"):
        head += line
    return head
