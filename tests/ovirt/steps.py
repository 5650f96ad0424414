"""What the tests of the steps share: a VM with a backup, and waiting that takes no time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tapestream.ovirt import EngineTimeouts
from tapestream.testing import EngineDouble

types = pytest.importorskip("ovirtsdk4.types", reason="oVirt's engine SDK is not installed")
MIB = 1024**2
# The double moves an object at each look, so nothing has to be waited for.
FAST = EngineTimeouts(poll=0.001, longest_poll=0.001)
# For what never gets ready.
SHORT = EngineTimeouts(
    backup_start=0.05,
    backup_end=0.05,
    transfer_start=0.05,
    transfer_end=0.05,
    checkpoint_end=0.05,
    disk=0.05,
    refused=0.05,
    poll=0.001,
    longest_poll=0.001,
)


def calls(engine: EngineDouble, ending: str) -> int:
    """How many requests the engine got whose method and path end like this; `*` is anything."""
    return sum(fnmatchcase(f"{call.method} {call.path}", f"*{ending}") for call in engine.calls)


def press_ctrl_c() -> None:
    """Send SIGINT to the main thread, as a Ctrl-C does, and give it the time to notice."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(0.05)


@contextmanager
def other_tools_backup(engine: EngineDouble, connection: Any, vm: Any) -> Iterator[Any]:
    """A backup that is ready, made with the SDK alone."""
    service = connection.system_service().vms_service().vm_service(vm.id).backups_service()
    disks = [types.Disk(id=disk.id) for disk in vm.disks]
    one = service.backup_service(service.add(types.Backup(disks=disks)).id)
    for _ in range(3):
        backup = one.get()
    yield backup
    one.finalize()
