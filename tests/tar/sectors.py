"""Files with bad sectors: a double that runs anywhere, and the real thing."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

SECTOR = 4096

# (First byte, byte behind the last) that cannot be read.
Bad = Sequence[tuple[int, int]]


class BadSectors(io.RawIOBase):
    """A double of a file on a disk with bad sectors, for a healthy disk does not show them.

    It does as Linux does (`test_verify.py` holds it against that): a read ends before the first
    byte that is bad, and one that begins there fails with EIO and moves nothing.

    Args:
        data: What is in the file.
        bad: What cannot be read.
        seekable: False for what can only be read forward.
        seek_fails: After the first error nothing works any more: the device is gone.

    Attributes:
        failed: How many reads failed.
    """

    name = "a bad disk"

    def __init__(
        self, data: bytes, bad: Bad, *, seekable: bool = True, seek_fails: bool = False
    ) -> None:
        super().__init__()
        self.failed = 0
        self._data = data
        self._bad = bad
        self._seekable = seekable
        self._seek_fails = seek_fails
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self.failed and self._seek_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        before = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._data)}
        self._position = before[whence] + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._position + len(buffer), len(self._data))
        for first, behind in self._bad:
            if self._position < end and first <= self._position < behind:
                self.failed += 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if self._position < first < end:
                end = first
        count = max(end - self._position, 0)
        buffer[:count] = self._data[self._position : end]
        self._position += count
        return count


@contextmanager
def real_bad_sectors(data: bytes, bad: Bad) -> Iterator[Path]:
    """A file of which the kernel cannot read some sectors, as of a bad disk.

    qemu serves it as a regular file, and its `blkdebug` answers reads of those sectors with EIO.
    """
    tool = shutil.which("qemu-storage-daemon")
    if tool is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs qemu-storage-daemon, and /dev/fuse")
    with tempfile.TemporaryDirectory(prefix="ts-") as directory:
        image, file = Path(directory, "image"), Path(directory, "bad.tar")
        image.write_bytes(data)
        file.touch()
        sectors = [n for first, end in bad for n in range(first // 512, end // 512)]
        errors = [
            {"event": "none", "iotype": "read", "errno": errno.EIO, "sector": n, "once": False}
            for n in sectors
        ]
        nodes = [
            {"driver": "file", "node-name": "file", "filename": str(image), "read-only": True},
            {"driver": "blkdebug", "node-name": "bad", "image": "file", "inject-error": errors},
            {"driver": "raw", "node-name": "raw", "file": "bad", "read-only": True},
        ]
        command = [tool]
        for node in nodes:
            command += ["--blockdev", json.dumps(node)]
        command += ["--export", f"type=fuse,id=export,node-name=raw,mountpoint={file}"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
        try:
            deadline = time.monotonic() + 30
            while file.stat().st_size != len(data):
                if process.poll() is not None:
                    assert process.stderr is not None
                    pytest.skip(f"cannot serve a file: {process.stderr.read().decode()}")
                assert time.monotonic() < deadline, "it was not mounted"
                time.sleep(0.01)
            yield file
        finally:
            process.terminate()
            process.communicate(timeout=30)
