"""The pool of buffers: all the memory that disk data ever takes."""

from __future__ import annotations

import mmap

from ..errors import LocalIOError


class BufferPool:
    """At most `count` page-aligned buffers of `size` bytes, made when first needed.

    The last one given back is the first to go out again: while the sink keeps up, a few buffers
    go round and stay in the processor's cache. Not locked: `ChunkQueue` does that.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self._maps: list[mmap.mmap] = []
        self._idle: list[memoryview] = []

    def take(self) -> memoryview:
        """A buffer whose contents are undefined.

        Raises:
            LocalIOError: There is no memory for another one.
        """
        if self._idle:
            return self._idle.pop()
        if len(self._maps) == self.count:
            raise RuntimeError("more chunks were admitted than there are buffers")
        # Private: the pages of shared memory, the default, cost a quarter more to make. Huge pages
        # cost several times as much, where the kernel must gather them first.
        try:
            memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as e:
            raise LocalIOError(
                f"cannot get memory for buffer {len(self._maps) + 1}, of {self.size} bytes",
                e,
                hint="Free memory, raise this program's limit, or pass a smaller buffer_memory.",
            ) from e
        self._maps.append(memory)
        return memoryview(self._maps[-1])

    def give_back(self, buffer: memoryview) -> None:
        """Return a buffer that `take` gave."""
        self._idle.append(buffer)

    def close(self) -> None:
        """Free the memory, all of it when every buffer was given back."""
        for view in self._idle:
            view.release()
        self._idle.clear()
        for memory in self._maps:
            try:
                memory.close()
            except BufferError:
                # A backend's frame in the traceback of the error still looks at it: the
                # memory goes when the traceback does.
                continue
        self._maps.clear()
