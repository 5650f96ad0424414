"""`tapestream tape`: the drive and its tape, what is on the tape, and its label."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import tapestream

from .._readable import disk_text, kind_text
from .amounts import size_text, time_text
from .catalog import add_catalog_commands
from .parsing import add_command, add_group
from .status import Status
from .tapes import wait_until_ready

if TYPE_CHECKING:
    import argparse

    from .context import Context
    from .parsing import Commands, Parser, Run

# What `mt status` calls the density codes of the cartridges that are in use.
_DENSITIES = {
    0x42: "LTO-2",
    0x44: "LTO-3",
    0x46: "LTO-4",
    0x58: "LTO-5",
    0x5A: "LTO-6",
    0x5C: "LTO-7",
    0x5D: "LTO-7 M8",
    0x5E: "LTO-8",
    0x60: "LTO-9",
}
# A row is shown as soon as its tape file was looked at, so the widths do not depend on the rows.
_ROW = "{:>4}  {:16}  {:11}  {:>9}  {:10}  {}"


def add_commands(commands: Commands) -> None:
    """Add `tapestream tape` and its commands."""
    tape = add_group(commands, "tape", "look at a tape drive, label tapes, find what is on which")
    status = _add_for_drive(
        tape,
        "status",
        _status,
        "show what a drive and its tape are doing",
        "The tape is not moved, unless you ask for its label.",
    )
    status.add_argument(
        "--label", action="store_true", help="also rewind the tape, and read its label"
    )
    label = _add_for_drive(
        tape,
        "label",
        _label,
        "give a tape a name",
        "A catalog finds backups by the labels of their tapes. What is on a tape is never\n"
        "overwritten, unless you say so.",
    )
    label.add_argument("name", metavar="NAME", help="what is also on the outside of the cartridge")
    label.add_argument(
        "--overwrite", action="store_true", help="give up everything that is on the tape"
    )
    scan = _add_for_drive(
        tape,
        "scan",
        _scan,
        "list what is on a tape",
        "This reads the beginning and the end of each tape file, and winds over the rest: that\n"
        "takes seconds to minutes. The exit status is 1 if a tape file cannot be read.",
    )
    scan.add_argument(
        "--catalog", metavar="FILE", help="also write what is found to this catalog of tapes"
    )
    _add_for_drive(tape, "rewind", _rewind, "go to the beginning of the tape")
    _add_for_drive(tape, "eject", _eject, "rewind the tape, and unload it")
    _add_for_drive(tape, "load", _load, "load the tape again that is in the drive")
    add_catalog_commands(tape)


def _add_for_drive(
    commands: Commands, name: str, run: Run, summary: str, details: str = ""
) -> Parser:
    parser = add_command(commands, name, run, summary, details=details)
    parser.add_argument(
        "device", metavar="DEVICE", help="a no-rewind tape device, such as /dev/nst0"
    )
    return parser


def _status(args: argparse.Namespace, context: Context) -> Status:
    with context.drives.get(args.device) as drive:
        if args.label:
            wait_until_ready(drive, context)
            drive.read_label()
            drive.rewind()
        status = drive.status()
        label = drive.tape_label
    values = {
        "device": args.device,
        "cartridge": _cartridge(status),
        "write_protected": status.write_protected,
        "file": status.file,
        "block": status.block,
        "block_size": status.block_size,
        "density": status.density,
        "label": label.name if label else None,
        "tape_id": label.tape_id if label else None,
        "label_was_read": args.label,
    }
    lines = {"drive": args.device, "cartridge": _cartridge(status)}
    if status.online:
        lines |= {
            "density": _density(status.density),
            "label": _label_text(label.name if label else None, was_read=args.label),
            "writing": "write-protected" if status.write_protected else "permitted",
            "position": _position(status),
            "blocks": f"of {status.block_size} bytes" if status.block_size else "of any size",
        }
    text = [f"{name:10} {value}" for name, value in lines.items()]
    context.out.show("drive", values, *text)
    return Status.GOOD


def _cartridge(status: tapestream.tape.TapeStatus) -> str:
    if status.online:
        return "loaded"
    return "none" if status.is_empty else "not ready"


def _density(code: int) -> str:
    return f"{_DENSITIES[code]} (0x{code:02x})" if code in _DENSITIES else f"0x{code:02x}"


def _label_text(label: str | None, *, was_read: bool) -> str:
    if not was_read:
        return "not read: --label rewinds the tape and reads it"
    return label or "none"


def _position(status: tapestream.tape.TapeStatus) -> str:
    if status.at_beginning:
        return "at the beginning"
    place = "not known"
    if status.file is not None:
        place = f"file {status.file}"
        if status.block is not None:
            place += f", block {status.block}"
    if status.at_end_of_data:
        place += ", after everything that is written"
    if status.at_end_of_tape:
        place += ", near the end of the tape"
    return place


def _label(args: argparse.Namespace, context: Context) -> Status:
    with context.drives.get(args.device) as drive:
        wait_until_ready(drive, context)
        before = None
        if args.overwrite:
            with suppress(tapestream.errors.TapeError):  # what cannot be read is given up, too
                before = drive.read_label()
        else:
            _check_blank(drive, args.name, context)
        drive.write_label(args.name, overwrite=args.overwrite)
        label = drive.tape_label
        drive.rewind()
    assert label is not None
    was = f"; it was {before}, and what was on it is given up" if before else ""
    context.out.result(
        {
            "device": args.device,
            "label": label.name,
            "tape_id": label.tape_id,
            "label_before": before,
        },
        f"{args.device}: the tape is now {label.name}{was}",
    )
    return Status.GOOD


def _check_blank(drive: tapestream.tape.TapeDrive, name: str, context: Context) -> None:
    """Show what is on the tape, and refuse to go on if that is anything.

    Raises:
        UsageError: There is something on the tape.
    """
    found = _Found(context)
    for entry in drive.scan(cancel=context.cancel):
        found.show(entry)
    if found.is_anything:
        raise tapestream.errors.UsageError(
            f"the tape in {drive.path} is not empty, so it was not labelled {name}",
            hint="To give up everything that is on it, pass --overwrite.",
        )


def _scan(args: argparse.Namespace, context: Context) -> Status:
    found = _Found(context)
    with context.drives.get(args.device) as drive:
        wait_until_ready(drive, context)
        if args.catalog is None:
            for entry in drive.scan(cancel=context.cancel):
                found.show(entry)
        else:
            with tapestream.tape.Catalog(args.catalog) as catalog:
                catalog.scan(drive, on_entry=found.show, cancel=context.cancel)
        drive.rewind()
        label = drive.label
    context.out.result(
        {"device": args.device, "label": label, "files": found.count, "catalog": args.catalog},
        _scanned_text(label, found, args.catalog),
    )
    return Status.FAILED if found.is_unreadable else Status.GOOD


def _scanned_text(label: str | None, found: _Found, catalog: str | None) -> str:
    tape = f"tape {label}" if label else "a tape without a label"
    text = f"{tape}: {found.backups} of {found.count} tape files are backups"
    return f"{text}; {catalog} has them now" if catalog else text


class _Found:
    """Shows one tape file after another, as soon as it was looked at."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.count = 0
        self.backups = 0
        self.is_anything = False
        self.is_unreadable = False

    def show(self, entry: tapestream.tape.TapeEntry) -> None:
        """Show a tape file, and the headings before the first one."""
        lines = [_row(entry)]
        if self.count == 0:
            lines.insert(0, _ROW.format("FILE", "TIME", "KIND", "DISK SIZE", "STATE", "NAME"))
        self.count += 1
        self.backups += entry.info is not None
        self.is_anything |= entry != type(entry)(entry.file)
        self.is_unreadable |= entry.is_unknown
        self._context.out.show("tape_file", _values(entry), *lines)


