from __future__ import annotations

import pytest

from tapestream.imageio.retry import Tries


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow each other immediately."""
    monkeypatch.setattr(Tries, "first_pause", 0.001)
    monkeypatch.setattr(Tries, "longest_pause", 0.01)
