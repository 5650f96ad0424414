"""What once broke a target does so no more, and chance finds nothing quickly."""

from __future__ import annotations

import random

import pytest

from .__main__ import mutated
from .targets import TARGETS, examples

CASES = [(name, n) for name in TARGETS for n in range(len(examples(name)))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_what_is_known(name: str, number: int) -> None:
    TARGETS[name](examples(name)[number])


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("name", TARGETS)
def test_some_mutations(name: str, seed: int) -> None:
    TARGETS[name](mutated(random.Random(seed), examples(name)))
