from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tapestream.engine.learning.memory import MEMORY
from tapestream.testing import ImageioDaemon
from tests.drive.stations import is_shared

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
    parser.addoption(
        "--tape-share",
        metavar="N/M",
        type=lambda words: tuple(map(int, words.split("/"))),
        help="one of M runs, each with another kernel, that share the tests of tests/tape; those "
        "marked 'every_kernel' and those of tests/drive are in each of them",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (share := config.getoption("--tape-share")) is None:
        return
    number, of = share
    shared = [item for item in items if is_shared(item)]
    others = {item for n, item in enumerate(shared, 1) if n % of != number % of}
    config.hook.pytest_deselected(items=list(others))
    items[:] = [item for item in items if item not in others]


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
