"""A few random trials of a restore; `python -m tests.ovirt.restore_trials` runs hundreds."""

from __future__ import annotations

import shutil

import pytest

from tapestream.testing import ImageioDaemon

pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")

from . import restore_trials


# Both have found a fault once.
@pytest.mark.parametrize("seed", [24, 146])
def test_nothing_is_left_after_a_restore_that_goes_wrong(daemon: ImageioDaemon, seed: int) -> None:
    if shutil.which("qemu-nbd") is None:
        pytest.skip("qemu-nbd is not installed")
    trial = restore_trials.random_trial(seed)
    assert restore_trials.run(trial, daemon).problems == [], trial.name
