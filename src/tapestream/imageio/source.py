"""ImageioHTTPSource: download the used, or the changed, extents of a transfer."""

from __future__ import annotations

import http.client
import logging
import os
from dataclasses import replace
from typing import Literal

from ..blockhash import BlockHash
from ..errors import ServerProtocolError, TransferError, UnsupportedError, UsageError
from ..extents import Extent, Extents
from ..info import BackupInfo, Context
from ..protocols import Reader, Source
from .connection import Connection, Timeouts, Transfer, open_transfer

log = logging.getLogger("tapestream.imageio")


class ImageioHTTPSource(Source):
    """Read a disk from an ovirt-imageio server.

    Connects at once, to learn what the server can do, and uses the server's unix socket where
    it runs on this host. Connections for reading are made when the extents are there.

    Args:
        url: The `transfer_url` of a download transfer in phase "transferring".
        context: "zero" for a full backup, "dirty" for what changed since the parent checkpoint.
        fallback: "full" to take a full backup, with a warning in the log, where there are no dirty
            extents: the disk is new, raw, or was not in the parent checkpoint, which oVirt decides
            disk by disk, or the server is old. `info.fallback` then says so. None to fail.
        cafile: Path of the CA that signed the server's certificate: the engine's internal CA;
            None for the system's.
        secure: False to accept any certificate, and URLs that are not https.
        proxy_url: Used instead of `url` when no connection to `url` can be made at the start.
        info: What is known of the backup; size, context and fallback are filled in.
        record_block_hash: Let the server compute the block hash of the disk, before the backup,
            for `info`: see `block_hash` for how long that takes.
        use_unix_socket: False to stay with TCP.
        connect_timeout: Seconds for a connection.
        read_timeout: Seconds for the next bytes.
        extents_timeout: Seconds for the extents: those of a huge disk take minutes.
        checksum_timeout: Seconds for the block hash, for which the server reads the whole disk.
        retries: How often in a row to try again, with growing pauses, after a broken connection
            or an error of the server (5xx), when no byte came in between. A download goes on
            at the byte where it broke.

    Raises:
        UsageError: An argument cannot work.
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
        connect_timeout: float = 10,
        read_timeout: float = 60,
        extents_timeout: float = 3600,
        checksum_timeout: float = 86400,
        retries: int = 8,
    ) -> None:
        if context not in ("zero", "dirty"):
            raise UsageError(f"context must be 'zero' or 'dirty', not {context!r}")
        if fallback not in (None, "full"):
            raise UsageError(f"fallback must be 'full' or None, not {fallback!r}")
        self._context = context
        self._fallback = fallback
        self._fell_back = False
        self._retries = retries
        self._given_info = info or BackupInfo()
        self._record_block_hash = record_block_hash
        self._block_hash: BlockHash | None = None
        self._extents: Extents | None = None
        self._transfer = open_transfer(
            url,
            proxy_url=proxy_url,
            cafile=None if cafile is None else os.fspath(cafile),
            secure=secure,
            use_unix_socket=use_unix_socket,
            timeouts=Timeouts(connect_timeout, read_timeout, extents_timeout, checksum_timeout),
        )

    @property
    def max_readers(self) -> int:
        """How many connections the server allows."""
        return self._transfer.can.max_readers

    @property
    def over_unix_socket(self) -> bool:
        """True when the data comes over the unix socket of this host."""
        return self._transfer.over_unix_socket

    @property
    def info(self) -> BackupInfo:
        """See `Source.info`: gets the extents, for only they tell the size."""
        size = self.extents().size
        block_hash = self._given_info.block_hash
        if self._record_block_hash:
            block_hash = self.block_hash()
        return replace(
            self._given_info,
            size=size,
            context=self._context,
            fallback=self._fell_back,
            block_hash=block_hash,
        )

    def extents(self) -> Extents:
        """See `Source.extents`: asked for once.

        Raises:
            UnsupportedError: The server, or this disk, has no dirty extents, and there is no
                fallback.
            ExtentsError: What the server sent does not describe a disk.
        """
        if self._extents is None:
            try:
                self._extents = self._ask_for_extents()
            except UnsupportedError as e:
                if self._fallback is None:
                    raise
                log.warning("Taking a full backup where an incremental was wanted: %s", e.args[0])
                self._context, self._fell_back = "zero", True
                self._extents = self._ask_for_extents()
        return self._extents

    def block_hash(self) -> BlockHash:
        """The block hash of the whole disk, computed by the server, which reads all of it.

        Asked for once; takes minutes to hours, until when nothing comes from the server. The ticket
        is active meanwhile, and renewed at the end; if it expires before, other requests are
        refused until then. In a `copy` it is kept alive.

        Raises:
            UnsupportedError: The server cannot compute it.
            ServerError: It was not there in time.
        """
        if self._block_hash is None:
            self._block_hash = self._transfer.block_hash()
        return self._block_hash

    def rewind(self) -> None:
        """See `Source.rewind`: it can be read any number of times."""

    def open_reader(self) -> Reader:
        """See `Source.open_reader`."""
        return _HTTPReader(self._transfer, self.extents().size, self._retries)

    def keep_alive(self) -> None:
        """See `Source.keep_alive`: uses the ticket, which would expire."""
        self._transfer.keep_alive()

    def close(self) -> None:
        """See `Source.close`: the connections were the readers'."""

    def __repr__(self) -> str:
        return f"<ImageioHTTPSource {self._transfer.url}>"

    def _ask_for_extents(self) -> Extents:
        with self._transfer.connect() as connection:
            return connection.retry(lambda: self._get_extents(connection), self._retries)

    def _get_extents(self, connection: Connection) -> Extents:
        if self._transfer.can.extents:
            extents = Extents.parse(connection.extents(self._context), context=self._context)
            if not extents:
                raise ServerProtocolError("the server sent an empty list of extents")
            return extents
        if self._context == "dirty":
            raise UnsupportedError(
                "the server has no dirty extents", hint="Take a full backup, with context='zero'."
            )
        size = connection.size()
        return Extents.of([Extent(0, size)] if size else [])


class _HTTPReader(Reader):
    """Downloads a request with one GET, block by block; goes on where it broke."""

    def __init__(self, transfer: Transfer, size: int, retries: int) -> None:
        self._connection = transfer.connect()
        self._size = size
        self._retries = retries
        self._response: http.client.HTTPResponse | None = None
        self._position = self._end = 0

    def request(self, start: int, length: int) -> None:
        """See `Reader.request`."""
        if self._position != self._end:
            self._drop()
        self._position, self._end = start, start + length

    def readinto(self, start: int, buffer: memoryview) -> None:
        """See `Reader.readinto`."""
        if start != self._position:
            self._drop()
            self._position = start
        failures = 0
        while buffer:
            try:
                count = self._read_some(buffer)
            except TransferError as e:
                failures += 1
                self._drop()
                self._connection.pause_or_raise(e, failures, self._retries)
            else:
                failures = 0
                self._position += count
                buffer = buffer[count:]

    def cancel(self) -> None:
        """See `Reader.cancel`."""
        self._connection.cancel()

    def close(self) -> None:
        """See `Reader.close`."""
        self._drop()

    def _read_some(self, buffer: memoryview) -> int:
        if self._response is None or self._response.isclosed():
            self._response = self._connection.open_range(self._position, self._end, self._size)
        return self._connection.read_body(self._response, buffer)

    def _drop(self) -> None:
        """Close the connection: nobody wants the rest of the body."""
        if self._response is not None:
            self._response.close()
            self._response = None
        self._connection.close()
