"""A running qemu whose disks can be written to as a guest would, and backed up as oVirt does it."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tapestream.testing import create_image

from .qmp import TIMEOUT, Monitor, QMPError

_END_TIMEOUT = 30.0


@dataclass
class Disk:
    """A disk of the machine.

    Attributes:
        name: Of the device, such as "vda".
        format: Of its first image, "qcow2" or "raw".
        size: In bytes.
        layers: The checkpoints whose bitmaps each layer has, by the name of its qemu node: the
            first image, and the snapshots on top of it.
    """

    name: str
    format: str
    size: int
    layers: dict[str, list[str]]

    @property
    def top(self) -> str:
        """The node that is written to."""
        return list(self.layers)[-1]

    @property
    def checkpoints(self) -> list[str]:
        """Those from which an incremental backup can start; a raw disk has none."""
        return self.layers[self.top]


@dataclass(frozen=True)
class Export:
    """A disk as it was when the backup started, for as long as the backup lasts.

    Attributes:
        url: For the imageio daemon.
        size: In bytes.
        has_bitmap: What changed since the parent checkpoint is known.
    """

    url: str
    size: int
    has_bitmap: bool


class Machine:
    """A virtual machine that is switched on, and whose processor is halted.

    Nothing runs in it: what a guest would write, `write` does, by way of the guest's device.

        with Machine(directory, {"vda": image}) as machine, machine.backup("c1") as backup:
            backup.exports["vda"].url

    Args:
        directory: For its log, snapshots and scratch images.
        images: The image of each disk, by the name of its device. The suffix is its format, qcow2
            or raw.
    """

    def __init__(self, directory: Path, images: dict[str, Path]) -> None:
        self.disks: dict[str, Disk] = {}
        self._directory = directory
        self._log = directory / "qemu.log"
        self._images = images
        self._numbers = iter(range(1, 1_000_000))

    def __enter__(self) -> Self:
        command = _qemu(self._images)
        with ExitStack() as stack:
            ends = {name: socket.socketpair() for name in ("management", "guest")}
            for name, (ours, theirs) in ends.items():
                stack.callback(ours.close)
                stack.callback(theirs.close)
                command += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]
                command += ["-mon", f"chardev={name},mode=control"]
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno() for _, theirs in ends.values()],
                    start_new_session=True,  # Ctrl-C is for the tests, which end it
                )
            stack.callback(self.kill)
            for _, theirs in ends.values():
                theirs.close()
            self.monitor = self._open_monitor(stack, ends["management"][0])
            self._guest = self._open_monitor(stack, ends["guest"][0])
            self.disks = {name: self._look_at(name) for name in self._images}
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    @property
    def log(self) -> str:
        """What qemu has said."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End qemu as a power cut does. Does nothing when it has ended."""
        self._process.kill()
        self._process.wait(_END_TIMEOUT)

    def power_cycle(self) -> None:
        """Switch it off in an orderly way, and on again. It has no snapshots."""
        self.monitor.execute("quit")
        self._process.wait(_END_TIMEOUT)
        self._cleanup.close()
        self.__enter__()

    def write(self, disk: str, *commands: str) -> None:
        """Write as a guest does, with commands of qemu-io such as "write -P 1 0 64k".

        Raises:
            OSError: A write failed.
        """
        for command in commands:
            verb, _, rest = command.partition(" ")
            line = f'qemu-io -d /machine/peripheral/{disk}/virtio-backend "{verb} -q {rest}"'
            logged = len(self.log)
            said = self._guest.execute("human-monitor-command", command_line=line)
            said += self.log[logged:]
            if said:
                raise OSError(f"{command}: {said.strip()}")

    def resize(self, disk: str, size: int) -> None:
        """Make a disk larger."""
        self.monitor.execute("block_resize", node_name=self.disks[disk].top, size=size)
        self.disks[disk].size = size

    def snapshot(self, name: str) -> None:
        """Go on in a new layer of a disk, which has the bitmaps of all checkpoints."""
        disk = self.disks[name]
        node = self._add_image(f"{name}-snapshot", disk.size, backing=None)
        actions = [_action("blockdev-snapshot", node=disk.top, overlay=node)]
        actions += [_add_bitmap(node, checkpoint) for checkpoint in disk.checkpoints]
        self.monitor.execute("transaction", actions=actions)
        disk.layers[node] = list(disk.checkpoints)

    @contextmanager
    def backup(
        self,
        checkpoint: str,
        parent: str | None = None,
        *,
        disks: Sequence[str] | None = None,
        scratch_size: int | None = None,
    ) -> Iterator[Backup]:
        """Back up the disks for the length of the block, and make a checkpoint of them.

        Args:
            checkpoint: Name of the new one.
            parent: Name of the one to start from. A disk that does not have it gets a full backup.
            disks: Their names; by default all.
            scratch_size: How many bytes a scratch image may take, for what is overwritten
                meanwhile.
        """
        with ExitStack() as stack:
            chosen = [self.disks[name] for name in disks or self.disks]
            backup = Backup(self, checkpoint, parent, chosen, scratch_size)
            stack.callback(backup.end)
            backup.start()
            yield backup

    def _open_monitor(self, stack: ExitStack, sock: socket.socket) -> Monitor:
        try:
            monitor = Monitor(sock)
        except EOFError as e:
            raise RuntimeError(f"qemu did not start: {self.log}") from e
        stack.callback(monitor.close)
        return monitor

    def _add_image(
        self, name: str, size: int, *, backing: str | None, limit: int | None = None
    ) -> str:
        """Make a new image, and open it; gives the name of its node."""
        node = f"{name}-{next(self._numbers)}"
        path = self._directory / f"{node}.qcow2"
        create_image(path, size)
        file: dict[str, Any] = {"driver": "file", "filename": str(path)}
        if limit is not None:
            with path.open("r+b") as f:
                f.truncate(limit)
            file = {"driver": "raw", "size": limit, "file": file}
        self.monitor.execute(
            "blockdev-add", driver="qcow2", node_name=node, file=file, backing=backing
        )
        return node

    def _look_at(self, name: str) -> Disk:
        """Ask qemu what it knows of a disk: its image keeps the bitmaps."""
        nodes = self.monitor.execute("query-named-block-nodes", flat=True)
        (base,) = (node for node in nodes if node["node-name"] == f"{name}-base")
        checkpoints = [bitmap["name"] for bitmap in base.get("dirty-bitmaps", [])]
        size = base["image"]["virtual-size"]
        return Disk(name, base["drv"], size, {base["node-name"]: checkpoints})


