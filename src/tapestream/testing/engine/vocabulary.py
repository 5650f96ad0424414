"""The words of oVirt's REST API that the double knows: what it takes, and what it says.

A request with an element, an attribute or a value that is not here is refused. The names are those
of the API's XML; `/ovirt-engine/api/model` of a real engine describes all of them.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from .entities import (
    Attachment,
    Backup,
    Checkpoint,
    Cluster,
    DiskDouble,
    Event,
    Host,
    Inventory,
    Job,
    StorageDomain,
    Transfer,
    VmDouble,
)
from .faults import FaultError, invalid

API = "/ovirt-engine/api"
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# More than the largest OVF of a VM, and less than what could fill a test machine's memory.
MAX_BODY = 16 * 1024**2

# Values, by a check of their text.
_Check = Callable[[str], bool]


def _one_of(*values: str) -> _Check:
    return lambda text: text in values


def _is_text(_text: str) -> bool:
    return True


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_boolean(text: str) -> bool:
    return text in ("true", "false")


def _is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


@dataclass(frozen=True)
class _Shape:
    """What an element may have: attributes, values by name, and elements by name and shape."""

    attributes: frozenset[str] = frozenset()
    values: tuple[tuple[str, _Check], ...] = ()
    elements: tuple[tuple[str, str], ...] = ()


def _shape(
    attributes: str = "", elements: dict[str, str] | None = None, **values: _Check
) -> _Shape:
    return _Shape(
        frozenset(attributes.split()), tuple(values.items()), tuple((elements or {}).items())
    )


_SHAPES = {
    "backup": _shape(
        "id",
        {"disks": "disks"},
        description=_is_text,
        from_checkpoint_id=_is_uuid,
    ),
    "disks": _shape("href", {"disk": "disk"}),
    "disk": _shape(
        "id href",
        {"storage_domains": "storage_domains"},
        alias=_is_text,
        backup=_one_of("none", "incremental"),
        content_type=_one_of("data", "iso"),
        description=_is_text,
        format=_one_of("cow", "raw"),
        initial_size=_is_number,
        name=_is_text,
        provisioned_size=_is_number,
        sparse=_is_boolean,
        status=_one_of("ok", "locked", "illegal"),
        storage_type=_one_of("image"),
        wipe_after_delete=_is_boolean,
    ),
    "storage_domains": _shape("", {"storage_domain": "named"}),
    "named": _shape("id href", name=_is_text),
    "image_transfer": _shape(
        "id",
        {"backup": "named", "disk": "named", "host": "host"},
        direction=_one_of("download", "upload"),
        format=_one_of("cow", "raw"),
        inactivity_timeout=_is_number,
        shallow=_is_boolean,
        timeout_policy=_one_of("legacy", "pause", "cancel"),
    ),
    "host": _shape("id href", address=_is_text, name=_is_text, status=_is_text),
    "vm": _shape(
        "",
        {"cluster": "named", "initialization": "initialization"},
        comment=_is_text,
        description=_is_text,
        name=_is_text,
    ),
    "initialization": _shape("", {"configuration": "configuration"}, regenerate_ids=_is_boolean),
    "configuration": _shape("", data=_is_text, type=_one_of("ovf")),
    "disk_attachment": _shape(
        "id",
        {"disk": "disk"},
        active=_is_boolean,
        bootable=_is_boolean,
        interface=_one_of("ide", "sata", "spapr_vscsi", "virtio", "virtio_scsi"),
        pass_discard=_is_boolean,
    ),
    "action": _shape(),
}


def parse(body: bytes, root: str) -> ET.Element:
    """Parse what a client sent.

    Raises:
        FaultError: It is no XML, or has something that an engine does not know there.
    """
    try:
        element = ET.fromstring(body)
    except ET.ParseError as e:
        raise invalid(f"the body is no XML: {e}") from None
    if element.tag != root:
        raise invalid(f"the body is <{element.tag}>, not <{root}>")
    _check(element, root, element.tag)
    return element


def _check(element: ET.Element, shape_name: str, path: str) -> None:
    shape = _SHAPES[shape_name]
    for attribute in element.attrib:
        if attribute not in shape.attributes:
            raise invalid(f"<{path}> has no attribute {attribute}")
    values, elements = dict(shape.values), dict(shape.elements)
    seen = set()
    for child in element:
        below = f"{path}/{child.tag}"
        if child.tag in seen and path.rpartition("/")[2] != f"{child.tag}s":
            raise invalid(f"<{below}> is there twice")
        seen.add(child.tag)
        if child.tag in elements:
            _check(child, elements[child.tag], below)
        elif child.tag not in values:
            raise invalid(f"<{path}> has no element {child.tag}")
        elif len(child) or child.attrib or not values[child.tag](child.text or ""):
            raise invalid(f"<{below}> cannot be {child.text!r}")


def id_in(element: ET.Element, path: str) -> str | None:
    """Return the id of an element below, or None if there is none."""
    found = element if path == "." else element.find(path)
    return None if found is None else found.get("id")


def new_id_in(element: ET.Element) -> str | None:
    """Return the id that a client wants for what it creates."""
    wanted = element.get("id")
    if wanted is not None and not _is_uuid(wanted):
        raise invalid(f"{wanted!r} is no id")
    return wanted


def required(element: ET.Element, *names: str) -> None:
    """Refuse an element that lacks one of these, as the engine does.

    Raises:
        FaultError: One is missing.
    """
    absent = [name for name in names if element.find(name) is None]
    if absent:
        words = ", ".join(absent).replace("/", ".")
        what = f"{element.tag.title().replace('_', '')} [{words}] required for add"
        raise FaultError(400, what, "Incomplete parameters")


def _element(
    tag: str, *children: ET.Element, text: str | None = None, **attributes: str
) -> ET.Element:
    element = ET.Element(tag, attributes)
    element.text = text
    element.extend(children)
    return element


def _values(**values: object) -> Iterable[ET.Element]:
    for name, value in values.items():
        if isinstance(value, bool):
            yield _element(name, text=str(value).lower())
        elif isinstance(value, datetime):
            yield _element(name, text=value.isoformat(timespec="milliseconds"))
        elif value is not None:
            yield _element(name, text=str(value))


def _reference(tag: str, id_: str, path: str) -> ET.Element:
    return _element(tag, id=id_, href=f"{API}/{path}/{id_}")


def to_text(element: ET.Element) -> bytes:
    """Return the body of a reply."""
    return b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n' + ET.tostring(element)


def collection(tag: str, elements: Iterable[ET.Element]) -> ET.Element:
    """Return a list of objects."""
    return _element(tag, *elements)


def fault(error: FaultError) -> ET.Element:
    """Return the body of an error."""
    return _element("fault", *_values(detail=error.detail, reason=error.reason))


def action(error: FaultError | None = None) -> ET.Element:
    """Return the reply to an action, such as `finalize`."""
    if error is not None:
        return _element("action", fault(error), *_values(status="failed"))
    return _element("action", *_values(status="complete"))


def api() -> ET.Element:
    """Return the root of the API."""
    version = _element("version", *_values(major=4, minor=5, build=6, full_version="4.5.6-double"))
    product = _element("product_info", version, *_values(name="oVirt Engine (a double)"))
    return _element("api", product)


def vm(found: VmDouble, *, all_content: bool = False) -> ET.Element:
    """Return a VM; its OVF only if it is asked for, as the engine does."""
    element = _reference("vm", found.id, "vms")
    element.extend(_values(comment=found.comment, name=found.name, status=found.status))
    element.append(_element("cluster", *_values(name=found.cluster)))
    if all_content:
        configuration = _element("configuration", *_values(data=found.ovf, type="ovf"))
        element.append(_element("initialization", configuration))
    return element


def disk(found: DiskDouble, *, mode: str | None = None) -> ET.Element:
    """Return a disk, for a list of a backup's disks with how it is backed up."""
    element = _reference("disk", found.id, "disks")
    domain = _reference("storage_domain", found.storage_domain.id, "storagedomains")
    element.extend(
        _values(
            name=found.name,
            alias=found.name,
            backup="incremental" if found.incremental else "none",
            content_type="data",
            format="cow" if found.format == "qcow2" else "raw",
            provisioned_size=found.size,
            sparse=True,
            status=found.status,
            storage_type="image",
        )
    )
    if mode is not None:
        element.extend(_values(backup_mode=mode))
    else:
        element.append(_element("storage_domains", domain))
    return element


