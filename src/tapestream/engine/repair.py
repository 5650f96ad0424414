"""Sends data again that a sink has lost, because its server died before it had flushed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from .._log import Log
from ..backend.checks import finish, lost_of, read_order, rewind
from ..backend.protocols import SourceLike
from ..errors import LostWritesError, UsageError
from ..model.extents import Extents
from .mover import Mover
from .plan import lost_parts

log = Log("tapestream.copy")

# How often lost data is sent again: a server may restart again and again, and the copy must end.
REPAIRS = 4


def send_lost_again(mover: Mover, extents: Extents, verified: str | None) -> bool:
    """Read and write again what the sink has lost.

    Args:
        mover: Moved the data before.
        extents: All extents of the disk.
        verified: Name of the digest that the source compared its data with, the first time.

    Returns:
        True if the source compared the data that it read again with the same digest.

    Raises:
        LostWritesError: The source cannot be read again, or the sink loses data again and again.
    """
    is_verified = True
    for repairs in count():
        lost = lost_of(mover.dst)
        if not lost:
            break
        if repairs == REPAIRS:
            raise LostWritesError.of(lost, "each time that it was written")
        size = sum(end - start for start, end in lost)
        log.warning("the server lost what it had not flushed: %d bytes are sent again", size)
        is_rewound = _rewound(mover.src, lost)
        passes = read_order(mover.src, extents) or [extents.runs()]
        mover.move(lost_parts(runs, lost) for runs in passes)
        mover.run.check()
        # Without a rewind, `finish` must not be called again: it was called after the first time.
        is_verified &= (finish(mover.src) if is_rewound else None) == verified
    return is_verified


def _rewound(src: SourceLike, lost: Sequence[tuple[int, int]]) -> bool:
    """Rewind a source. False if it cannot be rewound, but can be read in any order, too."""
    try:
        rewind(src)
    except UsageError as e:
        if src.sequential:
            raise LostWritesError.of(lost, f"{e.message}, so it cannot be sent again") from e
        return False
    return True
