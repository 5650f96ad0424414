"""`tapestream tape catalog`, `find` and `forget`: what a catalog of tapes knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tapestream

from .._readable import count_text, disk_text, kind_text
from .amounts import size_text, time_text
from .parsing import add_command
from .places import add_time_option
from .status import Status
from .tables import table

if TYPE_CHECKING:
    import argparse

    from .context import Context
    from .parsing import Commands, Parser, Run


def add_catalog_commands(tape: Commands) -> None:
    """Add what needs a catalog, and no drive."""
    listed = _add(tape, "catalog", _catalog, "list the tapes and backups that a catalog knows")
    _add_disk_options(listed)
    found = _add(
        tape,
        "find",
        _find,
        "find which tapes a restore needs",
        "That is for the newest backup at or before --at: the full backup, and the incremental\n"
        "ones after it, oldest first.",
    )
    _add_disk_options(found)
    add_time_option(found)
    forgotten = _add(
        tape, "forget", _forget, "remove a tape that was lost, or overwritten by another program"
    )
    forgotten.add_argument("label", metavar="LABEL", help="the label, as the catalog has it")


def _add(commands: Commands, name: str, run: Run, summary: str, details: str = "") -> Parser:
    parser = add_command(commands, name, run, summary, details=details)
    parser.add_argument("catalog", metavar="CATALOG", help="a catalog of tapes, such as tapes.db")
    return parser


def _add_disk_options(parser: Parser) -> None:
    parser.add_argument("--vm", metavar="VM", help="name or id of the VM")
    parser.add_argument("--disk", metavar="DISK", help="name or id of the disk")


def _opened(path: str) -> tapestream.tape.Catalog:
    """Open a catalog that exists: looking into one must not make it.

    Raises:
        LocalIOError: There is none.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as e:
        raise tapestream.errors.LocalIOError(f"cannot open the catalog {path}", e) from e
    return tapestream.tape.Catalog(path)


def _catalog(args: argparse.Namespace, context: Context) -> Status:
    with _opened(args.catalog) as catalog:
        tapes = catalog.tapes()
        backups = [
            backup for backup in catalog.find(incomplete=True) if _is_of(backup, args.vm, args.disk)
        ]
    _show_tapes(tapes, backups, context)
    if backups:
        _show_backups(backups, context)
    context.out.result(
        {"catalog": args.catalog, "tapes": len(tapes), "backups": len(backups)},
        "",
        f"{args.catalog}: {count_text(len(tapes), 'tape')}, {count_text(len(backups), 'backup')}",
    )
    return Status.GOOD


def _is_of(backup: tapestream.tape.CatalogBackup, vm: str | None, disk: str | None) -> bool:
    info = backup.info
    return (vm is None or vm in (info.vm_id, info.vm_name)) and (
        disk is None or disk in (info.disk_id, info.disk_name)
    )


def _show_tapes(
    tapes: list[str], backups: list[tapestream.tape.CatalogBackup], context: Context
) -> None:
    rows, values = [], []
    for label in tapes:
        here = [b for b in backups if any(volume.label == label for volume in b.volumes)]
        newest = max((b.info.created for b in here if b.info.created), default=None)
        values.append(
            {
                "label": label,
                "backups": len(here),
                "newest": newest.isoformat() if newest else None,
            }
        )
        rows.append((label, str(len(here)), time_text(newest)))
    _show_rows(context, "tape", values, table(("TAPE", ">BACKUPS", "NEWEST"), rows))


def _show_backups(backups: list[tapestream.tape.CatalogBackup], context: Context) -> None:
    rows = [
        (
            time_text(backup.info.created),
            kind_text(backup.info.context),
            size_text(backup.info.size),
            "complete" if backup.complete else "not complete",
            _places(backup),
            disk_text(backup.info),
        )
        for backup in backups
    ]
    lines = table(("TIME", "KIND", ">DISK SIZE", "STATE", "TAPE:FILE", "NAME~"), rows)
    _show_rows(context, "backup", [_values(backup) for backup in backups], ["", *lines])


def _show_rows(
    context: Context, event: str, values: list[dict[str, object]], lines: list[str]
) -> None:
    """Show the rows of a table, and what comes before them together with the first of them."""
    headings, rows = lines[: len(lines) - len(values)], lines[len(lines) - len(values) :]
    for row, each in zip(rows, values, strict=True):
        context.out.show(event, each, *headings, row)
        headings = []


def _places(backup: tapestream.tape.CatalogBackup) -> str:
    return ", ".join(f"{volume.label}:{volume.file}" for volume in backup.volumes)


def _values(backup: tapestream.tape.CatalogBackup) -> dict[str, object]:
    return {
        "info": backup.info.to_dict(),
        "set_id": backup.set_id,
        "complete": backup.complete,
        "volumes": [
            {"label": volume.label, "file": volume.file, "volume": volume.volume}
            for volume in backup.volumes
        ],
    }


def _find(args: argparse.Namespace, context: Context) -> Status:
    with _opened(args.catalog) as catalog:
        archive = tapestream.archive.read_catalog(catalog)
    chain = archive.find(vm=args.vm, disk=args.disk, at=args.at)
    found = [b.entry for b in chain.backups if isinstance(b, tapestream.archive.TapeBackup)]
    rows = [
        (volume.label, str(volume.file), str(volume.volume), *_when_and_what(backup))
        for backup in found
        for volume in _needed(backup)
    ]
    lines = table(("TAPE", ">FILE", ">VOLUME", "TIME", "KIND", "NAME~"), rows)
    context.out.show("chain", {"backups": [_values(backup) for backup in found]}, *lines)
    tapes = list(dict.fromkeys(row[0] for row in rows))
    word = "tape" if len(tapes) == 1 else "tapes"
    context.out.result({"tapes": tapes}, "", f"A restore needs {word} {', '.join(tapes)}.")
    return Status.GOOD


def _when_and_what(backup: tapestream.tape.CatalogBackup) -> tuple[str, str, str]:
    info = backup.info
    return time_text(info.created), kind_text(info.context), disk_text(info)


def _needed(backup: tapestream.tape.CatalogBackup) -> list[tapestream.tape.CatalogVolume]:
    """One copy of each volume: the one that a restore should read."""
    first: dict[int, tapestream.tape.CatalogVolume] = {}
    for volume in backup.volumes:
        first.setdefault(volume.volume, volume)
    return list(first.values())


def _forget(args: argparse.Namespace, context: Context) -> Status:
    with _opened(args.catalog) as catalog:
        is_known = args.label in catalog.tapes()
        catalog.forget(args.label)
    text = f"{args.catalog}: forgot tape {args.label}"
    if not is_known:
        text = f"{args.catalog}: there was no tape {args.label}"
    context.out.result({"label": args.label, "was_known": is_known}, text)
    return Status.GOOD
