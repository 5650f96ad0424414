"""VMs and their disks, as the engine knows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._log import Log
from .._readable import count_text, size_text
from .._shown import short_repr
from ..errors import LocalIOError, UsageError
from .asking import asking
from .sdk import sdk, types

log = Log("tapestream.ovirt")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Where a host's own id is, if this machine is a host.
VDSM_ID = "/etc/vdsm/vdsm.id"


@dataclass(frozen=True, repr=False)
class VMDisk:
    """A disk that is attached to a VM.

    Attributes:
        id: Its id.
        name: Its name (alias).
        size: Its virtual size in bytes.
        active: Whether the VM uses it. The engine backs up no other disks.
        is_image: Whether the engine keeps it in a storage domain. A LUN that is attached directly
            cannot be backed up.
        storage_domain_id: Where it is; None if that is nowhere.
        is_raw: Whether its image is raw: then nothing records what changes on it, and it is always
            backed up whole.
    """

    id: str
    name: str
    size: int
    active: bool
    is_image: bool
    storage_domain_id: str | None
    is_raw: bool = False

    def __repr__(self) -> str:
        no = "" if self.can_be_backed_up else ", not backed up"
        return short_repr(self, f"{self.name} ({self.id}), {size_text(self.size)}{no}")

    @property
    def can_be_backed_up(self) -> bool:
        """Whether the engine backs it up."""
        return self.active and self.is_image


@dataclass(frozen=True, repr=False)
class VM:
    """A virtual machine.

    Attributes:
        id: Its id.
        name: Its name.
        ovf: Its configuration, from which the engine can make it again; "" if it has none.
        disks: Its disks.
    """

    id: str
    name: str
    ovf: str
    disks: tuple[VMDisk, ...]

    def __repr__(self) -> str:
        return short_repr(self, f"{self.name} ({self.id}), {count_text(len(self.disks), 'disk')}")

    def choose(self, disks: Iterable[str] | None) -> tuple[VMDisk, ...]:
        """Choose disks by their ids or names; None for all that can be backed up.

        Raises:
            UsageError: It has no such disk, or several of that name, or none at all.
        """
        if disks is None:
            chosen = [disk for disk in self.disks if disk.can_be_backed_up]
        elif isinstance(disks, str):
            raise UsageError(f"disks must be a list of ids or names, not {disks!r}")
        else:
            chosen = [self._disk(wanted) for wanted in dict.fromkeys(disks)]
        if not chosen:
            raise UsageError(f"VM {self.name} has no disk to back up")
        return tuple(dict.fromkeys(chosen))

    def _disk(self, wanted: str) -> VMDisk:
        found = [disk for disk in self.disks if wanted == disk.id]
        found = found or [disk for disk in self.disks if wanted == disk.name]
        if len(found) != 1:
            names = ", ".join(f"{disk.name} ({disk.id})" for disk in self.disks)
            what = "more than one disk" if found else "no disk"
            raise UsageError(
                f"VM {self.name} has {what} {wanted}", hint=f"Its disks are {names or 'none'}."
            )
        return found[0]


@dataclass(frozen=True)
class VMEntry:
    """A VM in a list.

    Attributes:
        id: Its id.
        name: Its name.
        status: In the word of the API, such as "up" or "down".
    """

    id: str
    name: str
    status: str


def list_vms(connection: sdk.Connection) -> list[VMEntry]:
    """All VMs that the user may see, by their names.

    Args:
        connection: A connection of the SDK.

    Raises:
        EngineError: The engine refused the request, or cannot be reached.
    """
    with asking("list the VMs"):
        found = connection.system_service().vms_service().list()
    return sorted(
        (VMEntry(vm.id, vm.name, str(vm.status or "unknown")) for vm in found),
        key=lambda vm: vm.name,
    )


def find_vm(connection: sdk.Connection, vm: str) -> VM:
    """Find a VM with its disks and its configuration.

    Args:
        connection: The connection to the engine.
        vm: Its id or its name.

    Raises:
        UsageError: There is no such VM, or several have this name.
        EngineError: The engine refused the request, or cannot be reached.
    """
    if not isinstance(vm, str) or not vm:
        raise UsageError(f"a VM is given by its id or its name, not by {vm!r}")
    with asking(f"look for VM {vm}"):
        vms = connection.system_service().vms_service()
        found = [each for each in vms.list(search=_search_for(vm)) if vm in (each.id, each.name)]
        if len(found) != 1:
            ids = ", ".join(each.id for each in found)
            raise UsageError(
                f"there are {len(found)} VMs with the name {vm}"
                if found
                else f"there is no VM {vm}, or this user may not see it",
                hint=f"Give its id: {ids}." if found else "list_vms lists the VMs.",
            )
        service = vms.vm_service(found[0].id)
        whole = service.get(all_content=True)
        disks = [
            _disk(connection, attachment)
            for attachment in service.disk_attachments_service().list()
        ]
    setup = whole.initialization
    ovf = setup.configuration.data if setup and setup.configuration else None
    return VM(whole.id, whole.name, ovf or "", tuple(disks))


def _search_for(vm: str) -> str | None:
    """What the engine is to search for; None for all VMs. It may find others, too."""
    if _UUID.fullmatch(vm):
        return f"id={vm}"
    # A name with spaces needs the quotes, so one that has quotes itself cannot be searched for.
    return None if '"' in vm else f'name="{vm}"'


def the_vm(connection: sdk.Connection, vm: str | VM) -> VM:
    """A VM that was found before, or is given by its id or name."""
    return vm if isinstance(vm, VM) else find_vm(connection, vm)


def _disk(connection: sdk.Connection, attachment: Any) -> VMDisk:
    disk = connection.system_service().disks_service().disk_service(attachment.disk.id).get()
    domains = disk.storage_domains or []
    return VMDisk(
        disk.id,
        disk.alias or disk.name or disk.id,
        disk.provisioned_size or 0,
        attachment.active is not False,
        disk.storage_type in (None, types.DiskStorageType.IMAGE),
        domains[0].id if domains else None,
        disk.format is types.DiskFormat.RAW,
    )


def host_here(
    connection: sdk.Connection, disks: Sequence[VMDisk], vdsm_id: str = VDSM_ID
) -> str | None:
    """The id of the host that this program runs on, for `download_transfer` and `upload_transfer`.

    The host then serves the data over its unix socket, which is the fastest way.

    Args:
        connection: The connection to the engine.
        disks: The disks that it would have to serve.
        vdsm_id: The file in which a host has its own id.

    Returns:
        Its id; None if this machine is no host, or one that cannot serve these disks now: it is not
        up, or belongs to another data center.

    Raises:
        EngineError: The engine refused a request, or cannot be reached.
    """
    try:
        hardware_id = Path(vdsm_id).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise LocalIOError(f"cannot read the id of this host in {vdsm_id}", e) from e
    domain = next((disk.storage_domain_id for disk in disks if disk.storage_domain_id), None)
    if domain is None:
        return None
    system = connection.system_service()
    with asking("look for this host"):
        storage = system.storage_domains_service().storage_domain_service(domain).get()
        centers = system.data_centers_service().list(
            search=f'storage.name="{storage.name}"', case_sensitive=True
        )
        search = f"hw_id={hardware_id} and status=up"
        if centers:
            search += f' and datacenter="{centers[0].name}"'
        hosts = system.hosts_service().list(search=search, case_sensitive=True)
    if not hosts:
        log.info("This host (%s) cannot serve the disks now: the engine chooses one", hardware_id)
        return None
    return str(hosts[0].id)
