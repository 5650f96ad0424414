"""A new VM, made from the OVF of another one; until it is restored, a mark in it says so."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError, UsageError
from .asking import NOT_FOUND, asking, repeat
from .cleaning import uninterrupted
from .ovf import OvfDisk, without_disks
from .patience import Patience
from .sdk import sdk, types
from .waiting import Waiting, wait_for


@dataclass(frozen=True)
class NewVM:
    """A VM that is being restored.

    Attributes:
        connection: The connection to the engine.
        name: Its name.
        mark: What its comment is until it is restored. No other VM has it: so it is found if the
            engine's reply is lost, or if the program is killed.
        patience: How long to wait, and what ends that early.
    """

    connection: sdk.Connection
    name: str
    mark: str
    patience: Patience

    def make(self, ovf: str, cluster_id: str, *, new_ids: bool) -> str:
        """Make it without disks, wait until it can be changed, and return its id."""
        wanted = types.Vm(
            name=self.name,
            comment=self.mark,
            cluster=types.Cluster(id=cluster_id),
            initialization=types.Initialization(
                configuration=types.Configuration(
                    data=without_disks(ovf), type=types.ConfigurationType.OVF
                ),
                regenerate_ids=new_ids,
            ),
        )

        def add() -> None:
            with asking(f"make the VM {self.name}"):
                uninterrupted(lambda: self._all().add(wanted))

        def is_made() -> bool:
            named = self._named()
            if named and all(vm.comment != self.mark for vm in named):
                raise name_is_taken(self.name)  # the engine refuses it now, and later
            return bool(named)

        repeat(add, self.patience, done=is_made)
        found = self.find()
        if found is None:
            raise EngineError(f"the engine does not have the VM {self.name}, which it has made")
        status = types.VmStatus
        waiting = Waiting(
            f"the new VM {self.name}",
            [status.DOWN],
            [status.IMAGE_LOCKED],
            self.patience.limits.disk,
            found.id,
            lambda vm: vm.status,
        )
        wait_for(self.connection, waiting, self._one(found.id).get, self.patience)
        return str(found.id)

    def find(self) -> Any:
        """The VM, if it is there and has the mark; otherwise None."""
        return next((vm for vm in self._named() if vm.comment == self.mark), None)

    def is_restored(self, disk_ids: Collection[str]) -> bool:
        """Whether the VM has some of these disks, and the mark no more."""

        def has_disks(vm: Any) -> bool:
            attachments = self._one(vm.id).disk_attachments_service()
            with asking(f"look at the disks of VM {self.name}"):
                return any(each.disk.id in disk_ids for each in attachments.list())

        def look() -> bool:
            return any(has_disks(vm) for vm in self._named() if vm.comment != self.mark)

        return bool(repeat(look, self.patience))

    def attach(self, vm_id: str, disk_id: str, disk: OvfDisk) -> None:
        """Attach a restored disk as the old one was."""
        attachments = self._one(vm_id).disk_attachments_service()
        wanted = types.DiskAttachment(
            disk=types.Disk(id=disk_id),
            interface=types.DiskInterface(disk.interface),
            bootable=disk.bootable,
            active=disk.active,
            pass_discard=disk.pass_discard or None,
        )

        def attach() -> None:
            with asking(f"attach disk {disk.name} to VM {self.name}"):
                attachments.add(wanted)

        def is_attached() -> bool:
            with asking(f"look at the disks of VM {self.name}"):
                return any(each.disk.id == disk_id for each in attachments.list())

        repeat(attach, self.patience, done=is_attached)

    def unmark(self, vm_id: str, comment: str) -> None:
        """Give it its own comment: it is restored."""

        def update() -> None:
            with asking(f"change the comment of VM {self.name}"):
                self._one(vm_id).update(types.Vm(comment=comment))

        repeat(update, self.patience)

    def remove(self) -> bool:
        """Remove it, but not its disks; return whether it was there."""
        found = repeat(self.find, self.patience)
        if found is None:
            return False
        one = self._one(found.id)

        def remove() -> None:
            with asking(f"remove the VM {self.name}"):
                one.remove(detach_only=True)

        try:
            repeat(remove, self.patience, done=lambda: self.find() is None)
            waiting = Waiting(
                f"the VM {self.name}, which is removed,",
                (),
                [*types.VmStatus, None],
                self.patience.limits.disk,
                found.id,
                lambda vm: vm.status,
            )
            wait_for(self.connection, waiting, one.get, self.patience)
        except EngineError as e:
            if e.status != NOT_FOUND:
                raise
        return True

    def _named(self) -> list[Any]:
        with asking(f"look for VM {self.name}"):
            found = self._all().list(search=f'name="{self.name}"')
        return [vm for vm in found if vm.name == self.name]

    def _all(self) -> Any:
        return self.connection.system_service().vms_service()

    def _one(self, vm_id: str) -> Any:
        return self._all().vm_service(vm_id)


def require_free_name(connection: sdk.Connection, name: str) -> None:
    """Make sure that no VM has a name.

    Raises:
        UsageError: One has it.
    """
    with asking(f"look for VM {name}"):
        found = connection.system_service().vms_service().list(search=f'name="{name}"')
    if any(vm.name == name for vm in found):
        raise name_is_taken(name)


def name_is_taken(name: str) -> UsageError:
    """The error for a name that another VM has."""
    return UsageError(
        f"there is a VM {name} already", hint="Choose another name, or remove that VM first."
    )


def has_vm(connection: sdk.Connection, vm_id: str) -> bool:
    """Whether the engine has a VM with this id."""
    try:
        with asking(f"look for VM {vm_id}"):
            connection.system_service().vms_service().vm_service(vm_id).get()
    except EngineError as e:
        if e.status != NOT_FOUND:
            raise
        return False
    return True


def cluster_id(connection: sdk.Connection, wanted: str | None, of_ovf: str | None) -> str:
    """The id of a cluster.

    Args:
        connection: The connection to the engine.
        wanted: Its name or id; None for that of the OVF.
        of_ovf: The name of the cluster in the OVF.

    Raises:
        UsageError: There is none with this name or id.
    """
    with asking("look for clusters"):
        clusters = connection.system_service().clusters_service().list()
    return _the_id(clusters, "cluster", wanted or of_ovf)


def _the_id(found: Iterable[Any], what: str, wanted: str | None) -> str:
    found = list(found)
    for each in found:
        if wanted in (each.id, each.name):
            return str(each.id)
    names = ", ".join(sorted(each.name for each in found))
    raise UsageError(
        f"the engine has no {what} {wanted}" if wanted else f"the OVF names no {what}",
        hint=f"Choose one of: {names}.",
    )
