"""Recognizes formats of files by their first or last bytes, so that no such file is overwritten."""

from __future__ import annotations

_VHD = b"conectix"
# (offset, bytes, format), from qemu's block drivers or from the documentation of the format.
# LUKS is not here: a raw image begins with its bytes if the guest has encrypted the whole disk.
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
# The first bytes of a compressed file, and the program that wrote it.
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

# Bytes that are needed to recognize a format, at the beginning and at the end of a file.
SECTOR = 512


def format_of(head: bytes, tail: bytes, *, streams: bool = True) -> str | None:
    """The format of a file, in words; None for a raw image or an unknown format.

    Args:
        head: Its first `SECTOR` bytes.
        tail: Its last `SECTOR` bytes.
        streams: False to ignore the formats that a backup may have: a tar, or a compressed file.
    """
    for offset, magic, name in _OTHERS + _STREAMS if streams else _OTHERS:
        if head.startswith(magic, offset):
            return name
    # A VHD image of fixed size is the disk itself, followed by one sector that begins like this.
    return "a VHD image" if tail.startswith(_VHD) else None


def packer_of(head: bytes) -> str | None:
    """The program that compressed a file, by its first bytes; None for a file of another kind."""
    return next((packer for magic, packer in _PACKERS.items() if head.startswith(magic)), None)
