"""One connection for writing, which records the range that is lost if it breaks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .._log import Log
from ..errors import ServerError, ServerUnreachableError, TransferError
from .keepalive import KeptConnection
from .ledger import Ledger
from .queries import get_capabilities
from .retry import Tries
from .transfer import Transfer

log = Log("tapestream.imageio")

# A server that lacks a feature refuses it with one of these.
NOT_IMPLEMENTED = (404, 405, 501)
# Bytes written over a connection between two flushes; if it breaks, up to this many are sent again.
# A flush took 0.01 to 0.1 s (measured: qcow2 on a local disk, six connections). Four flushes
# instead of one made no difference beyond the noise; with sixteen it took up to 1.5 times as long.
FLUSH_AFTER = 256 * 1024**2


class Upload(KeptConnection):
    """One connection for writing, and the range that was written over it and not flushed yet.

    A server may keep acknowledged writes in memory until they are flushed. When a connection that
    carried such writes is lost, for whatever reason, the next connection may reach a server that
    was restarted and does not have them. The range is then recorded as lost, and the upload
    continues.

    Only a flush over the same connection counts. imageio opens its own connection to the disk for
    each of ours, and not every storage promises that a flush over one covers the others.
    """

    def __init__(self, transfer: Transfer, ledger: Ledger, retries: int) -> None:
        super().__init__(transfer.connect())
        self._retries = retries
        self._can_flush = transfer.can.flush
        self._ledger = ledger
        self._unflushed: tuple[int, int] | None = None
        self._amount = 0  # bytes that were written since the last flush
        self._carrier = 0  # number of the connect that carried them, from `Connection.connects`
        self._is_replaced = False  # True after a loss, until a request over the next one succeeds
        self._error: TransferError | None = None  # from `keep_alive`, for the writer's next call

    @property
    def is_flushed(self) -> bool:
        """True when the server has replied to all writes, and has put them on storage."""
        return self._unflushed is None and not self._connection.under_way

    def put(self, start: int, data: memoryview, *, under_way: int) -> None:
        """Upload bytes; they may still be under way when this returns."""
        with self._lock:
            if self._ledger.flush_each:
                self._do(partial(self._put_and_flush, start, data), repeats=self._ledger.is_repair)
                return
            put = partial(self._connection.put, start, data, under_way=under_way)
            self._do(put, under_way=under_way)
            self._note(start, start + len(data))
            self._amount += len(data)
            if self._amount >= FLUSH_AFTER:
                self._flush()

    def zero(self, start: int, end: int) -> None:
        """Make a range read as zeros."""
        flush = self._ledger.flush_each or not self._can_flush
        with self._lock:
            self._do(partial(self._connection.zero, start, end - start, flush=flush))
            if not flush:
                self._note(start, end)

    def end_puts(self) -> None:
        """Wait until the server has replied to all uploads."""
        with self._lock:
            self._do(self._connection.end_puts)
            self._settle()

    def flush(self) -> None:
        """Flush what was written over this connection; record what was lost before."""
        with self._lock:
            self._raise_error()
            self._flush()

    def _put_and_flush(self, start: int, data: memoryview) -> None:
        self._connection.put(start, data, under_way=1, flush=True)
        self._connection.end_puts()

    def _do(self, act: Callable[[], None], *, under_way: int = 1, repeats: bool = False) -> None:
        """Call `act`; try again over a new connection if that is safe.

        Args:
            act: What to do.
            under_way: How many uploads, including this one, may be without a reply.
            repeats: True to try again even if the server may have done it already.
        """
        self._raise_error()
        tries: Tries | None = None
        while True:
            self._was_used = True
            try:
                self._connection.end_puts(under_way - 1)
                self._settle()
                self._close_if_dropped()
                act()
            except TransferError as e:
                may_repeat = repeats or self._is_about_to_start(e)
                self._lose()
                if not may_repeat:
                    raise
                self._is_replaced = True
                tries = tries or Tries(self._connection, self._retries)
                tries.failed(e)
            else:
                self._is_replaced = False
                return

    def _is_about_to_start(self, error: TransferError) -> bool:
        """Whether the server did nothing because it, or its qemu-nbd, is not running yet."""
        is_away = isinstance(error, ServerUnreachableError) or (
            isinstance(error, ServerError) and error.status is not None and error.status >= 500
        )
        return self._connection.backend_is_gone or (self._is_replaced and is_away)

    def _close_if_dropped(self) -> None:
        if self._connection.is_dropped:
            self._connection.close()
            self._lose()

    def _note(self, start: int, end: int) -> None:
        """Add the range that the last request wrote to what is not flushed."""
        if self._carrier != self._connection.connects:
            self._lose()
        self._carrier = self._connection.connects
        if self._unflushed is not None:
            start, end = min(start, self._unflushed[0]), max(end, self._unflushed[1])
        self._unflushed = start, end
        self._settle()

    def _settle(self) -> None:
        """Forget the range if it is on storage now; record it as lost if the connection ended."""
        if not self._can_flush and not self._connection.under_way:
            self._forget()  # a server without the flush feature flushes before it replies
        elif not self._connection.is_open:
            if self._unflushed is not None:
                self._ledger.flush_each = True  # this server ends a connection after each request
            self._lose()

    def _lose(self) -> None:
        """Record the range as lost, unless the connection that carried it is still open."""
        if self._connection.is_open and self._carrier == self._connection.connects:
            return
        if self._unflushed is not None:
            self._ledger.lose(*self._unflushed)
        self._is_replaced = self._is_replaced or self._carrier > 0
        self._forget()

    def _forget(self) -> None:
        self._unflushed = None
        self._amount = 0

    def _flush(self) -> None:
        """Flush; a failure is raised, unless the server's qemu-nbd is gone or it cannot flush."""
        flush = self._connection.flush if self._ledger.can_flush else self._connection.end_puts
        try:
            self._connection.end_puts()
            self._settle()
            self._close_if_dropped()
            if self._unflushed is not None:
                flush()
            elif not self._ledger.has_lost:  # lost ranges are sent again first, and flushed then
                self._do(flush, repeats=self._ledger.is_repair)
        except TransferError as e:
            self._lose()
            if not self._connection.backend_is_gone and not self._cannot_flush(e):
                raise
        else:
            self._lose()
            if self._unflushed is not None and self._can_flush and not self._ledger.can_flush:
                self._ledger.lose(*self._unflushed)
            self._forget()

    def _cannot_flush(self, error: TransferError) -> bool:
        """Whether the server refuses to flush although it says it can; then flush each upload."""
        if not isinstance(error, ServerError) or error.status not in NOT_IMPLEMENTED:
            return False
        log.warning("The server says that it can flush, but refuses it: %s", error.message)
        self._ledger.can_flush = False
        self._ledger.flush_each = True
        return True

    def _use(self) -> None:
        """Flush what was written, so that nothing can be lost while the source pauses."""
        try:
            if self._unflushed is not None:
                self._flush()
            else:
                self._connection.end_puts()
                get_capabilities(self._connection)
                self._lose()
        except TransferError as e:
            self._lose()
            if self._is_closing:
                return
            if isinstance(e, ServerError) and e.status is not None:
                self._error = e  # the server refused it: a new connection would not help
            raise

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
