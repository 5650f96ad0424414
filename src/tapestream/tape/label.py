"""The label of a tape: its first tape file, a small tar with the name and the id of the tape."""

from __future__ import annotations

import json
import time
import uuid
from typing import TypeGuard

from ..drive.position import PositionedDrive
from ..drive.records import MIN_RECORD
from ..errors import CorruptStreamError, UsageError
from ..tar import format as fmt
from ..tar.fields import decode_object
from ..tar.members import MemberReader
from .report import TapeLabel

MEMBER = "tape-label.json"
# What `PositionedDrive.remembered` is for a tape that has no label.
NO_LABEL = TapeLabel("")
_FORMAT = "tapestream-label"
_LONGEST = 200
# How many ids of earlier labels a label keeps: one a week for two years. The record has room.
_MOST_REPLACED = 100
_LONGEST_ID = 64


def label_record(label: TapeLabel, block_size: int = 0) -> bytes:
    """The one record of a label's tape file.

    Args:
        label: The label to write.
        block_size: The drive's block size in bytes: in fixed mode it accepts only whole blocks.

    Raises:
        UsageError: The name is not a short text of one line.
    """
    if not _is_name(label.name):
        raise UsageError(f"a label must be a short text of one line, not {label.name!r}")
    # A wrong clock must not prevent a label.
    now = min(max(int(time.time()), 0), fmt.MAX_MEMBER)
    values = {
        "format": _FORMAT,
        "version": 1,
        "label": label.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "tape_id": label.tape_id,
        "replaces": label.replaces,
    }
    text = json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"
    tar = fmt.HeaderWriter(now).header(MEMBER, len(text)) + text
    size = max(MIN_RECORD, len(tar))
    return tar.ljust(size + fmt.padding(size, block_size or 1), b"\0")


def new_label(name: str, before: TapeLabel | None) -> TapeLabel:
    """Make a label with a new id.

    Args:
        name: The name of the tape.
        before: The label that will be overwritten; None if there is none.
    """
    if before is None or before.tape_id is None:
        return TapeLabel(name, str(uuid.uuid4()))
    replaces = (before.tape_id, *before.replaces)[:_MOST_REPLACED]
    return TapeLabel(name, str(uuid.uuid4()), replaces)


def is_label(first: bytes) -> bool:
    """Whether a tape file that begins with this is a label."""
    return first.startswith(MEMBER.encode() + b"\0")


def read_label(members: MemberReader) -> TapeLabel:
    """Read the label from a tape file that begins with one.

    Raises:
        StreamError: The label is damaged.
    """
    values = decode_object(MEMBER, members.read_first_member(MEMBER, MIN_RECORD))
    name = values.get("label")
    if values.get("format") != _FORMAT or not isinstance(name, str) or not _is_name(name):
        raise CorruptStreamError(f"{MEMBER} is not a label")
    # Early versions wrote labels without an id; the time then identifies the label.
    tape_id = values.get("tape_id") or values.get("created")
    replaces = values.get("replaces")
    return TapeLabel(
        name,
        tape_id if _is_id(tape_id) else None,
        tuple(filter(_is_id, replaces[:_MOST_REPLACED])) if isinstance(replaces, list) else (),
    )


def remembered_label(drive: PositionedDrive) -> TapeLabel | None:
    """The label of the tape in a drive; None if it has none, or if that is not known."""
    known = drive.remembered
    return known if isinstance(known, TapeLabel) and known != NO_LABEL else None


def _is_name(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and bool(name) and name.isprintable() and len(name) <= _LONGEST


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _is_name(value) and len(value) <= _LONGEST_ID
