"""tapestream."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.model import Job
from tapestream import (
    DiscardSink,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSource,
    TarStreamSink,
    TarStreamSource,
    compare,
    copy,
    merge_chain,
    restore_chain,
    verify,
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


def read_tar(job: Job) -> None:
    with TarStreamSource(job.source, **job.options) as source:
        copy(source, DiscardSink())


def verify_tar(job: Job) -> None:
    with TarStreamSource(job.source) as source:
        assert verify(source).ok


def compare_with_transfer(job: Job) -> None:
    with (
        TarStreamSource(job.source) as tar,
        ImageioHTTPSource(job.url, **_connection(job)) as transfer,
    ):
        assert compare(tar, transfer).equal


def hash_disk(job: Job) -> None:
    with ImageioHTTPSource(job.url, **_connection(job)) as source:
        found = copy(source, DiscardSink(), block_hash=True).block_hash
    assert found is not None
    Path(job.target).write_text(found.checksum)


def ask_server(job: Job) -> None:
    with ImageioHTTPSource(job.url, **_connection(job)) as source:
        Path(job.target).write_text(source.block_hash().checksum)


def restore_all(job: Job) -> None:
    with ExitStack() as stack, ImageioUploadSink(job.url, **_connection(job)) as sink:
        restore_chain(_chain(job, stack), sink, **job.options)


def restore_each(job: Job) -> None:
    """One copy for each backup of the chain, oldest first."""
    for tar in _tars(job):
        with (
            TarStreamSource(tar) as source,
            ImageioUploadSink(job.url, **_connection(job)) as sink,
        ):
            copy(source, sink)


def merge(job: Job) -> None:
    with ExitStack() as stack, TarStreamSink(job.target) as sink:
        copy(merge_chain(_chain(job, stack)), sink)


def _chain(job: Job, stack: ExitStack) -> list[TarStreamSource]:
    return [stack.enter_context(TarStreamSource(tar)) for tar in _tars(job)]


def _tars(job: Job) -> list[Path]:
    return sorted(Path(job.source).iterdir())


def _connection(job: Job) -> dict[str, Any]:
    return {
        "cafile": job.cafile or None,
        "secure": bool(job.cafile),
        "use_unix_socket": bool(job.unix_socket),
    }
