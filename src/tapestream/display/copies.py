"""`CopyResult`: what a copy did, and how fast."""

from __future__ import annotations

import tapestream

from .._readable import count_text, kind_text, rate_text, seconds_text, size_text
from .card import Card, Facts, Part, fold_of_facts
from .curve import Curve
from .tapes import places_of


def show(result: tapestream.CopyResult) -> Card:
    """Show how much was copied, and the rate over time."""
    extra = result.read_bytes - result.data_bytes
    waits = f"{count_text(result.underruns, 'time')}, {seconds_text(result.stalled)} in all"
    extents = count_text(result.data_extents, "extent")
    facts = Facts(
        (
            (
                "data",
                f"{size_text(result.data_bytes)} in {extents}",
            ),
            ("zeros", f"{size_text(result.zero_bytes)}, not copied" if result.zero_bytes else None),
            ("read in gaps", f"{size_text(extra)}, dropped" if extra > 0 else None),
            ("waited", waits if result.underruns else None),
            ("verified", f"all data matches its {result.verified}" if result.verified else None),
        )
    )
    parts: list[Part] = [Curve(result.samples), facts]
    if isinstance(result.receipt, tapestream.tape.TapeReport):
        parts.append(places_of(result.receipt))
    hashed = result.block_hash
    parts.append(
        fold_of_facts(
            "more",
            (
                ("size of the disk", size_text(result.size)),
                ("context", result.context),
                ("extents", f"{result.extents:,}"),
                ("requests", f"{result.requests:,}"),
                ("digest", result.checksum),
                ("block hash", f"{hashed.checksum[:32]}..." if hashed else None),
            ),
        )
    )
    kind = kind_text(result.context)
    return Card(
        "Copied",
        f"{size_text(result.data_bytes)} of {size_text(result.size)} ({kind}) in "
        f"{seconds_text(result.seconds)}, {rate_text(result.rate)}",
        tuple(parts),
    )
