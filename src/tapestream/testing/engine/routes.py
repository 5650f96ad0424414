"""Which request is answered by what: one function for each method and path of the API."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from . import vocabulary
from .commands import Commands
from .entities import Backup, Checkpoint, DiskDouble, Inventory, Transfer, VmDouble
from .faults import FaultError, invalid, missing

_Found = TypeVar("_Found")
# Parameters that the SDK's methods take. Those that only tune a real engine are accepted.
_PARAMETERS = {
    "all_content",
    "async",
    "case_sensitive",
    "clone",
    "correlation_id",
    "detach_only",
    "force",
    "max",
    "search",
}


@dataclass(frozen=True)
class Request:
    """A request whose token was good."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    all_content: bool


@dataclass(frozen=True)
class Engine:
    """What a request is answered from."""

    inventory: Inventory
    commands: Commands


@dataclass(frozen=True)
class Reply:
    """What a client gets."""

    status: int
    body: ET.Element


_Answer = Callable[..., Reply]
_ROUTES: list[tuple[str, re.Pattern[str], _Answer]] = []


def _route(method: str, path: str) -> Callable[[_Answer], _Answer]:
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))

    def add(answer: _Answer) -> _Answer:
        _ROUTES.append((method, pattern, answer))
        return answer

    return add


def answer(engine: Engine, request: Request) -> Reply:
    """Answer a request.

    Raises:
        FaultError: The reply is an error.
    """
    unknown = set(request.query) - _PARAMETERS
    if unknown:
        raise invalid(f"this double does not know the parameters {', '.join(sorted(unknown))}")
    known_path = False
    for method, pattern, function in _ROUTES:
        match = pattern.fullmatch(request.path)
        if match is None:
            continue
        known_path = True
        if method == request.method:
            reply = function(engine, request, **match.groupdict())
            correlation_id = request.query.get("correlation_id")
            if method != "GET" and correlation_id is not None:
                engine.commands.note_job(f"{method} {request.path}", correlation_id)
            return reply
    if known_path:
        raise FaultError(405, f"{request.method} is not possible there", "Method not allowed")
    raise missing(request.path)


def _get(found: dict[str, _Found], id_: str, kind: str) -> _Found:
    if id_ not in found:
        raise missing(f"{kind}: id={id_}")
    return found[id_]


def _vm(engine: Engine, id_: str) -> VmDouble:
    return _get(engine.inventory.vms, id_, "Vm")


def _disk(engine: Engine, id_: str) -> DiskDouble:
    return _get(engine.inventory.disks, id_, "Disk")


def _transfer(engine: Engine, id_: str) -> Transfer:
    return _get(engine.inventory.transfers, id_, "ImageTransfer")


def _backup(engine: Engine, vm_id: str, id_: str) -> Backup:
    backup = _get(engine.inventory.backups, id_, "Backup")
    if backup.vm is not _vm(engine, vm_id):
        raise missing(f"Backup: id={id_}")
    return backup


def _checkpoint(engine: Engine, vm_id: str, id_: str) -> Checkpoint:
    checkpoints = {point.id: point for point in _vm(engine, vm_id).checkpoints}
    return _get(checkpoints, id_, "Checkpoint")


def _matches(request: Request, **facts: str) -> bool:
    """Whether an object is searched for: `key=value and key=value`, with `*` in a value."""
    search = request.query.get("search", "")
    # A name in quotes may have an "and".
    for term in filter(None, re.split(r'\s+and\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', search.strip())):
        key, equals, value = term.partition("=")
        key = key.strip().rpartition(".")[2]
        value = re.sub(r"^([\"'])(.*)\1$", r"\2", value.strip(), flags=re.DOTALL)
        # A quote ends the value, so an engine finds something else, or nothing.
        if not equals or key not in facts or '"' in value:
            raise invalid(f"this double cannot search for {term!r}")
        wanted = re.escape(value).replace(r"\*", ".*")
        if not re.fullmatch(wanted, facts[key], re.IGNORECASE | re.DOTALL):
            return False
    return True


