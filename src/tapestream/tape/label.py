"""The label of a tape: its first tape file, a tar that says what the tape is called."""

from __future__ import annotations

import json
import time

from ..errors import CorruptStreamError, UsageError
from ..tar import format as fmt
from ..tar.members import MemberReader
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


def is_label(first: bytes) -> bool:
    """Whether a tape file that begins with this is a label."""
    return first.startswith(MEMBER.encode() + b"\0")


def read_label(members: MemberReader) -> str:
    """The label in a tape file that begins with one.

    Raises:
        StreamError: It is damaged.
    """
    values = fmt.decode_object(MEMBER, members.first(MEMBER, MIN_RECORD))
    label = values.get("label")
    if values.get("format") != _FORMAT or not isinstance(label, str):
        raise CorruptStreamError(f"{MEMBER} is not a label")
    return label