class Backup:
    """What libvirt does in a backup of a running machine.

    For each disk there is an empty *scratch* image on top of it, which a backup job fills with what
    the guest is about to overwrite. So the scratch image shows the disk as it was at the start, and
    is what is exported.

    Attributes:
        checkpoint: The checkpoint that it makes.
        parent: The checkpoint that it starts from.
        exports: By the name of the disk.
    """

    def __init__(
        self,
        machine: Machine,
        checkpoint: str,
        parent: str | None,
        disks: Sequence[Disk],
        scratch_size: int | None,
    ) -> None:
        self.exports: dict[str, Export] = {}
        self._machine = machine
        self.checkpoint = checkpoint
        self.parent = parent
        self._disks = disks
        self._scratch_size = scratch_size
        self._scratches: dict[str, str] = {}
        self._jobs: list[str] = []
        self._has_server = False
        # Not in the tests' directory: a unix socket's path is limited to 107 bytes.
        self._run_dir = Path(tempfile.mkdtemp(prefix="ts-"))

    def start(self) -> None:
        """Start it: all disks are taken at the same moment."""
        execute = self._machine.monitor.execute
        for disk in self._disks:
            self._scratches[disk.name] = self._machine._add_image(
                f"{disk.name}-scratch", disk.size, backing=disk.top, limit=self._scratch_size
            )
        address = {"type": "unix", "data": {"path": str(self._run_dir / "nbd")}}
        execute("nbd-server-start", addr=address)
        self._has_server = True
        execute("transaction", actions=[a for disk in self._disks for a in self._actions(disk)])
        for disk in self._disks:
            self._jobs.append(f"backup-{disk.name}")
            bitmaps = ["backup"] if self._is_incremental(disk) else []
            scratch = self._scratches[disk.name]
            execute(
                "block-export-add",
                type="nbd",
                id=scratch,
                node_name=scratch,
                name=disk.name,
                bitmaps=bitmaps,
            )
            url = f"nbd:unix:{self._run_dir / 'nbd'}:exportname={disk.name}"
            self.exports[disk.name] = Export(url, disk.size, bool(bitmaps))
        for disk in self._disks:
            if disk.format != "raw":
                disk.checkpoints.append(self.checkpoint)

    def read_whole(self, disk: str, path: Path) -> Path:
        """Read a disk as it was at the start, to the last byte, without tapestream."""
        uri = f"nbd+unix:///{disk}?socket={self._run_dir / 'nbd'}"
        subprocess.run(["nbdcopy", "--no-extents", uri, str(path)], check=True)
        return path

    def end(self) -> None:
        """End it, whether or not it is read. Does nothing when it, or qemu, has ended."""
        try:
            self._end()
        except (EOFError, ConnectionError):
            pass  # the machine was killed
        finally:
            shutil.rmtree(self._run_dir, ignore_errors=True)

    def _actions(self, disk: Disk) -> Iterator[dict[str, Any]]:
        scratch = self._scratches[disk.name]
        if disk.format != "raw":
            yield _add_bitmap(disk.top, self.checkpoint)
        if self._is_incremental(disk):
            changed = [
                {"node": layer, "name": self.parent}
                for layer, checkpoints in disk.layers.items()
                if self.parent in checkpoints
            ]
            yield _action("block-dirty-bitmap-add", node=scratch, name="backup", disabled=True)
            yield _action(
                "block-dirty-bitmap-merge", node=scratch, target="backup", bitmaps=changed
            )
        yield _action(
            "blockdev-backup",
            device=disk.top,
            target=scratch,
            sync="none",
            job_id=f"backup-{disk.name}",
        )

    def _is_incremental(self, disk: Disk) -> bool:
        return self.parent in disk.checkpoints

    def _end(self) -> None:
        monitor = self._machine.monitor
        while self._jobs:
            job = self._jobs.pop()
            monitor.execute("block-job-cancel", device=job, force=True)
            monitor.wait_for("BLOCK_JOB_CANCELLED", device=job)
        if self._has_server:
            self._has_server = False
            monitor.execute("nbd-server-stop")
        while self._scratches:
            _, scratch = self._scratches.popitem()
            _remove_node(monitor, scratch)


