"""What is shown of a value: a title, and parts that are drawn as HTML or as text.

The HTML has no style sheet, because many viewers remove it. Pictures are SVG, whose colors are
those of the page around them (`currentColor`), or can be seen on white and on black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple, Protocol

from .._readable import columns_of, printable, shortened
from .._typing import override

GOOD, BAD = "#2a9d5c", "#d9483b"
# Characters of a cell of a table, and of a sentence. Each may take six bytes as HTML.
_CELL, _NOTE = 100, 200
# Characters of the HTML of a table: rows that do not fit are left out.
_TABLE = 4000


class Page(NamedTuple):
    """Where text is shown.

    Attributes:
        width: Its columns.
        ascii_only: Draw with ASCII characters only.
    """

    width: int
    ascii_only: bool

    def drawn(self, character: str, in_ascii: str) -> str:
        """A character to draw with, or what stands for it in ASCII."""
        return in_ascii if self.ascii_only else character


class Part(Protocol):
    """A part of a card."""

    def html(self) -> str:
        """The part as HTML that is also XML."""

    def text(self, page: Page) -> list[str]:
        """The part as lines of text."""


def quoted(text: str) -> str:
    """A text as HTML; characters that XML does not allow are escaped."""
    return escape(printable(text))


@dataclass(frozen=True)
class Card:
    """A value as it is shown.

    Attributes:
        title: What it is.
        lead: The most important about it, in a few words.
        parts: All else.
        good: Whether the lead is good news; None if it is neither good nor bad.
    """

    title: str
    lead: str
    parts: tuple[Part, ...] = ()
    good: bool | None = None

    def html(self) -> str:
        """The card as HTML that is also XML."""
        lead = quoted(self.lead)
        if self.good is not None:
            lead = f'<b style="color:{GOOD if self.good else BAD}">{lead}</b>'
        parts = "".join(part.html() for part in self.parts)
        return f"<div><div><b>{quoted(self.title)}</b>: {lead}</div>{parts}</div>"

    def text(self, page: Page) -> list[str]:
        """The card as lines of text."""
        lines = [printable(f"{self.title}: {self.lead}")]
        for part in self.parts:
            lines += part.text(page)
        return lines


@dataclass(frozen=True)
class Facts(Part):
    """Names and values.

    Attributes:
        facts: The pairs; those without a value are left out.
    """

    facts: tuple[tuple[str, str | None], ...]

    @override
    def html(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{quoted(name)}</th>'
            f'<td style="text-align:left">{quoted(shortened(value, _CELL))}</td></tr>'
            for name, value in self.facts
            if value
        )
        return f"<table>{rows}</table>" if rows else ""

    @override
    def text(self, page: Page) -> list[str]:
        known = [(name, value) for name, value in self.facts if value]
        wide = max((len(name) for name, _ in known), default=0)
        return [fitted(f"  {name:{wide}}  {printable(value)}", page) for name, value in known]


@dataclass(frozen=True)
class Notes(Part):
    """Sentences.

    Attributes:
        notes: One for each line.
    """

    notes: tuple[str, ...]

    @override
    def html(self) -> str:
        return "".join(f"<div>{quoted(shortened(note, _NOTE))}</div>" for note in self.notes)

    @override
    def text(self, page: Page) -> list[str]:
        return [fitted(f"  {printable(note)}", page) for note in self.notes]


@dataclass(frozen=True)
class Table(Part):
    """Rows of cells.

    Attributes:
        headings: One for each column; ">" at its beginning is for numbers.
        rows: The cells.
        of: How many rows there are in all, if these are only the first.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    of: int = 0

    @override
    def html(self) -> str:
        if not self.rows:
            return ""
        aligned = ["right" if name.startswith(">") else "left" for name in self.headings]
        head = "".join(
            f'<th style="text-align:{align}">{quoted(name.strip(">"))}</th>'
            for name, align in zip(self.headings, aligned, strict=True)
        )
        rows, room = [], _TABLE
        for row in self.rows:
            cells = "".join(
                f'<td style="text-align:{align}">{quoted(shortened(cell, _CELL))}</td>'
                for cell, align in zip(row, aligned, strict=True)
            )
            room -= len(cells)
            if room < 0:
                break
            rows.append(f"<tr>{cells}</tr>")
        more = self._more(len(rows), "<div>", "</div>")
        return f"<table><tr>{head}</tr>{''.join(rows)}</table>{more}"

    @override
    def text(self, page: Page) -> list[str]:
        if not self.rows:
            return []
        lines = [tuple(name.strip(">") for name in self.headings)]
        lines += [tuple(printable(cell) for cell in row) for row in self.rows]
        widths = [max(map(columns_of, column)) for column in zip(*lines, strict=True)]
        shown = [
            "  "
            + "  ".join(
                _aligned(cell, width, right=name.startswith(">"))
                for cell, width, name in zip(line, widths, self.headings, strict=True)
            ).rstrip()
            for line in lines
        ]
        more = self._more(len(self.rows), "  ", "")
        return [fitted(line, page) for line in [*shown, *([more] if more else [])]]

    def _more(self, shown: int, before: str, after: str) -> str:
        left = max(self.of, len(self.rows)) - shown
        return f"{before}and {left:,} more{after}" if left > 0 else ""


@dataclass(frozen=True)
class Fold(Part):
    """What is only of interest if one asks for it; it is left out of the text.

    Attributes:
        summary: What is in it.
        parts: That.
    """

    summary: str
    parts: tuple[Part, ...]

    @override
    def html(self) -> str:
        parts = "".join(part.html() for part in self.parts)
        summary = f"<summary>{quoted(self.summary)}</summary>"
        return f"<details>{summary}{parts}</details>" if parts else ""

    @override
    def text(self, page: Page) -> list[str]:
        return []


def fold_of_facts(summary: str, facts: Sequence[tuple[str, str | None]]) -> Fold:
    """A fold with names and values."""
    return Fold(summary, (Facts(tuple(facts)),))


def svg(width: int, height: int, what: str, inner: str) -> str:
    """A picture, no wider than the page.

    Args:
        width: Its width in pixels.
        height: Its height.
        what: What it shows, for those who cannot see it.
        inner: The shapes.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" '
        'style="max-width:100%;height:auto;display:block;margin:6px 0" '
        'font-size="12" fill="currentColor">'
        f"<title>{quoted(what)}</title>{inner}</svg>"
    )


def label(x: float, y: float, text: str, anchor: str = "start") -> str:
    """A text in a picture."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{quoted(text)}</text>'


def fitted(line: str, page: Page) -> str:
    """A line, cut where the page ends."""
    if columns_of(line) <= page.width:
        return line
    line = line[: page.width]  # of a very long one, only this is looked at
    while columns_of(line) > page.width - 3:
        line = line[:-1]
    return f"{line}..."


def _aligned(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - columns_of(cell))
    return space + cell if right else cell + space
