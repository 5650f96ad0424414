"""Each failure that a test can ask for shows, in the way in which a client of an engine sees it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable

import pytest

from tapestream.testing import EngineDouble, VmDouble, write_pattern

from .clients import (
    MIB,
    UPLOAD,
    connected,
    content,
    dirty,
    finish,
    log_in,
    plain_connection,
    reach,
    ready_backup,
    sdk,
    start_backup,
    start_transfer,
    transferring,
    types,
)


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    return engine.add_vm("mail", [MIB])


def test_a_phase_that_takes_long(engine: EngineDouble, vm: VmDouble) -> None:
    engine.phases.backup_start = ("initializing", "starting", "starting", "ready")
    with connected(engine) as system:
        backup = start_backup(system, vm)
        assert [backup.get().phase.value for _ in range(3)] == ["starting", "starting", "ready"]


def test_a_phase_that_never_ends(engine: EngineDouble, vm: VmDouble) -> None:
    engine.phases.backup_start = ("initializing",)
    with connected(engine) as system:
        backup = start_backup(system, vm)
        assert {backup.get().phase for _ in range(20)} == {types.BackupPhase.INITIALIZING}
        # The engine ends such a backup, and reports an error all the same.
        with pytest.raises(sdk.Error, match="stopped early") as caught:
            backup.finalize()
        assert caught.value.code == 400
        reach(backup.get, "failed")
    assert engine.leftovers().nothing_open
    assert engine.leftovers().checkpoints == ()


def test_a_phase_that_the_api_does_not_know(engine: EngineDouble, vm: VmDouble) -> None:
    engine.phases.backup_start = ("initializing", "dancing")
    with connected(engine) as system:
        assert start_backup(system, vm).get().phase is None  # so says the SDK
    assert len(engine.leftovers().backups) == 1


def test_a_backup_with_an_open_transfer_is_not_finalized(
    engine: EngineDouble, vm: VmDouble
) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        transfer = transferring(system, vm.disks[0], backup)
        with pytest.raises(sdk.Error, match="active image transfers") as caught:
            backup.finalize()
        assert caught.value.code == 409
        transfer.finalize()
        backup.finalize()
        reach(backup.get, "succeeded")
        with pytest.raises(sdk.Error, match="SUCCEEDED already"):
            backup.finalize()


def test_a_transfer_that_cannot_be_finalized(engine: EngineDouble, vm: VmDouble) -> None:
    engine.phases.transfer_finalize = ("finalizing_failure", "finished_failure")
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        transfer = transferring(system, vm.disks[0], backup)
        transfer.finalize()
        reach(transfer.get, "finished_failure")
    assert engine.leftovers().transfers == ()


def test_a_transfer_that_the_system_pauses(engine: EngineDouble, vm: VmDouble) -> None:
    engine.phases.transfer_start = ("initializing", "paused_system")
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        transfer = start_transfer(system, vm.disks[0], backup)
        assert reach(transfer.get, "paused_system").transfer_url is None
        assert len(engine.leftovers().transfers) == 1
        transfer.cancel()
        reach(transfer.get, "finished_cleanup")
        with pytest.raises(sdk.Error, match="FINISHED_CLEANUP"):
            transfer.finalize()


def test_the_host_is_down(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        engine.host.status = "non_responsive"
        with pytest.raises(sdk.Error, match="no host that is Up"):
            start_transfer(system, vm.disks[0], backup)
        assert system.hosts_service().list(search="status=up") == []
        backup.finalize()
        reach(backup.get, "succeeded")
        with pytest.raises(sdk.Error, match="no host that is Up"):
            start_backup(system, vm)


def test_the_daemon_dies(engine: EngineDouble, vm: VmDouble) -> None:
    """With a daemon of its own: the one of the other tests goes on."""
    own = EngineDouble(engine.cafile.parent / "own")
    with own, connected(own) as system:
        vm = own.add_vm("mail", [MIB])
        backup, _ = ready_backup(system, vm)
        transfer = transferring(system, vm.disks[0], backup)
        own.daemon.kill()
        with pytest.raises(OSError, match="refused"):
            dirty(own, transfer)
        transfer.finalize()
        assert own.leftovers().transfers == ()


def test_the_token_expires(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        engine.expire_tokens()
        backup.finalize()  # the SDK logs in again
        statuses = [(call.path[:15], call.status) for call in engine.calls[-3:]]
        assert [status for _, status in statuses] == [401, 200, 200]
        assert statuses[1][0] == "/ovirt-engine/s"
        engine.pass_time(3600)
        reach(backup.get, "succeeded")
        assert [call.status for call in engine.calls[-3:]] == [401, 200, 200]


def test_a_locked_disk(engine: EngineDouble, vm: VmDouble) -> None:
    vm.disks[0].status = "locked"
    with connected(engine) as system:
        with pytest.raises(sdk.Error, match="Disks are locked: mail_Disk1"):
            start_backup(system, vm)
        assert engine.leftovers().locked_disks == (vm.disks[0].id,)
        vm.disks[0].status = "ok"
        ready_backup(system, vm)


def test_a_vm_has_one_backup_at_a_time(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        ready_backup(system, vm)
        with pytest.raises(sdk.Error, match="during a backup operation"):
            start_backup(system, vm)
        checkpoints = system.vms_service().vm_service(vm.id).checkpoints_service()
        with pytest.raises(sdk.Error, match="during a backup operation"):
            checkpoints.checkpoint_service(vm.checkpoints[0].id).remove()


def test_a_checkpoint_is_damaged_or_missing(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        backup, point = ready_backup(system, vm)
        backup.finalize()
        engine.leftovers()
        engine.lose_checkpoint(vm, point)
        with pytest.raises(sdk.Error, match=f"Checkpoint {point} is invalid"):
            start_backup(system, vm, point)
        vm.checkpoints.clear()
        with pytest.raises(sdk.Error, match=f"Checkpoint {point} does not exist"):
            start_backup(system, vm, point)
        assert len(engine.leftovers().backups) == 0


def test_a_refused_request_is_not_carried_out(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        engine.refuse("POST", "/vms/*/backups/*/finalize", 409, "[Try later.]", skip=0, times=2)
        for _ in range(2):
            with pytest.raises(sdk.Error, match="Try later"):
                backup.finalize()
        assert backup.get().phase == types.BackupPhase.READY
        backup.finalize()
    assert engine.leftovers().nothing_open


def test_a_refusal_can_wait_for_its_turn(engine: EngineDouble, vm: VmDouble) -> None:
    engine.refuse("GET", "/vms/*", 503, "[Starting.]", skip=1)
    with connected(engine) as system:
        service = system.vms_service().vm_service(vm.id)
        assert service.get().name == "mail"
        with pytest.raises(sdk.Error, match="503"):
            service.get()
        assert service.get().name == "mail"


@pytest.mark.parametrize("carry_out", [False, True])
def test_a_connection_breaks(engine: EngineDouble, vm: VmDouble, *, carry_out: bool) -> None:
    engine.drop("POST", "/vms/*/backups", carry_out=carry_out)
    with connected(engine) as system:
        with pytest.raises(sdk.Error, match="Failed to read response"):
            start_backup(system, vm)
        assert engine.calls[-1].status == 0
        assert len(engine.leftovers().backups) == carry_out
        backups = system.vms_service().vm_service(vm.id).backups_service()
        assert len(backups.list()) == carry_out


def test_a_function_is_called_when_a_request_comes(engine: EngineDouble, vm: VmDouble) -> None:
    [disk] = vm.disks
    seen: list[int] = []

    def write_and_count() -> None:
        seen.append(len(vm.checkpoints))
        write_pattern(disk.path, ["write -P 7 0 1M"])

    engine.when("POST", "/vms/*/backups", write_and_count)
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        assert seen == [0]
        assert content(engine, transferring(system, disk, backup)) == b"\7" * MIB


def test_a_client_that_is_killed(engine: EngineDouble, vm: VmDouble) -> None:
    """The request of a killed client is carried out; the next client finds what it left."""
    body = f'<backup><disks><disk id="{vm.disks[0].id}"/></disks></backup>'
    with contextlib.closing(plain_connection(engine)) as connection:

        def kill() -> None:
            connection.sock.shutdown(socket.SHUT_RDWR)

        engine.when("POST", "/vms/*/backups", kill)
        token = json.loads(log_in(engine)[1])["access_token"]
        headers = {"Content-Type": "application/xml", "Authorization": f"Bearer {token}"}
        path = f"/ovirt-engine/api/vms/{vm.id}/backups"
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", path, body, headers)
            connection.getresponse()
    with connected(engine) as system:
        backups = system.vms_service().vm_service(vm.id).backups_service()
        [left] = backups.list()
        assert engine.leftovers().backups == (left.id,)
        finish(backups.backup_service(left.id))


def idle(engine: EngineDouble, vm: VmDouble, *seconds: float, **options: object) -> str:
    """The phase of a transfer after its client did nothing."""
    with connected(engine) as system:
        if options.get("direction") is UPLOAD:
            vm.status = "down"
            transfer = transferring(system, vm.disks[0], **options)
        else:
            backup, _ = ready_backup(system, vm)
            transfer = transferring(system, vm.disks[0], backup, **options)
        for each in seconds:
            engine.pass_time(each)
            if len(seconds) > 1:
                transfer.extend()
        engine.leftovers()
        return str(transfer.get().phase.value)


def test_an_idle_transfer_ends(engine: EngineDouble, vm: VmDouble) -> None:
    assert idle(engine, vm, 61) == "finished_failure"


@pytest.mark.parametrize(
    ("seconds", "policy", "upload", "phase"),
    [
        ([59], "legacy", False, "transferring"),
        ([59, 59, 59], "legacy", False, "transferring"),
        ([60], "cancel", False, "finished_failure"),
        ([60], "pause", False, "paused_system"),
        ([60], "legacy", True, "paused_system"),
    ],
)
def test_what_the_timeout_of_a_transfer_does(
    engine: EngineDouble,
    vm: VmDouble,
    seconds: list[float],
    policy: str,
    upload: bool,
    phase: str,
) -> None:
    options: dict[str, object] = {"timeout_policy": types.ImageTransferTimeoutPolicy(policy)}
    if upload:
        options["direction"] = UPLOAD
    assert idle(engine, vm, *seconds, **options) == phase


def test_an_inactivity_timeout_of_an_hour(engine: EngineDouble, vm: VmDouble) -> None:
    assert idle(engine, vm, 3500, inactivity_timeout=3600) == "transferring"


def test_a_fault_of_the_double_itself_is_shown(engine: EngineDouble, vm: VmDouble) -> None:
    vm.disks[0].path.unlink()
    with connected(engine) as system, pytest.raises(sdk.Error, match="RuntimeError in the double"):
        start_backup(system, vm)


def test_stopping_ends_what_is_open(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        transfer = transferring(system, vm.disks[0], backup)
        url = transfer.get().transfer_url
        assert engine.daemon.ticket_info(url)
    engine.stop()
    engine.stop()
    with pytest.raises(LookupError):
        engine.daemon.ticket_info(url)
    with pytest.raises(RuntimeError, match="not running"):
        engine.url  # noqa: B018


@pytest.mark.parametrize(
    "wrong",
    [
        lambda engine: engine.refuse("PATCH", "/vms"),
        lambda engine: engine.drop("GET", "vms"),
        lambda engine: engine.lose_checkpoint(engine.vms[0], "none"),
        lambda engine: EngineDouble(engine.cafile.parent / "other", storage_domains="data"),
        lambda engine: EngineDouble(engine.cafile.parent / "other", storage_domains=[]),
    ],
)
def test_a_mistake_in_a_test(
    engine: EngineDouble, vm: VmDouble, wrong: Callable[[EngineDouble], object]
) -> None:
    with pytest.raises(ValueError, match=r"GET|checkpoint|storage_domains"):
        wrong(engine)
    with pytest.raises(RuntimeError, match="running already"):
        engine.start()


def test_everything_is_good_again(engine: EngineDouble, vm: VmDouble) -> None:
    engine.phases.backup_start = ("initializing", "failed")
    engine.refuse("GET", "/vms", times=10**6)
    engine.host.status = "down"
    engine.heal()
    with connected(engine) as system:
        assert len(system.vms_service().list()) == 1
        backup, _ = ready_backup(system, vm)
        finish(backup)
