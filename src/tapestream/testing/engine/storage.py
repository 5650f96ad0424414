"""The images of the double: what a host does with them, by the qemu tools.

A checkpoint is a bitmap in each qcow2 image. All bitmaps keep recording, so the changes since any
checkpoint are in the bitmap of its name, as in a backup of a stopped VM in oVirt. A backup reads
copies of the images: what a test writes to a disk during a backup is not in it.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

from ..daemon import ImageioDaemon
from ..images import image_info, serve_image
from .entities import Backup, DiskDouble, Transfer

_READ, _WRITE = ["read"], ["read", "write"]


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr).strip()}")


def add_bitmap(disk: DiskDouble, name: str) -> None:
    """Record from now on, under this name, what changes on a disk."""
    _run("qemu-img", "bitmap", "--add", disk.path, name)


def remove_bitmap(disk: DiskDouble, name: str) -> None:
    """Stop recording under this name. A bitmap that does not exist is fine."""
    if name in bitmaps(disk):
        _run("qemu-img", "bitmap", "--remove", disk.path, name)


def bitmaps(disk: DiskDouble) -> set[str]:
    """Return the names of a disk's bitmaps."""
    specific = image_info(disk.path).get("format-specific", {}).get("data", {})
    return {bitmap["name"] for bitmap in specific.get("bitmaps", [])}


def grow(disk: DiskDouble, size: int) -> None:
    """Make a disk larger."""
    _run("qemu-img", "resize", "-f", disk.format, disk.path, str(size))
    disk.size = size


def convert(disk: DiskDouble, format_: str, path: Path) -> None:
    """Give a disk a new image of another format, which has no bitmaps. The old one stays."""
    _run("qemu-img", "convert", "-f", disk.format, "-O", format_, disk.path, path)
    disk.path, disk.format, disk.incremental = path, format_, format_ == "qcow2"


def copy_of(disk: DiskDouble, directory: Path) -> Path:
    """Copy a disk's image, with its bitmaps: what it holds now."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{disk.id}.{disk.format}"
    # Not shutil: it writes holes as zeros.
    _run("cp", "--reflink=auto", "--sparse=always", disk.path, target)
    return target


def serve(transfer: Transfer, daemon: ImageioDaemon) -> str:
    """Start a qemu-nbd for a transfer, and give it a ticket; return the URL that it then has."""
    disk, backup = transfer.disk, transfer.backup
    upload = transfer.direction == "upload"
    with ExitStack() as stack:
        nbd_url = stack.enter_context(
            serve_image(
                disk.path if backup is None else backup.copies[disk.id],
                format=disk.format,
                read_only=not upload,
                bitmap=_bitmap_for(disk, backup),
                detect_zeroes=upload,
            )
        )
        url = daemon.add_ticket(
            nbd_url,
            size=disk.size,
            ops=_WRITE if upload else _READ,
            dirty=backup is not None and backup.mode(disk) == "incremental",
            inactivity_timeout=transfer.inactivity_timeout,
        )
        stack.callback(_remove_ticket, daemon, url)
        transfer.url = url
        transfer.serving = stack.pop_all()
    return url


def _remove_ticket(daemon: ImageioDaemon, url: str) -> None:
    try:
        daemon.pid  # noqa: B018 - a property that fails
    except RuntimeError:
        return  # a test has ended the daemon, and the ticket with it
    daemon.remove_ticket(url)


def _bitmap_for(disk: DiskDouble, backup: Backup | None) -> str | None:
    if backup is None or backup.parent is None or backup.mode(disk) == "full":
        return None
    return backup.parent.id
