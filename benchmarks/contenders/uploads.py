"""What oVirt's own client library offers for a restore."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

from ovirt_imageio import client

from benchmarks.contenders.imageio import connect, stay_with_tls

if TYPE_CHECKING:
    from benchmarks.model import Job


def stream(job: Job) -> None:
    """A single connection, one PUT per member of our tar, one zero request per hole."""
    stay_with_tls(job)
    with (
        connect(job) as connection,
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


def upload(job: Job) -> None:
    stay_with_tls(job)
    client.upload(job.source, job.url, job.cafile, **job.options)
