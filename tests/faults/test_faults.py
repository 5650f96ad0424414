"""Sixty faults of the matrix; `make faults` runs any number."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .matrix import Case, Laboratory

SEEDS = range(60)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    made = Laboratory(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_ends_right_or_with_an_error_that_says_so(
    laboratory: Laboratory, seed: int
) -> None:
    laboratory.run(Case.of(seed))
