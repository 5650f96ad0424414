"""ImageioHTTPSource: a full or incremental backup through a download transfer."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal

from .._log import Log
from .._process import OfThisProcess
from .._typing import override
from ..arguments import flag
from ..backend.protocols import Source
from ..cancel import Cancel
from ..errors import TransferError, UnsupportedError, UsageError
from ..model.blockhash import BlockHash
from ..model.extents import Extents
from ..model.info import BackupInfo, Context, check_info
from .endpoint import Timeouts
from .keepalive import keep_alive
from .listing import Listing
from .queries import get_block_hash
from .reader import HTTPReader
from .transfer import CONNECTIONS, open_transfer

log = Log("tapestream.imageio")


class ImageioHTTPSource(OfThisProcess, Source):
    """Read a disk from an ovirt-imageio server.

    The constructor connects to the server, to ask what it can do. If the server runs on this host,
    its unix socket is used. One connection is kept for the extents, and for the first reader; more
    are opened only when the data is read.

    Args:
        url: The `transfer_url` of a download transfer in phase "transferring".
        context: "zero" for a full backup, "dirty" for what changed since the parent checkpoint.
        fallback: "full" to take a full backup, with a warning in the log, if there are no dirty
            extents. That is so if the disk is new, raw, or was not in the parent checkpoint (oVirt
            decides this for each disk), or if the server is old. `info.fallback` is then True.
            None to raise an error.
        cafile: Path of the CA that signed the server's certificate, which is the engine's internal
            CA; None for the CAs of the system.
        secure: False to accept any certificate, and URLs that are not https.
        proxy_url: Used instead of `url` if no connection to `url` can be made at the start. `url`
            is tried again for up to `connect_timeout` seconds before.
        info: What is known about the backup. `extents()` fills in the size, the context, `fallback`
            and, with `record_block_hash`, the block hash.
        record_block_hash: True to let the server compute the block hash of the disk for `info`
            before the backup; see `block_hash` for how long that takes.
        use_unix_socket: False to use TCP even if the server runs on this host.
        unix_socket_owner: A user, by name or uid, who runs ovirt-imageio on this host. The unix
            socket is used, and gets the ticket, only if root, oVirt's users for the daemon, your
            own user or this one listens there.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for the next bytes.
        extents_timeout: Seconds to wait for the extents: a huge disk can take minutes.
        checksum_timeout: Seconds to wait for the block hash: the server reads the whole disk.
        retries: How often in a row to try again, with growing pauses, after a broken connection
            or an error of the server (5xx). Every byte received starts a new count. The first
            request is tried again, too, because the server or its storage may be starting. A
            download continues at the byte where it broke.
        cancel: Ends what waits for the server outside a copy: this constructor, `extents` and
            `block_hash`. A copy is ended by its own.

    Raises:
        UsageError: An argument cannot work.
        OperationCancelledError: It was cancelled.
        TransferError: The server cannot be reached, is not trusted, or refuses the ticket.
    """

    sequential = False

    def __init__(
        self,
        url: str,
        *,
        context: Context = "zero",
        fallback: Literal["full"] | None = None,
        cafile: str | os.PathLike[str] | None = None,
        secure: bool = True,
        proxy_url: str | None = None,
        info: BackupInfo | None = None,
        record_block_hash: bool = False,
        use_unix_socket: bool = True,
        unix_socket_owner: str | int | None = None,
        connect_timeout: float = 10,
        read_timeout: float = 60,
        extents_timeout: float = 3600,
        checksum_timeout: float = 86400,
        retries: int = 8,
        cancel: Cancel | None = None,
    ) -> None:
        if context not in ("zero", "dirty"):
            raise UsageError(f"context must be 'zero' or 'dirty', not {context!r}")
        if fallback not in (None, "full"):
            raise UsageError(f"fallback must be 'full' or None, not {fallback!r}")
        self._info = replace(check_info(info), size=0, context=context, fallback=False)
        self._fallback = fallback
        self._retries = retries
        self._record_block_hash = flag("record_block_hash", record_block_hash)
        self._block_hash: BlockHash | None = None
        self._extents: Extents | None = None
        self._readers: list[HTTPReader] = []
        self._volume = 0  # bytes that the server lists; the ticket may allow fewer
        self._transfer = open_transfer(
            url,
            proxy_url=proxy_url,
            cafile=cafile,
            secure=secure,
            use_unix_socket=use_unix_socket,
            unix_socket_owner=unix_socket_owner,
            timeouts=Timeouts(connect_timeout, read_timeout, extents_timeout, checksum_timeout),
            retries=retries,
            cancel=cancel,
            disk=self._info.disk_name or self._info.disk_id or "",
        )

    @property
    def max_readers(self) -> int:
        """Most readers: each uses two connections, and two that the server allows stay free."""
        return max(1, self._transfer.can.max_readers // CONNECTIONS)

    @property
    def server_is_local(self) -> bool:
        """True when the server runs on this host."""
        return self._transfer.is_local

    @property
    def place(self) -> str:
        """The server's URL, without the ticket."""
        return str(self._transfer.endpoint.url)

    @property
    def size(self) -> int:
        """Virtual size of the disk in bytes; 0 before `extents` was called."""
        return self._info.size

    @property
    def over_unix_socket(self) -> bool:
        """True when the data comes over the unix socket of this host."""
        return self._transfer.over_unix_socket

    @property
    @override
    def info(self) -> BackupInfo:
        """The `info` argument, with size 0 until `extents` fills in the rest.

        Only the extents show the size of the disk, and whether there are dirty extents.
        """
        return self._info

    @override
    def extents(self) -> Extents:
        """Get the extents from the server, once; `info` is complete afterwards.

        The list is checked. One small request, for the byte after the last one, makes sure that the
        list is complete. If the ticket allows less than the volume has, the disk ends where the
        ticket does. If nothing changed, the full list is requested, too: a server that ignores
        `context` sends the same list. With `record_block_hash`, this also calls `block_hash`.

        Raises:
            UnsupportedError: The server, or this disk, has no dirty extents, and there is no
                fallback; or the block hash is to be recorded, and cannot be computed.
            ServerProtocolError: The disk is larger than the list.
            ExtentsError: What the server sent does not describe a disk.
        """
        extents = self._listed()
        if self._record_block_hash and self._block_hash is None:
            self._info = replace(self._info, block_hash=self.block_hash())
        return extents

    def block_hash(self) -> BlockHash:
        """The block hash of the whole disk. The server reads the whole disk to compute it, once.

        This takes minutes to hours, in which the server sends nothing. The ticket stays active
        during this time, and is renewed at the end. If it expires before, the server refuses other
        requests until the end. `copy` keeps the ticket alive.

        Raises:
            UnsupportedError: The server cannot compute it, or would hash a volume of which the
                ticket allows only a part.
            ServerError: The server did not reply in time.
        """
        size = self._listed().size
        if self._volume > size:
            raise UnsupportedError(
                f"the server would compute the block hash of all {self._volume} bytes of the "
                f"volume, but the disk is the {size} bytes that the ticket allows",
                hint="copy(..., block_hash=True) computes that of the disk from what it reads.",
            )
        if self._block_hash is None:
            with self._transfer.connection() as connection:
                self._block_hash = get_block_hash(connection)
        return self._block_hash

    def rewind(self) -> None:
        """Do nothing: the disk can be read any number of times."""

    @override
    def open_reader(self) -> HTTPReader:
        # Only here: `keep_alive` is called in another thread, and could drop this reader.
        self._readers = [reader for reader in self._readers if not reader.is_closed]
        reader = HTTPReader(self._transfer, self._retries)
        self._readers.append(reader)
        return reader

    def keep_alive(self) -> None:
        """Use the ticket, so that it does not expire, and every connection.

        A new connection is made only if none is open.
        """
        keep_alive(self._transfer, [each for reader in self._readers for each in reader.downloads])

    def cancel(self) -> None:
        """Make a call that waits for the extents or the block hash fail."""
        self._transfer.cancel()

    @override
    def close(self) -> None:
        """Close the connection that was kept for the next request; readers close their own."""
        if hasattr(self, "_transfer"):  # otherwise, the constructor failed
            self._transfer.close()

    def __repr__(self) -> str:
        transfer = getattr(self, "_transfer", None)
        return f"<ImageioHTTPSource {transfer.endpoint.url if transfer else 'without a transfer'}>"

    def _listed(self) -> Extents:
        if self._extents is None:
            try:
                with self._transfer.connection() as connection:
                    listing = Listing(connection, self._retries)
                    extents = self._changed(listing)
                    if extents is None:
                        extents = listing.whole()
            except TransferError as e:
                e.add_context(str(self._transfer.endpoint))
                raise
            self._volume = listing.volume
            self._info = replace(self._info, size=extents.size)
            self._extents = extents
        return self._extents

    def _changed(self, listing: Listing) -> Extents | None:
        """The dirty extents; None for a full backup."""
        if self._info.context == "zero":
            return None
        try:
            return listing.changed()
        except UnsupportedError as e:
            if self._fallback is None:
                raise
            log.warning("Taking a full backup where an incremental was wanted: %s", e.message)
            self._info = replace(self._info, context="zero", fallback=True)
            return None
