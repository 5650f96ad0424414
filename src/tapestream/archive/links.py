"""How the backups of one disk are linked, and which of its states can be restored. No I/O.

    full ◀─ mon ◀─ tue ◀─ wed         an incremental backup starts from the checkpoint of another
              ▲
              └─── thu ◀─ fri         a branch, after the engine had lost checkpoint tue

A *point* is a checkpoint, with all backups of it: copies, retries, and synthetic full ones. Points
are linked by checkpoint ids alone. Times only decide which point is meant.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

from ..model.checkpoints import describe_backup
from .backups import StoredBackup

_UNKNOWN_TIME = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True, eq=False)
class Point:
    """A state of the disk, with all backups of it that are here.

    Attributes:
        checkpoint: Its checkpoint; None if its only backup does not say which one it made.
        backups: The backups, in the order in which they were given.
    """

    checkpoint: str | None
    backups: tuple[StoredBackup, ...]

    @property
    def complete(self) -> list[StoredBackup]:
        """Those that are complete."""
        return [backup for backup in self.backups if backup.problem is None]


class Step(NamedTuple):
    """How a point is reached.

    Attributes:
        backup: The backup to restore for it.
        before: The point to restore before it; None if the backup is a full one.
        time: The latest time of a backup in the chain, so that none in it is later.
        length: Number of backups in the chain.
    """

    backup: StoredBackup
    before: Point | None
    time: datetime
    length: int


class Break(NamedTuple):
    """Where the chain of a point is broken.

    Attributes:
        text: What is wrong, as a sentence without its full stop.
        checkpoint: The checkpoint of which there is no complete backup; None if that is not it.
        is_missing: True if there is no backup of this checkpoint at all.
        places: Where the backups are that are not complete.
    """

    text: str
    checkpoint: str | None = None
    is_missing: bool = False
    places: tuple[str, ...] = ()


class Links:
    """The points of one disk.

    Args:
        backups: All backups of the disk. Of several ways to restore a point, that with the fewest
            backups is taken; of several copies, the one that comes first.

    Attributes:
        points: The points, in the order of their first backup.
    """

    def __init__(self, backups: Iterable[StoredBackup]) -> None:
        by_checkpoint: dict[str, list[StoredBackup]] = defaultdict(list)
        sets: list[tuple[str | None, list[StoredBackup]]] = []
        for backup in backups:
            checkpoint = backup.info.checkpoint_id
            if checkpoint is None:
                sets.append((None, [backup]))
                continue
            if checkpoint not in by_checkpoint:
                sets.append((checkpoint, by_checkpoint[checkpoint]))
            by_checkpoint[checkpoint].append(backup)
        self.points = [Point(checkpoint, tuple(group)) for checkpoint, group in sets]
        self._by_checkpoint = {
            point.checkpoint: point for point in self.points if point.checkpoint is not None
        }
        self._steps = self._reached()
        self._ages = self._aged()

    def is_whole(self, point: Point) -> bool:
        """Whether the point can be restored."""
        return point in self._steps

    def chain(self, point: Point) -> tuple[StoredBackup, ...]:
        """The backups to restore for a point, oldest first; none if it cannot be restored."""
        found: list[StoredBackup] = []
        step = self._steps.get(point)
        while step is not None:
            found.append(step.backup)
            step = self._steps[step.before] if step.before is not None else None
        return tuple(reversed(found))

    def time(self, point: Point) -> datetime | None:
        """When the point was; never before the points that it is restored from."""
        time, _ = self._ages[point]
        return None if time == _UNKNOWN_TIME else time

    def backup(self, point: Point) -> StoredBackup:
        """The backup that stands for a point: the one to restore, if there is one."""
        if point in self._steps:
            return self._steps[point].backup
        return (point.complete or point.backups)[0]

    def newest_first(self, points: Iterable[Point]) -> list[Point]:
        """Put points in order; those of the same time by their links."""
        return sorted(points, key=self._ages.__getitem__, reverse=True)

    def newest(self, points: Sequence[Point], at: datetime | None) -> Point | None:
        """The newest of these points at or before a time; None if there is none.

        It may be one that cannot be restored. If unrelated ones have the same time, one that can be
        restored comes first.
        """
        known = [point for point in points if at is None or self._ages[point][0] <= at]
        if not known:
            return None
        last = max(self._ages[point][0] for point in known)
        tops = [point for point in known if self._ages[point][0] == last]
        inner = {before for point in tops for before in self._before(point)}
        ends = [point for point in tops if point not in inner] or tops
        return max(ends, key=lambda point: (self.is_whole(point), self._ages[point][1]))

    def broken(self, point: Point) -> Break:
        """Say why a point cannot be restored."""
        passed = {point}
        since = ""
        while True:
            if not point.complete:
                return _incomplete(point, since)
            backup = point.complete[0]
            name = describe_backup(backup.info, backup.place)
            parent = backup.info.parent_checkpoint_id
            if parent is None:
                return Break(f"{name} does not say from which checkpoint it starts")
            since = f"{name} starts from checkpoint {parent}"
            if parent not in self._by_checkpoint:
                return Break(
                    f"{since}, and no backup of that checkpoint is here", parent, is_missing=True
                )
            point = self._by_checkpoint[parent]
            if point in passed:
                return Break(f"the backups start from one another in a circle: {since}")
            passed.add(point)

    def _reached(self) -> dict[Point, Step]:
        """Go from the full backups along the links: the shortest chain to each point."""
        children: dict[str, list[tuple[StoredBackup, Point]]] = defaultdict(list)
        steps: dict[Point, Step] = {}
        for point in self.points:
            for backup in point.complete:
                if backup.info.context == "zero":
                    steps.setdefault(point, Step(backup, None, _created(backup), 1))
                elif backup.info.parent_checkpoint_id is not None:
                    children[backup.info.parent_checkpoint_id].append((backup, point))
        waiting = deque(steps)
        while waiting:
            before = waiting.popleft()
            _, _, time, length = steps[before]
            if before.checkpoint is None:
                continue
            for backup, point in children.get(before.checkpoint, ()):
                if point not in steps:
                    later = max(time, _created(backup))
                    steps[point] = Step(backup, before, later, length + 1)
                    waiting.append(point)
        return steps

    def _aged(self) -> dict[Point, tuple[datetime, int]]:
        """Keys to sort points by: the time of each, and how many links led to it."""
        ages = {point: (step.time, step.length) for point, step in self._steps.items()}
        for point in self.points:
            new: dict[Point, None] = {}
            known: Point | None = point
            while known is not None and known not in ages and known not in new:
                new[known] = None
                known = self._parent(known)
            time, length = ages.get(known, (_UNKNOWN_TIME, 0)) if known else (_UNKNOWN_TIME, 0)
            for each in reversed(new):
                time, length = max(time, _created(self.backup(each))), length + 1
                ages[each] = time, length
        return ages

    def _before(self, point: Point) -> Iterator[Point]:
        """The points that a point is restored from, as far as they are known."""
        passed = {point}
        while (parent := self._parent(point)) is not None and parent not in passed:
            yield parent
            passed.add(parent)
            point = parent

    def _parent(self, point: Point) -> Point | None:
        step = self._steps.get(point)
        if step is not None:
            return step.before
        info = self.backup(point).info
        if info.context == "zero" or info.parent_checkpoint_id is None:
            return None
        return self._by_checkpoint.get(info.parent_checkpoint_id)


def _incomplete(point: Point, since: str) -> Break:
    """The break at a point of which no backup is complete."""
    texts = [
        f"{describe_backup(backup.info, backup.place)} is not complete: {backup.problem}"
        for backup in point.backups
    ]
    places = tuple(backup.place for backup in point.backups)
    text = "; ".join(texts)
    return Break(f"{since}, and {text}" if since else text, point.checkpoint, places=places)


def _created(backup: StoredBackup) -> datetime:
    return backup.info.created or _UNKNOWN_TIME
