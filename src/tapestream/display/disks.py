"""`Extents`: what of a disk is used."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import tapestream

from .._readable import count_text, size_text
from .card import Card, Facts, Fold, Table
from .strip import PARTS, Strip, clean_layer, data_layer

DATA, ZERO, CLEAN = tapestream.Kind.DATA, tapestream.Kind.ZERO, tapestream.Kind.CLEAN
# Extents that a fold lists.
_ROWS = 20


def show(extents: tapestream.Extents) -> Card:
    """Show the map of the disk, and how much of it is of each kind."""
    data = extents.tally(DATA)
    percent = f" ({_percent(data.bytes / extents.size)})" if extents.size else ""
    return Card(
        "Extents",
        f"{size_text(data.bytes)} of {size_text(extents.size)} are data{percent}, "
        f"in {data.extents:,} of {count_text(len(extents), 'extent')}",
        (strip_of(extents), _totals(extents), _sizes(extents), _first(extents)),
    )


def _percent(share: float) -> str:
    """A share of the disk. Only none is shown as "0.0 %", and only all as "100.0 %"."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{min(100 * share, 99.9 if share < 1 else 100):.1f} %"


def strip_of(extents: tapestream.Extents) -> Strip:
    """The map of a disk."""
    layers = (
        data_layer(extents.shares(DATA, PARTS)),
        clean_layer(extents.shares(CLEAN, PARTS)),
    )
    return Strip(extents.size, layers, "zeros" if extents.tally(ZERO).extents else "")


def _totals(extents: tapestream.Extents) -> Facts:
    names = {DATA: "data", ZERO: "zeros", CLEAN: "unchanged"}
    tallies = {name: extents.tally(kind) for kind, name in names.items()}
    return Facts(
        tuple(
            (name, f"{size_text(tally.bytes)} in {count_text(tally.extents, 'extent')}")
            for name, tally in tallies.items()
            if tally.extents
        )
    )


def _sizes(extents: tapestream.Extents) -> Fold:
    """How large the data extents are, which decides how fast a copy can be."""
    counts = Counter(map(int.bit_length, extents.lengths(DATA)))
    rows = tuple(
        (f"{size_text(2 ** (bits - 1))} and more", f"{counts[bits]:,}") for bits in sorted(counts)
    )
    largest = size_text(max(extents.lengths(DATA), default=0))
    table = Table(("size of a data extent", ">extents"), rows)
    return Fold(f"sizes of the data extents; the largest has {largest}", (table,) if rows else ())


def _first(extents: tapestream.Extents) -> Fold:
    rows = tuple(
        (f"{start:,}", f"{length:,}", kind.name.lower())
        for start, length, kind in islice(extents.runs(), _ROWS)
    )
    table = Table((">start", ">length", "kind"), rows, of=len(extents))
    return Fold("the first extents", (table,) if rows else ())
