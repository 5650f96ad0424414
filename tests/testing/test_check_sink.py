"""`check_sink` finds each broken sink by the clause that it breaks, and the good one keeps all."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tapestream import RawImageSink
from tapestream.errors import UsageError
from tapestream.testing import check_sink, sink_checks
from tapestream.testing.kit.sink import SINK_CLAUSES

from . import sinks
from .sinks import GoodSink, Shelf, made_by, with_sink, with_writer

Kind = Callable[[Shelf, Path], Any]

# Bytes. Enough for every check, and a quarter of what vendors get.
SIZE = 256 * 1024


class Broken(NamedTuple):
    """A broken sink.

    Attributes:
        clause: The clause that it breaks.
        kind: The sink.
        also: Other clauses that it cannot but break, too: their checks need what is broken.
        options: More arguments of `check_sink`.
    """

    clause: str
    kind: Kind
    also: frozenset[str] = frozenset()
    options: Mapping[str, Any] = MappingProxyType({})


def also(*clauses: str) -> frozenset[str]:
    return frozenset(f"sink-{clause}" for clause in clauses)


# For what no copy can do without.
ALL = frozenset(clause.id for clause in SINK_CLAUSES)
BLOCKS = made_by(sinks.Blocks)[0]
FULL = made_by(sinks.FullShelf)[0]

BROKEN = {
    "no writers": Broken("sink-names", with_sink(max_writers=0), ALL),
    "a flag that is no flag": Broken("sink-names", with_sink(sequential="no"), ALL),
    "a writer without zero": Broken("sink-names", sinks.WriterWithoutZero, ALL),
    "the last byte": Broken("sink-data", sinks.LosesTheLastByte, ALL),
    "one more byte": Broken("sink-data", sinks.OneMoreByte, ALL),
    "a small table": Broken("sink-fragments", sinks.SmallTable, also("digests", "keep-alive")),
    "forgets the rest": Broken(
        "sink-incremental", sinks.ForgetsTheRest, options={"existing": "overwritten"}
    ),
    "a half write": Broken("sink-long-write", with_writer(write=sinks.short_write)),
    "small zeros are skipped": Broken(
        "sink-zero", with_writer(zero=sinks.skip_small), also("resize")
    ),
    "a part of a long zero": Broken("sink-long-write", with_writer(zero=sinks.first_half)),
    "whole blocks only": Broken(
        "sink-odd", with_writer(write=sinks.whole_blocks), also("zero", "writers")
    ),
    "zeros of whole sectors": Broken("sink-zero", with_writer(zero=sinks.whole_sectors)),
    "a longer tail": Broken("sink-resize", sinks.KeepsTheTail, also("zero")),
    "zeros at the commit": Broken("sink-zero-then-data", sinks.ZeroAllAtCommit),
    "nothing is no disk": Broken("sink-empty", sinks.NeedsSomeData),
    "names in ASCII": Broken("sink-info", sinks.AsciiNames),
    "zero ignored": Broken(
        "sink-zero", with_writer(zero=lambda *_: None), also("long-write", "resize")
    ),
    "kept buffers": Broken("sink-buffers", sinks.KeepsBuffers, ALL),
    "buffer changed": Broken("sink-buffer-unchanged", with_writer(write=sinks.encrypts_in_place)),
    "a count": Broken("sink-returns", with_writer(write=sinks.counts)),
    "a count of zeros": Broken("sink-returns", with_writer(zero=sinks.counts_zeros)),
    "append only": Broken("sink-order", sinks.OneAfterAnother, ALL),
    "fewer writers": Broken("sink-max-writers", sinks.OnlyOneWriter, ALL),
    "a shared file": Broken("sink-writers", sinks.SharedFile),
    "a shared place": Broken("sink-writers", sinks.SharedPlace),
    "shared sectors": Broken(
        "sink-writers", with_writer(write=sinks.whole_sectors_again), also("odd", "zero")
    ),
    "one thread": Broken("sink-threads", sinks.OneThread),
    "a shared list": Broken("sink-independent", sinks.SharedList),
    "opens early": Broken("sink-untouched", sinks.OpensEarly, also("abort-keeps", "commit-last")),
    "refuses late": Broken("sink-refuses", sinks.RefusesLate),
    "commits later": Broken("sink-commit", sinks.CommitsLater),
    "commits in a thread": Broken("sink-commit", sinks.CommitsInAThread, ALL),
    "complete before commit": Broken("sink-commit-last", sinks.NamesItAtTheEnd),
    "commits in close": Broken("sink-close", sinks.CommitsInClose),
    "abort leaves it": Broken("sink-abort", sinks.AbortLeavesIt, also("cancel-idle")),
    "abort deletes the old": Broken("sink-abort-keeps", sinks.AbortDeletesTheOld),
    "the old is moved": Broken("sink-commit-last", sinks.MovesTheOld),
    "goes on after an abort": Broken("sink-after-abort", sinks.GoesOnAfterAnAbort),
    "abort deletes the new": Broken(
        "sink-abort-after-commit", sinks.AbortDeletesTheNew, also("again")
    ),
    "closes once": Broken("sink-again", sinks.ClosesOnce),
    "a file is left": Broken("sink-releases", sinks.LeavesAFile),
    "a thread is left": Broken("sink-releases", sinks.LeavesAThread),
    **{
        f"an error in {name} swallowed": Broken(
            "sink-errors", GoodSink, options={"failing": made_by(kind)[0]}
        )
        for name, kind in {
            "write": sinks.SwallowsInWrite,
            "flush": sinks.SwallowsInFlush,
            "close": sinks.SwallowsInClose,
            "commit": sinks.SwallowsInCommit,
        }.items()
    },
    "an error of its own": Broken(
        "sink-error-kind", GoodSink, options={"failing": made_by(sinks.OwnError)[0]}
    ),
    "another digest": Broken("sink-digests", with_sink(new_hash=staticmethod(hashlib.md5))),
    "one hash for all": Broken("sink-digests", sinks.OneHash, ALL),
    "digests not taken": Broken("sink-digests", with_writer(digested=None)),
    "half of an ability": Broken("sink-abilities", with_sink(segment_size=None), ALL),
    "a flush that ends all": Broken("sink-flush", sinks.FlushEnds, also("writers")),
    "one buffer is lent": Broken("sink-memory", sinks.LendsOneBuffer, ALL),
    "keep_alive writes": Broken("sink-keep-alive", sinks.KeepAliveWrites),
    "keep_alive before begin": Broken("sink-keep-alive", sinks.KeepAliveNeedsBegin),
    "lost for ever": Broken("sink-lost", sinks.NeverForgets, ALL),
    "cancels once": Broken("sink-cancel-idle", sinks.CancelsOnce),
    "a cancel that ends nothing": Broken(
        "sink-cancel", GoodSink, options={"blocking": made_by(sinks.NeverEnds)[0], "limit": 10}
    ),
    "cancel breaks abort": Broken("sink-cancel-idle", sinks.CancelBreaksAbort),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_sink_is_found_by_the_clause_that_it_breaks(broken: Broken) -> None:
    report = check_sink(*made_by(broken.kind), size=SIZE, **broken.options)
    assert broken.clause in report.failed, report
    assert report.failed.keys() <= {broken.clause, *broken.also}, report
    with pytest.raises(AssertionError, match=f"BROKEN {broken.clause}: "):
        report.raise_()


def test_each_clause_has_a_broken_sink() -> None:
    assert {broken.clause for broken in BROKEN.values()} == ALL


@pytest.mark.parametrize("sequential", [False, True])
def test_the_good_sink_keeps_all_clauses(sequential: bool) -> None:
    kind = with_sink(sequential=sequential)
    threads = set(threading.enumerate())
    report = check_sink(*made_by(kind), failing=FULL, blocking=BLOCKS)
    report.raise_()
    assert len(report) == len(SINK_CLAUSES)
    skipped = {"sink-refuses"}
    if not sequential:
        skipped |= {"sink-memory"}
    else:
        skipped |= {"sink-order", "sink-writers", "sink-zero-then-data"}
    assert report.skipped.keys() == skipped
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize(("clause", "check"), sink_checks())
def test_the_checks_can_be_run_one_by_one(clause: str, check: Callable[..., None]) -> None:
    check(*sinks.memory_sink(), existing="none")


def test_a_sink_that_hangs_is_found() -> None:
    over = threading.Event()
    check = dict(sink_checks())["sink-commit"]
    make, read_back = made_by(with_sink(commit=lambda _: over.wait()))
    with pytest.raises(AssertionError, match=r"it hangs: not done after 0.2 seconds; .*<lambda>"):
        check(make, read_back, size=SIZE, limit=0.2)
    over.set()


def test_no_file_is_nothing_complete() -> None:
    check = dict(sink_checks())["sink-abort"]
    check(lambda path: RawImageSink(path / "disk"), lambda path: (path / "disk").read_bytes())


def test_what_reading_back_raises_is_in_the_report() -> None:
    make, _ = made_by(GoodSink)
    check = dict(sink_checks())["sink-data"]
    with pytest.raises(
        AssertionError, match=r"^the target holds nothing complete: read_back\(\) raised .*no"
    ):
        check(make, lambda path: (path / "no").read_bytes(), size=SIZE)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"existing": "keep"}, "existing must be one of kept, overwritten, unmarked, none"),
        ({"size": 1000}, "size must be a multiple of 65536"),
        ({"limit": 0}, "limit must be more than 0 seconds"),
        ({"make": "path"}, "make must be a function"),
        ({"read_back": None}, "read_back must be a function"),
        ({"failing": "/dev/full"}, "failing must be a function"),
    ],
)
def test_a_bad_argument_is_an_error(wrong: Any, says: str) -> None:
    make, read_back = made_by(GoodSink)
    with pytest.raises(UsageError, match=says):
        check_sink(**{"make": make, "read_back": read_back, **wrong})


NO_PYTEST = """
import sys
sys.modules["pytest"] = sys.modules["_pytest"] = None
from pathlib import Path
from tapestream import RawImageSink
from tapestream.errors import UsageError
from tapestream.testing import check_sink

def make(directory):
    return RawImageSink(directory / "disk.img")

def read_back(directory):
    image = directory / "disk.img"
    return image.read_bytes() if image.exists() else None

report = check_sink(make, read_back, existing="overwritten")
print(report)
report.raise_()
"""


def test_it_works_where_pytest_is_not_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_PYTEST], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SINK_CLAUSES)} clauses: " in done.stdout
