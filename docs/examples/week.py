"""Back up a disk every day for a week, and restore it as it was on Wednesday.

Usage: week.py [DIRECTORY]

One full backup and six incremental ones are kept in DIRECTORY, or in a new temporary directory.
Each is a tar named after its day. `back_up` and `restore` show what you need in your own backup
script. The rest builds the environment for them: a disk image with a dirty bitmap for each
checkpoint, as libvirt keeps them for oVirt, a qemu-nbd that serves it, and a real ovirt-imageio
daemon.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tapestream import (
    BackupInfo,
    CopyResult,
    ImageioHTTPSource,
    ImageioUploadSink,
    TapestreamError,
    TarStreamSink,
    TarStreamSource,
    copy,
    restore_chain,
)
from tapestream.errors import ChainError
from tapestream.testing import (
    ImageioDaemon,
    compare_images,
    create_image,
    serve_image,
    write_pattern,
)

MIB = 1024**2
DISK_SIZE = 256 * MIB
SUNDAY = datetime(2026, 2, 1, 21, 0, tzinfo=timezone.utc)


def back_up(transfer_url: str, cafile: Path, tar: Path, info: BackupInfo) -> CopyResult:
    """Back up a disk: all of it, or what changed since the parent checkpoint.

    The block hash of the whole disk is stored in the backup, to check the restored disk with it.
    """
    with (
        ImageioHTTPSource(
            transfer_url,
            context="dirty" if info.parent_checkpoint_id else "zero",
            cafile=cafile,
            info=info,
            record_block_hash=True,
        ) as source,
        TarStreamSink(tar) as sink,
    ):
        return copy(source, sink)


def restore(backups: Path, day: str, transfer_url: str, cafile: Path) -> CopyResult:
    """Restore a disk as it was on a day, from the tars of all days up to that day."""
    tars = [tar for tar in sorted(backups.glob("*.tar")) if tar.stem <= day]
    with ExitStack() as stack:
        chain = [stack.enter_context(TarStreamSource(tar)) for tar in tars]
        sink = stack.enter_context(ImageioUploadSink(transfer_url, cafile=cafile))
        result = restore_chain(chain, sink)
        sink.check(chain[-1].info.block_hash)
    return result


class Disk:
    """The disk of a VM, with checkpoints."""

    def __init__(self, directory: Path, daemon: ImageioDaemon) -> None:
        self.image = directory / "disk.qcow2"
        self.daemon = daemon
        self.noise = random.Random(1)
        create_image(self.image, DISK_SIZE)
        self.write(0, 24)
        self.write(100, 8)

    def change(self, day: int) -> None:
        """What a VM does on a day: a new file, an old one changed, another one deleted."""
        self.write(120 + 10 * day, 2)
        self.write(day, 1)
        write_pattern(self.image, [f"write -z {100 + day}M 1M"])

    def write(self, start: int, length: int) -> None:
        """Write incompressible data; `start` and `length` are in MiB."""
        noise = self.image.with_name("noise")
        noise.write_bytes(self.noise.randbytes(length * MIB))
        write_pattern(self.image, [f"write -s {noise} {start}M {length}M"])

    @contextmanager
    def backup(self, checkpoint: str, parent: str | None) -> Iterator[str]:
        """Make a checkpoint, as oVirt does at the start of a backup, and yield a transfer URL.

        From now on, writes are recorded in the new bitmap and no longer in the parent's. So the
        parent's bitmap shows what changed between the two checkpoints.
        """
        if parent:
            run("qemu-img", "bitmap", "--disable", self.image, parent)
        run("qemu-img", "bitmap", "--add", self.image, checkpoint)
        with serve_image(self.image, bitmap=parent) as nbd_url:
            url = self.daemon.add_ticket(nbd_url, DISK_SIZE, dirty=parent is not None)
            yield url
            self.daemon.remove_ticket(url)


@contextmanager
def new_disk(image: Path, daemon: ImageioDaemon) -> Iterator[str]:
    """Create a disk, and yield the URL of an upload transfer into it."""
    create_image(image, DISK_SIZE)
    with serve_image(image, read_only=False) as nbd_url:
        url = daemon.add_ticket(nbd_url, DISK_SIZE, ops=["write"])
        yield url
        daemon.remove_ticket(url)


def run(*command: str | Path) -> None:
    """Run a command; ends the example if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"week: {command[0]} failed: {(done.stdout + done.stderr).strip()}")


def week(backups: Path, work: Path, daemon: ImageioDaemon) -> None:
    """Take a backup on each of seven days, and restore Wednesday's disk."""
    disk, wednesday = Disk(work, daemon), work / "wednesday.qcow2"
    print(f"Disk: {DISK_SIZE // MIB} MiB")
    parent = None
    for number in range(7):
        if parent:
            disk.change(number)
        created = SUNDAY + timedelta(days=number)
        day = f"{created:%F}"
        info = BackupInfo(
            disk_id="disk", checkpoint_id=day, parent_checkpoint_id=parent, created=created
        )
        tar = backups / f"{day}.tar"
        with disk.backup(day, parent) as url:
            result = back_up(url, daemon.cafile, tar, info)
        print(
            f"  {created:%a} {tar.name} {'incremental' if parent else 'full':11} "
            f"{result.data_bytes / MIB:4.1f} MiB of data, {result.zero_bytes / MIB:5.1f} MiB of "
            f"zeros; the tar has {tar.stat().st_size / MIB:4.1f} MiB"
        )
        if f"{created:%A}" == "Wednesday":
            shutil.copy(disk.image, wednesday)
            last = day
        parent = day

    print(f"Restore of {last}:")
    with new_disk(work / "restored.qcow2", daemon) as url:
        result = restore(backups, last, url, daemon.cafile)
    print(f"  {result.data_bytes / MIB:.1f} MiB of data written, in {result.seconds:.2f} s")
    print(f"  The server computes the block hash that was recorded on {last}.")
    compare_images(wednesday, work / "restored.qcow2")
    print("  qemu-img compares: the restored disk is Wednesday's.")

    tuesday = f"{SUNDAY + timedelta(days=2):%F}.tar"
    print(f"The same without {tuesday}:")
    (backups / tuesday).rename(backups / "lost")
    with new_disk(work / "wrong.qcow2", daemon) as url:
        try:
            restore(backups, last, url, daemon.cafile)
        except ChainError as e:
            print(f"  ChainError: {e.args[0]}")
    (backups / "lost").rename(backups / tuesday)
    print(f"The tars are kept: {backups}")


def main() -> None:
    """Run the example in a temporary directory."""
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    os.umask(0o077)  # a backup is as secret as the disk
    backups = Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp(prefix="tapestream-"))
    with tempfile.TemporaryDirectory(prefix="tapestream-week-") as work:
        try:
            backups.mkdir(exist_ok=True)
            with ImageioDaemon(Path(work, "imageio")) as daemon:
                week(backups, Path(work), daemon)
        except (TapestreamError, OSError) as e:
            sys.exit(f"week: {e}")


if __name__ == "__main__":
    main()
