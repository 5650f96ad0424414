"""Messages go to `logging` if the program uses it, and cost no import if it does not."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from tapestream._log import Log


def run(code: str) -> tuple[str, str]:
    """What a fresh interpreter prints, and what it reports."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip(), done.stderr.strip()


def test_a_message_does_not_import_logging() -> None:
    code = (
        "import sys\n"
        "from tapestream._log import Log\n"
        "Log('tapestream.copy').warning('nobody sees this')\n"
        "print('logging' in sys.modules)"
    )
    assert run(code) == ("False", "")


def test_a_program_that_sets_up_no_logging_sees_nothing() -> None:
    """Without a handler of ours, Python prints warnings to standard error."""
    code = (
        "from tapestream._log import Log\n"
        "log = Log('tapestream.copy')\n"
        "import logging\n"
        "log.warning('nobody sees this')"
    )
    assert run(code) == ("", "")


def test_a_program_that_sets_up_logging_later_sees_messages() -> None:
    code = (
        "from tapestream._log import Log\n"
        "log = Log('tapestream.copy')\n"
        "log.warning('too early')\n"
        "import logging, sys\n"
        "logging.basicConfig(stream=sys.stdout, format='%(name)s %(levelname)s %(message)s')\n"
        "log.warning('seen %d', 1)"
    )
    assert run(code) == ("tapestream.copy WARNING seen 1", "")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "exception"])
def test_a_record_says_where_it_comes_from(level: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="tapestream.imageio")
    log = Log("tapestream.imageio")
    try:
        raise ValueError("the cause")
    except ValueError:
        getattr(log, level)("%s of %d", "one", 2)
    [record] = caplog.records
    assert record.name == "tapestream.imageio"
    assert record.levelname == {"exception": "ERROR"}.get(level, level.upper())
    assert record.getMessage() == "one of 2"
    assert record.funcName == "test_a_record_says_where_it_comes_from"
    assert bool(record.exc_info) is (level == "exception")
