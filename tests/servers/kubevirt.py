"""A double of KubeVirt's virt-exportserver for one disk of a backup in pull mode: not the real one.

Written from KubeVirt's pkg/storage/export/virt-exportserver/exportserver.go and its client of the
NBD server, as of 2026, and from the enhancement proposal (VEP 25). It answers as those do. The real
one needs a pod, qemu's NBD server, and TLS with a certificate of the cluster; the double has TLS.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import parse_qsl, urlsplit

from tests.servers.double import Double, Handler, to_json

TOKEN = "export-token-4c7d1e9b"
# Bytes of a chunk.
CHUNK = 256 * 1024

# (length, description), as the NBD client of virt-launcher describes them.
Map = list[tuple[int, str]]
_FLAGS = {"data": 0, "clean": 0, "hole": 1, "dirty": 1, "zero": 2, "hole,zero": 3, "dirty,zero": 3}


class ExportServer(Double):
    """The server of one disk.

    Args:
        disk: The disk.
        map: Its extents.

    Attributes:
        before: Called before each reply, with the number of the request, from 1: it may wait, or
            raise `UnavailableError`, as when the pod of the VM is not connected.
        cuts: For the first replies with data, how many bytes are sent before the connection breaks.
        readable: The connection breaks before the byte at this offset, each time.
        largest_page: Most extents of one reply, whatever was asked for.
        released: For tests that let `before` wait.
        extra: What is sent after the data, which the real one never does.
    """

    def __init__(self, disk: bytes, map: Map) -> None:  # noqa: A002
        super().__init__(_Handler, tls=True)
        self.disk = disk
        self.map = map
        self.before: Callable[[int], None] = lambda _: None
        self.cuts: list[int] = []
        self.readable = len(disk)
        self.largest_page = 10**6
        self.released = threading.Event()
        self.extra = b""
        self.map_url = self.url("/backups/vm/exports/rootdisk/map")
        self.data_url = self.url("/backups/vm/exports/rootdisk/data")

    def page(self, offset: int, length: int, page_size: int) -> dict[str, object]:
        """A part of the map, which begins anew at the offset."""
        end = min(offset + length, len(self.disk)) if length else len(self.disk)
        extents: list[dict[str, object]] = []
        start = 0
        for size, description in self.map:
            first, last = max(start, offset), min(start + size, end)
            start += size
            if first >= last:
                continue
            if len(extents) == page_size:
                return {"extents": extents, "next_offset": first}
            extents.append(
                {
                    "offset": first,
                    "length": last - first,
                    "type": _FLAGS[description],
                    "description": description,
                }
            )
        return {"extents": extents, "next_offset": None}


class UnavailableError(Exception):
    """Answer 503."""


class _Handler(Handler):
    server: ExportServer

    def answer_get(self) -> None:
        if self.headers.get("x-kubevirt-export-token") != TOKEN:
            self.send(401, b"", {})
            return
        try:
            self.server.before(len(self.server.requests))
        except UnavailableError:
            self._error(503, "Backup source not connected")
            return
        url = urlsplit(self.path)
        query = {key: int(value) for key, value in parse_qsl(url.query)}
        offset, length = query.get("offset", 0), query.get("length", 0)
        if url.path.endswith("/map"):
            if offset >= len(self.server.disk):
                self._error(500, "Failed to collect map extents for export: vda")
                return
            most = self.server.largest_page
            page = self.server.page(offset, length, min(query.get("page_size", 512), most))
            self.send(200, to_json(page) + b"\n", {"Content-Type": "application/json"})
        elif url.path.endswith("/data"):
            self._data(offset, length)
        else:
            self._error(404, "404 page not found")

    def _data(self, offset: int, length: int) -> None:
        if offset >= len(self.server.disk):
            self._abort()  # what Go does if it is to panic before anything was sent
        end = min(offset + length, len(self.server.disk)) if length else len(self.server.disk)
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        if end > self.server.readable:
            cut = max(0, self.server.readable - offset)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(offset, end if cut is None else min(end, offset + cut), CHUNK):
            stop = min(start + CHUNK, end if cut is None else offset + cut)
            self._chunk(self.server.disk[start:stop])
        if cut is not None:
            self._abort()
        if self.server.extra:
            self._chunk(self.server.extra)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _abort(self) -> NoReturn:
        raise http.client.HTTPException("abort")  # the server closes the connection

    def _error(self, status: int, message: str) -> None:
        headers = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
        self.send(status, f"{message}\n".encode(), headers)
