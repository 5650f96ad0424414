"""What contenders are run on. A stage prepares each run, and checks what came of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ovirt_imageio import client

from benchmarks import line
from benchmarks.disks import (
    BITMAP,
    CHUNK,
    Disk,
    back_up_changes,
    build,
    local_data,
    many_extents,
    small_changes,
    sparse_file,
)
from benchmarks.model import ALL_OF_A_BACKUP, DEFAULT_SIZE, GIB, MIB, Contender, Job, Outcome, Table
from benchmarks.process import FailedError, start
from benchmarks.servers import SERVERS, Serve, SkippedError
from tapestream import (
    DiscardSink,
    ImageioHTTPSource,
    RawImageSink,
    RawImageSource,
    TarStreamSink,
    TarStreamSource,
    Writer,
    copy,
)
from tapestream.testing import ImageioDaemon, compare_images, create_image, serve_image

TICKET_SECONDS = 3600


@dataclass(frozen=True)
class Setting:
    """What all stages share.

    Attributes:
        work: A directory for disks and results.
        size: Bytes of data of a whole disk.
        daemon: It runs.
    """

    work: Path
    size: int
    daemon: ImageioDaemon


class Stage(ABC):
    """Runs the contenders of one table.

    Args:
        table: The table.
        setting: What all stages share.
    """

    def __init__(self, table: Table, setting: Setting) -> None:
        self.table = table
        self.work = setting.work
        self.size = setting.size
        self.daemon = setting.daemon
        self.target = setting.work / "target"
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        with self.stack:
            self.prepare()
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stack.close()

    @abstractmethod
    def prepare(self) -> None:
        """Make what all runs use; `stack` is closed after the last one."""

    @abstractmethod
    def data_bytes(self, contender: Contender) -> int:
        """What a contender has to transfer."""

    @abstractmethod
    def run(self, contender: Contender, *, check: bool) -> Outcome:
        """Run a contender once; with `check`, look at what it transferred."""

    def start(self, job: Job, *, pass_fds: Sequence[int] = ()) -> Outcome:
        """Run a job in a fresh process, in the network namespace of this thread."""
        return start(job, self.work / "compiled", pass_fds=pass_fds)

    def job(self, contender: Contender) -> Job:
        """The job of a contender, as far as it is the same on all stages."""
        return Job(contender.program, options=dict(contender.options))

    @contextlib.contextmanager
    def transfer(
        self, job: Job, image: str, size: int, *, write: bool = False, dirty: bool = False
    ) -> Iterator[Job]:
        """Give a job a ticket for an image, for the length of the block."""
        ops = ["read", "write"] if write else ["read"]
        url = self.daemon.add_ticket(image, size, ops=ops, dirty=dirty, timeout=TICKET_SECONDS)
        try:
            yield replace(
                job,
                url=url,
                size=size,
                cafile=str(self.daemon.cafile),
                unix_socket="" if self.table.tls else self.daemon.local_socket,
                nbd_socket=image.removeprefix("nbd:unix:"),
            )
        finally:
            self.daemon.remove_ticket(url)

    def produced(self, contender: Contender, job: Job, *, check: bool) -> Job:
        """Let a job write to a file where that is looked at, or where it is all it can."""
        self.target.unlink(missing_ok=True)
        keep = (check and contender.produces) or contender.produces == "qcow2"
        return replace(job, target=str(self.target)) if keep else job


@dataclass(frozen=True)
class Image:
    """An image and its format."""

    path: Path
    format: str


class OneDisk(Stage):
    """All contenders have the same disk."""

    disk: Disk
    truth: Image

    def prepare(self) -> None:
        self.disk = build(self.table.disk, self.work, self.size)
        self.truth = Image(self.disk.qcow2, "qcow2")

    def data_bytes(self, contender: Contender) -> int:
        return self.disk.data_bytes

    def check(self, contender: Contender) -> None:
        """Make sure that what was produced is the disk."""
        found = self.target
        if contender.produces in {"qcow2", "raw"}:
            return self._compare(contender, found, contender.produces)
        image = self.work / "restored"
        image.unlink(missing_ok=True)
        try:
            if contender.produces == "tape":
                with TarStreamSource(found) as source, RawImageSink(image) as sink:
                    copy(source, sink)
            else:
                rename = f"--transform=s,.*,{image.name},"
                subprocess.run(["tar", "-xf", found, rename, "-C", self.work], check=True)
            return self._compare(contender, image, "raw")
        finally:
            image.unlink(missing_ok=True)

    def _compare(self, contender: Contender, found: Path, fmt: str) -> None:
        try:
            compare_images(self.truth.path, found, a_format=self.truth.format, b_format=fmt)
        except AssertionError as e:
            raise FailedError(f"{contender.label}: {e}") from e


class Backup(OneDisk):
    """From the daemon into /dev/null; a contender may have a disk of its own."""

    def prepare(self) -> None:
        super().prepare()
        self.disks: dict[str, Disk] = {}
        self.serve: dict[str, Serve] = {}
        for name in {self.table.disk, *(c.disk for c in self.table.contenders if c.disk)}:
            disk = self.disks[name] = build(name, self.work, self.size)
            server = SERVERS[self.table.server](disk.qcow2, self.work)
            self.serve[name] = self.stack.enter_context(server)
        self.source = self.disk.qcow2

    def data_bytes(self, contender: Contender) -> int:
        return self.disks[contender.disk or self.table.disk].data_bytes

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        job = replace(self.job(contender), source=str(self.source))
        job = self.produced(contender, job, check=check)
        name = contender.disk or self.table.disk
        try:
            with (
                self.serve[name]() as image,
                self.transfer(job, image, self.disks[name].size) as ready,
            ):
                outcome = self.start(ready)
            if check and contender.produces:
                self.check(contender)
        finally:
            self.target.unlink(missing_ok=True)
        return outcome


class BlockHash(Backup):
    """Its block hash, computed here or there."""

    def check(self, contender: Contender) -> None:
        found, expected = self.target.read_text(), client.checksum(str(self.disk.raw))["checksum"]
        if found != expected:
            raise FailedError(f"{contender.label}: {found} instead of {expected}")


class Restore(OneDisk):
    """From a tar, or an image, into a new qcow2 disk."""

    def prepare(self) -> None:
        super().prepare()
        self.tar = self.work / "backup.tar"
        self.stack.callback(self.tar.unlink, missing_ok=True)
        with (
            serve_image(self.disk.qcow2) as image,
            self.transfer(self.job(self.table.contenders[0]), image, self.disk.size) as ready,
            ImageioHTTPSource(ready.url, cafile=ready.cafile) as source,
            TarStreamSink(self.tar) as sink,
        ):
            copy(source, sink)

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        self.target.unlink(missing_ok=True)
        create_image(self.target, self.disk.size)
        source = self.disk.qcow2 if contender.program == "uploads.upload" else self.tar
        job = replace(self.job(contender), source=str(source))
        try:
            with (
                serve_image(self.target, read_only=False) as image,
                self.transfer(job, image, self.disk.size, write=True) as ready,
            ):
                outcome = self.start(ready)
            if check:
                self._compare(contender, self.target, "qcow2")
        finally:
            self.target.unlink(missing_ok=True)
        return outcome


class TarOfDisk(Backup):
    """A tar of the disk is read, beside the transfer."""

    def prepare(self) -> None:
        super().prepare()
        self.source = self.work / "backup.tar"
        self.stack.callback(self.source.unlink, missing_ok=True)
        with RawImageSource(self.disk.raw) as source, TarStreamSink(self.source) as sink:
            copy(source, sink)


class Chain(Restore):
    """From the tars of a chain into a new qcow2 disk; or into one tar."""

    def prepare(self) -> None:
        self.disk = build(self.table.disk, self.work, self.size)
        self.tar = self.work / "chain"
        self.stack.callback(shutil.rmtree, self.tar, ignore_errors=True)
        chain = back_up_changes(self.disk, self.tar)
        self.stack.callback(chain.raw.unlink)
        self.truth = Image(chain.raw, "raw")

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        if contender.produces == "disk":
            return super().run(contender, check=check)
        job = replace(self.job(contender), source=str(self.tar))
        try:
            outcome = self.start(self.produced(contender, job, check=check))
            if check:
                self.check(contender)
        finally:
            self.target.unlink(missing_ok=True)
        return outcome


class Local(OneDisk):
    """From a raw image into a pipe."""

    def data_bytes(self, contender: Contender) -> int:
        return local_data(self.disk.raw)

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        job = replace(self.job(contender), source=str(self.disk.raw))
        try:
            outcome = self.start(self.produced(contender, job, check=check))
            if check:
                self.check(contender)
        finally:
            self.target.unlink(missing_ok=True)
        return outcome


class Line(OneDisk):
    """From a daemon at the other end of a line of 1 Gbit/s."""

    def prepare(self) -> None:
        missing = line.missing()
        if missing:
            raise SkippedError(f"needs {missing}")
        super().prepare()
        server, self.client = self.stack.enter_context(line.namespaces())
        with line.inside(server):
            directory = self.work / "line-daemon"
            self.daemon = self.stack.enter_context(line.LineDaemon(directory))
            self.plain = self.stack.enter_context(line.plain_server(self.disk.data_bytes))

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        job = self.produced(contender, self.job(contender), check=check)
        try:
            with (
                serve_image(self.disk.qcow2) as image,
                self.transfer(job, image, self.disk.size) as ready,
            ):
                far = ready.url.replace("127.0.0.1", line.SERVER)
                far = self.plain if contender.program == "tcp.line" else far
                with line.inside(self.client):
                    outcome = self.start(replace(ready, url=far, cafile=""))
            if check and contender.produces:
                self.check(contender)
        finally:
            self.target.unlink(missing_ok=True)
        return outcome


class ZeroSink(DiscardSink):
    """Takes nothing but zeros."""

    def open_writer(self) -> Writer:
        return _ZeroWriter()


class _ZeroWriter(Writer):
    def write(self, start: int, buffer: memoryview) -> None:
        if bytes(buffer) != bytes(len(buffer)):
            raise FailedError(f"not only zeros at {start}")

    def zero(self, start: int, length: int) -> None:
        pass

    def close(self) -> None:
        pass


class Sizes(Stage):
    """Disks of x GiB, if the size is the default, all zeros, which the daemon calls data."""

    def prepare(self) -> None:
        pass

    def data_bytes(self, contender: Contender) -> int:
        return int(contender.x * GIB * self.size // DEFAULT_SIZE)

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        size = self.data_bytes(contender)
        path = sparse_file(self.work, size)
        try:
            with self.transfer(self.job(contender), f"file://{path}", size) as ready:
                return self._through_check(ready, size) if check else self.start(ready)
        finally:
            path.unlink()

    def _through_check(self, job: Job, size: int) -> Outcome:
        """A tar that no disk has room for is looked at while it is written."""
        read, write = os.pipe()

        def backup() -> Outcome:
            try:
                return self.start(replace(job, target=f"/dev/fd/{write}"), pass_fds=(write,))
            finally:
                os.close(write)

        with ThreadPoolExecutor(1) as pool, open(read, "rb", buffering=0) as stream:
            outcome = pool.submit(backup)
            with TarStreamSource(stream) as source:
                result = copy(source, ZeroSink())
            if result.data_bytes != size:
                raise FailedError(f"{result.data_bytes} bytes instead of {size}")
            return outcome.result()


class ManyExtents(Stage):
    """A disk of many extents that exists nowhere, into a tar or out of one."""

    def prepare(self) -> None:
        self.files: dict[int, tuple[Path, Path]] = {}

    def data_bytes(self, contender: Contender) -> int:
        return self._count(contender) // 2 * 4096

    def _count(self, contender: Contender) -> int:
        return int(contender.x) * self.size // DEFAULT_SIZE // 2 * 2

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        extents, tar = self._files(self._count(contender))
        reads = contender.program == "synthetic.read_tar" or check
        return self.start(
            Job("synthetic.read_tar", source=str(tar), options={"check": check})
            if reads
            else Job("synthetic.write_tar", source=str(extents))
        )

    def _files(self, count: int) -> tuple[Path, Path]:
        if count not in self.files:
            extents, tar = many_extents(self.work, count), self.work / f"extents-{count}.tar"
            self.stack.callback(extents.unlink)
            self.stack.callback(tar.unlink, missing_ok=True)
            self.start(Job("synthetic.write_tar", source=str(extents), target=str(tar)))
            self.files[count] = extents, tar
        return self.files[count]


class Timed(Stage):
    """Small things, whose time counts, and not their bytes."""

    def data_bytes(self, contender: Contender) -> int:
        """A million for each run, so that a rate in MB/s is one of runs per second."""
        return 10**6


class Imports(Timed):
    """Interpreters that import something."""

    def prepare(self) -> None:
        """Look at what a backup imports, also what it imports late."""
        with (
            serve_image(build("contiguous", self.work, MIB).qcow2) as image,
            self.transfer(Job("ours.backup"), image, MIB) as ready,
        ):
            code = _BACKUP_AND_SHOW_IMPORTS
            command = [sys.executable, "-c", code, ready.url, ready.cafile]
            shown = subprocess.run(command, capture_output=True, text=True, check=True)
        self.code = f"import {shown.stdout}"

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        code = contender.options["code"].replace(ALL_OF_A_BACKUP, self.code)
        return self.start(Job(contender.program, options={"code": code}))


_BACKUP_AND_SHOW_IMPORTS = """
import sys
known = set(sys.modules)
from tapestream import ImageioHTTPSource, TarStreamSink, copy
_, url, cafile = sys.argv
with ImageioHTTPSource(url, cafile=cafile) as source, TarStreamSink("/dev/null") as sink:
    copy(source, sink)
