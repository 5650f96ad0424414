"""Completion in real shells, and the manual page as man and mandoc read it."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tapestream.cli.main import main

from .program import environment


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.fixture
def bash_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    script = tmp_path / "script.bash"
    script.write_text(printed(capsys, "completion", "bash"))
    return script


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ta", {"tape"}),
        ("tape s", {"status", "scan"}),
        ("tape label --o", {"--overwrite"}),
        ("backup --checksum b", {"blake2b"}),
        ("completion z", {"zsh"}),
        ("tape status nst", {"nst0"}),
        ("tape catalog tap", {"tapes.db"}),
        ("tape scan --catalog tap", {"tapes.db"}),
        ("list nst", {"nst0"}),
        ("restore nst0 tap", {"tapes.db"}),
        ("compare tapes.db nst", {"nst0"}),
        ("vm full mail ns", {"nst0"}),
        ("vm res", {"restore"}),
    ],
)
def test_bash_completes(bash_script: Path, typed: str, offered: set[str], tmp_path: Path) -> None:
    """What bash calls when somebody presses Tab."""
    for name in ("nst0", "tapes.db"):
        (tmp_path / name).touch()
    words = ["tapestream", *typed.split()]
    code = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        '$(complete -p tapestream | sed "s/.* -F \\([^ ]*\\) .*/\\1/")'
        ' tapestream "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}";'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", bash_script, *words],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert set(done.stdout.split()) == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a zsh on a terminal, with a real Tab."""
    (tmp_path / "_tapestream").write_text(printed(capsys, "completion", "zsh"))
    setup = f"fpath=({tmp_path} $fpath); PS1=; autoload -U compinit; compinit -D -u; echo re''ady\n"
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "TERM": "dumb"})
    try:
        os.write(terminal, setup.encode())
        read_until(terminal, r"ready\s")
        os.write(terminal, b"tapestream tape forg\t")
        read_until(terminal, r"tapestream tape forget")
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def read_until(terminal: int, pattern: str) -> None:
    """Read until it was printed; the test's own time limit ends this if it never is."""
    text = ""
    deadline = time.monotonic() + 30
    while not re.search(pattern, text):
        assert time.monotonic() < deadline, text
        text += os.read(terminal, 4096).decode(errors="replace")


def test_the_manual_page_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "man")
    for command in ("backup", "tape status", "tape find", "completion", "man"):
        assert f"\n.SS tapestream {command}\n" in page
    assert r"\fB\-\-overwrite\fR" in page
    assert page.count(r"\fB\-\-json\fR") == 1
    assert "\n.SH EXIT STATUS\n.TP\n0\n" in page


@pytest.mark.parametrize(
    "reader",
    [["mandoc", "-T", "lint", "-W", "warning"], ["man", "--warnings", "-E", "UTF-8", "-l"]],
)
def test_the_manual_page_can_be_read(
    reader: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which(reader[0]) is None:
        pytest.skip(f"needs {reader[0]}")
    page = tmp_path / "tapestream.1"
    page.write_text(printed(capsys, "man"))
    done = subprocess.run([*reader, page], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if reader[0] == "man":
        assert "TAPESTREAM(1)" in done.stdout
    else:
        assert done.stdout == ""


def test_completion_without_its_library() -> None:
    code = (
        "import sys; sys.modules['shtab'] = None; from tapestream.cli.main import main;"
        "sys.exit(main(['completion', 'bash']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 1
    assert "needs the library shtab" in done.stderr
