"""The OVF of the double: the configuration of a VM, in the words in which oVirt's engine has it.

The engine reads an OVF by the names as they are written, such as `ovf:diskId` and `xsi:type`. So
does the double: whoever changes the prefixes gets an error, as from the engine.
"""

from __future__ import annotations

import re
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from .entities import Attachment, VmDouble
else:
    Attachment = VmDouble = Any  # they import this module

# With the slash at the end, unlike the standard.
_OVF = "http://schemas.dmtf.org/ovf/envelope/1/"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_GIB = 1024**3
_MEMORY, _DISK = "4", "17"
_NOTHING = "00000000-0000-0000-0000-000000000000"
# By the names in the API, the names in an OVF.
_INTERFACES = {
    "ide": "IDE",
    "sata": "SATA",
    "spapr_vscsi": "SPAPR_VSCSI",
    "virtio": "VirtIO",
    "virtio_scsi": "VirtIO_SCSI",
}


class OvfError(Exception):
    """The engine does not understand an OVF."""


@dataclass(frozen=True)
class Configuration:
    """What the double keeps of an OVF.

    Attributes:
        vm_id: The id of the VM.
        name: Its name.
        memory: Its memory in MiB.
        comment: Its comment.
        disks: The ids of its disks.
    """

    vm_id: str
    name: str
    memory: int
    comment: str
    disks: tuple[str, ...]


def write(vm: VmDouble) -> str:
    """Return the OVF of a VM as it is now."""
    files = "".join(map(_file, vm.attachments))
    disks = "".join(map(_disk, vm.attachments))
    items = "".join(map(_item, vm.attachments))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<ovf:Envelope xmlns:ovf="{_OVF}" xmlns:rasd="{_RASD}" xmlns:vssd="{_VSSD}" '
        f'xmlns:xsi="{_XSI}" ovf:version="4.5.6.0">'
        f"<References>{files}</References>"
        '<NetworkSection><Info>List of networks</Info><Network ovf:name="ovirtmgmt"/>'
        "</NetworkSection>"
        f'<Section xsi:type="ovf:DiskSection_Type"><Info>List of Virtual Disks</Info>{disks}'
        "</Section>"
        '<Content ovf:id="out" xsi:type="ovf:VirtualSystem_Type">'
        f"<Name>{escape(vm.name)}</Name><Description></Description>"
        f"<Comment>{escape(vm.comment)}</Comment>"
        f"<ClusterName>{escape(vm.cluster)}</ClusterName>"
        f'<Section ovf:id="{vm.id}" ovf:required="false" '
        'xsi:type="ovf:OperatingSystemSection_Type"><Info>Guest Operating System</Info>'
        "<Description>other_linux</Description></Section>"
        '<Section xsi:type="ovf:VirtualHardwareSection_Type">'
        f"<Info>1 CPU, {vm.memory} Memory</Info>"
        f"<Item><rasd:Caption>{vm.memory} MB of memory</rasd:Caption>"
        f"<rasd:InstanceId>2</rasd:InstanceId><rasd:ResourceType>{_MEMORY}</rasd:ResourceType>"
        "<rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits>"
        f"<rasd:VirtualQuantity>{vm.memory}</rasd:VirtualQuantity></Item>{items}"
        "</Section></Content></ovf:Envelope>"
    )


def _image(attachment: Attachment) -> tuple[str, str]:
    """The id of a disk's image, and the file by which an OVF names the image."""
    # A disk has one image for each of its snapshots; the double's disks have one.
    image = str(uuid.uuid5(uuid.UUID(attachment.disk.id), "image"))
    return image, f"{attachment.disk.id}/{image}"


def _file(attachment: Attachment) -> str:
    image, file = _image(attachment)
    return (
        f'<File ovf:href="{file}" ovf:id="{image}" ovf:size="{attachment.disk.size}" '
        'ovf:description="" ovf:disk_storage_type="IMAGE" ovf:cinder_volume_type=""/>'
    )


def _disk(attachment: Attachment) -> str:
    disk, (image, file) = attachment.disk, _image(attachment)
    return (
        f'<Disk ovf:diskId="{image}" ovf:size="{disk.size // _GIB}" ovf:actual_size="0" '
        f'ovf:vm_snapshot_id="{uuid.uuid5(uuid.UUID(disk.id), "snapshot")}" ovf:parentRef="" '
        f'ovf:fileRef="{file}" ovf:format="http://www.gnome.org/~markmc/qcow-image-format.html" '
        f'ovf:volume-format="{"COW" if disk.format == "qcow2" else "RAW"}" '
        f'ovf:volume-type="Sparse" ovf:disk-interface="{_INTERFACES[attachment.interface]}" '
        f'ovf:read-only="false" ovf:shareable="false" ovf:boot="{_word(attachment.bootable)}" '
        f'ovf:pass-discard="{_word(attachment.pass_discard)}" '
        f'ovf:disk-alias={quoteattr(disk.name)} ovf:disk-description="" '
        'ovf:wipe-after-delete="false"/>'
    )


def _item(attachment: Attachment) -> str:
    disk, (image, file) = attachment.disk, _image(attachment)
    return (
        f"<Item><rasd:Caption>{escape(disk.name)}</rasd:Caption>"
        f"<rasd:InstanceId>{image}</rasd:InstanceId><rasd:ResourceType>{_DISK}</rasd:ResourceType>"
        f"<rasd:HostResource>{file}</rasd:HostResource><rasd:Parent>{_NOTHING}</rasd:Parent>"
        f"<rasd:Template>{_NOTHING}</rasd:Template><rasd:ApplicationList></rasd:ApplicationList>"
        f"<rasd:StorageId>{disk.storage_domain.id}</rasd:StorageId>"
        f"<Type>disk</Type><Device>disk</Device>"
        f"<IsPlugged>{_word(attachment.active)}</IsPlugged><IsReadOnly>false</IsReadOnly></Item>"
    )


def _word(value: bool) -> str:
    return str(value).lower()


def read(text: str) -> Configuration:
    """Read an OVF, as the engine does.

    Raises:
        OvfError: It is no XML, has other prefixes, or lacks what a VM needs.
    """
    try:
        root = ET.fromstring(text)
    except ET.ParseError as e:
        raise OvfError(f"the OVF is no XML: {e}") from None
    prefixes = dict(re.findall(r'xmlns:(\w+)="([^"]*)"', text))
    for prefix, namespace in (("ovf", _OVF), ("rasd", _RASD), ("xsi", _XSI)):
        if prefixes.get(prefix) != namespace:
            raise OvfError(f"the OVF does not name {namespace} {prefix!r}")
    content = root.find("Content")
    if content is None:
        raise OvfError("the OVF has no VM")
    sections = {each.get(f"{{{_XSI}}}type"): each for each in content.iterfind("Section")}
    system = sections.get("ovf:OperatingSystemSection_Type")
    hardware = sections.get("ovf:VirtualHardwareSection_Type")
    name = content.findtext("Name")
    if system is None or hardware is None or not name:
        raise OvfError("the OVF has a VM without a name, an operating system or hardware")
    items = {item.findtext(f"{{{_RASD}}}ResourceType"): item for item in hardware.iterfind("Item")}
    memory = items[_MEMORY].findtext(f"{{{_RASD}}}VirtualQuantity", "")
    files = [disk.get(f"{{{_OVF}}}fileRef", "") for disk in root.iterfind("Section/Disk")]
    disks = tuple(file.partition("/")[0] for file in files)
    comment = content.findtext("Comment", "")
    return Configuration(system.get(f"{{{_OVF}}}id", ""), name, int(memory), comment, disks)
