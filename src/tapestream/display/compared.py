"""`CompareReport`: are two disks equal, and where do they differ?"""

from __future__ import annotations

import tapestream

from .._readable import count_text, size_text
from .card import Card, Facts, Fold, Notes, Table
from .strip import Strip, bad_layer, shares_of

# Stretches that are listed, and that the text has.
_ROWS = 20
_STRETCHES = 5


def show(report: tapestream.CompareReport) -> Card:
    """Show the verdict first, then where the disks differ."""
    differing = sum(length for _, length in report.differing)
    rows = tuple((f"{start:,}", f"{length:,}") for start, length in report.differing[:_ROWS])
    table = Table((">start", ">length"), rows, of=len(report.differing))
    in_text = [f"{length} bytes at {start}" for start, length in report.differing[:_STRETCHES]]
    if len(report.differing) > _STRETCHES:
        in_text.append(f"and {len(report.differing) - _STRETCHES:,} more")
    count = count_text(len(report.differing), "place")
    verdict = "equal" if report.equal else f"different: {size_text(differing)} in {count}"
    return Card(
        "Compared",
        verdict,
        (
            differences(report),
            Facts((("compared", size_text(report.compared)),)),
            Fold(
                f"different, in blocks of 1 MiB: {count}",
                (table,) if rows else (),
                (Notes(tuple(in_text)),),
            ),
        ),
        good=report.equal,
    )


def differences(report: tapestream.CompareReport) -> Strip:
    """The map of what differs; none if nothing does."""
    if report.equal:
        return Strip(0, ())
    size = max([report.size, *(start + length for start, length in report.differing)])
    shares = shares_of(report.differing, size)
    return Strip(size, (bad_layer("different", shares, mark="x"),), "equal, or not compared")
