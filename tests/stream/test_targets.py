"""What a tar can be written to and read from: files, fifos, pipes, "-", sockets, file objects."""

from __future__ import annotations

import contextlib
import errno
import io
import lzma
import os
import pty
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tapestream import BackupInfo, DiscardSink, Extent, Sink, TarStreamSink, TarStreamSource, copy
from tapestream.errors import IncompleteStreamError, LocalIOError, TapestreamError, UsageError
from tapestream.files.streams import BinaryInput, BinaryOutput, open_input, open_output
from tapestream.model.extents import Extents
from tests.memory import MemorySink, MemorySource
from tests.tar.tars import CREATED, DISK, disk, make_tar

MIB = 1024**2
TIMEOUT = 60
TAR = make_tar()
# More than any pipe holds.
LARGE = disk(3) * 1000
TEN_BYTES = Extents.of([Extent(0, 10)])


def backup(target: str | Path | BinaryOutput, content: bytes = DISK, **options: Any) -> None:
    with TarStreamSink(target, **options) as sink, MemorySource(content) as source:
        copy(source, sink)


def restore(target: str | Path | BinaryInput) -> bytes:
    sink = MemorySink()
    with TarStreamSource(target) as source, sink:
        copy(source, sink)
    return bytes(sink.disk)


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread, whose error, if any, is raised at the end."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as e:  # noqa: BLE001 - raised again
            errors.append(e)

    thread = threading.Thread(target=guarded, name="meanwhile")
    thread.start()
    yield
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread and no open file is left behind."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


# --- Regular files ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.tar"


def test_a_file_has_its_name_only_when_it_is_complete(path: Path) -> None:
    path.write_bytes(b"the older one")

    def check_older(start: int, length: int) -> None:
        assert path.read_bytes() == b"the older one"

    with TarStreamSink(path) as sink:
        (partial,) = set(path.parent.iterdir()) - {path}
        assert partial.name.startswith(".disk.tar.")
        assert partial.name.endswith(".partial")
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        copy(MemorySource(DISK, before_read=check_older), sink)
        assert [*path.parent.iterdir()] == [path]
    assert [*path.parent.iterdir()] == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert restore(path) == DISK


class BoomError(Exception):
    pass


def boom(start: int, length: int) -> None:
    raise BoomError


@pytest.mark.parametrize("older", [None, b"the older one"])
@pytest.mark.parametrize("way", ["nothing", "begun", "failed copy", "error in with", "abort"])
def test_what_is_not_complete_leaves_nothing(path: Path, older: bytes | None, way: str) -> None:
    if older is not None:
        path.write_bytes(older)
    with contextlib.suppress(BoomError), TarStreamSink(path) as sink:
        match way:
            case "begun":
                sink.begin(BackupInfo(size=10), TEN_BYTES)
            case "failed copy":
                copy(MemorySource(DISK, before_read=boom), sink)
            case "error in with":
                raise BoomError
            case "abort":
                sink.begin(BackupInfo(size=10), TEN_BYTES)
                sink.abort()
                sink.abort()
                assert [*path.parent.iterdir()] == ([path] if older else [])
            case _:
                pass
    assert [*path.parent.iterdir()] == ([path] if older else [])
    assert older is None or path.read_bytes() == older


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.tar"
    link.symlink_to("far/disk.tar")
    for content in (disk(1), disk(2)):  # it dangles, and then it does not
        backup(link, content)
        assert link.is_symlink()
        assert restore(tmp_path / "far" / "disk.tar") == content
    assert [*(tmp_path / "far").iterdir()] == [tmp_path / "far" / "disk.tar"]


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    backup(tmp_path / ("a" * 255))
    assert restore(tmp_path / ("a" * 255)) == DISK


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a regular file"):
        TarStreamSink(tmp_path)
    with pytest.raises(LocalIOError) as caught:
        TarStreamSource(tmp_path)
    assert caught.value.errno == errno.EISDIR


