"""`tapestream backup`: a disk through a transfer that somebody else has started."""

from __future__ import annotations

import argparse
import os
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import tapestream

from .conditions import refuse
from .copying import add_checksum_option, add_rate_option, checksum_of, copied
from .parsing import Commands, add_command
from .status import Status
from .tapes import add_target_options, check_target, remember
from .targets import add_overwrite_option, check_overwrite
from .urls import (
    add_url_options,
    is_url,
    refuse_server_options,
    server_options,
    url_of_options,
)
from .volumes import asks_for_tapes

if TYPE_CHECKING:
    from .context import Context

_DETAILS = """\
URL is the transfer_url of a download transfer. TARGET is a file, a folder (the file gets a name
that says what it is), a tape drive such as /dev/nst0, a fifo, or - for standard output. A file
gets its name when it is complete.
"""


def add_commands(commands: Commands) -> None:
    """Add `backup`."""
    parser = add_command(
        commands,
        "backup",
        run_backup,
        "back up a disk, through a download transfer",
        details=_DETAILS,
        usage="[URL] TARGET [OPTIONS]",
    )
    parser.add_argument("places", nargs="+", metavar="URL TARGET", help="from where, and to where")
    add_url_options(parser)
    about = parser.add_argument_group(
        "about the backup", "It is written into the tar, and a restore finds the backup by it."
    )
    about.add_argument("--vm", metavar="NAME", help="name of the VM")
    about.add_argument("--vm-id", metavar="ID")
    about.add_argument("--disk", metavar="NAME", help="name of the disk")
    about.add_argument("--disk-id", metavar="ID", help="needed for incremental backups")
    about.add_argument("--backup-id", metavar="ID", help="oVirt's id of the backup")
    about.add_argument("--checkpoint", metavar="ID", help="the checkpoint that the backup created")
    about.add_argument(
        "--parent", metavar="ID", help="the checkpoint that an incremental backup starts from"
    )
    about.add_argument(
        "--attach",
        metavar="FILE",
        action="append",
        default=[],
        help="keep this file with the disk, such as the OVF of the VM; may be repeated",
    )
    parser.add_argument(
        "--incremental", action="store_true", help="back up only what changed since --parent"
    )
    parser.add_argument(
        "--or-full",
        action="store_true",
        help="with --incremental: take a full backup if the disk does not know what changed",
    )
    add_overwrite_option(parser)
    add_target_options(parser)
    add_checksum_option(parser)
    add_rate_option(parser)


def run_backup(args: argparse.Namespace, context: Context) -> Status:
    """Back up one disk."""
    url, target = _places(args, context)
    refuse_server_options(args, is_used=True)
    if not args.incremental:
        refuse(
            args,
            *("--parent", "--or-full"),
            why="is for an incremental backup",
            hint="Pass --incremental, too, or leave it out.",
        )
    check_overwrite(target, args, context)
    info = tapestream.BackupInfo(
        vm_id=args.vm_id,
        vm_name=args.vm,
        disk_id=args.disk_id,
        disk_name=args.disk,
        backup_id=args.backup_id,
        checkpoint_id=args.checkpoint,
        parent_checkpoint_id=args.parent,
        created=datetime.now(timezone.utc),
    )
    attachments = {os.path.basename(path): _contents(path) for path in args.attach}
    drive = context.drives.find(target)
    check_target(drive, args, context)
    if target == "-":
        context.out.stream_on_stdout()
    with tapestream.ImageioHTTPSource(
        url,
        context="dirty" if args.incremental else "zero",
        fallback="full" if args.or_full else None,
        info=info,
        **server_options(args, context),
    ) as source:
        target = _file_in(target, source) if os.path.isdir(target) else target
        with (
            tapestream.TarStreamSink(
                drive or target,
                checksum=checksum_of(args),
                attachments=attachments,
                on_volume_full=None if drive is None else asks_for_tapes(context, args.catalog),
                cancel=context.cancel,
            ) as sink,
            context.out.progress(args.disk or args.disk_id or "backup") as progress,
        ):
            result = tapestream.copy(
                source, sink, max_rate=args.max_rate, progress=progress, cancel=context.cancel
            )
    remember(result, args.catalog)
    values, text = copied(result, target=target)
    place = "standard output" if target == "-" else target
    context.out.result(values, f"{place}: {text}")
    return Status.GOOD


def _places(args: argparse.Namespace, context: Context) -> tuple[str, str]:
    """The URL and the target."""
    url = url_of_options(args, context)
    given = list(args.places)
    if url is None and len(given) > 1:
        url = given.pop(0)
    if url is None or len(given) != 1:
        raise tapestream.errors.UsageError(
            "backup needs one URL and one TARGET",
            hint="For example: tapestream backup --url-file FILE disk.tar",
        )
    if not is_url(url) and os.path.exists(url):
        raise tapestream.errors.UsageError(
            f"{url} is not a URL", hint="If the URL is in that file, pass it with --url-file."
        )
    return url, str(given[0])


def _file_in(folder: str, source: tapestream.ImageioHTTPSource) -> str:
    """A new name in a folder, after what the backup is."""
    source.extents()  # only now it is known whether it is a full backup
    try:
        taken = os.listdir(folder)
    except OSError as e:
        raise tapestream.errors.LocalIOError(f"cannot read {folder}", e) from e
    return os.path.join(folder, tapestream.archive.file_name(source.info, taken=taken))


def _contents(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as e:
        raise tapestream.errors.LocalIOError(f"cannot read {path}", e) from e
