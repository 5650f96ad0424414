"""A `Cancel` ends a wait for the engine; what was started is cleaned up as after a Ctrl-C."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tapestream import Cancel, OperationCancelledError
from tapestream.errors import EngineError
from tapestream.ovirt import (
    EngineTimeouts,
    back_up_vm,
    clean_up_killed_runs,
    new_disk,
    restore_vm,
)
from tapestream.testing import EngineDouble, VmDouble

from .steps import FAST, MIB, SHORT, calls

# A wait that does not end when it is cancelled would last this long.
PATIENT = EngineTimeouts(poll=60, longest_poll=60)
SOON = 20.0  # far more than it takes, on a machine that is busy
FOREVER = 10**6


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    """A VM; what ends an operation ends immediately."""
    engine.phases.transfer_cancel = ("finished_cleanup",)
    engine.phases.transfer_finalize = ("finished_success",)
    engine.phases.backup_finalize = ("succeeded",)
    engine.phases.checkpoint_remove = ("removed",)
    return engine.add_vm("mail", [MIB])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "backups"
    path.mkdir()
    return path


def stuck(operation: str, *phases: str) -> Callable[[EngineDouble], None]:
    return lambda engine: setattr(engine.phases, operation, phases)


def refused(method: str, path: str) -> Callable[[EngineDouble], None]:
    return lambda engine: engine.refuse(method, path, 409, "[Not now.]", times=FOREVER)


@contextmanager
def cancelled_after(
    engine: EngineDouble, request: str, then: Callable[[], object] = lambda: None
) -> Iterator[Cancel]:
    """Cancelled by another thread after a request, when the program waits; `then` comes after."""
    cancel, seen = Cancel(), calls(engine, request)
    ended = threading.Event()

    def watch() -> None:
        while calls(engine, request) == seen and not ended.wait(0.01):
            pass
        ended.wait(0.1)
        cancel.cancel("enough")
        then()

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.monotonic()
    with pytest.raises(OperationCancelledError, match="enough") as caught:
        yield cancel
    assert time.monotonic() - begin < SOON
    assert not hasattr(caught.value, "__notes__")
    ended.set()
    watcher.join()


def ready(engine: EngineDouble) -> None:
    """Everything that is started is ready immediately."""
    engine.phases.backup_start = ("ready",)
    engine.phases.transfer_start = ("transferring",)
    engine.phases.disk_add = ("ok",)


BACKUPS: dict[str, tuple[Callable[[EngineDouble], None], str]] = {
    "the backup does not start": (stuck("backup_start", "initializing"), "/backups"),
    "the backup is refused": (refused("POST", "/vms/*/backups"), "POST /*/backups"),
    "the transfer does not start": (
        stuck("transfer_start", "initializing"),
        "POST /imagetransfers",
    ),
    "the transfers cannot be seen": (refused("GET", "/imagetransfers"), "GET /imagetransfers"),
}


@pytest.mark.parametrize("wait", BACKUPS)
def test_a_backup(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path, tmp_path: Path, wait: str
) -> None:
    ready(engine)
    hold, request = BACKUPS[wait]
    hold(engine)
    with cancelled_after(engine, request) as cancel:
        back_up_vm(connection, "mail", folder, timeouts=PATIENT, cancel=cancel, state=tmp_path)
    left = engine.leftovers()
    assert (left.transfers, left.backups, left.locked_disks, left.checkpoints) == ((), (), (), ())
    assert list(folder.iterdir()) == []
    assert list(tmp_path.glob("*.run")) == []


RESTORES: dict[str, tuple[Callable[[EngineDouble], None], str]] = {
    "the VM is refused": (refused("POST", "/vms"), "POST /vms"),
    "the VM is locked": (stuck("vm_add", "image_locked"), "POST /vms"),
    "the disk is refused": (refused("POST", "/disks"), "POST /disks"),
    "the disk is locked": (stuck("disk_add", "locked"), "POST /disks"),
    "the upload does not start": (
        stuck("transfer_start", "initializing"),
        "POST /imagetransfers",
    ),
    "the disk is not attached": (
        refused("POST", "/vms/*/diskattachments"),
        "POST /*/diskattachments",
    ),
    "the comment is not changed": (refused("PUT", "/vms/*"), "PUT /vms/*"),
}


@pytest.mark.parametrize("wait", RESTORES)
def test_a_restore(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path, tmp_path: Path, wait: str
) -> None:
    ready(engine)
    back_up_vm(connection, "mail", folder, timeouts=FAST)
    hold, request = RESTORES[wait]
    hold(engine)

    def unlock() -> None:
        """What is locked cannot be removed."""
        for disk in engine.disks:
            disk.status = "ok"
        for each in engine.vms:
            each.status = "down"

    then = unlock if wait.endswith("locked") else lambda: None
    with cancelled_after(engine, request, then) as cancel:
        restore_vm(connection, folder, name="new", timeouts=PATIENT, cancel=cancel, state=tmp_path)
    assert [each.name for each in engine.vms] == ["mail"]
    assert engine.disks == vm.disks
    assert list(tmp_path.glob("*.run")) == []


@pytest.mark.parametrize("program", ["backup", "restore"])
def test_the_clean_up_needs_time_itself(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path, program: str
) -> None:
    """What has ended the work does not end the waiting for the end of the transfer."""
    ready(engine)
    back_up_vm(connection, "mail", folder, timeouts=FAST)
    kept = engine.leftovers().checkpoints
    engine.phases.transfer_start = ("initializing",)
    waiting = ["finalizing_cleanup"] * 5
    engine.phases.transfer_cancel = ("cancelled_user", *waiting, "finished_cleanup")
    engine.phases.backup_finalize = ("finalizing", "finalizing", "succeeded")
    engine.phases.checkpoint_remove = ("invalid", "invalid", "removed")
    with cancelled_after(engine, "POST /imagetransfers") as cancel:
        if program == "backup":
            back_up_vm(connection, "mail", folder, timeouts=FAST, cancel=cancel)
        else:
            engine.refuse("DELETE", "/vms/*", 409, times=2)
            engine.refuse("DELETE", "/disks/*", 409, times=2)
            restore_vm(connection, folder, name="new", timeouts=FAST, cancel=cancel)
    left = engine.leftovers()
    assert (left.transfers, left.backups, left.checkpoints) == ((), (), kept)
    assert (engine.vms, engine.disks) == ([vm], vm.disks)


def test_a_disk_is_removed_although_it_takes_time(engine: EngineDouble, connection: Any) -> None:
    engine.phases.disk_add = ("locked",)

    def unlock() -> None:
        """Not before the program has noticed that it was cancelled: else it may find a disk."""
        end = time.monotonic() + SOON
        while not calls(engine, "DELETE /disks/*") and time.monotonic() < end:
            time.sleep(0.001)
        engine.disks[0].status = "ok"

    engine.refuse("DELETE", "/disks/*", 409, times=2)
    with (
        cancelled_after(engine, "POST /disks", unlock) as cancel,
        new_disk(connection, "new", MIB, "data", timeouts=FAST, cancel=cancel),
    ):
        pytest.fail("it does not get ready")
    assert engine.disks == []


def test_the_clean_up_of_a_killed_run(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path, tmp_path: Path
) -> None:
    """It is left for the next run."""
    ready(engine)
    engine.refuse("POST", "/vms/*/backups/*/finalize", 405)
    with suppress(EngineError):
        back_up_vm(connection, "mail", folder, timeouts=SHORT, state=tmp_path)
    assert engine.leftovers().backups
    engine.refuse("POST", "/vms/*/backups/*/finalize", 409, "[Not now.]", times=FOREVER)
    with cancelled_after(engine, "POST /*/finalize") as cancel:
        clean_up_killed_runs(connection, timeouts=PATIENT, cancel=cancel, state=tmp_path)
    engine.heal()
    ready(engine)
    report = back_up_vm(connection, "mail", folder, timeouts=FAST, state=tmp_path)
    assert len(report.killed) == 1
    assert engine.leftovers().backups == ()


def test_a_cancel_before_it_begins(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path
) -> None:
    cancel = Cancel()
    cancel.cancel("enough")
    with pytest.raises(OperationCancelledError):
        back_up_vm(connection, "mail", folder, cancel=cancel)
    assert not [call for call in engine.calls if call.method == "POST" and "/api" in call.path]
    assert not [call for call in engine.calls if call.path.endswith("/backups")]


def test_a_cancel_while_it_ends_comes_too_late(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path
) -> None:
    """Every disk is copied: to give up its end would leave something open."""
    engine.phases.backup_finalize = ("finalizing", "finalizing", "succeeded")
    cancel = Cancel()
    engine.when("POST", "/vms/*/backups/*/finalize", lambda: cancel.cancel("too late"))
    report = back_up_vm(connection, "mail", folder, timeouts=FAST, cancel=cancel)
    left = engine.leftovers()
    assert (left.backups, left.checkpoints) == ((), (report.checkpoint_id,))


def test_what_is_said_of_a_long_wait(
    engine: EngineDouble,
    connection: Any,
    vm: VmDouble,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The host is down for a while; then the backup takes long to start."""
    engine.phases.backup_start = ("initializing",) * 12 + ("starting",) * 12 + ("ready",)
    engine.host.status = "down"

    def up() -> None:
        engine.host.status = "up"

    engine.when("POST", "/vms/*/backups", up, skip=8)
    timeouts = EngineTimeouts(backup_start=300, refused=300, poll=0.001, longest_poll=0.002)
    with caplog.at_level(logging.INFO, "tapestream"):
        report = back_up_vm(connection, "mail", folder, timeouts=timeouts)
    of_level = {
        level: [each.getMessage() for each in caplog.records if each.levelno == level]
        for level in (logging.INFO, logging.WARNING)
    }
    refusal = (
        "cannot start a backup of VM mail: Cannot backup VM mail. There is no host that is Up."
    )
    what = f"backup {report.backup_id} of VM mail"
    for text in (refusal, f"{what} is in phase initializing", f"{what} is in phase starting"):
        assert of_level[logging.INFO].count(text) == 1
    warnings = [text for text in of_level[logging.WARNING] if text.startswith((refusal, what))]
    assert f"{refusal}: waiting for up to 299 more seconds" in warnings
    assert f"{what} is in phase initializing: waiting for up to 299 more seconds" in warnings
    # Each is said when twice as much time has passed, not at each look.
    assert 2 <= len(warnings) < 20
