"""A line of 1 Gbit/s between two network namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.model import MIB
from tapestream.testing import ImageioDaemon

RATE = "1gbit"
# Ethernet counts 1514 bytes of a packet that has 1448 bytes of TCP payload.
PAYLOAD_RATE = 1e9 / 8 * 1448 / 1514
SERVER, CLIENT = "10.99.0.1", "10.99.0.2"

_CLONE_NEWNET = 0x40000000


def missing() -> str:
    """What is missing to make the line; "" if nothing is."""
    if os.geteuid() != 0:
        return "root"
    return next((tool for tool in ("ip", "tc") if shutil.which(tool) is None), "")


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Make the namespaces of the server and of the client, and the line between them."""
    names = [f"tapestream-{os.getpid()}-{end}" for end in ("server", "client")]
    with contextlib.ExitStack() as stack:
        for name in names:
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "delete", name)
        # Made inside of the namespaces, so that nothing of it is ever seen outside.
        server, client = names
        _run(
            *("ip", "-n", server, "link", "add", "line0", "type", "veth"),
            *("peer", "name", "line1", "netns", client),
        )
        for name, device, address in ((server, "line0", SERVER), (client, "line1", CLIENT)):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", device)
            _run("ip", "-n", name, "link", "set", device, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run(
                *("tc", "-n", name, "qdisc", "add", "dev", device, "root"),
                *("tbf", "rate", RATE, "burst", "128kb", "latency", "20ms"),
            )
        yield server, client


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """What this thread starts, or listens on, is in that namespace."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(fd: int) -> None:
        if libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(home.fileno())


class LineDaemon(ImageioDaemon):
    """Listens on all addresses of its namespace; its certificate is for 127.0.0.1 all the same."""

    def _write_config(self, sections: dict[str, dict[str, str]]) -> None:
        sections["remote"]["host"] = "0.0.0.0"
        super()._write_config(sections)


@contextlib.contextmanager
def plain_server(size: int) -> Iterator[str]:
    """Give whoever connects so many bytes: what the line can carry. Yields tcp://HOST:PORT."""
    with socket.create_server((SERVER, 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, size), daemon=True)
        thread.start()
        yield f"tcp://{SERVER}:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(server: socket.socket, size: int) -> None:
    with contextlib.suppress(OSError):  # shut down: no more clients
        while True:
            connection, _ = server.accept()
            with connection:
                for done in range(0, size, MIB):
                    connection.sendall(bytes(min(MIB, size - done)))


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)
