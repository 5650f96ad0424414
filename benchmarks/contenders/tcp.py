"""One TCP connection, with nothing but bytes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from benchmarks.model import Job


def line(job: Job) -> None:
    """What the line gives."""
    buffer = bytearray(2**20)
    url = urlsplit(job.url)
    with socket.create_connection((url.hostname, url.port)) as connection:
        while connection.recv_into(buffer):
            pass