def _limited(request: Request, found: Iterable[_Found]) -> list[_Found]:
    maximum = request.query.get("max", "-1")
    if not re.fullmatch(r"-1|\d+", maximum):
        raise invalid(f"max cannot be {maximum!r}")
    everything = list(found)
    return everything if maximum == "-1" else everything[: int(maximum)]


@_route("GET", "")
def _api(_engine: Engine, _request: Request) -> Reply:
    return Reply(200, vocabulary.api())


@_route("GET", "/vms")
def _list_vms(engine: Engine, request: Request) -> Reply:
    vms = _limited(
        request,
        (
            vm
            for vm in engine.inventory.vms.values()
            if _matches(request, name=vm.name, id=vm.id, status=vm.status)
        ),
    )
    found = [vocabulary.vm(vm, all_content=request.all_content) for vm in vms]
    return Reply(200, vocabulary.collection("vms", found))


@_route("POST", "/vms")
def _add_vm(engine: Engine, request: Request) -> Reply:
    vm = engine.commands.add_vm(vocabulary.parse(request.body, "vm"))
    return Reply(201, vocabulary.vm(vm))


@_route("GET", "/vms/{vm_id}")
def _get_vm(engine: Engine, request: Request, vm_id: str) -> Reply:
    vm = _vm(engine, vm_id)
    engine.commands.poll(vm)
    return Reply(200, vocabulary.vm(vm, all_content=request.all_content))


@_route("PUT", "/vms/{vm_id}")
def _update_vm(engine: Engine, request: Request, vm_id: str) -> Reply:
    vm = _vm(engine, vm_id)
    engine.commands.update_vm(vm, vocabulary.parse(request.body, "vm"))
    return Reply(200, vocabulary.vm(vm))


@_route("DELETE", "/vms/{vm_id}")
def _remove_vm(engine: Engine, request: Request, vm_id: str) -> Reply:
    detach_only = request.query.get("detach_only") == "true"
    engine.commands.remove_vm(_vm(engine, vm_id), detach_only=detach_only)
    return Reply(200, vocabulary.action())


@_route("GET", "/vms/{vm_id}/diskattachments")
def _list_attachments(engine: Engine, _request: Request, vm_id: str) -> Reply:
    attachments = _vm(engine, vm_id).attachments
    found = [vocabulary.attachment(each, vm_id) for each in attachments]
    return Reply(200, vocabulary.collection("disk_attachments", found))


@_route("POST", "/vms/{vm_id}/diskattachments")
def _attach_disk(engine: Engine, request: Request, vm_id: str) -> Reply:
    wanted = vocabulary.parse(request.body, "disk_attachment")
    attachment = engine.commands.attach_disk(_vm(engine, vm_id), wanted)
    return Reply(201, vocabulary.attachment(attachment, vm_id))


@_route("GET", "/vms/{vm_id}/snapshots")
def _list_snapshots(engine: Engine, _request: Request, vm_id: str) -> Reply:
    found = [vocabulary.snapshot(_vm(engine, vm_id))]
    return Reply(200, vocabulary.collection("snapshots", found))


@_route("GET", "/vms/{vm_id}/backups")
def _list_backups(engine: Engine, _request: Request, vm_id: str) -> Reply:
    vm, host = _vm(engine, vm_id), engine.inventory.host
    backups = [each for each in engine.inventory.backups.values() if each.vm is vm]
    found = [vocabulary.backup(each, host) for each in backups]
    return Reply(200, vocabulary.collection("backups", found))


@_route("POST", "/vms/{vm_id}/backups")
def _start_backup(engine: Engine, request: Request, vm_id: str) -> Reply:
    vm = _vm(engine, vm_id)
    backup = engine.commands.start_backup(vm, vocabulary.parse(request.body, "backup"))
    return Reply(201, vocabulary.backup(backup, engine.inventory.host))


