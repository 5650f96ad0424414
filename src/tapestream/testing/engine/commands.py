"""What the double does for a request: the engine's rules, and what follows from a phase.

The rules are those of ovirt-engine 4.5: which state an operation needs, what it locks, what it
removes when it fails. Each operation raises the error that a client would get.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ..._process import OfThisProcess
from ..daemon import ImageioDaemon
from ..images import create_image, image_info
from . import ovf, storage, vocabulary
from .entities import (
    Attachment,
    Backup,
    Checkpoint,
    Cluster,
    DiskDouble,
    EnginePhases,
    Event,
    Inventory,
    Job,
    Progress,
    StorageDomain,
    Transfer,
    VmDouble,
    new_id,
)
from .faults import FaultError, invalid, missing, refused

# What the engine gives a transfer that asks for none.
_INACTIVITY_TIMEOUT = 60
_TIMED_OUT = ("cancelled_system", "finalizing_failure", "finished_failure")
_STORAGE_DOMAIN = "storage_domains/storage_domain"
_EVENTS = {
    "started": (10790, "normal", "Backup {} for VM {} started."),
    "finalized": (10792, "normal", "Backup {} for VM {} finalized."),
    "failed": (10795, "error", "Backup {} for VM {} failed."),
}


# What has phases.
_Found = Backup | Transfer | DiskDouble | VmDouble | Checkpoint | Job


class Commands(OfThisProcess):
    """The operations of the double.

    Args:
        directory: Where new images and the copies of backups are kept.
        daemon: The imageio daemon of the host.
        inventory: What the engine has.
        phases: The phases that clients see.
    """

    def __init__(
        self, directory: Path, daemon: ImageioDaemon, inventory: Inventory, phases: EnginePhases
    ) -> None:
        self._directory = directory
        self._daemon = daemon
        self._inventory = inventory
        self._phases = phases
        self._passed = timedelta()

    # Disks and VMs

    def add_disk(self, request: ET.Element) -> DiskDouble:
        """Create an empty disk, which is locked at first."""
        vocabulary.required(request, "provisioned_size", "format", _STORAGE_DOMAIN)
        domain = self._storage_domain(request)
        id_ = vocabulary.new_id_in(request) or new_id()
        if id_ in self._inventory.disks:
            raise refused(f"Cannot add Virtual Disk. Disk ID {id_} already exists.")
        size = int(request.findtext("provisioned_size", ""))
        format_ = "raw" if request.findtext("format") == "raw" else "qcow2"
        incremental = request.findtext("backup") == "incremental"
        if size == 0 or size % 512:
            raise invalid(f"a disk cannot have {size} bytes")
        if incremental and format_ == "raw":
            raise refused("Cannot add Virtual Disk. Incremental backup needs the format COW.")
        path = self.image_path(id_, format_)
        create_image(path, size, format_)
        name = request.findtext("name") or request.findtext("alias") or id_
        disk = DiskDouble(id_, name, path, format_, size, incremental, domain)
        disk.progress = Progress(self._phases.disk_add)
        self._inventory.disks[id_] = disk
        return disk

    def remove_disk(self, disk: DiskDouble) -> None:
        """Remove a disk that nothing uses."""
        if disk.status == "locked":
            raise refused(f"Cannot remove Virtual Disk. Disk {disk.name} is locked.")
        self.forget_disk(disk)

    def add_vm(self, request: ET.Element) -> VmDouble:
        """Create a VM from the configuration of another one.

        It keeps the id of the other VM, unless new ids are asked for. Disks of the configuration
        that exist, and that no VM has, are attached to it.
        """
        cluster_id = vocabulary.id_in(request, "cluster")
        cluster_path = ["cluster/name"] if cluster_id is None else []
        vocabulary.required(request, "initialization/configuration/data", *cluster_path)
        vocabulary.required(request, "initialization/configuration/type")
        try:
            found = ovf.read(request.findtext("initialization/configuration/data", ""))
        except ovf.OvfError as e:
            raise invalid(str(e)) from None
        cluster = self._cluster(cluster_id, request.findtext("cluster/name"))
        name = request.findtext("name") or found.name
        if any(vm.name == name for vm in self._inventory.vms.values()):
            raise refused("Cannot add VM. The VM name is already in use, please choose another.")
        renewed = request.findtext("initialization/regenerate_ids") == "true"
        if not renewed and found.vm_id in self._inventory.vms:
            raise refused(f"Cannot import VM. VM id already exists (name: {name}).")
        vm = VmDouble(new_id() if renewed else found.vm_id, name, cluster.name, found.memory)
        vm.comment = request.findtext("comment", found.comment)
        vm.progress = Progress(self._phases.vm_add)
        self._inventory.vms[vm.id] = vm
        for id_ in found.disks:
            disk = self._inventory.disks.get(id_)
            if disk is not None and disk.status == "ok" and not self._is_attached(disk):
                vm.attachments.append(Attachment(disk))
        return vm

    def update_vm(self, vm: VmDouble, request: ET.Element) -> None:
        """Change the name or the comment of a VM."""
        if {each.tag for each in request} - {"name", "comment"}:
            raise invalid("this double changes only the name and the comment of a VM")
        name = request.findtext("name", vm.name)
        if any(other.name == name and other is not vm for other in self._inventory.vms.values()):
            raise refused("Cannot edit VM. The VM name is already in use, please choose another.")
        vm.name = name
        vm.comment = request.findtext("comment", vm.comment)

    def remove_vm(self, vm: VmDouble, *, detach_only: bool) -> None:
        """Remove a VM that is down, and its disks unless they are only to be detached."""
        cannot = f"Cannot remove VM {vm.name}."
        if vm.status != "down":
            raise refused(f"{cannot} The VM is not down.")
        locked = [disk.name for disk in vm.disks if disk.status == "locked"]
        if locked:
            raise refused(f"{cannot} Disks are locked: {', '.join(locked)}.")
        del self._inventory.vms[vm.id]
        if not detach_only:
            for disk in vm.disks:
                self.forget_disk(disk)

    def attach_disk(self, vm: VmDouble, request: ET.Element) -> Attachment:
        """Attach a disk to a VM."""
        vocabulary.required(request, "disk", "interface", "bootable")
        disk = self._disk(vocabulary.id_in(request, "disk"))
        cannot = "Cannot attach Virtual Disk."
        if vm.status == "image_locked":
            raise refused(f"{cannot} The VM is locked.")
        if disk.status != "ok":
            raise refused(f"{cannot} Disk {disk.name} is {disk.status}.")
        if self._is_attached(disk):
            raise refused(f"{cannot} Disk {disk.name} is already attached.")
        bootable = request.findtext("bootable") == "true"
        boot_disk = next((each.disk for each in vm.attachments if each.bootable), None)
        if bootable and boot_disk is not None:
            raise refused(f"{cannot} Disk {boot_disk.name} is already marked as boot.")
        attachment = Attachment(
            disk,
            request.findtext("interface", ""),
            bootable,
            request.findtext("active", "true") == "true",
            request.findtext("pass_discard") == "true",
        )
        vm.attachments.append(attachment)
        return attachment

    # Backups

    def start_backup(self, vm: VmDouble, request: ET.Element) -> Backup:
        """Start a backup of disks as they are now, and make a checkpoint of them."""
        vocabulary.required(request, "disks")
        cannot = f"Cannot backup VM {vm.name}."
        disks = [self._disk(element.get("id")) for element in request.iterfind("disks/disk")]
        if not disks:
            raise invalid("a backup needs a disk")
        for disk in disks:
            if disk not in vm.disks:
                raise refused(f"{cannot} Disk {disk.id} is not attached to it.")
        if vm.status not in ("up", "down"):
            raise refused(f"{cannot} The VM should be in Up or Down status.")
        if any(other.vm is vm and other.is_open for other in self._inventory.backups.values()):
            raise refused(f"{cannot} The VM is during a backup operation.")
        locked = [disk.name for disk in disks if disk.status != "ok"]
        if locked:
            raise refused(f"{cannot} Disks are locked: {', '.join(locked)}.")
        self._need_host(cannot)
        parent = self._parent(vm, request.findtext("from_checkpoint_id"), cannot)
        id_ = vocabulary.new_id_in(request) or new_id()
        if id_ in self._inventory.backups:
            raise refused(f"{cannot} Backup with id {id_} already exists.")
        description = request.findtext("description")
        # The copies come first: a new bitmap has nothing of what they hold.
        directory = self._directory / "backups" / id_
        copies = {disk.id: storage.copy_of(disk, directory) for disk in disks}
        checkpoint = self._add_checkpoint(vm, disks, description)
        backup = Backup(
            id_,
            vm,
            disks,
            parent,
            checkpoint,
            description,
            copies,
            Progress(self._start_phases(disks, parent)),
            self._now(),
        )
        for disk in disks:
            disk.status = "locked"
        self._inventory.backups[id_] = backup
        self._say("started", backup)
        self._entered(backup)
        return backup

    def finalize_backup(self, backup: Backup) -> None:
        """End a backup, which no transfer may use any more."""
        cannot = f"Cannot stop VM backup {backup.id}."
        phase = backup.progress.phase
        if phase in ("finalizing", "succeeded", "failed"):
            raise refused(f"{cannot} It is in phase {phase.upper()} already.")
        if any(t.backup is backup and t.is_open for t in self._inventory.transfers.values()):
            raise refused(f"{cannot} The backup has active image transfers.")
        if phase != "ready":
            # The engine ends such a backup, and reports an error all the same.
            backup.progress = Progress(("finalizing", "failed"))
            raise FaultError(400, f"[{cannot} It is in phase {phase.upper()}: stopped early.]")
        backup.progress = Progress(self._phases.backup_finalize)
        self._say("finalized", backup)
        self._entered(backup)

    def remove_checkpoint(self, vm: VmDouble, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint; clients poll until it is gone."""
        cannot = "Cannot remove VM checkpoint."
        if any(other.vm is vm and other.is_open for other in self._inventory.backups.values()):
            raise refused(f"{cannot} The VM is during a backup operation.")
        if any(disk.status == "locked" for disk in checkpoint.disks):
            raise refused(f"{cannot} A disk of the checkpoint is locked.")
        checkpoint.progress = Progress(self._phases.checkpoint_remove)
        self._entered(checkpoint)

    # Transfers

    def start_transfer(self, request: ET.Element) -> Transfer:
        """Start a transfer of a disk, or of a disk's copy in a backup."""
        vocabulary.required(request, "disk")
        disk = self._disk(vocabulary.id_in(request, "disk"))
        cannot = f"Cannot transfer Virtual Disk {disk.name}."
        direction = request.findtext("direction", "upload")
        if request.findtext("format") != "raw":
            raise invalid("this double transfers the format raw only")
        wanted_host = vocabulary.id_in(request, "host")
        if wanted_host not in (None, self._inventory.host.id):
            raise missing(f"Host: id={wanted_host}")
        self._need_host(cannot)
        backup = None
        if request.find("backup") is not None:
            backup = self._backup(vocabulary.id_in(request, "backup"))
            if direction != "download" or disk not in backup.disks:
                raise refused(f"{cannot} It is no disk to download of backup {backup.id}.")
            if backup.progress.phase != "ready":
                phase = backup.progress.phase.upper()
                raise refused(f"{cannot} The backup is not ready: its phase is {phase}.")
        else:
            self._need_idle(disk, cannot)
        transfer = Transfer(
            new_id(),
            disk,
            direction,
            backup,
            int(request.findtext("inactivity_timeout") or _INACTIVITY_TIMEOUT),
            request.findtext("timeout_policy", "legacy"),
            Progress(self._phases.transfer_start),
        )
        if backup is None:
            disk.status = "locked"
        self._inventory.transfers[transfer.id] = transfer
        self._entered(transfer)
        return transfer

    def finalize_transfer(self, transfer: Transfer) -> None:
        """End a transfer that was good."""
        if transfer.progress.phase not in ("transferring", "paused_user", "paused_system"):
            raise refused(
                f"Cannot finalize image transfer {transfer.id}. "
                f"Its phase is {transfer.progress.phase.upper()}."
            )
        transfer.progress = Progress(self._phases.transfer_finalize)
        self._entered(transfer)

    def cancel_transfer(self, transfer: Transfer) -> None:
        """End a transfer, and remove the disk if it was an upload."""
        if not transfer.is_open:
            raise refused(
                f"Cannot cancel image transfer {transfer.id}. "
                f"Its phase is {transfer.progress.phase.upper()}."
            )
        transfer.progress = Progress(self._phases.transfer_cancel)
        self._entered(transfer)

    def extend_transfer(self, transfer: Transfer) -> None:
        """Begin the time again after which an idle transfer ends."""
        transfer.idle = 0.0

    def pass_time(self, seconds: float) -> None:
        """Let the time pass for idle transfers, and end those that were idle for too long."""
        self._passed += timedelta(seconds=seconds)
        for transfer in self._inventory.transfers.values():
            if transfer.progress.phase != "transferring":
                continue
            transfer.idle += seconds
            if transfer.idle < transfer.inactivity_timeout:
                continue
            pause = transfer.timeout_policy == "pause" or (
                transfer.timeout_policy == "legacy" and transfer.direction == "upload"
            )
            transfer.progress = Progress(("paused_system",) if pause else _TIMED_OUT)
            self._entered(transfer)

    # What others may do, too

    def forget_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint with its bitmaps; the one after it gets its parent."""
        for disk in checkpoint.disks:
            storage.remove_bitmap(disk, checkpoint.id)
        for vm in self._inventory.vms.values():
            if checkpoint in vm.checkpoints:
                vm.checkpoints.remove(checkpoint)
            for child in vm.checkpoints:
                if child.parent == checkpoint.id:
                    child.parent = checkpoint.parent

    def forget_disk(self, disk: DiskDouble) -> None:
        """Remove a disk, whoever has it."""
        self._inventory.disks.pop(disk.id, None)
        for vm in self._inventory.vms.values():
            vm.attachments = [each for each in vm.attachments if each.disk is not disk]
            for checkpoint in vm.checkpoints:
                checkpoint.disks = [each for each in checkpoint.disks if each is not disk]
        self._remove_image(disk.path)

    def convert_disk(self, disk: DiskDouble, format_: str) -> None:
        """Replace a disk's image by one of another format, which has no bitmaps."""
        old = disk.path
        storage.convert(disk, format_, self.image_path(disk.id, format_))
        self._remove_image(old)

    def image_path(self, disk_id: str, format_: str) -> Path:
        """Where a new image of a disk is to be."""
        path = self._directory / "disks" / f"{disk_id}.{format_}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _remove_image(self, path: Path) -> None:
        """Remove an image, unless it is one that a test has brought."""
        if path.is_relative_to(self._directory):
            path.unlink(missing_ok=True)

    # Jobs

    def note_job(self, description: str, correlation_id: str) -> None:
        """Note what is done for a request with a correlation id."""
        job = Job(new_id(), description, correlation_id, Progress(self._phases.job))
        self._inventory.jobs[job.id] = job

    # Phases

    def poll(self, found: _Found) -> None:
        """Move an object that a client looks at to its next phase."""
        if found.progress.moves:
            found.progress = Progress(found.progress.phases[1:])
            self._entered(found)

    def settle(self) -> None:
        """Give the engine all the time it needs: move every object to its last phase."""
        everything: list[_Found] = [
            *self._inventory.backups.values(),
            *self._inventory.transfers.values(),
            *self._inventory.disks.values(),
            *self._inventory.vms.values(),
            *(point for vm in self._inventory.vms.values() for point in vm.checkpoints),
            *self._inventory.jobs.values(),
        ]
        for found in everything:
            while found.progress.moves:
                self.poll(found)

    def stop_serving(self) -> None:
        """End every qemu-nbd and ticket."""
        for transfer in self._inventory.transfers.values():
            self._stop_serving(transfer)

    def _entered(self, found: _Found) -> None:
        """Do what the phase means that was just reached."""
        phase = found.progress.phase
        if isinstance(found, Transfer):
            self._transfer_entered(found, phase)
        elif isinstance(found, Backup) and phase in ("succeeded", "failed"):
            self._end_backup(found, failed=phase == "failed")
        elif isinstance(found, Checkpoint) and phase == "removed":
            self.forget_checkpoint(found)

    def _transfer_entered(self, transfer: Transfer, phase: str) -> None:
        if phase == "transferring":
            transfer.idle = 0.0
            url = storage.serve(transfer, self._daemon)
            self._inventory.tickets.add(url.rpartition("/")[2])
        elif phase != "resuming":
            self._stop_serving(transfer)
        if transfer.backup is not None:
            return
        upload = transfer.direction == "upload"
        if phase == "finished_success":
            transfer.disk.status = "ok"
        elif phase == "paused_system" and upload:
            transfer.disk.status = "illegal"
        elif phase in ("finished_failure", "finished_cleanup"):
            if upload:
                self.forget_disk(transfer.disk)
            else:
                transfer.disk.status = "ok"

    def _stop_serving(self, transfer: Transfer) -> None:
        transfer.url = None
        transfer.serving.close()

    def _end_backup(self, backup: Backup, *, failed: bool) -> None:
        for disk in backup.disks:
            disk.status = "ok"
        if failed:
            self._say("failed", backup)
            # The engine forgets the checkpoint; the bitmaps stay in the images, unused.
            checkpoints = backup.vm.checkpoints
            checkpoints[:] = [each for each in checkpoints if each is not backup.checkpoint]
        shutil.rmtree(self._directory / "backups" / backup.id, ignore_errors=True)

    # Details

    def _now(self) -> datetime:
        """The time by the virtual clock."""
        return datetime.now(timezone.utc) + self._passed

    def _add_checkpoint(
        self, vm: VmDouble, disks: list[DiskDouble], description: str | None
    ) -> Checkpoint | None:
        recording = [disk for disk in disks if disk.format == "qcow2"]
        if not recording:
            return None
        parent = vm.checkpoints[-1].id if vm.checkpoints else None
        checkpoint = Checkpoint(new_id(), recording, parent, description, created=self._now())
        for disk in recording:
            storage.add_bitmap(disk, checkpoint.id)
        vm.checkpoints.append(checkpoint)
        return checkpoint

    def _parent(self, vm: VmDouble, id_: str | None, cannot: str) -> Checkpoint | None:
        if id_ is None:
            return None
        for checkpoint in vm.checkpoints:
            if checkpoint.id == id_:
                if checkpoint.progress.phase != "created":
                    raise refused(f"{cannot} Checkpoint {id_} is invalid.")
                return checkpoint
        raise refused(f"{cannot} Checkpoint {id_} does not exist.")

    def _start_phases(self, disks: list[DiskDouble], parent: Checkpoint | None) -> tuple[str, ...]:
        recorded = [disk for disk in disks if parent is not None and disk in parent.disks]
        if parent is None or all(parent.id in storage.bitmaps(disk) for disk in recorded):
            return self._phases.backup_start
        return "initializing", "failed"  # the host cannot find the bitmap of a checkpoint

    def _need_host(self, cannot: str) -> None:
        if self._inventory.host.status != "up":
            raise refused(f"{cannot} There is no host that is Up.")

    def _need_idle(self, disk: DiskDouble, cannot: str) -> None:
        if disk.status != "ok":
            raise refused(f"{cannot} Disk {disk.name} is {disk.status}.")
        for vm in self._inventory.vms.values():
            if vm.status != "down" and any(
                each.disk is disk and each.active for each in vm.attachments
            ):
                raise refused(f"{cannot} VM {vm.name}, which is not down, uses the disk.")

    def _disk(self, id_: str | None) -> DiskDouble:
        if id_ not in self._inventory.disks:
            raise missing(f"Disk: id={id_}")
        return self._inventory.disks[id_]

    def _is_attached(self, disk: DiskDouble) -> bool:
        return any(disk in vm.disks for vm in self._inventory.vms.values())

    def _cluster(self, id_: str | None, name: str | None) -> Cluster:
        for cluster in self._inventory.clusters.values():
            if cluster.id == id_ or (id_ is None and cluster.name == name):
                return cluster
        raise missing(f"Cluster: id={id_}, name={name}")

    def _storage_domain(self, request: ET.Element) -> StorageDomain:
        id_ = vocabulary.id_in(request, _STORAGE_DOMAIN)
        name = request.findtext(f"{_STORAGE_DOMAIN}/name")
        for domain in self._inventory.storage_domains.values():
            if domain.id == id_ or (id_ is None and domain.name == name):
                return domain
        raise missing(f"StorageDomain: id={id_}, name={name}")

    def _backup(self, id_: str | None) -> Backup:
        if id_ not in self._inventory.backups:
            raise missing(f"Backup: id={id_}")
        return self._inventory.backups[id_]

    def _say(self, what: str, backup: Backup) -> None:
        code, severity, text = _EVENTS[what]
        self.add_event(code, severity, text.format(backup.id, backup.vm.name), backup)

    def add_event(self, code: int, severity: str, description: str, backup: Backup) -> None:
        """Add an event about a backup."""
        about = (backup.id, backup.vm.id, backup.vm.name)
        number = len(self._inventory.events) + 1
        self._inventory.events.append(Event(number, code, severity, description, about))


def existing_disk(path: Path, id_: str, name: str, domain: StorageDomain) -> DiskDouble:
    """Return a disk of an image that exists."""
    info = image_info(path)
    format_ = str(info["format"])
    if format_ not in ("qcow2", "raw"):
        raise ValueError(f"{path} has the format {format_}: a disk is qcow2 or raw")
    incremental = format_ == "qcow2"
    return DiskDouble(id_, name, path, format_, int(info["virtual-size"]), incremental, domain)
