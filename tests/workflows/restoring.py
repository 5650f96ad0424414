"""Restores of chains from sources of many kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapestream import Source, restore_chain
from tapestream.testing.memory import MemorySink
from tests.chains import WEEK

SMALL: Any = {"buffer_size": 4096, "buffer_memory": 16384}
THREE = WEEK[-1].disk


def restored(sources: Sequence[Source], sink: MemorySink | None = None, **options: Any) -> bytes:
    """The disk out of a chain."""
    sink = sink or MemorySink()
    restore_chain(sources, sink, **{**SMALL, **options})
    assert sink.state == "committed"
    return bytes(sink.disk)
