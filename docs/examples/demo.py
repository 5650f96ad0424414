"""Back up a disk from a real ovirt-imageio daemon into a pipe, as a tar, and restore it.

Usage: demo.py [TAR]

The tar is kept at TAR, or in a new temporary directory. `backup` and `restore` show what you need
in your own backup script. The rest builds the environment for them: a disk image, a qemu-nbd that
serves it as a host does during a backup, and the daemon.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
)
from tapestream.testing import ImageioDaemon, create_image, serve_image, virtual_size, write_pattern

MIB = 1024**2
DISK_SIZE = 256 * MIB
NOISE_SIZE = 32 * MIB
PROJECT = Path(__file__).parents[2]


@dataclass
class Done:
    """A copy that succeeded, and whether its data went over the unix socket."""

    result: CopyResult
    over_unix_socket: bool


def backup(transfer_url: str, cafile: Path, tar: Path) -> Done:
    """Stream a full backup of a disk into a pipe, at whose other end `cat` writes the file.

    Instead of `cat` you can use any program that reads: ssh, a compressor, a tape writer.
    """
    info = BackupInfo(vm_name="demo", disk_name="disk 1", metadata={"kept for": "a year"})
    attachments = {"vm.ovf": b"<Envelope/>\n"}
    with (
        tar.open("wb") as file,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) as reader,
    ):
        assert reader.stdin is not None
        with (
            # On the daemon's host, tapestream would use its unix socket. This demo shows TLS.
            ImageioHTTPSource(
                transfer_url, cafile=cafile, info=info, use_unix_socket=False
            ) as source,
            TarStreamSink(reader.stdin, attachments=attachments) as sink,
        ):
            result = copy(source, sink)
    # Everything went into the pipe. Only the process that reads it knows what arrived.
    if reader.returncode != 0:
        sys.exit(f"cat ended with code {reader.returncode}")
    return Done(result, source.over_unix_socket)


def restore(tar: Path, transfer_url: str, cafile: Path) -> Done:
    """Restore a backup into a new, empty disk; all data is checked against its digests."""
    with (
        TarStreamSource(tar) as source,
        ImageioUploadSink(transfer_url, cafile=cafile) as sink,
    ):
        result = copy(source, sink)
    return Done(result, sink.over_unix_socket)


@contextmanager
def transfer(daemon: ImageioDaemon, image: Path, *, write: bool = False) -> Iterator[str]:
    """Start a transfer, as the engine does, yield its URL, and finalize it at the end."""
    size = virtual_size(image)
    with serve_image(image, read_only=not write) as nbd_url:
        url = daemon.add_ticket(nbd_url, size, ops=["write"] if write else ["read"])
        yield url
        daemon.remove_ticket(url)


def make_disk(image: Path, work: Path) -> str:
    """Make a disk with files, incompressible data and holes; return a description of it."""
    noise = work / "files" / "noise"
    noise.parent.mkdir()
    noise.write_bytes(random.Random(1).randbytes(NOISE_SIZE))
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if mkfs is None:
        create_image(image, DISK_SIZE)
        # Noise in pieces of 4 MiB, with holes between them, and a range of zeros.
        writes = [f"write -s {noise} {8 * n}M 4M" for n in range(NOISE_SIZE // (4 * MIB))]
        write_pattern(image, [*writes, "write -z 100M 16M", "write -P 90 200M 8M"])
        return "patterns written by qemu-io"
    for name in ("docs", "src"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, noise.parent / name, ignore=ignored)
    raw = work / "disk.raw"
    run(mkfs, "-q", "-F", "-d", noise.parent, raw, f"{DISK_SIZE // MIB}M")
    run("qemu-img", "convert", "-q", "-O", "qcow2", raw, image)
    return f"ext4 with tapestream's docs and source, and {NOISE_SIZE // MIB} MiB of noise"


def run(*command: str | Path) -> str:
    """Run a command, and return its output. Ends the demo if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"demo: {command[0]} failed: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def say(what: str, done: Done) -> None:
    """Report what a copy did."""
    r = done.result
    way = "the daemon's unix socket" if done.over_unix_socket else "TLS"
    print(f"{what}, over {way}: {r.seconds:.2f} s, {r.rate / MIB:.0f} MiB/s")
    print(f"  {r.data_extents} of {r.extents} extents are data")
    digests = f"{r.verified} digests match" if r.verified else f"{r.checksum} digests recorded"
    print(f"  {r.data_bytes / MIB:.1f} MiB of data copied, {digests}")
    print(f"  {r.zero_bytes / MIB:.1f} MiB of zeros not written")


def list_tar(tar: Path) -> None:
    """Show the beginning and the end of what `tar -tvf` says."""
    lines = run("tar", "-tvf", tar).splitlines()
    if len(lines) > 9:
        lines[6:-2] = [f"... {len(lines) - 8} more ..."]
    print(f"$ tar -tvf {tar}")
    for line in lines:
        print(f"  {line}")


def demo(tar: Path, work: Path) -> None:
    """Make a disk, back it up, look into the tar, restore it, and compare."""
    original, restored = work / "original.qcow2", work / "restored.qcow2"
    contents = make_disk(original, work)
    print(f"Disk: {DISK_SIZE // MIB} MiB qcow2, {contents}")
    with ImageioDaemon(work / "imageio") as daemon:
        with transfer(daemon, original) as url:
            say("Backup into a pipe", backup(url, daemon.cafile, tar))
        list_tar(tar)
        create_image(restored, DISK_SIZE)
        with transfer(daemon, restored, write=True) as url:
            say("Restore of the tar", restore(tar, url, daemon.cafile))
    print(f"$ qemu-img compare {original.name} {restored.name}")
    print("  " + run("qemu-img", "compare", original, restored).strip())
    print(f"The tar is kept: {tar}, {tar.stat().st_size} bytes")


def main() -> None:
    """Run the demo in a temporary directory."""
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    os.umask(0o077)  # a backup is as secret as the disk
    kept = sys.argv[1] if sys.argv[1:] else f"{tempfile.mkdtemp(prefix='tapestream-')}/backup.tar"
    with tempfile.TemporaryDirectory(prefix="tapestream-demo-") as work:
        try:
            demo(Path(kept), Path(work))
        except (TapestreamError, OSError) as e:
            sys.exit(f"demo: {e}")


if __name__ == "__main__":
    main()
