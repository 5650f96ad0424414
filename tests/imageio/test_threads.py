"""What one thread does to a source while another one keeps it alive."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from itertools import count
from types import FrameType
from typing import Any

import tapestream.imageio.source
from tapestream import ImageioHTTPSource, Reader
from tests.hostile import BytesImage, HostileServer
from tests.imageio.support import KIB, asked


def test_a_reader_that_is_opened_during_a_keep_alive_is_kept_alive_from_then_on() -> None:
    """A trace function opens one at each step in turn: another thread could do it there."""
    with HostileServer(BytesImage(bytes(4 * KIB))) as server:
        steps = next(step for step in range(1000) if not is_kept_if_opened_at(step, server))
    assert steps > 10


def is_kept_if_opened_at(step: int, server: HostileServer) -> bool:
    """Open a reader at a step of a keep-alive, and look at the next one; False if it has fewer."""
    with ExitStack() as stack:
        source = stack.enter_context(ImageioHTTPSource(server.url, secure=False))
        readers: list[Reader] = [stack.enter_context(closing(source.open_reader()))]
        steps = count()

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            if frame.f_code.co_filename != tapestream.imageio.source.__file__:
                return None
            frame.f_trace_opcodes = True
            if next(steps) == step:
                readers.append(stack.enter_context(closing(source.open_reader())))
            return trace

        others = sys.gettrace()
        sys.settrace(trace)
        try:
            source.keep_alive()
        finally:
            sys.settrace(others)
        for reader in readers:
            reader.readinto(0, memoryview(bytearray(4 * KIB)))
        source.keep_alive()  # all were just used
        before = len(asked(server, "OPTIONS"))
        source.keep_alive()
        assert len(asked(server, "OPTIONS")) - before == len(readers)
        return len(readers) > 1
