"""No secret is in what a program says or writes: a part of what `leaks` looks for."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestream.errors import EngineError, TapestreamError
from tapestream.ovirt import back_up_vm, connect, download_transfer, restore_vm, vm_backup
from tapestream.testing import EngineDouble, ImageioDaemon

from .leaks import Heard, forms, leaks_of, leaks_of_a_process, listening
from .steps import FAST, MIB


@pytest.fixture(autouse=True)
def qemu() -> None:
    if shutil.which("qemu-nbd") is None:
        pytest.skip("qemu-nbd is not installed")


@pytest.mark.parametrize(
    ("command", "failure", "status"),
    [
        ("full", "nothing", 0),
        ("incremental", "nothing", 0),
        ("restore", "nothing", 0),
        ("list", "nothing", 0),
        ("full", "the tickets are gone", None),
        ("incremental", "the data is not trusted", None),
        ("restore", "POST /imagetransfers/*/finalize is refused", None),
        ("list", "the password is wrong", None),
    ],
)
def test_a_command(daemon: ImageioDaemon, command: str, failure: str, status: int | None) -> None:
    ended, found = leaks_of(command, failure, daemon)
    assert found == []
    assert ended == status if status is not None else ended > 0


def test_a_process(daemon: ImageioDaemon) -> None:
    assert leaks_of_a_process(daemon) == []


def test_what_the_library_returns_and_raises(engine: EngineDouble, tmp_path: Path) -> None:
    """Reports, objects of the steps, errors with their causes, and the files."""
    folder = tmp_path / "backups"
    folder.mkdir()
    engine.add_vm("mail", [MIB])
    with listening() as heard, connect() as connection:
        heard.add("the settings", f"{connection.settings!r}".encode())
        heard.add_value(back_up_vm(connection, "mail", folder, timeouts=FAST))
        heard.add_value(restore_vm(connection, folder, name="new", timeouts=FAST))
        with vm_backup(connection, "mail", timeouts=FAST) as backup:
            heard.add_value(backup)
            with download_transfer(connection, backup, "mail_Disk1", timeouts=FAST) as transfer:
                heard.add("a Transfer", f"{transfer!r} {transfer}".encode())
                kept = [path.read_bytes() for path in (tmp_path / "home").rglob("*.run")]
                heard.add("the state", b"".join(kept))
                assert kept
        with pytest.raises(TapestreamError) as caught:
            back_up_vm(
                connection,
                "mail",
                folder,
                timeouts=FAST,
                progress=lambda _: engine.pass_time(4000),  # the ticket is gone
            )
        heard.add_error(caught.value)
        engine.refuse("POST", "/imagetransfers", 400, "[No.]")
        with pytest.raises(EngineError) as refusal:
            back_up_vm(connection, "mail", folder, incremental=True, timeouts=FAST)
        heard.add_error(refusal.value)
    assert heard.leaks(engine, folder) == []


@pytest.mark.parametrize(
    "say",
    [
        lambda text: logging.getLogger("tapestream.x").debug(text),
        lambda text: logging.getLogger("other").debug("%s", {"url": text}),
    ],
)
def test_that_it_would_be_heard(engine: EngineDouble, say: Callable[[str], None]) -> None:
    with listening() as heard:
        say(f"https://host/images/{engine.password}")
    assert len(heard.leaks(engine)) == 1


def test_that_an_error_would_be_heard(engine: EngineDouble, tmp_path: Path) -> None:
    """Also in a cause, in a note, in an attribute, and in a file; written in any form."""
    for form in forms(engine.password):
        error = ValueError("harmless")
        error.__cause__ = KeyError(form.decode())
        for each in (error, _with(note=form.decode()), _with(other=form.decode())):
            heard = Heard()
            heard.add_error(each)
            assert heard.leaks(engine)
        (tmp_path / "file").write_bytes(b"x" + form)
        assert Heard().leaks(engine, tmp_path)


def _with(note: str = "", other: str = "") -> Exception:
    error = ValueError("harmless")
    if note:
        error.__dict__["__notes__"] = [note]
    error.__dict__["url"] = other
    return error
