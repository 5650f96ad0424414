"""One connection to write over, which knows what may be lost with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ..errors import ServerError, ServerUnreachableError, TransferError
from .keepalive import KeptConnection
from .ledger import Ledger
from .queries import get_capabilities
from .retry import Tries
from .transfer import Transfer

log = logging.getLogger("tapestream.imageio")

# A server that lacks a feature refuses it with one of these.
NOT_IMPLEMENTED = (404, 405, 501)
# Bytes that are written over a connection between two flushes: if it is lost, they are sent again.
# A flush took 0.01 to 0.1 s (measured: qcow2 on a local disk, six connections). Four flushes in
# place of one made no difference beyond the noise; sixteen took up to 1.5 times as long.
FLUSH_AFTER = 256 * 1024**2


class Upload(KeptConnection):
    """One connection to write over, and the range that was written and is not flushed yet.

    A server may keep what it acknowledged in memory until it is flushed. When a connection that
    carried such writes is lost, whoever closed it, the next connection may reach a server that was
    restarted and does not have them. They are then noted as lost, and the upload goes on.

    Only a flush over the same connection counts. imageio opens a connection of its own to the disk
    for each of ours, and not every storage promises that a flush over one covers the others.
    """

    def __init__(self, transfer: Transfer, ledger: Ledger, retries: int) -> None:
        super().__init__(transfer)
        self._retries = retries
        self._can_flush = transfer.can.flush
        self._ledger = ledger
        self._unflushed: tuple[int, int] | None = None
        self._amount = 0  # bytes that were written since the last flush
        self._carrier = 0  # which connection carried them
        self._is_replaced = False  # nothing worked yet over the connection that came after a loss
        self._error: TransferError | None = None  # met by `keep_alive`

    @property
    def is_flushed(self) -> bool:
        """True when the server has replied to all that was written, and put it on storage."""
        return self._unflushed is None and not self._connection.under_way

    def put(self, start: int, data: memoryview, *, under_way: int) -> None:
        """Upload bytes; they may be on their way when this returns."""
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
        """Wait until the server has all that is on its way."""
        with self._lock:
            self._do(self._connection.end_puts)
            self._settle()

    def flush(self) -> None:
        """Put on storage what was written here; what was lost meanwhile is noted."""
        with self._lock:
            self._raise_error()
            self._flush()

    def _put_and_flush(self, start: int, data: memoryview) -> None:
        self._connection.put(start, data, under_way=1, flush=True)
        self._connection.end_puts()

    def _do(self, act: Callable[[], None], *, under_way: int = 1, repeats: bool = False) -> None:
        """Do something, over another connection if this one was lost.

        Args:
            act: What to do.
            under_way: How many uploads may be, with the one that is begun.
            repeats: Do it again even where nobody knows whether it was done.
        """
        self._raise_error()
        tries = Tries(self._connection, self._retries)
        while True:
            self._was_used = True
            try:
                self._connection.end_puts(under_way - 1)
                self._settle()
                self._leave_if_dropped()
                act()
            except TransferError as e:
                may_repeat = repeats or self._is_about_to_start(e)
                self._lose()
                if not may_repeat:
                    raise
                self._is_replaced = True
                tries.failed(e)
            else:
                self._is_replaced = False
                return

    def _is_about_to_start(self, error: TransferError) -> bool:
        """Whether the server did nothing, because it or its qemu-nbd is not there."""
        is_away = isinstance(error, ServerUnreachableError) or (
            isinstance(error, ServerError) and error.status is not None and error.status >= 500
        )
        return self._connection.backend_is_gone or (self._is_replaced and is_away)

    def _leave_if_dropped(self) -> None:
        if self._connection.is_dropped:
            self._connection.close()
            self._lose()

    def _note(self, start: int, end: int) -> None:
        """Note what the last request wrote."""
        if self._carrier != self._connection.connects:
            self._lose()
        self._carrier = self._connection.connects
        if self._unflushed is not None:
            start, end = min(start, self._unflushed[0]), max(end, self._unflushed[1])
        self._unflushed = start, end
        self._settle()

    def _settle(self) -> None:
        """Forget what is on storage, or note that it is lost, as far as that is known now."""
        if not self._can_flush and not self._connection.under_way:
            self._forget()  # such a server flushes before it replies
        elif not self._connection.is_open:
            if self._unflushed is not None:
                self._ledger.flush_each = True  # it ends connections after a request
            self._lose()

    def _lose(self) -> None:
        """Note as lost what another connection than the one that is open now has carried."""
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
        """Flush; a failure is raised unless it means that what is to be flushed was lost."""
        flush = self._connection.flush if self._ledger.can_flush else self._connection.end_puts
        try:
            self._connection.end_puts()
            self._settle()
            self._leave_if_dropped()
            if self._unflushed is not None:
                flush()
            elif not self._ledger.has_lost:  # else that is sent again, and then flushed
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
        """Whether the server cannot flush, although it says so: then it does with every upload."""
        if not isinstance(error, ServerError) or error.status not in NOT_IMPLEMENTED:
            return False
        log.warning("The server says that it can flush, but refuses it: %s", error.message)
        self._ledger.can_flush = False
        self._ledger.flush_each = True
        return True

    def _use(self) -> None:
        """Flush what was written, so that nothing gets lost while the source pauses."""
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
                self._error = e  # something was refused: this is no matter of the connection
            raise

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
