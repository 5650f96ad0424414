"""Image transfers: started, waited for, and finalized or cancelled in every outcome."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from .._shown import short_repr
from ..errors import EngineError
from .asking import NOT_FOUND, asking, repeat
from .cleaning import clean_up, uninterrupted
from .patience import Patience
from .sdk import sdk, types
from .waiting import Waiting, wait_for

Phase = types.ImageTransferPhase
_STARTING = (Phase.INITIALIZING, Phase.RESUMING)
# Nobody has to end a transfer any more that is in one of these phases, or has ended.
_ENDING = (
    Phase.FINALIZING_SUCCESS,
    Phase.FINALIZING_FAILURE,
    Phase.FINALIZING_CLEANUP,
    Phase.CANCELLED,
    Phase.CANCELLED_SYSTEM,
    Phase.CANCELLED_USER,
)
_ENDED = (Phase.FINISHED_SUCCESS, Phase.FINISHED_FAILURE, Phase.FINISHED_CLEANUP)
# Seconds. The extents of a huge disk, or a change of the tape, take longer than the engine's
# default of a minute.
INACTIVITY_TIMEOUT = 3600


@dataclass(frozen=True, repr=False)
class Transfer:
    """An image transfer in phase "transferring".

    Attributes:
        id: Its id.
        disk_id: The disk's id.
        url: The `transfer_url`: whoever has it can read or write the disk.
        proxy_url: The same through the engine's proxy; None if the engine has none.
        host_id: The host that serves it.
    """

    id: str
    disk_id: str
    url: str
    proxy_url: str | None
    host_id: str | None

    def __repr__(self) -> str:  # whoever sees a URL can use it
        return short_repr(self, f"{self.id} of disk {self.disk_id}")


@contextmanager
def running_transfer(
    connection: sdk.Connection,
    wanted: types.ImageTransfer,
    what: str,
    patience: Patience,
    started: Callable[[str], object] = lambda _id: None,
) -> Iterator[Transfer]:
    """Start a transfer, wait until it has its URL, and end it: what up- and downloads share.

    When the block ends well, the transfer is finalized. After an error or a Ctrl-C, it is
    cancelled, also if it is not known whether the engine has started it.

    Args:
        connection: The connection to the engine.
        wanted: The transfer, as it is sent to the engine. It must have a disk.
        what: What it is, for errors, such as "the download of disk mail_Disk1".
        patience: How long to wait for its start, and what ends that early; and for its end.
        started: It is called with the transfer's id when the engine has started it.

    Raises:
        EnginePhaseError: It did not start, or could not be finalized.
        EngineError: The engine refused something, or cannot be reached.
    """
    transfers = DiskTransfers(connection, wanted.disk.id, what, patience)
    ending = replace(transfers, patience=patience.to_the_end())
    before = transfers.open_ids()
    ids: list[str] = []
    try:
        uninterrupted(lambda: ids.append(transfers.start(wanted)))
        started(ids[0])
        yield transfers.wait_for_url(ids[0])
    except BaseException as e:
        clean_up(e, lambda: ending.cancel_new(ids, before))
        raise
    # If it cannot be finalized, it is cancelled: nobody else would end it.
    clean_up(None, lambda: ending.finalize(ids[0]), lambda: ending.cancel_new((), before))


@dataclass(frozen=True)
class DiskTransfers:
    """The transfers of a disk in the engine.

    Attributes:
        connection: The connection to the engine.
        disk_id: The disk.
        what: What a transfer of it is, for errors.
        patience: How long to wait, and what ends that early.
    """

    connection: sdk.Connection
    disk_id: str
    what: str
    patience: Patience

    def open_ids(self, *, ending: bool = False) -> set[str]:
        """The transfers that somebody has to end; with `ending` also those that end already."""
        not_open = _ENDED if ending else (*_ENDING, *_ENDED)
        found = repeat(self._list, self.patience) or []
        return {
            each.id
            for each in found
            # An engine says which disk it is as `image`, whatever the transfer was started with.
            if self.disk_id in (each.disk and each.disk.id, each.image and each.image.id)
            and each.phase not in not_open
        }

    def start(self, wanted: types.ImageTransfer) -> str:
        """Start a transfer, and return its id."""
        with asking(f"start {self.what}"):
            return str(self._all().add(wanted).id)

    def wait_for_url(self, id_: str) -> Transfer:
        """Wait until a transfer has its URL."""
        limit = self.patience.limits.transfer_start
        found = self._wait(id_, [Phase.TRANSFERRING], _STARTING, limit)
        if found.transfer_url is None:
            raise EngineError(
                f"{self.what} has started, but the engine gives no URL for it",
                hint="May this user back up this disk? And does ovirt-imageio run on the host?",
            )
        host_id = found.host.id if found.host is not None else None
        return Transfer(id_, self.disk_id, found.transfer_url, found.proxy_url, host_id)

    def finalize(self, id_: str) -> None:
        """Finalize a transfer, and wait until it has ended well."""
        self._end(id_, "finalize")
        self._wait_for_end(id_, [Phase.FINISHED_SUCCESS], [*_ENDING, Phase.TRANSFERRING])

    def cancel(self, id_: str) -> None:
        """Cancel a transfer unless it has ended, and wait until it has.

        The engine removes the disk of an upload that is cancelled.
        """
        self._end(id_, "cancel")
        # From any phase, also one that the SDK does not know: it is to end, not to be good.
        self._wait_for_end(id_, _ENDED, [*Phase, None])

    def cancel_new(self, ids: Collection[str], before: Collection[str]) -> None:
        """Cancel transfers, and all others that were not open `before`.

        There may be one whose id never arrived. If a connection is lost, libcurl sends the request
        again, and the engine may then have two.
        """
        for id_ in ids:
            self.cancel(id_)
        for id_ in self.open_ids() - set(before):
            self.cancel(id_)

    def _end(self, id_: str, action: str) -> None:
        """Do an action that ends a transfer, unless it ends already or is gone."""
        one = self._one(id_)

        def act() -> None:
            with asking(f"{action} {self.what}"):
                getattr(one, action)()

        def is_ending() -> bool:
            with asking(f"look at {self.what}"):
                return one.get().phase in (*_ENDING, *_ENDED)

        try:
            repeat(act, self.patience, done=is_ending, ends=True)
        except EngineError as e:
            if e.status != NOT_FOUND:
                raise

    def _wait_for_end(self, id_: str, goal: Collection[Any], on_the_way: Collection[Any]) -> None:
        try:
            self._wait(id_, goal, on_the_way, self.patience.limits.transfer_end)
        except EngineError as e:
            if e.status != NOT_FOUND:  # engines before 4.4.7 forget a transfer when it has ended
                raise

    def _wait(
        self, id_: str, goal: Collection[Any], on_the_way: Collection[Any], seconds: float
    ) -> Any:
        waiting = Waiting(self.what, goal, on_the_way, seconds, about=self.disk_id)
        return wait_for(self.connection, waiting, self._one(id_).get, self.patience)

    def _list(self) -> list[Any]:
        with asking("look for image transfers"):
            return list(self._all().list())

    def _one(self, id_: str) -> Any:
        return self._all().image_transfer_service(id_)

    def _all(self) -> Any:
        return self.connection.system_service().image_transfers_service()
