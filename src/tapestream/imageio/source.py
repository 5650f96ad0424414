"""ImageioHTTPSource: download the used, or the changed, extents of a transfer."""

from __future__ import annotations

import http.client
import logging
import os
import threading
from collections import deque
from dataclasses import replace
from itertools import islice
from typing import Literal

from ..arguments import flag
from ..backend.protocols import Reader, Source
from ..errors import TransferError, UnsupportedError, UsageError
from ..model.blockhash import BlockHash
from ..model.extents import Extents
from ..model.info import BackupInfo, Context, check_info
from .connection import FIRST_REQUEST, Timeouts, Transfer, Tries, open_transfer
from .listing import Listing

log = logging.getLogger("tapestream.imageio")

# So much the server reads from storage before it sends anything, and before it is wanted. Over TLS,
# 2 MiB are 0.92 times as fast, and take more work of the client; larger ones are no faster.
GET_SIZE = 4 * 1024**2
# So many connections a reader uses in turn: the server reads for one while the reply to another is
# received. More are no faster, and cost the server more.
CONNECTIONS = 2
# So many requests are under way on each: the server goes on with the next without waiting for us.
AHEAD = 2
# Up to this size (measured: 16 KiB to 1 MiB) the server works longer on a request than on its
# bytes, and several threads of it only get in each other's way: so many such requests are under way
# on one connection.
SMALL = 128 * 1024
PIPELINED = 8


class ImageioHTTPSource(Source):
    """Read a disk from an ovirt-imageio server.

    Connects immediately, to learn what the server can do, and uses the server's unix socket where
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
        proxy_url: Used instead of `url` when no connection to `url` can be made at the start: it is
            tried for as long as `connect_timeout`.
        info: What is known of the backup; size, context and fallback are filled in.
        record_block_hash: Let the server compute the block hash of the disk, before the backup,
            for `info`: see `block_hash` for how long that takes.
        use_unix_socket: False to stay with TCP.
        unix_socket_owner: A user, by name or uid, who runs ovirt-imageio on this host. The unix
            socket is used, and gets the ticket, only if root, oVirt's users for the daemon, your
            own user or this one listens there.
        connect_timeout: Seconds for a connection.
        read_timeout: Seconds for the next bytes.
        extents_timeout: Seconds for the extents: those of a huge disk take minutes.
        checksum_timeout: Seconds for the block hash, for which the server reads the whole disk.
        retries: How often in a row to try again, with growing pauses, after a broken connection
            or an error of the server (5xx), when no byte came in between: also the first request,
            for the server or its storage may be starting. A download goes on at the byte where it
            broke.

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
        unix_socket_owner: str | int | None = None,
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
        self._given_info = check_info(info)
        self._record_block_hash = flag("record_block_hash", record_block_hash)
        self._block_hash: BlockHash | None = None
        self._extents: Extents | None = None
        self._readers: list[_HTTPReader] = []
        self._volume = 0  # what the server lists, of which the ticket may allow less
        self._transfer = open_transfer(
            url,
            proxy_url=proxy_url,
            cafile=cafile,
            secure=secure,
            use_unix_socket=use_unix_socket,
            unix_socket_owner=unix_socket_owner,
            timeouts=Timeouts(connect_timeout, read_timeout, extents_timeout, checksum_timeout),
            retries=retries,
        )
        self._transfer.disk = self._given_info.disk_name or self._given_info.disk_id or ""

    @property
    def max_readers(self) -> int:
        """Most readers: each takes two connections, and two that the server allows stay free."""
        return max(1, self._transfer.can.max_readers // CONNECTIONS)

    @property
    def server_is_local(self) -> bool:
        """True when the server runs on this host."""
        return self._transfer.is_local

    @property
    def place(self) -> str:
        """The server's URL, without the ticket."""
        return str(self._transfer.url)

    @property
    def size(self) -> int:
        """Virtual size of the disk in bytes."""
        return self.info.size

    @property
    def over_unix_socket(self) -> bool:
        """True when the data comes over the unix socket of this host."""
        return self._transfer.over_unix_socket

    @property
    def info(self) -> BackupInfo:
        """See `Source.info`: gets the extents, since only they show the size."""
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

        The list is checked. One small request, for the byte after the last, makes sure that the
        list is whole. If the ticket allows less than the volume has, the disk is what the ticket
        allows. If nothing changed, the full list is asked for, too: a server that ignores
        `context` sends the same list.

        Raises:
            UnsupportedError: The server, or this disk, has no dirty extents, and there is no
                fallback.
            ServerProtocolError: The disk goes on where its extents end.
            ExtentsError: What the server sent does not describe a disk.
        """
        if self._extents is None:
            try:
                with self._transfer.connect() as connection:
                    listing = Listing(connection, self._retries)
                    self._extents = self._listed(listing)
                    self._volume = listing.volume
            except TransferError as e:
                e.tell_where(str(self._transfer))
                raise
        return self._extents

    def block_hash(self) -> BlockHash:
        """The block hash of the whole disk, computed by the server, which reads all of it.

        Asked for once; takes minutes to hours, until when nothing comes from the server. The ticket
        is active meanwhile, and renewed at the end; if it expires before, other requests are
        refused until then. In a `copy` it is kept alive.

        Raises:
            UnsupportedError: The server cannot compute it, or it would be that of a volume of
                which the ticket allows only a part.
            ServerError: It was not there in time.
        """
        size = self.extents().size
        if self._volume > size:
            raise UnsupportedError(
                f"the server would compute the block hash of all {self._volume} bytes of the "
                f"volume, but the disk is the {size} bytes that the ticket allows",
                hint="copy(..., block_hash=True) computes that of the disk from what it reads.",
            )
        if self._block_hash is None:
            self._block_hash = self._transfer.block_hash()
        return self._block_hash

    def rewind(self) -> None:
        """Nothing to do: it can be read any number of times."""

    def open_reader(self) -> _HTTPReader:
        """See `Source.open_reader`."""
        connections = min(CONNECTIONS, self._transfer.can.max_readers)
        reader = _HTTPReader(self._transfer, connections, self._retries)
        self._readers.append(reader)
        return reader

    def keep_alive(self) -> None:
        """Use the ticket, which would expire, and every connection.

        No other connection is made while there is one.
        """
        self._readers = [reader for reader in self._readers if not reader.is_closed]
        kept = [reader.keep_alive() for reader in self._readers]
        if not any(kept):
            self._transfer.keep_alive()

    def cancel(self) -> None:
        """End a wait for the extents, or for the block hash."""
        self._transfer.cancel()

    def close(self) -> None:
        """See `Source.close`: the connections were the readers'."""

    def __repr__(self) -> str:
        transfer = getattr(self, "_transfer", None)  # the constructor may have failed
        return f"<ImageioHTTPSource {transfer.url if transfer else 'without a transfer'}>"

    def _listed(self, listing: Listing) -> Extents:
        if self._context == "dirty":
            try:
                return listing.changed()
            except UnsupportedError as e:
                if self._fallback is None:
                    raise
                log.warning("Taking a full backup where an incremental was wanted: %s", e.args[0])
                self._context, self._fell_back = "zero", True
        return listing.whole()


