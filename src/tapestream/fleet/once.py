"""One run of a job at a time, on any worker: a lock that ends with its process.

A worker that has lost the scheduler may still be at work when another one gets its job.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import tapestream.errors

# struct flock: type, whence, start, length, process. Locks of this kind belong to the open file,
# not to the process, so that they also keep out other threads.
_LOCK = struct.Struct("@hhqqi0q")


@contextmanager
def only_run(catalog: str, key: str) -> Iterator[None]:
    """Wait until no other run of a job is at work; keep others waiting for the block.

    Each key locks one byte of a file beside the catalog. If two keys ever have the same byte, they
    wait for each other, which does no harm.

    Raises:
        LocalIOError: The file cannot be locked.
    """
    path = f"{catalog}.lock"
    byte = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            wanted = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, wanted)
        except BaseException:
            os.close(fd)
            raise
    except OSError as e:
        raise tapestream.errors.LocalIOError(f"cannot lock {path}", e) from e
    try:
        yield
    finally:
        os.close(fd)
