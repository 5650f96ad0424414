"""The tar stream as pure bytes in, bytes out: headers, member names, the JSON members.

docs/stream-format.md describes the format; POSIX "pax", section "ustar Interchange Format", the
headers. No I/O happens here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import (
    CorruptStreamError,
    DigestMismatchError,
    ForeignStreamError,
    NewerFormatError,
    UsageError,
)
from ..model.extents import Extents, Kind, Segment, cut
from ..model.info import BackupInfo
from .digests import ALGORITHMS, digest_of

FORMAT = "tapestream"
VERSION = 1

BLOCK = 512
END = bytes(2 * BLOCK)
# The octal size field of a ustar header has 11 digits.
MAX_MEMBER = 8**11 - 1

INFO = "backup-info.json"
EXTENTS = "extents.json"
MANIFEST = "manifest.json"
# How its text begins, to know it by where its header is damaged.
MANIFEST_START = b'{"version":'
ATTACHMENTS = "attachments/"

MIB = 1024**2
GIB = 1024**3
# A digest names the damage to within this; smaller ones would make manifests of large disks huge.
MAX_SEGMENT = 16 * MIB
# Both sides keep these in memory: what describes the backup, and the attachments together.
MAX_INFO = 16 * MIB
MAX_ATTACHMENTS = 64 * MIB
# Their names are kept, too. Nobody keeps as many files with a disk.
MAX_FILES = 100_000
# More than a server sends: over ten million extents.
MAX_EXTENTS = GIB
# GNU tar's own default, 20 blocks, keeps a small backup small.
RECORD_SIZE = 10240
PART_SIZE = GIB
# Digits of a number in JSON: what Python reads by default.
MAX_DIGITS = 4300


class Header(NamedTuple):
    """What a tar header says of a member."""

    name: str
    size: int


class HeaderWriter:
    """Makes the headers of one stream: plain ustar, mode 0600, owner 0/0, one mtime for all.

    Args:
        mtime: Modification time of every member, in seconds since 1970.
    """

    def __init__(self, mtime: int) -> None:
        if not 0 <= mtime <= MAX_MEMBER:
            raise ValueError(f"the time {mtime} does not fit into a ustar header")
        self._rest = b"".join(
            (
                b"%011o\0" % mtime,
                b" " * 8,  # the checksum counts itself as spaces
                b"0",
                bytes(100),
                b"ustar\x0000",
                b"root".ljust(32, b"\0") * 2,
                b"%07o\0" % 0 * 2,
                bytes(155 + 12),
            )
        )
        self._before = b"%07o\0" % 0o600 + b"%07o\0" % 0 * 2
        self._sum = sum(self._before) + sum(self._rest)

    def header(self, name: str, size: int) -> bytes:
        """The 512 bytes before the data of a member.

        Args:
            name: Name of the member, at most 100 bytes in UTF-8.
            size: Bytes of data, at most `MAX_MEMBER`.
        """
        field = name.encode()
        length = b"%011o\0" % size
        if len(field) > 100 or not 0 <= size <= MAX_MEMBER:
            raise ValueError(f"{name!r} with {size} bytes does not fit into a ustar header")
        checksum = self._sum + sum(field) + sum(length)
        rest = self._rest
        return b"%b%b%b%b%06o\0 %b" % (
            field.ljust(100, b"\0"),
            self._before,
            length,
            rest[:12],
            checksum,
            rest[20:],
        )


HOLES_HINT = (
    "It was packed again with holes left out: extract it with that program, and pack it without "
    "that option."
)


def parse_header(block: bytes, name: str | None = None) -> Header | None:
    """Read a member's header; None for the zeros that end an archive.

    Args:
        block: The header.
        name: What the member is called, where what came before its header says so.

    Raises:
        CorruptStreamError: Not the header of a regular file, or damaged.
    """
    if not block.strip(b"\0"):
        return None
    try:
        if not has_checksum(block):
            raise ValueError("its checksum is wrong")
        if block[156:157] not in (b"0", b"\0"):
            raise ValueError(f"it is of type {block[156:157]!r}, not a regular file")
        if block[345:346] != b"\0":
            raise ValueError("it has a name prefix")
        return Header(name or block[:100].rstrip(b"\0").decode(), size_in(block))
    except ValueError as e:
        hint = HOLES_HINT if block[156:157] == b"S" else None
        raise CorruptStreamError(f"a tar header is damaged or not ours: {e}", hint=hint) from e


def has_checksum(block: bytes) -> bool:
    """Whether a block is a tar header, of whatever kind, and not damaged.

    Raises:
        ValueError: There is no number where its checksum should be.
    """
    return _octal(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * 0x20


_PLAIN = HeaderWriter(0).header("", 0)


def is_own(block: bytes) -> bool:
    """Whether a good header is as `HeaderWriter` writes it, and not as other programs do."""
    return (block[100:124], block[156:]) == (_PLAIN[100:124], _PLAIN[156:])


def is_ustar(block: bytes) -> bool:
    """Whether a good header is one of POSIX, and not of GNU tar or of older programs."""
    return block[257:265] == b"ustar\x0000"


def guess_header(block: bytes) -> Header | None:
    """Read what a damaged header may have been; None where nothing is known."""
    try:
        return Header(block[:100].rstrip(b"\0").decode(errors="replace"), size_in(block))
    except ValueError:
        return None


def size_in(block: bytes) -> int:
    """Bytes of data that a header of any kind claims.

    Raises:
        ValueError: There is no number.
    """
    return _octal(block[124:136])


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]+", digits):
        raise ValueError("a number in it is not octal")
    return int(digits, 8)


def padding(size: int, unit: int = BLOCK) -> int:
    """Bytes that are missing to the next multiple of `unit`."""
    return -size % unit


def padded(size: int) -> int:
    """Bytes that the data of a member takes in the archive."""
    return size + padding(size)


def segment_size(part_size: int) -> int:
    """Bytes of a data member that one digest is made of: divides the size of a part."""
    return math.gcd(part_size, MAX_SEGMENT)


class Member(NamedTuple):
    """One data member: a part of data extent `number`, which is counted from 1."""

    number: int
    start: int
    length: int

    @property
    def name(self) -> str:
        """Its name in the tar."""
        return f"extent-{self.number}@{self.start}"


def data_members(extents: Extents, part_size: int, begin: int = 0) -> Iterator[Member]:
    """All data members of a stream, in order; only those that start at `begin` or after it."""
    number = 0
    for start, length, kind in extents.runs():
        if kind is Kind.DATA:
            number += 1
            before = max(0, begin - start)
            for offset in range(before + padding(before, part_size), length, part_size):
                yield Member(number, start + offset, min(part_size, length - offset))


def data_length(extents: Extents, part_size: int) -> int:
    """Bytes that all data members take in the archive; quick, however many they are."""
    total = 0
    for _, length, kind in extents.runs():
        if kind is Kind.DATA:
            parts, rest = divmod(length, part_size)
            total += parts * (BLOCK + padded(part_size))
            total += BLOCK + padded(rest) if rest else 0
    return total


def count_segments(extents: Extents, part_size: int) -> int:
    """How many segments all data has; quick, however many they are."""
    size = segment_size(part_size)
    return sum(-(-length // size) for _, length, kind in extents.runs() if kind is Kind.DATA)


def resembles(name: str, other: str) -> bool:
    """Whether the name of a damaged member, with at most two bad characters, begins like this."""
    return sum(a == b for a, b in zip(name, other, strict=False)) > len(other) - 3


# What a terminal obeys and nobody sees: C1 controls, separators of lines, and marks that change the
# direction in which what follows is read.
_UNSEEN = re.compile("[\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def check_new_name(name: str) -> None:
    """Make sure that a new attachment's name is what it looks like; older streams may have others.

    Raises:
        UsageError: There are control characters, or marks of direction, in it.
    """
    if _UNSEEN.search(name):
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


@dataclass(frozen=True)
class Preamble:
    """The contents of `backup-info.json`: the backup, and how this stream is laid out.

    Attributes:
        info: What is known of the backup.
        checksum: Name of the digest in the manifest; None for none.
        part_size: Largest data member in bytes.
        record_size: The stream's length is a multiple of this.
        set_id: Identifies the volumes that belong together; None where there is only one.
        volume: Number of this volume, from 1.
        volume_start: Where on the disk this volume goes on: the offset of its first data member.
        software: What wrote it.
        members: The members between this one and the data, in order; None in a stream of older
            software, which does not list them.
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

    @property
    def segment_size(self) -> int:
        """Bytes of a data member that one digest is made of."""
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
        """As JSON, readable for people."""
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
        """Read what `encode` wrote; unknown keys are ignored.

        Raises:
            ForeignStreamError: It is not of this format.
            NewerFormatError: It is of a version that this software does not know.
            CorruptStreamError: Something in it is missing or impossible.
        """
        values = decode_object(INFO, text)
        if values.get("format") != FORMAT:
            raise ForeignStreamError(f"{INFO} does not say that this is a {FORMAT} stream")
        version = values.get("version")
        if type(version) is int and version > VERSION:
            raise NewerFormatError(
                f"the stream has format version {version}; this software knows version {VERSION}"
            )
        try:
            for key in ("size", "context", "checksum"):
                if key not in values:
                    raise ValueError(f"{key} is missing")
            preamble = cls(
                info=BackupInfo.from_dict(values),
                checksum=_choice(values, "checksum", (*ALGORITHMS, None)),
                part_size=_number(values, "part_size", BLOCK, MAX_MEMBER, BLOCK),
                record_size=_number(values, "record_size", BLOCK, GIB, BLOCK),
                set_id=_text(values, "set_id"),
                volume=_number(values, "volume", 1, 2**31),
                volume_start=_number(values, "volume_start", 0, 2**63),
                software=str(values.get("software", "")),
                members=_members(values),
            )
            _choice(values, "version", (VERSION,))
            _choice(values, "segment_size", (preamble.segment_size,))
        except (UsageError, ValueError) as e:
            raise CorruptStreamError(f"{INFO} is damaged: {e}") from e
        return preamble