class _HTTPReader(Reader):
    """Downloads the announced ranges over several connections.

    While the reply to one GET is received, the server works on the next.
    """

    prefetch_depth = PIPELINED

    def __init__(self, transfer: Transfer, connections: int, retries: int) -> None:
        self._downloads = [_Download(transfer, retries) for _ in range(connections)]
        self._wanted: deque[tuple[int, int]] = deque()
        self._asked: deque[tuple[int, _Download]] = deque()  # with the end of the range
        self._asked_last = self._downloads[-1]
        self._largest = GET_SIZE // 2  # of the GETs so far; for a smaller one none gets large
        self.is_closed = False

    def prefetch(self, start: int, length: int) -> None:
        """Ask for a range, immediately if possible, or after those before it."""
        end = start + length
        while start < end:
            size = self._get_size(end - start)
            self._wanted.append((start, start + size))
            start += size
        self._ask()

    def readinto(self, start: int, buffer: memoryview) -> None:
        """See `Reader.readinto`."""
        while buffer:
            end, download = self._asked[0]
            count = download.readinto(start, buffer[: end - start])
            start, buffer = start + count, buffer[count:]
            if start == end:
                self._asked.popleft()
                self._ask()

    def cancel(self) -> None:
        """End what waits for the server."""
        for download in self._downloads:
            download.cancel()

    def close(self) -> None:
        """See `Reader.close`."""
        self.is_closed = True
        for download in self._downloads:
            download.close()

    def keep_alive(self) -> bool:
        """Use every connection that is idle; False when there is none."""
        kept = [download.keep_alive() for download in self._downloads]
        return any(kept)

    def _get_size(self, wanted: int) -> int:
        """What the next GET asks for; it may be large if none was so far: see `FIRST_REQUEST`."""
        is_larger = self._largest < FIRST_REQUEST and wanted >= 2 * self._largest
        size = min(wanted, FIRST_REQUEST if is_larger else GET_SIZE)
        self._largest = max(self._largest, size)
        return size

    def _ask(self) -> None:
        while self._wanted:
            start, end = self._wanted[0]
            download = self._free(end - start)
            if download is None:
                return
            self._wanted.popleft()
            download.ask(start, end)
            self._asked.append((end, download))
            self._asked_last = download

    def _free(self, length: int) -> _Download | None:
        """Who can ask for so many bytes now."""
        if length <= SMALL:
            first = self._downloads[0]
            return first if first.ranges < PIPELINED else None
        # Of those with equally few, the one whose turn it is: then the other's reply comes first.
        idlest = min(self._downloads, key=lambda d: (d.ranges, d is self._asked_last))
        return idlest if idlest.ranges < AHEAD else None


