from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestream.testing import EngineDouble, ImageioDaemon


@pytest.fixture
def engine(tmp_path: Path, daemon: ImageioDaemon) -> Iterator[EngineDouble]:
    with EngineDouble(tmp_path / "engine", daemon=daemon) as running:
        yield running
