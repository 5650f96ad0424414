"""What the kept disks hold, and how streams, damage and cartridges are kept."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapestream import Extent
from tapestream.testing.drive import Cartridge

CELL = 16
# Length, kind and seed of a stretch: "data", "zero", "hole", or "clean".
Recipe = Sequence[tuple[int, str, int]]


def content(seed: int, start: int, length: int) -> bytes:
    """Data that says where it belongs, so that a byte in a wrong place is noticed."""
    first, last = start // CELL, -(-(start + length) // CELL)
    cells = b"".join(b"%05x %09x\n" % (seed, CELL * i) for i in range(first, last))
    return cells[start - CELL * first :][:length]


def image(recipe: Recipe, before: bytes = b"") -> bytes:
    """The whole disk; `before` is what an incremental backup finds."""
    made = b""
    for length, kind, seed in recipe:
        start = len(made)
        if kind == "data":
            made += content(seed, start, length)
        elif kind == "clean":
            made += before[start : start + length].ljust(length, b"\0")
        else:
            made += bytes(length)
    return made


def extents(recipe: Recipe, *, dirty: bool) -> list[Extent]:
    """The extents of the disk, as a server lists them."""
    made = []
    start = 0
    for length, kind, _ in recipe:
        made.append(
            Extent(
                start,
                length,
                zero=kind in ("zero", "hole"),
                hole=kind == "hole",
                dirty=kind != "clean" if dirty else None,
            )
        )
        start += length
    return made


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def damaged(tar: bytes, edits: Sequence[Sequence[Any]]) -> bytes:
    """The stream after `["flip", offset]`, `["zero", start, end]`, `["cut", length]`, and so on."""
    for how, *where in edits:
        if how == "flip":
            (at,) = where
            tar = tar[:at] + bytes([tar[at] ^ 0xFF]) + tar[at + 1 :]
        elif how == "zero":
            start, end = where
            tar = tar[:start] + bytes(end - start) + tar[end:]
        elif how == "lose":
            start, end = where
            tar = tar[:start] + tar[end:]
        else:
            assert how == "cut", how
            (length,) = where
            tar = tar[:length]
    return tar


def save(path: Path, data: bytes) -> None:
    """Write it compressed, as `xz` does."""
    path.write_bytes(lzma.compress(data, preset=9))


def load(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes())


def save_cartridge(path: Path, cartridge: Cartridge) -> None:
    """Write the blocks, each after its length in 4 bytes; a filemark has length 0."""
    save(path, b"".join(len(block).to_bytes(4, "big") + block for block in cartridge.blocks))


def load_cartridge(path: Path, *, capacity: int = 64 * 1024**2) -> Cartridge:
    data, at = load(path), 0
    cartridge = Cartridge(capacity)
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        assert cartridge.put(len(cartridge.blocks), data[at + 4 : at + 4 + length])
        at += 4 + length
    return cartridge
