"""What the double of an engine knows: VMs, disks, backups, checkpoints, transfers, events."""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from ..._process import OfThisProcess
from . import ovf


def new_id() -> str:
    """Return a new id, as the engine makes them."""
    return str(uuid.uuid4())


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass
class EnginePhases:
    """The phases that clients of the double see, in order, for each kind of operation.

    The first phase is in the reply that starts the operation. Each GET of the object then moves it
    to the next phase; it stays in the last one. So a phase that is repeated is a delay, an early
    end is an object that is stuck, and a word that the API does not know is an unknown phase:

        engine.phases.backup_start = ("initializing", "initializing", "failed")

    What a phase means happens when it is reached: a transfer has its ticket in "transferring", a
    backup that is "failed" has an event and no checkpoint. A change counts for operations that
    start after it.

    Attributes:
        backup_start: Of a backup, until it is ready.
        backup_finalize: Of a backup that is finalized.
        transfer_start: Of a transfer, until data can be transferred.
        transfer_finalize: Of a transfer that is finalized.
        transfer_cancel: Of a transfer that is cancelled.
        disk_add: Of a new disk.
        vm_add: Of a new VM.
        checkpoint_remove: Of a checkpoint that is removed.
        job: Of a job of the engine.
    """

    backup_start: tuple[str, ...] = ("initializing", "starting", "ready")
    backup_finalize: tuple[str, ...] = ("finalizing", "succeeded")
    transfer_start: tuple[str, ...] = ("initializing", "transferring")
    transfer_finalize: tuple[str, ...] = ("finalizing_success", "finished_success")
    transfer_cancel: tuple[str, ...] = ("cancelled_user", "finalizing_cleanup", "finished_cleanup")
    disk_add: tuple[str, ...] = ("locked", "ok")
    vm_add: tuple[str, ...] = ("down",)
    checkpoint_remove: tuple[str, ...] = ("invalid", "removed")
    job: tuple[str, ...] = ("started", "finished")


@dataclass
class Progress:
    """Where an object is in its phases."""

    phases: tuple[str, ...]

    @property
    def phase(self) -> str:
        """The phase that a client sees."""
        return self.phases[0]

    @property
    def moves(self) -> bool:
        """Whether the next GET shows another phase."""
        return len(self.phases) > 1


@dataclass(frozen=True)
class Cluster:
    """Where VMs are."""

    id: str
    name: str


@dataclass(frozen=True)
class StorageDomain:
    """Where disks are."""

    id: str
    name: str


@dataclass(eq=False)
class DiskDouble(OfThisProcess):
    """A disk of the double, in an image that a test may write to at any time.

    Attributes:
        id: Its id.
        name: Its name.
        path: Its image. Write to it with `write_pattern` or qemu-io. Bitmaps in it record what
            changes, so a qcow2 image must not be replaced.
        format: "qcow2" or "raw"; the API says "cow" for the first.
        size: Its size in bytes.
        incremental: Whether incremental backups of it are possible.
        status: "ok", "locked" or "illegal"; a test may set it.
        storage_domain: Its storage domain, with an `id` and a `name`.
    """

    id: str
    name: str
    path: Path
    format: str
    size: int
    incremental: bool
    storage_domain: StorageDomain
    progress: Progress = field(default_factory=lambda: Progress(("ok",)))

    @property
    def status(self) -> str:
        """The status that a client sees."""
        return self.progress.phase

    @status.setter
    def status(self, status: str) -> None:
        self.progress = Progress((status,))


@dataclass(eq=False)
class Attachment:
    """A disk that is attached to a VM; its id is that of the disk."""

    disk: DiskDouble
    interface: str = "virtio_scsi"
    bootable: bool = False
    active: bool = True
    pass_discard: bool = False


@dataclass(eq=False)
class Checkpoint:
    """A moment of a VM's disks, from which each of them has a bitmap of the same name."""

    id: str
    disks: list[DiskDouble]
    parent: str | None
    description: str | None
    progress: Progress = field(default_factory=lambda: Progress(("created",)))
    created: datetime = field(default_factory=_now)


