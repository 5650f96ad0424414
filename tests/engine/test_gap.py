"""The gap that pays, on simulated lines: the times follow a law, so the right answer is known."""

from __future__ import annotations

import random

import pytest

from tapestream.engine.gap import MAX_GAP, TRIAL_SPAN, TRY_AGAIN, AutoGap, FixedGap, Limits

KIB, MIB = 1024, 1024**2
PIECE = GAP = 64 * KIB
READERS = 4


def request(limits: Limits) -> int:
    """The length of a request on a disk of 64 KiB data, 64 KiB gaps."""
    return PIECE if limits.max_gap < GAP else limits.span - GAP


def run(gap: AutoGap, per_request: float, rate: float, *, requests: int, noise: float = 0) -> int:
    """Let it see a server with these costs; the bytes that were read."""
    rng = random.Random(1)
    read = 0
    for _ in range(requests):
        limits = gap.limits()
        length = request(limits)
        seconds = per_request + length / rate
        gap.observe(limits, length, seconds * (1 + noise * (rng.random() - 0.5)))
        read += length
    return read


def learned(per_request: float, rate: float, *, noise: float = 0) -> AutoGap:
    gap = AutoGap(16 * MIB, READERS)
    run(gap, per_request, rate, requests=200, noise=noise)
    return gap


@pytest.mark.parametrize("per_request", [0.0002, 0.001, 0.005])
@pytest.mark.parametrize("rate", [30 * MIB, 300 * MIB])
def test_it_finds_what_pays(per_request: float, rate: float) -> None:
    wanted = min(per_request * rate, MAX_GAP)
    assert learned(per_request, rate).worth() == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("per_request", [0.0002, 0.001])
def test_noise_does_not_mislead_it(per_request: float) -> None:
    wanted = per_request * 300 * MIB
    assert learned(per_request, 300 * MIB, noise=0.2).worth() == pytest.approx(wanted, rel=0.5)


def test_where_a_request_is_free_no_gap_pays() -> None:
    assert learned(0.0, 30 * MIB).worth() < 4 * KIB


def test_all_readers_try_the_same_at_the_same_time() -> None:
    """What was begun before a trial, or beside it, is not counted."""
    gap = AutoGap(16 * MIB, READERS)
    first = gap.limits()
    while gap.limits() == first:
        gap.observe(first, TRIAL_SPAN, 0.1)
    second = gap.limits()
    assert {first.max_gap, second.max_gap} == {0, MAX_GAP}
    for _ in range(100):
        gap.observe(first, PIECE, 9.0)
    assert gap.limits() == second
    # The first of each reader waited for the large ones before it.
    for _ in range(READERS):
        gap.observe(second, PIECE, 9.0)
    while gap.limits() == second:
        gap.observe(second, PIECE, PIECE / (10 * MIB))
    assert gap.worth() < 4 * KIB


@pytest.mark.parametrize(
    ("before", "after", "small"),
    [((0.001, 300), (0.0, 30), True), ((0.0, 30), (0.001, 300), False)],
)
def test_it_notices_that_the_line_changed(
    before: tuple[float, int], after: tuple[float, int], small: bool
) -> None:
    gap = learned(before[0], before[1] * MIB)
    assert (gap.worth() < GAP) is not small
    read = 0
    while read < 3 * TRY_AGAIN:
        read += run(gap, after[0], after[1] * MIB, requests=50)
    assert (gap.worth() < GAP) is small


def test_trying_costs_little() -> None:
    """On a line where every gap is waste."""
    gap = AutoGap(16 * MIB, READERS)
    wasted = total = 0
    while total < 8 * TRY_AGAIN:
        limits = gap.limits()
        length = request(limits)
        gap.observe(limits, length, length / (30 * MIB))
        total += length
        wasted += length if length > PIECE else 0
    assert wasted / total < 0.08


def test_it_has_an_opinion_before_it_has_seen_both_kinds() -> None:
    gap = AutoGap(16 * MIB, 1)
    assert gap.worth() == 0
    for _ in range(2):
        gap.observe(gap.limits(), 16 * MIB, 0.05)
    assert 0 < gap.worth() <= MAX_GAP


def test_a_fixed_gap_stays() -> None:
    gap = FixedGap(5, 100)
    gap.observe(gap.limits(), 1, 1.0)
    assert gap.limits() == (5, 100, 0)
