"""The double of an oVirt engine that tests start: what is in it, what goes wrong, what is left."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache, lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from ..._process import OfThisProcess
from ..._shown import short_repr
from ..._typing import Self
from ...arguments import path as checked_path
from ..daemon import ImageioDaemon, certificate_authority
from ..ending import stop_at_exit
from ..images import create_image
from . import storage
from .commands import Commands, existing_disk
from .entities import (
    Attachment,
    Checkpoint,
    Cluster,
    DiskDouble,
    EngineCall,
    EngineLeftovers,
    EnginePhases,
    Host,
    Inventory,
    StorageDomain,
    VmDouble,
    new_id,
)
from .faults import DroppedError, FaultError, Script
from .routes import Engine, answer
from .server import Desk, EngineServer, Tokens

# What a request of the API can have as a method.
_METHODS = ("GET", "POST", "PUT", "DELETE")
# What XML can have in a text, and what arrives as it was sent: a carriage return does not.
_XML_TEXT = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


class EngineDouble(OfThisProcess):
    """A double of an oVirt engine: its REST API, as far as backup and restore need it.

    It is no engine. But what is behind it is real: an imageio daemon and qemu-nbd serve qcow2
    images with bitmaps. A backup copies the images as they are at that moment, so a test may write
    to a disk at any time. The engine SDK talks to it, and SDK examples such as `backup_vm.py` run
    with it:

        with EngineDouble(directory) as engine:
            vm = engine.add_vm("mail", [64 * 1024**2])
            write_pattern(vm.disks[0].path, ["write -P 1 0 1M"])
            ...  # a program: engine.url, engine.username, engine.password, engine.cafile
            assert engine.leftovers().nothing_open

    If a program ends without `stop`, also by an exception, the double ends with it.

    Requests are checked, also for elements that no engine knows, and are carried out one by one.
    Nothing happens by itself: an object moves to its next phase when a client looks at it, time
    passes with `pass_time`. All requests are in `calls`.

    Args:
        directory: Directory for images, copies, certificates and the daemon; it is created if it
            does not exist. Give each double a directory of its own.
        daemon: A daemon that runs already, and goes on running: many doubles in turn then start
            faster. By default, the double starts and stops one of its own.
        storage_domains: The names of its storage domains; the first one has the disks of `add_vm`.
        clusters: The names of its clusters; the first one has the VMs of `add_vm`.
        token_lifetime: Seconds of the virtual clock until a token expires.

    Attributes:
        username: The one user.
        password: The user's password.
        cafile: Certificate of the authority that signed the engine's certificate. The host, with
            the imageio daemon, has another: `daemon.cafile`.
        daemon: The imageio daemon of the host.
        phases: The phases that clients see, which a test may change: delays, failures, objects
            that are stuck.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        daemon: ImageioDaemon | None = None,
        storage_domains: Sequence[str] = ("data",),
        clusters: Sequence[str] = ("Default",),
        token_lifetime: float = 3600.0,
    ) -> None:
        for what, names in (("storage_domains", storage_domains), ("clusters", clusters)):
            if isinstance(names, str) or not names:
                raise ValueError(f"{what} must be a sequence of at least one name")
            for each in names:
                _check_name(each)
        directory = Path(checked_path("directory", directory))
        self.username = "admin@internal"
        # Nothing else has it: whoever looks for it in a text finds only this.
        self.password = f"the {new_id()} & % password"
        self.cafile = directory / "engine-ca.pem"
        self.daemon = daemon or ImageioDaemon(directory / "host")
        self._owns_daemon = daemon is None
        self.phases = EnginePhases()
        self._directory = directory
        domains = [StorageDomain(new_id(), name) for name in storage_domains]
        self._inventory = Inventory(storage_domains={domain.id: domain for domain in domains})
        for name in clusters:
            cluster = Cluster(new_id(), name)
            self._inventory.clusters[cluster.id] = cluster
        self._commands = Commands(directory, self.daemon, self._inventory, self.phases)
        tokens = Tokens(self.username, self.password, token_lifetime)
        engine = Engine(self._inventory, self._commands)
        self._desk = Desk(tokens, partial(answer, engine))
        self._server: EngineServer | None = None
        self._cleanup = contextlib.ExitStack()

    def __repr__(self) -> str:
        return short_repr(self, self.url if self._server else "not running")

    # Life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the daemon and the server, and return when both answer requests.

        Raises:
            ImportError: The optional dependencies are not installed.
            RuntimeError: It runs already, or the daemon did not start. Nothing is left running.
        """
        if self._server is not None:
            raise RuntimeError("the engine double is running already")
        self._directory.mkdir(parents=True, exist_ok=True)
        certificate, context = _certificate()
        self.cafile.write_bytes(certificate)
        with contextlib.ExitStack() as cleanup:
            if self._owns_daemon:
                cleanup.enter_context(self.daemon)
            cleanup.callback(self._commands.stop_serving)
            server = EngineServer(context, self._desk)
            cleanup.callback(server.server_close)
            thread = threading.Thread(
                target=server.serve_forever, args=(0.05,), name="engine", daemon=True
            )
            thread.start()
            cleanup.callback(thread.join)
            cleanup.callback(server.end_connections)
            cleanup.callback(server.shutdown)
            self._server = server
            self._cleanup = cleanup.pop_all()
            stop_at_exit(self.stop, self._cleanup)

    def stop(self) -> None:
        """Stop everything that runs; does nothing when nothing does. The images stay."""
        self._server = None
        self._cleanup.close()

    @property
    def url(self) -> str:
        """The engine's URL, `https://127.0.0.1:PORT`; RuntimeError unless the double runs.

        The API is below it, at `/ovirt-engine/api`.
        """
        if self._server is None:
            raise RuntimeError("the engine double is not running: call start() first")
        return f"https://127.0.0.1:{self._server.server_port}"

    @property
    def host(self) -> Host:
        """The one host. With another `status` than "up", no backup or transfer can start."""
        return self._inventory.host

    @property
    def vms(self) -> list[VmDouble]:
        """All VMs, also those that clients have created."""
        return list(self._inventory.vms.values())

    @property
    def disks(self) -> list[DiskDouble]:
        """All disks, also those that clients have created."""
        return list(self._inventory.disks.values())

    @property
    def calls(self) -> list[EngineCall]:
        """The requests so far, without passwords, tokens and transfer URLs."""
        with self._desk.lock:
            return list(self._desk.calls)

    @property
    def secrets(self) -> frozenset[str]:
        """What no output of a program, and no file of it, may have.

        That is the password, and every token and ticket so far, also those that have ended. The
        ticket is the part of a transfer URL that lets somebody in.
        """
        with self._desk.lock:
            return frozenset({self.password, *self._desk.tokens.issued, *self._inventory.tickets})

    def write_config(self, home: Path, section: str = "engine") -> Path:
        """Write `.config/ovirt.conf` into a home directory, as the SDK's examples read it.

        They verify the engine and the host with one `cafile`: it has both certificates.

        Args:
            home: The directory.
            section: The name to choose this engine by, as in `backup_vm.py -c engine`.

        Returns:
            The path of the file, which only its owner can read.
        """
        both = self._directory / "engine-and-host-ca.pem"
        both.write_bytes(self.cafile.read_bytes() + self.daemon.cafile.read_bytes())
        config = configparser.RawConfigParser()
        config[section] = {
            "engine_url": self.url,
            "username": self.username,
            "password": self.password,
            "cafile": str(both),
            "secure": "true",
        }
        path = home / ".config" / "ovirt.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("w", encoding="utf-8") as f:
            config.write(f)
        return path

    # What is in it

    def add_vm(
        self, name: str, disks: Sequence[int | str | os.PathLike[str]] = (), *, status: str = "up"
    ) -> VmDouble:
        """Add a VM with disks.

        Args:
            name: Its name.
            disks: For each disk, the size in bytes of an empty qcow2 image to create, or the path
                of an image that exists: qcow2 or raw. The first disk is bootable.
            status: Its status, such as "up" or "down".

        Returns:
            The VM. A test may change its `status` and its disks' `status`, and write to the disks.

        Raises:
            ValueError: XML cannot have the name.
        """
        _check_name(name)
        with self._desk.lock:
            vm = VmDouble(new_id(), name, next(iter(self._inventory.clusters.values())).name)
            vm.status = status
            for image in disks:
                self._attach(vm, image)
            self._inventory.vms[vm.id] = vm
            return vm

    def add_disk(self, vm: VmDouble, disk: int | str | os.PathLike[str]) -> DiskDouble:
        """Attach a new disk to a VM, as an administrator does: no checkpoint has it.

        Args:
            vm: The VM.
            disk: A size in bytes or an image, as for `add_vm`.
        """
        with self._desk.lock:
            return self._attach(vm, disk)

    def remove_disk(self, disk: DiskDouble) -> None:
        """Remove a disk, from its VM and from the checkpoints, too."""
        with self._desk.lock:
            self._commands.forget_disk(disk)

    def grow_disk(self, disk: DiskDouble, size: int) -> None:
        """Make a disk larger. What is new reads as zeros, and in no bitmap it counts as changed.

        Raises:
            ValueError: The disk is not "ok".
            RuntimeError: qemu-img failed, such as for a size that is smaller.
        """
        with self._desk.lock:
            _check_idle(disk)
            storage.grow(disk, size)

    def convert_disk(self, disk: DiskDouble, format: str) -> None:  # noqa: A002 - its attribute
        """Make an image of the other format of a disk: "raw" or "qcow2".

        As in oVirt 4.5, the new image has no bitmaps, and the checkpoints still list the disk. So
        an incremental backup that starts from one of them fails. An image that was passed to
        `add_vm` or `add_disk` stays as it is: the disk no longer uses it.

        Raises:
            ValueError: The disk is not "ok".
        """
        with self._desk.lock:
            _check_idle(disk)
            self._commands.convert_disk(disk, format)

    def _attach(self, vm: VmDouble, image: int | str | os.PathLike[str]) -> DiskDouble:
        id_, used = new_id(), {disk.name for disk in self._inventory.disks.values()}
        names = (f"{vm.name}_Disk{number}" for number in count(1 + len(vm.attachments)))
        name = next(name for name in names if name not in used)
        domain = next(iter(self._inventory.storage_domains.values()))
        if isinstance(image, int):
            path = self._commands.image_path(id_, "qcow2")
            path.write_bytes(_empty_image(image))
            disk = DiskDouble(id_, name, path, "qcow2", image, True, domain)
        else:
            disk = existing_disk(Path(image), id_, name, domain)
        self._inventory.disks[id_] = disk
        vm.attachments.append(Attachment(disk, bootable=not vm.attachments))
        return disk

    # What goes wrong. If several of these match a request, the one asked for first happens.

    def refuse(
        self,
        method: str,
        path: str,
        status: int = 409,
        detail: str = "[The double was told to refuse this.]",
        *,
        skip: int = 0,
        times: int = 1,
    ) -> None:
        """Answer requests with an error, without carrying them out.

        Args:
            method: Their method.
            path: Their path below `/ovirt-engine/api`, such as `/vms/*/backups/*/finalize`; `*`
                stands for any characters.
            status: The HTTP status.
            detail: What the error says.
            skip: How many such requests are carried out before.
            times: How many requests are refused.
        """

        def answer_with_fault(_carry_out: Callable[[], Any]) -> NoReturn:
            raise FaultError(status, detail)

        self._add(Script(method, path, answer_with_fault, skip, times))

    def drop(
        self, method: str, path: str, *, carry_out: bool = False, skip: int = 0, times: int = 1
    ) -> None:
        """Close the connection of requests instead of answering them.

        Args:
            method: Their method.
            path: Their path, as in `refuse`.
            carry_out: Do what is asked for first: only the reply is lost.
            skip: How many such requests are answered before.
            times: How many connections are closed.
        """

        def close(do: Callable[[], Any]) -> NoReturn:
            if carry_out:
                do()
            raise DroppedError

        self._add(Script(method, path, close, skip, times))

    def when(
        self,
        method: str,
        path: str,
        call: Callable[[], object],
        *,
        skip: int = 0,
        times: int = 1,
    ) -> None:
        """Call a function when a request comes, before it is carried out.

        The function may end the program that has sent the request, write to a disk, or change the
        double. Other requests wait for it.

        Args:
            method: The request's method.
            path: Its path, as in `refuse`.
            call: The function, which is called in a thread of the server.
            skip: How many such requests come before.
            times: For how many requests it is called.
        """

        def call_first(do: Callable[[], Any]) -> Any:
            call()
            return do()

        self._add(Script(method, path, call_first, skip, times))

    def _add(self, script: Script) -> None:
        if script.method not in _METHODS or not script.path.startswith("/"):
            what = f"{script.method!r} {script.path!r}"
            raise ValueError(f'{what} is no request of the API, as "GET", "/vms/*" is')
        with self._desk.lock:
            self._desk.scripts.append(script)

    def expire_tokens(self) -> None:
        """Let every token expire: the next request with one gets 401."""
        with self._desk.lock:
            self._desk.tokens.expire()

    def lose_checkpoint(self, vm: VmDouble, checkpoint_id: str) -> None:
        """Let a checkpoint become "invalid", as when a host finds that its bitmap is damaged."""
        with self._desk.lock:
            _checkpoint(vm, checkpoint_id).progress.phases = ("invalid",)

    def remove_checkpoint(self, vm: VmDouble, checkpoint_id: str) -> None:
        """Remove a checkpoint and its bitmaps, as another program does."""
        with self._desk.lock:
            self._commands.forget_checkpoint(_checkpoint(vm, checkpoint_id))

    def heal(self) -> None:
        """Let nothing go wrong any more.

        What was asked for with `refuse`, `drop` and `when` is over, operations that start after
        this have the usual phases, and the host is up. What has happened stays as it is.
        """
        with self._desk.lock:
            self._desk.scripts.clear()
            usual = EnginePhases()
            for phase in fields(EnginePhases):  # the object may be in use
                setattr(self.phases, phase.name, getattr(usual, phase.name))
            self.host.status = "up"

    def pass_time(self, seconds: float) -> None:
        """Let the virtual clock go on: tokens expire, idle transfers end, and it is another day.

        The double does not look at the data of a transfer: it was idle since it was started or
        extended.
        """
        with self._desk.lock:
            self._desk.tokens.now += seconds
            self._commands.pass_time(seconds)

    # What is left

    def leftovers(self) -> EngineLeftovers:
        """Return what programs have left, after the engine had all the time that it needs.

        Each object moves to the last of its phases first: a backup that is finalizing is then
        "succeeded", and nobody's fault.
        """
        with self._desk.lock:
            self._commands.settle()
            inventory = self._inventory
            return EngineLeftovers(
                tuple(t.id for t in inventory.transfers.values() if t.is_open),
                tuple(b.id for b in inventory.backups.values() if b.is_open),
                tuple(d.id for d in inventory.disks.values() if d.status != "ok"),
                tuple(c.id for vm in inventory.vms.values() for c in vm.checkpoints),
                self._desk.tokens.valid,
            )


# Tests make many doubles, and disks of few sizes. To make a certificate takes 20 ms, and so does an
# empty image.


@cache
def _certificate() -> tuple[bytes, ssl.SSLContext]:
    """The certificate of an authority, and what a server needs that has a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = certificate_authority()
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return bytes(authority.cert_pem.bytes()), context


@lru_cache(8)
def _empty_image(size: int) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "image")
        create_image(path, size)
        return path.read_bytes()


def _checkpoint(vm: VmDouble, id_: str) -> Checkpoint:
    for checkpoint in vm.checkpoints:
        if checkpoint.id == id_:
            return checkpoint
    raise ValueError(f"{vm.name} has no checkpoint {id_}")


def _check_idle(disk: DiskDouble) -> None:
    if disk.status != "ok":
        raise ValueError(f"disk {disk.name} cannot be changed: it is {disk.status}")


def _check_name(name: str) -> None:
    if not _XML_TEXT.fullmatch(name):
        raise ValueError(f"a name cannot be {name!r}: XML cannot have it")
