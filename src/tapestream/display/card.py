"""What is shown of a value: a title, and parts that are drawn as HTML or as text.

The HTML has no style sheet, because many viewers remove it. Pictures are SVG, whose colors are
those of the page around them (`currentColor`), or can be seen on white and on black. They become
narrower with the page, but not lower; so their words are HTML beside them, which stays readable on
a phone, and where the pictures are removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple, Protocol

from .._readable import columns_of, printable, shortened
from .._table import table
from .._typing import override

GOOD, BAD = "#268f54", "#d9483b"
# Characters of a cell of a table, and of a sentence. Each may take six bytes as HTML.
_CELL, _NOTE = 100, 200
# Bytes of the rows of a table, and of a card: what does not fit is left out.
_TABLE, _CARD = 4000, 19_500
# Pixels of a picture, if the page has room for them.
WIDTH = 640


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
        return _scrolling(f"<table>{''.join(rows)}</table>") + more if known else ""

    @override
    def text(self, page: Page) -> list[str]:
        known = [(name, value) for name, value in self.facts if value]
        wide = max((len(name) for name, _ in known), default=0)
        room = page.width - wide - 4
        lines = []
        for name, value in known:
            first, *others = folded(shortened(printable(value), _CELL), room)
            lines.append(f"  {name:{wide}}  {first}")
            lines += [f"{'':{wide + 4}}{other}" for other in others]
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
        return [
            f"  {'  ' if number else ''}{line}"
            for note in self.notes
            for number, line in enumerate(
                folded(shortened(printable(note), _NOTE), page.width - 4),
            )
        ]


@dataclass(frozen=True)
class Table(Part):
    """Rows of cells.

    Attributes:
        headings: One for each column; ">" at its beginning is for numbers, and "~" at its end for
            names, whose middle is left out of the text until it fits.
        rows: The cells.
        of: How many rows there are in all, if these are only the first.
        room: Bytes of HTML that the rows may have.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    of: int = 0
    room: int = _TABLE

    @override
    def html(self) -> str:
        if not self.rows:
            return ""
        aligned = ["right" if name.startswith(">") else "left" for name in self.headings]
        head = "".join(
            f'<th style="text-align:{align}">{quoted(name.strip(">~"))}</th>'
            for name, align in zip(self.headings, aligned, strict=True)
        )
        cells = (
            "".join(
                f'<td style="text-align:{align}">{quoted(cell, _CELL)}</td>'
                for cell, align in zip(row, aligned, strict=True)
            )
            for row in self.rows
        )
        rows = _first_that_fit((f"<tr>{each}</tr>" for each in cells), self.room)
        lines = f"<table><tr>{head}</tr>{''.join(rows)}</table>"
        return _scrolling(lines) + _more(self._of - len(rows))

    @override
    def text(self, page: Page) -> list[str]:
        if not self.rows:
            return []
        rows = [[shortened(printable(cell), _CELL) for cell in row] for row in self.rows]
        shown = [f"  {line}" for line in table(self.headings, rows, page.width - 2)]
        if (left := self._of - len(self.rows)) > 0:
            shown.append(f"  and {left:,} more")
        return [fitted(line, page) for line in shown]

    @property
    def _of(self) -> int:
        return max(self.of, len(self.rows))


@dataclass(frozen=True)
class Fold(Part):
    """What is only of interest if one asks for it.

    Attributes:
        summary: What is in it.
        parts: That.
        in_text: The text has these instead.
    """

    summary: str
    parts: tuple[Part, ...]
    in_text: tuple[Part, ...] = ()

    @override
    def html(self) -> str:
        parts = "".join(part.html() for part in self.parts)
        summary = f"<summary>{quoted(self.summary)}</summary>"
        return f"<details>{summary}{parts}</details>" if parts else ""

    @override
    def text(self, page: Page) -> list[str]:
        return [line for part in self.in_text for line in part.text(page)]


def fold_of_facts(summary: str, facts: Sequence[tuple[str, str | None]]) -> Fold:
    """A fold with names and values."""
    return Fold(summary, (Facts(tuple(facts)),))


def svg(width: int, height: int, what: str, inner: str) -> str:
    """A picture as wide as the page, up to its own width; its height stays.

    A line in it should have the `THIN` look, and a text would be squeezed.

    Args:
        width: Its width in pixels.
        height: Its height.
        what: What it shows, for those who cannot see it.
        inner: The shapes.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="100%" height="{height}" preserveAspectRatio="none" role="img" '
        # The height once more: the style sheets of many pages have height: auto for pictures.
        f'style="display:block;height:{height}px;max-width:{width}px" fill="currentColor" '
        # Not a title: viewers that remove pictures keep the text that is in them.
        f'aria-label="{quoted(what)}">{inner}</svg>'
    )


# The width of a line is that on the screen, however much the picture was squeezed.
THIN = 'vector-effect="non-scaling-stroke"'


def spread(*texts: str, width: int = WIDTH) -> str:
    """Texts below a picture, from its left end to its right."""
    parts = " ".join(f"<span>{quoted(text)}</span>" for text in texts)
    return (
        f'<div style="display:flex;justify-content:space-between;max-width:{width}px">{parts}</div>'
    )


def beside(names: Iterable[str], row: int, picture: str) -> str:
    """A picture with a name for each of its rows, which have this height."""
    each = "".join(f"<div>{quoted(name)}</div>" for name in names)
    return (
        f'<div style="display:flex;gap:12px;max-width:{WIDTH}px">'
        f'<div style="line-height:{row}px;white-space:nowrap;overflow-x:auto">{each}</div> '
        f'<div style="flex:1;min-width:40%">{picture}</div></div>'
    )


class Key(NamedTuple):
    """What a color of a picture means.

    Attributes:
        name: The meaning.
        color: The color.
        opacity: From 0 to 1.
        mark: A character that looks like it.
    """

    name: str
    color: str = "currentColor"
    opacity: float = 1.0
    mark: str = "\N{BLACK SQUARE}"


def legend(keys: Iterable[Key]) -> str:
    """What the colors of a picture mean."""
    return (
        "<div>"
        + " &#160; ".join(
            f'<span style="color:{key.color};opacity:{key.opacity:g}">{key.mark}</span> '
            + quoted(key.name)
            for key in keys
        )
        + "</div>"
    )


def fitted(line: str, page: Page) -> str:
    """A line, cut where the page ends."""
    if columns_of(line) <= page.width:
        return line
    line = line[: page.width]  # of a very long one, only this is looked at
    while columns_of(line) > page.width - 3:
        line = line[:-1]
    return f"{line}..."


def folded(text: str, width: int) -> list[str]:
    """A text in lines, which end between words, or within a word that is longer than a line."""
    lines = []
    while columns_of(text) > width:
        most = width
        while columns_of(text[:most]) > width:
            most -= 1
        space = text.rfind(" ", 0, most + 1)
        end = space if space > 0 else most
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*lines, text]


def _scrolling(table: str) -> str:
    """A table that can be moved sideways where the page is too narrow for it."""
    return f'<div style="overflow-x:auto">{table}</div>'


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
