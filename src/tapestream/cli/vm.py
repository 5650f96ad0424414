"""`tapestream vm`: backs up and restores whole VMs, with an oVirt engine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tapestream

from .._readable import count_text, kind_text
from .amounts import duration_text, rate_text, size_text, time_text
from .copying import add_checksum_option, add_rate_option, checksum_of, copied
from .parsing import Commands, Parser, add_command, add_group
from .places import add_time_option, archive_of
from .status import Status
from .tapes import add_target_options, check_drive_options, check_target
from .volumes import asks_for_tapes

if TYPE_CHECKING:
    from .context import Context

_ENGINE = """\
The engine is that of ~/.config/ovirt.conf, as oVirt's own examples have it: a section with
engine_url, username, password, cafile; and host_cafile, if the data needs another CA. Without the
file, it is that of OVIRT_URL, OVIRT_USERNAME, OVIRT_PASSWORD, OVIRT_CAFILE and OVIRT_HOST_CAFILE. A
password is never an argument.
"""
_BACKUP = f"""\
VM is a name or an id. TARGET is a folder, where each disk gets a file; a tape drive such as
/dev/nst0; or a fifo, or - for standard output, which take one disk.

A backup that was killed before is cleaned up first.

{_ENGINE}"""
_RESTORE = f"""\
SOURCE is a folder with backups, a tape drive, or the backups themselves. For each disk, the chain
of backups is found there. The VM and its disks are new; after an error, they are removed. If the
engine still has the old VM, the new one gets a new id and new MAC addresses.

