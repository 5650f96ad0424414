"""How commands show a backup: a row of a table for people, an object for programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .._readable import kind_text
from .amounts import size_text, time_text

if TYPE_CHECKING:
    import tapestream

    from .output import Output

TITLES = ("VM~", "DISK~", "WHEN", "KIND", ">SIZE", "OK", "PLACE~")


class Found(NamedTuple):
    """A backup, as far as it is known without reading it all.

    Attributes:
        info: What it says about itself.
        place: Where it is.
        stored: Bytes of its file; None if that is not known.
        problem: Why it is not complete; "" if it is, None if that is not known.
    """

    info: tapestream.BackupInfo
    place: str
    stored: int | None
    problem: str | None

    @property
    def values(self) -> dict[str, object]:
        """For programs."""
        return {
            **{name: value for name, value in self.info.to_dict().items() if name != "metadata"},
            "kind": kind_text(self.info.context),
            "place": self.place,
            "stored": self.stored,
            "complete": None if self.problem is None else not self.problem,
            "problem": self.problem or None,
        }

    @property
    def cells(self) -> tuple[str, ...]:
        """For people."""
        info = self.info
        return (
            info.vm_name or info.vm_id or "-",
            info.disk_name or info.disk_id or "-",
            time_text(info.created),
            kind_text(info.context),
            "-" if self.stored is None else size_text(self.stored),
            "-" if self.problem is None else ("NO" if self.problem else "yes"),
            self.place,
        )


def found_in(backup: tapestream.archive.StoredBackup, folder: str = "") -> Found:
    """A backup of an archive; its place is shown without the folder."""
    place = backup.place
    if folder and os.path.dirname(place) == folder.rstrip("/"):
        place = os.path.basename(place)
    return Found(backup.info, place, getattr(backup, "size", None), backup.problem or "")


def show_backups(
    found: Iterable[Found], out: Output, *, event: str = "backup", more: Sequence[str] = ()
) -> None:
    """Show backups as a table; after it, what is wrong with some of them, and more for people."""
    backups = list(found)
    rows = [(backup.values, backup.cells) for backup in backups]
    notes = [f"{backup.place}: {backup.problem}" for backup in backups if backup.problem]
    out.table(event, TITLES, rows, notes=[*notes, *more])