def attachment(found: Attachment, vm_id: str) -> ET.Element:
    """Return how a disk is attached to a VM."""
    path = f"vms/{vm_id}/diskattachments"
    element = _reference("disk_attachment", found.disk.id, path)
    element.extend(
        _values(
            active=found.active,
            bootable=found.bootable,
            interface=found.interface,
            pass_discard=found.pass_discard,
        )
    )
    element.append(_reference("disk", found.disk.id, "disks"))
    return element


def backup(found: Backup, host: Host) -> ET.Element:
    """Return a backup; its checkpoint only when it is made, as the engine does."""
    element = _reference("backup", found.id, f"vms/{found.vm.id}/backups")
    made = found.progress.phase not in ("initializing", "starting")
    element.extend(
        _values(
            creation_date=found.created,
            description=found.description,
            from_checkpoint_id=None if found.parent is None else found.parent.id,
            phase=found.progress.phase,
            to_checkpoint_id=found.checkpoint.id if made and found.checkpoint else None,
        )
    )
    element.append(_reference("vm", found.vm.id, "vms"))
    element.append(_reference("host", host.id, "hosts"))
    return element


def checkpoint(found: Checkpoint, vm_id: str) -> ET.Element:
    """Return a checkpoint of a VM."""
    element = _reference("checkpoint", found.id, f"vms/{vm_id}/checkpoints")
    element.extend(
        _values(
            creation_date=found.created,
            description=found.description,
            parent_id=found.parent,
            state=found.progress.phase,
        )
    )
    element.append(_reference("vm", vm_id, "vms"))
    return element


