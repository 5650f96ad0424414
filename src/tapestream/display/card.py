"""What is shown of a value: a title, and parts that are drawn as HTML or as text.

The HTML has no style sheet, because many viewers remove it. Pictures are SVG, whose colors are
those of the page around them (`currentColor`), or can be seen on white and on black.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple, Protocol

from .._readable import columns_of, printable, shortened
from .._typing import override

GOOD, BAD = "#2a9d5c", "#d9483b"
# Characters of a cell of a table, and of a sentence. Each may take six bytes as HTML.
_CELL, _NOTE = 100, 200
# Bytes of the rows of a table, and of a card: what does not fit is left out.
_TABLE, _CARD = 4000, 19_500


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


def quoted(text: str, most: int = _NOTE) -> str:
    """A text as HTML; characters that XML does not allow are escaped, and a long text is cut."""
    return escape(shortened(printable(text), most))


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
        head = f"<div><b>{quoted(self.title)}</b>: {lead}</div>"
        made = [part.html() for part in self.parts]
        parts = _first_that_fit(made, _CARD - len(head.encode()))
        more = "<div>There is more than is shown here.</div>" if len(parts) < len(made) else ""
        return f"<div>{head}{''.join(parts)}{more}</div>"

    def text(self, page: Page) -> list[str]:
        """The card as lines of text."""
        title, lead = (shortened(printable(text), _NOTE) for text in (self.title, self.lead))
        lines = [f"{title}: {lead}"]
        for part in self.parts:
            lines += part.text(page)
        return lines


@dataclass(frozen=True)
class Facts(Part):
    """Names and values.

    Attributes:
        facts: The pairs; those without a value are left out.
        left: How many more there are that are not in `facts`.
    """

    facts: tuple[tuple[str, str | None], ...]
    left: int = 0

    @override
    def html(self) -> str:
        known = [(name, value) for name, value in self.facts if value]
        rows = _first_that_fit(
            (
                f'<tr><th style="text-align:left">{quoted(name, _CELL)}</th>'
                f'<td style="text-align:left">{quoted(value, _CELL)}</td></tr>'
                for name, value in known
            ),
            _TABLE,
        )
        more = _more(len(known) - len(rows) + self.left)
        return f"<table>{''.join(rows)}</table>{more}" if known else ""

    @override
    def text(self, page: Page) -> list[str]:
        known = [(name, value) for name, value in self.facts if value]
        wide = max((len(name) for name, _ in known), default=0)
        lines = [f"  {name:{wide}}  {printable(value)}" for name, value in known]
        if self.left:
            lines.append(f"  and {self.left:,} more")
        return [fitted(line, page) for line in lines]


@dataclass(frozen=True)
class Notes(Part):
    """Sentences.

    Attributes:
        notes: One for each line.
    """

    notes: tuple[str, ...]

    @override
    def html(self) -> str:
        lines = _first_that_fit((f"<div>{quoted(note)}</div>" for note in self.notes), _TABLE)
        return "".join(lines) + _more(len(self.notes) - len(lines))

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
        cells = (
            "".join(
                f'<td style="text-align:{align}">{quoted(cell, _CELL)}</td>'
                for cell, align in zip(row, aligned, strict=True)
            )
            for row in self.rows
        )
        rows = _first_that_fit((f"<tr>{each}</tr>" for each in cells), _TABLE)
        return f"<table><tr>{head}</tr>{''.join(rows)}</table>{_more(self._of - len(rows))}"

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
        if (left := self._of - len(self.rows)) > 0:
            shown.append(f"  and {left:,} more")
        return [fitted(line, page) for line in shown]

    @property
    def _of(self) -> int:
        return max(self.of, len(self.rows))


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


def _first_that_fit(parts: Iterable[str], room: int) -> list[str]:
    """The first of some parts of HTML, as long as there is room for them, in bytes."""
    taken = []
    for part in parts:
        room -= len(part.encode())
        if room < 0:
            break
        taken.append(part)
    return taken


def _more(left: int) -> str:
    return f"<div>and {left:,} more</div>" if left > 0 else ""


def _aligned(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - columns_of(cell))
    return space + cell if right else cell + space
