"""The pool of buffers: all the memory that disk data ever takes."""

from __future__ import annotations

import mmap

from ..errors import LocalIOError


class BufferPool:
    """At most `count` page-aligned buffers of `size` bytes, made when first needed.

    The buffer that was given back last is handed out first: while the sink keeps up, only a few
    buffers are in use, and they stay in the processor's cache. There is no lock here: `ChunkQueue`
    calls this under its own.
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
        # Private memory: shared pages, the default, cost a quarter more to make. Huge pages cost
        # several times as much if the kernel must gather them first.
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
        """Return a buffer that `take` gave. Other memory is ignored."""
        if buffer.obj in self._maps:
            self._idle.append(buffer)

    def close(self) -> None:
        """Free the memory. All of it is free afterwards if every buffer was given back."""
        for view in self._idle:
            view.release()
        self._idle.clear()
        for memory in self._maps:
            try:
                memory.close()
            except BufferError:
                # A backend's frame in the traceback of an error still refers to it. The memory is
                # freed together with the traceback.
                continue
        self._maps.clear()
