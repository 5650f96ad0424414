"""Gets the extents of a disk from a server, and checks that the list is right.

| If the server | we also request | and conclude |
|---|---|---|
| lists nothing dirty | the full list | if both are the same, it ignores the context |
| has no dirty list (404) | the full list | if that is a 404, too, it does not know the transfer |
| lists up to byte N | byte N | if it exists, the list ends too early |
| fails that request, but not with 416 | byte N - 1 | if the reply shows a larger disk, as before |
| says that it has M < N bytes (416) | byte M | if it does not exist, the ticket allows M bytes |
"""

from __future__ import annotations

import json
from functools import partial

from .._log import Log
from ..errors import (
    ExtentsError,
    ServerError,
    ServerProtocolError,
    TicketError,
    TransferError,
    UnsupportedError,
)
from ..model.extents import Extent, Extents, Kind
from ..model.info import Context
from .connection import Connection
from .queries import Beyond, get_extents, get_size, look_beyond
from .retry import retry

log = Log("tapestream.imageio")

# How often to try again to read a byte after the end. Some servers fail here instead of saying that
# there is no such byte, and a check of the list is not worth the pauses of many tries.
FEW = 2
# OneBEX lists only what changed in an incremental backup of LVM or Ceph, but all of a full one.
NEW_BACKUP = "Start a new backup, a full one if this one is incremental"
# imageio's list for an empty disk; and a length that no such list reaches, to skip parsing others.
_OF_NO_BYTES = b'[{"start": 0, "length": 0}]'
_SHORT = 1000


class Listing:
    """Gets the extents of a disk from a server.

    All methods raise a `TransferError` if the server refuses or fails, and an `ExtentsError` if a
    list does not describe a disk.

    Args:
        connection: A connection to the transfer.
        retries: How often in a row to try again.

    Attributes:
        volume: Bytes that the server lists; the ticket may allow fewer. 0 before the first list.
    """

    def __init__(self, connection: Connection, retries: int) -> None:
        self.volume = 0
        self._connection = connection
        self._retries = retries
        self._texts: dict[Context, bytes] = {}

    def changed(self) -> Extents:
        """The extents in context "dirty".

        Raises:
            UnsupportedError: This disk has no dirty extents, or the server cannot list them.
        """
        if not self._connection.can.extents:
            raise UnsupportedError(
                "the server has no dirty extents", hint="Take a full backup, with context='zero'."
            )
        try:
            text = self._text("dirty")
        except UnsupportedError:
            self._text("zero")  # raises if the server does not know the transfer at all
            raise
        try:
            extents = self._parse(text, "dirty")
        except ExtentsError:
            self._check_that_another_is_full(text)
            raise
        if extents and all(kind is Kind.CLEAN for *_, kind in extents.runs()):
            self._check_that_the_full_is_another()
        return self._as_far_as_allowed(extents)

    def whole(self) -> Extents:
        """The extents in context "zero"; without the extents feature, all of the disk is data."""
        if not self._connection.can.extents:
            size = retry(self._connection, lambda: get_size(self._connection), self._retries)
            self.volume = size
            return _all_data(size)
        return self._as_far_as_allowed(self._parse(self._text("zero"), "zero"))

    def _text(self, context: Context) -> bytes:
        if context not in self._texts:
            ask = partial(self._ask, context)
            self._texts[context] = retry(self._connection, ask, self._retries)
        return self._texts[context]

    def _ask(self, context: Context) -> bytes:
        try:
            return get_extents(self._connection, context)
        except ServerError as e:
            if e.status is not None and e.is_transient and self._is_empty():
                return _OF_NO_BYTES  # imageio fails to list the extents of an empty NBD export
            raise

    def _is_empty(self) -> bool:
        try:
            return look_beyond(self._connection, 0) == Beyond(False, 0)
        except TransferError as e:
            log.info("The server does not say whether its disk is empty: %s", e.message)
            return False  # the caller then raises its own error, and tries again

    def _parse(self, text: bytes, context: Context) -> Extents:
        if len(text) < _SHORT and _is_of_no_bytes(text):
            return _all_data(0)
        extents = Extents.parse(text, context=context)
        if not extents and not self._is_empty():
            raise ServerProtocolError(
                "the server sent an empty list of extents", hint=f"{NEW_BACKUP}."
            )
        return extents

    def _check_that_the_full_is_another(self) -> None:
        """Make sure that a list without dirty extents is not what the server always sends."""
        try:
            Extents.parse(self._text("zero"), context="dirty")
        except ExtentsError:
            return  # as it should be: the full list does not say what is dirty
        raise _ignores_context()

    def _check_that_another_is_full(self, text: bytes) -> None:
        """Raise if the invalid dirty list is the same text as the full list."""
        try:
            full = self._text("zero")
        except TransferError:
            return
        if full == text:
            raise _ignores_context()

    def _as_far_as_allowed(self, extents: Extents) -> Extents:
        """Make sure that the list is not too short, and cut it to what the ticket allows."""
        self.volume = size = extents.size
        beyond = self._after(size)
        if beyond.has_more:
            raise _ends_early(size, beyond.size)
        if beyond.has_more is None:
            # The size that comes with data may be the ticket's, but there is no better source.
            last = self._beyond(max(0, size - 1))
            if last.has_more and last.size is not None and last.size > size:
                raise _ends_early(size, last.size)
            # A server that can read the last byte, and not the one after it, has shown its end.
            say = log.info if last.has_more else log.warning
            say("The server did not say whether its disk ends at byte %d", size)
            return extents
        allowed = beyond.size
        if allowed is None or allowed >= size:
            return extents
        if allowed == 0 or self._beyond(allowed).has_more is not False:
            raise ServerProtocolError(
                f"the server lists {size} bytes, and says that {allowed} of them may be read, but "
                "acts otherwise"
            )
        log.info("The ticket allows %d bytes of %d: only those belong to the disk", allowed, size)
        return extents.cut(allowed)

    def _after(self, size: int) -> Beyond:
        """Look for the byte after the last one; not every server refuses it with a 416."""
        try:
            return self._beyond(size)
        except (ServerError, TicketError) as e:
            log.info("The server refuses the byte after its list: %s", e.message)
            return Beyond(None, None)

    def _beyond(self, offset: int) -> Beyond:
        try:
            few = min(FEW, self._retries)
            return retry(self._connection, lambda: look_beyond(self._connection, offset), few)
        except ServerError as e:
            if e.status is None or e.status < 500:
                raise
            return Beyond(None, None)


def _all_data(size: int) -> Extents:
    return Extents.of([Extent(0, size)] if size else [])


def _is_of_no_bytes(text: bytes) -> bool:
    """True for a list of one extent of length 0, which is imageio's list for an empty disk."""
    try:
        [extent] = json.loads(text)
        return (extent["start"], extent["length"]) == (0, 0)
    except (ValueError, TypeError, LookupError, RecursionError):
        return False


def _ignores_context() -> UnsupportedError:
    return UnsupportedError(
        "the server does not know what changed: it sends the same list for the whole disk",
        hint="Take a full backup, with context='zero' or fallback='full'.",
    )


def _ends_early(listed: int, size: int | None) -> ServerProtocolError:
    what = "more" if size is None else f"{size} bytes"
    return ServerProtocolError(
        f"the server has {what}, but its extents cover only {listed}",
        hint=f"The rest would be missing in the backup. {NEW_BACKUP}; if that lists no more, the "
        "server is at fault.",
    )