@pytest.mark.parametrize("end", [TarStreamSink, TarStreamSource])
@pytest.mark.parametrize(
    ("name", "number"),
    [("missing/disk.tar", errno.ENOENT), ("file/disk.tar", errno.ENOTDIR), ("loop", errno.ELOOP)],
)
def test_a_path_that_cannot_be(end: Any, name: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(LocalIOError, match=name) as caught:
        end(tmp_path / name)
    assert caught.value.errno == number
    assert {p.name for p in tmp_path.iterdir()} == {"file", "loop"}


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(LocalIOError, match=r"cannot open .*disk\.tar: No such file"):
        TarStreamSource(path)


def test_a_name_that_is_taken_in_between(path: Path) -> None:
    with TarStreamSink(path) as sink:
        path.mkdir()
        with MemorySource(DISK) as source, pytest.raises(LocalIOError):
            copy(source, sink)
    assert [*path.parent.iterdir()] == [path]


# --- Options ---


@pytest.mark.parametrize("checksum", ["sha256", "blake2b", "crc32"])
def test_digests_that_would_not_fit_are_refused_at_once(checksum: str) -> None:
    """The manifest, that is written after hours, may have 8 GiB."""
    per_digest = 11 if checksum == "crc32" else 67
    fits = 8**11 // per_digest * 512
    for size, refused in ((fits - 100 * 512, False), (fits, True)):
        out = io.BytesIO()
        with TarStreamSink(out, part_size=512, checksum=checksum) as sink:
            extents = Extents.of([Extent(0, size)])
            if not refused:
                sink.begin(BackupInfo(size=size), extents)
                continue
            with pytest.raises(UsageError, match=r"manifest.json too large") as caught:
                sink.begin(BackupInfo(size=size), extents)
            assert "larger part_size" in str(caught.value.hint)
            assert out.getvalue() == b""
    with TarStreamSink(io.BytesIO(), part_size=512, checksum=None) as sink:
        sink.begin(BackupInfo(size=2**62), Extents.of([Extent(0, 2**62)]))


@pytest.mark.parametrize("record_size", [None, 512, 10240, 65536, MIB])
def test_the_stream_is_whole_records(record_size: int | None) -> None:
    out = io.BytesIO()
    backup(out, record_size=record_size)
    length = len(out.getvalue())
    assert length % (record_size or 10240) == 0
    assert length - (record_size or 10240) < len(DISK) + 10 * 512 + 1024
    assert restore(io.BytesIO(out.getvalue())) == DISK


@pytest.mark.parametrize("part_size", [None, 512, 1024, 4096, 10 * 512, MIB])
def test_parts(part_size: int | None) -> None:
    out = io.BytesIO()
    backup(out, part_size=part_size)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        parts = {m.name: m.size for m in tar if m.name.startswith("extent-")}
    size = part_size or 1024**3
    starts = range(0, len(DISK), size)
    assert parts == {f"extent-1@{s}": min(size, len(DISK) - s) for s in starts}
    assert restore(io.BytesIO(out.getvalue())) == DISK


@pytest.mark.parametrize("content", [b"", b"a", bytes(512), bytes(513)])
@pytest.mark.parametrize("checksum", ["sha256", "blake2b", "crc32", None])
def test_small_disks(content: bytes, checksum: str | None) -> None:
    out = io.BytesIO()
    backup(out, content, checksum=checksum)
    assert restore(io.BytesIO(out.getvalue())) == content


def test_attachments_come_back() -> None:
    attachments = {"vm.ovf": b"<ovf/>", "größer": b"", "a" * 88: bytes(5000)}
    out = io.BytesIO()
    backup(out, attachments=attachments)
    with TarStreamSource(io.BytesIO(out.getvalue())) as source:
        assert source.attachments == attachments
        copy(source, DiscardSink())
        assert source.attachments == attachments


@pytest.mark.parametrize(
    "wrong",
    [
        {"record_size": 0},
        {"record_size": -512},
        {"record_size": 1000},
        {"record_size": 2**30 + 512},
        {"part_size": 0},
        {"part_size": 513},
        {"part_size": 8 * 1024**3},
        {"checksum": "md5"},
        {"checksum": ""},
        {"attachments": {"a/b": b""}},
        {"attachments": {"": b""}},
        {"attachments": {"a" * 89: b""}},
        {"attachments": {"a": bytes(64 * MIB), "b": b"1"}},
        {"part_size": 10**9},
        {"part_size": 4096.0},
        {"attachments": {"\udc80": b""}},
        {"attachments": {"a\x9b31m": b""}},
        {"attachments": {"fdp.\u202eexe": b""}},
        {"attachments": {"a\u2028b": b""}},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_options_that_cannot_work(wrong: dict[str, Any], path: Path) -> None:
    try:
        with pytest.raises(UsageError):
            TarStreamSink(path, **wrong).close()
    finally:
        assert not [*path.parent.iterdir()]


@pytest.mark.parametrize(
    "info",
    [
        {"metadata": {"a": "b" * 17 * MIB}},
        {"vm_name": "\udc80"},
    ],
    ids=lambda info: str(info)[:30],
)
def test_what_is_written_can_be_read(info: dict[str, Any]) -> None:
    out = io.BytesIO()
    try:
        with MemorySource(DISK, info=BackupInfo(**info)) as source, TarStreamSink(out) as sink:
            copy(source, sink)
    except UsageError:
        return
    assert restore(io.BytesIO(out.getvalue())) == DISK


# --- Fifos and pipes ---


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_a_fifo(fifo: Path) -> None:
    with meanwhile(lambda: backup(fifo, LARGE)):
        assert restore(fifo) == LARGE
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert [*fifo.parent.iterdir()] == [fifo]


def test_a_copy_between_two_fifos(tmp_path: Path) -> None:
    for name in ("first", "second"):
        os.mkfifo(tmp_path / name)

    def between() -> None:
        with (
            TarStreamSource(tmp_path / "first") as source,
            TarStreamSink(tmp_path / "second", part_size=MIB) as sink,
        ):
            copy(source, sink)

    with meanwhile(lambda: backup(tmp_path / "first", LARGE)), meanwhile(between):
        assert restore(tmp_path / "second") == LARGE


def test_an_aborted_fifo_is_incomplete_for_its_reader(fifo: Path) -> None:
    def failing_backup() -> None:
        with TarStreamSink(fifo) as sink, pytest.raises(BoomError):
            copy(MemorySource(DISK, before_read=boom), sink)

    with meanwhile(failing_backup), pytest.raises(IncompleteStreamError):
        restore(fifo)


@pytest.mark.parametrize("buffering", [0, -1])
def test_file_objects_of_a_pipe(buffering: int) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering) as input_, open(writing, "wb", buffering) as output:

        def write() -> None:
            with output:
                backup(output, LARGE)
                assert not output.closed

        with meanwhile(write):
            assert restore(input_) == LARGE
            assert not input_.closed
            assert input_.read(1) == b""


def interrupt_soon() -> None:
    time.sleep(0.3)
    interrupt()


@pytest.mark.parametrize("ahead", [False, True])
def test_ctrl_c_frees_a_reader_of_a_child(ahead: bool) -> None:
    """An ssh that stalls, say: its pipe is a buffered file object, which may have read ahead."""
    out = io.BytesIO()
    backup(out, LARGE)
    head = out.getvalue()[: 5 * MIB]
    script = f"import sys, time; sys.stdout.buffer.write(sys.stdin.buffer.read({len(head)})); "
    script += "sys.stdout.flush(); time.sleep(600)"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert isinstance(child.stdout, io.BufferedReader)
        child.stdin.write(head)
        child.stdin.close()
        if ahead:
            assert child.stdout.peek()
        try:
            with (
                TarStreamSource(child.stdout) as source,
                MemorySink() as sink,
                pytest.raises(KeyboardInterrupt),
                meanwhile(interrupt_soon),
            ):
                copy(source, sink)
            assert os.get_blocking(child.stdout.fileno())
        finally:
            child.kill()


def test_a_file_object_over_a_file_is_put_on_storage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with path.open("wb") as file:
        backup(file)
        assert synced == [file.fileno()]


@pytest.fixture
def as_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: `fstat` says of a device here that it is a disk, and nothing else is one."""

    def fstat(fd: int) -> os.stat_result:
        found = list(fstat_of_a_device(fd))
        found[stat.ST_MODE] = stat.S_IFBLK | 0o600
        return os.stat_result(found)

    fstat_of_a_device = os.fstat
    monkeypatch.setattr("tapestream.files.streams.os.fstat", fstat)


@pytest.mark.usefixtures("as_a_disk")
@pytest.mark.parametrize("kind", ["path", "file object"])
def test_a_disk_is_put_on_storage(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only then the kernel tells what it could not write."""
    synced: list[int] = []

    def fsync(fd: int) -> None:
        synced.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with contextlib.ExitStack() as stack:
        disk_: Any = "/dev/null"
        if kind == "file object":
            disk_ = stack.enter_context(open(disk_, "wb"))
        with pytest.raises(LocalIOError, match="cannot finish /dev/null: Input/output error"):
            backup(disk_)
    assert len(synced) == 1


def test_damage_below_a_file_object_is_told_as_ours() -> None:
    out = io.BytesIO()
    with lzma.open(out, "wb") as packed:
        backup(packed)
    damaged = bytearray(out.getvalue())
    damaged[len(damaged) // 2] ^= 0xFF
    with lzma.open(io.BytesIO(damaged)) as unpacked, pytest.raises(TapestreamError):
        restore(unpacked)
    cut = io.BytesIO(out.getvalue()[:-50])
    with lzma.open(cut) as unpacked, pytest.raises(IncompleteStreamError):
        restore(unpacked)


def test_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        ours.makefile("wb") as output,
        theirs.makefile("rb") as input_,
        meanwhile(lambda: backup(output, LARGE)),
    ):
        assert restore(input_) == LARGE


# --- File objects ---


class Trickle(io.RawIOBase):
    """A raw file that takes and gives a few bytes at a time, as it may."""

    def __init__(self, content: bytes = b"", step: int = 7) -> None:
        self.content = bytearray(content)
        self.step = step

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = memoryview(data)[: self.step]
        self.content += taken
        return len(taken)

    def readinto(self, buffer: Any) -> int:
        given = self.content[: min(self.step, len(buffer))]
        buffer[: len(given)] = given
        del self.content[: len(given)]
        return len(given)


class OnlyRead:
    """All that `BinaryInput` asks for; gives fewer bytes than asked for."""

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)

    def read(self, n: int, /) -> bytes:
        assert n > 0
        return self.file.read(min(n, 100))


class OnlyWrite:
    """All that `BinaryOutput` asks for; tells nothing, and copies nothing late."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, data: memoryview, /) -> None:
        self.content += data


def test_short_reads_and_writes() -> None:
    with Trickle() as out:
        backup(out)
        assert not out.closed
        tar = bytes(out.content)
        assert restore(out) == DISK
        assert not out.closed
    assert restore(OnlyRead(tar)) == DISK


def test_an_object_that_can_only_write() -> None:
    out = OnlyWrite()
    backup(out)
    assert restore(io.BytesIO(out.content)) == DISK


@pytest.mark.parametrize("buffering", [0, -1])
def test_two_backups_in_one_file_object(tmp_path: Path, buffering: int) -> None:
    with (tmp_path / "both.tar").open("w+b", buffering) as file:
        for seed in (1, 2):
            backup(file, disk(seed), record_size=4096)
            assert not file.closed
        end = file.tell()
        file.write(b"something else")
        file.seek(0)
        assert restore(file) == disk(1)
        assert file.tell() % 4096 == 0
        assert restore(file) == disk(2)
        assert file.tell() == end
        assert file.read() == b"something else"


def test_what_is_written_around_a_backup_stays_around_it(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"before")
        backup(file)
        end = file.tell()
        file.write(b"behind")
        file.seek(0)
        file.write(b"BEFORE")
    assert path.read_bytes()[:6] == b"BEFORE"
    assert path.read_bytes()[end:] == b"behind"
    with path.open("rb") as again:
        again.seek(6)
        assert restore(again) == DISK
        assert again.read() == b"behind"


def test_an_aborted_file_object_stays_open_and_is_incomplete() -> None:
    out = io.BytesIO()
    with TarStreamSink(out) as sink, pytest.raises(BoomError):
        copy(MemorySource(DISK, before_read=boom), sink)
    assert not out.closed
    with pytest.raises(IncompleteStreamError):
        restore(io.BytesIO(out.getvalue()))


class NoData(io.RawIOBase):
    """A non-blocking file that is never ready."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> None:
        return None

    def write(self, data: Any) -> None:
        return None


class NoDataRead:
    def read(self, n: int, /) -> None:
        return None


@pytest.mark.parametrize("file", [NoData(), NoDataRead()])
def test_a_non_blocking_input_is_refused(file: BinaryInput) -> None:
    with pytest.raises(UsageError, match="blocking mode"):
        TarStreamSource(file)


def test_a_non_blocking_output_is_refused() -> None:
    with NoData() as file, pytest.raises(TapestreamError):
        backup(file)


def test_a_non_blocking_pipe_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb") as input_, open(writing, "wb", 0) as output:
        with meanwhile(lambda: backup(output, LARGE)):
            assert restore(input_) == LARGE
        assert not os.get_blocking(writing)


class TakesNothing:
    """A file that never takes anything, and says so."""

    def __init__(self) -> None:
        self.calls = 0

    def write(self, data: memoryview, /) -> int:
        self.calls += 1
        if self.calls == 1000:
            raise BoomError("asked again and again")
        return 0


def test_an_output_that_takes_nothing_is_an_error() -> None:
    with pytest.raises(TapestreamError):
        backup(TakesNothing())


class Failing(io.RawIOBase):
    """Fails after some bytes, in all ways, with the operating system's error."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.tar = io.BytesIO(TAR)

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return len(data)

    def readinto(self, buffer: Any) -> int:
        self.left -= len(buffer)
        if self.left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return self.tar.readinto(buffer)


@pytest.mark.parametrize("left", [0, 3000, 10_000])
def test_errors_of_a_file_object(left: int) -> None:
    with Failing(left) as file, pytest.raises(LocalIOError, match="cannot write Failing") as caught:
        backup(file)
    assert caught.value.errno == errno.EIO
    with Failing(left) as file, pytest.raises(LocalIOError, match="cannot read Failing"):
        restore(file)


# --- Devices ---


def test_a_full_device() -> None:
    with pytest.raises(LocalIOError, match="cannot write /dev/full: No space left") as caught:
        backup("/dev/full")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("buffering", [0, 2**16, 2**24])
def test_no_space_left_in_a_file_object(buffering: int) -> None:
    """Nothing is left in its buffer that would fail once more when it is closed."""
    with open("/dev/full", "wb", buffering) as file, pytest.raises(LocalIOError) as caught:
        backup(file)
    assert caught.value.errno == errno.ENOSPC


def test_other_devices() -> None:
    backup("/dev/null", LARGE)
    with pytest.raises(IncompleteStreamError):
        restore("/dev/null")


# --- No descriptor left ---


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Only so many descriptors can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, limits[0]), limits[1]))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("end", [open_input, open_output])
def test_a_fifo_without_a_descriptor_left(end: Any, left: int, fifo: Path) -> None:
    """One for the fifo, and two to be cancelled: what was opened is closed again."""
    other = os.open(fifo, os.O_RDWR)  # nobody waits
    try:
        with descriptors_left(left):
            with pytest.raises(LocalIOError, match="Too many open files") as caught:
                end(fifo)
            assert caught.value.errno == errno.EMFILE
            again = [os.open("/dev/null", os.O_RDONLY) for _ in range(left)]
            for fd in again:
                os.close(fd)
    finally:
        os.close(other)


@pytest.mark.parametrize("end", [open_input, open_output])
def test_a_file_object_of_a_pipe_without_a_descriptor_left(end: Any) -> None:
    """It is the caller's, and stays open."""
    for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True):
        with open(fd, mode, 0) as file:
            if (end is open_input) == (mode == "rb"):
                for left in (0, 1):
                    with descriptors_left(left), pytest.raises(LocalIOError, match="Too many"):
                        end(file)
            os.fstat(fd)


