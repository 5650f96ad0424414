"""Backups to tape and from tape: which tape, which file, and where they are in a catalog."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import tapestream

from .._readable import count_text
from .conditions import refuse
from .parsing import Parser
from .volumes import asks_for_tapes, load_tape

if TYPE_CHECKING:
    import argparse

    from .context import Context

# What an option for tapes is, and which drive it is for.
_OF_A_DRIVE = {
    "--catalog": ("names a catalog of tapes", "the drive that reads the tapes"),
    "--file": ("is the number of a file on a tape", "the drive"),
}
# Seconds after which to say that a drive is still loading its tape.
_PATIENCE = 2


def add_file_option(parser: Parser) -> None:
    """Add --file."""
    parser.add_argument(
        "--file",
        metavar="N",
        type=int,
        help="of a tape, the backup in this tape file, as 'tapestream tape scan' numbers them",
    )


def add_catalog_option(parser: Parser) -> None:
    """Add --catalog, for backups that are read from tape."""
    parser.add_argument(
        "--catalog",
        metavar="FILE",
        help="find the backups in this catalog, and ask for the tapes that have them (default: "
        "only those on the tape in the drive)",
    )


def check_drive_options(
    args: argparse.Namespace, places: Iterable[str], context: Context, *options: str
) -> None:
    """Make sure that options for tapes are of use: one of the places is a tape drive.

    Args:
        args: The arguments.
        places: What is read.
        context: Of the command.
        options: "--catalog", "--file", or both.

    Raises:
        UsageError: No place is a drive, and one of the options was given.
    """
    if any(map(context.drives.find, places)):
        return
    for option in options:
        what, drive = _OF_A_DRIVE[option]
        refuse(
            args,
            option,
            why=f"{what}, but no tape drive was passed",
            hint=f"Leave it out, or pass {drive}, such as /dev/nst0.",
        )


def add_target_options(parser: Parser) -> None:
    """Add --label and --catalog, for backups that are written to tape."""
    group = parser.add_argument_group("tapes")
    add_label_option(group)
    group.add_argument(
        "--catalog", metavar="FILE", help="remember in this catalog on which tape the backup is"
    )


def add_label_option(parser: Parser | argparse._ArgumentGroup) -> None:
    """Add --label."""
    parser.add_argument("--label", metavar="NAME", help="write only to the tape with this label")


def wait_until_ready(drive: tapestream.tape.TapeDrive, context: Context) -> None:
    """Wait without limit while the drive loads a tape, but not for somebody to bring one.

    Raises:
        NoMediumError: The drive is empty.
    """
    if drive.status().is_empty:
        raise tapestream.errors.NoMediumError(
            f"{drive.path}: there is no tape in the drive", hint="Load one, and try again."
        )
    said = False

    def say_once(seconds: float) -> None:
        nonlocal said
        if seconds >= _PATIENCE and not said:
            said = True
            context.out.note(
                f"{drive.path}: waiting until the tape is loaded; the first time, that can take "
                "two hours (LTO-9)"
            )

    drive.wait_ready(on_wait=say_once, cancel=context.cancel)


def check_target(
    drive: tapestream.tape.TapeDrive | None,
    args: argparse.Namespace,
    context: Context,
    *options: str,
) -> None:
    """Make sure that a backup can be written to the tape in a drive, by the target's options.

    Args:
        drive: The drive; None if the target is something else.
        args: The arguments.
        context: Of the command.
        options: Those that have an effect on a drive only; by default --label and --catalog.

    Raises:
        UsageError: The target is no drive, and an option is for tapes.
        TapeError: As `check_tape`.
    """
    if drive is not None:
        check_tape(drive, context, label=args.label, catalog=args.catalog)
        return
    refuse(
        args,
        *(options or ("--label", "--catalog")),
        why="is for tapes, but TARGET is not a tape drive",
        hint="Leave it out, or pass a drive, such as /dev/nst0.",
    )


def check_tape(
    drive: tapestream.tape.TapeDrive,
    context: Context,
    *,
    label: str | None = None,
    catalog: str | None = None,
) -> None:
    """Make sure that a backup can be written to the tape in a drive.

    Args:
        drive: The drive.
        context: Of the command.
        label: The label that the tape must have; None for any, or none.
        catalog: The catalog that will remember it; None if it need not have a label.

    Raises:
        WrongTapeError: It has another label, or none.
        WriteProtectedError: It cannot be written.
        NoMediumError: There is none.
    """
    wait_until_ready(drive, context)
    if drive.status().write_protected:
        raise tapestream.errors.WriteProtectedError(f"{drive.path}: the tape is write-protected")
    if label is None and catalog is None:
        return
    found = drive.read_label()
    if label not in (None, found) or found is None:
        raise tapestream.errors.WrongTapeError(
            f"{drive.path}: the tape has {f'the label {found}' if found else 'no label'}"
            f"{f', not {label}' if label else ', so no catalog can find it'}; nothing was written"
        )


def remember(result: tapestream.CopyResult, catalog: str | None) -> None:
    """Write to the catalog on which tape a backup is; do nothing without a catalog or a tape."""
    if catalog is not None and result.receipt is not None:
        with tapestream.tape.Catalog(catalog) as opened:
            opened.add(result.receipt)


def read_tapes(
    drive: tapestream.tape.TapeDrive, catalog: str | None, context: Context
) -> tapestream.archive.Archive:
    """The backups on the tape in a drive; with a catalog, those on all tapes that it knows."""
    ask = asks_for_tapes(context, catalog)
    if catalog is None:
        wait_until_ready(drive, context)
        archive = tapestream.archive.read_tape(drive, on_next_volume=ask, cancel=context.cancel)
        context.out.note(f"{drive.path}: {count_text(len(archive.backups), 'backup')} on the tape")
        return archive

    def loaded(backup: tapestream.tape.CatalogBackup) -> tapestream.tape.TapeDrive:
        load_tape(drive, backup.volumes[0].label, context)
        return drive

    with tapestream.tape.Catalog(catalog) as opened:
        return tapestream.archive.read_catalog(opened, loaded, on_next_volume=ask)
