"""`backup-info.json`, the first member: what the backup is, and how its stream is laid out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import CorruptStreamError, ForeignStreamError, NewerFormatError, UsageError
from ..model.info import BackupInfo
from .digests import ALGORITHMS
from .fields import choice, decode_object, number, string
from .format import (
    ATTACHMENTS,
    BLOCK,
    EXTENTS,
    FORMAT,
    GIB,
    INFO,
    MAX_ATTACHMENTS,
    MAX_EXTENTS,
    MAX_FILES,
    MAX_MEMBER,
    VERSION,
    Header,
    segment_size,
)


def resembles(name: str, other: str) -> bool:
    """Whether a damaged name begins like `other`, with at most two wrong characters."""
    return sum(a == b for a, b in zip(name, other, strict=False)) > len(other) - 3


# Characters that a terminal obeys and nobody sees: C1 controls, line separators, and marks that
# change the direction of the text after them.
_UNSEEN = "[\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"


def check_new_name(name: str) -> None:
    """Make sure that a new attachment's name has no invisible characters.

    Older streams may have such names, so readers do not call this.

    Raises:
        UsageError: The name has control characters or direction marks.
    """
    if re.search(_UNSEEN, name):
        raise UsageError(
            f"an attachment's name must have no control characters and no marks of direction, "
            f"unlike {name!r}"
        )


def attachment_member(name: str) -> str:
    """Name of the member that holds an attachment.

    Raises:
        UsageError: The name is not a plain file name of at most 88 bytes.
    """
    member = f"{ATTACHMENTS}{name}"
    if (
        not isinstance(name, str)
        or not name
        or name in (".", "..")
        or "/" in name
        or any(ord(c) < 32 or ord(c) == 127 for c in name)
        or any(0xD800 <= ord(c) < 0xE000 for c in name)
        or len(member.encode(errors="surrogatepass")) > 100
    ):
        raise UsageError(f"an attachment's name must be a short, plain file name, not {name!r}")
    return member


class Preamble(NamedTuple):
    """The contents of `backup-info.json`: the backup, and how this stream is laid out.

    Attributes:
        info: What is known about the backup.
        checksum: Name of the digest in the manifest; None if there are no digests.
        part_size: Largest size of a data member, in bytes.
        record_size: Bytes of a record; the stream's length is a multiple of this.
        set_id: Identifies the volumes that belong together; None if there is only one.
        volume: Number of this volume, from 1.
        volume_start: Disk offset of this volume's first data member.
        software: Name and version of the program that wrote the stream.
        members: The members between this one and the data, in order; None in a stream of older
            software, which did not list them, and if the list is damaged.
        members_problem: What is wrong with that list; None if nothing is. The rest of the backup
            can be read without the list.
    """

    info: BackupInfo
    checksum: str | None
    part_size: int
    record_size: int
    set_id: str | None = None
    volume: int = 1
    volume_start: int = 0
    software: str = ""
    members: tuple[Header, ...] | None = None
    members_problem: str | None = None

    @property
    def segment_size(self) -> int:
        """How many bytes of a data member each digest covers."""
        return segment_size(self.part_size)

    @property
    def extents_size(self) -> int | None:
        """Bytes of `extents.json`, if they are listed."""
        return self.members[0].size if self.members else None

    @property
    def attachments(self) -> dict[str, int]:
        """The members that hold attachments, with their sizes, if they are listed."""
        return dict(self.members[1:] if self.members else ())

    def encode(self) -> bytes:
        """The member's contents: JSON with indentation, for people."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "software": self.software,
            **self.info.to_dict(),
            "set_id": self.set_id,
            "volume": self.volume,
            "volume_start": self.volume_start,
            "checksum": self.checksum,
            "segment_size": self.segment_size,
            "part_size": self.part_size,
            "record_size": self.record_size,
        }
        if self.members is not None:
            values["members"] = [member._asdict() for member in self.members]
        return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def decode(cls, text: bytes) -> Preamble:
        """Parse what `encode` wrote; unknown keys are ignored.

        A damaged list of members raises no error here: the reader of the members decides.

        Raises:
            ForeignStreamError: The text is JSON, but of another format.
            NewerFormatError: It has a format version that this software does not know.
            CorruptStreamError: A value is missing or impossible.
        """
        values = decode_object(INFO, text)
        if values.get("format") != FORMAT:
            raise ForeignStreamError(f"{INFO} does not say that this is a {FORMAT} stream")
        version = values.get("version")
        if type(version) is int and version > VERSION:
            raise NewerFormatError(
                f"the stream has format version {version}; this software knows version {VERSION}"
            )
        members, members_problem = None, None
        try:
            members = _members(values)
        except (UsageError, ValueError) as e:
            members_problem = f"{INFO} is damaged: {e}"
        try:
            for key in ("size", "context", "checksum"):
                if key not in values:
                    raise ValueError(f"{key} is missing")
            preamble = cls(
                info=BackupInfo.from_dict(values),
                checksum=choice(values, "checksum", (*ALGORITHMS, None)),
                part_size=number(values, "part_size", BLOCK, MAX_MEMBER, BLOCK),
                record_size=number(values, "record_size", BLOCK, GIB, BLOCK),
                set_id=string(values, "set_id"),
                volume=number(values, "volume", 1, 2**31),
                volume_start=number(values, "volume_start", 0, 2**63),
                software=str(values.get("software", "")),
                members=members,
                members_problem=members_problem,
            )
            choice(values, "version", (VERSION,))
            choice(values, "segment_size", (preamble.segment_size,))
        except (UsageError, ValueError) as e:
            raise CorruptStreamError(f"{INFO} is damaged: {e}") from e
        return preamble


def _members(values: Mapping[str, Any]) -> tuple[Header, ...] | None:
    """Parse the list of members: the extents, then the attachments, all within the limits."""
    listed = values.get("members")
    if listed is None:
        return None
    if not isinstance(listed, list) or not 1 <= len(listed) <= 1 + MAX_FILES:
        raise ValueError("members is not a list of the members before the data")
    if not all(isinstance(member, dict) for member in listed):
        raise ValueError("something in members is not an object")
    members = tuple(map(_member, listed))
    extents, *attachments = members
    if extents.name != EXTENTS or extents.size > MAX_EXTENTS:
        raise ValueError(f"members does not begin with {EXTENTS}")
    for member in attachments:
        if attachment_member(member.name.removeprefix(ATTACHMENTS)) != member.name:
            raise ValueError(f"{member.name!r} in members is not an attachment")
        if member.size > MAX_ATTACHMENTS:
            raise ValueError(f"{member.name} in members has {member.size} bytes")
    if len(dict(members)) < len(members):
        raise ValueError("members has the same name twice")
    return members


def _member(listed: Mapping[str, Any]) -> Header:
    name = string(listed, "name")
    if name is None:
        raise ValueError("a name in members is missing")
    return Header(name, number(listed, "size", 0, MAX_MEMBER))
