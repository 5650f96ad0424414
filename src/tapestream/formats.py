"""What a file is by its first bytes, where that is no raw image."""

from __future__ import annotations

# (where, what, which format): as qemu's block drivers, or the format's own pages, have it.
_MAGIC = (
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"LUKS\xba\xbe", "a LUKS image"),
    (257, b"ustar", "a tar, such as a backup"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"\x1f\x8b\x08", "a gzip file"),
    (0, b"SQLite format 3\0", "an SQLite database, such as a catalog"),
)

# So many of a file's first bytes tell.
HEAD = 512


def known_format(head: bytes) -> str | None:
    """Which format a file has, by its first bytes; None for a raw image, or one that is not known.

    Args:
        head: The first `HEAD` bytes, or fewer of a shorter file.
    """
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    return None
