"""The double refuses what no engine understands, and keeps a log without secrets."""

from __future__ import annotations

import contextlib
import json
import socket
import uuid
from urllib.parse import urlsplit

import pytest

from tapestream.testing import EngineDouble, VmDouble

from .clients import MIB, connected, log_in, plain, ready_backup, sdk, transferring

API = "/ovirt-engine/api"


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    return engine.add_vm("mail", [MIB], status="down")


@pytest.fixture
def token(engine: EngineDouble) -> str:
    status, answer = log_in(engine)
    assert status == 200
    return str(json.loads(answer)["access_token"])


def backup_of(vm: VmDouble, more: str = "", attributes: str = "") -> str:
    return f'<backup{attributes}>{more}<disks><disk id="{vm.disks[0].id}"/></disks></backup>'


def transfer_of(vm: VmDouble, more: str) -> str:
    return f'<image_transfer>{more}<disk id="{vm.disks[0].id}"/></image_transfer>'


def new_disk(more: str = "", size: int = MIB, format_: str = "cow", domain: str = "data") -> str:
    domains = f"<storage_domain><name>{domain}</name></storage_domain>"
    return (
        f"<disk>{more}<provisioned_size>{size}</provisioned_size><format>{format_}</format>"
        f"<storage_domains>{domains}</storage_domains></disk>"
    )


BACKUPS = "/vms/{vm.id}/backups"
RAW = "<format>raw</format>"
WRONG = [
    (BACKUPS, "<backup", "no XML"),
    (BACKUPS, "<vm/>", "the body is <vm>, not <backup>"),
    (BACKUPS, lambda vm: backup_of(vm, "<phase>ready</phase>"), "no element phase"),
    (BACKUPS, lambda vm: backup_of(vm, "<from_checkpoint/>"), "no element from_checkpoint"),
    (BACKUPS, lambda vm: backup_of(vm, attributes=' name="x"'), "no attribute name"),
    (BACKUPS, lambda vm: backup_of(vm, attributes=' id="x"'), "'x' is no id"),
    (BACKUPS, lambda vm: backup_of(vm, "<description>a</description>" * 2), "there twice"),
    (BACKUPS, "<backup/>", "[disks] required for add"),
    (BACKUPS, "<backup><disks/></backup>", "needs a disk"),
    (BACKUPS, "<backup><disks><disk id='x'/></disks></backup>", "not found: Disk: id=x"),
    (
        BACKUPS,
        lambda vm: backup_of(vm, f"<from_checkpoint_id>{uuid.uuid4()}</from_checkpoint_id>"),
        "does not exist",
    ),
    ("/imagetransfers", "<image_transfer/>", "[disk] required for add"),
    ("/imagetransfers", lambda vm: transfer_of(vm, ""), "the format raw only"),
    (
        "/imagetransfers",
        lambda vm: transfer_of(vm, f"{RAW}<direction>sideways</direction>"),
        "cannot be 'sideways'",
    ),
    (
        "/imagetransfers",
        lambda vm: transfer_of(vm, f"{RAW}<inactivity_timeout>1h</inactivity_timeout>"),
        "cannot be '1h'",
    ),
    ("/imagetransfers", lambda vm: transfer_of(vm, f'{RAW}<host id="x"/>'), "Host: id=x"),
    ("/imagetransfers", lambda vm: transfer_of(vm, f'{RAW}<backup id="x"/>'), "Backup: id=x"),
    ("/imagetransfers/x/finalize", "<action/>", "ImageTransfer: id=x"),
    ("/imagetransfers/x/pause", "<action/>", "not found: /imagetransfers/x/pause"),
    ("/disks", "<disk/>", "[provisioned_size, format, storage_domains.storage_domain]"),
    ("/disks", new_disk(size=1000), "cannot have 1000 bytes"),
    ("/disks", new_disk(format_="qcow2"), "cannot be 'qcow2'"),
    ("/disks", new_disk(domain="elsewhere"), "name=elsewhere"),
    ("/disks", new_disk("<backup>incremental</backup>", format_="raw"), "needs the format COW"),
    ("/vms", "<vm><name>x</name></vm>", "[initialization.configuration.data, cluster.name]"),
    ("/vms", "<vm><cpu/></vm>", "no element cpu"),
    ("/vms/{vm.id}/diskattachments", "<disk_attachment/>", "[disk, interface, bootable]"),
    ("/vms/{vm.id}/nics", "<nic/>", "not found"),
    ("/vms/{vm.id}?deep=true", "<vm/>", "the parameters deep"),
    ("/disks/{vm.id}", "<disk/>", "POST is not possible there"),
]


