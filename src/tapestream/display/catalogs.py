"""`Catalog` and what is in it: which tape has which disks, and the chains of each disk."""

from __future__ import annotations

from collections import Counter, defaultdict

import tapestream

from .._readable import count_text, disk_text, size_text
from .archives import disks_of, lanes_of, table_of
from .bars import BARS, Bars, Piece
from .card import Card, Notes, Table

# Tapes that the table has, and disks that it names of each.
_TAPES = 24
_DISKS = 5


def show(value: tapestream.tape.Catalog | tapestream.tape.CatalogContents) -> Card:
    """Show the chains, and which disk is on which tape."""
    if isinstance(value, tapestream.tape.Catalog):
        how = "contents() reads what is in it, and shows it."
        return Card("Catalog", value.path, (Notes((how,)),))
    backups = [tapestream.archive.TapeBackup(entry) for entry in value.backups]
    disks = disks_of(tapestream.archive.Archive(backups))
    bad = sum(disk.bad for disk in disks)
    lead = f"{count_text(len(backups), 'backup')} on {count_text(len(value.tapes), 'tape')}"
    if bad:
        lead += f"; {count_text(bad, 'point')} in time cannot be restored"
    return Card(
        "Catalog",
        lead,
        (lanes_of(disks), _bars(value), _tapes(value), table_of(disks)),
        good=None if not backups else not bad,
    )


def _bars(contents: tapestream.tape.CatalogContents) -> Bars:
    """A bar for each tape, if the lengths of its files are known."""
    files: dict[str, list[tuple[int, Piece]]] = defaultdict(list)
    for backup in contents.backups:
        for volume in backup.volumes:
            files[volume.label].append((volume.file, Piece(_state(backup, volume), volume.length)))
    if not any(piece.length for pieces in files.values() for _, piece in pieces):
        return Bars(())
    bars = [
        (label, tuple(piece for _, piece in sorted(files[label])))
        for label in contents.tapes[:BARS]
    ]
    return Bars(tuple(bars), of=len(contents.tapes))


def _state(backup: tapestream.tape.CatalogBackup, volume: tapestream.tape.CatalogVolume) -> str:
    if volume.complete and not volume.continues:
        return "complete"
    # What the end of a tape has cut off is on the next one, if the backup is complete.
    return "continues" if volume.continues or backup.complete else "no end"


def _tapes(contents: tapestream.tape.CatalogContents) -> Table:
    """A row for each tape, with the disks of which it has tape files."""
    files: dict[str, Counter[str]] = defaultdict(Counter)
    lengths: Counter[str] = Counter()
    for backup in contents.backups:
        for volume in backup.volumes:
            files[volume.label][disk_text(backup.info)] += 1
            lengths[volume.label] += volume.length
    rows = tuple(
        (
            label,
            f"{files[label].total():,}",
            size_text(lengths[label]) if lengths[label] else "-",
            "; ".join(_named(files[label])),
        )
        for label in contents.tapes[:_TAPES]
    )
    headings = ("tape", ">files", ">size", "with backups of~")
    return Table(headings, rows, of=len(contents.tapes))


def _named(files: Counter[str]) -> list[str]:
    names = sorted(files)
    more = [f"and {len(names) - _DISKS} more"] if len(names) > _DISKS else []
    return [*names[:_DISKS], *more]
