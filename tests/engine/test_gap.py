"""The gap that pays, on simulated lines: the times follow a law, so the right answer is known."""

from __future__ import annotations

import random

import pytest

from tapestream.engine.gap import LEARNING, MAX_GAP, AutoGap, FixedGap

KIB, MIB = 1024, 1024**2


def learn(per_request: float, rate: float, *, requests: int = 200, noise: float = 0.0) -> AutoGap:
    """Let it see a disk of 64 KiB data, 64 KiB gaps, behind a server with these costs."""
    rng = random.Random(1)
    gap = AutoGap(16 * MIB)
    for _ in range(requests):
        limits = gap.limits()
        length = 64 * KIB if limits.max_gap < 64 * KIB else limits.span - 64 * KIB
        seconds = per_request + length / rate
        gap.observe(length, seconds * (1 + noise * (rng.random() - 0.5)))
    return gap


@pytest.mark.parametrize("per_request", [0.0002, 0.001, 0.005])
@pytest.mark.parametrize("rate", [30 * MIB, 300 * MIB])
def test_it_finds_what_pays(per_request: float, rate: float) -> None:
    wanted = min(per_request * rate, MAX_GAP)
    assert learn(per_request, rate).worth() == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("per_request", [0.0002, 0.001])
def test_noise_does_not_mislead_it(per_request: float) -> None:
    wanted = per_request * 300 * MIB
    assert learn(per_request, 300 * MIB, noise=0.3).worth() == pytest.approx(wanted, rel=0.5)


def test_where_a_request_is_free_no_gap_pays() -> None:
    assert learn(0.0, 30 * MIB).worth() < 4 * KIB


def test_it_learns_again_when_the_line_changes() -> None:
    gap = learn(0.001, 300 * MIB)
    before = gap.worth()
    for _ in range(3000):
        limits = gap.limits()
        length = 64 * KIB if limits.max_gap < 64 * KIB else limits.span - 64 * KIB
        gap.observe(length, length / (3 * MIB))
    assert gap.worth() < before / 4


def test_tries_are_rare_after_learning() -> None:
    gap = learn(0.0, 30 * MIB)
    wasted = sum(
        limits.span for limits in (gap.limits() for _ in range(100)) if limits.max_gap > 64 * KIB
    )
    assert wasted <= 2 * MIB


def test_it_learns_from_the_first_requests() -> None:
    gap = AutoGap(16 * MIB)
    kinds = {gap.limits().max_gap for _ in range(LEARNING)}
    assert kinds == {0, MAX_GAP}


def test_it_has_an_opinion_before_it_has_seen_both_kinds() -> None:
    assert AutoGap(16 * MIB).worth() == 0
    large = AutoGap(16 * MIB)
    large.observe(16 * MIB, 0.05)
    assert 0 < large.worth() <= MAX_GAP
    small = AutoGap(16 * MIB)
    small.observe(64 * KIB, 0.001)
    assert 0 < small.worth() <= 64 * KIB


def test_a_fixed_gap_stays() -> None:
    gap = FixedGap(5, 100)
    gap.observe(1, 1.0)
    assert gap.limits() == (5, 100)
