"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: the headings, and the rows.

    Numbers stand on the right of their column: a heading that begins with ">" says so. Columns are
    as wide as what is in them, so the last one should be the one with the longest text.
    """
    names = [heading.lstrip(">") for heading in headings]
    lines = [names, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if heading.startswith(">") else cell.ljust(width)
            for cell, width, heading in zip(line, widths, headings, strict=True)
        ).rstrip()
        for line in lines
    ]
