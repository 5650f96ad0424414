"""Uploads into disks: image transfers that end well only with a disk that is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..arguments import number
from ..cancel import Cancel
from .disks import NewDisk, wait_for_disk
from .patience import patience_of
from .sdk import sdk, types
from .timeouts import EngineTimeouts
from .transfers import INACTIVITY_TIMEOUT, Transfer, running_transfer


@contextmanager
def upload_transfer(
    connection: sdk.Connection,
    disk: NewDisk | str,
    *,
    host: str | None = None,
    inactivity_timeout: int = INACTIVITY_TIMEOUT,
    timeouts: EngineTimeouts | None = None,
    started: Callable[[str], object] = lambda _id: None,
    cancel: Cancel | None = None,
) -> Iterator[Transfer]:
    """Start an upload into a disk, and finalize or cancel it, in every outcome.

    When the block ends well, the transfer is finalized, and the disk can be used. After an error or
    a Ctrl-C, the transfer is cancelled. **oVirt then removes the disk**, whatever was in it before:
    upload into a disk of its own, which `new_disk` makes.

    Args:
        connection: The connection to the engine.
        disk: The disk, or its id. No running VM may use it.
        host: Id of the host that is to serve it; None if the engine chooses one.
        inactivity_timeout: Seconds after which the engine ends an upload that does nothing. A tape
            that is changed, or a server that is zeroing, needs some time.
        timeouts: How long to wait.
        started: It is called with the transfer's id when the engine has started it.
        cancel: Ends the waiting, except for the end of the transfer.

    Raises:
        EnginePhaseError: The transfer did not start, or could not be finalized; or the disk cannot
            be used.
        OperationCancelledError: It was cancelled.
        EngineError: The engine refused something, or cannot be reached.
    """
    number("inactivity_timeout", inactivity_timeout, least=1)
    patience = patience_of(timeouts, cancel)
    disk_id, name = (disk.id, disk.name) if isinstance(disk, NewDisk) else (disk, disk)
    wanted = types.ImageTransfer(
        disk=types.Disk(id=disk_id),
        direction=types.ImageTransferDirection.UPLOAD,
        format=types.DiskFormat.RAW,
        host=None if host is None else types.Host(id=host),
        inactivity_timeout=inactivity_timeout,
        timeout_policy=types.ImageTransferTimeoutPolicy.CANCEL,
    )
    what = f"the upload of disk {name}"
    with running_transfer(connection, wanted, what, patience, started) as transfer:
        yield transfer
    # Engines before 4.4.7 forget a transfer when it has ended: only the disk says how it ended.
    wait_for_disk(connection, disk_id, f"the uploaded disk {name}", patience)
