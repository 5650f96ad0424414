"""How to write, on simulated servers with a clock of their own: the best answer is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tapestream import Extent, copy
from tapestream.backend import Shape, Writer
from tapestream.backend.checks import server_of
from tapestream.engine.learning.memory import MEMORY
from tapestream.engine.learning.shape import AutoShape, KnownShape
from tapestream.engine.learning.writes import LearningWriter
from tapestream.testing import MemorySink, MemorySource

KIB, MIB, GIB = 1024, 1024**2, 1024**3
SHAPES = [Shape(size * MIB, n) for size in (4, 1) for n in (2, 3, 1)]
FIRST = SHAPES[0]
DISK = 200 * GIB
WRITE = 4 * MIB

Rate = Callable[[Shape, int], float]
"""Bytes per second that a server stores, with a shape, after so many bytes of the disk."""


@dataclass
class Simulated(Writer):
    """A writer to a server of this rate, with a clock of its own.

    Attributes:
        rate: The server.
        writers: How many writers share it.
        noise: Standard deviation of the time of a write, as a part of it.
        now: The clock, in seconds.
        ideal: Seconds that it would have taken in the first shape.
        used: The shapes that it was told to use.
        asked: For how many bytes each shape was used.
    """

    rate: Rate
    writers: int = 1
    noise: float = 0.0
    now: float = 0.0
    first: float = 0.0
    used: list[Shape] = field(default_factory=list)
    asked: dict[Shape, int] = field(default_factory=dict)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def shapes(self, writers: int) -> list[Shape]:
        assert writers == self.writers
        return SHAPES

    def use(self, shape: Shape) -> None:
        self.used.append(shape)

    def write(self, start: int, buffer: memoryview) -> None:
        size, shape = len(buffer), self.used[-1]
        seconds = self.writers * size / self.rate(shape, start)
        self.now += seconds * max(0.1, 1 + self.rng.gauss(0, self.noise))
        self.first += self.writers * size / self.rate(FIRST, start)
        self.asked[shape] = self.asked.get(shape, 0) + size

    def zero(self, start: int, length: int) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


def run(
    rate: Rate,
    *,
    writers: int = 2,
    noise: float = 0.0,
    disk: int = DISK,
    write: int = WRITE,
    waits: float = 0.0,
) -> tuple[AutoShape, list[Simulated]]:
    """Write a disk with several writers in turn; `waits` seconds pass between two writes of one."""
    learnt = AutoShape(SHAPES, writers, disk)
    servers = [Simulated(rate, writers, noise) for _ in range(writers)]
    learning = [
        LearningWriter(each, each, learnt, lambda each=each: each.now)  # type: ignore[misc]
        for each in servers
    ]
    buffer = memoryview(bytes(write))
    for number, start in enumerate(range(0, disk, write)):
        i = number % writers
        learning[i].write(start, buffer[:])
        servers[i].now += waits
    return learnt, servers


def local(_: Shape, __: int) -> float:
    """The client is what takes the time, in any shape."""
    return 500.0 * MIB


def slow_storage(shape: Shape, _: int) -> float:
    """Each write takes 30 ms, however long it is; several are stored at the same time."""
    return min(900.0 * MIB, shape.connections * shape.size / (0.03 + shape.size / (400 * MIB)))


def one_at_a_time(shape: Shape, _: int) -> float:
    """Each further connection makes the disk seek."""
    return 200.0 * MIB / shape.connections


def stores_when_complete(shape: Shape, _: int) -> float:
    """Nothing of a PUT is stored before all of it has arrived."""
    return 100.0 * MIB if shape.size > MIB else 180.0 * MIB


def only_first(shape: Shape, _: int) -> float:
    """All other shapes are three times as slow."""
    return 900.0 * MIB if shape == FIRST else 300.0 * MIB


@pytest.mark.parametrize(("writers", "noise"), [(1, 0.0), (2, 0.1)])
@pytest.mark.parametrize(
    ("rate", "best"),
    [
        (slow_storage, {Shape(4 * MIB, 3)}),
        (one_at_a_time, {Shape(4 * MIB, 1), Shape(1 * MIB, 1)}),
        (stores_when_complete, {Shape(MIB, n) for n in (1, 2, 3)}),
        (only_first, {FIRST}),
    ],
)
def test_it_finds_the_best(rate: Rate, best: set[Shape], noise: float, writers: int) -> None:
    learnt, servers = run(rate, noise=noise, writers=writers)
    assert learnt.best in best
    assert {each.used[-1] for each in servers} <= {*best, *_neighbours(learnt.best)}
    if best != {FIRST}:  # most of the copy has the gain
        assert all(each.asked[FIRST] < DISK // writers // 4 for each in servers)


def _neighbours(shape: Shape) -> list[Shape]:
    """Shapes that may just be tried when the disk ends."""
    return [each for each in SHAPES if each.size == shape.size or each[1] == shape[1]]


@pytest.mark.parametrize("rate", [local, only_first])
@pytest.mark.parametrize("disk", [20 * GIB, 60 * GIB, 100 * GIB])
def test_trials_cost_less_than_two_percent(rate: Rate, disk: int) -> None:
    _, servers = run(rate, disk=disk)
    assert sum(each.now for each in servers) < 1.02 * sum(each.first for each in servers)


def test_it_notices_that_the_server_changed() -> None:
    """A quarter of the way in, it becomes one that is slower with several connections."""

    def rate(shape: Shape, done: int) -> float:
        return slow_storage(shape, done) if done < DISK // 4 else one_at_a_time(shape, done)

    learnt, servers = run(rate)
    assert all(each.asked[Shape(4 * MIB, 3)] > 5 * GIB for each in servers)
    assert learnt.best.connections == 1


def test_a_slow_source_teaches_nothing() -> None:
    """The writers wait for it, however they write."""
    _, servers = run(slow_storage, disk=60 * GIB, waits=1.0)
    assert all(set(each.asked) == {FIRST} for each in servers)


def test_nothing_is_tried_where_the_disk_is_fragmented() -> None:
    """The time of short writes is that of a request, not of its bytes."""
    _, servers = run(stores_when_complete, writers=1, disk=26 * GIB, write=256 * KIB - 1)
    assert all(set(each.asked) == {FIRST} for each in servers)


def test_a_trial_ends_where_the_disk_gets_fragmented() -> None:
    learnt = AutoShape(SHAPES, 1, DISK)
    server = Simulated(only_first)
    writer = LearningWriter(server, server, learnt, lambda: server.now)
    large, small = memoryview(bytes(WRITE)), memoryview(bytes(64 * KIB))
    at = 0
    while not learnt.ask().is_trial:
        writer.write(at, large[:])
        at += WRITE
    for _ in range(1000):
        writer.write(at, small[:])
        at += len(small)
    assert not learnt.ask().is_trial
    assert server.used[-1] == FIRST


# --- The next disk of the server ---


class ShapedSink(MemorySink):
    """Its writers have shapes."""

    server_is_local = False

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.used: list[Shape] = []

    def open_writer(self) -> Writer:
        writer = super().open_writer()
        writer.shapes = lambda writers: SHAPES  # type: ignore[attr-defined]
        writer.use = self.used.append  # type: ignore[attr-defined]
        return writer


def restored(sink: ShapedSink) -> list[Shape]:
    """The shapes that a copy of a small disk used."""
    copy(MemorySource(bytes(16 * MIB), [Extent(0, 16 * MIB)]), sink)
    return sink.used


def test_a_small_disk_is_written_in_the_shape_that_is_known() -> None:
    sink, shape = ShapedSink("https://known"), Shape(MIB, 3)
    server = ("written", server_of(sink))
    MEMORY.remember(server, KnownShape(shape, 1.0))
    assert set(restored(sink)) == {shape}
    known = MEMORY.recall(server, KnownShape)
    assert known is not None
    assert known.shape == shape


def test_a_small_disk_tries_nothing_and_teaches_nothing() -> None:
    sink = ShapedSink("https://unknown")
    assert restored(sink) == []
    assert MEMORY.recall(("written", server_of(sink)), KnownShape) is None


def test_what_was_learnt_from_downloads_is_not_used() -> None:
    sink = ShapedSink("https://read")
    MEMORY.remember(server_of(sink), KnownShape(Shape(MIB, 3), 1.0))
    assert restored(sink) == []