@pytest.mark.parametrize(("path", "body", "why"), WRONG, ids=[why for *_, why in WRONG])
def test_what_no_engine_understands(
    engine: EngineDouble, vm: VmDouble, token: str, path: str, body: object, why: str
) -> None:
    text = body(vm) if callable(body) else str(body)
    status, answer = plain(engine, "POST", API + path.format(vm=vm), text, token=token)
    assert status in (400, 404, 405, 409)
    assert why in answer.replace("&lt;", "<").replace("&gt;", ">")
    left = engine.leftovers()
    assert (left.backups, left.transfers, left.locked_disks) == ((), (), ())


def test_the_body_has_to_be_xml(engine: EngineDouble, vm: VmDouble, token: str) -> None:
    path = f"{API}/vms/{vm.id}/backups"
    answer = plain(engine, "POST", path, backup_of(vm), token=token, content_type="text/json")
    assert answer[0] == 400
    assert plain(engine, "POST", path, backup_of(vm), token=token)[0] == 201


def test_nobody_comes_in_without_a_token(engine: EngineDouble, token: str) -> None:
    assert plain(engine, "GET", f"{API}/vms")[0] == 401
    assert plain(engine, "GET", f"{API}/vms", token="guessed")[0] == 401
    assert plain(engine, "GET", f"{API}/vms", token=token)[0] == 200
    assert plain(engine, "GET", "/elsewhere", token=token)[0] == 404
    engine.pass_time(3599)
    assert plain(engine, "GET", f"{API}/vms", token=token)[0] == 200
    engine.pass_time(1)
    assert plain(engine, "GET", f"{API}/vms", token=token)[0] == 401


def test_a_wrong_password(engine: EngineDouble) -> None:
    assert log_in(engine, "guessed")[0] == 401
    good, engine.password = engine.password, "another"
    with (
        pytest.raises(sdk.AuthError, match="Cannot authenticate user"),
        connected(engine) as system,
    ):
        system.get()
    engine.password = good


def test_the_log_has_no_secrets(engine: EngineDouble, vm: VmDouble, token: str) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        url = transferring(system, vm.disks[0], backup).get().transfer_url
    log = repr(engine.calls)
    assert f"/vms/{vm.id}/backups" in log
    for secret in (engine.password, token, url.rpartition("/")[2]):
        assert secret not in log
    assert [call.path for call in engine.calls[:2]] == ["/ovirt-engine/sso/oauth/token"] * 2


def test_a_search(engine: EngineDouble, vm: VmDouble) -> None:
    engine.add_vm("news", [MIB])
    with connected(engine) as system:
        vms = system.vms_service()
        assert [each.name for each in vms.list(search="name=m*")] == ["mail"]
        assert [each.name for each in vms.list(search='name="news" and status=UP')] == ["news"]
        assert [each.name for each in vms.list(max=1)] == ["mail"]
        assert vms.list(search="name=mai") == []
        [host] = system.hosts_service().list(search=f"hw_id={engine.host.hardware_id}")
        assert host.name == engine.host.name
        assert [d.name for d in system.storage_domains_service().list()] == ["data"]
        assert len(system.data_centers_service().list(search="storage.name=data")) == 1
        [snapshot] = vms.vm_service(vm.id).snapshots_service().list()
        assert snapshot.description == "Active VM"
        with pytest.raises(sdk.Error, match="cannot search for 'color=blue'"):
            vms.list(search="color=blue")
        engine.add_vm('the "old" one')
        with pytest.raises(sdk.Error, match="cannot search for 'name="):
            vms.list(search='name="the "old" one"')


def test_the_root_of_the_api(engine: EngineDouble) -> None:
    with connected(engine) as system:
        assert system.get().product_info.name == "oVirt Engine (a double)"


def test_a_client_without_tls_delays_no_other(engine: EngineDouble) -> None:
    parts = urlsplit(engine.url)
    address = (str(parts.hostname), int(parts.port or 0))
    with contextlib.closing(socket.create_connection(address)) as silent:
        assert log_in(engine)[0] == 200
        silent.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert log_in(engine)[0] == 200
