"""What an OVF of oVirt says about disks, and an OVF without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.dom import minidom

import pytest

from tapestream.errors import UsageError
from tapestream.testing import EngineDouble, create_image

from .steps import MIB

pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")

from tapestream.ovirt.ovf import OvfDisk, read_ovf, without_disks


def test_the_disks_of_a_vm(engine: EngineDouble, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    create_image(raw, MIB, "raw")
    vm = engine.add_vm("mail & news", [MIB, raw])
    vm.attachments[1].interface = "sata"
    vm.attachments[1].active = False
    vm.attachments[1].pass_discard = True
    found = read_ovf(vm.ovf)
    assert (found.vm_id, found.name, found.cluster) == (vm.id, "mail & news", "Default")
    [domain] = {disk.storage_domain.id for disk in vm.disks}
    first = OvfDisk(
        vm.disks[0].id,
        "mail & news_Disk1",
        "virtio_scsi",
        bootable=True,
        active=True,
        pass_discard=False,
        is_raw=False,
        is_sparse=True,
        wipe_after_delete=False,
        storage_domain_id=domain,
        is_image=True,
    )
    second = replace(
        first,
        id=vm.disks[1].id,
        name="mail & news_Disk2",
        interface="sata",
        bootable=False,
        active=False,
        pass_discard=True,
        is_raw=True,
    )
    assert found.disks == (first, second)


def test_an_ovf_without_disks(engine: EngineDouble) -> None:
    """The names of elements and attributes stay as they are: the engine needs them so."""
    vm = engine.add_vm("mail", [MIB, MIB])
    ovf = vm.ovf
    vm.attachments.clear()
    assert without_disks(ovf) == minidom.parseString(vm.ovf).toxml()
    assert read_ovf(without_disks(ovf)).disks == ()


def test_a_disk_with_snapshots_is_one_disk(engine: EngineDouble) -> None:
    ovf = engine.add_vm("mail", [MIB]).ovf
    start, end = ovf.index("<Disk "), ovf.index("</Section>")
    element = ovf[start:end]
    older = element.replace('diskId="', 'diskId="0').replace('boot="true"', 'boot="false"')
    [disk] = read_ovf(ovf[:start] + older + ovf[start:]).disks
    assert disk.bootable


def test_a_lun(engine: EngineDouble) -> None:
    ovf = engine.add_vm("mail", [MIB]).ovf.replace('storage_type="IMAGE"', 'storage_type="LUN"')
    [disk] = read_ovf(ovf).disks
    assert not disk.is_image


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<a",
        "<a/>",
        '<!DOCTYPE x><ovf:Envelope xmlns:ovf="x"/>',
        '<ovf:Envelope xmlns:ovf="x"/>',
    ],
)
def test_something_else(text: str) -> None:
    with pytest.raises(UsageError, match="the OVF cannot be used"):
        read_ovf(text)
