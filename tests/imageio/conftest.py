from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow each other at once."""
    monkeypatch.setattr("tapestream.imageio.connection.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("tapestream.imageio.connection.LONGEST_PAUSE", 0.01)
