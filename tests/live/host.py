"""What an oVirt host and a backup program do with a running machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from tapestream import (
    BackupInfo,
    CopyResult,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    restore_chain,
)
from tapestream.engine.progress import Progress
from tapestream.testing import ImageioDaemon, compare_images, create_image, serve_image

from .machine import Backup, Machine


class Host:
    """A host with one machine, an imageio daemon, and a directory for backups.

    Attributes:
        machine: The machine.
    """

    def __init__(self, machine: Machine, daemon: ImageioDaemon, directory: Path) -> None:
        self.machine = machine
        self._daemon = daemon
        self._directory = directory

    def tar(self, disk: str, checkpoint: str) -> Path:
        """The backup of a disk at a checkpoint."""
        return self._directory / f"{disk}-{checkpoint}.tar"

    def truth(self, disk: str, checkpoint: str) -> Path:
        """The whole disk at a checkpoint, as nbdcopy read it while the backup lasted."""
        return self._directory / f"{disk}-{checkpoint}.raw"

    def back_up(
        self,
        backup: Backup,
        disk: str,
        *,
        fallback: Literal["full"] | None = None,
        progress: Progress | None = None,
    ) -> CopyResult:
        """Copy a disk into its tar, and then read it whole for the comparison."""
        export = backup.exports[disk]
        info = BackupInfo(
            vm_id="machine",
            disk_id=disk,
            disk_name=f"machine_{disk}",
            checkpoint_id=backup.checkpoint,
            parent_checkpoint_id=backup.parent,
        )
        url = self._daemon.add_ticket(export.url, export.size, dirty=export.has_bitmap)
        try:
            with (
                ImageioHTTPSource(
                    url,
                    context="dirty" if backup.parent else "zero",
                    fallback=fallback,
                    cafile=self._daemon.cafile,
                    info=info,
                    retries=1,
                ) as source,
                TarStreamSink(self.tar(disk, backup.checkpoint)) as sink,
            ):
                result = copy(source, sink, progress=progress)
        finally:
            self._daemon.remove_ticket(url)
        backup.read_whole(disk, self.truth(disk, backup.checkpoint))
        return result

    def check(self, disk: str, *checkpoints: str) -> None:
        """Restore a chain into a raw image, and compare it with the disk at the last of them."""
        restored = self._directory / f"{disk}-restored.raw"
        with ExitStack() as stack:
            chain = self._open(stack, disk, checkpoints)
            restore_chain(chain, stack.enter_context(RawImageSink(restored)))
        truth = self.truth(disk, checkpoints[-1])
        compare_images(truth, restored, a_format="raw", b_format="raw")
        assert restored.stat().st_size == truth.stat().st_size
        restored.unlink()

    def upload_and_check(self, disk: str, *checkpoints: str) -> None:
        """Restore a chain into a new disk, through an upload transfer, and compare it."""
        restored = self._directory / f"{disk}-restored.qcow2"
        truth = self.truth(disk, checkpoints[-1])
        size = truth.stat().st_size
        create_image(restored, size)
        with serve_image(restored, read_only=False) as nbd_url, ExitStack() as stack:
            url = self._daemon.add_ticket(nbd_url, size, ops=["write"])
            sink = ImageioUploadSink(url, cafile=self._daemon.cafile)
            restore_chain(self._open(stack, disk, checkpoints), stack.enter_context(sink))
            self._daemon.remove_ticket(url)
        compare_images(truth, restored, a_format="raw")

    def _open(self, stack: ExitStack, disk: str, checkpoints: tuple[str, ...]) -> list[Source]:
        tars = [self.tar(disk, checkpoint) for checkpoint in checkpoints]
        return [stack.enter_context(TarStreamSource(tar)) for tar in tars]
