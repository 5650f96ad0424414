"""Chains of backups as lines: a lane for each disk, and a mark for each point in time.

mail, Disk1    ■─●─●─●     a full backup, and three incremental ones that start from it
web, Disk1     ■─●─x       the last one cannot be restored
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._readable import columns_of, count_text, printable, shortened
from .._typing import override
from .card import BAD, Page, Part, fitted, label, svg

# Lanes, and points of all of them together, that are shown: the newest points of each.
LANES = 12
POINTS = 240
_LEFT, _WIDTH, _ROW = 214, 426, 24
_NAME = 30
_ROUND = 'stroke="#3f88c5" stroke-width="9" stroke-linecap="round"'


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
        rows = []
        for number, lane in enumerate(self.lanes):
            y = _ROW * number + _ROW / 2
            at = [_x(point.seconds, begin, end) for point in lane.points]
            rows.append(label(0, y + 4, shortened(lane.name, _NAME)) + _drawn(lane, at, y))
        height = _ROW * len(self.lanes)
        scale = label(_LEFT, height + 14, self.first) + label(640, height + 14, self.last, "end")
        y = height + 26
        legend = (
            f'<path fill="#3f88c5" d="{_square(5, y)}"/>'
            + label(16, y + 4, "full")
            + f'<path {_ROUND} d="{_circle(65, y)}"/>'
            + label(76, y + 4, "incremental")
            + f'<path stroke="{BAD}" stroke-width="2" d="{_cross(175, y)}"/>'
            + label(186, y + 4, "cannot be restored")
        )
        what = f"the backups of {count_text(len(self.lanes), 'disk')}, from old to new"
        return svg(646, height + 36, what, "".join(rows) + scale + legend) + (
            f"<div>and {self.of - len(self.lanes):,} more disks</div>"
            if self.of > len(self.lanes)
            else ""
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
        legend = f"  {full} full  {incremental} incremental  x cannot be restored"
        lines.append(fitted(legend, page))
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


def _drawn(lane: Lane, at: list[float], y: float) -> str:
    links, squares, circles, crosses = [], [], [], []
    for number, point in enumerate(lane.points):
        x = at[number]
        if point.parent == number - 1 and number:
            links.append(f"M{at[number - 1]:g} {y:g}H{x:g}")
        elif point.parent is not None:
            start = at[point.parent]
            links.append(f"M{start:g} {y:g}Q{(start + x) / 2:g} {y - 20:g} {x:g} {y:g}")
        if not point.is_good:
            crosses.append(_cross(x, y))
        elif point.is_full:
            squares.append(_square(x, y))
        else:
            circles.append(_circle(x, y))
    return (
        f'<path fill="none" stroke="currentColor" stroke-opacity="0.5" d="{"".join(links)}"/>'
        f'<path fill="#3f88c5" d="{"".join(squares)}"/>'
        f'<path {_ROUND} d="{"".join(circles)}"/>'
        f'<path fill="none" stroke="{BAD}" stroke-width="2" d="{"".join(crosses)}"/>'
    )


def _x(seconds: float | None, begin: float, end: float) -> float:
    part = (seconds - begin) / (end - begin) if seconds is not None and end > begin else 0.0
    return round(_LEFT + 6 + part * (_WIDTH - 12), 1)


def _square(x: float, y: float) -> str:
    return f"M{x - 5:g} {y - 5:g}h10v10h-10z"


def _circle(x: float, y: float) -> str:
    return f"M{x:g} {y:g}h0"  # a line without length has round ends


def _cross(x: float, y: float) -> str:
    return f"M{x - 4:g} {y - 4:g}l8 8m0-8l-8 8"
