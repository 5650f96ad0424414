"""Logging in: by a file or the environment, and what is wrong if it fails."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tapestream.errors import EngineError, EngineLoginError, LocalIOError, UsageError
from tapestream.ovirt import EngineTimeouts, connect, list_vms, read_settings
from tapestream.testing import EngineDouble


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_it_logs_in_by_the_file_and_out_again(engine: EngineDouble) -> None:
    with connect() as connection:
        assert connection.test()
        assert engine.leftovers().tokens == 1
        assert engine.password not in repr(connection.settings)
    assert engine.leftovers().nothing_open


def test_it_logs_in_by_the_environment(
    engine: EngineDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVIRT_URL", f"{engine.url}/ovirt-engine/api")
    monkeypatch.setenv("OVIRT_USERNAME", engine.username)
    monkeypatch.setenv("OVIRT_PASSWORD", engine.password)
    monkeypatch.setenv("OVIRT_CAFILE", str(engine.cafile))
    monkeypatch.setenv("OVIRT_HOST_CAFILE", str(engine.daemon.cafile))
    with connect() as connection:
        assert connection.test()
        assert connection.settings.cafile == str(engine.cafile)
        assert connection.settings.host_cafile == str(engine.daemon.cafile)
    # What is asked for by name is taken from the file.
    assert read_settings(section="engine").cafile != str(engine.cafile)


def test_a_password_of_the_environment_completes_the_file(
    engine: EngineDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"[a]\nengine_url={engine.url}\nusername={engine.username}\nsecure=false\n"
    path = write(tmp_path / "config", text)
    with pytest.raises(UsageError, match=r"config has no password"):
        connect(path)
    monkeypatch.setenv("OVIRT_PASSWORD", engine.password)
    with connect(path) as connection:
        assert connection.test()


@pytest.mark.parametrize(
    ("text", "section", "message"),
    [
        ("[a]\nengine_url=x\n[b]\n", None, r"more than one section. Choose one of a, b\."),
        ("[a]\nengine_url=x\n", "c", r"no section \[c\]. Choose one of a\."),
        ("", None, "has no section"),
        ("[a]\nengine_url=x\n", None, "has no username, password"),
        ("[a]\nsecure=maybe\n", None, "secure in .* must be true or false, not 'maybe'"),
        ("[a]\nengine_url=x\nusername=y\npassword=z\ncafile=/none\n", None, "no file: /none"),
        ("secret password\n", None, "config is no configuration file: MissingSectionHeaderError"),
    ],
)
def test_what_is_wrong_with_a_file(
    tmp_path: Path, text: str, section: str | None, message: str
) -> None:
    path = write(tmp_path / "config", text)
    with pytest.raises(UsageError, match=message) as caught:
        read_settings(path, section)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LocalIOError, match=r"cannot read the configuration .*none"):
        read_settings(tmp_path / "none")


def test_a_file_that_others_may_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "config", "[a]\nengine_url=x\nusername=y\npassword=z\n")
    read_settings(path)
    assert not caplog.messages
    path.chmod(0o640)
    read_settings(path)
    assert "has a password, and other users may read it" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_credential_of_systemd_brings_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "config", "[a]\nengine_url=x\nusername=y\npassword=z\n")
    os.chown(path, 1, 1)
    path.chmod(0o440)  # what an ACL for one user looks like
    read_settings(path)
    assert not caplog.messages
    path.chmod(0o444)
    read_settings(path)
    assert "other users may read it" in caplog.text


def test_a_wrong_password(engine: EngineDouble, tmp_path: Path) -> None:
    path = write(
        tmp_path / "config",
        f"[a]\nengine_url={engine.url}\nusername=me\npassword=wrong\ncafile={engine.cafile}\n",
    )
    with pytest.raises(EngineLoginError, match=r"cannot log in to https.*access_denied") as caught:
        connect(path)
    assert "wrong" not in str(caught.value)


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    path = write(
        tmp_path / "config", "[a]\nengine_url=https://127.0.0.1:1\nusername=me\npassword=x\n"
    )
    with pytest.raises(EngineError, match=r"cannot log in to https://127.0.0.1:1: ") as caught:
        connect(path)
    assert caught.value.is_transient
    assert "Is the engine up?" in caught.value.hint
    assert "(7," not in caught.value.message  # pycurl's number of the error


def test_an_engine_that_hangs(tmp_path: Path) -> None:
    """A listener that accepts connections, and never answers, stands in for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        path = write(tmp_path / "config", f"[a]\nengine_url={url}\nusername=me\npassword=x\n")
        with pytest.raises(EngineError, match=f"{url} has not answered for 1 seconds"):
            connect(path, timeouts=EngineTimeouts(request=1))


def test_the_other_ca(engine: EngineDouble, tmp_path: Path) -> None:
    path = write(
        tmp_path / "config",
        f"[a]\nengine_url={engine.url}\nusername={engine.username}\npassword={engine.password}\n"
        f"cafile={engine.daemon.cafile}\n",
    )
    with pytest.raises(EngineError, match="certificate"):
        connect(path)


def test_a_logout_that_fails_hides_nothing(
    engine: EngineDouble, caplog: pytest.LogCaptureFixture
) -> None:
    with connect():
        engine.stop()
    assert "The logout from https" in caplog.text


def test_a_request_that_takes_too_long(engine: EngineDouble) -> None:
    """The limit is that of the timeouts: one second here, and two minutes by default."""
    with connect(timeouts=EngineTimeouts(request=1)) as connection:
        engine.when("GET", "/vms", lambda: time.sleep(2.5))
        with pytest.raises(EngineError, match=r"cannot list the VMs: .*timed out"):
            list_vms(connection)


def test_a_request_that_takes_long_is_shown(
    engine: EngineDouble, caplog: pytest.LogCaptureFixture
) -> None:
    with connect() as connection:
        engine.when("GET", "/vms", lambda: time.sleep(5.5))
        assert list_vms(connection) == []
    asked = f"{engine.url}, asked to GET /vms, does not answer: waiting for up to 115 more seconds"
    assert caplog.messages == [asked]


def test_a_logout_that_fails_closes_the_connection(engine: EngineDouble) -> None:
    connection = connect()
    engine.stop()
    connection.close()
    with pytest.raises(Exception, match=r".+") as caught:
        connection.system_service().get()
    assert "closed" in str(caught.value) or "NoneType" in str(caught.value), str(caught.value)


def test_a_reply_that_is_not_valid_xml(engine: EngineDouble) -> None:
    """The double takes no such name, but sends what a test puts there."""
    engine.add_vm("mail").name = "\x1b[31m"
    with connect() as connection, pytest.raises(EngineError, match="is not valid XML") as caught:
        list_vms(connection)
    assert "cannot list the VMs" in str(caught.value)
