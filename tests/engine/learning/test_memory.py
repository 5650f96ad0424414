"""What is known about servers: the last values, a bounded number of them, in any thread."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tapestream.backend import ForwardingSource
from tapestream.backend.checks import server_of
from tapestream.engine.learning.memory import MOST, Memory
from tapestream.testing import MemorySource


class Gap(NamedTuple):
    bytes: int


class Shape(NamedTuple):
    bytes: int


class Served(ForwardingSource):
    """A source of a server."""

    server_is_local = True
    place: str | None = "https://host:54322"


def test_the_last_value_of_each_kind_is_known() -> None:
    memory = Memory()
    assert memory.recall("here", Gap) is None
    memory.remember("here", Gap(1))
    memory.remember("here", Shape(2))
    memory.remember("there", Gap(3))
    memory.remember("here", Gap(4))
    assert memory.recall("here", Gap) == Gap(4)
    assert type(memory.recall("here", Shape)) is Shape
    assert memory.recall("there", Gap) == Gap(3)
    assert memory.recall("there", Shape) is None
    memory.forget()
    assert memory.recall("here", Gap) is None


def test_what_was_remembered_last_is_kept() -> None:
    memory = Memory()
    memory.remember(0, Gap(0))
    for number in range(1, MOST):
        memory.remember(number, Gap(number))
    memory.remember(0, Gap(7))
    memory.remember(MOST, Gap(MOST))
    assert memory.recall(0, Gap) == Gap(7)
    assert memory.recall(1, Gap) is None
    assert memory.recall(2, Gap) == Gap(2)
    assert memory.recall(MOST, Gap) == Gap(MOST)


# Python 3.12 warns whoever forks while there are threads.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_and_a_forked_process_may_use_it() -> None:
    memory = Memory(most=10)

    def use(thread: int) -> int:
        for number in range(2000):
            memory.remember((thread, number % 10), Gap(number))
            found = memory.recall((thread, number % 10), Gap)
            assert found in {None, Gap(number)}
        return thread

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(use, thread) for thread in range(4)]
        child = os.fork()
        if not child:
            signal.alarm(20)  # a lock that another thread held would never be free here
            status = 1
            try:
                use(4)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0) == (child, 0)
        assert sum(each.result() for each in working) == 6


def test_all_disks_of_a_server_are_one() -> None:
    assert server_of(Served(MemorySource(b"1"))) == ("https://host:54322", True)
    assert server_of(MemorySource(b"1")) is None
    silent = Served(MemorySource(b"1"))
    silent.place = None
    assert server_of(silent) is None
