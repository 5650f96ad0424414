"""`tapestream list` and `find`: which backups are there, and what a restore would read."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tapestream

from .._readable import count_text, kind_text
from .amounts import time_text
from .backups import Found, found_in, show_backups
from .conditions import refuse
from .parsing import Commands, add_command
from .places import add_choice_options, archive_of, chain_in, has_many, stream
from .status import Status, status_of
from .tables import terminal_width
from .tapes import check_drive_options

if TYPE_CHECKING:
    from .context import Context

_LIST = """\
PLACE is a folder, a backup in a file, - for standard input, or a tape drive, whose tape is wound
from file to file. Only the beginning and the end of each backup are read: whether everything
between them is good is found out by verify.
"""
_FIND = """\
Shows the full backup and the incremental ones after it, oldest first. If the newest backup at that
time cannot be restored, it says what is missing, and which is the newest point that can be
restored; the exit status is then 1.
"""


_POINTS = ("WHEN", "KIND", ">BACKUPS", "CAN BE RESTORED")


def add_commands(commands: Commands) -> None:
    """Add `list` and `find`."""
    parser = add_command(
        commands, "list", run_list, "list the backups in folders, files or on a tape", details=_LIST
    )
    parser.add_argument("places", nargs="+", metavar="PLACE")
    parser.add_argument(
        "--superseded",
        action="store_true",
        help="only backups that no restore needs, because others replace them",
    )
    parser = add_command(
        commands,
        "find",
        run_find,
        "find what a restore would read for a point in time",
        details=_FIND,
    )
    parser.add_argument("places", nargs="+", metavar="PLACE", help="a folder, or a tape drive")
    add_choice_options(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="show all points in time, and which can be restored",
    )


def run_list(args: argparse.Namespace, context: Context) -> Status:
    """List backups."""
    found: list[Found] = []
    status = Status.GOOD
    if args.superseded:
        archive = archive_of(args.places, context)
        found = [found_in(backup) for backup in archive.superseded()]
    else:
        for place in args.places:
            try:
                found += _listed(place, context, is_only=len(args.places) == 1)
            except (tapestream.errors.StreamError, tapestream.errors.LocalIOError) as e:
                status = status_of(e)
                context.out.error(e, status)
    show_backups(sorted(found, key=_order), context.out, more=_chains(found))
    broken = sum(bool(backup.problem) for backup in found)
    text = count_text(len(found), "backup")
    if broken:
        text += f", {broken} of them not complete"
    context.out.result({"backups": len(found), "incomplete": broken}, text)
    return status


def run_find(args: argparse.Namespace, context: Context) -> Status:
    """Find the chain for a point in time, or show all points."""
    check_drive_options(args, args.places, context, "--catalog")
    if args.all:
        refuse(
            args,
            "--at",
            why="chooses one point in time, and --all shows all of them",
            hint="Leave out one of the two.",
        )
        archive = archive_of(args.places, context, catalog=args.catalog)
        points = archive.restore_points(vm=args.vm, disk=args.disk)
        notes = [f"{time_text(p.time)}: {p.problem}" for p in points if p.problem]
        context.out.table("point", _POINTS, [_row(point) for point in points], notes=notes)
        context.out.result({"points": len(points)}, count_text(len(points), "point") + " in time")
        return Status.GOOD
    chain = chain_in(args.places, args, context)
    show_backups(map(found_in, chain.backups), context.out)
    context.out.result(
        {"backups": len(chain.backups), "created": chain.info.to_dict()["created"]},
        f"restores the disk as of {time_text(chain.info.created)}",
    )
    return Status.GOOD


def _chains(found: Sequence[Found]) -> list[str]:
    """The chains of the backups as lines, if one of them cannot be restored."""
    if not any(backup.problem for backup in found):
        return []
    backups = (
        tapestream.archive.FileBackup(each.place, each.info, 0, each.problem or None, (0, number))
        for number, each in enumerate(found)
    )
    archive = tapestream.archive.Archive(backups)
    return tapestream.display.text(archive, width=terminal_width()).splitlines()


def _order(backup: Found) -> tuple[str, ...]:
    vm, disk, when, *_ = backup.cells
    return vm, disk, when


def _row(point: tapestream.archive.RestorePoint) -> tuple[dict[str, object], tuple[str, ...]]:
    backups = len(point.chain.backups) if point.chain else 0
    values: dict[str, object] = {
        "time": point.time.isoformat() if point.time else None,
        "checkpoint_id": point.checkpoint_id,
        "kind": kind_text(point.info.context),
        "places": [backup.place for backup in point.chain.backups] if point.chain else [],
        "problem": point.problem,
    }
    state = "NO" if point.problem else "yes"
    return values, (
        time_text(point.time),
        kind_text(point.info.context),
        str(backups or "-"),
        state,
    )


def _listed(place: str, context: Context, *, is_only: bool) -> list[Found]:
    if has_many(place, context):
        archive = archive_of([place], context)
        for backup in archive.unfinished:
            context.out.note(f"{backup.place}: is being written, or its program was killed")
        for file in archive.unreadable:
            context.out.warning(f"{file.place} cannot be read: {file.reason}")
        return [found_in(backup, place if is_only else "") for backup in archive.backups]
    with stream(place, context) as source:
        is_file = os.path.isfile(place)
        problem = "" if is_file else None  # the end of a pipe cannot be seen
        try:
            source.check_complete()
        except (tapestream.errors.StreamError, tapestream.errors.LocalIOError) as e:
            problem = e.message
        stored = os.stat(place).st_size if is_file else None
        return [Found(source.info, place, stored, problem)]
