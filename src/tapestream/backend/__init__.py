"""What a backend is: the core protocols, optional abilities, and wrappers that keep all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .abilities import (
        Cancels,
        ChecksEnd,
        ChecksItself,
        CoalescesZeros,
        Digests,
        FindsMissing,
        Flushes,
        HasDigests,
        Hash,
        HasLocalServer,
        HasPieceSize,
        HasPlace,
        HasReadOrder,
        HasShapes,
        HoldsDevice,
        KeepsAlive,
        LendsMemory,
        LosesWrites,
        Prefetches,
        Rewinds,
        Salvages,
        Shape,
        SkipsGaps,
        Streams,
        TakesDigests,
        Wraps,
        ability,
    )
    from .forwarding import ForwardingReader, ForwardingSink, ForwardingSource, ForwardingWriter
    from .protocols import Reader, Sink, SinkLike, Source, SourceLike, Writer
else:
    # The same names once more; tests/test_names.py compares them.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            ".abilities": "Cancels ChecksEnd ChecksItself CoalescesZeros Digests FindsMissing "
            "Flushes HasDigests Hash HasLocalServer HasPieceSize HasPlace HasReadOrder HasShapes "
            "HoldsDevice KeepsAlive LendsMemory LosesWrites Prefetches Rewinds Salvages Shape "
            "SkipsGaps Streams TakesDigests Wraps ability",
            ".forwarding": "ForwardingReader ForwardingSink ForwardingSource ForwardingWriter",
            ".protocols": "Reader Sink SinkLike Source SourceLike Writer",
        },
    )

__all__ = [
    "Cancels",
    "ChecksEnd",
    "ChecksItself",
    "CoalescesZeros",
    "Digests",
    "FindsMissing",
    "Flushes",
    "ForwardingReader",
    "ForwardingSink",
    "ForwardingSource",
    "ForwardingWriter",
    "HasDigests",
    "HasLocalServer",
    "HasPieceSize",
    "HasPlace",
    "HasReadOrder",
    "HasShapes",
    "Hash",
    "HoldsDevice",
    "KeepsAlive",
    "LendsMemory",
    "LosesWrites",
    "Prefetches",
    "Reader",
    "Rewinds",
    "Salvages",
    "Shape",
    "Sink",
    "SinkLike",
    "SkipsGaps",
    "Source",
    "SourceLike",
    "Streams",
    "TakesDigests",
    "Wraps",
    "Writer",
    "ability",
]
