"""Restores with tapestream, and chains of backups."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders.ours import connection
from tapestream import (
    ImageioUploadSink,
    TarStreamSink,
    TarStreamSource,
    copy,
    merge_chain,
    restore_chain,
)

if TYPE_CHECKING:
    from benchmarks.model import Job


def restore(job: Job) -> None:
    with (
        TarStreamSource(job.source) as source,
        ImageioUploadSink(job.url, **connection(job), **job.options) as sink,
    ):
        copy(source, sink)


def restore_all(job: Job) -> None:
    with ExitStack() as stack, ImageioUploadSink(job.url, **connection(job)) as sink:
        restore_chain(_chain(job, stack), sink, **job.options)


def restore_each(job: Job) -> None:
    """One copy for each backup of the chain, oldest first."""
    for tar in _tars(job):
        with (
            TarStreamSource(tar) as source,
            ImageioUploadSink(job.url, **connection(job)) as sink,
        ):
            copy(source, sink)


def merge(job: Job) -> None:
    with ExitStack() as stack, TarStreamSink(job.target) as sink:
        copy(merge_chain(_chain(job, stack)), sink)


def _chain(job: Job, stack: ExitStack) -> list[TarStreamSource]:
    return [stack.enter_context(TarStreamSource(tar)) for tar in _tars(job)]


def _tars(job: Job) -> list[Path]:
    return sorted(Path(job.source).iterdir())
