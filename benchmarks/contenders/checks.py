"""What tapestream reads without a tar to write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders.ours import connection
from tapestream import (
    DiscardSink,
    ImageioHTTPSource,
    TarStreamSource,
    compare,
    copy,
    verify,
)

if TYPE_CHECKING:
    from benchmarks.model import Job


def read_tar(job: Job) -> None:
    with TarStreamSource(job.source, **job.options) as source:
        copy(source, DiscardSink())


def verify_tar(job: Job) -> None:
    with TarStreamSource(job.source) as source:
        assert verify(source).ok


def compare_with_transfer(job: Job) -> None:
    with (
        TarStreamSource(job.source) as tar,
        ImageioHTTPSource(job.url, **connection(job)) as transfer,
    ):
        assert compare(tar, transfer).equal


def hash_disk(job: Job) -> None:
    with ImageioHTTPSource(job.url, **connection(job)) as source:
        found = copy(source, DiscardSink(), block_hash=True).block_hash
    assert found is not None
    Path(job.target).write_text(found.checksum)


def ask_server(job: Job) -> None:
    with ImageioHTTPSource(job.url, **connection(job)) as source:
        Path(job.target).write_text(source.block_hash().checksum)
