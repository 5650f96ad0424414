"""An option without an effect is refused: of each command, and with each kind of place."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestream.cli.main import make_parser
from tapestream.testing import Cartridge, FakeDrive

from .conftest import Week
from .program import call

# Options that have an effect whatever else is passed.
ALWAYS = {
    "": {"--version"},
    "vm full": {"--disk", "--checksum", "--max-rate", "--config", "--section", "--state"},
    "vm incremental": {
        *("--since", "--disk", "--checksum", "--max-rate", "--config", "--section", "--state"),
    },
    "vm restore": {
        *("--vm", "--at", "--name", "--disk", "--cluster", "--storage-domain", "--ovf"),
        *("--verify-first", "--max-rate", "--config", "--section", "--state"),
    },
    "vm list": {"--config", "--section", "--state"},
    "backup": {
        *("--url-file", "--url-fd", "--url-env", "--proxy-url-file", "--insecure"),
        *("--vm", "--vm-id", "--disk", "--disk-id", "--backup-id", "--checkpoint", "--attach"),
        *("--incremental", "--checksum", "--max-rate"),
    },
    "restore": {"--url-file", "--url-env", "--verify-first", "--max-rate"},
    "salvage": {"--url-file", "--url-env", "--max-rate"},
    "find": {"--vm", "--disk", "--all"},
    "extents": {"--url-file", "--url-env", "--strip"},
    "verify": {"--max-rate"},
    "compare": {"--url-file", "--url-env", "--max-rate"},
    "merge": {"--output", "--checksum", "--max-rate"},
    "tape status": {"--label"},
    "tape label": {"--overwrite"},
    "tape scan": {"--catalog"},
    "tape catalog": {"--vm", "--disk"},
    "tape find": {"--vm", "--disk", "--at"},
}
URL = "https://host/images/7a3f"
# Arguments with which an option has none: where it stands, after the command and the option.
REFUSED = [
    # Tapes, where none is a target, or a source.
    ("vm full", "--label x", "mail {folder}"),
    ("vm full", "--label x", "mail -"),
    ("vm full", "--catalog x", "mail {folder}"),
    ("vm full", "--catalog x", "mail {fifo}"),
    ("vm incremental", "--label x", "mail {folder}"),
    ("vm incremental", "--catalog x", "mail {folder}"),
    ("vm restore", "--catalog x", "{folder}"),
    ("vm restore", "--catalog x", "{full}"),
    ("backup", "--label x", f"{URL} new.tar"),
    ("backup", "--label x", f"{URL} {{folder}}"),
    ("backup", "--catalog x", f"{URL} new.tar"),
    ("backup", "--catalog x", f"{URL} -"),
    ("restore", "--catalog x", "{folder} new.raw"),
    ("restore", "--catalog x", "{full} new.raw"),
    ("restore", "--file 1", "{folder} new.raw"),
    ("restore", "--file 1", "{full} new.raw"),
    ("salvage", "--file 1", "{full} new.raw"),
    ("find", "--catalog x", "{folder}"),
    ("extents", "--catalog x", "{folder}"),
    ("extents", "--catalog x", "{full}"),
    ("extents", "--file 1", "{full}"),
    ("verify", "--file 1", "{folder}"),
    ("verify", "--file 0", "{full}"),
    ("verify", "--file 1", "{full}"),
    ("compare", "--catalog x", "{full} {folder}"),
    ("compare", "--file 1", "{full} {folder}"),
    ("merge", "--label x", "{folder} -o new.tar"),
    ("merge", "--label x", "/dev/nst0 -o new.tar"),
    ("merge", "--catalog x", "{folder} -o new.tar"),
    ("merge", "--file 1", "{folder} -o new.tar"),
    # A choice, where there is one backup only.
    *(
        (command, option, places)
        for option in ("--vm mail", "--disk d", "--at 2026-11-18")
        for command, places in (
            ("restore", "{full} new.raw"),
            ("restore", "- new.raw"),
            ("restore", "/dev/nst0 new.raw --file 1"),
            ("extents", "{full}"),
            ("extents", URL),
            ("compare", "{full} {full}"),
            ("merge", "{full} -o new.tar"),
        )
    ),
    ("find", "--at 2026-11-18", "{folder} --all"),
    ("list", "--superseded", "{full}"),
    # A server, where there is no transfer, or none whose certificate is checked.
    *(
        (command, option, places)
        for option in ("--cafile x", "--insecure", "--proxy-url-file x")
        for command, places in (
            ("restore", "{folder} new.raw"),
            ("salvage", "{full} new.raw"),
            ("extents", "{folder}"),
            ("compare", "{full} {full}"),
        )
    ),
    ("backup", "--cafile x", f"{URL} new.tar --insecure"),
    ("restore", "--cafile x", f"{{folder}} {URL} --insecure"),
    ("restore", "--check", "{folder} new.raw"),
    # A backup that is not incremental.
    ("backup", "--parent x", f"{URL} new.tar"),
    ("backup", "--or-full", f"{URL} new.tar"),
    # Targets in which nothing can be lost.
    *(
        ("backup", "--overwrite", f"{URL} {target}")
        for target in ("{folder}", "{fifo}", "-", "/dev/null", "/dev/nst0")
    ),
    ("restore", "--overwrite", f"{{folder}} {URL}"),
    ("salvage", "--overwrite", f"{{full}} {URL}"),
    ("merge", "--overwrite", "{folder} -o -"),
    ("merge", "--overwrite", "{folder} -o /dev/nst0"),
    # Standard input, which would be read twice.
    ("restore", "--url-fd 0", "-"),
    ("salvage", "--url-fd 0", "-"),
    ("extents", "--url-fd 0", "-"),
    ("compare", "--url-fd 0", "-"),
]
# What such an error names instead of the option.
NAMES = {"--url-fd": "standard input", "--superseded": "neither a folder nor a tape drive"}


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, set[str]]]:
    """Each command, and its options; without those that all commands have."""
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from commands(each)
        elif action.option_strings:
            found.add(action.option_strings[-1])
    yield parser.prog.removeprefix("tapestream").strip(), found


def test_each_option_is_known_to_have_an_effect_or_to_be_refused() -> None:
    common = {"--help", "--json", "--quiet", "--debug"}
    found = {command: options - common for command, options in commands(make_parser())}
    known = {command: set(options) for command, options in ALWAYS.items()}
    for command, option, _ in REFUSED:
        known.setdefault(command, set()).add(option.split()[0])
    assert {c: o for c, o in found.items() if o} == known


@pytest.mark.parametrize(("command", "option", "places"), REFUSED)
def test_an_option_without_an_effect_is_refused(
    shared_week: Week,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    option: str,
    places: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    given = places.format(folder=shared_week.folder, full=shared_week.full, fifo="fifo")
    drives = {"/dev/nst0": FakeDrive(Cartridge())} if "/dev/nst0" in places else {}
    ended = call(*command.split(), *option.split(), *given.split(), drives=drives)
    name = option.split(maxsplit=1)[0]
    expected = NAMES.get(name, f"tapestream: {name} ")
    # To list the other places, too, `list` shows the error and goes on.
    assert ended.status == 64, ended
    assert expected in ended.err.splitlines()[0]
    assert len(ended.err.splitlines()) == 2  # what is wrong, and what to do
    assert os.listdir() == ["fifo"]


def test_each_is_taken_where_it_has_an_effect(
    shared_week: Week, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several places, one is enough."""
    monkeypatch.chdir(tmp_path)
    drive = FakeDrive(Cartridge())
    drives = {"/dev/nst0": drive}
    week, full = shared_week.folder, shared_week.full
    assert call("merge", full, "-o", "/dev/nst0", drives=drives).status == 0
    for arguments in (
        ["compare", full, "/dev/nst0", "--file", "0"],
        ["compare", week, "/dev/nst0", "--file", "0", "--at", "2026-11-15 23:30"],
        ["compare", full, week, "--vm", "mail", "--at", "2026-11-15 23:30"],
        ["extents", "/dev/nst0", "--disk", "mail_Disk1"],
        ["verify", full, "/dev/nst0", "--file", "0"],
    ):
        ended = call(*arguments, drives=drives)
        assert ended.status == 0, ended.err
