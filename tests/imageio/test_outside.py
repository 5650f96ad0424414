"""What a server names and says: unix sockets of others, and text that is not only text."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestream import ImageioHTTPSource, ImageioUploadSink, copy
from tapestream.errors import ServerError, TapestreamError, UsageError
from tapestream.imageio.http import Exchange
from tapestream.imageio.sockets import connect_unix, trusted_users
from tapestream.testing import ImageioDaemon, MemorySink, MemorySource
from tests.disks import noise
from tests.hostile import HostileServer, Status
from tests.imageio.support import KIB, always, download

IMAGE = noise(4 * KIB)
OPEN: list[Callable[..., Any]] = [ImageioHTTPSource, ImageioUploadSink]

# Listens on an abstract address as another user, and says what it is sent.
LISTENER = """
import os, socket, sys
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind("\\0" + sys.argv[2])
    listener.listen()
    print("listening", flush=True)
    with listener.accept()[0] as sock:
        print(sock.recv(4096), flush=True)
"""
NOBODY = 65534


class Listener:
    """A process of this user that listens on an abstract address."""

    def __init__(self, uid: int) -> None:
        self.address = f"\0tapestream-test-{os.getpid()}-{uid}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", LISTENER, str(uid), self.address[1:]],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n"

    def end(self) -> str:
        """End it; what it was sent."""
        try:
            return self._process.communicate(timeout=10)[0]
        finally:
            self._process.kill()


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as somebody else")


@as_root
@pytest.mark.parametrize("open_", OPEN)
def test_nobody_else_gets_the_ticket(
    open_: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    other = Listener(NOBODY)
    with HostileServer(IMAGE, unix_socket=other.address) as server:
        with open_(server.url, secure=False) as transfer:
            assert not transfer.over_unix_socket
        assert server.ticket not in caplog.text
    assert other.end() == "b''\n"
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"uid {NOBODY}" in warning
    assert "unix_socket_owner" in warning


@as_root
@pytest.mark.parametrize("open_", OPEN)
def test_unless_the_caller_allows_it(open_: Callable[..., Any]) -> None:
    other = Listener(NOBODY)
    with (
        HostileServer(IMAGE, unix_socket=other.address) as server,
        open_(server.url, secure=False, unix_socket_owner=NOBODY) as transfer,
    ):
        assert not transfer.over_unix_socket  # it does not answer
    assert "OPTIONS" in other.end()


def test_the_kernel_says_who_listens(daemon: ImageioDaemon) -> None:
    """Asked before anything is sent: here, nobody is trusted but a user that is not there."""
    path = daemon.local_socket
    connection = Exchange(lambda: connect_unix(path, 10, frozenset({2**31})), "localhost")
    with pytest.raises(PermissionError, match=f"uid {os.geteuid()}"):
        connection.connect()
    assert connection.sock is None
    connection = Exchange(lambda: connect_unix(path, 10, trusted_users(None)), "localhost")
    connection.connect()
    connection.close()


def test_users_that_are_trusted() -> None:
    assert trusted_users(None) >= {0, os.geteuid()}
    assert trusted_users("root") == trusted_users(0) == trusted_users(None)
    assert trusted_users(4242) == trusted_users(None) | {4242}


@pytest.mark.parametrize("owner", ["no such user", "", "a\0b", True, 1.5, -1, 2**32, b"root"])
@pytest.mark.parametrize("open_", OPEN)
def test_owners_that_are_none(open_: Callable[..., Any], owner: Any) -> None:
    with HostileServer(IMAGE) as server:
        with pytest.raises(UsageError, match="unix_socket_owner"):
            open_(server.url, secure=False, unix_socket_owner=owner)
        assert not server.requests


# --- Text that is more than text ---

# Clears a terminal, writes red (by two bytes, and by one of C1), and turns the direction around.
TRICKS = "\x1b[2J\x9b31m\u202e\u2066\u200b\ufeff\u2028\x00\x07gone\r\n"


def test_the_text_of_an_error_is_only_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tapestream")
    with (
        HostileServer(IMAGE, on_get=always(Status(500, TRICKS))) as server,
        pytest.raises(ServerError, match="gone") as caught,
    ):
        download(server, MemorySink(), retries=2)
    assert str(caught.value).isprintable()
    assert caplog.records
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize("name", [f"/tmp/{TRICKS}", f"\0{TRICKS}", "/{ticket}", "x" * 60_000])
def test_a_unix_socket_with_a_name_that_is_more_than_that(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = "a-ticket-that-is-secret"
    with (
        HostileServer(IMAGE, ticket=ticket, unix_socket=name.replace("{ticket}", ticket)) as server,
        ImageioUploadSink(server.url, secure=False) as sink,
    ):
        copy(MemorySource(IMAGE), sink)
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.isprintable()
    assert "secret" not in warning
    assert len(warning) < 1000


def test_a_file_name_in_an_error_is_only_text(tmp_path: Path) -> None:
    error = TapestreamError(f"{tmp_path}/{TRICKS}: no", hint=TRICKS)
    assert str(error).isprintable()
    assert r"\x1b[2J\x9b31m\u202e" in str(error)
    assert str(TapestreamError("Größe: 日本")) == "Größe: 日本"
