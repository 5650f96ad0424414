"""A copy that keeps its source and sink alive more often than `copy` does."""

from __future__ import annotations

from typing_extensions import Unpack

from tapestream import CopyResult, Sink, Source
from tapestream.engine.copy import copying, transfer
from tapestream.engine.keepalive import PATIENCE
from tapestream.engine.options import CopyKeywords, CopyOptions


def copy_kept_alive(
    src: Source,
    dst: Sink,
    *,
    interval: float,
    patience: float = PATIENCE,
    **options: Unpack[CopyKeywords],
) -> CopyResult:
    cancel = options.get("cancel")
    with copying(src, dst, cancel=cancel, interval=interval, patience=patience) as run:
        return transfer(src, dst, CopyOptions.of(options), run)
