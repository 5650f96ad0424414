"""The label of a tape: its first tape file, a tar that says what the tape is called."""

from __future__ import annotations

import json
import time

from ..errors import CorruptStreamError, UsageError
from ..tar import format as fmt
from .records import MIN_RECORD

MEMBER = "tape-label.json"
_FORMAT = "tapestream-label"
_LONGEST = 200


def label_record(label: str) -> bytes:
    """The one record of a label's tape file.

    Raises:
        UsageError: It is not a short text of one line.
    """
    if not label or not label.isprintable() or len(label) > _LONGEST:
        raise UsageError(f"a label must be a short text of one line, not {label!r}")
    now = int(time.time())
    values = {
        "format": _FORMAT,
        "version": 1,
        "label": label,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
    }
    text = json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"
    tar = fmt.HeaderWriter(now).header(MEMBER, len(text)) + text
    return tar.ljust(MIN_RECORD, b"\0")


def label_in(record: bytes) -> str | None:
    """The label in the first record of a tape; None if it is no label."""
    if not record.startswith(MEMBER.encode() + b"\0") or len(record) < fmt.BLOCK:
        return None
    try:
        header = fmt.parse_header(record[: fmt.BLOCK])
        text = record[fmt.BLOCK : fmt.BLOCK + header.size] if header else b""
        values = fmt.decode_object(MEMBER, text)
    except CorruptStreamError:
        return None
    label = values.get("label")
    return label if values.get("format") == _FORMAT and isinstance(label, str) else None
