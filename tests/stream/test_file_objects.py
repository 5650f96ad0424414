"""Tars through file objects of every kind, and through devices."""

from __future__ import annotations

import errno
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tapestream import TarStreamSink, TarStreamSource, copy
from tapestream.errors import (
    BackendError,
    IncompleteStreamError,
    LocalIOError,
    TapestreamError,
    UsageError,
)
from tapestream.files.inputs import BinaryInput
from tapestream.testing.memory import MemorySink, MemorySource
from tests.stream.support import LARGE, TAR, BoomError, Trickle, backup, boom, meanwhile, restore
from tests.tar.tars import DISK, disk

# --- File objects ---


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


@pytest.mark.parametrize("buffering", [0, -1])
def test_the_caller_closes_the_descriptor_under_a_file_object(path: Path, buffering: int) -> None:
    """Ours is a copy of it: it goes on, and there is nothing to give back to theirs."""
    for mode in ("wb", "rb"):
        file = open(path, mode, buffering=buffering)  # noqa: SIM115
        stream = TarStreamSink(file) if mode == "wb" else TarStreamSource(file)
        os.close(file.fileno())
        try:
            if isinstance(stream, TarStreamSink):
                with MemorySource(DISK) as source:
                    copy(source, stream)
            else:
                with MemorySink() as sink:
                    copy(stream, sink)
                    assert bytes(sink.disk) == DISK
            stream.close()
        finally:
            with suppress(OSError):
                file.close()


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


# --- File objects that commit and abort ---


class Store:
    """A double of an object store: complete objects, and uploads that are not complete."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, list[bytes]] = {}


class Upload:
    """A multipart upload: its parts cost money until it is completed or aborted."""

    def __init__(self, store: Store, fails: str = "") -> None:
        self.store = store
        self.fails = fails
        self.calls: list[str] = []
        store.uploads["disk.tar"] = []

    def _do(self, call: str) -> None:
        if self.calls[-1:] != [call]:
            self.calls.append(call)
        if call in self.fails:
            raise OSError(errno.EIO, f"{call} failed")

    def write(self, data: memoryview, /) -> int:
        self._do("write")
        self.store.uploads["disk.tar"].append(bytes(data))
        return len(data)

    def flush(self) -> None:
        self._do("flush")

    def commit(self) -> None:
        self._do("commit")
        self.store.objects["disk.tar"] = b"".join(self.store.uploads.pop("disk.tar"))

    def abort(self) -> None:
        self._do("abort")
        self.store.uploads.pop("disk.tar", None)

    def close(self) -> None:
        self._do("close")


def test_an_upload_is_committed_last_and_stays_open() -> None:
    store = Store()
    upload = Upload(store)
    with TarStreamSink(upload) as sink:
        copy(MemorySource(DISK), sink)
        assert upload.calls == ["write", "flush", "commit"]
    assert upload.calls == ["write", "flush", "commit"]
    assert store.uploads == {}
    assert restore(io.BytesIO(store.objects["disk.tar"])) == DISK


def test_a_copy_that_fails_aborts_the_upload() -> None:
    store = Store()
    upload = Upload(store)
    with TarStreamSink(upload) as sink, pytest.raises(BoomError):
        copy(MemorySource(DISK, before_read=boom), sink)
    assert upload.calls.count("abort") == 1
    assert upload.calls[-1] == "abort"
    assert not store.objects
    assert not store.uploads


def test_a_sink_that_nobody_used_aborts_the_upload() -> None:
    store = Store()
    upload = Upload(store)
    with TarStreamSink(upload):
        pass
    assert upload.calls == ["abort"]
    assert store.uploads == {}


@pytest.mark.parametrize("fails", ["write", "flush", "commit"])
def test_an_error_of_an_upload_is_the_error_of_the_copy(fails: str) -> None:
    store = Store()
    upload = Upload(store, fails)
    with TarStreamSink(upload) as sink, pytest.raises(LocalIOError, match=f"{fails} failed"):
        copy(MemorySource(DISK), sink)
    assert upload.calls[-2:] == [fails, "abort"]
    assert not store.objects
    assert not store.uploads


def test_an_error_in_abort_hides_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(LocalIOError, match="commit failed"),
        TarStreamSink(Upload(Store(), "commit, abort")) as sink,
    ):
        copy(MemorySource(DISK), sink)
    assert "abort failed" in caplog.text
    caplog.clear()
    with pytest.raises(BoomError), TarStreamSink(Upload(Store(), "abort")):
        raise BoomError
    assert "abort failed" in caplog.text
    with (
        pytest.raises(LocalIOError, match=r"cannot abort Upload: .*abort failed"),
        TarStreamSink(Upload(Store(), "abort")),
    ):
        pass


def test_a_commit_that_did_not_commit_is_noticed() -> None:
    class Later(Upload):
        def commit(self) -> Any:
            return False

    store = Store()
    with (
        TarStreamSink(Later(store)) as sink,
        pytest.raises(BackendError, match=r"Later.commit\(\) returned False"),
    ):
        copy(MemorySource(DISK), sink)
    assert store.uploads == {}


def test_a_lone_commit_means_something_else() -> None:
    """The files of fsspec have `commit` and `discard`, and call them in their own `close`."""

    class Fsspec(io.BytesIO):
        def commit(self) -> None:
            raise BoomError

    with Fsspec() as file:
        backup(file)
        assert restore(io.BytesIO(file.getvalue())) == DISK
