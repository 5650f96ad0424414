"""Points in time, as people and programs write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from ..errors import UsageError

_TEXT = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[ T](?P<minute>\d\d:\d\d)(?P<second>:\d\d)?"
    r" ?(?P<zone>Z|UTC|[+-]\d\d:\d\d|[A-Za-z]{1,10})?",
    re.ASCII,
)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_HINT = (
    "Write it like '2026-11-18 23:30', in the local time of this machine, or with a time zone: "
    "'2026-11-18 23:30 UTC', '2026-11-18 23:30+01:00'."
)


def moment_of(at: datetime | str | None) -> datetime | None:
    """The last moment that counts as `at`, in UTC; None stays None.

    Args:
        at: A datetime with a time zone; or a text, in local time unless it names a zone. A text
            without seconds means the whole minute. If a local time comes twice, because clocks are
            set back, it is the first of the two.

    Raises:
        UsageError: It is no point in time, or a datetime without a time zone.
    """
    if at is None:
        return None
    try:
        if isinstance(at, str):
            return _parsed(at).astimezone(timezone.utc)
        if isinstance(at, datetime) and at.utcoffset() is not None:
            return at.astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError) as e:
        if isinstance(at, str) and _DAY.fullmatch(at.strip()):
            raise UsageError(
                f"at has no time of day: {at!r}",
                hint=f"For the end of that day: '{at.strip()} 23:59'.",
            ) from e
        raise UsageError(f"at is no point in time: {at!r}", hint=_HINT) from e
    if isinstance(at, datetime):
        raise UsageError(
            f"at has no time zone: {at!r}", hint="For local time, pass at.astimezone()."
        )
    raise UsageError(f"at must be a datetime, a text or None, not {at!r}", hint=_HINT)


def moment_text(time: datetime) -> str:
    """A time in the local time zone, as `moment_of` reads it: it leads to the same second."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _parsed(text: str) -> datetime:
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError("not of this form")
    time = datetime.fromisoformat(f"{match['date']} {match['minute']}{match['second'] or ':59'}")
    # Times of backups are kept to the second, those of others may be finer.
    time += timedelta(microseconds=999_999)
    zone = match["zone"]
    if zone in ("Z", "UTC"):
        return time.replace(tzinfo=timezone.utc)
    if zone is not None and zone[0] in "+-":
        return datetime.fromisoformat(f"{time.isoformat()}{zone}")
    for fold in (0, 1):
        local = time.replace(fold=fold).astimezone()
        if zone in (None, local.tzname()):
            return local
    raise ValueError("not a time zone of this machine")
