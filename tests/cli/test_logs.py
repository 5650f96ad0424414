"""What the library logs is shown in words of the command line, and once."""

from __future__ import annotations

import logging

import pytest

from tapestream.cli.logs import logging_to
from tapestream.cli.output import ForPeople

LOGGER = logging.getLogger("tapestream.imageio")


def test_a_warning_that_all_connections_have_is_shown_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with logging_to(ForPeople(quiet=True), verbose=False):
        for text in "gone", "gone", "slow", "gone":
            LOGGER.warning("the server is %s", text)
    assert capsys.readouterr().err.splitlines() == [
        "tapestream: warning: the server is gone",
        "tapestream: warning: the server is slow",
        "tapestream: warning: the server is gone",
    ]


def test_a_message_names_options_not_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(ForPeople(quiet=False), verbose=True):
        LOGGER.info("Try 1 of 9 failed: check the port, or pass proxy_url.")
    assert "or pass --proxy-url-file." in capsys.readouterr().err
