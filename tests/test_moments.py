"""A cancel at a random moment of each kind of copy, and of everything that hangs.

`make moments` cancels at many more.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestream import Cancel
from tapestream.testing import ImageioDaemon

from .moments import FOREVER, Kind, cancel_at, daemon_kinds, hanging_kinds, hung, moments

pytestmark = pytest.mark.timeout(60)

DAEMON = [
    *(
        f"{kind}, {how}"
        for how in ("unix", "tls")
        for kind in (
            "download to a tar",
            "download to a raw image",
            "upload of a tar",
            "upload of a raw image",
            "restore of a chain",
            "compare",
        )
    ),
    "download to a tape",
    "verify",
    "verify a tape",
    "restore of a chain to a raw image",
    "scan",
]
HANGS = [
    "no accept",
    "no handshake",
    "no handshake later",
    *(
        f"{kind}, {scheme}"
        for scheme in ("http", "https")
        for kind in (
            "no reply to the first request",
            "no extents",
            "stalled extents",
            "no reply",
            "a stalled body",
            "no reply to an upload",
            "a stalled upload",
            "no reply to a zero or a flush",
            "a server that fails",
        )
    ),
    "a fifo without a reader",
    "a fifo without a writer",
    "a fifo whose reader stalls",
    "a fifo whose writer stalls",
    "a drive without a cartridge",
    "a tape change",
    "a backup that waits for its turn",
    "a restore that waits for its turn",
    "a scan that waits for its turn",
]
# Seconds. A busy machine may take longer than the second that is promised.
GENEROUS = 15


@pytest.fixture(scope="module")
def kinds(
    daemon: ImageioDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Kind]]:
    directory = tmp_path_factory.mktemp("served")
    with daemon_kinds(daemon, directory) as copies:
        yield {**copies, **hanging_kinds(directory)}


def test_no_kind_is_forgotten(kinds: dict[str, Kind]) -> None:
    assert set(kinds) == {*DAEMON, *HANGS}


@pytest.mark.parametrize("name", DAEMON + HANGS)
def test_a_cancel_ends_it_and_leaves_nothing(name: str, kinds: dict[str, Kind]) -> None:
    report = moments(kinds[name], 1, random.Random(name), longest=0.1)
    assert report.wrong == []
    assert all(seconds < GENEROUS for seconds in report.cancelled)
    assert report.done == 0 or name in DAEMON


# --- The judge itself ---


def test_what_does_not_hang_is_found() -> None:
    outcome = cancel_at(Kind(lambda *_: None, hung, hangs=True), FOREVER, by_signal=False)
    assert outcome.wrong == "it was done, but should hang"


def test_a_file_that_is_left_is_found() -> None:
    def work(directory: Path, cancel: Cancel) -> None:
        (directory / "a.tar").touch()

    assert cancel_at(Kind(work), 0, by_signal=True).wrong == "there is ['a.tar']"


def test_a_descriptor_that_is_left_is_found(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        files = [file]

        def work(directory: Path, cancel: Cancel) -> None:
            files.append((tmp_path / "other").open("wb"))

        wrong = cancel_at(Kind(work), FOREVER, by_signal=False).wrong
        files[1].close()
    assert wrong is not None
    assert wrong.startswith("descriptors are left")


def test_an_error_that_is_no_cancel_is_found() -> None:
    def work(directory: Path, cancel: Cancel) -> None:
        raise OSError("broken")

    wrong = cancel_at(Kind(work), FOREVER, by_signal=False).wrong
    assert wrong is not None
    assert "broken" in wrong


def test_what_goes_on_after_a_cancel_takes_its_time() -> None:
    ended = threading.Event()

    def work(directory: Path, cancel: Cancel) -> None:
        while not cancel.cancelled:
            time.sleep(0.001)
        ended.wait(0.3)

    seconds = cancel_at(Kind(work), 0, by_signal=True).seconds
    assert seconds is not None
    assert seconds >= 0.3
