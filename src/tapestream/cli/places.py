"""Where backups come from: files, pipes, tapes, folders full of them; and raw images, and disks.

SOURCE…                           a restore or a merge reads
folder… [--vm] [--disk] [--at]    the chain for that point in time, which is found there
incremental.tar                   its chain, which is found in the folder where it is
tar…, -, fifo, tape drive         these streams, which must be one chain
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import tapestream

from .amounts import time_text
from .backups import kind_text
from .parsing import Parser
from .urls import is_url, server_options

if TYPE_CHECKING:
    from .context import Context


def add_choice_options(parser: Parser) -> None:
    """Add --vm, --disk and --at, which choose among the backups in a folder."""
    group = parser.add_argument_group("which backup, if a SOURCE is a folder")
    group.add_argument("--vm", metavar="NAME", help="name or id of the VM")
    group.add_argument("--disk", metavar="NAME", help="name or id of the disk")
    group.add_argument(
        "--at",
        metavar="TIME",
        help="as it was then, such as '2026-11-18 23:30', in local time or with a time zone "
        "(default: the newest backup)",
    )


def stream(
    place: str, context: Context, *, allow_incomplete: bool = False
) -> tapestream.TarStreamSource:
    """Open a backup in a file, a pipe, or where a tape stands."""
    return tapestream.TarStreamSource(
        context.place(place), allow_incomplete=allow_incomplete, cancel=context.cancel
    )


def archive_of(folders: Sequence[str]) -> tapestream.archive.Archive:
    """All backups in these folders."""
    return reduce(add, map(tapestream.archive.read_folder, folders))


def chain_in(
    folders: Sequence[str], args: argparse.Namespace, context: Context
) -> tapestream.archive.Chain:
    """The chain in these folders that the options choose."""
    archive = archive_of(folders)
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
    if any(map(os.path.isdir, sources)):
        if not all(map(os.path.isdir, sources)):
            raise tapestream.errors.UsageError(
                "these are both folders and backups",
                hint="Pass folders, in which a chain is found, or all backups of one chain.",
            )
        chain = chain_in(sources, args, context)
    else:
        _refuse_choice(args)
        chain = _chain_of_incremental(sources, context)
    with ExitStack() as stack:
        if chain is not None:
            for backup in chain.backups:
                text = f"{time_text(backup.info.created)}  {kind_text(backup.info):11}"
                context.out.note(f"{text}  {backup.place}")
            yield stack.enter_context(chain.open(cancel=context.cancel))
        else:
            yield [stack.enter_context(stream(source, context)) for source in sources]


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
    elif os.path.isdir(place):
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
    archive = tapestream.archive.read_folder(folder)
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


def _refuse_choice(args: argparse.Namespace) -> None:
    given = [name for name in ("vm", "disk", "at") if getattr(args, name) is not None]
    if given:
        raise tapestream.errors.UsageError(
            f"--{given[0]} chooses among the backups in a folder, but no SOURCE is one",
            hint="Pass the folder that has the backups.",
        )
