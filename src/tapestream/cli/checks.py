"""`tapestream verify` and `compare`: is a backup good, and is it the same disk?"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import tapestream

from .amounts import size_text
from .copying import add_rate_option
from .parsing import Commands, add_command
from .places import (
    add_source_options,
    archive_of,
    check_source_options,
    has_many,
    opened_disk,
    stream,
)
from .status import Status, status_of
from .tables import printable, terminal_width
from .tapes import add_file_option, check_drive_options
from .urls import add_url_options, is_url, refuse_server_options, url_of_options

if TYPE_CHECKING:
    from .context import Context

_VERIFY = """\
Reads everything, past all damage, and lists what is wrong. SOURCE is a backup in a file, a folder
with backups, - for standard input, or a tape drive. The exit status is 0 if all are good, 1 if one
is damaged or incomplete, and 2 if something is not a backup, or if a folder has none.
"""
_COMPARE = """\
Each is a backup, a folder with backups (the chain for a point in time is compared), a raw image, a
disk of this machine, or the transfer_url of a download transfer. Of an incremental backup, only
what it contains is compared. The exit status is 0 if they are equal, and 1 if they differ.
"""


def add_commands(commands: Commands) -> None:
    """Add `verify` and `compare`."""
    parser = add_command(
        commands, "verify", run_verify, "check every byte of backups", details=_VERIFY
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    add_file_option(parser)
    add_rate_option(parser)
    parser = add_command(
        commands,
        "compare",
        run_compare,
        "compare two disks byte by byte",
        details=_COMPARE,
        usage="A B [OPTIONS]",
    )
    parser.add_argument("places", nargs="+", metavar="A B", help="the two to compare")
    add_source_options(parser)
    add_url_options(parser)
    add_rate_option(parser)


def run_verify(args: argparse.Namespace, context: Context) -> Status:
    """Verify each backup, also after one that is bad."""
    check_drive_options(args, args.sources, context, "--file")
    found: list[Status] = []
    opened: list[tuple[str, Callable[[], tapestream.Source]]]
    for source in args.sources:
        if has_many(source, context, args.file):
            archive = archive_of([source], context)
            for file in archive.unreadable:
                context.out.warning(f"{file.place} cannot be read: {file.reason}")
                found.append(Status.FAILED)
            opened = [(b.place, partial(b.open, cancel=context.cancel)) for b in archive.backups]
            if not opened:  # it must not count as good, as a folder that is not mounted would
                context.out.warning(f"{source} has no backups")
                found.append(Status.NOT_A_BACKUP)
        else:
            opened = [(source, partial(stream, source, context, file=args.file))]
        found += [_verified(place, open_it, args, context) for place, open_it in opened]
    counts = {
        "good": found.count(Status.GOOD),
        "bad": found.count(Status.FAILED),
        "not_backups": found.count(Status.NOT_A_BACKUP),
    }
    text = "{good} good, {bad} bad, {not_backups} not backups".format(**counts)
    context.out.result(counts, *([text] if len(found) != 1 else []))
    return next(
        status
        for status in (Status.FAILED, Status.NOT_A_BACKUP, Status.GOOD)
        if status in found or status is Status.GOOD
    )


def _verified(
    place: str,
    open_it: Callable[[], tapestream.Source],
    args: argparse.Namespace,
    context: Context,
) -> Status:
    try:
        with (
            closing(open_it()) as source,
            context.out.progress(place) as progress,
        ):
            report = tapestream.verify(
                source, max_rate=args.max_rate, progress=progress, cancel=context.cancel
            )
    except tapestream.OperationCancelledError:
        raise
    except (tapestream.errors.StreamError, tapestream.errors.LocalIOError) as e:
        context.out.error(e, status_of(e))
        return status_of(e)
    values = {
        "place": place,
        "ok": report.ok,
        "complete": report.complete,
        "damage": [vars(damage) for damage in report.damage],
        "problems": report.problems,
        "data_bytes": report.data_bytes,
        "checksum": report.checksum,
    }
    lines = f"{printable(place)}: {report}".split("\n")
    if report.damage:  # the verdict once more, and the map: the rest was said
        lines += tapestream.display.text(report, width=terminal_width()).splitlines()[:4]
    context.out.show("verified", values, *lines)
    return Status.GOOD if report.ok else Status.FAILED


def run_compare(args: argparse.Namespace, context: Context) -> Status:
    """Compare two disks."""
    url = url_of_options(args, context, sources=args.places)
    places = [*args.places, *([] if url is None else [url])]
    if len(places) != 2:
        raise tapestream.errors.UsageError(
            "compare needs two disks, A and B",
            hint="For example: tapestream compare disk.tar disk.raw",
        )
    refuse_server_options(args, is_used=any(map(is_url, places)))
    check_source_options(places, args, context, "disk")
    with ExitStack() as stack:
        a, b = (stack.enter_context(opened_disk(place, args, context)) for place in places)
        progress = stack.enter_context(context.out.progress("compare"))
        report = tapestream.compare(
            a, b, max_rate=args.max_rate, progress=progress, cancel=context.cancel
        )
    rows = [
        ({"start": start, "length": length}, (str(start), str(length)))
        for start, length in report.differing
    ]
    if rows:
        context.out.table("difference", (">START", ">LENGTH"), rows)
    differing = sum(length for _, length in report.differing)
    values = {"equal": report.equal, "compared": report.compared, "differing": differing}
    if report.equal:
        lines = [f"equal: {size_text(report.compared)} compared"]
    else:
        lines = tapestream.display.text(report, width=terminal_width()).splitlines()
        lines.append(
            f"different: {size_text(differing)}, in blocks of 1 MiB; "
            f"{size_text(report.compared)} compared"
        )
    context.out.result(values, *lines)
    return Status.GOOD if report.equal else Status.FAILED
