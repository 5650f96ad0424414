"""Sizes, rates, durations, times and names, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from .model.info import BackupInfo


def size_text(size: float) -> str:
    """A size of a disk or a file, such as "1.5 GiB"."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        # 1023.96 KiB would be shown as "1024.0 KiB".
        if round(size / 1024**power, 1) >= 1:
            return f"{size / 1024**power:.1f} {unit}"
    return f"{size:.0f} B"


def rate_text(rate: float) -> str:
    """Bytes per second, such as "112 MB/s"."""
    return f"{rate / 1e6:.0f} MB/s" if rate >= 10e6 else f"{rate / 1e6:.1f} MB/s"


def duration_text(seconds: float) -> str:
    """A duration, such as "1:02:03"."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def seconds_text(seconds: float) -> str:
    """A duration that may be short, such as "2.5 s" or "1:02:03"."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else duration_text(seconds)


def time_text(time: datetime | None) -> str:
    """A time in the local time zone; "-" if it is not known."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time is not None else "-"


def count_text(count: int, one: str, many: str = "") -> str:
    """A number of things, such as "2 backups"; `many` if more than one is not `one` with an "s"."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def kind_text(context: str) -> str:
    """The kind of a backup, from the context of its extents: full or incremental."""
    return "full" if context == "zero" else "incremental"


def disk_text(info: BackupInfo) -> str:
    """The VM and the disk of a backup, by their names or ids."""
    return f"{info.vm_name or info.vm_id or '-'}, {info.disk_name or info.disk_id or '-'}"


def printable(text: str) -> str:
    """Escape what would change a terminal: a name in a tar may have any characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata  # noqa: PLC0415 - most names are ASCII

    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(bool(unicodedata.combining(character)) for character in text)


def shortened(text: str, width: int) -> str:
    """At most this many characters of a text. Names often differ only at their ends."""
    if len(text) <= width:
        return text
    end = (width - 3) // 2
    return f"{text[: width - 3 - end]}...{text[-end:]}"
