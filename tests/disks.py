"""What test disks hold."""

from __future__ import annotations

import random


def noise(size: int, seed: int | None = None) -> bytes:
    """Data without a byte that looks like another place's, a hole, or an old disk.

    Data of another size is other data, too, if no seed is given.
    """
    return random.Random(size if seed is None else seed).randbytes(size)