{_ENGINE}"""


def add_commands(commands: Commands) -> None:
    """Add `vm full`, `incremental`, `restore` and `list`."""
    group = add_group(commands, "vm", "back up and restore VMs, with an oVirt engine")
    full = add_command(
        group, "full", run_full, "back up all of a VM", details=_BACKUP, usage="VM TARGET [OPTIONS]"
    )
    incremental = add_command(
        group,
        "incremental",
        run_incremental,
        "back up what changed in a VM since its last good backup",
        details="It starts from the newest checkpoint that the engine still has, and from which "
        "every disk has a good backup in TARGET or --since. A disk that has none is backed up "
        f"whole.\n\n{_BACKUP}",
        usage="VM TARGET [OPTIONS]",
    )
    for parser in (full, incremental):
        parser.add_argument("vm", metavar="VM")
        parser.add_argument("target", metavar="TARGET")
    incremental.add_argument(
        "--since",
        metavar="FOLDER",
        action="append",
        default=[],
        help="start from backups in this folder, too; may be repeated",
    )
    for parser in (full, incremental):
        _add_disk_option(parser, "back up this disk, not all; a name or an id; may be repeated")
        add_target_options(parser)
        add_checksum_option(parser)
        add_rate_option(parser)
        _add_engine_options(parser)
    _add_restore(group)
    parser = add_command(
        group,
        "list",
        run_list,
        "list the VMs of an engine, or the disks and checkpoints of one",
        details=_ENGINE,
    )
    parser.add_argument("vm", metavar="VM", nargs="?", help="show this one, by name or id")
    _add_engine_options(parser)


def _add_restore(group: Commands) -> None:
    parser = add_command(
        group,
        "restore",
        run_restore,
        "restore a VM, as it was at a point in time",
        details=_RESTORE,
        usage="SOURCE... [OPTIONS]",
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="+")
    parser.add_argument("--vm", metavar="NAME", help="name or id of the VM in the backups")
    add_time_option(parser)
    parser.add_argument(
        "--name", metavar="NEW", help="the name of the new VM (default: that of the old one)"
    )
    _add_disk_option(parser, "restore this disk, not all; a name or an id; may be repeated")
    parser.add_argument(
        "--cluster", metavar="NAME", help="the cluster (default: that of the old VM)"
    )
    parser.add_argument(
        "--storage-domain",
        metavar="NAME",
        help="the storage domain for the disks (default: where each of them was)",
    )
    parser.add_argument(
        "--ovf", metavar="FILE", help="the OVF of the VM, if it is not kept with the backups"
    )
    parser.add_argument(
        "--catalog",
        metavar="FILE",
        help="find the backups in this catalog, and ask for the tapes that have them",
    )
    parser.add_argument(
        "--verify-first",
        action="store_true",
        help="read everything twice: write only after every byte was checked",
    )
    add_rate_option(parser)
    _add_engine_options(parser)


def _add_disk_option(parser: Parser, text: str) -> None:
    parser.add_argument("--disk", metavar="NAME", action="append", help=text)


def _add_engine_options(parser: Parser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument("--config", metavar="FILE", help="instead of ~/.config/ovirt.conf")
    group.add_argument(
        "--section", metavar="NAME", help="the engine's section, if the file has several"
    )
    group.add_argument(
        "--state",
        metavar="FOLDER",
        help="where a note is kept of what runs, for the next run if this one is killed "
        "(default: ~/.local/state/tapestream)",
    )


def run_full(args: argparse.Namespace, context: Context) -> Status:
    """Back up all of a VM."""
    return _back_up(args, context, None)


def run_incremental(args: argparse.Namespace, context: Context) -> Status:
    """Back up what changed in a VM."""
    return _back_up(args, context, archive_of(args.since, context) if args.since else None)


def _back_up(
    args: argparse.Namespace, context: Context, since: tapestream.archive.Archive | None
) -> Status:
    if args.target == "-":
        context.out.stream_on_stdout()
    drive = context.drives.find(args.target)
    check_target(drive, args, context)
    with ExitStack() as stack:
        catalog = None
        if drive is not None and args.catalog is not None:
            catalog = stack.enter_context(tapestream.tape.Catalog(args.catalog))
        connection = stack.enter_context(_connected(args, context))
        report = _ovirt().back_up_vm(
            connection,
            args.vm,
            drive or args.target,
            incremental=args.vm_command == "incremental",
            archive=since,
            disks=args.disk,
            catalog=catalog,
            checksum=checksum_of(args),
            on_volume_full=asks_for_tapes(context, args.catalog) if drive is not None else None,
            max_rate=args.max_rate,
            progress=stack.enter_context(_progress(context, "backup of")),
            state=args.state,
        )
    for disk in report.disks:
        values, text = copied(disk.result, disk=disk.disk.name, disk_id=disk.disk.id)
        kind = kind_text(disk.info.context)
        more = {"place": disk.place, "kind": kind, "reason": disk.reason}
        if disk.result.receipt is None:  # the text of a backup to tape says where it is
            text = f"{'standard output' if disk.place == '-' else disk.place}: {text}"
        context.out.show("disk", {**values, **more}, f"{disk.disk.name}: {kind}, {text}")
        if disk.reason is not None:
            context.out.warning(f"{disk.disk.name} was backed up whole: {disk.reason}")
    for left in report.not_backed_up:
        context.out.warning(f"disk {left.name} is not in the backup: the engine backs up none such")
    for place in report.unfinished:
        context.out.note(f"{place} is of a backup that was not finished: nothing needs it")
    _show_end(
        "backed up",
        report,
        {
            "backup_id": report.backup_id,
            "checkpoint_id": report.checkpoint_id,
            "parent_checkpoint_id": report.parent_id,
        },
        context,
    )
    return Status.GOOD


def run_restore(args: argparse.Namespace, context: Context) -> Status:
    """Restore a VM."""
    check_drive_options(args, args.sources, context, "--catalog")
    if "-" in args.sources:
        raise tapestream.errors.UsageError(
            "a VM cannot be restored from standard input, which has one disk",
            hint="'tapestream restore' restores a disk.",
        )
    ovf = _text_of(args.ovf) if args.ovf is not None else None
    sources = [_source(place, args, context) for place in args.sources]
    archive = _ovirt().archive_of(sources, context.cancel)
    with (
        _connected(args, context) as connection,
        _progress(context, "restore of") as progress,
    ):
        report = _ovirt().restore_vm(
            connection,
            archive,
            name=args.name or _only_name(archive, args.vm),
            vm=args.vm,
            at=args.at,
            disks=args.disk,
            ovf=ovf,
            cluster=args.cluster,
            storage_domain=args.storage_domain,
            verify_first=args.verify_first,
            max_rate=args.max_rate,
            progress=progress,
            state=args.state,
        )
    for disk in report.disks:
        values, text = copied(disk.result, disk=disk.name, disk_id=disk.id)
        chain = ", ".join(disk.places)
        context.out.show(
            "disk", {**values, "places": list(disk.places)}, f"{disk.name}: {text}, from {chain}"
        )
    for name in report.left_out:
        context.out.warning(f"disk {name} of the old VM is not restored")
    if report.has_new_ids:
        context.out.note("The engine has the old VM: the new one has a new id, and new MACs.")
    more = {"left_out": list(report.left_out), "has_new_ids": report.has_new_ids}
    _show_end("restored", report, more, context)
    return Status.GOOD


def run_list(args: argparse.Namespace, context: Context) -> Status:
    """List VMs, or what one has."""
    with _connected(args, context) as connection:
        if args.vm is None:
            vms = _ovirt().list_vms(connection)
            rows = [
                ({"vm": vm.name, "vm_id": vm.id, "state": vm.status}, (vm.name, vm.status, vm.id))
                for vm in vms
            ]
            context.out.table("vm", ("VM", "STATE", "ID"), rows)
            return Status.GOOD
        vm = _ovirt().find_vm(connection, args.vm)
        checkpoints = _ovirt().checkpoints(connection, vm)
    disks = [
        (
            {
                "disk": disk.name,
                "disk_id": disk.id,
                "size": disk.size,
                "backed_up": disk.can_be_backed_up,
            },
            (disk.name, size_text(disk.size), "yes" if disk.can_be_backed_up else "NO", disk.id),
        )
        for disk in vm.disks
    ]
    context.out.table(
        "disk",
        ("DISK", ">SIZE", "CAN BE BACKED UP", "ID"),
        disks,
        notes=[""] if disks and checkpoints else [],
    )
    if not disks:
        context.out.note(f"VM {vm.name} has no disks.")
    points = [
        (
            {
                "checkpoint_id": point.id,
                "created": point.created and point.created.isoformat(timespec="seconds"),
            },
            (time_text(point.created), point.id),
        )
        for point in checkpoints
    ]
    context.out.table("checkpoint", ("CHECKPOINT", "ID"), points)
    return Status.GOOD


def _ovirt() -> Any:
    """`tapestream.ovirt`, whose names need oVirt's SDK."""
    try:
        tapestream.ovirt.connect  # noqa: B018 - it is loaded here
    except ImportError as e:
        raise tapestream.TapestreamError(str(e)) from e
    return tapestream.ovirt


