"""Backups in which something goes wrong at random: a few of what `trials` runs by the hundred."""

from __future__ import annotations

import signal

import pytest

from tapestream.testing import ImageioDaemon

from .trials import random_trial, run


# Phases, SIGTERM, SIGKILL and SIGINT, most of them with more that fails while cleaning up.
@pytest.mark.parametrize("seed", [1, 4, 7, 9])
def test_nothing_is_left(seed: int, daemon: ImageioDaemon) -> None:
    trial = random_trial(seed)
    outcome = run(trial, daemon, 0.5)
    assert outcome.problems == [], f"{trial.name}: {outcome.ended}"


def test_the_trials_are_of_every_kind() -> None:
    trials = [random_trial(seed) for seed in range(1, 301)]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, None):
        assert sum(trial.number is number for trial in trials) > 20