@_route("GET", "/vms/{vm_id}/backups/{id_}")
def _get_backup(engine: Engine, _request: Request, vm_id: str, id_: str) -> Reply:
    backup = _backup(engine, vm_id, id_)
    engine.commands.poll(backup)
    return Reply(200, vocabulary.backup(backup, engine.inventory.host))


@_route("GET", "/vms/{vm_id}/backups/{id_}/disks")
def _list_backup_disks(engine: Engine, _request: Request, vm_id: str, id_: str) -> Reply:
    backup = _backup(engine, vm_id, id_)
    found = [vocabulary.disk(disk, mode=backup.mode(disk)) for disk in backup.disks]
    return Reply(200, vocabulary.collection("disks", found))


@_route("POST", "/vms/{vm_id}/backups/{id_}/finalize")
def _finalize_backup(engine: Engine, request: Request, vm_id: str, id_: str) -> Reply:
    vocabulary.parse(request.body, "action")
    engine.commands.finalize_backup(_backup(engine, vm_id, id_))
    return Reply(200, vocabulary.action())


@_route("GET", "/vms/{vm_id}/checkpoints")
def _list_checkpoints(engine: Engine, _request: Request, vm_id: str) -> Reply:
    checkpoints = _vm(engine, vm_id).checkpoints
    found = [vocabulary.checkpoint(each, vm_id) for each in checkpoints]
    return Reply(200, vocabulary.collection("checkpoints", found))


@_route("GET", "/vms/{vm_id}/checkpoints/{id_}")
def _get_checkpoint(engine: Engine, _request: Request, vm_id: str, id_: str) -> Reply:
    engine.commands.poll(_checkpoint(engine, vm_id, id_))
    # It may just have been removed.
    return Reply(200, vocabulary.checkpoint(_checkpoint(engine, vm_id, id_), vm_id))


@_route("GET", "/vms/{vm_id}/checkpoints/{id_}/disks")
def _list_checkpoint_disks(engine: Engine, _request: Request, vm_id: str, id_: str) -> Reply:
    found = [vocabulary.disk(disk) for disk in _checkpoint(engine, vm_id, id_).disks]
    return Reply(200, vocabulary.collection("disks", found))


@_route("DELETE", "/vms/{vm_id}/checkpoints/{id_}")
def _remove_checkpoint(engine: Engine, _request: Request, vm_id: str, id_: str) -> Reply:
    engine.commands.remove_checkpoint(_vm(engine, vm_id), _checkpoint(engine, vm_id, id_))
    return Reply(200, vocabulary.action())


@_route("GET", "/disks")
def _list_disks(engine: Engine, request: Request) -> Reply:
    disks = _limited(
        request,
        (
            disk
            for disk in engine.inventory.disks.values()
            if _matches(request, name=disk.name, alias=disk.name, id=disk.id, status=disk.status)
        ),
    )
    return Reply(200, vocabulary.collection("disks", map(vocabulary.disk, disks)))


@_route("POST", "/disks")
def _add_disk(engine: Engine, request: Request) -> Reply:
    disk = engine.commands.add_disk(vocabulary.parse(request.body, "disk"))
    return Reply(202, vocabulary.disk(disk))


@_route("GET", "/disks/{id_}")
def _get_disk(engine: Engine, _request: Request, id_: str) -> Reply:
    disk = _disk(engine, id_)
    engine.commands.poll(disk)
    return Reply(200, vocabulary.disk(disk))


@_route("DELETE", "/disks/{id_}")
def _remove_disk(engine: Engine, _request: Request, id_: str) -> Reply:
    engine.commands.remove_disk(_disk(engine, id_))
    return Reply(200, vocabulary.action())


@_route("GET", "/imagetransfers")
def _list_transfers(engine: Engine, _request: Request) -> Reply:
    host = engine.inventory.host
    found = [vocabulary.transfer(each, host) for each in engine.inventory.transfers.values()]
    return Reply(200, vocabulary.collection("image_transfers", found))


