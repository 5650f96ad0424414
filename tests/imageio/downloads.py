"""The disk that the tests of downloads serve, and what must have come of it."""

from __future__ import annotations

from typing import Any

from tapestream.errors import ServerError, TicketError, TransferError
from tapestream.testing import MemorySink
from tests.disks import noise
from tests.imageio.support import KIB

# Four blocks, the last of which is not full.
SIZE = 3 * 64 * KIB + 5 * 512
IMAGE = noise(SIZE)
# Too large for many to be under way: two of them are over one connection.
HOLE = 192 * KIB
LAST = HOLE + 512
SPARSE = noise(HOLE) + bytes(HOLE) + noise(HOLE) + bytes(HOLE) + noise(LAST)

OLD_SERVERS: dict[str, dict[str, Any]] = {
    "405": {"options_status": 405},
    "204": {"options_status": 204},
    "501": {"options_status": 501, "features": ()},
    "no extents": {"features": ("zero", "flush")},
    "no features": {"features": ()},
}
BREAKS = [0, 1, 511, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, SIZE - 1]


def check_status(error: TransferError, code: int) -> None:
    if code == 403:
        assert type(error) is TicketError
    else:
        assert type(error) is ServerError
        assert error.status == code
    assert str(code) in str(error)
    assert code == 204 or "this is why" in str(error)


def check_written(sink: MemorySink, image: bytes) -> None:
    for start, length in sink.writes:
        assert sink.disk[start : start + length] == image[start : start + length]


X: dict[str, Any] = {"start": 0, "length": SIZE, "zero": False, "hole": False}