@contextmanager
def _connected(args: argparse.Namespace, context: Context) -> Iterator[Any]:
    """Log in to the engine. A signal interrupts this block, which then cleans up."""
    try:
        with (
            context.interruptible(),
            _ovirt().connect(args.config, args.section) as connection,
        ):
            yield connection
    except BaseException as e:
        for note in getattr(e, "__notes__", ()):
            context.out.warning(note)
        raise


@contextmanager
def _progress(context: Context, doing: str) -> Iterator[Callable[[Any], Any]]:
    """A function that shows the progress of one disk after the other."""
    with ExitStack() as shown:

        def of_disk(disk: Any) -> Any:
            shown.close()
            return shown.enter_context(context.out.progress(f"{doing} {disk.name}"))

        yield of_disk


def _source(place: str, args: argparse.Namespace, context: Context) -> Any:
    """A folder or a file by its path; a tape as what is on it."""
    if context.drives.find(place) is None:
        return place
    return archive_of([place], context, catalog=args.catalog)


def _only_name(archive: tapestream.archive.Archive, vm: str | None) -> str:
    """The name of the VM, if the backups have one for it.

    Raises:
        UsageError: There is none, or more than one.
    """
    found = [
        backup.info
        for backup in archive.backups
        if vm is None or vm in (backup.info.vm_id, backup.info.vm_name)
    ]
    names = {info.vm_name for info in found}
    if len(names) == 1 and (name := names.pop()) is not None:
        return name
    known = sorted({f"{b.info.vm_name or b.info.vm_id}" for b in archive.backups})
    if not known:
        what, hint = "there are no backups here, of any VM", "Check the path."
    elif not found:
        what, hint = f"there is no backup of VM {vm} here", ""
    elif len(names) > 1:
        what, hint = "there are backups of several VMs", "Pass --vm. "
    else:
        what, hint = "the backups do not say the name of their VM", "Pass --name. "
    if known:
        hint += f"There are backups of VM {', '.join(known)}."
    raise tapestream.errors.UsageError(what, hint=hint)


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise tapestream.errors.LocalIOError(f"cannot read {os.fspath(path)}", e) from e


def _show_end(done: str, report: Any, more: dict[str, object], context: Context) -> None:
    """Show how the backup or the restore of a VM has ended."""
    values = {
        "vm": report.vm_name,
        "vm_id": report.vm_id,
        "created": report.created and report.created.isoformat(timespec="seconds"),
        "disks": len(report.disks),
        "killed": [str(run) for run in report.killed],
        **more,
    }
    summary = _summary([disk.result for disk in report.disks])
    context.out.result(
        values, f"VM {report.vm_name} is {done}, as of {time_text(report.created)}: {summary}"
    )


def _summary(results: list[tapestream.CopyResult]) -> str:
    data = sum(result.data_bytes for result in results)
    seconds = sum(result.seconds for result in results)
    rate = rate_text(data / seconds if seconds else 0)
    disks = count_text(len(results), "disk")
    return f"{disks}, {size_text(data)} of data in {duration_text(seconds)} ({rate})"
