"""What serves a disk to the daemon: qemu-nbd, or the qemu of a running VM; new, or warm.

A qemu gets memory from the kernel for its requests, and keeps it. So one that has served a backup
has less work with the next.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tapestream.testing import serve_image
from tests.live.machine import Machine

# Serves the disk for one transfer: the context gives the URL for the daemon.
Serve = Callable[[], AbstractContextManager[str]]

VM_TOOLS = ("qemu-system-x86_64", "stdbuf")
VM_DISK = "vda"


class SkippedError(Exception):
    """The case cannot be run here; the text says why."""


@contextlib.contextmanager
def fresh(image: Path, work: Path) -> Iterator[Serve]:  # noqa: ARG001
    """A new qemu-nbd for each transfer, as oVirt starts one for the disk of a VM that is down."""
    yield lambda: serve_image(image)


@contextlib.contextmanager
def warm(image: Path, work: Path) -> Iterator[Serve]:  # noqa: ARG001
    """One qemu-nbd for all transfers."""
    with serve_image(image) as url:
        yield lambda: nullcontext(url)


@contextlib.contextmanager
def vm_first(image: Path, work: Path) -> Iterator[Serve]:
    """The first backup of a running VM after it was switched on: a new VM for each transfer."""
    with _vm_image(image, work) as copy:

        @contextlib.contextmanager
        def serve() -> Iterator[str]:
            with _machine(copy, work) as machine, machine.backup("first") as backup:
                yield backup.exports[VM_DISK].url
                machine.kill()  # so that the image stays without the checkpoint

        yield serve


@contextlib.contextmanager
def vm_later(image: Path, work: Path) -> Iterator[Serve]:
    """A later backup of a running VM: one VM for all transfers, each of them a new backup job."""
    checkpoints = itertools.count()
    with _vm_image(image, work) as copy, _machine(copy, work) as machine:

        @contextlib.contextmanager
        def serve() -> Iterator[str]:
            with machine.backup(f"later-{next(checkpoints)}") as backup:
                yield backup.exports[VM_DISK].url

        yield serve


@contextlib.contextmanager
def _vm_image(image: Path, work: Path) -> Iterator[Path]:
    missing = [tool for tool in VM_TOOLS if shutil.which(tool) is None]
    if missing:
        raise SkippedError(f"needs {', '.join(missing)} (make system-live installs it)")
    copy = work / f"vm{image.suffix}"
    shutil.copy(image, copy)
    try:
        yield copy
    finally:
        copy.unlink()
        for scratch in work.glob(f"{VM_DISK}-scratch-*"):
            scratch.unlink()


@contextlib.contextmanager
def _machine(image: Path, work: Path) -> Iterator[Machine]:
    with contextlib.ExitStack() as stack:
        try:
            machine = stack.enter_context(Machine(work, {VM_DISK: image}))
        except (OSError, RuntimeError) as e:
            raise SkippedError(f"the VM does not start: {e}") from e
        yield machine


SERVERS: dict[str, Callable[[Path, Path], AbstractContextManager[Serve]]] = {
    "fresh": fresh,
    "warm": warm,
    "vm-first": vm_first,
    "vm-later": vm_later,
}
# Those that serve all transfers of a table: each contender warms them for all before it is timed.
WARM = ("warm", "vm-later")
