"""What oVirt's own client library offers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ovirt_imageio import client
from ovirt_imageio._internal.backends import http

if TYPE_CHECKING:
    from benchmarks.model import Job


def stream(job: Job) -> None:
    """A single connection, one GET per data extent, straight into a file."""
    stay_with_tls(job)
    with (
        connect(job) as connection,
        Path(job.target).open("wb", buffering=0) as out,
    ):
        for extent in connection.extents("zero"):
            if not extent.zero:
                out.seek(extent.start)
                connection.write_to(out, extent.start, extent.length)


def download(job: Job) -> None:
    stay_with_tls(job)
    client.download(job.url, job.target, job.cafile)


def checksum(job: Job) -> None:
    """The block hash of a local image."""
    Path(job.target).write_text(client.checksum(job.source)["checksum"])


def connect(job: Job) -> client.ImageioClient:
    return client.ImageioClient(job.url, cafile=job.cafile or None, secure=bool(job.cafile))


def stay_with_tls(job: Job) -> None:
    # The client switches to the unix socket of a server on its own host, and has no option not
    # to. This process ends with the job: nobody wants the method back.
    if not job.unix_socket:
        http.Backend._optimize_connection = lambda *_: None  # noqa: SLF001
