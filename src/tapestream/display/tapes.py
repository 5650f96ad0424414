"""`TapeContents` and `TapeReport`: what is on a tape, and on which tapes a backup is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import tapestream

from .._readable import count_text, rate_text, size_text, time_text
from .._typing import override
from .card import (
    BAD,
    WIDTH,
    Card,
    Key,
    Notes,
    Page,
    Part,
    Table,
    fitted,
    fold_of_facts,
    legend,
    svg,
)
from .infos import kind_of, name_of

# Tape files that are drawn apart, and those that are listed.
_FILES = 100
_ROWS = 40
_ROOM = 10_000
# Files that cannot be read, or are no backups, of which it is said why.
_PROBLEMS = 5
_HEIGHT = 34
# What a file is, with the color and the opacity of its part of the bar, and its mark in text.
_LOOKS = {
    "complete": ("#3f88c5", 1.0, "█", "#"),
    "continues": ("#3f88c5", 0.6, "▓", "+"),
    "no end": (BAD, 1.0, "x", "x"),
    "label": ("currentColor", 0.5, "=", "="),
    "no backup": ("currentColor", 0.3, "░", "."),
}


@dataclass(frozen=True)
class Bar(Part):
    """A cartridge as a bar: a part for each tape file, by its length.

    Attributes:
        entries: The tape files.
    """

    entries: Sequence[tapestream.tape.TapeEntry]

    @override
    def html(self) -> str:
        parts = _parts(self.entries, _FILES)
        if not parts:
            return ""
        # Also a short file is seen; what is left is shared by length.
        least = min(6.0, WIDTH / len(parts) / 2)
        scale = (WIDTH - least * len(parts)) / sum(length for _, length in parts)
        drawn, x = [], 0.0
        for state, length in parts:
            color, opacity, _, _ = _LOOKS[state]
            width = least + length * scale
            drawn.append(
                f'<rect x="{x:.1f}" y="0" width="{max(width - 1, 0.5):.1f}" height="{_HEIGHT}" '
                f'fill="{color}" fill-opacity="{opacity:g}"/>'
            )
            x += width
        keys = [
            Key(state, color, opacity)
            for state, (color, opacity, _, _) in _LOOKS.items()
            if any(state == each for each, _ in parts)
        ]
        return svg(WIDTH, _HEIGHT, "the files of the tape", "".join(drawn)) + legend(keys)

    @override
    def text(self, page: Page) -> list[str]:
        width = page.width - 4
        parts = _parts(self.entries, width // 3)
        if not parts:
            return []
        total = sum(length for _, length in parts)
        room = width - 2 * len(parts)
        bar = "|".join(
            page.drawn(*_LOOKS[state][2:]) * (1 + int(room * length / total))
            for state, length in parts
        )
        keys = "   ".join(
            f"{page.drawn(*_LOOKS[state][2:])} {state}"
            for state in _LOOKS
            if any(state == each for each, _ in parts)
        )
        return [f"  {bar}", fitted(f"  {keys}", page)]


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
    return Card(name, lead, (Bar(entries), _problems(entries), table_of(entries)))


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
            f"{name_of(entry.info)}{f', volume {entry.volume}' if entry.volume > 1 else ''}"
            if entry.info
            else entry.what,
        )
        for entry in entries[:_ROWS]
    )
    headings = (">file", "taken", "kind", ">on tape", "state", "what")
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
    return Table((">volume", "tape", ">file", "drive"), rows, of=len(report.places))


def _report(report: tapestream.tape.TapeReport) -> Card:
    volumes = count_text(len(report.places), "volume")
    return Card(
        f"On tape: {name_of(report.info)}, {time_text(report.info.created)}",
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


def _parts(entries: Sequence[tapestream.tape.TapeEntry], most: int) -> list[tuple[str, int]]:
    """(state, length) of each part of the bar. A longer tape has one for files alike."""
    # A file whose length is not known gets the width of an average one.
    known = [entry.length for entry in entries if entry.length]
    average = sum(known) // len(known) if known else 1
    parts = [(_state(e), e.length or (average if e.info else 1)) for e in entries]
    if len(parts) > most:
        parts = [
            (state, sum(length for _, length in files))
            for state, files in groupby(parts, key=lambda part: part[0])
        ]
    return parts[:most]
