"""How to ask, on simulated servers with a clock of their own: the best answer is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tapestream.backend import Shape
from tapestream.engine.learning.gap import LARGE, USE, AutoGap, Known, Limits, Sample
from tapestream.engine.learning.learner import Learner
from tapestream.engine.learning.shape import (
    LONGEST_USE,
    AutoShape,
    KnownShape,
    is_too_small,
    usable,
)

MIB = 1024**2
GIB = 1024 * MIB
REQUEST = 16 * MIB
SHAPES = [Shape(size * MIB, n) for size, n in [(4, 2), (4, 4), (4, 1), (16, 2), (16, 1)]]
FIRST = SHAPES[0]
DISK = 200 * GIB

Rate = Callable[[Shape, int], float]
"""Bytes per second of a server, with a shape, after so many bytes of the disk."""


@dataclass
class Ran:
    """What a copy did.

    Attributes:
        learnt: Knows how to ask.
        seconds: How long it took.
        used: The shapes that were in use, in order.
        tried: How often a trial began, in every tenth of the copy.
        lost: Seconds that it took longer than with the shapes in use alone.
    """

    learnt: AutoShape
    seconds: float
    used: list[Shape]
    tried: list[int]
    lost: float


def run(
    rate: Rate,
    *,
    disk: int = DISK,
    readers: int = 1,
    noise: float = 0,
    waits: float = 0,
    seed: int = 1,
    ahead: int = 1,
    known: KnownShape | None = None,
) -> Ran:
    """Copy a disk from a server.

    Args:
        rate: The server.
        disk: Bytes of the disk.
        readers: How many readers share the server.
        noise: Standard deviation of the time of a request, as a part of it.
        waits: Seconds for which a reader waits for the sink, for each second it reads.
        seed: Of the noise.
        ahead: How many more requests a reader announces before it reads one.
        known: What the last disk has shown.
    """
    rng = random.Random(seed)
    learnt = AutoShape(SHAPES, readers, disk, known)
    waiting = [learnt.ask() for _ in range(ahead * readers)]
    ran = Ran(learnt, 0.0, [learnt.best], [0] * 10, 0.0)
    trial = -1
    for done in range(0, disk, REQUEST):
        waiting.append(learnt.ask())
        ask = waiting.pop(0)
        ideal = REQUEST / rate(ask.shape, done)
        seconds = ideal * max(0.1, 1 + rng.gauss(0, noise)) * readers
        ran.seconds += ideal
        ran.lost += max(0.0, ideal - REQUEST / rate(learnt.best, done)) if ask.is_trial else 0
        learnt.observe(ask, Sample(1, REQUEST, REQUEST, seconds, seconds * waits))
        if learnt.best != ran.used[-1]:
            ran.used.append(learnt.best)
        if ask.is_trial and ask.stretch != trial:
            trial = ask.stretch
            ran.tried[done * 10 // disk] += 1
    return ran


def any_shape(_: Shape, __: int) -> float:
    """A fast local server: the client is what takes the time."""
    return 1000.0 * MIB


def short_window(shape: Shape, _: int) -> float:
    """A line on which each connection carries 30 MiB/s."""
    return 30.0 * MIB * shape.connections


def dear_requests(shape: Shape, _: int) -> float:
    """Each GET costs 40 ms; the line carries 300 MiB/s."""
    return min(300 * MIB, shape.connections * shape.size / (0.04 + shape.size / (300 * MIB)))


def one_at_a_time(shape: Shape, _: int) -> float:
    """Each further connection makes the disk seek."""
    return 200.0 * MIB / shape.connections


def only_first(shape: Shape, _: int) -> float:
    """All other shapes are three times as slow."""
    return 900.0 * MIB if shape == FIRST else 300.0 * MIB


def terrible(shape: Shape, _: int) -> float:
    """All other shapes are ten times as slow."""
    return 900.0 * MIB if shape == FIRST else 90.0 * MIB


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize(
    ("rate", "best"),
    [
        (any_shape, {FIRST}),
        (short_window, {Shape(4 * MIB, 4)}),
        (dear_requests, {Shape(16 * MIB, 2), Shape(4 * MIB, 4)}),
        (one_at_a_time, {Shape(4 * MIB, 1), Shape(16 * MIB, 1)}),
        (only_first, {FIRST}),
        (terrible, {FIRST}),
    ],
)
def test_it_finds_the_best(rate: Rate, best: set[Shape], readers: int) -> None:
    ran = run(rate, readers=readers)
    assert ran.learnt.best in best
    assert ran.lost < 0.02 * ran.seconds


@pytest.mark.parametrize("rate", [short_window, one_at_a_time])
def test_it_is_found_early(rate: Rate) -> None:
    """Most of the copy has the gain."""
    slow = DISK / rate(FIRST, 0)
    assert run(rate).seconds < 0.55 * slow


@pytest.mark.parametrize("disk", [4 * GIB, 20 * GIB, 50 * GIB, 200 * GIB])
@pytest.mark.parametrize("rate", [only_first, terrible, one_at_a_time, any_shape])
@pytest.mark.parametrize("noise", [0, 0.2])
def test_trials_cost_less_than_two_percent(disk: int, rate: Rate, noise: float) -> None:
    ran = run(rate, disk=disk, noise=noise)
    assert ran.lost < 0.02 * ran.seconds


def test_nothing_is_tried_on_a_small_disk() -> None:
    assert sum(run(any_shape, disk=23 * GIB).tried) == 0


@pytest.mark.parametrize("readers", [1, 3])
def test_a_disk_on_which_anything_is_tried_is_not_too_small(readers: int) -> None:
    assert is_too_small(5 * GIB * readers, readers)
    assert sum(run(any_shape, disk=25 * GIB * readers, readers=readers).tried)
    assert not is_too_small(25 * GIB * readers, readers)


def test_trials_grow_rarer() -> None:
    tried = run(any_shape, disk=1000 * GIB).tried
    assert tried[0] > 0
    assert sum(tried[8:]) < tried[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_noise_does_not_make_it_flap(noise: float, seed: int) -> None:
    ran = run(any_shape, noise=noise, seed=seed)
    assert len(ran.used) <= 2


@pytest.mark.parametrize("seed", range(3))
def test_a_gain_is_found_in_noise(seed: int) -> None:
    ran = run(short_window, noise=0.1, seed=seed)
    assert ran.learnt.best.connections == 4


def test_it_notices_that_the_server_changed() -> None:
    """A quarter of the way in, it becomes one that is slower with several connections."""

    def rate(shape: Shape, done: int) -> float:
        return short_window(shape, done) if done < DISK // 4 else one_at_a_time(shape, done)

    ran = run(rate)
    assert Shape(4 * MIB, 4) in ran.used
    assert ran.learnt.best.connections == 1


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_server_that_gets_faster_in_the_middle_does_not_mislead_it(factor: float) -> None:
    """One that becomes warm during a trial: the shape that is tried has not made it faster."""
    for changes in range(0, 2 * GIB, 8 * REQUEST):

        def rate(_: Shape, done: int, changes: int = changes) -> float:
            return 500.0 * MIB * (factor if done > changes else 1)

        assert run(rate, disk=DISK // 4).used == [FIRST]


def test_a_slow_sink_teaches_nothing() -> None:
    """The readers wait for it, whatever they ask."""
    assert sum(run(short_window, waits=2).tried) == 0


def test_only_large_requests_count() -> None:
    learnt = AutoShape(SHAPES, 1, DISK)
    for _ in range(10_000):
        learnt.observe(learnt.ask(), Sample(1, MIB, MIB, 0.001))
    assert learnt.ask().stretch == 0


@pytest.mark.parametrize("tries_gap", [False, True])
def test_a_trial_ends_where_the_disk_is_fragmented(tries_gap: bool) -> None:
    """Short requests do not count, but a trial that waits for large ones would never end."""
    known = Known(0, LARGE if tries_gap else USE, seconds=10**9, small=Sample(9, MIB, MIB, 1))
    gap, shape = AutoGap(REQUEST, 1, known), AutoShape(SHAPES, 1, DISK)
    learner = Learner(gap, shape)
    for _ in range(DISK // REQUEST):
        if shape.ask().is_trial:
            break
        shape.observe(shape.ask(), Sample(1, REQUEST, REQUEST, 0.1))
    assert shape.ask().is_trial
    for _ in range(1000):
        learner.observe(learner.limits(), Sample(1, MIB, MIB // 2, 0.01))
    assert shape.ask().shape == shape.best
    assert not gap.is_trial


def test_one_trial_at_a_time() -> None:
    """While the gaps are tried, requests with gaps say nothing, and the other way round."""
    gap, shape = AutoGap(REQUEST, 1), AutoShape(SHAPES, 1, DISK)
    learner = Learner(gap, shape)
    tried = {False: 0, True: 0}
    for _ in range(DISK // REQUEST):
        limits = learner.limits()
        assert limits.ask is not None
        assert not (gap.is_trial and limits.ask.is_trial)
        tried[limits.ask.is_trial] += gap.is_trial or limits.ask.is_trial
        seconds = REQUEST / any_shape(limits.ask.shape, 0)
        learner.observe(limits, Sample(1, REQUEST, REQUEST // 2, seconds))
    assert all(tried.values())


def test_gaps_that_are_tried_in_vain_do_not_delay_it() -> None:
    """A disk without any gap: the trials of gaps change nothing, and are most of the time."""
    gap, shape = AutoGap(REQUEST, 1), AutoShape(SHAPES, 1, DISK)
    learner = Learner(gap, shape)
    seconds = 0.0
    for _ in range(0, DISK, REQUEST):
        limits = learner.limits()
        assert limits.ask is not None
        took = REQUEST / short_window(limits.ask.shape, 0)
        learner.observe(limits, Sample(1, REQUEST, REQUEST, took))
        seconds += took
    assert shape.best.connections == 4
    assert seconds < 0.55 * DISK / short_window(FIRST, 0)


def test_a_source_with_one_way_has_nothing_to_learn() -> None:
    limits = Limits(0, REQUEST)
    learner = Learner(limits, None)
    learner.observe(limits, Sample(1, REQUEST, REQUEST, 1.0))
    assert learner.limits() == limits


def test_it_asks_only_for_what_is_possible() -> None:
    assert AutoShape([FIRST], 1, DISK).ask().shape == FIRST
    learnt = AutoShape([FIRST], 1, DISK)
    for _ in range(1000):
        learnt.observe(learnt.ask(), Sample(1, REQUEST, REQUEST, 0.1))
    assert learnt.ask().stretch == 0


# --- The next disk of the server ---


def test_a_small_disk_begins_with_what_a_large_one_has_shown() -> None:
    known = usable(run(short_window).learnt.known(), SHAPES)
    assert known is not None
    assert known.shape == Shape(4 * MIB, 4)
    ran = run(short_window, disk=4 * GIB, known=known)
    assert ran.used == [known.shape]
    assert ran.lost == 0


def test_a_large_disk_finds_out_that_the_server_is_another_now() -> None:
    ran = run(one_at_a_time, known=KnownShape(Shape(4 * MIB, 4), 0.0))
    assert ran.used[0].connections == 4
    assert ran.learnt.best.connections == 1
    assert ran.learnt.known().seconds < LONGEST_USE


def test_small_disks_use_it_for_a_limited_time() -> None:
    """They never compare it with another shape: sooner or later, they begin as if it were new."""
    known: KnownShape | None = KnownShape(Shape(4 * MIB, 4), 0.0)
    seconds = 0.0
    while seconds < 2 * LONGEST_USE and (known := usable(known, SHAPES)) is not None:
        ran = run(short_window, disk=4 * GIB, known=known, readers=3)
        known = ran.learnt.known()
        seconds += ran.seconds
    assert LONGEST_USE <= seconds < 2 * LONGEST_USE


def test_fragmented_disks_use_it_for_a_limited_time() -> None:
    """Their requests are too short to be compared, but they take time as others do."""
    known: KnownShape | None = KnownShape(Shape(4 * MIB, 4), 0.0)
    for _ in range(int(LONGEST_USE)):
        known = usable(known, SHAPES)
        assert known is not None
        learnt = AutoShape(SHAPES, 2, DISK, known)
        for _ in range(4):
            learnt.observe(learnt.ask(), Sample(1, MIB, MIB, 0.5))
        known = learnt.known()
    assert usable(known, SHAPES) is None


def test_a_trial_that_is_given_up_does_not_begin_the_time_anew() -> None:
    """On a fragmented disk, it may end so again and again, and nothing is compared."""
    learnt = AutoShape(SHAPES, 1, DISK, KnownShape(Shape(4 * MIB, 4), LONGEST_USE))
    while not learnt.ask().is_trial:
        learnt.observe(learnt.ask(), Sample(1, REQUEST, REQUEST, 0.1))
    while learnt.ask().is_trial:
        learnt.observe(learnt.ask(), Sample(1, MIB, MIB, 0.1))
    assert usable(learnt.known(), SHAPES) is None


def test_a_trial_begins_the_time_anew() -> None:
    for rate in (short_window, any_shape):
        learnt = run(rate).learnt
        assert learnt.known().seconds < DISK / rate(learnt.best, 0) / 2


@pytest.mark.parametrize("shape", [FIRST, Shape(4 * MIB, 8), Shape(64 * MIB, 1)])
def test_what_is_not_possible_is_not_used(shape: Shape) -> None:
    """The server may allow fewer connections now. The first guess needs no memory."""
    assert usable(KnownShape(shape, 0.0), SHAPES) is None
