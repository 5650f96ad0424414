"""Back up two VMs to tape and to a folder, restore them as new VMs, and compare every disk whole.

Usage: demo.py [FOLDER] [--tape DEVICE] [--small]

Everything is done by the commands that you would type, and you see what they show. What they talk
to is built here: a double of an oVirt engine, behind which are a real ovirt-imageio daemon and
qemu-nbd, and disks with real bitmaps. The tape drive is simulated; with --tape, it is a real one,
whose cartridge is OVERWRITTEN. The backups are kept in FOLDER, or in a new temporary directory.
With --small, the disks have a quarter of the data, for a slow machine.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

from tapestream.cli.main import main as tapestream
from tapestream.tape import TapeDrive
from tapestream.testing import (
    Cartridge,
    EngineDouble,
    FakeDrive,
    VmDouble,
    compare_images,
    write_pattern,
)

MIB = 1024**2
DISK_SIZE = 256 * MIB
DATA = 48  # MiB in the disks of a VM
VMS = ("mail", "web")
TAPE = "/dev/nst0"


class Shell:
    """Shows each command, and runs it in this process.

    Args:
        tape: The device of the drive. If it is None, the drive is simulated.
    """

    def __init__(self, tape: str | None) -> None:
        self.tape = tape or TAPE
        self._drives = {}
        if tape is None:
            simulated = FakeDrive(Cartridge(capacity=1024 * MIB))
            self._drives[TAPE] = TapeDrive(TAPE, open_device=simulated.open)

    def run(self, *words: str | Path) -> None:
        """Run `tapestream`; ends the demo if it fails."""
        arguments = [str(word) for word in words]
        print(f"$ tapestream {shlex.join(arguments)}", flush=True)
        with redirect_stderr(sys.stdout):  # a person sees both on the terminal
            status = tapestream(arguments, drives=self._drives)
        if status != 0:
            sys.exit(f"demo: tapestream ended with status {status}")
        print(flush=True)


class Guest:
    """A VM, and what happens in it.

    Args:
        engine: The engine.
        name: The name of the VM.
        work: A folder for files.
        data: How much data its disks have, in MiB.

    Attributes:
        vm: The VM in the engine.
        copies: Its disks as they were when it was last backed up.
    """

    def __init__(self, engine: EngineDouble, name: str, work: Path, data: int) -> None:
        self.vm = engine.add_vm(name, [DISK_SIZE, DISK_SIZE])
        self.copies: list[Path] = []
        self._work = work
        self._noise = random.Random(name)
        self._write(self.vm.disks[0].path, 0, data // 2)
        self._write(self.vm.disks[0].path, 100, data // 4)
        self._write(self.vm.disks[1].path, 60, data // 4)

    def change(self) -> None:
        """A new file, an old one that is changed, and one that is deleted."""
        for number, disk in enumerate(self.vm.disks):
            self._write(disk.path, 160 + number, 2)
            self._write(disk.path, 100, 1)
            write_pattern(disk.path, ["write -z 2M 2M"])

    def keep_copies(self) -> None:
        """Remember the disks as they are now, to compare what is restored with them."""
        self.copies = [
            Path(shutil.copy(disk.path, self._work / f"{self.vm.name}-{number}.qcow2"))
            for number, disk in enumerate(self.vm.disks)
        ]

    def _write(self, image: Path, start: int, length: int) -> None:
        """Write incompressible data; `start` and `length` are in MiB."""
        noise = self._work / "noise"
        noise.write_bytes(self._noise.randbytes(length * MIB))
        write_pattern(image, [f"write -s {noise} {start}M {length}M"])


def compare(guest: Guest, restored: VmDouble) -> None:
    """Compare each disk of a new VM with the old one, from its first byte to its last."""
    assert len(restored.disks) == len(guest.copies)
    for disk, copy in zip(restored.disks, guest.copies, strict=True):
        print(f"$ qemu-img compare {copy.name} {disk.path.name}  # {restored.name}, {disk.name}")
        compare_images(copy, disk.path)
        print("Images are identical.")


def demo(shell: Shell, folder: Path, work: Path, data: int) -> None:
    """Back up, change, back up what changed, restore, compare."""
    with EngineDouble(work / "engine") as engine:
        make_quick(engine)
        log_in(engine, work)
        guests = [Guest(engine, name, work, data) for name in VMS]
        catalog = folder / "tapes.db"
        backups = folder / "backups"
        backups.mkdir(exist_ok=True)
        shell.run("vm", "list")
        shell.run("tape", "label", shell.tape, "VM0001", "--overwrite")
        for kind in ("full", "incremental"):
            for guest in guests:
                name = guest.vm.name
                shell.run("vm", kind, name, shell.tape, "--catalog", catalog)
                shell.run("vm", kind, name, backups)
                guest.keep_copies()
                guest.change()
        shell.run("tape", "scan", shell.tape)
        shell.run("list", backups)
        for name in VMS:
            from_tape = ("--catalog", catalog, "--vm", name, "--name", f"{name}-from-tape")
            shell.run("vm", "restore", shell.tape, *from_tape)
            shell.run("vm", "restore", backups, "--vm", name, "--name", f"{name}-from-folder")
        new = {vm.name: vm for vm in engine.vms}
        for guest in guests:
            compare(guest, new[f"{guest.vm.name}-from-tape"])
            compare(guest, new[f"{guest.vm.name}-from-folder"])
        shell.run("vm", "list")
        left = engine.leftovers()
        if not left.nothing_open:
            sys.exit(f"demo: something is still open in the engine: {left}")
    print(f"Nothing is open in the engine. The backups are kept: {backups}")


def make_quick(engine: EngineDouble) -> None:
    """Let the engine need no time: whoever waits for it looks once a second."""
    phases = engine.phases
    phases.backup_start, phases.backup_finalize = ("ready",), ("succeeded",)
    phases.transfer_start, phases.transfer_finalize = ("transferring",), ("finished_success",)
    phases.disk_add = ("ok",)


def log_in(engine: EngineDouble, work: Path) -> None:
    """Set what `tapestream vm` needs to log in; a person has it in ~/.config/ovirt.conf."""
    os.environ.update(
        OVIRT_URL=engine.url,
        OVIRT_USERNAME=engine.username,
        OVIRT_PASSWORD=engine.password,
        OVIRT_CAFILE=str(engine.cafile),
        OVIRT_HOST_CAFILE=str(engine.daemon.cafile),
        XDG_STATE_HOME=str(work / "state"),
    )


def main() -> None:
    """Run the demo in a temporary directory."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="for the backups")
    parser.add_argument("--tape", metavar="DEVICE", help="a real drive: what is there is LOST")
    parser.add_argument("--small", action="store_true", help="with less data")
    args = parser.parse_args()
    os.umask(0o077)  # a backup is as secret as the disk
    print(
        "The engine is a double. The imageio daemon, which is used over TLS, and qemu-nbd are real."
    )
    kind = f"{args.tape}, with Linux's own driver" if args.tape else "simulated"
    print(f"The tape drive is {kind}.\n")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="tapestream-"))
    with tempfile.TemporaryDirectory(prefix="tapestream-demo-") as work:
        try:
            demo(Shell(args.tape), folder, Path(work), DATA // 4 if args.small else DATA)
        except (AssertionError, OSError, RuntimeError) as e:
            sys.exit(f"demo: {e}")


if __name__ == "__main__":
    main()
