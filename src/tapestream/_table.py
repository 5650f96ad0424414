"""Tables for people: aligned by the columns of a terminal, which some characters take two of."""

from __future__ import annotations

from collections.abc import Sequence

from ._readable import columns_of, printable

# Columns of the terminal that a column of the table keeps at least.
_LEAST = 8


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None
) -> list[str]:
    """The lines of a table: the headings, and the rows.

    A heading that begins with ">" is that of numbers: they stand on the right of their column. One
    that ends with "~" is that of names: their middle is left out until the table is no wider than
    `width`. Nothing is left out if that is None.
    """
    names = [heading.strip(">~") for heading in headings]
    lines = [names, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(columns_of, column)) for column in zip(*lines, strict=True)]
    if width is not None:
        _fit(widths, [i for i, heading in enumerate(headings) if heading.endswith("~")], width)
    return [
        "  ".join(
            _aligned(cell, width, right=heading.startswith(">"))
            for cell, width, heading in zip(line, widths, headings, strict=True)
        ).rstrip()
        for line in lines
    ]


def _fit(widths: list[int], flexible: Sequence[int], width: int) -> None:
    """Make the widest of the flexible columns narrower, until the table fits."""
    while sum(widths) + 2 * (len(widths) - 1) > width:
        widest = max(flexible, key=widths.__getitem__, default=0)
        if widths[widest] <= _LEAST:
            return
        widths[widest] -= 1


def _aligned(cell: str, width: int, *, right: bool) -> str:
    if columns_of(cell) > width:
        cell = _cut(cell, width)
    space = " " * (width - columns_of(cell))
    return space + cell if right else cell + space


def _cut(cell: str, width: int) -> str:
    """Leave out the middle: names often differ only at their ends."""
    half = (width - 1) // 2
    return f"{_beginning(cell, width - 1 - half)}~{_beginning(cell[::-1], half)[::-1]}"


def _beginning(text: str, width: int) -> str:
    """As much of the beginning as fits, filled with spaces."""
    while columns_of(text) > width:
        text = text[:-1]
    return text + " " * (width - columns_of(text))
