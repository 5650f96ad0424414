"""What a run has left that was killed: found, said, and cleaned up by the next one."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tapestream.ovirt import clean_up_killed_runs, download_transfer, vm_backup
from tapestream.testing import EngineDouble, VmDouble

from .steps import FAST, MIB, SHORT, calls


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    return engine.add_vm("mail", [MIB])


def kill_a_run(
    engine: EngineDouble, connection: Any, vm: VmDouble, state: Path, *, after_the_copy: bool
) -> str:
    """What a run leaves if it is killed: nothing that it does at its end is carried out."""
    copy = state / "copy"
    checkpoint = ""
    for request in ("cancel", "finalize"):
        engine.refuse("POST", f"/imagetransfers/*/{request}", 405, times=0 if after_the_copy else 1)
    engine.refuse("POST", "/vms/*/backups/*/finalize", 405)
    with suppress(Exception), vm_backup(connection, vm.id, state=state, timeouts=FAST) as backup:
        checkpoint = str(backup.checkpoint_id)
        with download_transfer(connection, backup, backup.disks[0], timeouts=FAST):
            if not after_the_copy:
                raise LookupError
    assert not copy.exists()
    return checkpoint


def test_a_run_that_was_killed_while_it_copied(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    checkpoint = kill_a_run(engine, connection, vm, tmp_path, after_the_copy=False)
    assert engine.leftovers().transfers
    assert engine.leftovers().backups
    [run] = clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST)
    assert (run.vm_name, run.problem) == ("mail", None)
    assert str(run).endswith(
        f"could not clean up: a download of disk {vm.disks[0].id} is cancelled, "
        f"the backup is finalized, checkpoint {checkpoint} is removed, because not every disk was "
        "copied"
    )
    left = engine.leftovers()
    assert (left.transfers, left.backups, left.checkpoints) == ((), (), ())
    assert clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST) == []


def transfer_lines(state: Path) -> tuple[Path, list[str], list[str]]:
    """The file of a run: its lines without those of transfers, and those."""
    [file] = state.glob("*.run")
    lines = file.read_text().splitlines(keepends=True)
    ours = [line for line in lines if '"transfer"' in line]
    return file, [line for line in lines if line not in ours], ours


def test_a_run_that_was_killed_before_it_knew_its_transfer(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    """Its backup is open, and locks the disk: so the transfer is its own."""
    kill_a_run(engine, connection, vm, tmp_path, after_the_copy=False)
    file, others, _ = transfer_lines(tmp_path)
    file.write_text("".join(others))
    [run] = clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST)
    assert run.done[0] == f"a download of disk {vm.disks[0].id} is cancelled"
    assert engine.leftovers().transfers == ()


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_transfer_without_its_backup(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path, *, is_ours: bool
) -> None:
    """The engine has forgotten the VM: only a transfer that the file has is ended."""
    kill_a_run(engine, connection, vm, tmp_path, after_the_copy=False)
    file, others, ours = transfer_lines(tmp_path)
    assert len(ours) == 1
    file.write_text("".join(others + (ours if is_ours else [])))
    for method in ("GET", "DELETE"):
        engine.refuse(method, "/vms/*", 404, times=10**6)
    [run] = clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST)
    assert len(engine.leftovers().transfers) == (0 if is_ours else 1)
    assert any("is cancelled" in each for each in run.done) == is_ours


def test_a_run_that_was_killed_when_all_was_copied(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    checkpoint = kill_a_run(engine, connection, vm, tmp_path, after_the_copy=True)
    [run] = clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST)
    assert run.done == (
        "the backup is finalized",
        f"checkpoint {checkpoint} stays, because every disk was copied",
    )
    assert engine.leftovers().backups == ()
    assert engine.leftovers().checkpoints == (checkpoint,)


def test_a_run_that_is_under_way_is_left_alone(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    with vm_backup(connection, vm.id, state=tmp_path, timeouts=FAST) as backup:
        assert clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST) == []
        backup.copied(backup.disks[0])
    assert calls(engine, "/finalize") == 1


def test_an_engine_that_still_refuses(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    kill_a_run(engine, connection, vm, tmp_path, after_the_copy=False)
    engine.refuse("POST", "/imagetransfers/*/cancel", 409, "[Not now.]", times=10**6)
    [run] = clean_up_killed_runs(connection, state=tmp_path, timeouts=SHORT)
    assert run.problem is not None
    assert "Not now" in run.problem
    assert run.file.exists()
    assert engine.leftovers().backups
    engine.stop()
    [run] = clean_up_killed_runs(connection, state=tmp_path, timeouts=SHORT)
    assert "the next run tries again" in str(run)


@pytest.mark.parametrize("gone", ["the backup", "the VM"])
def test_what_the_engine_has_forgotten(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path, gone: str
) -> None:
    kill_a_run(engine, connection, vm, tmp_path, after_the_copy=False)
    engine.pass_time(3600)
    if gone == "the VM":
        engine.refuse("GET", "/vms/*", 404, times=10**6)
        engine.refuse("DELETE", "/vms/*", 404, times=10**6)
    else:
        [one] = backups_of(connection, vm).list()
        backups_of(connection, vm).backup_service(one.id).finalize()
        engine.leftovers()
    [run] = clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST)
    assert run.problem is None
    assert "finalized" not in str(run)


def test_a_checkpoint_whose_backup_the_engine_has_forgotten(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    """Its id is in the file of the run."""
    checkpoint = kill_a_run(engine, connection, vm, tmp_path, after_the_copy=False)
    engine.pass_time(3600)  # the transfer ends
    [one] = backups_of(connection, vm).list()
    backups_of(connection, vm).backup_service(one.id).finalize()
    assert engine.leftovers().checkpoints == (checkpoint,)
    engine.refuse("GET", "/vms/*/backups", 404, times=10**6)
    [run] = clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST)
    assert run.done == (f"checkpoint {checkpoint} is removed, because not every disk was copied",)
    assert engine.leftovers().checkpoints == ()


def backups_of(connection: Any, vm: VmDouble) -> Any:
    return connection.system_service().vms_service().vm_service(vm.id).backups_service()


@pytest.mark.parametrize(
    "text", ["[1]\n", "no json\n", '{"kind": "something else"}\n', '{"kind": "backup"}\n', "{}\n"]
)
def test_a_file_that_is_not_ours(connection: Any, tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.run"
    file.write_text(text)
    [run] = clean_up_killed_runs(connection, state=tmp_path)
    assert "is no file about a backup, or it is damaged" in str(run)
    assert file.read_text() == text


def test_files_that_say_nothing(engine: EngineDouble, connection: Any, tmp_path: Path) -> None:
    """A run that was killed before it started anything, and one that was killed as it wrote."""
    (tmp_path / "empty.run").touch()
    first = {
        "kind": "backup",
        "engine": "https://other/ovirt-engine/api",
        "vm_id": "1",
        "vm_name": "mail",
        "backup_id": "2",
        "disks": [],
        "started": "2026-11-18T22:30:00+00:00",
    }
    (tmp_path / "other.run").write_text(json.dumps(first) + '\n{"transf')
    [run] = clean_up_killed_runs(connection, state=tmp_path)
    local = datetime(2026, 11, 18, 22, 30, tzinfo=timezone.utc).astimezone()
    assert str(run) == (
        f"the backup of VM mail that started at {local:%Y-%m-%d %H:%M:%S %Z} was killed, or could "
        "not clean up: nothing was left of it; it is left for a run with the engine "
        "https://other/ovirt-engine/api"
    )
    assert [each.name for each in tmp_path.glob("*.run")] == ["other.run"]
    (tmp_path / "here.run").write_text(json.dumps({**first, "engine": connection.url}) + "\n")
    here = clean_up_killed_runs(connection, state=tmp_path, timeouts=FAST)[0]
    assert str(here).endswith("could not clean up: nothing was left of it")
    assert not (tmp_path / "here.run").exists()


def test_a_directory_that_is_not_there(connection: Any, tmp_path: Path) -> None:
    assert clean_up_killed_runs(connection, state=tmp_path / "none") == []