class _Download:
    """One connection, and the ranges that come over it; goes on where it broke."""

    def __init__(self, transfer: Transfer, retries: int) -> None:
        self._connection = transfer.connect()
        self._tries = Tries(self._connection, retries)
        self._ranges: deque[tuple[int, int]] = deque()
        self._response: http.client.HTTPResponse | None = None  # to the first of them
        self._is_broken = False
        self._was_used = False  # since the last call of `keep_alive`
        # Between the reader's thread, and the one that keeps connections alive.
        self._lock = threading.Lock()

    @property
    def ranges(self) -> int:
        """How many ranges were asked for and not read to their end."""
        return len(self._ranges)

    def ask(self, start: int, end: int) -> None:
        """Send a GET, immediately if possible, or after those before it."""
        with self._lock:
            self._was_used = True
            self._ranges.append((start, end))
            if self._is_broken:
                return
            try:
                self._send()
            except TransferError:
                # `readinto` meets it again, and raises it or tries again.
                self._drop()

    def readinto(self, start: int, buffer: memoryview) -> int:
        """Fill the buffer from the first range, which must have so many bytes left."""
        with self._lock:
            self._was_used = True
            return self._readinto(start, buffer)

    def keep_alive(self) -> bool:
        """Use a connection that was idle for a while; False when there is none.

        If a reply waits because the sink stalls, the reply is given up and asked for again later:
        the server would not wait much longer, and a firewall may have forgotten the connection.
        """
        if not self._lock.acquire(blocking=False):
            return True  # at work
        try:
            if not self._connection.is_open:
                return False
            if self._was_used:
                self._was_used = False
                return True
            if self._ranges and not self._is_broken:
                self._drop()
            self._connection.options()
            return True
        finally:
            self._lock.release()

    def _readinto(self, start: int, buffer: memoryview) -> int:
        position, end = self._ranges[0]
        if start != position:
            raise RuntimeError(f"offset {start} is not the next of the announced ranges")
        while buffer:
            try:
                count = self._read_some(buffer)
            except TransferError as e:
                self._drop()
                self._tries.failed(e)
            else:
                self._tries.worked()
                position, buffer = position + count, buffer[count:]
                self._ranges[0] = position, end
        if position == end:
            self._ranges.popleft()
        return position - start

    def cancel(self) -> None:
        """Make a call that is blocked now, in another thread, fail soon."""
        self._connection.cancel()

    def close(self) -> None:
        """Close the connection for good."""
        if not self._lock.acquire(blocking=False):
            self._connection.cancel()  # it is being kept alive, and nobody waits for that
            self._lock.acquire()
        try:
            self._drop()
        finally:
            self._lock.release()

    def _drop(self) -> None:
        """Close the connection: nobody wants the rest of the reply."""
        self._is_broken = True
        self._response = None
        self._connection.close()

    def _read_some(self, buffer: memoryview) -> int:
        self._is_broken = False
        self._send()
        if self._response is None:
            self._response = self._connection.open_range(*self._ranges[0])
        count = self._connection.read_body(self._response, buffer)
        if self._response.isclosed():
            self._response = None
        return count

    def _send(self) -> None:
        """Ask for what was not asked for on this connection, as far as it takes that now."""
        connection = self._connection
        opened = 0 if self._response is None else 1
        for start, end in islice(self._ranges, opened + connection.asked, None):
            if (opened or connection.asked) and not connection.takes_more:
                return
            connection.ask_for_range(start, end)
