"""Extension headers (pax, GNU long names), which other tar programs put before a member's header.

They appear when such a program packs a backup again. POSIX "pax", section "pax Header Block", and
GNU tar, "Basic Tar Format", describe them. Only names and sizes are used. Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import CorruptStreamError
from . import format as fmt

PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK, DIRECTORY = b"x", b"g", b"L", b"K", b"5"
# Most bytes of an extension. Names have up to 100 bytes, times and owners not many more.
MAX_LENGTH = 1024**2


def kind_of(block: bytes) -> bytes | None:
    """The typeflag of an extension header, or of our directory's header; None for other blocks."""
    kind = block[156:157]
    if kind not in (PAX, PAX_GLOBAL, GNU_NAME, GNU_LINK, DIRECTORY) or not _is_header(block):
        return None
    if kind == DIRECTORY and block[:100].rstrip(b"/\0") + b"/" != fmt.ATTACHMENTS.encode():
        return None
    return kind


def _is_header(block: bytes) -> bool:
    try:
        return fmt.has_checksum(block)
    except ValueError:
        return False


def overrides(kind: bytes, text: bytes) -> tuple[str | None, int | None]:
    """The name and the size that an extension gives to the member after it; None for no change.

    Raises:
        CorruptStreamError: The extension is damaged, or says that the member is stored sparsely.
    """
    if kind == GNU_NAME:
        return _decoded(text.rstrip(b"\0")), None
    if kind != PAX:
        return None, None
    name, size = None, None
    for key, value in _records(text):
        if key.startswith(b"GNU.sparse."):
            raise CorruptStreamError("a member is stored without its holes", hint=fmt.HOLES_HINT)
        if key == b"path":
            name = _decoded(value)
        elif key == b"size":
            if not re.fullmatch(rb"[0-9]{1,18}", value):
                raise CorruptStreamError("a pax header is damaged: its size is not a number")
            size = int(value)
    return name, size


def _records(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    while text:
        match = re.match(rb"([0-9]{1,7}) ([^=\n]+)=", text)
        length = int(match[1]) if match else 0
        if match is None or not match.end() < length <= len(text) or text[length - 1] != 0x0A:
            raise CorruptStreamError("a pax header is damaged")
        yield match[2], text[match.end() : length - 1]
        text = text[length:]


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except ValueError as e:
        raise CorruptStreamError("a name before a tar header is not UTF-8") from e
