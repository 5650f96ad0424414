"""Recognize a file by its first or last bytes, so that no other format is overwritten."""

from __future__ import annotations

import io
import os
import stat

_VHD = b"conectix"
# (where, what, which format): as qemu's block drivers, or the format's own pages, have it.
# LUKS is not here: a raw image begins like that when its guest has encrypted the whole disk.
_OTHERS = (
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, _VHD, "a VHD image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"SQLite format 3\0", "an SQLite database, such as a catalog"),
)
# How what these programs wrote begins.
_PACKERS = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_STREAMS = (
    (257, b"ustar", "a tar, such as a backup"),
    *((0, magic, f"a file that {packer} compressed") for magic, packer in _PACKERS.items()),
)

# Bytes at the beginning, and at the end, of a file that are needed to recognize its format.
_SECTOR = 512


def known_format(fd: int, *, streams: bool = True) -> str | None:
    """Which format a file has; None for a raw image, or one that is not known.

    Args:
        fd: The file or disk.
        streams: False to leave out what a backup may be: a tar, as it is or compressed.

    Raises:
        OSError: It cannot be read.
    """
    head = os.pread(fd, _SECTOR, 0)
    for offset, magic, name in _OTHERS + _STREAMS if streams else _OTHERS:
        if head.startswith(magic, offset):
            return name
    # One of fixed size is the disk itself, and its format's only sector comes after that.
    last = max(0, os.lseek(fd, 0, os.SEEK_END) - _SECTOR)
    return "a VHD image" if os.pread(fd, len(_VHD), last) == _VHD else None


def packer_of(head: bytes) -> str | None:
    """The program that compressed a file, by its first bytes; None for a file of another kind."""
    return next((packer for magic, packer in _PACKERS.items() if head.startswith(magic)), None)


def format_at(path: str, *, streams: bool = True) -> str | None:
    """The same for a path; None if it cannot be read, as the caller finds out."""
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            return None
        with io.FileIO(path, "rb") as file:
            return known_format(file.fileno(), streams=streams)
    except OSError:
        return None
