"""Tables and long lines for people: on a terminal no wider than it is."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO

from .. import _table
from .._readable import columns_of, printable

__all__ = ["printable", "table", "terminal_width", "wrapped"]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table. On a terminal, it is made to fit; anywhere else, it is whole."""
    return _table.table(headings, rows, terminal_width() if sys.stdout.isatty() else None)


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
