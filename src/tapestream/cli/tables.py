"""Tables for people: aligned, and on a terminal no wider than it is."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO

from .._readable import columns_of, printable

__all__ = ["printable", "table", "terminal_width", "wrapped"]

# Columns of the terminal that a column of the table keeps at least.
_LEAST = 8


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: the headings, and the rows.

    A heading that begins with ">" is that of numbers: they stand on the right of their column. One
    that ends with "~" is that of names: on a terminal, their middle is left out until the table
    fits. Anywhere else, nothing is left out.
    """
    names = [heading.strip(">~") for heading in headings]
    lines = [names, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(columns_of, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        _fit(widths, [i for i, heading in enumerate(headings) if heading.endswith("~")])
    return [
        "  ".join(
            _aligned(cell, width, right=heading.startswith(">"))
            for cell, width, heading in zip(line, widths, headings, strict=True)
        ).rstrip()
        for line in lines
    ]


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a long line: it breaks between words. A longer word stays whole."""
    if columns_of(text) <= width:
        return [text]
    lines = [""]  # not by textwrap: it counts characters, and some take two columns
    for part in re.findall(" *[^ ]+", text):
        if lines[-1] and columns_of(lines[-1] + part) > width:
            lines.append(part.lstrip())
        else:
            lines[-1] += part
    return lines


def terminal_width(file: TextIO | None = None) -> int:
    """Columns of the terminal that a file is, by default standard output; 80 if it is none."""
    try:
        return os.get_terminal_size((file or sys.stdout).fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _fit(widths: list[int], flexible: Sequence[int]) -> None:
    """Make the widest of the flexible columns narrower, until the table fits."""
    while sum(widths) + 2 * (len(widths) - 1) > terminal_width():
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