@_route("POST", "/imagetransfers")
def _start_transfer(engine: Engine, request: Request) -> Reply:
    transfer = engine.commands.start_transfer(vocabulary.parse(request.body, "image_transfer"))
    return Reply(201, vocabulary.transfer(transfer, engine.inventory.host))


@_route("GET", "/imagetransfers/{id_}")
def _get_transfer(engine: Engine, _request: Request, id_: str) -> Reply:
    transfer = _transfer(engine, id_)
    engine.commands.poll(transfer)
    return Reply(200, vocabulary.transfer(transfer, engine.inventory.host))


@_route("POST", "/imagetransfers/{id_}/{action}")
def _act_on_transfer(engine: Engine, request: Request, id_: str, action: str) -> Reply:
    actions = {
        "finalize": engine.commands.finalize_transfer,
        "cancel": engine.commands.cancel_transfer,
        "extend": engine.commands.extend_transfer,
    }
    if action not in actions:
        raise missing(request.path)
    vocabulary.parse(request.body, "action")
    actions[action](_transfer(engine, id_))
    return Reply(200, vocabulary.action())


@_route("GET", "/hosts")
def _list_hosts(engine: Engine, request: Request) -> Reply:
    host = engine.inventory.host
    found = _matches(
        request,
        name=host.name,
        id=host.id,
        status=host.status,
        hw_id=host.hardware_id,
        datacenter=engine.inventory.data_center,
    )
    return Reply(200, vocabulary.collection("hosts", [vocabulary.host(host)] if found else []))


@_route("GET", "/hosts/{id_}")
def _get_host(engine: Engine, _request: Request, id_: str) -> Reply:
    host = engine.inventory.host
    return Reply(200, vocabulary.host(_get({host.id: host}, id_, "Host")))


@_route("GET", "/clusters")
def _list_clusters(engine: Engine, request: Request) -> Reply:
    found = [
        vocabulary.cluster(each)
        for each in engine.inventory.clusters.values()
        if _matches(request, name=each.name, id=each.id)
    ]
    return Reply(200, vocabulary.collection("clusters", found))


@_route("GET", "/storagedomains")
def _list_storage_domains(engine: Engine, request: Request) -> Reply:
    found = [
        vocabulary.storage_domain(domain)
        for domain in engine.inventory.storage_domains.values()
        if _matches(request, name=domain.name, id=domain.id)
    ]
    return Reply(200, vocabulary.collection("storage_domains", found))


@_route("GET", "/storagedomains/{id_}")
def _get_storage_domain(engine: Engine, _request: Request, id_: str) -> Reply:
    domain = _get(engine.inventory.storage_domains, id_, "StorageDomain")
    return Reply(200, vocabulary.storage_domain(domain))


@_route("GET", "/datacenters")
def _list_data_centers(engine: Engine, request: Request) -> Reply:
    # `storage.name=` is the only search that clients use.
    domains = engine.inventory.storage_domains.values()
    found = any(_matches(request, name=domain.name) for domain in domains)
    centers = [vocabulary.data_center(engine.inventory)] if found else []
    return Reply(200, vocabulary.collection("data_centers", centers))


@_route("GET", "/events")
def _list_events(engine: Engine, request: Request) -> Reply:
    """Events from the newest; a search is a word of the text, or the id of what it is about."""
    search = request.query.get("search", "")
    events = _limited(
        request,
        (
            event
            for event in reversed(engine.inventory.events)
            if search in event.description or search in event.about
        ),
    )
    return Reply(200, vocabulary.collection("events", map(vocabulary.event, events)))


@_route("GET", "/jobs")
def _list_jobs(engine: Engine, request: Request) -> Reply:
    jobs = [
        job
        for job in engine.inventory.jobs.values()
        if _matches(request, correlation_id=job.correlation_id, id=job.id)
    ]
    found = [vocabulary.job(job) for job in jobs]
    for job in jobs:
        engine.commands.poll(job)
    return Reply(200, vocabulary.collection("jobs", found))
