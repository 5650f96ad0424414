"""The fixtures `station`, `drive` and `quiet`."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tapestream.tape import TapeDrive
from tests.drive.stations import Station, station

from .tapes import tape_drive

__all__ = ["station"]


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    """The first drive of the station, as the library sees it."""
    return tape_drive(station)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Log nothing where an operator does the wrong thing again and again."""
    logging.getLogger("tapestream.tape").disabled = True
    yield
    logging.getLogger("tapestream.tape").disabled = False
