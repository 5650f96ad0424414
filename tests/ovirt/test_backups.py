"""A backup ends in every outcome, and a checkpoint stays only if every disk was copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestream.errors import (
    EngineError,
    EnginePhaseError,
    EngineTimeoutError,
    LocalIOError,
    UsageError,
)
from tapestream.ovirt import VMBackup, connect, download_transfer, find_vm, vm_backup
from tapestream.testing import EngineDouble, VmDouble

from .steps import FAST, MIB, SHORT, calls, press_ctrl_c


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    return engine.add_vm("mail", [MIB, MIB])


@pytest.fixture(autouse=True)
def nothing_is_left(engine: EngineDouble, connection: Any, tmp_path: Path) -> Iterator[None]:
    yield
    left = engine.leftovers()
    assert (left.transfers, left.backups, left.locked_disks) == ((), (), ())
    assert not state_files(tmp_path)


def state_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "home" / ".local/state/tapestream").glob("*"))


def download_all(connection: Any, backup: VMBackup) -> None:
    for disk in backup.disks:
        with download_transfer(connection, backup, disk, timeouts=FAST):
            pass


def run(connection: Any, vm: str, *, download: bool = False, **options: Any) -> None:
    with vm_backup(connection, vm, **{"timeouts": FAST, **options}) as backup:
        if download:
            download_all(connection, backup)


def test_a_good_backup(engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path) -> None:
    with vm_backup(connection, "mail", timeouts=FAST) as backup:
        assert (backup.vm_id, backup.vm_name, backup.parent_id) == (vm.id, "mail", None)
        assert [disk.mode for disk in backup.disks] == ["full", "full"]
        assert [disk.name for disk in backup.disks] == ["mail_Disk1", "mail_Disk2"]
        assert backup.ovf == vm.ovf
        assert backup.created.utcoffset() is not None
        assert len(backup.missing) == 2
        [file] = state_files(tmp_path)
        download_all(connection, backup)
        text = file.read_text()
        assert backup.id in text
        assert "http" not in text.replace(connection.url, "")
        assert not backup.missing
    assert engine.leftovers().checkpoints == (backup.checkpoint_id,)
    [body] = [call.body for call in engine.calls if call.path.endswith("/backups") and call.body]
    assert f'id="{backup.id}"' in body
    bodies = [call.body for call in engine.calls if call.path == "/imagetransfers" and call.body]
    assert len(bodies) == 2
    for text in ("<inactivity_timeout>3600</", "<timeout_policy>cancel</", "<format>raw</"):
        assert all(text in each for each in bodies)
    assert f"<description>tapestream {backup.id}</description>" in body


def test_an_incremental_backup_after_it(connection: Any, vm: VmDouble) -> None:
    with vm_backup(connection, vm.id, ["mail_Disk1"], timeouts=FAST) as first:
        download_all(connection, first)
    parent = first.checkpoint_id
    with vm_backup(connection, vm.id, parent=parent, timeouts=FAST) as second:
        # The engine decides: the second disk is not in the checkpoint.
        assert [disk.mode for disk in second.disks] == ["incremental", "full"]
        one, other = map(second.info, second.disks)
        assert (one.parent_checkpoint_id, other.parent_checkpoint_id) == (parent, None)
        assert {one.checkpoint_id, other.checkpoint_id} == {second.checkpoint_id}
        assert (one.vm_name, one.disk_id, one.backup_id) == ("mail", vm.disks[0].id, second.id)
        download_all(connection, second)
    full = [vm.disks[0].id]
    with vm_backup(connection, vm.id, parent=parent, full=full, timeouts=FAST) as third:
        assert [disk.mode for disk in third.disks] == ["full", "full"]
        download_all(connection, third)


@pytest.mark.parametrize("ending", ["an error", "one disk is missing"])
def test_the_checkpoint_of_an_incomplete_backup_is_removed(
    engine: EngineDouble, connection: Any, vm: VmDouble, ending: str
) -> None:
    def run() -> None:
        with vm_backup(connection, vm.id, timeouts=FAST) as backup:
            with download_transfer(connection, backup, backup.disks[0], timeouts=FAST):
                pass
            if ending == "an error":
                raise LookupError

    if ending == "an error":
        with pytest.raises(LookupError):
            run()
    else:
        run()
    assert engine.leftovers().checkpoints == ()


def test_transfers_end_before_the_backup(
    engine: EngineDouble, connection: Any, vm: VmDouble
) -> None:
    def run() -> None:
        with (
            vm_backup(connection, vm.id, timeouts=FAST) as backup,
            download_transfer(connection, backup, "mail_Disk1", timeouts=FAST),
        ):
            raise LookupError

    with pytest.raises(LookupError):
        run()
    ends = [call.path.rpartition("/")[2] for call in engine.calls if call.body.startswith("<act")]
    assert ends == ["cancel", "finalize"]
    assert all(call.status == 200 for call in engine.calls if call.body.startswith("<act"))


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (
            ("initializing", "failed"),
            r"is in phase failed; the engine's last event about it: .* for VM mail failed\. ",
        ),
        (("initializing", "dancing"), "in a phase that oVirt's SDK does not know"),
        (("initializing", "succeeded"), "in phase succeeded"),
    ],
)
def test_it_does_not_get_ready(
    engine: EngineDouble, connection: Any, vm: VmDouble, phases: tuple[str, ...], message: str
) -> None:
    engine.phases.backup_start = phases
    with (
        pytest.raises(EnginePhaseError, match=message),
        vm_backup(connection, vm.id, timeouts=FAST),
    ):
        pass
    assert engine.leftovers().checkpoints == ()


@pytest.mark.parametrize("phases", [("initializing",), ("initializing", "starting")])
def test_it_never_gets_ready(
    engine: EngineDouble, connection: Any, vm: VmDouble, phases: tuple[str, ...]
) -> None:
    engine.phases.backup_start = phases
    message = f"is in phase {phases[-1]} after 0.05 seconds"
    with pytest.raises(EngineTimeoutError, match=message):
        run(connection, vm.id, timeouts=SHORT)
    assert engine.leftovers().checkpoints == ()


def test_the_engine_gives_no_url(tmp_path: Path) -> None:
    with EngineDouble(tmp_path / "own") as engine:
        config = engine.write_config(tmp_path / "own")
        engine.add_vm("mail", [MIB])
        engine.daemon.kill()
        message = "the download of disk mail_Disk1 has started, but the engine gives no URL for it"
        with connect(config) as connection, pytest.raises(EngineError, match=message):
            run(connection, "mail", download=True)


def test_a_lost_reply_starts_no_second_backup(
    engine: EngineDouble, connection: Any, vm: VmDouble
) -> None:
    engine.drop("POST", "/vms/*/backups", carry_out=True, times=2)
    with vm_backup(connection, vm.id, timeouts=FAST) as backup:
        download_all(connection, backup)
    assert engine.leftovers().checkpoints == (backup.checkpoint_id,)


def test_a_vm_that_is_busy_for_a_while(engine: EngineDouble, connection: Any, vm: VmDouble) -> None:
    engine.refuse("POST", "/vms/*/backups", 409, times=3)
    engine.refuse("POST", "/vms/*/backups/*/finalize", 409, times=2)
    engine.refuse("POST", "/vms/*/backups/*/finalize", 400)  # the host failed
    engine.refuse("DELETE", "/vms/*/checkpoints/*", 409, times=3)
    with vm_backup(connection, vm.id, timeouts=FAST):
        pass
    assert engine.leftovers().checkpoints == ()


def test_an_engine_that_cannot_list_its_backups_for_a_moment(
    engine: EngineDouble, connection: Any, vm: VmDouble
) -> None:
    """It is asked again: otherwise the backup would stay open."""

    def fail() -> None:
        engine.refuse("GET", "/vms/*/backups", 400)
        raise LookupError

    with pytest.raises(LookupError) as caught, vm_backup(connection, vm.id, timeouts=FAST):
        fail()
    assert not hasattr(caught.value, "__notes__")
    assert engine.leftovers().checkpoints == ()


def test_a_refusal_leaves_nothing(engine: EngineDouble, connection: Any, vm: VmDouble) -> None:
    vm.disks[1].status = "locked"
    message = r"cannot start a backup of VM mail: .*Disks are locked: mail_Disk2"
    with pytest.raises(EngineError, match=message), vm_backup(connection, vm.id, timeouts=SHORT):
        pass
    vm.disks[1].status = "ok"
    assert calls(engine, "/finalize") == 0


def test_a_vm_of_which_another_backup_is_open(
    engine: EngineDouble, connection: Any, vm: VmDouble
) -> None:
    with (
        vm_backup(connection, vm.id, timeouts=FAST) as other,
        pytest.raises(EngineError, match=f"{other.id} .tapestream {other.id}.\\. Finalize it"),
    ):
        run(connection, vm.id, timeouts=SHORT)


def test_an_error_of_the_end_does_not_hide_that_of_the_work(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    engine.refuse("POST", "/vms/*/backups/*/finalize", 405, "[No.]")
    with pytest.raises(LookupError) as caught, vm_backup(connection, vm.id, timeouts=FAST):
        raise LookupError
    [note] = caught.value.__notes__
    assert note.startswith("While cleaning up: cannot finalize backup")
    [file] = state_files(tmp_path)  # for the next run
    file.unlink()
    [service] = backups_of(connection, vm).list()
    backups_of(connection, vm).backup_service(service.id).finalize()


def backups_of(connection: Any, vm: VmDouble) -> Any:
    return connection.system_service().vms_service().vm_service(vm.id).backups_service()


def test_a_second_ctrl_c_does_not_end_the_clean_up(
    engine: EngineDouble, connection: Any, vm: VmDouble
) -> None:
    for request in ("POST", "/vms/*/backups/*/finalize"), ("DELETE", "/vms/*/checkpoints/*"):
        engine.when(*request, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt), vm_backup(connection, vm.id, timeouts=FAST):
        raise KeyboardInterrupt
    assert engine.leftovers().checkpoints == ()


def test_a_ctrl_c_while_it_starts(engine: EngineDouble, connection: Any, vm: VmDouble) -> None:
    engine.when("POST", "/vms/*/backups", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt), vm_backup(connection, vm.id, timeouts=FAST):
        pass
    assert calls(engine, "/finalize") == 1
    assert engine.leftovers().checkpoints == ()


def test_a_backup_that_gets_ready_while_it_is_ended(
    engine: EngineDouble, connection: Any, vm: VmDouble
) -> None:
    """Its checkpoint was not there yet when the end began, and is removed all the same."""
    engine.when("POST", "/vms/*/backups", press_ctrl_c)
    engine.refuse("POST", "/vms/*/backups/*/finalize", 409, times=3)
    with pytest.raises(KeyboardInterrupt), vm_backup(connection, vm.id, timeouts=FAST):
        pass
    assert calls(engine, "/finalize") == 4
    assert calls(engine, "DELETE /*") == 1
    assert engine.leftovers().checkpoints == ()


def test_a_backup_that_fails_when_it_is_finalized(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    engine.phases.backup_finalize = ("finalizing", "failed")
    with pytest.raises(EnginePhaseError, match="in phase failed"):
        run(connection, vm.id, download=True)
    [file] = state_files(tmp_path)
    file.unlink()


@pytest.mark.parametrize(
    ("vm_name", "disks", "message"),
    [
        ("nope", None, "there is no VM nope"),
        ("mai*", None, r"there is no VM mai\*"),  # for the engine's search, that is mail
        ("twin", None, r"there are 2 VMs with the name twin\. Give its id: "),
        ("mail", ["mail_Disk3"], r"has no disk mail_Disk3\. Its disks are mail_Disk1 \("),
        ("mail", "mail_Disk1", "disks must be a list"),
        ("mail", [], "has no disk to back up"),
        ("", None, "by its id or its name"),
    ],
)
def test_no_such_vm_or_disk(
    engine: EngineDouble, connection: Any, vm: VmDouble, vm_name: str, disks: Any, message: str
) -> None:
    engine.add_vm("twin")
    engine.add_vm("twin")
    with pytest.raises(UsageError, match=message):
        run(connection, vm_name, disks=disks)


def test_a_name_with_quotes(engine: EngineDouble, connection: Any) -> None:
    """The engine cannot search for it."""
    engine.add_vm("the old one")
    wanted = engine.add_vm('the "old" one', [MIB])
    assert find_vm(connection, wanted.name).id == wanted.id


def test_a_disk_that_the_vm_does_not_use(connection: Any, vm: VmDouble) -> None:
    vm.attachments[1].active = False
    found = find_vm(connection, vm.id)
    assert [disk.can_be_backed_up for disk in found.disks] == [True, False]
    assert [disk.name for disk in found.choose(None)] == ["mail_Disk1"]


def test_nothing_is_started_without_the_file(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalIOError, match="Pass another directory as `state`"):
        run(connection, vm.id, state=tmp_path / "file")
    assert calls(engine, "/backups") == 0
