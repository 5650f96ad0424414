"""`tapestream merge`: a chain of backups becomes one full backup."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import tapestream

from .copying import add_checksum_option, add_rate_option, checksum_of, copied
from .parsing import Commands, add_command
from .places import add_source_options, check_source_options, last_of, opened_chain
from .status import Status
from .tapes import add_label_option, check_target, remember
from .targets import add_overwrite_option, check_overwrite
from .volumes import asks_for_tapes

if TYPE_CHECKING:
    from .context import Context

_DETAILS = """\
The result is a full backup of the same time as the last backup of the chain. Later incremental
backups continue from it. It keeps the files that are attached to the last backup. SOURCE is as for
restore; TARGET is a file, a tape drive, a fifo, or - for standard output. If it is a tape drive,
--catalog also remembers on which tape the result is.
"""


def add_commands(commands: Commands) -> None:
    """Add `merge`."""
    parser = add_command(
        commands,
        "merge",
        run_merge,
        "make one full backup of a chain of backups",
        details=_DETAILS,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("-o", "--output", metavar="TARGET", required=True)
    add_source_options(parser)
    add_label_option(parser)
    add_overwrite_option(parser)
    add_checksum_option(parser)
    add_rate_option(parser)


def run_merge(args: argparse.Namespace, context: Context) -> Status:
    """Merge a chain."""
    check_overwrite(args.output, args, context)
    check_source_options(args.sources, args, context, target=args.output)
    drive = context.drives.find(args.output)
    check_target(drive, args, context, "--label")
    if args.output == "-":
        context.out.stream_on_stdout()
    with opened_chain(args.sources, args, context) as chain:
        merged = tapestream.merge_chain(chain, cancel=context.cancel)
        last = last_of(chain)
        attachments = last.attachments if isinstance(last, tapestream.TarStreamSource) else {}
        with (
            tapestream.TarStreamSink(
                drive or args.output,
                checksum=checksum_of(args),
                attachments=attachments,
                on_volume_full=None if drive is None else asks_for_tapes(context, args.catalog),
                cancel=context.cancel,
            ) as sink,
            context.out.progress("merge") as progress,
        ):
            result = tapestream.copy(
                merged, sink, max_rate=args.max_rate, progress=progress, cancel=context.cancel
            )
    remember(result, args.catalog)
    values, text = copied(result, target=args.output)
    place = "standard output" if args.output == "-" else args.output
    context.out.result(values, f"{place}: {text}")
    return Status.GOOD