def transfer(found: Transfer, host: Host) -> ET.Element:
    """Return an image transfer; its URLs only while it has a ticket."""
    element = _reference("image_transfer", found.id, "imagetransfers")
    element.extend(
        _values(
            direction=found.direction,
            format="raw",
            inactivity_timeout=found.inactivity_timeout,
            phase=found.progress.phase,
            proxy_url=found.url,
            timeout_policy=found.timeout_policy,
            transfer_url=found.url,
        )
    )
    if found.backup is not None:
        element.append(_element("backup", id=found.backup.id))
    # An engine says which disk it is as the image, whatever the transfer was started with.
    element.append(_element("image", id=found.disk.id))
    element.append(_reference("host", host.id, "hosts"))
    return element


def host(found: Host) -> ET.Element:
    """Return the host."""
    element = _reference("host", found.id, "hosts")
    element.extend(_values(name=found.name, address="127.0.0.1", status=found.status))
    return element


def cluster(found: Cluster) -> ET.Element:
    """Return a cluster."""
    element = _reference("cluster", found.id, "clusters")
    element.extend(_values(name=found.name))
    return element


def storage_domain(found: StorageDomain) -> ET.Element:
    """Return a storage domain."""
    element = _reference("storage_domain", found.id, "storagedomains")
    element.extend(_values(name=found.name, type="data", status="active"))
    return element


def data_center(inventory: Inventory) -> ET.Element:
    """Return the data center."""
    element = _reference("data_center", inventory.data_center_id, "datacenters")
    element.extend(_values(name=inventory.data_center, status="up"))
    return element


def snapshot(found: VmDouble) -> ET.Element:
    """Return the one snapshot that every VM has: its disks as they are now."""
    element = _reference("snapshot", found.id, f"vms/{found.id}/snapshots")
    element.extend(_values(description="Active VM", snapshot_status="ok", snapshot_type="active"))
    return element


def event(found: Event) -> ET.Element:
    """Return an event."""
    element = _reference("event", str(found.id), "events")
    element.extend(
        _values(
            code=found.code,
            description=found.description,
            severity=found.severity,
            time=found.time,
        )
    )
    return element


def job(found: Job) -> ET.Element:
    """Return a job."""
    element = _reference("job", found.id, "jobs")
    element.extend(_values(description=found.description, status=found.progress.phase))
    return element
