"""A backup with tapestream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tapestream import ImageioHTTPSource, TarStreamSink, copy

if TYPE_CHECKING:
    from benchmarks.model import Job


def backup(job: Job) -> None:
    options = dict(job.options)
    checksum = options.pop("checksum", "sha256")
    with (
        ImageioHTTPSource(job.url, **connection(job)) as source,
        TarStreamSink(job.target, checksum=checksum) as sink,
    ):
        copy(source, sink, **options)


def connection(job: Job) -> dict[str, Any]:
    """The options for the way to the server."""
    return {
        "cafile": job.cafile or None,
        "secure": bool(job.cafile),
        "use_unix_socket": bool(job.unix_socket),
    }
