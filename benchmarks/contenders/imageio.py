"""What oVirt's own client library offers."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from unittest import mock

from ovirt_imageio import client
from ovirt_imageio._internal.backends import http

from benchmarks.model import Job


def stream(job: Job) -> None:
    """A single connection, one GET per data extent, straight into a file."""
    _stay_with_tls(job)
    with (
        _connect(job) as connection,
        Path(job.target).open("wb", buffering=0) as out,
    ):
        for extent in connection.extents("zero"):
            if not extent.zero:
                out.seek(extent.start)
                connection.write_to(out, extent.start, extent.length)


def stream_upload(job: Job) -> None:
    """A single connection, one PUT per member of our tar, one zero request per hole."""
    _stay_with_tls(job)
    with (
        _connect(job) as connection,
        tarfile.open(job.source) as tar,
    ):
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None
            if member.name == "extents.json":
                for extent in json.load(data):
                    if extent["zero"]:
                        connection.zero(extent["start"], extent["length"])
            elif member.name.startswith("extent-"):
                connection.read_from(data, int(member.name.partition("@")[2]), member.size)
        connection.flush()


def download(job: Job) -> None:
    _stay_with_tls(job)
    client.download(job.url, job.target, job.cafile)


def upload(job: Job) -> None:
    _stay_with_tls(job)
    client.upload(job.source, job.url, job.cafile, **job.options)


def checksum(job: Job) -> None:
    """The block hash of a local image."""
    Path(job.target).write_text(client.checksum(job.source)["checksum"])


def _connect(job: Job) -> client.ImageioClient:
    return client.ImageioClient(job.url, cafile=job.cafile or None, secure=bool(job.cafile))


def _stay_with_tls(job: Job) -> None:
    # The client switches to the unix socket of a server on its own host, and has no option not
    # to. This process ends with the job: nobody wants the method back.
    if not job.unix_socket:
        mock.patch.object(http.Backend, "_optimize_connection").start()
