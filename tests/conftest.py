from __future__ import annotations

from collections.abc import Iterator

import pytest

from tapestream.testing import ImageioDaemon


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageioDaemon]:
    """One daemon for all tests: give each test a ticket of its own."""
    with ImageioDaemon(tmp_path_factory.mktemp("imageio")) as running:
        yield running
