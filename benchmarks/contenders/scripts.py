"""Scripts as a user writes them: those of a small incremental backup, and imports alone."""

from __future__ import annotations

import sys

from benchmarks.model import Job

# What one writes with imageio's own client: a request for each dirty extent, into a sparse file.
CLIENT = """\
import sys
from ovirt_imageio import client
from ovirt_imageio._internal.backends import http

url, cafile, unix_socket, target = sys.argv[1:]
if not unix_socket:  # the client has no option to stay with TLS on the server's own host
    http.Backend._optimize_connection = lambda self, path: None
with (
    client.ImageioClient(url, cafile=cafile) as connection,
    open(target, "wb", buffering=0) as out,
):
    size = 0
    for extent in connection.extents("dirty"):
        if extent.dirty:
            out.seek(extent.start)
            connection.write_to(out, extent.start, extent.length)
        size = extent.start + extent.length
    out.truncate(size)
"""

# The same with tapestream: a tar, with a digest of the data.
OURS = """\
import sys
from tapestream import ImageioHTTPSource, TarStreamSink, copy

url, cafile, unix_socket, target = sys.argv[1:]
with (
    ImageioHTTPSource(
        url, context="dirty", cafile=cafile, use_unix_socket=bool(unix_socket)
    ) as source,
    TarStreamSink(target) as sink,
):
    copy(source, sink)
"""


def imageio(job: Job) -> list[str]:
    return _command(CLIENT, job)


def ours(job: Job) -> list[str]:
    return _command(OURS, job)


def code(job: Job) -> list[str]:
    """Some code as it is, such as an import."""
    return [sys.executable, "-c", job.options["code"]]


def _command(script: str, job: Job) -> list[str]:
    return [sys.executable, "-c", script, job.url, job.cafile, job.unix_socket, job.target]
