"""What all commands have in common: help, statuses, errors, and that the program starts fast."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tapestream._version import __version__
from tapestream.cli.status import MEANINGS

from .program import SOURCE, call, environment, run

TICKET = "7a3f-secret"
URL = f"https://host:54322/images/{TICKET}"


@pytest.mark.parametrize("arguments", ["--help", "--version", "backup --help"])
def test_what_is_slow_to_load_is_not_loaded_for_help(arguments: str) -> None:
    code = (
        "import sys; from tapestream.cli.main import main\n"
        f"try: main({arguments.split()!r})\n"
        "except SystemExit: pass\n"
        "slow = {'ssl', 'sqlite3', 'rich', 'http', 'logging', 'threading'}\n"
        "print('loaded:', sorted(slow & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "loaded: []"


def test_the_console_script_is_the_same_program() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("tapestream = "))
    module, _, name = line.split('"')[1].partition(":")
    assert callable(getattr(import_module(module), name))
    script = Path(sys.executable).with_name("tapestream")
    if not script.exists():
        pytest.skip("the package was installed before it had a program")
    version = subprocess.run(
        [script, "--version"], env=environment(), capture_output=True, text=True, check=True
    )
    assert version.stdout == f"tapestream {__version__}\n"


def test_the_docs_list_the_exit_statuses() -> None:
    text = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    table = text.split("## Exit status")[1]
    documented = dict(re.findall(r"^\| (\d+) \| (.*) \|$", table.replace("`", ""), re.MULTILINE))
    assert documented == {str(int(status)): meaning for status, meaning in MEANINGS.items()}


def test_help_fits_into_80_columns() -> None:
    for arguments in ["--help"], ["backup", "--help"]:
        assert max(map(len, call(*arguments).out.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["backup"], ["backup", "disk.tar"], ["backup", "--max-rate=1x"]]
)
def test_wrong_usage_has_a_status_of_its_own(arguments: list[str]) -> None:
    ended = call(*arguments)
    assert (ended.status, ended.out) == (64, "")
    assert 1 <= len(ended.err.splitlines()) <= 2


def test_a_wrong_argument_that_is_a_url_is_not_shown() -> None:
    for arguments in [URL, "disk.tar", "more", URL], [URL, "disk.tar", f"--nope={URL}"]:
        ended = call("backup", *arguments)
        assert ended.status == 64
        assert TICKET not in ended.err
    assert ended.err.splitlines() == [
        "tapestream backup: there is no such option or argument: --nope=URL",
        "Try 'tapestream backup --help'.",
    ]


def test_options_may_stand_before_and_after_the_command() -> None:
    for arguments in ["--json", "backup", "x.tar"], ["backup", "x.tar", "--json"]:
        ended = call(*arguments)
        assert ended.result["event"] == "error"
        assert ended.result["status"] == ended.status == 64


def test_a_ctrl_c_while_modules_are_loaded_ends_quietly(tmp_path: Path) -> None:
    """A module that sends the signal stands in for one that is loaded when somebody presses it."""
    (tmp_path / "argparse.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n"
    )
    ended = run("--help", PYTHONPATH=f"{tmp_path}{os.pathsep}{SOURCE}")
    assert ended == (130, "", "")