def _members(values: Mapping[str, Any]) -> tuple[Header, ...] | None:
    """The members that a preamble lists: the extents, then attachments within the limits."""
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
    name = _text(listed, "name")
    if name is None:
        raise ValueError("a name in members is missing")
    return Header(name, _number(listed, "size", 0, MAX_MEMBER))


_DIGESTS_PER_CHUNK = 10_000


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`: what the stream must have held.

    Where a tape ended before its manifest could be written, the one on the next volume vouches
    for the whole members on both.

    Attributes:
        checksum: Name of the digest; None for none.
        data_extents: Number of data extents of which there is data.
        data_members: Number of data members.
        data_bytes: Bytes in them.
        members: Digest, in hex or None, of every member of this volume that is not data, by name.
        segments: The digests of all segments one after another, in the order of the stream.
        start: Disk offset of the first data that it vouches for.
        set_id: That of the preamble.
        volume: Number of this volume.
        continues: True when another volume follows.
    """

    checksum: str | None
    data_extents: int
    data_members: int
    data_bytes: int
    members: Mapping[str, str | None]
    segments: bytes
    start: int = 0
    set_id: str | None = None
    volume: int = 1
    continues: bool = False

    def encode(self) -> Iterator[bytes]:
        """As JSON without white space, in chunks: that of a large disk has a million digests."""
        yield self._head()
        step = self._digest_size * _DIGESTS_PER_CHUNK
        for i in range(0, len(self.segments), step):
            digests = self.segments[i : i + step].hex(",", self._digest_size)
            quoted = digests.replace(",", '","')
            yield (f',"{quoted}"' if i else f'"{quoted}"').encode()
        yield self._tail()

    @property
    def length(self) -> int:
        """Bytes in all the chunks of `encode`."""
        return self.length_with(len(self.segments) // self._digest_size)

    def length_with(self, count: int) -> int:
        """Bytes that it would have with so many segments."""
        per_digest = 2 * self._digest_size + len('"",')
        return len(self._head()) + max(0, count * per_digest - len(",")) + len(self._tail())

    def longest(self, segments: int) -> int:
        """Bytes that no manifest of the same stream exceeds.

        Other writers may use white space, and there may be members that were not found.

        Args:
            segments: How many there may be at most.
        """
        return 2 * self.length_with(segments if self.checksum else 0) + MAX_INFO

    def is_like(self, text: bytes, *, data_too: bool = True) -> bool:
        """Whether a text is a manifest that this object can be compared with."""
        try:
            values = decode_object(MANIFEST, text)
        except CorruptStreamError:
            return False
        listed = values.get("segments")
        if values.keys() != self._values().keys() | {"segments"} or not isinstance(listed, list):
            return False
        return not data_too or len(listed) * self._digest_size == len(self.segments)

    def differences(
        self, text: bytes, extents: Extents, preamble: Preamble, *, data_too: bool = True
    ) -> Iterator[CorruptStreamError]:
        """Compare what was really read, that is this object, with the manifest of the stream.

        Args:
            text: The stream's manifest.
            extents: The stream's extents, to say where on the disk the damage is.
            preamble: The stream's preamble, likewise.
            data_too: Compare the digests of the data.

        Yields:
            A DigestMismatchError for every segment that does not match its digest; before them,
            other errors for whatever else differs.
        """
        try:
            wanted = decode_object(MANIFEST, text)
        except CorruptStreamError as e:
            yield e
            return
        found = self._values()
        if wanted.keys() != found.keys() | {"segments"}:
            yield CorruptStreamError(f"{MANIFEST} is damaged: it has not the keys it should have")
            return
        for key in found:
            if key != "members" and wanted[key] != found[key]:
                yield CorruptStreamError(
                    f"{MANIFEST} says {key} is {wanted[key]!r}, but the stream has {found[key]!r}"
                )
        if wanted["members"] != found["members"]:
            yield CorruptStreamError(_differing_member(wanted["members"], found["members"]))
        if data_too:
            size, digests = 2 * self._digest_size, self.segments.hex()
            here = [digests[i : i + size] for i in range(0, len(digests), size)]
            vouched = segments(extents, preamble, self.start)
            yield from _differing_segments(wanted["segments"], here, vouched)

    @property
    def _digest_size(self) -> int:
        return len(digest_of(self.checksum, b"")) if self.checksum else 1

    def _head(self) -> bytes:
        """Everything before the first digest of a segment."""
        return _compact({**self._before(), "segments": []})[: -len("]}")]

    def _tail(self) -> bytes:
        """Everything after the last one: so the last record says what the stream was."""
        return b"]," + _compact(self._behind())[len("{") :]

    def _values(self) -> dict[str, Any]:
        """All values but the segments."""
        return {**self._before(), **self._behind()}

    def _before(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "data_extents": self.data_extents,
            "data_members": self.data_members,
            "data_bytes": self.data_bytes,
            "checksum": self.checksum,
            "members": dict(self.members),
        }

    def _behind(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "set_id": self.set_id,
            "volume": self.volume,
            "continues": self.continues,
        }


class Vouched:
    """What went by since the last manifest, and what the next one has to vouch for.

    Attributes:
        start: Disk offset of the first data.
        members: Number of data members.
        bytes: Bytes in them.
        segments: The digests of their segments.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.members = self.bytes = 0
        self.segments = bytearray()
        self._first = self._last = 0

    def add(self, member: Member) -> None:
        """Count a member."""
        self._first = self._first or member.number
        self._last = member.number
        self.members += 1
        self.bytes += member.length

    def add_lost(self, first: int, last: int, members: int, length: int) -> None:
        """Count members that are missing, with the numbers of the first and last extent of them."""
        self._first = self._first or first
        self._last = last
        self.members += members
        self.bytes += length

    def manifest(
        self, preamble: Preamble, digests: Mapping[str, str | None], *, continues: bool
    ) -> Manifest:
        """The manifest of a volume with this preamble, and other members with these digests."""
        return Manifest(
            checksum=preamble.checksum,
            data_extents=self._last - self._first + 1 if self._first else 0,
            data_members=self.members,
            data_bytes=self.bytes,
            members=digests,
            segments=bytes(self.segments),
            start=self.start,
            set_id=preamble.set_id,
            volume=preamble.volume,
            continues=continues,
        )


class Ending(NamedTuple):
    """What the last bytes of a manifest say."""

    start: int
    set_id: str | None
    volume: int
    continues: bool


def ending(last: bytes) -> Ending | None:
    """Read the end of the manifest off the last bytes of a stream; None if it has no such end.

    Args:
        last: The last record, or, where that is nothing but padding, the last two.
    """
    text = last.rstrip(b"\0")
    if len(last) - len(text) < len(END):
        return None
    match = re.search(rb'\],("start":[^\[\]{}]{1,200}\})$', text)
    try:
        values = decode_object(MANIFEST, b"{" + match[1]) if match else {}
        return Ending(
            _number(values, "start", 0, 2**63),
            _text(values, "set_id"),
            _number(values, "volume", 1, 2**31),
            _choice(values, "continues", (True, False)),
        )
    except (CorruptStreamError, ValueError):
        return None


def _compact(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()


def segments(
    extents: Extents, preamble: Preamble, start: int = 0
) -> Iterator[tuple[Member, Segment]]:
    """All segments from a member's start on, each with its member: the order of the manifest."""
    for member in data_members(extents, preamble.part_size, start):
        for segment in cut(member.start, member.length, preamble.segment_size):
            yield member, segment


def _differing_member(wanted: object, found: Mapping[str, str | None]) -> str:
    if isinstance(wanted, dict) and wanted.keys() == found.keys():
        damaged = [name for name, digest in found.items() if wanted[name] != digest]
        return f"{', '.join(damaged)} does not match its digest in {MANIFEST}"
    return f"{MANIFEST} lists other members than the stream has"


def _differing_segments(
    wanted: object, found: list[str], vouched: Iterator[tuple[Member, Segment]]
) -> Iterator[CorruptStreamError]:
    if not isinstance(wanted, list) or len(wanted) != len(found):
        yield CorruptStreamError(f"{MANIFEST} is damaged: it lists other segments than it should")
        return
    for (member, segment), here, there in zip(vouched, found, wanted, strict=False):
        if here != there:
            yield DigestMismatchError(member.name, segment.start, segment.length)


def decode_object(member: str, text: bytes) -> dict[str, Any]:
    """Read a JSON member that holds an object.

    Raises:
        CorruptStreamError: It does not.
    """
    try:
        values = json.loads(text, parse_int=_parsed)
    except (ValueError, RecursionError) as e:
        raise CorruptStreamError(f"{member} is not JSON: {e}") from e
    if not isinstance(values, dict):
        raise CorruptStreamError(f"{member} is not a JSON object")
    return values


def _parsed(digits: str) -> int:
    """As Python of today does by itself: that of some years ago took hours for a million digits."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _number(values: Mapping[str, Any], key: str, low: int, high: int, unit: int = 1) -> int:
    value = values.get(key)
    if type(value) is not int or not low <= value <= high or value % unit:
        raise ValueError(f"{key} is {value!r}")
    return value


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        value.encode()  # JSON can say what is no text: half of a character
        return value
    raise ValueError(f"{key} is {value!r}")


def _choice(values: Mapping[str, Any], key: str, choices: tuple[Any, ...]) -> Any:
    value = values.get(key)
    if type(value) not in map(type, choices) or value not in choices:
        raise ValueError(f"{key} is {value!r}")
    return value
