"""Files and fifos to write to; no thread and no open file is left by any test."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread and no open file is left behind."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.tar"


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path
