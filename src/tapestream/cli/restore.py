"""`tapestream restore` and `salvage`: from backups to a disk, or to an image of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import tapestream

from .amounts import time_text
from .copying import add_rate_option, copied
from .parsing import Commands, Parser, add_command
from .places import add_source_options, check_source_options, last_of, opened_chain, stream
from .status import Status
from .tapes import add_file_option, check_drive_options
from .targets import add_overwrite_option, check_overwrite
from .urls import (
    add_url_options,
    is_url,
    refuse_server_options,
    server_options,
    url_of_options,
)

if TYPE_CHECKING:
    from .context import Context

_DETAILS = """\
SOURCE is a folder with backups: the chain for the newest backup, or for the time that --at names,
is found there. Or it is an incremental backup, whose chain is found in the folder where it is; or a
full backup in a file, or - for standard input; or all backups of one chain. A tape drive is like a
folder: the chain is found on its tape, or with --catalog on all tapes, and you are asked for them.

The TARGET is the transfer_url of an upload transfer, a raw image, or a disk of this machine. An
image gets its name when it is complete.
"""
_SALVAGE = """\
The end of the backup may be missing, and parts of it may be damaged. What is missing becomes zeros.
Use this only if there is no good copy. SOURCE and TARGET are as for restore, but the backups of a
chain must be listed. The exit status is 1 if anything was lost.
"""


def add_commands(commands: Commands) -> None:
    """Add `restore` and `salvage`."""
    parser = add_command(
        commands,
        "restore",
        run_restore,
        "restore a disk, as it was at a point in time",
        details=_DETAILS,
        usage="SOURCE... TARGET [OPTIONS]",
    )
    add_source_options(parser)
    _add_arguments(parser)
    parser.add_argument(
        "--verify-first",
        action="store_true",
        help="read everything twice: write only after every byte was checked",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="at the end, let the server compute the hash of the disk, and compare it with what "
        "was read; takes minutes to hours",
    )
    parser = add_command(
        commands,
        "salvage",
        run_salvage,
        "restore whatever a damaged backup still has",
        details=_SALVAGE,
        usage="SOURCE... TARGET [OPTIONS]",
    )
    add_file_option(parser)
    _add_arguments(parser)


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("places", nargs="+", metavar="SOURCE... TARGET", help="from, to")
    add_url_options(parser)
    add_overwrite_option(parser)
    add_rate_option(parser)


def run_restore(args: argparse.Namespace, context: Context) -> Status:
    """Restore one disk."""
    sources, target = _places(args, context)
    check_source_options(sources, args, context)
    if args.check and not is_url(target):
        raise tapestream.errors.UsageError(
            "--check lets the server compute a hash, but the target is not a URL",
            hint="'tapestream compare' compares an image with its backup.",
        )
    with (
        opened_chain(sources, args, context) as chain,
        _opened_target(target, args, context) as sink,
    ):
        with context.out.progress("restore") as progress:
            result = tapestream.restore_chain(
                chain,
                sink,
                verify_first=args.verify_first,
                block_hash=args.check,
                max_rate=args.max_rate,
                progress=progress,
                cancel=context.cancel,
            )
        if isinstance(sink, tapestream.ImageioUploadSink) and result.block_hash is not None:
            context.out.note("The server computes the hash of the disk.")
            sink.check(result.block_hash)
        _show_restored(result, target, last_of(chain), context)
    return Status.GOOD


def run_salvage(args: argparse.Namespace, context: Context) -> Status:
    """Restore what is left of one disk."""
    sources, target = _places(args, context)
    check_drive_options(args, sources, context, "--file")
    if folders := [source for source in sources if os.path.isdir(source)]:
        raise tapestream.errors.UsageError(
            f"salvage does not look for a chain, and {folders[0]} is a folder",
            hint="Pass the backups of the chain: the full one, and the incremental ones after it.",
        )
    with ExitStack() as stack:
        chain = [
            stack.enter_context(stream(source, context, file=args.file, allow_incomplete=True))
            for source in sources
        ]
        with (
            _opened_target(target, args, context) as sink,
            context.out.progress("salvage") as progress,
        ):
            result = tapestream.restore_chain(
                chain, sink, max_rate=args.max_rate, progress=progress, cancel=context.cancel
            )
        is_damaged = sum(_show_findings(source, context) for source in chain) > 0
    _show_restored(result, target, last_of(chain), context)
    return Status.FAILED if is_damaged else Status.GOOD


def _show_findings(source: tapestream.TarStreamSource, context: Context) -> bool:
    """Show what is wrong with a backup; return whether anything is."""
    findings, place = source.findings, source.place
    assert findings is not None  # because of allow_incomplete
    for damage in findings.damage:
        context.out.show("damage", {"place": place, **vars(damage)}, f"{place}: {damage}")
    for problem in findings.problems:
        context.out.show("problem", {"place": place, "problem": problem}, f"{place}: {problem}")
    return bool(findings.damage or findings.problems)


def _places(args: argparse.Namespace, context: Context) -> tuple[Sequence[str], str]:
    """The sources and the target; nothing that exists will be lost."""
    url = url_of_options(args, context, sources=args.places)
    sources: list[str] = list(args.places)
    target = sources.pop() if url is None else url
    if not sources:
        raise tapestream.errors.UsageError(
            f"{args.command} needs a SOURCE and a TARGET",
            hint="For example: tapestream restore disk.tar disk.raw",
        )
    if url is not None and len(sources) > 1 and _is_new(sources[-1], context):
        raise tapestream.errors.UsageError(
            f"there is no {sources[-1]} to restore from, and the target is the disk of the URL",
            hint="Pass one target: the URL of a transfer, or the path of an image.",
        )
    if target == "-":
        raise tapestream.errors.UsageError(
            "a disk cannot be written to standard output",
            hint="Restore to a file, or pass the backup itself on: it is a tar.",
        )
    refuse_server_options(args, is_used=is_url(target))
    check_overwrite(target, args, context)
    return sources, target


def _is_new(place: str, context: Context) -> bool:
    """Whether there is nothing to read, as where a target shall be."""
    return place != "-" and context.drives.find(place) is None and not os.path.exists(place)


def _opened_target(
    target: str, args: argparse.Namespace, context: Context
) -> tapestream.ImageioUploadSink | tapestream.RawImageSink:
    if not is_url(target):
        return tapestream.RawImageSink(target)
    return tapestream.ImageioUploadSink(target, **server_options(args, context))


def _show_restored(
    result: tapestream.CopyResult, target: str, last: tapestream.Source, context: Context
) -> None:
    info = last.info
    place = "the disk of the transfer" if is_url(target) else target
    values, text = copied(
        result,
        target=None if is_url(target) else target,
        disk=info.disk_name or info.disk_id,
        created=info.to_dict()["created"],
    )
    time = f", as of {time_text(info.created)}" if info.created else ""
    context.out.result(values, f"{place}: {text}{time}")
