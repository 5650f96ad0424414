"""`Archive` and `Chain`: the backups of each disk, and which points in time can be restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tapestream

from .._readable import count_text, disk_text, size_text, time_text
from .card import Card, Fold, Notes, Part, Table
from .infos import kind_of
from .lanes import LANES, POINTS, Lane, Lanes, Point, newest

# Rows that a table has.
_ROWS = 30
# Files that are named.
_FILES = 5


class Disk(NamedTuple):
    """A disk.

    Attributes:
        name: Its VM and its name.
        points: Its points in time, newest first.
        backups: How many backups of it there are.
    """

    name: str
    points: list[tapestream.archive.RestorePoint]
    backups: int

    @property
    def bad(self) -> int:
        """How many points cannot be restored."""
        return sum(point.chain is None for point in self.points)


def show(value: tapestream.archive.Archive | tapestream.archive.Chain) -> Card:
    """Show the disks, or the chain."""
    if isinstance(value, tapestream.archive.Chain):
        return _chain(value)
    disks = disks_of(value)
    bad = sum(disk.bad for disk in disks)
    count = f"{count_text(len(value.backups), 'backup')} of {count_text(len(disks), 'disk')}"
    state = (
        f"{count_text(bad, 'point')} in time cannot be restored" if bad else "all can be restored"
    )
    if value.unreadable:
        state += f"; {count_text(len(value.unreadable), 'file')} cannot be read"
    notes = [
        *(f"not finished: {backup.place}" for backup in value.unfinished[:_FILES]),
        *(f"cannot be read: {file.place}: {file.reason}" for file in value.unreadable[:_FILES]),
    ]
    ignored = tuple((file.place, file.reason) for file in value.ignored[:_ROWS])
    table = Table(("file~", "why~"), ignored, of=len(value.ignored))
    return Card(
        "Backups",
        f"{count}; {state}" if value.backups or value.unreadable else "none",
        (
            lanes_of(disks),
            Notes(tuple(notes)),
            table_of(disks),
            Fold(f"ignored: {len(value.ignored):,}", (table,) if ignored else ()),
        ),
        good=not bad and not value.unreadable if value.backups or value.unreadable else None,
    )


def disks_of(archive: tapestream.archive.Archive) -> list[Disk]:
    """The disks of an archive, by name."""
    disks = [
        Disk(disk_text(each.backups[-1].info), each.restore_points(), len(each.backups))
        for each in archive.disks()
    ]
    return sorted(disks, key=lambda disk: disk.name)


def lanes_of(disks: Sequence[Disk]) -> Lanes:
    """The chains of the disks as lines."""
    shown = disks[:LANES]
    count = POINTS // max(len(shown), 1)
    times = [p.time for disk in shown for p in disk.points[:count] if p.time is not None]
    return Lanes(
        tuple(Lane(disk.name, newest(_points(disk), count)) for disk in shown),
        len(disks),
        time_text(min(times, default=None)),
        time_text(max(times, default=None)),
    )


def table_of(disks: Sequence[Disk]) -> Fold:
    """The disks as a table."""
    rows = tuple(
        (
            disk.name,
            f"{disk.backups:,}",
            time_text(disk.points[0].time) if disk.points else "-",
            disk.points[0].problem or "yes" if disk.points else "-",
        )
        for disk in disks[:_ROWS]
    )
    headings = ("disk~", ">backups", "newest", "can be restored~")
    return Fold("the disks", (Table(headings, rows, of=len(disks)),) if rows else ())


def _points(disk: Disk) -> list[Point]:
    points = list(reversed(disk.points))
    numbers = {point.checkpoint_id: number for number, point in enumerate(points)}
    found = []
    for point in points:
        parent = point.info.parent_checkpoint_id
        if point.chain is not None:  # there may be a full backup of the same checkpoint
            before = point.chain.backups[:-1]
            parent = before[-1].info.checkpoint_id if before else None
        found.append(
            Point(
                point.time.timestamp() if point.time is not None else None,
                is_full=point.info.context == "zero",
                is_good=point.chain is not None,
                parent=numbers.get(parent) if parent is not None else None,
            )
        )
    return found


def _chain(chain: tapestream.archive.Chain) -> Card:
    rows = tuple(
        (
            time_text(backup.info.created),
            kind_of(backup.info),
            size_text(backup.info.size),
            backup.place,
        )
        for backup in chain.backups[:_ROWS]
    )
    parts: tuple[Part, ...] = (
        Table(("taken", "kind", ">size", "place~"), rows, of=len(chain.backups)),
    )
    info = chain.info
    return Card(
        "Chain",
        f"{count_text(len(chain.backups), 'backup')} restore {disk_text(info)} as of "
        f"{time_text(info.created)}",
        parts,
    )
