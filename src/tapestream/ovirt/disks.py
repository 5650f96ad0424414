"""New disks to restore into: made, waited for, and removed again if they were not restored."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import tapestream

from ..arguments import flag, number
from ..cancel import Cancel
from ..errors import EngineError, UsageError
from .asking import NOT_FOUND, asking, repeat
from .cleaning import clean_up, uninterrupted
from .patience import Patience, patience_of
from .sdk import sdk, types
from .timeouts import EngineTimeouts
from .waiting import Waiting, wait_for

_CLUSTER = 64 * 1024  # of a qcow2 image, as oVirt makes them
_SECTOR = 512


@dataclass(frozen=True)
class NewDisk:
    """A disk that was made for a restore.

    Attributes:
        id: Its id.
        name: Its name.
        size: Its size in bytes.
    """

    id: str
    name: str
    size: int


@contextmanager
def new_disk(
    connection: sdk.Connection,
    name: str,
    size: int,
    storage_domain: str,
    *,
    disk_format: Literal["cow", "raw"] = "cow",
    sparse: bool = True,
    incremental: bool | None = None,
    initial_size: int | None = None,
    wipe_after_delete: bool = False,
    description: str = "",
    disk_id: str | None = None,
    timeouts: EngineTimeouts | None = None,
    cancel: Cancel | None = None,
) -> Iterator[NewDisk]:
    """Make a disk, and remove it again if the block ends with an error.

        with (
            new_disk(connection, "mail_Disk1", info.size, "data") as disk,
            upload_transfer(connection, disk) as transfer,
        ):
            ...  # ImageioUploadSink(transfer.url)

    So no disk is left that was only written in part. After a good end, it belongs to no VM.

    Args:
        connection: The connection to the engine.
        name: Its name. Several disks can have the same.
        size: Its size in bytes, a multiple of 512: that of the disk in the backup.
        storage_domain: Name or id of the storage domain.
        disk_format: "cow" for qcow2, or "raw".
        sparse: Allocate storage when it is written to, not now.
        incremental: Whether incremental backups of it will be possible; they need qcow2. None
            means: if it is qcow2.
        initial_size: Bytes to allocate now, if it is sparse and on block storage (iSCSI, FC):
            `qcow2_size`. An upload cannot make it larger.
        wipe_after_delete: Whether its storage is wiped when it is removed.
        description: Its description.
        disk_id: Its id; None for a new one.
        timeouts: How long to wait.
        cancel: Ends the waiting until it is ready.

    Raises:
        UsageError: An argument cannot work, or there is no such storage domain.
        EnginePhaseError: The disk did not get ready: it is illegal, or is locked for too long.
        EngineError: The engine refused something, or cannot be reached.
        OperationCancelledError: It was cancelled.
    """
    number("size", size, least=_SECTOR, unit=_SECTOR)
    for what, value in (("sparse", sparse), ("wipe_after_delete", wipe_after_delete)):
        flag(what, value)
    if disk_format not in ("cow", "raw"):
        raise UsageError(f"disk_format must be 'cow' or 'raw', not {disk_format!r}")
    if incremental and disk_format == "raw":
        raise UsageError("incremental backups need a disk of the format 'cow'")
    patience = patience_of(timeouts, cancel)
    # With an id of our own, the disk is found even if the engine's reply is lost.
    disk = NewDisk(disk_id or str(uuid.uuid4()), name, size)
    domain = storage_domain_id(connection, storage_domain, patience)
    is_incremental = disk_format == "cow" if incremental is None else incremental
    wanted = types.Disk(
        id=disk.id,
        name=name,
        description=description or None,
        provisioned_size=size,
        initial_size=initial_size,
        format=types.DiskFormat(disk_format),
        sparse=sparse,
        backup=types.DiskBackup.INCREMENTAL if is_incremental else None,
        wipe_after_delete=wipe_after_delete or None,
        storage_domains=[types.StorageDomain(id=domain)],
    )
    try:
        _add(connection, wanted, disk, patience)
        wait_for_disk(connection, disk.id, f"the new disk {name}", patience)
        yield disk
    except BaseException as e:
        clean_up(e, lambda: remove_disk(connection, disk.id, patience.to_the_end()))
        raise


def _add(connection: sdk.Connection, wanted: types.Disk, disk: NewDisk, patience: Patience) -> None:
    def add() -> None:
        with asking(f"make the disk {disk.name}"):
            uninterrupted(lambda: connection.system_service().disks_service().add(wanted))

    repeat(add, patience, done=lambda: _exists(connection, disk.id))


def remove_disk(connection: sdk.Connection, disk_id: str, patience: Patience) -> bool:
    """Remove a disk, wait until it is gone, and return whether it was there.

    It may be locked at first: the engine removes the disk of an upload that was cancelled itself.

    Raises:
        EngineError: It is not gone in time, or the engine refuses to remove it.
    """

    def remove() -> None:
        with asking(f"remove the disk {disk_id}"):
            _service(connection, disk_id).remove()

    if not repeat(lambda: _exists(connection, disk_id), patience):
        return False
    try:
        repeat(remove, patience, done=lambda: not _exists(connection, disk_id))
        # Until the engine has removed it, it can be seen in any status.
        waiting = Waiting(
            f"the disk {disk_id}, which is removed,",
            (),
            [*types.DiskStatus, None],
            patience.limits.disk,
            disk_id,
            _status,
        )
        wait_for(connection, waiting, _service(connection, disk_id).get, patience)
    except EngineError as e:
        if e.status != NOT_FOUND:
            raise
    return True


def wait_for_disk(connection: sdk.Connection, disk_id: str, what: str, patience: Patience) -> None:
    """Wait until a disk can be used.

    Args:
        connection: The connection to the engine.
        disk_id: The disk.
        what: What it is, for errors.
        patience: How long to wait, and what ends that early.

    Raises:
        EngineTimeoutError: It is still locked.
        EnginePhaseError: It is illegal.
        EngineError: It does not exist, or the engine cannot be asked.
    """
    good, locked = [types.DiskStatus.OK], [types.DiskStatus.LOCKED]
    waiting = Waiting(what, good, locked, patience.limits.disk, disk_id, _status)
    wait_for(connection, waiting, _service(connection, disk_id).get, patience)


def storage_domain_id(connection: sdk.Connection, name_or_id: str, patience: Patience) -> str:
    """The id of a storage domain.

    Raises:
        UsageError: There is none with this name or id.
        EngineError: The engine cannot be asked.
    """

    def ask() -> list[Any]:
        with asking("look for storage domains"):
            return list(connection.system_service().storage_domains_service().list())

    found = repeat(ask, patience) or []
    for domain in found:
        if name_or_id in (domain.id, domain.name):
            return str(domain.id)
    raise UsageError(
        f"the engine has no storage domain {name_or_id}",
        hint=f"It has: {', '.join(sorted(domain.name for domain in found))}.",
    )


def qcow2_size(extents: Iterable[tapestream.Extent], size: int) -> int:
    """How many bytes a qcow2 image has at most after a disk was restored into it.

    Args:
        extents: The extents of the backup, or of a chain: `merge_chain(sources).extents()`.
        size: Size of the disk in bytes.

    Returns:
        What `qemu-img measure` calls required: all data in whole clusters, and the tables that a
        full image has.
    """
    clusters = end = 0
    for extent in extents:
        if extent.kind is tapestream.Kind.DATA:
            first = max(end, extent.start // _CLUSTER)
            end = max(end, -(-(extent.start + extent.length) // _CLUSTER))
            clusters += end - first
    everything = -(-size // _CLUSTER)
    level_2 = -(-everything * 8 // _CLUSTER)
    level_1 = -(-level_2 * 8 // _CLUSTER)
    tables = 2 + level_1 + level_2  # and a header; qemu-img counts one cluster more
    counts = -(-(everything + tables) * 2 // (_CLUSTER - 2))  # they count themselves, too
    return (clusters + tables + counts + -(-counts * 8 // _CLUSTER)) * _CLUSTER


def _exists(connection: sdk.Connection, disk_id: str) -> bool:
    try:
        with asking(f"look at the disk {disk_id}"):
            _service(connection, disk_id).get()
    except EngineError as e:
        if e.status != NOT_FOUND:
            raise
        return False
    return True


def _status(disk: Any) -> Any:
    return disk.status


def _service(connection: sdk.Connection, disk_id: str) -> Any:
    return connection.system_service().disks_service().disk_service(disk_id)
