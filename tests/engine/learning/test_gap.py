"""The gap that pays, on simulated lines: the times follow a law, so the right answer is known."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tapestream.engine.learning.gap import (
    GUESS_SECONDS,
    MAX_GAP,
    NOTHING,
    OF_LOCAL,
    PRIOR_COST,
    TRIAL_SPAN,
    USE,
    AutoGap,
    Known,
    Limits,
    Sample,
    break_even_gap,
)

KIB, MIB = 1024, 1024**2
PIECE = GAP = 64 * KIB
READERS = 4


def fragmented(limits: Limits) -> int:
    """The length of a request on a disk of 64 KiB data, 64 KiB gaps."""
    return PIECE if limits.max_gap < GAP else limits.span - GAP


def took(length: int, seconds: float) -> Sample:
    """Such a request, of a reader that does nothing else."""
    data = (length + GAP) // (PIECE + GAP) * PIECE
    return Sample(1, length, data, seconds)


def used(
    gap: AutoGap,
    per_request: float,
    rate: float,
    *,
    requests: int = 5000,
    noise: float = 0,
    work: float = 0,
) -> Iterator[Limits]:
    """Let it see a server with these costs; the limits of every request.

    Args:
        gap: It.
        per_request: Seconds of the server for one request.
        rate: Its bytes per second.
        requests: How many to ask for.
        noise: By which part of it the time of a request varies.
        work: Seconds that the reader works on a byte of data, while the server goes on.
    """
    rng = random.Random(1)
    for _ in range(requests):
        limits = gap.limits()
        yield limits
        length = fragmented(limits)
        seconds = (per_request + length / rate) * (1 + noise * (rng.random() - 0.5))
        seen = took(length, seconds)
        gap.observe(limits, seen._replace(seconds=max(seconds, work * seen.data)))


def last_learned(limits: Iterator[Limits]) -> int:
    """What it came to use last."""
    return [each.max_gap for each in limits if each.trial % 3 == 2][-1]


@pytest.mark.parametrize("per_request", [0.0002, 0.001, 0.005])
@pytest.mark.parametrize("rate", [30 * MIB, 300 * MIB])
def test_it_finds_what_pays(per_request: float, rate: float) -> None:
    wanted = min(per_request * rate, MAX_GAP)
    learned = last_learned(used(AutoGap(16 * MIB, READERS), per_request, rate))
    assert learned == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("per_request", [0.0002, 0.001])
def test_noise_does_not_mislead_it(per_request: float) -> None:
    wanted = per_request * 300 * MIB
    gap = AutoGap(16 * MIB, READERS)
    learned = last_learned(used(gap, per_request, 300 * MIB, noise=0.5))
    assert learned == pytest.approx(wanted, rel=0.25)


def test_a_copy_that_begins_slowly_does_not_mislead_it() -> None:
    """Its connections are new. This is a line of 1 Gbit/s that two readers nearly fill."""
    rate, per_request = 58 * MIB, 0.0003  # of one reader: a gap of 18 KiB costs as much
    wrong = 0
    for seed in range(100):
        rng, gap, passed = random.Random(seed), AutoGap(16 * MIB, 2), 0.0
        for _ in range(10_000):
            if not gap.is_trial:
                break
            limits = gap.limits()
            seconds = per_request + fragmented(limits) / rate
            # The scheduler lets single requests wait.
            seconds += rng.expovariate(1 / 0.0003)
            if passed < 2 * 0.02:
                seconds *= 2
            passed += seconds
            gap.observe(limits, took(fragmented(limits), seconds))
        assert not gap.is_trial
        wrong += gap.limits().max_gap >= GAP
    assert wrong == 0


def test_where_a_request_is_free_no_gap_pays() -> None:
    assert last_learned(used(AutoGap(16 * MIB, READERS), 0.0, 30 * MIB)) < 4 * KIB


@pytest.mark.parametrize("work", [0.2, 0.5, 0.9])
def test_requests_do_not_seem_free_since_the_reader_works_meanwhile(work: float) -> None:
    """Of a fragmented disk small requests cost the server 1.2 ms each; the reader works less."""
    per_request, rate = 0.001, 300 * MIB
    each = work * (per_request + PIECE / rate) / PIECE
    learned = last_learned(used(AutoGap(16 * MIB, READERS), per_request, rate, work=each))
    assert learned > GAP


@pytest.mark.parametrize("work", [0, 0.5, 0.9])
def test_where_the_line_is_full_no_gap_pays_whatever_the_reader_does(work: float) -> None:
    each = work / (30 * MIB)
    assert last_learned(used(AutoGap(16 * MIB, READERS), 0.0, 30 * MIB, work=each)) < 4 * KIB


def test_all_readers_try_the_same_at_the_same_time() -> None:
    """What was begun before a trial, or beside it, is not counted."""
    gap = AutoGap(16 * MIB, READERS)
    first = gap.limits()
    for _ in range(10_000):
        if gap.limits() != first:
            break
        gap.observe(first, took(PIECE, PIECE / (10 * MIB)))
    second = gap.limits()
    assert (first.max_gap, second.max_gap) == (0, MAX_GAP)
    for _ in range(100):
        gap.observe(first, took(PIECE, 9.0))
    assert gap.limits() == second
    # The first of each reader shared the server with the small ones before it.
    for _ in range(READERS):
        gap.observe(second, took(TRIAL_SPAN, 9.0))
    while gap.limits() == second:
        gap.observe(second, took(TRIAL_SPAN, TRIAL_SPAN / (10 * MIB)))
    assert gap.limits().max_gap < 4 * KIB


@pytest.mark.parametrize(
    ("before", "after", "small"),
    [((0.001, 300), (0.0, 30), True), ((0.0, 30), (0.001, 300), False)],
)
def test_it_notices_that_the_line_changed(
    before: tuple[float, int], after: tuple[float, int], small: bool
) -> None:
    gap = AutoGap(16 * MIB, READERS)
    assert (last_learned(used(gap, before[0], before[1] * MIB)) < GAP) is not small
    changed = used(gap, after[0], after[1] * MIB, requests=50_000)
    assert (last_learned(changed) < GAP) is small


def test_a_stall_in_a_trial_does_not_mislead_it_for_long() -> None:
    """For example, the server was restarted meanwhile."""
    gap, stall = AutoGap(16 * MIB, 1), iter([0.0, 60.0])
    while gap.is_trial:
        limits = gap.limits()
        gap.observe(limits, took(fragmented(limits), 0.003 + next(stall, 0.0)))
    assert gap.limits().max_gap == MAX_GAP  # wrong: requests seem dear
    seconds = 0
    while not gap.is_trial and seconds < 2 * 60 * 60:
        gap.observe(gap.limits(), took(16 * MIB - GAP, 1.0))
        seconds += 1
    assert seconds <= 15 * 60


def test_trying_costs_little() -> None:
    """On a line where every gap is waste."""
    lengths = [fragmented(each) for each in used(AutoGap(16 * MIB, READERS), 0.0, 30 * MIB)]
    wasted = sum(length for length in lengths if length > PIECE)
    assert 0 < wasted / sum(lengths) < 0.1


LOCAL = 0.0004, 1000 * MIB  # what a server on the same host takes: requests are dear
FULL_LINE = 0.0, 30 * MIB  # others use the line meanwhile: requests are free


def seconds_of(limits: Limits, server: tuple[float, float]) -> float:
    per_request, rate = server
    return per_request + fragmented(limits) / rate


def is_trial(limits: Limits) -> bool:
    return limits.trial % 3 != 2


def disks(
    count: int, seconds: float, server: tuple[float, float], known: Known = NOTHING
) -> Iterator[tuple[list[Limits], Known]]:
    """Several disks of a server, one after another: the requests of each, and what is known then.

    Args:
        count: How many disks.
        seconds: How long each reader would read from each with small requests.
        server: Its costs.
        known: What the first begins with.
    """
    for _ in range(count):
        gap = AutoGap(16 * MIB, READERS, known)
        left = READERS * seconds / seconds_of(Limits(0, 0), server) * PIECE
        made: list[Limits] = []
        for limits in used(gap, *server, requests=10**6):
            if left <= 0:
                break
            made.append(limits)
            left -= (fragmented(limits) + GAP) // (PIECE + GAP) * PIECE
        known = gap.known()
        yield made, known


def test_a_guess_is_used_before_anything_is_tried() -> None:
    made = list(used(AutoGap(16 * MIB, READERS, OF_LOCAL), *LOCAL, requests=5000))
    first = next(i for i, limits in enumerate(made) if is_trial(limits))
    assert set(made[:first]) == {Limits(256 * KIB, 16 * MIB, trial=2)}
    took = sum(seconds_of(limits, LOCAL) for limits in made[:first])
    assert took == pytest.approx(GUESS_SECONDS * READERS, rel=0.1)


def test_a_small_disk_of_a_local_server_is_over_before_anything_is_tried() -> None:
    with_guess, without = (next(disks(1, 0.1, LOCAL, known))[0] for known in (OF_LOCAL, NOTHING))
    assert not any(map(is_trial, with_guess))
    assert len(without) > 20 * len(with_guess)


@pytest.mark.parametrize(
    ("server", "guess", "small"), [(FULL_LINE, MAX_GAP, True), (LOCAL, 0, False)]
)
def test_a_wrong_guess_is_corrected(server: tuple[float, float], guess: int, small: bool) -> None:
    gap = AutoGap(16 * MIB, READERS, Known(guess, USE, GUESS_SECONDS))
    learnt = last_learned(used(gap, *server, requests=20_000))
    assert (learnt < 4 * KIB) if small else (learnt > GAP)


def test_the_next_disk_begins_where_the_last_one_ended() -> None:
    (first, learnt), (second, later) = disks(2, 1.0, LOCAL)
    assert is_trial(first[0])
    assert learnt.max_gap == first[-1].max_gap == pytest.approx(LOCAL[0] * LOCAL[1], rel=0.01)
    assert set(second) == {Limits(first[-1].max_gap, 16 * MIB, trial=2)}
    assert later.seen.requests > learnt.seen.requests


def test_a_trial_goes_on_with_the_next_disk() -> None:
    (first, began), *_ = disks(1, 0.01, LOCAL)
    assert {limits.max_gap for limits in first} == {0}
    assert 0 < began.seen.requests < len(first)
    *_, (last, learnt) = disks(20, 0.01, LOCAL, began)
    assert not is_trial(last[0])
    assert learnt.max_gap == pytest.approx(LOCAL[0] * LOCAL[1], rel=0.01)


@pytest.mark.parametrize("seconds", [0.02, 0.3])
@pytest.mark.parametrize(("before", "after"), [(LOCAL, FULL_LINE), (FULL_LINE, LOCAL)])
def test_small_disks_together_notice_that_the_server_changed(
    seconds: float, before: tuple[float, float], after: tuple[float, float]
) -> None:
    (_, known), *_ = disks(1, 10.0, before)
    *_, (_, known) = disks(int(60 / seconds), seconds, after, known)
    assert known.max_gap is not None
    assert (known.max_gap < 4 * KIB) is (after == FULL_LINE)


@pytest.mark.parametrize("server", [LOCAL, FULL_LINE])
def test_small_disks_together_have_few_trials(server: tuple[float, float]) -> None:
    (_, known), *_ = disks(1, 10.0, server)
    made = [limits for each, _ in disks(300, 0.1, server, known) for limits in each]
    spent = [
        sum(seconds_of(each, server) for each in made if is_trial(each) is trial)
        for trial in (True, False)
    ]
    assert 0 < spent[0] < 0.05 * spent[1]


def test_a_guess_stays_until_there_is_something_to_learn() -> None:
    """On a disk of large extents."""
    gap = AutoGap(16 * MIB, READERS, OF_LOCAL)
    for _ in range(1000):
        gap.observe(gap.limits(), Sample(1, MIB, MIB, 0.01))
    known = gap.known()
    assert (known.max_gap, known.seconds) == (OF_LOCAL.max_gap, GUESS_SECONDS)


def alike(amount: int) -> Sample:
    """Ten requests without gaps, for so many MiB, at 400 MiB/s."""
    return Sample(10, amount * MIB, amount * MIB, amount / 400)


def test_where_all_requests_are_alike_a_prior_holds() -> None:
    assert break_even_gap(alike(160), alike(150), None) == pytest.approx(
        PRIOR_COST * 400 * MIB, rel=0.01
    )


def test_where_all_requests_are_alike_what_was_learned_holds() -> None:
    assert break_even_gap(alike(160), alike(150), 12345) == 12345


def test_a_coarse_clock_does_no_harm() -> None:
    assert break_even_gap(took(PIECE, 0.0), took(TRIAL_SPAN, 0.0), None) == MAX_GAP
    assert break_even_gap(took(PIECE, 0.0), took(PIECE, 0.0), None) == MAX_GAP
