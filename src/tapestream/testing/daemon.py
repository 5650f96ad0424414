"""A real ovirt-imageio daemon, with its own certificate authority, for tests and demos."""

from __future__ import annotations

import configparser
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._process import OfThisProcess
from .._shown import short_repr
from .._typing import Self
from ..arguments import path as checked_path
from .ending import stop_at_exit

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
# Removing a ticket waits in the daemon until its transfers have stopped, for up to 60 seconds.
_CONTROL_TIMEOUT = 70.0
_INSTALL_HINT = 'install it with: pip install "tapestream[testing]"'


class UnixHTTPConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket.

    Args:
        path: The socket's path; an abstract address begins with a NUL character.
        timeout: Seconds to wait for the connection, and for each answer.
    """

    def __init__(self, path: str, *, timeout: float = _CONTROL_TIMEOUT) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


@dataclass(frozen=True)
class _Running:
    """What is known only while the daemon runs."""

    process: subprocess.Popen[bytes]
    port: int
    local_socket: str
    control_socket: str


class ImageioDaemon(OfThisProcess):
    """A real ovirt-imageio daemon that listens on 127.0.0.1 and on a unix socket.

    As a context manager it starts on entry and stops on exit. A program that calls `start` instead,
    and ends without `stop`, also by an exception, leaves none behind:

        with ImageioDaemon(directory) as daemon, serve_image(disk) as nbd_url:
            url = daemon.add_ticket(nbd_url, size=virtual_size(disk))
            ...  # a client: url, and daemon.cafile to verify the server

    The daemon logs its tickets. They are random and end with the daemon, and only this machine can
    reach it.

    Args:
        directory: Directory for its configuration, certificates and log; it is created if it does
            not exist. Give each daemon a directory of its own.
        local_socket: Address of the unix socket that serves images: a path of at most 107 bytes,
            or an abstract address, beginning with a NUL character. By default a fresh path.

    Attributes:
        cafile: Certificate of the authority that signed the server's certificate.
        log_file: The daemon's log.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, local_socket: str | None = None
    ) -> None:
        directory = Path(checked_path("directory", directory))
        self.cafile = directory / "ca.pem"
        self.log_file = directory / "daemon.log"
        self._directory = directory
        self._requested_local_socket = local_socket
        self._running: _Running | None = None
        self._cleanup = contextlib.ExitStack()

    def __repr__(self) -> str:
        state = f"on port {self.port}" if self._running else "not running"
        return short_repr(self, f"{state}, {self._directory}")

    @property
    def port(self) -> int:
        """The TCP port that serves images over TLS; RuntimeError unless the daemon runs."""
        return self._state().port

    @property
    def local_socket(self) -> str:
        """The unix socket that serves images; RuntimeError unless the daemon runs."""
        return self._state().local_socket

    @property
    def pid(self) -> int:
        """Id of the daemon's process, to send it signals; RuntimeError unless the daemon runs."""
        return self._state().process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the daemon, and return when it answers requests.

        A daemon that was stopped can be started again: with the same certificates, a new port, an
        empty log and no tickets.

        Raises:
            ImportError: The optional dependencies are not installed.
            RuntimeError: The daemon runs already, died, or did not answer within 30 seconds; the
                message ends with the last lines of its log. Nothing is left running.
        """
        if self._running is not None:
            raise RuntimeError("the imageio daemon is running already")
        program = _find_program()
        self._directory.mkdir(parents=True, exist_ok=True)
        key_file, cert_file = self._write_certificates()
        with contextlib.ExitStack() as cleanup:
            # A unix socket's path is limited to 107 bytes, and the directory may be deep.
            run_dir = Path(tempfile.mkdtemp(prefix="ts-"))
            cleanup.callback(shutil.rmtree, run_dir)
            local_socket = self._requested_local_socket
            if local_socket is None:
                local_socket = str(run_dir / "local")
            control_socket = str(run_dir / "control")
            self._write_config(
                {
                    "daemon": {
                        "poll_interval": "0.1",
                        "drop_privileges": "false",
                        "systemd_enable": "false",
                        "run_dir": str(run_dir),
                        "max_connections": "8",
                    },
                    "tls": {
                        "key_file": str(key_file),
                        "cert_file": str(cert_file),
                        "ca_file": str(self.cafile),
                    },
                    "remote": {"host": "127.0.0.1", "port": "0"},
                    "local": {"socket": local_socket},
                    "control": {"transport": "unix", "socket": control_socket},
                    "handlers": {"keys": "stderr"},
                    "logger_root": {"level": "INFO", "handlers": "stderr"},
                }
            )
            with self.log_file.open("wb") as log:
                process = subprocess.Popen(
                    [program, "-c", str(self._directory)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C must not end the daemon: a client that cleans up still needs it.
                    start_new_session=True,
                )
            cleanup.callback(_terminate, process)
            self._wait_until_ready(process, control_socket)
            port = self._port_from_log()
            self._running = _Running(process, port, local_socket, control_socket)
            self._cleanup = cleanup.pop_all()
            stop_at_exit(self.stop, self._cleanup)

    def stop(self) -> None:
        """Stop the daemon and wait until it is gone; does nothing when it does not run.

        The log and the certificates stay in the directory.
        """
        self._running = None
        self._cleanup.close()

    def kill(self) -> None:
        """End the daemon by SIGKILL, as in a crash of its host. Everything else is as in `stop`."""
        if self._running is not None:
            self._running.process.kill()
        self.stop()

    def read_log(self) -> str:
        """Return what the daemon has logged since its start."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def add_ticket(
        self,
        url: str,
        size: int,
        *,
        ops: Sequence[str] = ("read",),
        dirty: bool = False,
        sparse: bool = True,
        timeout: int = 300,
        inactivity_timeout: int = 60,
        ticket_id: str | None = None,
    ) -> str:
        """Allow a transfer, as the engine does at the start of a backup.

        Args:
            url: The image for the daemon: `nbd:unix:PATH` or `file:///PATH` (raw).
            size: The image's size in bytes.
            ops: What the client may do: "read", "write" or both; "write" includes reading.
            dirty: Offer dirty extents. The daemon reports them when the NBD server of `url`
                exports a bitmap.
            sparse: Deallocate what the client zeroes.
            timeout: Seconds until the ticket expires, unless it is used.
            inactivity_timeout: Seconds until the daemon closes an idle connection of this ticket.
            ticket_id: Id of a ticket that the daemon lost, to add it again; by default a new id.

        Returns:
            The transfer URL, `https://127.0.0.1:PORT/images/UUID`.

        Raises:
            RuntimeError: The daemon does not run, or refused the ticket.
        """
        ticket_id = ticket_id or str(uuid.uuid4())
        ticket = {
            "uuid": ticket_id,
            "url": url,
            "size": size,
            "ops": list(ops),
            "dirty": dirty,
            "sparse": sparse,
            "timeout": timeout,
            "inactivity_timeout": inactivity_timeout,
        }
        self._control("PUT", ticket_id, json.dumps(ticket).encode())
        return f"https://127.0.0.1:{self.port}/images/{ticket_id}"

    def remove_ticket(self, transfer_url: str) -> None:
        """End a transfer: its requests are cancelled, new ones get 403.

        Removing a ticket twice is fine.

        Raises:
            RuntimeError: The daemon does not run, or the transfer could not be stopped within the
                daemon's 60 seconds.
        """
        self._control("DELETE", _ticket_id(transfer_url))

    def ticket_info(self, transfer_url: str) -> dict[str, Any]:
        """Return what the daemon knows about a ticket: "transferred", "connections", "expires"...

        Raises:
            LookupError: There is no such ticket.
            RuntimeError: The daemon does not run, or answered with another error.
        """
        info: dict[str, Any] = json.loads(self._control("GET", _ticket_id(transfer_url)))
        return info

    def _state(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the imageio daemon is not running: call start() first")
        return self._running

    def _control(self, method: str, ticket_id: str, body: bytes | None = None) -> bytes:
        control_socket = self._state().control_socket
        status, answer = _ticket_request(control_socket, method, ticket_id, body)
        if method == "DELETE" and status == http.client.INTERNAL_SERVER_ERROR:
            # The daemon cancels the transfer, and fails if a connection is closing just then: its
            # buffer is still in use. Another try removes the ticket.
            status, answer = _ticket_request(control_socket, method, ticket_id, body)
        if status == http.client.NOT_FOUND:
            raise LookupError("the imageio daemon has no such ticket")
        if status >= 400:
            message = answer.decode(errors="replace").strip()
            raise RuntimeError(f"the imageio daemon answered {method} with {status}: {message}")
        return answer

    def _write_certificates(self) -> tuple[Path, Path]:
        key_file = self._directory / "server-key.pem"
        cert_file = self._directory / "server.pem"
        if cert_file.exists():
            return key_file, cert_file
        authority = certificate_authority()
        authority.cert_pem.write_to_path(self.cafile)
        server = authority.issue_cert("127.0.0.1", "localhost")
        key_file.touch(mode=0o600)
        server.private_key_pem.write_to_path(key_file)
        cert_file.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
        return key_file, cert_file

    def _write_config(self, sections: dict[str, dict[str, str]]) -> None:
        parser = configparser.RawConfigParser()
        parser.read_dict(sections)
        config_file = self._directory / "conf.d" / "daemon.conf"
        config_file.parent.mkdir(exist_ok=True)
        with config_file.open("w", encoding="utf-8") as f:
            parser.write(f)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], control_socket: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            if process.poll() is not None:
                raise RuntimeError(self._failure(f"exited with code {process.returncode}"))
            # Removing a ticket that does not exist succeeds, so this leaves no error in the log.
            with contextlib.suppress(OSError, http.client.HTTPException):
                _ticket_request(control_socket, "DELETE", "readiness-probe", timeout=5)
                return
            if time.monotonic() > deadline:
                raise RuntimeError(self._failure(f"gave no answer for {_START_TIMEOUT:.0f} s"))
            time.sleep(0.02)

    def _port_from_log(self) -> int:
        # The daemon itself picks a free port and logs it, so nobody can take the port in between.
        match = re.search(r"\[services\] remote\.service listening on .*, (\d+)\)", self.read_log())
        if match is None:
            raise RuntimeError(self._failure("did not log its port"))
        return int(match[1])

    def _failure(self, what: str) -> str:
        tail = "\n".join(self.read_log().splitlines()[-20:])
        return f"ovirt-imageio {what}; the end of {self.log_file}:\n{tail}"


def certificate_authority() -> Any:
    """Return a new certificate authority: a `trustme.CA`.

    Raises:
        ImportError: The optional dependencies are not installed.
    """
    try:
        import trustme  # noqa: PLC0415 - optional dependency
    except ImportError as e:
        raise ImportError(f"trustme not found: {_INSTALL_HINT}") from e
    return trustme.CA()


def _find_program() -> str:
    beside_python = Path(sys.executable).parent / "ovirt-imageio"
    if beside_python.exists():
        return str(beside_python)
    program = shutil.which("ovirt-imageio")
    if program is None:
        raise ImportError(f"ovirt-imageio not found: {_INSTALL_HINT}")
    return program


def _ticket_id(transfer_url: str) -> str:
    return transfer_url.rpartition("/")[2]


def _ticket_request(
    control_socket: str,
    method: str,
    ticket_id: str,
    body: bytes | None = None,
    *,
    timeout: float = _CONTROL_TIMEOUT,
) -> tuple[int, bytes]:
    connection = UnixHTTPConnection(control_socket, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, f"/tickets/{ticket_id}", body=body)
        response = connection.getresponse()
        return response.status, response.read()


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
