"""Open a shell in which you can try the commands, without an oVirt engine.

Usage: try_it.py [COMMAND ...]

The engine is a double. It has a VM, mail, with two disks; the imageio daemon and qemu-nbd, from
which the disks are read, are real. The shell is in a temporary directory, which is removed when you
leave the shell. With a COMMAND, that is run instead of the shell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tapestream.testing import EngineDouble, write_pattern

GIB = 1024**3
WELCOME = """\
This is a shell with an oVirt engine to play with: a double, whose VM "mail" has two disks.
Try: tapestream vm full mail nightly
     tapestream vm restore nightly --vm mail --name mail-restored
Leave it with: exit
"""


def add_vm(engine: EngineDouble, here: Path) -> None:
    """Add the VM, and a link in this directory to the image of each of its disks."""
    vm = engine.add_vm("mail", [20 * GIB, 4 * GIB])
    write_pattern(vm.disks[0].path, ["write -P 1 0 48M"])
    write_pattern(vm.disks[1].path, ["write -P 2 1G 16M"])
    for disk in vm.disks:
        (here / f"{disk.name}.qcow2").symlink_to(disk.path)


def environment(engine: EngineDouble, work: Path) -> dict[str, str]:
    """What `tapestream vm` needs to log in; a person has it in ~/.config/ovirt.conf."""
    return os.environ | {
        "OVIRT_URL": engine.url,
        "OVIRT_USERNAME": engine.username,
        "OVIRT_PASSWORD": engine.password,
        "OVIRT_CAFILE": str(engine.cafile),
        "OVIRT_HOST_CAFILE": str(engine.daemon.cafile),
        "XDG_STATE_HOME": str(work / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def main() -> int:
    """Run a shell, or the command; its exit status."""
    command = sys.argv[1:]
    if not command:
        print(WELCOME, flush=True)
    os.umask(0o077)  # a backup is as secret as the disk
    with tempfile.TemporaryDirectory(prefix="tapestream-try-") as directory:
        work, here = Path(directory), Path(directory) / "try"
        (here / "nightly").mkdir(parents=True)
        with EngineDouble(work / "engine") as engine:
            add_vm(engine, here)
            signal.signal(signal.SIGINT, lambda *_: None)  # a Ctrl-C is for what runs in the shell
            shell = [os.environ.get("SHELL", "/bin/sh")]
            return subprocess.run(
                command or shell, cwd=here, env=environment(engine, work), check=False
            ).returncode


if __name__ == "__main__":
    sys.exit(main())
