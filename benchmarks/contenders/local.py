"""A local image into a tar: without a server, and without the modules that talk to one."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tapestream import RawImageSource, TarStreamSink, copy

if TYPE_CHECKING:
    from benchmarks.model import Job


def pipe(job: Job) -> None:
    """Through a pipe, as GNU tar."""
    with (
        open(job.target, "wb") as out,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out) as cat,
        RawImageSource(job.source) as source,
    ):
        assert cat.stdin is not None
        with cat.stdin, TarStreamSink(cat.stdin, **job.options) as sink:
            copy(source, sink)