def _row(entry: tapestream.tape.TapeEntry) -> str:
    info = entry.info
    if info is not None:
        return _ROW.format(
            entry.file,
            time_text(info.created)[:16],  # without seconds: the row fits into 80 columns
            kind_text(info.context),
            size_text(info.size),
            _state(entry),
            _name(entry, info),
        )
    kind, name = ("label", entry.label) if entry.label else ("-", entry.problem or "it is empty")
    state = "unreadable" if entry.is_unknown else "" if entry.label else "no backup"
    return _ROW.format(entry.file, "-", kind, "-", state, name).rstrip()


def _state(entry: tapestream.tape.TapeEntry) -> str:
    if entry.continues:
        return "continues"
    return "complete" if entry.complete else "no end"


def _name(entry: tapestream.tape.TapeEntry, info: tapestream.BackupInfo) -> str:
    number = f", vol. {entry.volume}" if entry.volume > 1 else ""
    return f"{disk_text(info)}{number}"


def _values(entry: tapestream.tape.TapeEntry) -> dict[str, object]:
    return {
        "file": entry.file,
        "label": entry.label,
        "info": entry.info.to_dict() if entry.info else None,
        "complete": entry.complete,
        "continues": entry.continues,
        "volume": entry.volume if entry.info else None,
        "set_id": entry.set_id,
        "problem": entry.problem,
        "unreadable": entry.is_unknown,
    }


def _rewind(args: argparse.Namespace, context: Context) -> Status:
    with context.drives.get(args.device) as drive:
        wait_until_ready(drive, context)
        drive.rewind()
    return _done(args, context, "rewound")


def _eject(args: argparse.Namespace, context: Context) -> Status:
    with context.drives.get(args.device) as drive:
        drive.eject()
    return _done(args, context, "ejected")


def _load(args: argparse.Namespace, context: Context) -> Status:
    with context.drives.get(args.device) as drive:
        drive.load()
        wait_until_ready(drive, context)
    return _done(args, context, "loaded")


def _done(args: argparse.Namespace, context: Context, what: str) -> Status:
    context.out.result({"device": args.device, "done": what}, f"{args.device}: {what}")
    return Status.GOOD