@dataclass(eq=False)
class VmDouble(OfThisProcess):
    """A virtual machine of the double.

    Attributes:
        id: Its id.
        name: Its name.
        cluster: The name of its cluster.
        memory: Its memory in MiB.
        comment: Its comment.
        attachments: Its disks, and how they are attached.
        checkpoints: Its checkpoints, from the oldest to the newest.
        status: "up", "down", or another status of the API; a test may set it.
    """

    id: str
    name: str
    cluster: str
    memory: int = 1024
    comment: str = ""
    attachments: list[Attachment] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    progress: Progress = field(default_factory=lambda: Progress(("down",)))

    @property
    def status(self) -> str:
        """The status that a client sees."""
        return self.progress.phase

    @status.setter
    def status(self, status: str) -> None:
        self.progress = Progress((status,))

    @property
    def ovf(self) -> str:
        """Its configuration as it is now, which a backup program keeps for a restore."""
        return ovf.write(self)

    @property
    def disks(self) -> list[DiskDouble]:
        """Its disks, in the order in which they were attached."""
        return [attachment.disk for attachment in self.attachments]


@dataclass(eq=False)
class Backup:
    """A backup of a VM, with a copy of each disk as of its start."""

    id: str
    vm: VmDouble
    disks: list[DiskDouble]
    parent: Checkpoint | None
    checkpoint: Checkpoint | None
    description: str | None
    copies: dict[str, Path]
    progress: Progress
    created: datetime = field(default_factory=_now)

    def mode(self, disk: DiskDouble) -> str:
        """Return how a disk is backed up: in full if the parent checkpoint has no such disk."""
        changes = self.parent is not None and disk in self.parent.disks
        return "incremental" if changes else "full"

    @property
    def is_open(self) -> bool:
        """Whether it still holds its disks."""
        return self.progress.phase not in ("succeeded", "failed")


@dataclass(eq=False)
class Transfer:
    """An image transfer; while it transfers, qemu-nbd serves the image and the daemon a ticket."""

    id: str
    disk: DiskDouble
    direction: str
    backup: Backup | None
    inactivity_timeout: int
    timeout_policy: str
    progress: Progress
    url: str | None = None
    # Seconds of the virtual clock since it was started or extended.
    idle: float = 0.0
    serving: ExitStack = field(default_factory=ExitStack)

    @property
    def is_open(self) -> bool:
        """Whether a program still has to finalize or cancel it."""
        return not self.progress.phase.startswith(("finished_", "finalizing_", "cancelled"))


@dataclass(frozen=True)
class Event:
    """What the engine says about an operation."""

    id: int
    code: int
    severity: str
    description: str
    about: tuple[str, ...]
    time: datetime = field(default_factory=_now)


@dataclass(eq=False)
class Job:
    """What the engine does for one request that had a correlation id."""

    id: str
    description: str
    correlation_id: str
    progress: Progress


@dataclass
class Host:
    """The one host of the double."""

    id: str = field(default_factory=new_id)
    name: str = "host-1"
    hardware_id: str = field(default_factory=new_id)
    status: str = "up"


@dataclass(frozen=True)
class EngineCall:
    """A request that the double got. It holds no password, token or transfer URL.

    Attributes:
        method: "GET", "POST" or "DELETE".
        path: The path below `/ovirt-engine/api`, or the whole path of a login or logout.
        query: The query parameters.
        body: The XML that was sent; "" for a login or logout.
        status: The status of the reply; 0 if the connection was dropped instead.
    """

    method: str
    path: str
    query: dict[str, str]
    body: str
    status: int


@dataclass(frozen=True)
class EngineLeftovers:
    """What programs have left in an engine.

    Attributes:
        transfers: Ids of transfers that were neither finalized nor cancelled.
        backups: Ids of backups that were not finalized.
        locked_disks: Ids of disks that are not "ok".
        checkpoints: Ids of the checkpoints of all VMs, each VM's oldest first. A checkpoint of a
            good backup is meant to stay.
        tokens: How many logins had no logout.
    """

    transfers: tuple[str, ...] = ()
    backups: tuple[str, ...] = ()
    locked_disks: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    tokens: int = 0

    @property
    def nothing_open(self) -> bool:
        """Whether all transfers and backups have ended, all disks are "ok", and nobody is in."""
        return not (self.transfers or self.backups or self.locked_disks or self.tokens)


@dataclass(eq=False)
class Inventory(OfThisProcess):
    """All that an engine has, by id."""

    vms: dict[str, VmDouble] = field(default_factory=dict)
    disks: dict[str, DiskDouble] = field(default_factory=dict)
    backups: dict[str, Backup] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    storage_domains: dict[str, StorageDomain] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    host: Host = field(default_factory=Host)
    # The parts of transfer URLs that let somebody in, also of transfers that have ended.
    tickets: set[str] = field(default_factory=set)
    data_center: str = "Default"
    data_center_id: str = field(default_factory=new_id)
