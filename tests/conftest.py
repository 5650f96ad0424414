from __future__ import annotations

from collections.abc import Iterator

import pytest

from tapestream.testing import ImageioDaemon


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tape-device",
        metavar="PATH",
        help="run the tests marked 'drive' on this tape drive, such as /dev/nst0; what is on its "
        "cartridge is LOST",
    )


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageioDaemon]:
    """One daemon for all tests: give each test a ticket of its own."""
    with ImageioDaemon(tmp_path_factory.mktemp("imageio")) as running:
        yield running
