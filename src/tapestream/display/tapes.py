"""`TapeContents` and `TapeReport`: what is on a tape, and on which tapes a backup is."""

from __future__ import annotations

from collections.abc import Sequence

import tapestream

from .._readable import count_text, disk_text, rate_text, size_text, time_text
from .bars import Bars, Piece
from .card import Card, Notes, Table, fold_of_facts
from .infos import kind_of

# Tape files that are listed.
_ROWS = 40
_ROOM = 10_000
# Files that cannot be read, or are no backups, of which it is said why.
_PROBLEMS = 5


def show(value: tapestream.tape.TapeContents | tapestream.tape.TapeReport) -> Card:
    """Show what is on the tape, or where the backup is."""
    if isinstance(value, tapestream.tape.TapeReport):
        return _report(value)
    entries = value.entries
    bad = sum(not each.complete and not each.continues for each in value.backups)
    lead = f"{count_text(len(value.backups), 'backup')} in {count_text(len(entries), 'file')}"
    if length := sum(entry.length for entry in entries):
        lead += f", {size_text(length)}"
    if bad:
        lead += f"; {bad} without an end"
    name = f"Tape {value.label}" if value.label else "A tape without a label"
    return Card(name, lead, (_bar(entries), _problems(entries), table_of(entries)))


def _problems(entries: Sequence[tapestream.tape.TapeEntry]) -> Notes:
    found = [f"file {entry.file}: {entry.problem}" for entry in entries if entry.problem]
    more = len(found) - _PROBLEMS
    others = [f"and {count_text(more, 'other file')}"] if more > 0 else []
    return Notes((*found[:_PROBLEMS], *others))


def table_of(entries: Sequence[tapestream.tape.TapeEntry]) -> Table:
    """The tape files as a table."""
    rows = tuple(
        (
            str(entry.file),
            time_text(entry.info.created)[:16] if entry.info else "-",
            kind_of(entry.info) if entry.info else "-",
            size_text(entry.length) if entry.length else "-",
            _state(entry),
            f"{disk_text(entry.info)}{f', volume {entry.volume}' if entry.volume > 1 else ''}"
            if entry.info
            else entry.what,
        )
        for entry in entries[:_ROWS]
    )
    headings = (">file", "taken", "kind", ">on tape", "state", "what~")
    return Table(headings, rows, of=len(entries), room=_ROOM)


def places_of(report: tapestream.tape.TapeReport) -> Table:
    """Where the volumes of a backup are, as a table."""
    rows = tuple(
        (
            str(place.volume),
            place.label or "-",
            "-" if place.file is None else str(place.file),
            place.drive,
        )
        for place in report.places[:_ROWS]
    )
    return Table((">volume", "tape~", ">file", "drive~"), rows, of=len(report.places))


def _report(report: tapestream.tape.TapeReport) -> Card:
    volumes = count_text(len(report.places), "volume")
    return Card(
        f"On tape: {disk_text(report.info)}, {time_text(report.info.created)}",
        f"{size_text(report.record_bytes)} in {volumes}, at {rate_text(report.rate)}"
        + ("" if report.complete else "; not complete"),
        (
            places_of(report),
            fold_of_facts("more", (("records", f"{report.records:,}"), ("set", report.set_id))),
        ),
        good=report.complete,
    )


def _state(entry: tapestream.tape.TapeEntry) -> str:
    if entry.info is None:
        return "label" if entry.label else "no backup"
    if entry.continues:
        return "continues"
    return "complete" if entry.complete else "no end"


def _bar(entries: Sequence[tapestream.tape.TapeEntry]) -> Bars:
    # A file whose length is not known gets the width of an average one.
    known = [entry.length for entry in entries if entry.length]
    average = sum(known) // len(known) if known else 1
    pieces = [Piece(_state(e), e.length or (average if e.info else 1)) for e in entries]
    return Bars((("", tuple(pieces)),))
