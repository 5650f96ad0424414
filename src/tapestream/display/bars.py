"""Tapes as bars: a part for each tape file, by its length. All tapes have the same scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from .._readable import columns_of, count_text, printable, shortened, size_text
from .._typing import override
from .card import BAD, WIDTH, Key, Page, Part, beside, fitted, legend, spread, svg

# Tapes that are drawn, and tape files of all of them together that are drawn apart.
BARS = 12
_FILES = 100
_HEIGHT, _ROW = 34, 24
_NAME = 20
# What a file is, with the color and the opacity of its part of the bar, and its mark in text.
_LOOKS = {
    "complete": ("#3f88c5", 1.0, "█", "#"),
    "continues": ("#3f88c5", 0.6, "▓", "+"),
    "no end": (BAD, 1.0, "x", "x"),
    "label": ("currentColor", 0.5, "=", "="),
    "no backup": ("currentColor", 0.3, "░", "."),
}


class Piece(NamedTuple):
    """A part of a bar.

    Attributes:
        state: What the tape file is: a key of the looks.
        length: Its length in bytes.
    """

    state: str
    length: int


@dataclass(frozen=True)
class Bars(Part):
    """The bars of some tapes.

    Attributes:
        bars: The label of each, and its parts. A tape that is shown alone has no label here.
        of: How many tapes there are, if these are only the first.
    """

    bars: tuple[tuple[str, tuple[Piece, ...]], ...]
    of: int = 0

    @override
    def html(self) -> str:
        bars = self._with_pieces(_FILES // max(len(self.bars), 1))
        if not bars:
            return ""
        row = _HEIGHT if self._is_one else _ROW
        # Also a short file is seen; what is left is shared by length.
        most = max(len(pieces) for _, pieces in bars)
        least = min(6.0, WIDTH / most / 2)
        scale = (WIDTH - least * most) / self._longest
        drawn = []
        for number, (_, pieces) in enumerate(bars):
            x = 0.0
            for piece in pieces:
                color, opacity, _, _ = _LOOKS[piece.state]
                width = least + piece.length * scale
                drawn.append(
                    f'<rect x="{x:.1f}" y="{row * number}" width="{max(width - 1, 0.5):.1f}" '
                    f'height="{row if self._is_one else row - 6}" '
                    f'fill="{color}" fill-opacity="{opacity:g}"/>'
                )
                x += width
        keys = legend(Key(state, *_LOOKS[state][:2]) for state in self._states)
        if self._is_one:
            return svg(WIDTH, row, "the files of the tape", "".join(drawn)) + keys
        what = f"the files of {count_text(len(bars), 'tape')}"
        picture = svg(WIDTH, row * len(bars), what, "".join(drawn))
        names = [shortened(name, _NAME) for name, _ in bars]
        scale_text = spread("0", size_text(self._longest))
        more = self.of - len(bars)
        return (
            beside(names, row, picture + scale_text)
            + keys
            + (f"<div>and {count_text(more, 'more tape')}</div>" if more > 0 else "")
        )

    @override
    def text(self, page: Page) -> list[str]:
        narrow = page._replace(width=_NAME)  # a character may take two columns
        names = [fitted(shortened(printable(name), _NAME), narrow) for name, _ in self.bars]
        wide = max(map(columns_of, names), default=0)
        space = 2 if self._is_one else wide + 4
        width = page.width - space - 2
        bars = self._with_pieces(width // 3)
        if not bars:
            return []
        lines = []
        for name, (_, pieces) in zip(names, bars, strict=True):
            room = width - 2 * max(len(pieces) for _, pieces in bars)
            bar = "|".join(
                page.drawn(*_LOOKS[piece.state][2:])
                * (1 + int(room * piece.length / self._longest))
                for piece in pieces
            )
            indent = "" if self._is_one else name + " " * (wide - columns_of(name)) + "  "
            lines.append(f"  {indent}{bar}".rstrip())
        keys = [f"{page.drawn(*_LOOKS[state][2:])} {state}" for state in self._states]
        lines.append(fitted(f"  {'   '.join(keys)}", page))
        if (more := self.of - len(bars)) > 0:
            lines.append(f"  and {count_text(more, 'more tape')}")
        return lines

    @property
    def _is_one(self) -> bool:
        return [name for name, _ in self.bars] == [""]

    @property
    def _states(self) -> list[str]:
        there = {piece.state for _, pieces in self.bars for piece in pieces}
        return [state for state in _LOOKS if state in there]

    @property
    def _longest(self) -> int:
        return max(sum(piece.length for piece in pieces) for _, pieces in self.bars)

    def _with_pieces(self, most: int) -> list[tuple[str, Sequence[Piece]]]:
        """The bars; one with more parts than this has one part for files alike."""
        if not any(pieces for _, pieces in self.bars):
            return []
        return [(name, _joined(pieces, most)) for name, pieces in self.bars]


def _joined(pieces: Sequence[Piece], most: int) -> Sequence[Piece]:
    if len(pieces) <= most:
        return pieces
    joined = [
        Piece(state, sum(piece.length for piece in alike))
        for state, alike in groupby(pieces, key=lambda piece: piece.state)
    ]
    return joined[:most]
