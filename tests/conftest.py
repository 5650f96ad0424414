from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tapestream.engine.learning.memory import MEMORY
from tapestream.testing import ImageioDaemon

# A slow machine is no fault of what is tested.
hypothesis.settings.register_profile("tapestream", deadline=None)
hypothesis.settings.load_profile("tapestream")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tape-device",
        metavar="PATH",
        help="run the tests marked 'drive' on this tape drive, such as /dev/nst0; what is on its "
        "cartridge is LOST",
    )


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT as Python has it: who starts the tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def nothing_is_known_of_servers() -> None:
    """What a test learns of a server would change the requests of the next test."""
    MEMORY.forget()


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageioDaemon]:
    """One daemon for all tests: give each test a ticket of its own."""
    with ImageioDaemon(tmp_path_factory.mktemp("imageio")) as running:
        yield running