# --- The other side goes away ---


def test_a_fifo_whose_reader_goes_away(fifo: Path) -> None:
    def read_a_little() -> None:
        with fifo.open("rb", 0) as file:
            assert file.read(100)

    with meanwhile(read_a_little), pytest.raises(LocalIOError, match="Broken pipe") as caught:
        backup(fifo, LARGE)
    assert caught.value.errno == errno.EPIPE


def test_a_file_object_whose_reader_goes_away() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", 0) as output, pytest.raises(LocalIOError) as caught:
        backup(output, LARGE)
    assert caught.value.errno == errno.EPIPE


@pytest.mark.parametrize("size", [0, 100, 512, 5000, len(TAR) - 1])
def test_a_fifo_whose_writer_goes_away(fifo: Path, size: int) -> None:
    with meanwhile(lambda: fifo.write_bytes(TAR[:size])), pytest.raises(IncompleteStreamError):
        restore(fifo)


# --- Cancelled while blocked ---


@contextlib.contextmanager
def open_fifo(path: Path) -> Iterator[int]:
    """Keep a fifo open, so that neither end waits for the other, and nobody sees its end."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def wait_until_full(fd: int) -> None:
    """A writer blocks now, or is about to: there is no room for what it has."""
    poll, pause = select.poll(), threading.Event()
    poll.register(fd, select.POLLOUT)
    for _ in range(TIMEOUT * 100):
        if not poll.poll(0):
            return
        pause.wait(0.01)
    raise AssertionError("the fifo never got full")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("buffering", [None, 0, -1])
def test_a_failing_source_frees_a_writer_that_nobody_reads(
    fifo: Path, buffering: int | None
) -> None:
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(open_fifo(fifo))
        target = fifo if buffering is None else stack.enter_context(open(fifo, "wb", buffering))

        def fail_when_full(start: int, length: int) -> None:
            if start + length == len(LARGE):
                wait_until_full(fd)
                raise BoomError

        with TarStreamSink(target) as sink, pytest.raises(BoomError):
            copy(MemorySource(LARGE, before_read=fail_when_full), sink)


def test_ctrl_c_frees_a_writer_that_nobody_reads(fifo: Path) -> None:
    with open_fifo(fifo) as fd:

        def interrupt_when_full() -> None:
            wait_until_full(fd)
            interrupt()

        with (
            TarStreamSink(fifo) as sink,
            meanwhile(interrupt_when_full),
            pytest.raises(KeyboardInterrupt),
        ):
            copy(MemorySource(LARGE), sink)


def when_writer_starts(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Do something in the thread that starts the writer, before its start() returns."""
    start = threading.Thread.start

    def start_and_more(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("tapestream-writer"):
            then()

    monkeypatch.setattr(threading.Thread, "start", start_and_more)


@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
def test_a_reader_to_which_nobody_writes_is_freed(
    fifo: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer fails, or the user gives up, while the reader waits for the rest of the tar."""
    tar = io.BytesIO()
    backup(tar)
    start_of_tar = tar.getvalue()[: tar.getvalue().index(DISK) + 5000]
    all_started = threading.Event()
    when_writer_starts(monkeypatch, all_started.set)

    def end(start: int, length: int) -> None:
        assert all_started.wait(TIMEOUT)
        if error is BoomError:
            raise BoomError
        interrupt()

    sink = MemorySink(before_write=end)
    with open_fifo(fifo) as fd:
        assert os.write(fd, start_of_tar) == len(start_of_tar)
        with TarStreamSource(fifo) as source, pytest.raises(error):
            copy(source, sink, buffer_size=4096)
    assert sink.state == "aborted"
    assert sink.written[1:] == []


def test_ctrl_c_while_the_threads_start(monkeypatch: pytest.MonkeyPatch) -> None:
    writing = threading.Event()
    closed_too_early: list[bool] = []

    def ctrl_c() -> None:
        assert writing.wait(TIMEOUT)
        raise KeyboardInterrupt

    def write_until_cancelled(start: int, length: int) -> None:
        writing.set()
        pause = threading.Event()
        while not sink.writers[0].cancelled:
            pause.wait(0.01)
        closed_too_early.append(pause.wait(0.1) or sink.writers[0].closed)

    sink = MemorySink(before_write=write_until_cancelled)
    when_writer_starts(monkeypatch, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        copy(MemorySource(DISK), sink)
    left = [t for t in threading.enumerate() if t.name.startswith("tapestream")]
    for thread in left:
        thread.join(TIMEOUT)
    assert not left
    assert closed_too_early == [False]


def test_ctrl_c_frees_a_source_to_which_nobody_writes_at_all(fifo: Path) -> None:
    def on_alarm(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    def read_in_vain() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        TarStreamSource(fifo)

    previous = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with open_fifo(fifo), pytest.raises(KeyboardInterrupt):
            read_in_vain()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# --- "-" ---

BACKUP = """
import sys
from tapestream import *
with RawImageSource(sys.argv[1]) as source, TarStreamSink("-") as sink:
    copy(source, sink)
"""
RESTORE = """
import sys
from tapestream import *
with TarStreamSource("-") as source, RawImageSink(sys.argv[1]) as sink:
    copy(source, sink)
"""


def start(script: str, *args: object, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-c", script, *map(str, args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **streams)


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit status, and what it wrote to standard error."""
    try:
        _, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, errors.decode()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(LARGE)
    return path


def stdout_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def test_standard_output_into_standard_input(image: Path, tmp_path: Path) -> None:
    writer = start(BACKUP, image, stdout=subprocess.PIPE)
    reader = start(RESTORE, tmp_path / "copy.raw", stdin=writer.stdout)
    stdout_of(writer).close()
    writer.stdout = None
    assert end_of(reader) == (0, "")
    assert end_of(writer) == (0, "")
    assert (tmp_path / "copy.raw").read_bytes() == LARGE


def test_standard_output_and_input_that_are_files(image: Path, tmp_path: Path) -> None:
    with (tmp_path / "disk.tar").open("w+b") as file:
        assert end_of(start(BACKUP, image, stdout=file)) == (0, "")
        file.seek(0)
        assert end_of(start(RESTORE, tmp_path / "copy.raw", stdin=file)) == (0, "")
    assert (tmp_path / "copy.raw").read_bytes() == LARGE


def test_standard_output_after_prints(image: Path) -> None:
    writer = start("print('hello', flush=False)\n" + BACKUP, image, stdout=subprocess.PIPE)
    with stdout_of(writer) as output:
        assert output.readline() == b"hello\n"
        assert restore(output) == LARGE
        assert output.read() == b""
    writer.stdout = None
    assert end_of(writer) == (0, "")


def test_standard_output_stays_as_it_was(image: Path) -> None:
    """Other processes share the pipe: it must not become non-blocking for them."""
    reading, writing = os.pipe()
    with open(reading, "rb") as input_:
        process = start(BACKUP, image, stdout=writing)
        assert restore(input_) == LARGE
        assert end_of(process) == (0, "")
        assert os.get_blocking(writing)
        os.close(writing)


def test_standard_output_whose_reader_goes_away(image: Path) -> None:
    writer = start(BACKUP, image, stdout=subprocess.PIPE)
    with stdout_of(writer) as output:
        assert output.read(10)
    writer.stdout = None
    status, errors = end_of(writer)
    assert status == 1
    assert "LocalIOError: cannot write standard output: Broken pipe" in errors


def test_a_terminal_is_refused(image: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        status, errors = end_of(start(BACKUP, image, stdout=theirs))
        assert status == 1
        assert "UsageError: will not write a tar to a terminal" in errors
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_failed_restore_from_standard_input(tmp_path: Path) -> None:
    with (tmp_path / "cut.tar").open("w+b") as file:
        file.write(TAR[:-1])
        file.seek(0)
        status, errors = end_of(start(RESTORE, tmp_path / "copy.raw", stdin=file))
    assert status == 1
    assert "IncompleteStreamError: standard input ends after" in errors
    assert [*tmp_path.iterdir()] == [tmp_path / "cut.tar"]


@pytest.mark.parametrize(
    ("end", "redirect"),
    [
        ("Source", "<&-"),
        ("Sink", ">&-"),
    ],
)
def test_a_standard_stream_that_is_closed(end: str, redirect: str) -> None:
    script = f"from tapestream import *; TarStream{end}('-')"
    done = subprocess.run(
        ["sh", "-c", f'exec timeout 5 "$0" -c "$1" {redirect}', sys.executable, script],
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert b"LocalIOError" in done.stderr


# --- The rules of a sink and a source ---


def test_a_sink_that_has_ended_takes_nothing(path: Path) -> None:
    sink: Sink = TarStreamSink(path)
    sink.close()
    for call in (sink.open_writer, sink.commit, lambda: sink.begin(BackupInfo(size=10), TEN_BYTES)):
        with pytest.raises(UsageError):
            call()
    sink.abort()
    sink.close()


def test_an_abort_after_a_commit_changes_nothing(path: Path) -> None:
    sink = TarStreamSink(path)
    copy(MemorySource(DISK), sink)
    sink.abort()
    sink.close()
    assert restore(path) == DISK


def test_a_stream_is_the_same_whatever_it_is_written_to(path: Path) -> None:
    memory, trickle = io.BytesIO(), Trickle()
    for target in (path, memory, trickle):
        with MemorySource(DISK, info=BackupInfo(created=CREATED)) as source:
            copy(source, sink := TarStreamSink(target))
            sink.close()
    assert path.read_bytes() == memory.getvalue() == bytes(trickle.content)


def test_memory_does_not_grow_with_the_members() -> None:
    """Of each, no more is kept than its digest; here there is none."""

    class Nowhere:
        def write(self, data: memoryview) -> int:
            return len(data)

    def peak(members: int) -> int:
        size = 2 * 512 * members
        extents = Extents.of(
            Extent(start, 512, zero=bool(start % 1024)) for start in range(0, size, 512)
        )
        sink = TarStreamSink(Nowhere(), checksum=None)
        sink.begin(BackupInfo(size=size), extents)
        writer, data = sink.open_writer(), memoryview(bytes(512))
        tracemalloc.start()
        try:
            for start in range(0, size, 1024):
                writer.write(start, data)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            sink.abort()

    assert peak(4000) < peak(1000) + 4000
