"""tapestream."""

from __future__ import annotations

import subprocess
from typing import Any

from benchmarks.model import Job
from tapestream import (
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSource,
    TarStreamSink,
    TarStreamSource,
    copy,
)


def backup(job: Job) -> None:
    options = dict(job.options)
    checksum = options.pop("checksum", "sha256")
    with (
        ImageioHTTPSource(job.url, **_connection(job)) as source,
        TarStreamSink(job.target, checksum=checksum) as sink,
    ):
        copy(source, sink, **options)


def restore(job: Job) -> None:
    with (
        TarStreamSource(job.source) as source,
        ImageioUploadSink(job.url, **_connection(job), **job.options) as sink,
    ):
        copy(source, sink)


def local(job: Job) -> None:
    """Through a pipe, as GNU tar."""
    with (
        open(job.target, "wb") as out,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out) as cat,
        RawImageSource(job.source) as source,
    ):
        assert cat.stdin is not None
        with cat.stdin, TarStreamSink(cat.stdin, **job.options) as sink:
            copy(source, sink)


def _connection(job: Job) -> dict[str, Any]:
    return {
        "cafile": job.cafile or None,
        "secure": bool(job.cafile),
        "use_unix_socket": bool(job.unix_socket),
    }
