"""Finds, in a list of backups, what to restore for a point in time. No I/O."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from datetime import datetime

from .._readable import count_text
from .._shown import Shown
from .._typing import override
from ..errors import NoRestorePointError
from .backups import Chain, RestorePoint, Skipped, StoredBackup
from .disks import Disk, disks, matching, the_one
from .links import Break, Links, Point
from .times import moment_of, moment_text

# How many files an error names that may be the missing one.
_MOST = 5


class Archive(Shown):
    """The backups that were in a folder, or on tapes, when it was made; nothing is read again.

    `read_folder` and `read_catalog` make one. `folder + tapes` has the backups of both.

    Args:
        backups: The backups. Of several copies, the first is restored, unless another needs fewer
            backups before it. An entry for a file that is there already is ignored.
        unfinished: Backups that are being written, or whose program was killed. They are not
            restored, and do not count as points in time.
        ignored: Files that are no backups.
        unreadable: Files that may be backups, but cannot be read.

    Attributes:
        backups, unfinished, ignored, unreadable: The same, as tuples.
    """

    def __init__(
        self,
        backups: Iterable[StoredBackup],
        *,
        unfinished: Iterable[StoredBackup] = (),
        ignored: Iterable[Skipped] = (),
        unreadable: Iterable[Skipped] = (),
    ) -> None:
        once: dict[Hashable, StoredBackup] = {}
        again: list[Skipped] = []
        for backup in backups:
            first = once.setdefault(backup.identity, backup)
            if first is not backup and first.place != backup.place:
                again.append(Skipped(backup.place, f"another name of {first.place}"))
        self.backups: tuple[StoredBackup, ...] = tuple(once.values())
        self.unfinished: tuple[StoredBackup, ...] = tuple(unfinished)
        self.ignored: tuple[Skipped, ...] = (*ignored, *again)
        self.unreadable: tuple[Skipped, ...] = tuple(unreadable)

    def __add__(self, other: Archive) -> Archive:
        return Archive(
            [*self.backups, *other.backups],
            unfinished=[*self.unfinished, *other.unfinished],
            ignored=[*self.ignored, *other.ignored],
            unreadable=[*self.unreadable, *other.unreadable],
        )

    @override
    def _in_short(self) -> str:
        others = {
            "unfinished": len(self.unfinished),
            "unreadable": len(self.unreadable),
            "ignored": len(self.ignored),
        }
        text = count_text(len(self.backups), "backup")
        text += f" of {count_text(len(disks(self.backups)), 'disk')}"
        return ", ".join([text, *(f"{count} {what}" for what, count in others.items() if count)])

    def disks(self) -> list[Archive]:
        """The backups of each disk, as an archive of their own.

        A disk keeps its id when it is moved to another VM. Without an id, it is told from others by
        its name and its VM.
        """
        return [Archive(disk.backups) for disk in disks(self.backups)]

    def find(
        self,
        *,
        vm: str | None = None,
        disk: str | None = None,
        at: datetime | str | None = None,
    ) -> Chain:
        """Find what to restore for a disk as it was at a point in time.

        That is the newest backup at or before that time, with all that it needs: by checkpoint ids,
        not by names or times of files. No backup in the chain is later than `at`. If that newest
        backup cannot be restored, an older one is not taken silently.

        Args:
            vm: Name or id of the VM; None if the disk alone says which one it is.
            disk: Name or id of the disk; None if the VM has only one.
            at: A datetime with a time zone; or a text such as "2026-11-18 23:30", in the local time
                of this machine, or "2026-11-18 23:30 UTC". Without seconds, it means the whole
                minute. None for the newest backup.

        Raises:
            NoRestorePointError: There is none at or before that time, or the newest cannot be
                restored. The text says what is missing, damaged or aborted, and which is the newest
                point in time that can be restored.
            UsageError: No disk matches, or several do: the text lists them. Or `at` is not a time.
        """
        moment = moment_of(at)
        chosen = the_one(self.backups, vm, disk)
        links = Links(chosen.backups)
        points = _meant(links, chosen)
        point = links.newest(points, moment)
        if point is None:
            raise _too_early(chosen, links, points, moment)
        if not links.is_whole(point):
            whole = [each for each in points if links.is_whole(each)]
            raise self._not_whole(chosen, links, point, links.newest(whole, moment), moment)
        return Chain(links.chain(point))

    def restore_points(
        self, *, vm: str | None = None, disk: str | None = None
    ) -> list[RestorePoint]:
        """All states of a disk that were backed up, newest first, and why some cannot be restored.

        Args:
            vm: Name or id of the VM; None if the disk alone says which one it is.
            disk: Name or id of the disk; None if the VM has only one.

        Raises:
            UsageError: No disk matches, or several do: the text lists them.
        """
        return self._points_of(the_one(self.backups, vm, disk))

    def good_checkpoints(self, vm: str, disk: str) -> list[str]:
        """The checkpoints at which this disk can be restored, newest first.

        The next incremental backup of the disk can start from any of them that the engine still
        has. `restore_points` says what is wrong with the others.

        Args:
            vm: Id or name of the VM.
            disk: Id or name of the disk.

        Returns:
            Their ids; an empty list if there is no backup of the disk here.

        Raises:
            UsageError: Several disks match: the text lists them.
        """
        if not matching(self.backups, vm, disk):
            return []
        points = self._points_of(the_one(self.backups, vm, disk))
        return [
            point.checkpoint_id
            for point in points
            if point.chain is not None and point.checkpoint_id is not None
        ]

    def superseded(self) -> list[StoredBackup]:
        """The backups that others replace: without them, every answer of `find` stays the same.

        These are copies, attempts that were repeated, and backups that a synthetic full one of the
        same checkpoint replaces, if no chain needs them. A backup that cannot be restored now is
        not among them, unless another one of the same checkpoint can: what it lacks may be found.
        """
        found: list[StoredBackup] = []
        for disk in disks(self.backups):
            links = Links(disk.backups)
            whole = [point for point in links.points if links.is_whole(point)]
            needed = {backup.identity for point in whole for backup in links.chain(point)}
            found += [
                backup
                for point in whole
                for backup in point.backups
                if backup.identity not in needed
            ]
        return found

    def _points_of(self, disk: Disk) -> list[RestorePoint]:
        links = Links(disk.backups)
        found: list[RestorePoint] = []
        for point in links.newest_first(_meant(links, disk)):
            info, time = links.backup(point).info, links.time(point)
            if links.is_whole(point):
                found.append(RestorePoint(info, time, Chain(links.chain(point))))
            else:
                broken = links.broken(point)
                found.append(RestorePoint(info, time, None, self._explained(broken)))
        return found

    def _not_whole(
        self,
        disk: Disk,
        links: Links,
        point: Point,
        newest: Point | None,
        moment: datetime | None,
    ) -> NoRestorePointError:
        broken = links.broken(point)
        time = links.time(newest) if newest is not None else None
        if newest is None:
            can = "no earlier point can be restored, either"
        elif time is None:
            can = "there is only one that can be restored, which does not say its time"
        else:
            can = f"the newest point that can be restored is {moment_text(time)}"
        return NoRestorePointError(
            f"{disk} cannot be restored as of {_when(moment)}: {self._explained(broken)}; {can}",
            checkpoint=broken.checkpoint,
            places=broken.places,
            newest=time,
        )

    def _explained(self, broken: Break) -> str:
        """Say what is wrong, and which files may hold what is missing."""
        notes: list[str] = []
        if broken.is_missing:
            notes += [
                f"{backup.place} is a backup of it that was not finished"
                for backup in self.unfinished
                if backup.info.checkpoint_id == broken.checkpoint
            ]
            files = [
                file.reason if file.place in file.reason else f"{file.place}: {file.reason}"
                for file in self.unreadable
            ]
            if files:
                more = f" and {len(files) - _MOST} more" if len(files) > _MOST else ""
                notes.append(
                    f"it may be one that cannot be read ({'; '.join(files[:_MOST])}{more})"
                )
        return "; ".join([broken.text, *notes])


def _meant(links: Links, disk: Disk) -> Sequence[Point]:
    """The points of the VM that was asked for. Their chains may use all backups of the disk."""
    return [point for point in links.points if disk.is_meant(links.backup(point))]


def _too_early(
    disk: Disk, links: Links, points: Sequence[Point], moment: datetime | None
) -> NoRestorePointError:
    """The error for a time before the first backup."""
    times = [time for point in points if (time := links.time(point)) is not None]
    first = f"the oldest is of {moment_text(min(times))}" if times else "none says its time"
    return NoRestorePointError(
        f"there is no backup of {disk} from {_when(moment)} or before: {first}",
        hint="Pass a later time, or add older backups.",
    )


def _when(moment: datetime | None) -> str:
    return "the newest backup" if moment is None else moment_text(moment)
