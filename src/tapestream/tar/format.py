"""The layout of the tar stream: its limits, the headers, and the names and order of the members.

docs/stream-format.md describes the format. POSIX "pax", section "ustar Interchange Format",
describes the headers. Nothing here does I/O.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import CorruptStreamError
from ..model.extents import Extents, Kind

FORMAT = "tapestream"
VERSION = 1

BLOCK = 512
END = bytes(2 * BLOCK)
# The octal size field of a ustar header has 11 digits.
MAX_MEMBER = 8**11 - 1

INFO = "backup-info.json"
EXTENTS = "extents.json"
MANIFEST = "manifest.json"
# The first bytes of its JSON, to recognise a manifest whose header is damaged.
MANIFEST_START = b'{"version":'
ATTACHMENTS = "attachments/"

MIB = 1024**2
GIB = 1024**3
# Most bytes per digest, and so how exactly damage can be located. With smaller segments, the
# manifests of large disks would be huge.
MAX_SEGMENT = 16 * MIB
# Writers and readers keep these in memory: `backup-info.json`, and all attachments together.
MAX_INFO = 16 * MIB
MAX_ATTACHMENTS = 64 * MIB
# The names of the attachments are kept in memory, too. Nobody keeps this many files with a disk.
MAX_FILES = 100_000
# Room for over ten million extents, which is more than a server sends.
MAX_EXTENTS = GIB
# GNU tar's default, 20 blocks. It keeps a small backup small.
RECORD_SIZE = 10240
PART_SIZE = GIB


class Header(NamedTuple):
    """The name and the size of a member, from its tar header."""

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
        name: The member's name, if an extension before the header gave it.

    Raises:
        CorruptStreamError: The header is damaged, or not that of a regular file.
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
    """Whether a block is an undamaged tar header of any kind.

    Raises:
        ValueError: The checksum field holds no number.
    """
    return _octal(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * 0x20


_PLAIN = HeaderWriter(0).header("", 0)


def is_own(block: bytes) -> bool:
    """Whether an undamaged header is as `HeaderWriter` writes it, and not as other programs do."""
    return (block[100:124], block[156:]) == (_PLAIN[100:124], _PLAIN[156:])


def is_ustar(block: bytes) -> bool:
    """Whether an undamaged header has POSIX's format, and not that of GNU tar or older programs."""
    return block[257:265] == b"ustar\x0000"


def guess_header(block: bytes) -> Header | None:
    """The name and size in a damaged header, which may be wrong; None if it has no size."""
    try:
        return Header(block[:100].rstrip(b"\0").decode(errors="replace"), size_in(block))
    except ValueError:
        return None


def size_in(block: bytes) -> int:
    """The size field of a header of any kind, in bytes.

    Raises:
        ValueError: The field holds no number.
    """
    return _octal(block[124:136])


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]+", digits):
        raise ValueError("a number in it is not octal")
    return int(digits, 8)


def padding(size: int, unit: int = BLOCK) -> int:
    """How many bytes to add to `size` to reach a multiple of `unit`."""
    return -size % unit


def padded(size: int) -> int:
    """Bytes that the data of a member takes in the archive, with its padding."""
    return size + padding(size)


def segment_size(part_size: int) -> int:
    """How many bytes of a data member each digest covers; this divides the size of a part."""
    return math.gcd(part_size, MAX_SEGMENT)


class Member(NamedTuple):
    """One data member: a part of data extent `number`; extents are counted from 1."""

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
            for offset in range(0, length, part_size):
                if start + offset >= begin:
                    yield Member(number, start + offset, min(part_size, length - offset))


def data_length(extents: Extents, part_size: int) -> int:
    """Bytes that all data members take in the archive; fast for any number of members."""
    lengths = (length for _, length, kind in extents.runs() if kind is Kind.DATA)
    return sum(extent_length(length, part_size) for length in lengths)


def extent_length(length: int, part_size: int) -> int:
    """Bytes that the members of one data extent take in the archive."""
    return -(-length // part_size) * BLOCK + padded(length)


def count_segments(extents: Extents, part_size: int) -> int:
    """How many segments all data has; fast for any number of segments."""
    size = segment_size(part_size)
    return sum(-(-length // size) for _, length, kind in extents.runs() if kind is Kind.DATA)
