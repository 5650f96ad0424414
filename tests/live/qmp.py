"""A client of QMP, the protocol of qemu's monitor: as much of it as the tests here need."""

from __future__ import annotations

import json
import socket
from typing import Any

# qemu answers within milliseconds; a write waits until the copy before it is done.
TIMEOUT = 60.0


class QMPError(Exception):
    """qemu refused a command.

    Attributes:
        kind: The class of the error, mostly "GenericError".
    """

    def __init__(self, command: str, error: dict[str, str]) -> None:
        super().__init__(f"{command}: {error['desc']}")
        self.kind = error["class"]


class Monitor:
    """One connection to the monitor of a running qemu. Use it from one thread at a time.

    Args:
        sock: A connected socket; it is closed with the monitor.

    Raises:
        EOFError: qemu ended. Every method may raise it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        self._sock = sock
        self._lines = sock.makefile("rb")
        self._events: list[dict[str, Any]] = []
        self._receive()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command, and return what qemu answers.

        An argument's name has underscores in place of hyphens.

        Raises:
            QMPError: qemu refused it.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._sock.sendall(json.dumps({"execute": command, "arguments": named}).encode())
        while True:
            message = self._receive()
            if "error" in message:
                raise QMPError(command, message["error"])
            if "return" in message:
                return message["return"]
            self._events.append(message)

    def wait_for(self, event: str, **data: Any) -> None:
        """Wait for an event with this data; those before it are forgotten."""
        while True:
            message = self._events.pop(0) if self._events else self._receive()
            if message.get("event") == event and data.items() <= message["data"].items():
                return

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._sock.close()

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise EOFError("qemu closed its monitor")
        message: dict[str, Any] = json.loads(line)
        return message