class Guest:
    """A guest that writes to its disks for the length of the block, in a thread of its own.

    As the `progress` of a copy it makes sure of that: after each piece, the copy waits until the
    guest has written again.
    """

    def __init__(self, machine: Machine, *, seed: int) -> None:
        self._machine = machine
        self._writes = random_writes([*machine.disks.values()], seed)
        self._count = 0
        self._wrote = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._write, name="guest")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop = True
        self._thread.join()

    def update(self, n: int = 0) -> None:
        """Wait for another write."""
        self.wait_for(1)

    def wait_for(self, count: int) -> None:
        """Wait for so many further writes."""
        with self._wrote:
            wanted = self._count + count
            assert self._wrote.wait_for(lambda: self._count >= wanted, TIMEOUT), "no more writes"

    def _write(self) -> None:
        while not self._stop:
            self._machine.write(*next(self._writes))
            with self._wrote:
                self._count += 1
                self._wrote.notify_all()


def random_writes(disks: Sequence[Disk], seed: int) -> Iterator[tuple[str, str]]:
    """What a guest does to its disks, without end: small and large writes, and zeros."""
    choose = random.Random(seed)
    while True:
        disk = choose.choice(disks)
        length = choose.choice([1, 512, 4096, 65536, 262144, 700_000])
        start = choose.randrange(disk.size - length)
        write = f"write -P {choose.randrange(1, 256)}"
        yield disk.name, f"{choose.choice([write, write, 'write -z', 'discard'])} {start} {length}"


def _qemu(images: dict[str, Path]) -> list[str]:
    """The command that starts a machine with these images, on which no processor runs."""
    # A write says on standard output that it failed: with stdbuf before its command returns.
    command = ["stdbuf", "-oL", "qemu-system-x86_64", "-S", "-accel", "tcg", "-machine", "q35"]
    command += ["-m", "64", "-nodefaults", "-no-user-config", "-display", "none"]
    for name, path in images.items():
        node = f"{name}-base"
        file = {"driver": "file", "filename": str(path)}
        blockdev = {"driver": path.suffix[1:], "node-name": node, "discard": "unmap", "file": file}
        command += ["-blockdev", json.dumps(blockdev)]
        command += ["-device", f"virtio-blk-pci,id={name},drive={node}"]
    return command


def _action(kind: str, **data: Any) -> dict[str, Any]:
    """One of those of a transaction."""
    return {"type": kind, "data": {name.replace("_", "-"): value for name, value in data.items()}}


def _add_bitmap(node: str, checkpoint: str) -> dict[str, Any]:
    return _action("block-dirty-bitmap-add", node=node, name=checkpoint, persistent=True)


def _remove_node(monitor: Monitor, node: str) -> None:
    """Close an image, as soon as no client has it open."""
    deadline = time.monotonic() + _END_TIMEOUT
    while True:
        try:
            monitor.execute("blockdev-del", node_name=node)
        except QMPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
