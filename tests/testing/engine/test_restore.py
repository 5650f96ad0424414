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
    assert [each.id for each in engine.vms[1].disks] == [disk.id]


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
