"""A source for a disk of a KubeVirt VM, and an example of a backend. docs/servers.md shows its use.

The status of a `VirtualMachineBackup` with `mode: Pull` names two endpoints for each disk:

    GET mapEndpoint?offset=O             -> {"extents": [{"offset": O, "length": N,
                                             "description": "data"}, ...], "next_offset": O or null}
    GET dataEndpoint?offset=O&length=N   -> N bytes, chunked
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import Event
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

from tapestream import BackupInfo, Extent, Extents, Reader, Source
from tapestream.errors import ExtentsError, ServerError, ServerProtocolError, TicketError

T = TypeVar("T")
# What a map calls an extent, by context. In an incremental backup, "zero" alone is clean, too.
NAMES = {
    "zero": ("data", "hole", "zero", "hole,zero"),
    "dirty": ("clean", "dirty", "zero", "dirty,zero"),
}


class Endpoint(Reader):
    """An endpoint, with one connection. The endpoint of the data is used as a reader."""

    pauses: tuple[float, ...] = (0.1, 1, 5, 10, 30)  # seconds before each retry

    def __init__(self, url: str, token: str, tls: ssl.SSLContext) -> None:
        self.url, self.token = urlsplit(url), token
        self.tls = tls
        self.http = HTTPConnection(self.url.hostname or "", self.url.port or 443)
        self.cancelled = Event()

    def get(self, read: Callable[[HTTPResponse], T], **query: int) -> T:
        """Call `read` with a reply; retry if it breaks, or while the pod is replaced."""
        path = f"{self.url.path}?{urlencode(query)}"
        pauses = iter(self.pauses)
        while True:
            try:
                self.connect()
                self.http.request("GET", path, headers={"x-kubevirt-export-token": self.token})
                with self.http.getresponse() as reply:
                    if reply.status == 200:
                        return read(reply)
                    text = reply.read(500).decode(errors="replace").strip()
                    what = f"{self.url.geturl()}: {reply.status} {text}"
                    if reply.status == 401:
                        raise TicketError(what, hint="Check the token.")
                    error = ServerError(what, status=reply.status)
            except (OSError, HTTPException) as e:
                error = ServerError(f"{self.url.geturl()}: {e!r}")
            self.http.close()
            pause = next(pauses, None)
            if pause is None or not error.is_transient or self.cancelled.wait(pause):
                raise error

    def connect(self) -> None:
        """Connect, if necessary; `cancel` can shut down the socket before the TLS handshake."""
        if self.http.sock is None:
            tcp = socket.create_connection((self.http.host, self.http.port), timeout=60)
            self.http.sock = self.tls.wrap_socket(
                tcp, server_hostname=self.http.host, do_handshake_on_connect=False
            )
        if self.cancelled.is_set():
            raise OSError("cancelled")

    def readinto(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""

        def fill(reply: HTTPResponse) -> None:
            at = 0
            while at < len(buffer) and (count := reply.readinto(buffer[at:])):
                at += count
            if at < len(buffer) or reply.read(1):
                raise ServerProtocolError(
                    f"{self.url.geturl()} sent more or less than was requested"
                )

        self.get(fill, offset=start, length=len(buffer))

    def cancel(self) -> None:
        """End a call in another thread that waits for the server."""
        self.cancelled.set()
        sock: socket.socket | None = self.http.sock
        if sock is not None:
            with suppress(OSError):  # it is disconnected already
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self.http.close()


class KubeVirtSource(Source):
    """A disk of a backup in pull mode.

    Args:
        map_url: The `mapEndpoint` of the disk.
        data_url: The `dataEndpoint` of the disk.
        token: The token in the secret that `tokenSecretRef` names.
        cafile: A file with the CA in `endpointCert`.
        info: What is known about the backup. Its context must be "dirty" if the status has the type
            "Incremental", and "zero" if it has "Full".
    """

    info = BackupInfo()
    max_readers = 4
    sequential = False

    def __init__(
        self, map_url: str, data_url: str, token: str, *, cafile: str, info: BackupInfo
    ) -> None:
        self.info = info
        tls = ssl.create_default_context(cafile=cafile)
        self.map = Endpoint(map_url, token, tls)
        self.new_reader: Callable[[], Reader] = lambda: Endpoint(data_url, token, tls)

    def extents(self) -> Extents:
        """Get the whole map."""
        found: list[Extent] = []
        following: int | None = 0
        while following is not None:
            offset = following
            page, following = self.map.get(self.page, offset=offset, page_size=10_000)
            found += page
            if following is not None and following <= offset:
                raise ServerProtocolError(f"{self.map.url.geturl()} lists the same extents again")
        extents = Extents.of(found, context=self.info.context)
        self.info = replace(self.info, size=extents.size)
        return extents

    def page(self, reply: HTTPResponse) -> tuple[list[Extent], int | None]:
        """A part of the map, and the offset of the next part."""
        try:
            page = json.load(reply)
            return [self.extent(**extent) for extent in page["extents"]], page["next_offset"]
        except (ValueError, TypeError, KeyError) as e:
            raise ServerProtocolError(f"{self.map.url.geturl()} sent no map: {e!r}") from e

    def extent(self, offset: int, length: int, description: str, **_: object) -> Extent:
        """An extent of the map."""
        context, words = self.info.context, description.split(",")
        if description not in NAMES[context]:
            raise ExtentsError(
                f"no extent in context {context!r} is {description!r}",
                hint="Pass an info with the context that matches the type in the backup's status.",
            )
        dirty = "dirty" in words if context == "dirty" else None
        return Extent(offset, length, zero="zero" in words, dirty=dirty)

    def open_reader(self) -> Reader:
        """Open a connection for data."""
        return self.new_reader()

    def cancel(self) -> None:
        """End an `extents` in another thread that waits for the server."""
        self.map.cancel()

    def close(self) -> None:
        """Close the connection for the map."""
        self.map.close()
