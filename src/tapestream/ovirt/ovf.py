"""The OVF of a VM, as oVirt's engine writes it: which disks the VM had, and how to do without them.

The engine reads an OVF by the names as they are written, such as `ovf:diskId`. So it is changed as
a document whose names stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from ..errors import UsageError

# The kind of an item of hardware that is a disk.
_DISK = "17"
# The values of `ovf:disk-interface`, by the names that the API has for them.
_INTERFACES = {
    "IDE": "ide",
    "SATA": "sata",
    "SPAPR_VSCSI": "spapr_vscsi",
    "VirtIO": "virtio",
    "VirtIO_SCSI": "virtio_scsi",
}


@dataclass(frozen=True)
class OvfDisk:
    """A disk of a VM, as its OVF has it.

    Attributes:
        id: The disk's id.
        name: Its name.
        interface: How the VM sees it, in the word of the API, such as "virtio_scsi".
        bootable: Whether the VM boots from it.
        active: Whether it is plugged in.
        pass_discard: Whether the VM may give storage back.
        is_raw: Whether its format is raw; otherwise qcow2.
        is_sparse: Whether its storage is allocated when it is written to.
        wipe_after_delete: Whether its storage is wiped when it is removed.
        storage_domain_id: Where it was; None if the OVF does not say.
        is_image: False for a LUN that the VM used directly: it is in no backup.
    """

    id: str
    name: str
    interface: str
    bootable: bool
    active: bool
    pass_discard: bool
    is_raw: bool
    is_sparse: bool
    wipe_after_delete: bool
    storage_domain_id: str | None
    is_image: bool


@dataclass(frozen=True)
class Ovf:
    """What a restore needs to know of an OVF.

    Attributes:
        vm_id: The VM's id.
        name: Its name.
        comment: Its comment.
        cluster: The name of its cluster; None if the OVF does not say.
        disks: Its disks, in their order.
    """

    vm_id: str
    name: str
    comment: str
    cluster: str | None
    disks: tuple[OvfDisk, ...]


def read_ovf(text: str) -> Ovf:
    """Read an OVF of oVirt's engine.

    Raises:
        UsageError: It is no OVF, or not one of oVirt.
    """
    envelope = _parse(text).documentElement
    content = next(_children(envelope, "Content"), None)
    system = content and _section(content, "OperatingSystemSection_Type")
    hardware = content and _section(content, "VirtualHardwareSection_Type")
    if content is None or system is None or hardware is None:
        raise _foreign("it describes no VM as oVirt does")
    items = {
        _text(item, "rasd:InstanceId"): item
        for item in _children(hardware, "Item")
        if _text(item, "rasd:ResourceType") == _DISK
    }
    kinds = {
        file.getAttribute("ovf:id"): file.getAttribute("ovf:disk_storage_type")
        for file in _files(envelope)
    }
    disks: dict[str, OvfDisk] = {}
    for element in _disks(envelope):
        image = element.getAttribute("ovf:diskId")
        disk = _disk(element, items.get(image), kinds.get(image, ""))
        # A disk with snapshots has one element for each of its images; the active one is the last.
        disks[disk.id] = disk
    return Ovf(
        system.getAttribute("ovf:id"),
        _text(content, "Name"),
        _text(content, "Comment"),
        _text(content, "ClusterName") or None,
        tuple(disks.values()),
    )


def without_disks(text: str) -> str:
    """The same OVF without disks.

    An engine that gets an OVF with disks attaches those that it still has, by their ids, to the new
    VM. In a restore, these are not the restored ones.

    Raises:
        UsageError: It is no OVF.
    """
    document = _parse(text)
    envelope = document.documentElement
    items = [
        item
        for content in _children(envelope, "Content")
        if (hardware := _section(content, "VirtualHardwareSection_Type")) is not None
        for item in _children(hardware, "Item")
        if _text(item, "rasd:ResourceType") == _DISK
    ]
    for element in (*_files(envelope), *_disks(envelope), *items):
        element.parentNode.removeChild(element)
    return str(document.toxml())


def _parse(text: str) -> Any:
    try:
        # expat limits what entities can expand to.
        document: Any = minidom.parseString(text.encode())  # noqa: S318
    except (ExpatError, ValueError) as e:
        raise _foreign(f"it is no XML: {e}") from e
    if document.doctype is not None or document.documentElement.tagName != "ovf:Envelope":
        raise _foreign("it is some other XML")
    return document


def _foreign(why: str) -> UsageError:
    return UsageError(
        f"the OVF cannot be used: {why}",
        hint="It must be the one that oVirt's engine gives with all_content=True.",
    )


def _disk(element: Any, item: Any, kind: str) -> OvfDisk:
    def flag(name: str) -> bool:
        return bool(element.getAttribute(f"ovf:{name}").lower() == "true")

    # An image is named by the ids of its disk and of the image.
    id_ = element.getAttribute("ovf:fileRef").partition("/")[0]
    return OvfDisk(
        id=id_,
        name=element.getAttribute("ovf:disk-alias") or id_,
        interface=_INTERFACES.get(element.getAttribute("ovf:disk-interface"), "virtio_scsi"),
        bootable=flag("boot"),
        active=item is None or _text(item, "IsPlugged").lower() != "false",
        pass_discard=flag("pass-discard"),
        is_raw=element.getAttribute("ovf:volume-format") == "RAW",
        is_sparse=element.getAttribute("ovf:volume-type") != "Preallocated",
        wipe_after_delete=flag("wipe-after-delete"),
        storage_domain_id=(item and _text(item, "rasd:StorageId")) or None,
        is_image=kind in ("", "IMAGE", "MANAGED_BLOCK_STORAGE"),
    )


def _files(envelope: Any) -> Iterator[Any]:
    for references in _children(envelope, "References"):
        yield from _children(references, "File")


def _disks(envelope: Any) -> Iterator[Any]:
    section = _section(envelope, "DiskSection_Type")
    return iter(()) if section is None else _children(section, "Disk")


def _section(parent: Any, kind: str) -> Any:
    sections = _children(parent, "Section")
    return next((one for one in sections if one.getAttribute("xsi:type") == f"ovf:{kind}"), None)


def _children(parent: Any, name: str) -> Iterator[Any]:
    # A list: elements may be removed meanwhile.
    for child in list(parent.childNodes):
        if isinstance(child, minidom.Element) and child.tagName == name:
            yield child


def _text(parent: Any, name: str) -> str:
    child = next(_children(parent, name), None)
    return "" if child is None else "".join(text.data for text in child.childNodes).strip()
