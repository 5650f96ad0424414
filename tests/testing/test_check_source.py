"""check_source finds every broken source by the clause that it breaks, and passes good ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Set
from contextlib import nullcontext
from typing import Any
from unittest import SkipTest

import pytest

from tapestream.errors import UsageError
from tapestream.testing import ContractReport, check_source, source_checks
from tapestream.testing.kit.frame import LIMIT
from tapestream.testing.kit.source import SOURCE_CLAUSES

from .sources import (
    ALL_BROKEN,
    ALL_GOOD,
    DISK,
    EVERYTHING,
    Broken,
    GoodSource,
    GoodWrapper,
    KnowsNoSize,
)


def variant(make: Callable[[], GoodSource], **attributes: Any) -> Callable[[], GoodSource]:
    def make_variant() -> GoodSource:
        source = make()
        vars(source).update(attributes)
        return source

    return make_variant


BREAKS = {"source-errors", "source-error-kind", "source-error-close", "source-salvage-damage"}
BLOCKS = {"source-cancel-blocked", "source-close-blocked"}
# These wait for a part of the limit until they say that nothing more will come.
WAITS = {"source-cancel-blocked", "source-close-blocked", "source-keep-alive"}
WAITS |= {"source-releases"}


def report_of(make: Callable[[], GoodSource], clauses: Set[str], limit: float) -> ContractReport:
    """Check a source; one that breaks or blocks is made only if one of these clauses needs it."""
    return check_source(
        make,
        DISK,
        failing=variant(make, is_broken=True) if clauses & BREAKS else None,
        blocking=variant(make, is_blocked=True) if clauses & BLOCKS else None,
        limit=limit,
    )


def test_a_good_source_keeps_every_clause() -> None:
    report = report_of(GoodWrapper, BREAKS | BLOCKS, LIMIT)
    report.raise_()
    assert report.passed == [clause.id for clause in SOURCE_CLAUSES]


@pytest.mark.parametrize("make", ALL_GOOD)
def test_no_good_source_breaks_a_clause(make: type[GoodSource]) -> None:
    report_of(make, BREAKS, LIMIT).raise_()


@pytest.mark.parametrize("broken", ALL_BROKEN, ids=lambda broken: broken.make.__name__)
def test_a_broken_source_is_found_by_its_clause(broken: Broken) -> None:
    limit = 2 if broken.clause in WAITS else LIMIT
    failed = report_of(broken.make, {broken.clause}, limit).failed
    assert broken.clause in failed
    assert EVERYTHING in broken.also or failed.keys() <= {broken.clause, *broken.also}


def test_there_is_a_broken_source_for_every_clause() -> None:
    assert {broken.clause for broken in ALL_BROKEN} == {clause.id for clause in SOURCE_CLAUSES}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"limit": 0}, "limit must be more than 0 seconds"),
        ({"make": "path"}, "make must be a function"),
        ({"failing": "/dev/full"}, "failing must be a function"),
        ({"blocking": 1}, "blocking must be a function"),
        ({"content": "disk.raw"}, "content must be bytes, not a str"),
        ({"content": 5}, "content must be bytes, not a int"),
        ({"expected_failures": {"nope": ""}}, "no clause of the contract: nope"),
    ],
)
def test_a_bad_argument_is_an_error(wrong: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_source(**{"make": GoodSource, **wrong})


def test_each_source_must_be_a_new_one() -> None:
    source = GoodSource()
    [why] = set(check_source(lambda: source).failed.values())
    assert why.startswith("make() returned the same object twice")


@pytest.mark.parametrize(("clause", "check"), source_checks({"source-size": "it says 0"})[:8])
def test_the_checks_can_be_run_one_by_one(clause: str, check: Callable[..., None]) -> None:
    with pytest.raises(SkipTest) if clause == "source-size" else nullcontext():
        check(KnowsNoSize if clause == "source-size" else GoodWrapper, DISK)


def test_without_assertions_nothing_could_be_found() -> None:
    code = "from tapestream.testing import check_source; check_source(list)"
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], check=False, capture_output=True, text=True
    )
    assert "UsageError: Python runs without assertions" in done.stderr
