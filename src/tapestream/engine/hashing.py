"""Computes the block hash of a disk from its data, in any order.

`model.blockhash` says what a block hash is. A copy that is asked for one reads its source through a
`HashingSource`. So this is part of the engine: the engine must not import a workflow.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

from .._typing import Buffer, override
from ..backend.abilities import Hash
from ..backend.checks import info_of, place_of
from ..backend.forwarding import ForwardingReader, ForwardingSource
from ..backend.protocols import Reader, SourceLike
from ..errors import BlockHashMismatchError, UsageError
from ..model.blockhash import BLOCK_SIZE, BlockHash
from ..model.extents import Extents, Kind
from ..model.info import disk_of

# How many digests of zero blocks are hashed in one call: those of 16 GiB.
_MANY = 4096
_ZEROS = memoryview(bytes(BLOCK_SIZE))
_new_hash = partial(hashlib.blake2b, digest_size=32)


class HashingSource(ForwardingSource):
    """Computes the block hash of a full backup while all of its data is read, once.

    Args:
        wrapped: The backup.
        extents: The extents of its disk.

    Raises:
        UsageError: It is an incremental backup.
    """

    missing_until = None  # Missing data is not skipped: it is read as zeros, which are hashed.

    def __init__(self, wrapped: SourceLike, extents: Extents) -> None:
        super().__init__(wrapped)
        self._info = info_of(wrapped)
        if self._info.context != "zero":
            raise UsageError(
                "only a full backup has the whole disk, which is needed for a block hash",
                hint="Leave block_hash out for an incremental backup.",
            )
        self._extents = extents
        runs = extents.runs()
        data = ((start, length) for start, length, kind in runs if kind is Kind.DATA)
        self._hasher = BlockHasher(extents.size, data)

    @override
    def open_reader(self) -> Reader:
        return _HashingReader(super().open_reader(), self._extents, self._hasher)

    def block_hash(self) -> BlockHash:
        """The block hash of the disk, after all of its data was read.

        Raises:
            BlockHashMismatchError: The backup's info has another block hash.
        """
        found = self._hasher.result()
        expected = self._info.block_hash
        if expected is not None and expected.is_comparable(found) and expected != found:
            place = place_of(self)
            read = f"{disk_of(self._info)} that was read{f' from {place}' if place else ''}"
            raise BlockHashMismatchError(read, expected.checksum, found.checksum)
        return found


class _HashingReader(ForwardingReader):
    """Hashes the data that it reads, without the gaps between the data."""

    def __init__(self, wrapped: Reader, extents: Extents, hasher: BlockHasher) -> None:
        super().__init__(wrapped)
        self._extents = extents
        self._hasher = hasher

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        for first, length, kind in self._extents.within(start, start + len(buffer)):
            if kind is Kind.DATA:
                offset = first - start
                self._hasher.update(first, buffer[offset : offset + length])


class BlockHasher:
    """Computes the block hash of a disk while its data arrives, in any order.

    Several threads may feed it at the same time. None of them ever waits for another: a piece that
    comes too early is copied, and the thread that hashes the piece before it hashes it, too. So
    memory grows only with how far the pieces are out of order.

    Args:
        size: Size of the disk in bytes.
        data: (start, length) of every stretch of data, in ascending order; everything else is
            zeros. It is iterated over while the data arrives.
        block_size: Bytes in one block.
        new_hash: Makes a hash object.
    """

    def __init__(
        self,
        size: int,
        data: Iterable[tuple[int, int]],
        *,
        block_size: int = BLOCK_SIZE,
        new_hash: Callable[[], Hash] = _new_hash,
    ) -> None:
        self._size = size
        self._block_size = block_size
        self._new_hash = new_hash
        self._layout = self._lay_out(data)
        self._due: deque[_Block | _Zeros] = deque()  # laid out, not yet in the hash of the disk
        self._open: dict[int, _Block] = {}  # blocks that are not yet complete, by their starts
        self._hash = new_hash()
        self._draining = False
        self._lock = threading.Lock()

    def update(self, start: int, data: memoryview) -> None:
        """Take the data at offset `start` of the disk; every byte of data exactly once.

        The buffer may be used again as soon as this returns.
        """
        while data:
            border = self._block_size - start % self._block_size
            self._take(start, data[:border])
            start += border
            data = data[border:]

    def result(self) -> BlockHash:
        """The block hash of the whole disk, after all of its data was taken.

        Raises:
            RuntimeError: Data is missing.
        """
        with self._lock:
            for entry in self._layout:
                self._due.append(entry)
                if not entry.is_complete:
                    break
        self._drain()
        if self._due:
            raise RuntimeError("not all data of the disk came to its block hash")
        return BlockHash(self._hash.digest().hex(), block_size=self._block_size)

    def _take(self, start: int, data: memoryview) -> None:
        """Hash a piece of one block, and all pieces that waited for it; or keep it for later."""
        with self._lock:
            block = self._block(start - start % self._block_size)
            if block.is_busy or start != block.next:
                block.waiting[start] = bytes(data)
                return
            block.is_busy = True
        piece: Buffer | None = data
        while piece is not None:
            block.feed(piece)
            if block.is_complete:
                self._complete(block)
                return
            with self._lock:
                piece = block.waiting.pop(block.next, None)
                block.is_busy = piece is not None

    def _block(self, start: int) -> _Block:
        """The block at `start`. All blocks before it on the disk are laid out, too."""
        while start not in self._open:
            entry = next(self._layout, None)
            if entry is None:
                raise RuntimeError(f"no data was expected in the block at {start}")
            self._due.append(entry)
            if isinstance(entry, _Block):
                self._open[entry.start] = entry
        return self._open[start]

    def _lay_out(self, data: Iterable[tuple[int, int]]) -> Iterator[_Block | _Zeros]:
        """Cut the disk into blocks with data, and blocks without, in ascending order."""
        block: _Block | None = None
        end = 0  # of the last block
        for start, length in data:
            for first, last in _cut(start, start + length, self._block_size):
                if block is None or first >= end:
                    if block is not None:
                        yield block
                    begin = first - first % self._block_size
                    yield from self._zeros(end, begin)
                    end = min(begin + self._block_size, self._size)
                    block = _Block(begin, end, self._new_hash())
                block.add(first, last)
        if block is not None:
            yield block
        yield from self._zeros(end, self._size)

    def _zeros(self, start: int, end: int) -> Iterator[_Zeros]:
        blocks, rest = divmod(end - start, self._block_size)
        if blocks:
            yield _Zeros(blocks, self._block_size)
        if rest:
            yield _Zeros(1, rest)

    def _complete(self, block: _Block) -> None:
        with self._lock:
            del self._open[block.start]
        self._drain()

    def _drain(self) -> None:
        """Add the digests that are due to the hash of the disk. Only one thread at a time does."""
        with self._lock:
            if self._draining:
                return
            self._draining = True
        while ready := self._ready():
            for entry in ready:
                for digests in entry.digests():
                    self._hash.update(digests)

    def _ready(self) -> list[_Block | _Zeros]:
        ready = []
        with self._lock:
            while self._due and self._due[0].is_complete:
                ready.append(self._due.popleft())
            self._draining = bool(ready)
        return ready


class _Zeros(NamedTuple):
    """Blocks without data: how many, and the bytes in each."""

    blocks: int
    length: int

    @property
    def is_complete(self) -> bool:
        """True: there is nothing to wait for."""
        return True

    def digests(self) -> Iterator[bytes]:
        """The digests of all blocks, many in one piece."""
        digest = _digest_of_zeros(self.length)
        for first in range(0, self.blocks, _MANY):
            yield digest * min(_MANY, self.blocks - first)


@lru_cache(maxsize=4)
def _digest_of_zeros(length: int) -> bytes:
    return _new_hash(_ZEROS[:length]).digest()


class _Block:
    """A block with data in it.

    Only the thread that made it busy feeds it, without the lock. Everything else needs the lock.

    Attributes:
        start: Offset of the block in the disk.
        is_busy: True while a thread feeds it.
        waiting: Data that came too early, by offset.
        is_complete: True after all of its data was fed.
    """

    def __init__(self, start: int, end: int, block_hash: Hash) -> None:
        self.start = start
        self.is_busy = False
        self.waiting: dict[int, bytes] = {}
        self.is_complete = False
        self._end = end
        self._at = start  # everything before this offset was hashed
        self._data: deque[tuple[int, int]] = deque()
        self._hash = block_hash

    def add(self, start: int, end: int) -> None:
        """Add a stretch of data, in ascending order, before anything is fed."""
        self._data.append((start, end))

    @property
    def next(self) -> int:
        """Offset of the data to feed next. Undefined while busy, or when complete."""
        return max(self._at, self._data[0][0])

    def feed(self, piece: Buffer) -> None:
        """Hash the piece of data that begins at `next`, and the zeros around it."""
        self._zeros_up_to(self.next)
        self._hash.update(piece)
        self._at += memoryview(piece).nbytes
        while self._data and self._data[0][1] <= self._at:
            self._data.popleft()
        if not self._data:
            self._zeros_up_to(self._end)
            self.is_complete = True

    def digests(self) -> Iterator[bytes]:
        """The digest of the block, after it is complete."""
        yield self._hash.digest()

    def _zeros_up_to(self, end: int) -> None:
        self._hash.update(_ZEROS[: end - self._at])
        self._at = end


def _cut(start: int, end: int, block_size: int) -> Iterator[tuple[int, int]]:
    """Cut a stretch at the boundaries of blocks."""
    while start < end:
        border = start - start % block_size + block_size
        yield start, min(border, end)
        start = border
