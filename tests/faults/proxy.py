"""A TCP proxy in front of the daemon: what happens on the way."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

from typing_extensions import Self

PIECE = 64 * 1024
# How long one byte takes while the line drips.
DRIP = 0.02


class Proxy:
    """Passes bytes on, until told otherwise.

    Args:
        upstream: The port to pass them on to; asked anew for each connection.
    """

    def __init__(self, upstream: Callable[[], int]) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stalled_until = self._dripping_until = self._refusing_until = 0.0
        self._corrupt = False
        threading.Thread(target=self._serve, daemon=True, name="proxy").start()

    def cut(self, *, reset: bool = False) -> None:
        """Close every connection."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    if reset:
                        sock.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                    sock.shutdown(socket.SHUT_RDWR)

    def refuse(self, seconds: float) -> None:
        """Close every connection, and each new one for so long."""
        self._refusing_until = time.monotonic() + seconds
        self.cut(reset=True)

    def stall(self, seconds: float) -> None:
        """Pass nothing on for so long."""
        self._stalled_until = time.monotonic() + seconds

    def drip(self, seconds: float) -> None:
        """Pass single bytes on for so long."""
        self._dripping_until = time.monotonic() + seconds

    def corrupt(self) -> None:
        """Change one byte of the next piece that the server sends."""
        self._corrupt = True

    def heal(self) -> None:
        """Pass everything on again."""
        self._stalled_until = self._dripping_until = self._refusing_until = 0.0
        self._corrupt = False

    def close(self) -> None:
        """End."""
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if time.monotonic() < self._refusing_until:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._upstream()), timeout=5)
                server.settimeout(None)
            except (OSError, RuntimeError):  # RuntimeError: there is no daemon now
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for a, b, is_reply in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(a, b, is_reply), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE):
                while time.monotonic() < self._stalled_until:
                    time.sleep(0.01)
                if is_reply and self._corrupt:
                    self._corrupt = False
                    data = (
                        bytes([data[0] ^ 0x55]) + data[1:]
                        if len(data) < 8
                        else (
                            data[: len(data) // 2]
                            + bytes([data[len(data) // 2] ^ 0x55])
                            + data[len(data) // 2 + 1 :]
                        )
                    )
                self._send(target, data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            # Whichever of the two threads is last closes both.
            for sock in (source, target):
                if sock in self._open:
                    self._open.discard(sock)
                else:
                    sock.close()

    def _send(self, target: socket.socket, data: bytes) -> None:
        while data and time.monotonic() < self._dripping_until:
            target.sendall(data[:1])
            data = data[1:]
            time.sleep(DRIP)
        if data:
            target.sendall(data)
