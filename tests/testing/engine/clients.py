"""What the tests of the double do with it: by the real SDK, and by plain HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tapestream.testing import DiskDouble, EngineDouble, VmDouble

sdk = pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")
types = sdk.types
DOWNLOAD = types.ImageTransferDirection.DOWNLOAD
UPLOAD = types.ImageTransferDirection.UPLOAD
MIB = 1024**2


@contextlib.contextmanager
def connected(engine: EngineDouble) -> Iterator[Any]:
    """The root of the SDK's services, logged in."""
    connection = sdk.Connection(
        url=f"{engine.url}/ovirt-engine/api",
        username=engine.username,
        password=engine.password,
        ca_file=str(engine.cafile),
    )
    with contextlib.closing(connection):
        yield connection.system_service()


def reach(get: Callable[[], Any], phase: str) -> Any:
    """Poll an object until it has a phase; the double needs few polls."""
    seen = []
    for _ in range(5):
        found = get()
        seen.append(found.phase.value if found.phase else None)
        if seen[-1] == phase:
            return found
    raise AssertionError(f"{phase} is not among {seen}")


def start_backup(system: Any, vm: VmDouble, parent: str | None = None, **options: Any) -> Any:
    """Start a backup of all disks of a VM; its service."""
    backups = system.vms_service().vm_service(vm.id).backups_service()
    disks = [types.Disk(id=disk.id) for disk in vm.disks]
    started = backups.add(types.Backup(disks=disks, from_checkpoint_id=parent, **options))
    return backups.backup_service(started.id)


def ready_backup(system: Any, vm: VmDouble, parent: str | None = None) -> tuple[Any, str]:
    """A backup that is ready: its service, and its checkpoint."""
    service = start_backup(system, vm, parent)
    return service, reach(service.get, "ready").to_checkpoint_id


def finish(backup: Any) -> None:
    """Finalize a backup, and wait for its end."""
    backup.finalize()
    reach(backup.get, "succeeded")


def start_transfer(system: Any, disk: DiskDouble, backup: Any = None, **options: Any) -> Any:
    """Start a transfer; its service. A download, unless `direction` is given."""
    transfers = system.image_transfers_service()
    wanted = types.ImageTransfer(
        disk=types.Disk(id=disk.id),
        backup=backup and types.Backup(id=backup.get().id),
        direction=options.pop("direction", DOWNLOAD),
        format=types.DiskFormat.RAW,
        **options,
    )
    return transfers.image_transfer_service(transfers.add(wanted).id)


def transferring(system: Any, disk: DiskDouble, backup: Any = None, **options: Any) -> Any:
    """A transfer that has a URL: its service."""
    service = start_transfer(system, disk, backup, **options)
    reach(service.get, "transferring")
    return service


def ask_host(engine: EngineDouble, method: str, url: str, body: bytes | None = None) -> bytes:
    """One request to the imageio daemon."""
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=str(engine.daemon.cafile))
    connection = http.client.HTTPSConnection(parts.netloc, context=context, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, f"{parts.path}?{parts.query}", body)
        response = connection.getresponse()
        answer = response.read()
        assert response.status in (200, 206), answer
        return answer


def content(engine: EngineDouble, transfer: Any) -> bytes:
    """All bytes that a transfer serves."""
    return ask_host(engine, "GET", transfer.get().transfer_url)


def dirty(engine: EngineDouble, transfer: Any) -> list[tuple[int, int]]:
    """The start and end of each changed range."""
    url = transfer.get().transfer_url + "/extents?context=dirty"
    ranges: list[tuple[int, int]] = []
    for extent in json.loads(ask_host(engine, "GET", url)):
        start, end = extent["start"], extent["start"] + extent["length"]
        if extent["dirty"] and ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        elif extent["dirty"]:
            ranges.append((start, end))
    return ranges


def truth(disk: DiskDouble, directory: Path) -> bytes:
    """All bytes that a disk holds now, read by qemu-img."""
    raw = directory / f"{disk.id}.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk.path, raw], check=True)
    return raw.read_bytes()


def plain_connection(engine: EngineDouble) -> http.client.HTTPSConnection:
    """A connection to the double without the SDK."""
    context = ssl.create_default_context(cafile=str(engine.cafile))
    return http.client.HTTPSConnection(urlsplit(engine.url).netloc, context=context, timeout=30)


def plain(
    engine: EngineDouble,
    method: str,
    path: str,
    body: str = "",
    *,
    token: str | None = None,
    content_type: str = "application/xml",
) -> tuple[int, str]:
    """A request as no SDK sends it."""
    headers = {"Content-Type": content_type}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    with contextlib.closing(plain_connection(engine)) as connection:
        connection.request(method, path, body.encode(), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def log_in(engine: EngineDouble, password: str | None = None) -> tuple[int, str]:
    """A login without the SDK."""
    form = {
        "grant_type": "password",
        "scope": "ovirt-app-api",
        "username": engine.username,
        "password": password or engine.password,
    }
    path = "/ovirt-engine/sso/oauth/token"
    return plain(engine, "POST", path, urlencode(form), content_type="text/plain")
