"""Restore with the double: new disks, uploads, a VM from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapestream import ImageioUploadSink, RawImageSource, copy
from tapestream.testing import EngineDouble, compare_images, image_info

from .clients import MIB, UPLOAD, connected, reach, sdk, start_transfer, transferring, types


def add_disk(system: Any, **options: Any) -> Any:
    """A new disk that can be written to: its service."""
    disks = system.disks_service()
    wanted = types.Disk(
        name="restored",
        provisioned_size=2 * MIB,
        format=options.pop("format", types.DiskFormat.COW),
        storage_domains=[types.StorageDomain(name="data")],
        **options,
    )
    added = disks.add(wanted)
    assert added.status == types.DiskStatus.LOCKED
    service = disks.disk_service(added.id)
    while service.get().status != types.DiskStatus.OK:
        pass
    return service


@pytest.mark.parametrize("format_", ["cow", "raw"])
def test_an_upload(engine: EngineDouble, tmp_path: Path, format_: str) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"restored" * 32 * 1024 + bytes(2 * MIB - 256 * 1024))
    with connected(engine) as system:
        service = add_disk(system, format=types.DiskFormat(format_))
        [disk] = engine.disks
        transfer = transferring(system, disk, direction=UPLOAD, inactivity_timeout=3600)
        assert transfer.get().inactivity_timeout == 3600
        assert service.get().status == types.DiskStatus.LOCKED
        url = transfer.get().transfer_url
        with (
            RawImageSource(raw) as src,
            ImageioUploadSink(url, cafile=engine.daemon.cafile) as dst,
        ):
            copy(src, dst)
        transfer.finalize()
        reach(transfer.get, "finished_success")
        assert service.get().status == types.DiskStatus.OK
    compare_images(raw, disk.path, a_format="raw", b_format=disk.format)
    assert image_info(disk.path)["format"] == disk.format
    assert engine.leftovers().nothing_open


@pytest.mark.parametrize("end", ["cancel", "finalize"])
def test_an_upload_that_failed_leaves_no_disk(engine: EngineDouble, end: str) -> None:
    engine.phases.transfer_finalize = ("finalizing_failure", "finished_failure")
    with connected(engine) as system:
        service = add_disk(system)
        [disk] = engine.disks
        transfer = transferring(system, disk, direction=UPLOAD)
        getattr(transfer, end)()
        reach(transfer.get, "finished_cleanup" if end == "cancel" else "finished_failure")
        with pytest.raises(sdk.NotFoundError):
            service.get()
    assert not disk.path.exists()
    assert engine.leftovers().nothing_open


def test_a_disk_that_is_busy_has_no_transfer(engine: EngineDouble) -> None:
    vm = engine.add_vm("mail", [MIB])
    with connected(engine) as system:
        with pytest.raises(sdk.Error, match="which is not down, uses the disk"):
            start_transfer(system, vm.disks[0])
        vm.status = "down"
        transfer = transferring(system, vm.disks[0])
        with pytest.raises(sdk.Error, match="is locked"):
            start_transfer(system, vm.disks[0], direction=UPLOAD)
        with pytest.raises(sdk.Error, match="locked"):
            system.disks_service().disk_service(vm.disks[0].id).remove()
        transfer.cancel()
        reach(transfer.get, "finished_cleanup")
        assert engine.leftovers().nothing_open is False  # the login
        assert vm.disks[0].path.exists()  # it was a download
        system.disks_service().disk_service(vm.disks[0].id).remove()
    assert engine.disks == vm.disks == []
    assert engine.leftovers().nothing_open


def test_a_vm_from_its_configuration(engine: EngineDouble) -> None:
    old = engine.add_vm("mail", [MIB])
    old.memory = 2048
    with connected(engine) as system:
        vms = system.vms_service()
        assert vms.vm_service(old.id).get().initialization is None
        kept = vms.vm_service(old.id).get(all_content=True).initialization.configuration
        assert kept.data == old.ovf
        configuration = types.Configuration(data=kept.data, type=types.ConfigurationType.OVF)
        initialization = types.Initialization(configuration=configuration)
        cluster = types.Cluster(name="Default")
        with pytest.raises(sdk.Error, match="name is already in use"):
            vms.add(types.Vm(initialization=initialization, cluster=cluster))
        with pytest.raises(sdk.Error, match="VM id already exists"):
            vms.add(types.Vm(name="mail-2", initialization=initialization, cluster=cluster))
        initialization.regenerate_ids = True
        vm = vms.add(types.Vm(name="mail-2", initialization=initialization, cluster=cluster))
        assert vm.status == types.VmStatus.DOWN
        disk = add_disk(system).get()
        attachments = vms.vm_service(vm.id).disk_attachments_service()
        attachment = types.DiskAttachment(
            disk=types.Disk(id=disk.id),
            interface=types.DiskInterface.VIRTIO_SCSI,
            bootable=True,
            active=True,
        )
        attachments.add(attachment)
        [listed] = attachments.list()
        assert (listed.disk.id, listed.bootable, listed.active) == (disk.id, True, True)
        with pytest.raises(sdk.Error, match="already attached"):
            attachments.add(attachment)
    assert [vm.name for vm in engine.vms] == ["mail", "mail-2"]
    assert engine.vms[1].memory == 2048
    assert [each.id for each in engine.vms[1].disks] == [disk.id]


def from_ovf(ovf: str, **options: Any) -> Any:
    """What creates a VM from a configuration."""
    configuration = types.Configuration(data=ovf, type=types.ConfigurationType.OVF)
    initialization = types.Initialization(
        configuration=configuration, regenerate_ids=options.pop("regenerate_ids", None)
    )
    cluster = types.Cluster(name=options.pop("cluster", "Default"))
    return types.Vm(initialization=initialization, cluster=cluster, **options)


def attachment_of(disk: Any, *, bootable: bool) -> Any:
    virtio = types.DiskInterface.VIRTIO
    return types.DiskAttachment(
        disk=types.Disk(id=disk.id), interface=virtio, bootable=bootable, pass_discard=True
    )


def test_a_vm_is_removed(engine: EngineDouble) -> None:
    vm, kept = engine.add_vm("mail", [MIB, MIB]), engine.add_vm("news", [MIB])
    removed, detached = vm.disks
    with connected(engine) as system:
        service = system.vms_service().vm_service(vm.id)
        with pytest.raises(sdk.Error, match="is not down"):
            service.remove()
        vm.status = "down"
        detached.status = "locked"
        with pytest.raises(sdk.Error, match="Disks are locked: mail_Disk2"):
            service.remove(detach_only=True)
        detached.status = "ok"
        vm.attachments.pop()
        service.remove()
        with pytest.raises(sdk.NotFoundError):
            service.get()
        kept.status = "down"
        system.vms_service().vm_service(kept.id).remove(detach_only=True)
    assert engine.vms == []
    assert engine.disks == [detached, *kept.disks]
    assert not removed.path.exists()


def test_a_new_vm_takes_its_old_disks_if_nobody_has_them(engine: EngineDouble) -> None:
    """So does oVirt: a program that restores beside them must take them out of the OVF."""
    old = engine.add_vm("mail", [MIB, MIB], status="down")
    ovf, (first, second) = old.ovf, old.disks
    assert 'ovf:boot="true"' in ovf
    with connected(engine) as system:
        vms = system.vms_service()
        vms.vm_service(old.id).remove(detach_only=True)
        engine.add_vm("news").attachments.append(old.attachments[1])
        vm = vms.add(from_ovf(ovf))
        assert vm.id == old.id
        [attached] = vms.vm_service(vm.id).disk_attachments_service().list()
        assert attached.disk.id == first.id != second.id


def test_a_vm_takes_its_time(engine: EngineDouble) -> None:
    engine.phases.vm_add = ("image_locked", "image_locked", "down")
    ovf = engine.add_vm("mail").ovf
    with connected(engine) as system:
        disk = add_disk(system).get()
        vms = system.vms_service()
        vm = vms.add(from_ovf(ovf, name="new", regenerate_ids=True))
        service = vms.vm_service(vm.id)
        with pytest.raises(sdk.Error, match="The VM is locked"):
            service.disk_attachments_service().add(attachment_of(disk, bootable=True))
        states = [service.get().status.value for _ in range(3)]
        assert states == ["image_locked", "down", "down"]
        service.disk_attachments_service().add(attachment_of(disk, bootable=True))
        [attached] = service.disk_attachments_service().list()
        assert attached.pass_discard
        assert attached.interface == types.DiskInterface.VIRTIO
        other = add_disk(system).get()
        with pytest.raises(sdk.Error, match="restored is already marked as boot"):
            service.disk_attachments_service().add(attachment_of(other, bootable=True))


@pytest.mark.parametrize(
    ("wrong", "right", "why"),
    [
        ("<", "&lt;", "the OVF is no XML"),
        ("xmlns:ovf=", "xmlns:ns0=", "unbound prefix"),
        ("ovf:", "ns0:", "does not name http://schemas.dmtf.org/ovf/envelope/1/ 'ovf'"),
        ("Content", "System", "the OVF has no VM"),
        ("<Name>mail</Name>", "", "a VM without a name"),
    ],
)
def test_an_ovf_that_the_engine_does_not_understand(
    engine: EngineDouble, wrong: str, right: str, why: str
) -> None:
    ovf = engine.add_vm("mail", [MIB]).ovf.replace(wrong, right)
    if "ns0" in right:
        ovf = ovf.replace("xmlns:ovf", "xmlns:ns0")
    with connected(engine) as system, pytest.raises(sdk.Error) as failed:
        system.vms_service().add(from_ovf(ovf, name="new"))
    assert why in str(failed.value)
    assert len(engine.vms) == 1


def test_clusters(tmp_path: Path, engine: EngineDouble) -> None:
    with EngineDouble(tmp_path / "two", daemon=engine.daemon, clusters=["a", "b"]) as two:
        ovf = two.add_vm("mail").ovf
        assert "<ClusterName>a</ClusterName>" in ovf
        with connected(two) as system:
            assert [each.name for each in system.clusters_service().list()] == ["a", "b"]
            [b] = system.clusters_service().list(search="name=b")
            with pytest.raises(sdk.Error, match="Cluster: id=None, name=c"):
                system.vms_service().add(from_ovf(ovf, name="x", cluster="c"))
            system.vms_service().add(from_ovf(ovf, name="x", cluster="b", regenerate_ids=True))
            [vm] = system.vms_service().list(search="name=x")
            assert system.clusters_service().list(search=f"id={b.id}")[0].name == vm.cluster.name
    with pytest.raises(ValueError, match="clusters must be"):
        EngineDouble(tmp_path / "none", clusters=[])


def test_jobs_are_found_by_their_correlation_id(engine: EngineDouble) -> None:
    with connected(engine) as system:
        disk = types.Disk(
            provisioned_size=MIB,
            format=types.DiskFormat.COW,
            storage_domains=[types.StorageDomain(name="data")],
        )
        system.disks_service().add(disk, query={"correlation_id": "job-1"})
        jobs = system.jobs_service()
        states = [jobs.list(search="correlation_id=job-1")[0].status.value for _ in range(3)]
        assert states == ["started", "finished", "finished"]
        assert jobs.list(search="correlation_id=job-2") == []
