"""Chains of backups as lines: a lane for each disk, and a mark for each point in time.

mail, Disk1    ■─●─●─●     a full backup, and three incremental ones that start from it
web, Disk1     ■─●─x       the last one cannot be restored
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .._readable import columns_of, count_text, printable, shortened
from .._typing import override
from .card import BAD, THIN, Key, Page, Part, beside, fitted, legend, spread, svg

# Lanes, and points of all of them together, that are shown: the newest points of each.
LANES = 12
POINTS = 240
_WIDTH, _ROW = 426, 24
_NAME = 30
# The links, full backups, incremental ones, and those that cannot be restored. Points are lines
# without length: so they stay round and square, however narrow the page is.
_LOOKS = (
    'stroke="currentColor" stroke-opacity="0.5"',
    'stroke="#3f88c5" stroke-width="9" stroke-linecap="square"',
    'stroke="#3f88c5" stroke-width="9" stroke-linecap="round"',
    f'stroke="{BAD}" stroke-width="2"',
)
_LEGEND = legend(
    [
        Key("full", "#3f88c5"),
        Key("incremental", "#3f88c5", mark="\N{BLACK CIRCLE}"),
        Key("cannot be restored", BAD, mark="\N{MULTIPLICATION X}"),
    ]
)


@dataclass(frozen=True)
class Point:
    """A point in time.

    Attributes:
        seconds: When it was; None if that is not known.
        is_full: Whether its backup is a full one.
        is_good: Whether it can be restored.
        parent: The number of the point in its lane from which it starts; None for none.
    """

    seconds: float | None
    is_full: bool
    is_good: bool
    parent: int | None


@dataclass(frozen=True)
class Lane:
    """A disk.

    Attributes:
        name: Its name.
        points: Its points in time, oldest first.
    """

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Lanes(Part):
    """The lanes of some disks.

    Attributes:
        lanes: The first `LANES` of them.
        of: How many there are.
        first: The first time, for people.
        last: The last time.
    """

    lanes: tuple[Lane, ...]
    of: int
    first: str
    last: str

    @override
    def html(self) -> str:
        if not self.lanes:
            return ""
        known = [p.seconds for lane in self.lanes for p in lane.points if p.seconds is not None]
        begin, end = min(known, default=0.0), max(known, default=0.0)
        shapes = _Shapes([], [], [], [])
        for number, lane in enumerate(self.lanes):
            at = [_x(point.seconds, begin, end) for point in lane.points]
            shapes.add(lane, at, _ROW * number + _ROW / 2)
        what = f"the backups of {count_text(len(self.lanes), 'disk')}, from old to new"
        picture = svg(_WIDTH, _ROW * len(self.lanes), what, shapes.drawn())
        names = [shortened(lane.name, _NAME) for lane in self.lanes]
        times = [self.first, self.last] if self.last != self.first else [self.first]
        more = self.of - len(self.lanes)
        return (
            beside(names, _ROW, picture + spread(*times, width=_WIDTH))
            + _LEGEND
            + (f"<div>and {more:,} more disks</div>" if more > 0 else "")
        )

    @override
    def text(self, page: Page) -> list[str]:
        if not self.lanes:
            return []
        narrow = page._replace(width=_NAME)  # a character may take two columns
        names = [fitted(shortened(printable(lane.name), _NAME), narrow) for lane in self.lanes]
        wide = max(map(columns_of, names))
        lines = []
        for name, lane in zip(names, self.lanes, strict=True):
            space = " " * (wide - columns_of(name))
            room = page.width - wide - 5
            lines.append(f"  {name}{space}  {_line(lane, page)[-room:].strip()}")
        full, incremental = page.drawn("■", "F"), page.drawn("●", "i")
        keys = f"  {full} full  {incremental} incremental  x cannot be restored"
        lines.append(fitted(keys, page))
        if self.of > len(self.lanes):
            lines.append(f"  and {self.of - len(self.lanes):,} more disks")
        return lines


def newest(points: Sequence[Point], count: int) -> tuple[Point, ...]:
    """The newest points of a lane, with the parents that are among them."""
    left = max(0, len(points) - count)
    return tuple(
        Point(
            point.seconds,
            point.is_full,
            point.is_good,
            point.parent - left if point.parent is not None and point.parent >= left else None,
        )
        for point in points[left:]
    )


def _line(lane: Lane, page: Page) -> str:
    drawn = ""
    for number, point in enumerate(lane.points):
        if number:
            before = {number - 1: page.drawn("─", "-"), None: " "}
            drawn += before.get(point.parent, page.drawn("┄", "~"))
        mark = page.drawn("■", "F") if point.is_full else page.drawn("●", "i")
        drawn += mark if point.is_good else "x"
    return drawn


class _Shapes(NamedTuple):
    """The shapes of all lanes, as parts of the path of their look: one path is short."""

    links: list[str]
    squares: list[str]
    circles: list[str]
    crosses: list[str]

    def add(self, lane: Lane, at: list[float], y: float) -> None:
        """Add the points of a lane."""
        for number, point in enumerate(lane.points):
            x = at[number]
            if point.parent == number - 1 and number:
                self.links.append(f"M{at[number - 1]:g} {y:g}H{x:g}")
            elif point.parent is not None:
                start = at[point.parent]
                self.links.append(f"M{start:g} {y:g}Q{(start + x) / 2:g} {y - 20:g} {x:g} {y:g}")
            if not point.is_good:
                self.crosses.append(f"M{x - 4:g} {y - 4:g}l8 8m0-8l-8 8")
            elif point.is_full:
                self.squares.append(f"M{x:g} {y:g}h0")
            else:
                self.circles.append(f"M{x:g} {y:g}h0")

    def drawn(self) -> str:
        """The inner part of the picture."""
        return "".join(
            f'<path fill="none" {look} {THIN} d="{"".join(shapes)}"/>'
            for look, shapes in zip(_LOOKS, self, strict=True)
        )


def _x(seconds: float | None, begin: float, end: float) -> float:
    part = (seconds - begin) / (end - begin) if seconds is not None and end > begin else 0.0
    return round(8 + part * (_WIDTH - 16), 1)
