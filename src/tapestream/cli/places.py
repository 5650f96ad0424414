"""Where backups come from: files, pipes, tapes, folders full of them; and raw images, and disks.

SOURCE…                           a restore or a merge reads
folder… [--vm] [--disk] [--at]    the chain for that point in time, which is found there
tape drive                        likewise, on its tape, or with --catalog on all tapes
tape drive --file N               this tape file
incremental.tar                   its chain, which is found in the folder where it is
tar…, -, fifo                     these streams, which must be one chain
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import tapestream

from .._readable import kind_text
from .amounts import time_text
from .conditions import refuse
from .parsing import Parser
from .tapes import (
    add_catalog_option,
    add_file_option,
    check_drive_options,
    read_tapes,
    wait_until_ready,
)
from .urls import is_url, server_options
from .volumes import asks_for_tapes

if TYPE_CHECKING:
    from .context import Context


def add_source_options(parser: Parser) -> None:
    """Add the options that say which backups of a folder, or of a tape, are read."""
    add_file_option(parser)
    add_choice_options(parser)


def add_choice_options(parser: Parser) -> None:
    """Add the options that choose among the backups in a folder, or on tape."""
    add_catalog_option(parser)
    group = parser.add_argument_group("which backup, of those in a folder or on a tape")
    group.add_argument("--vm", metavar="NAME", help="name or id of the VM")
    group.add_argument("--disk", metavar="NAME", help="name or id of the disk")
    add_time_option(group)


def add_time_option(parser: Parser | argparse._ArgumentGroup) -> None:
    """Add --at."""
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="as it was then, such as '2026-11-18 23:30', in local time or with a time zone "
        "(default: the newest backup)",
    )


def check_source_options(
    places: Sequence[str],
    args: argparse.Namespace,
    context: Context,
    what: str = "SOURCE",
    target: str | None = None,
) -> None:
    """Make sure that each of the options has an effect on one of the places that are read.

    Args:
        places: The places.
        args: The arguments.
        context: Of the command.
        what: What the help calls such a place.
        target: Where the result is written to, if --catalog is for that, too.

    Raises:
        UsageError: One has none.
    """
    check_drive_options(args, [*places, *([target] if target else [])], context, "--catalog")
    check_drive_options(args, places, context, "--file")
    if any(has_many(place, context, args.file) for place in places):
        return
    is_named = args.file is not None
    refuse(
        args,
        *("--vm", "--disk", "--at"),
        why="chooses among the backups in a folder or on a tape, but "
        + ("--file names one of them" if is_named else f"no {what} is one"),
        hint="Leave out one of the two." if is_named else "Pass the folder that has the backups.",
    )


def stream(
    place: str,
    context: Context,
    *,
    file: int | None = None,
    catalog: str | None = None,
    allow_incomplete: bool = False,
) -> tapestream.TarStreamSource:
    """Open a backup in a file, a pipe, or a tape file: by default, where the tape stands."""
    if place == "-" and sys.stdin.isatty():
        raise tapestream.errors.UsageError(
            "standard input is a terminal, not a backup",
            hint="Redirect it, as in '< disk.tar', or pass the path of the backup.",
        )
    drive = context.drives.find(place)
    if drive is not None:
        wait_until_ready(drive, context)
    return tapestream.TarStreamSource(
        drive or place,
        file=None if drive is None else file,
        allow_incomplete=allow_incomplete,
        on_next_volume=None if drive is None else asks_for_tapes(context, catalog),
        cancel=context.cancel,
    )


def has_many(place: str, context: Context, file: int | None = None) -> bool:
    """Whether backups are looked for here: in a folder, or on a tape, if no tape file is named."""
    return os.path.isdir(place) or (file is None and context.drives.find(place) is not None)


def read_folder(folder: str, context: Context) -> tapestream.archive.Archive:
    """All backups in a folder."""
    with context.interruptible():
        return tapestream.archive.read_folder(folder)


def archive_of(
    places: Sequence[str], context: Context, *, catalog: str | None = None
) -> tapestream.archive.Archive:
    """All backups in these folders, and on the tapes in these drives.

    Args:
        places: Paths of folders and drives.
        context: Of the command.
        catalog: A catalog of tapes, whose backups count as well; a drive can load its tapes.
    """
    archives = []
    for place in places:
        drive = context.drives.find(place)
        if drive is not None:
            archives.append(read_tapes(drive, catalog, context))
        elif os.path.exists(place) and not os.path.isdir(place):
            raise tapestream.errors.UsageError(
                f"{place} is neither a folder nor a tape drive",
                hint="Pass the folder that has the backups.",
            )
        else:
            archives.append(read_folder(place, context))
    return reduce(add, archives)


def chain_in(
    folders: Sequence[str], args: argparse.Namespace, context: Context
) -> tapestream.archive.Chain:
    """The chain in these folders, or on tape, that the options choose."""
    archive = archive_of(folders, context, catalog=args.catalog)
    for file in archive.unreadable:
        context.out.warning(f"{file.place} cannot be read: {file.reason}")
    return archive.find(vm=args.vm, disk=args.disk, at=args.at)


@contextmanager
def opened_chain(
    sources: Sequence[str], args: argparse.Namespace, context: Context
) -> Iterator[list[tapestream.Source]]:
    """Open the streams that the arguments mean: see the beginning of this module.

    Raises:
        UsageError: These arguments do not fit together.
        ChainError: The chain is not all there.
    """
    for source in sources:
        if is_url(source):
            raise tapestream.errors.UsageError(
                "a SOURCE is a backup that was made, not a URL",
                hint="To read a disk through a transfer, use 'tapestream backup'.",
            )
    chain: tapestream.archive.Chain | None
    many = [source for source in sources if has_many(source, context, args.file)]
    if many:
        if len(many) != len(sources):
            raise tapestream.errors.UsageError(
                "these are both folders and backups",
                hint="Pass folders, in which a chain is found, or all backups of one chain.",
            )
        chain = chain_in(sources, args, context)
    else:
        chain = _chain_of_incremental(sources, context)
    with ExitStack() as stack:
        if chain is not None:
            for backup in chain.backups:
                text = f"{time_text(backup.info.created)}  {kind_text(backup.info.context):11}"
                context.out.note(f"{text}  {backup.place}")
            yield stack.enter_context(chain.open(cancel=context.cancel))
        else:
            yield [
                stack.enter_context(stream(source, context, file=args.file, catalog=args.catalog))
                for source in sources
            ]


def last_of(chain: Sequence[tapestream.Source]) -> tapestream.Source:
    """The backup of a chain from which no other one starts."""
    parents = {
        source.info.parent_checkpoint_id for source in chain if source.info.parent_checkpoint_id
    }
    return next(source for source in chain if source.info.checkpoint_id not in parents)


@contextmanager
def opened_disk(
    place: str, args: argparse.Namespace, context: Context
) -> Iterator[tapestream.Source]:
    """Open what has the contents of a disk.

    That is a transfer, by its URL; a folder, for the chain in it; a backup; or a raw image or disk.
    """
    if is_url(place):
        with tapestream.ImageioHTTPSource(place, **server_options(args, context)) as transfer:
            yield transfer
    elif has_many(place, context):
        with opened_chain([place], args, context) as chain:
            yield tapestream.merge_chain(chain, cancel=context.cancel)
    else:
        with _stream_or_image(place, context) as source:
            yield source


def _stream_or_image(
    place: str, context: Context
) -> tapestream.TarStreamSource | tapestream.RawImageSource:
    try:
        return stream(place, context)
    except tapestream.errors.ForeignStreamError as e:
        is_compressed = e.hint != type(e).hint
        if is_compressed or not _is_storage(place):
            raise
    return tapestream.RawImageSource(place)


def _is_storage(place: str) -> bool:
    mode = os.stat(place).st_mode
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _chain_of_incremental(
    sources: Sequence[str], context: Context
) -> tapestream.archive.Chain | None:
    """The chain up to an incremental backup that is given alone; None for anything else."""
    if len(sources) != 1 or not os.path.isfile(sources[0]):
        return None
    with stream(sources[0], context) as source:
        info = source.info
    if info.context == "zero" or info.checkpoint_id is None:
        return None
    folder = os.path.dirname(sources[0]) or "."
    archive = read_folder(folder, context)
    points = archive.restore_points(
        vm=info.vm_id or info.vm_name, disk=info.disk_id or info.disk_name
    )
    for point in points:
        if point.checkpoint_id == info.checkpoint_id:
            if point.chain is None:
                raise tapestream.errors.NoRestorePointError(
                    f"{sources[0]} is an incremental backup that cannot be restored: "
                    f"{point.problem}"
                )
            return point.chain
    return None