print(", ".join(name for name in sys.modules if name not in known))
"""


class Small(Timed):
    """Whole processes of an incremental backup of a large disk, of which little changed."""

    def prepare(self) -> None:
        # Of a smaller disk in a smaller run.
        self.disk_size = 100 * self.size // CHUNK * CHUNK
        self.image = small_changes(self.work, self.disk_size, int(self.table.disk))
        self.url = self.stack.enter_context(serve_image(self.image, bitmap=BITMAP))

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        # A file in memory: the peer's image needs one that can be made longer.
        job = replace(self.job(contender), target=str(self.target))
        self.target.unlink(missing_ok=True)
        with self.transfer(job, self.url, self.disk_size, dirty=True) as ready:
            outcome = self.start(ready)
        if check:
            self._check(contender)
        self.target.unlink()
        return outcome

    def _check(self, contender: Contender) -> None:
        """The disk has no other data than what changed."""
        found = self.target
        if contender.produces == "tape":
            found = self.work / "restored"
            _unpack(self.target, found, self.disk_size)
        try:
            compare_images(self.image, found, b_format="raw")
        except AssertionError as e:
            raise FailedError(f"{contender.label}: {e}") from e
        found.unlink()
        self.target.touch()


class NoDrive(Stage):
    """A disk in memory into a drive that takes no time, or out of one: no server, no device."""

    def prepare(self) -> None:
        self.tar = self.work / "tape.tar"
        self.stack.callback(self.tar.unlink, missing_ok=True)
        self.reads = not self.table.contenders[0].produces
        if self.reads:
            self._start(Job("tape.write_file", target=str(self.tar)))

    def data_bytes(self, contender: Contender) -> int:
        # What is only dropped takes no room. Much of it: new memory costs something once.
        return self.size if self.reads else 2 * self.size

    def run(self, contender: Contender, *, check: bool) -> Outcome:
        job = replace(self.job(contender), source=str(self.tar))
        if self.reads or not check:
            return self._start(job, self.data_bytes(contender))
        outcome = self._start(replace(job, target=str(self.tar)))
        self._start(Job("tape.check", source=str(self.tar)))
        self.tar.unlink()
        return outcome

    def _start(self, job: Job, size: int = 0) -> Outcome:
        return self.start(replace(job, size=size or self.size))


STAGES: dict[str, type[Stage]] = {
    stage.__name__: stage
    for stage in (
        Backup,
        BlockHash,
        Chain,
        Imports,
        Line,
        Local,
        ManyExtents,
        NoDrive,
        Restore,
        Sizes,
        Small,
        TarOfDisk,
    )
}


def _unpack(tar_file: Path, image: Path, size: int) -> None:
    """Put the data members of a tar where their names say."""
    with tarfile.open(tar_file) as tar, image.open("wb") as out:
        for member in tar:
            if member.name.startswith("extent-"):
                data = tar.extractfile(member)
                assert data is not None
                out.seek(int(member.name.partition("@")[2]))
                shutil.copyfileobj(data, out)
        out.truncate(size)
