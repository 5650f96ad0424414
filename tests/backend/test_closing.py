"""A source or sink that is closed while a copy uses it: the copy ends first, and says by whom."""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tapestream import (
    DiscardSink,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    RawImageSource,
    Reader,
    Sink,
    Source,
    TarStreamSink,
    TarStreamSource,
    compare,
    copy,
    merge_chain,
    restore_chain,
)
from tapestream.backend.forwarding import ForwardingSink
from tapestream.drive.device import StDevice
from tapestream.errors import ClosedError, LocalIOError, TapestreamError, UsageError
from tapestream.model.extents import Extents
from tapestream.tape import TapeDrive
from tapestream.testing import ImageioDaemon, create_image, serve_image, write_pattern
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import Hook, MemorySink, MemorySource
from tests.chains import week

MIB = 1024**2
DISK = random.Random(7).randbytes(4 * MIB)
LONG = 60.0
SMALL: dict[str, Any] = {"buffer_size": 64 * 1024, "buffer_memory": 256 * 1024, "max_workers": 2}


class Middle:
    """A hook that holds a copy in its middle, until it is cancelled."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.inside = 0
        self.worker: MemorySource | MemorySink | None = None
        self._lock = threading.Lock()

    def __call__(self, start: int, length: int) -> None:
        if start < MIB:
            return
        with self._lock:
            self.inside += 1
        self.reached.set()
        while not self._is_cancelled():
            time.sleep(0.005)
        time.sleep(0.05)  # a call that takes its time to end
        with self._lock:
            self.inside -= 1

    def _is_cancelled(self) -> bool:
        if isinstance(self.worker, MemorySource):
            return self.worker.readers[-1].cancelled
        assert self.worker is not None
        return self.worker.writers[-1].cancelled


def held_source() -> tuple[MemorySource, Middle]:
    middle = Middle()
    source = MemorySource(DISK, max_readers=1, before_read=middle)
    middle.worker = source
    return source, middle


def held_sink() -> tuple[MemorySink, Middle]:
    middle = Middle()
    sink = MemorySink(before_write=middle)
    middle.worker = sink
    return sink, middle


@contextmanager
def copying(work: Callable[[], object], middle: Middle) -> Iterator[Future[object]]:
    """A copy in another thread, which stands in its middle when the block begins."""
    with ThreadPoolExecutor(thread_name_prefix="copier") as pool:
        future = pool.submit(work)
        assert middle.reached.wait(LONG), future.exception(0)
        yield future


def check_ended(future: Future[object], middle: Middle, tmp_path: Path, what: str) -> None:
    """Right after something was closed: nobody uses it, and what is opened next is untouched."""
    assert middle.inside == 0
    mine = tmp_path / "mine"
    with mine.open("w+b") as file:
        file.write(b"mine")
        file.flush()
        with pytest.raises(ClosedError, match=rf"{what} was (closed|aborted).*MainThread"):
            future.result(LONG)
        assert file.read(1) == b""
    assert mine.read_bytes() == b"mine"
    assert not [t for t in threading.enumerate() if t.name.startswith("tapestream")]


# --- Sinks ---


@pytest.mark.parametrize("ending", ["close", "abort"])
@pytest.mark.parametrize("kind", ["tar", "new raw", "old raw"])
def test_a_local_sink(kind: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    if kind == "old raw":
        path.write_bytes(b"old" * MIB)
    source, middle = held_source()
    sink = TarStreamSink(path) if kind == "tar" else RawImageSink(path)
    with copying(lambda: copy(source, sink, **SMALL), middle) as future:
        getattr(sink, ending)()
        check_ended(future, middle, tmp_path, type(sink).__name__)
    left = {"mine", "disk.partial"} if kind == "old raw" else {"mine"}
    assert {p.name for p in tmp_path.iterdir()} == left


def test_a_sink_over_a_pipe_that_nobody_empties(tmp_path: Path) -> None:
    """Its writer is blocked when it is closed."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0), open(write, "wb") as pipe:
        sink = TarStreamSink(pipe)
        with ThreadPoolExecutor() as pool:
            future = pool.submit(copy, MemorySource(bytes(range(256)) * 4 * 4096 * 4), sink)
            while not future.done() and len(os.listdir("/proc/self/task")) < 4:
                time.sleep(0.01)
            sink.close()
            with pytest.raises(ClosedError):
                future.result(LONG)


def test_a_tape(tmp_path: Path) -> None:
    drive = FakeDrive(Cartridge())
    source, middle = held_source()
    with TapeDrive("/dev/nst0", open_device=drive.open) as tape:
        sink = TarStreamSink(tape, record_size=64 * 1024)
        with copying(lambda: copy(source, sink, **SMALL), middle) as future:
            sink.close()
            check_ended(future, middle, tmp_path, "TarStreamSink")
        assert not tape.find()
        with MemorySource(DISK) as again, TarStreamSink(tape) as other:
            copy(again, other)
        assert len(tape.find()) == 1


def test_an_upload_and_a_download(daemon: ImageioDaemon, tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    create_image(image, len(DISK))
    write_pattern(image, ["write -P 7 0 4M"])
    with serve_image(image, read_only=False) as nbd_url:
        url = daemon.add_ticket(nbd_url, len(DISK), ops=["read", "write"])
        source, middle = held_source()
        sink = ImageioUploadSink(url, cafile=str(daemon.cafile))
        with copying(lambda: copy(source, sink, **SMALL), middle) as future:
            sink.close()
            check_ended(future, middle, tmp_path, "ImageioUploadSink")
        target, middle = held_sink()
        download = ImageioHTTPSource(url, cafile=str(daemon.cafile))
        with copying(lambda: copy(download, target, **SMALL), middle) as future:
            download.close()
            check_ended(future, middle, tmp_path, "ImageioHTTPSource")
        assert daemon.ticket_info(url)["connections"] == 0


def test_a_device_is_not_closed_under_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a drive that takes its time for a record."""
    path = tmp_path / "tape"
    path.touch()
    device = StDevice(str(path))
    writing = threading.Event()

    def slow(fd: int, record: memoryview) -> int:
        writing.set()
        time.sleep(0.1)
        os.fstat(fd)
        return len(record)

    with ThreadPoolExecutor() as pool:
        monkeypatch.setattr(os, "write", slow)
        future = pool.submit(device.write, memoryview(b"record"))
        assert writing.wait(LONG)
        device.close()
        assert future.result(LONG) == 6
    with pytest.raises(OSError, match="Bad file descriptor"):
        device.status()


# --- Sources ---


def tar_of_the_disk() -> bytes:
    out = io.BytesIO()
    copy(MemorySource(DISK), TarStreamSink(out))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["tar", "raw"])
def test_a_local_source(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(tar_of_the_disk() if kind == "tar" else DISK)
    sink, middle = held_sink()
    source = TarStreamSource(path) if kind == "tar" else RawImageSource(path)
    with copying(lambda: copy(source, sink, **SMALL), middle) as future:
        source.close()
        check_ended(future, middle, tmp_path, type(source).__name__)
    assert sink.state == "aborted"


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("merged", [False, True])
def test_one_of_a_chain(which: int, merged: bool, tmp_path: Path) -> None:
    sources = week()
    sink = MemorySink()
    reached = threading.Event()

    def hold(start: int, length: int) -> None:
        reached.set()
        while not sink.writers[-1].cancelled:
            time.sleep(0.005)

    sink.before_write = hold

    def restore() -> object:
        return copy(merge_chain(sources), sink) if merged else restore_chain(sources, sink)

    with ThreadPoolExecutor() as pool:
        future = pool.submit(restore)
        assert reached.wait(LONG)
        sources[which].close()
        with pytest.raises(ClosedError):
            future.result(LONG)
    assert sink.state == "aborted"


def test_the_other_side_of_a_comparison(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    source, middle = held_source()
    other = RawImageSource(path)
    with copying(lambda: compare(source, other, **SMALL), middle) as future:
        other.close()
        check_ended(future, middle, tmp_path, "RawImageSource")


def test_a_source_that_waits_for_its_extents(tmp_path: Path) -> None:
    """Nothing is copied yet when it is closed."""
    waiting, cancelled = threading.Event(), threading.Event()

    class Waiting(MemorySource):
        def extents(self) -> list[object]:  # type: ignore[override]
            waiting.set()
            assert cancelled.wait(LONG)
            raise LocalIOError("cancelled")

        def cancel(self) -> None:
            cancelled.set()

    source = Waiting(DISK)
    with TarStreamSink(tmp_path / "a.tar") as sink, ThreadPoolExecutor() as pool:
        future = pool.submit(copy, source, sink)
        assert waiting.wait(LONG)
        sink.close()
        assert isinstance(future.exception(LONG), TapestreamError)
    assert list(tmp_path.iterdir()) == []


# --- From the copy itself ---


@pytest.mark.parametrize("side", ["source", "sink"])
def test_closed_by_a_callback(side: str, tmp_path: Path) -> None:
    """It is closed when the copy has ended, and by then for good."""
    path, target = tmp_path / "disk.raw", tmp_path / "a.tar"
    path.write_bytes(DISK)
    before = len(os.listdir("/proc/self/fd"))
    source, sink = RawImageSource(path), TarStreamSink(target)
    called: list[int] = []

    class Progress:
        def update(self, n: int) -> None:
            called.append(n)
            (source if side == "source" else sink).close()

    with pytest.raises(ClosedError, match="was closed during its copy, by thread tapestream-"):
        copy(source, sink, progress=Progress(), **SMALL)
    assert called
    assert [p.name for p in tmp_path.iterdir()] == ["disk.raw"]
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_sink_that_is_closed_while_it_commits(tmp_path: Path) -> None:
    """Then the copy is complete, and whoever closes it waits for that."""
    committing = threading.Event()

    class Slow(TarStreamSink):
        def commit(self) -> None:
            committing.set()
            time.sleep(0.1)
            super().commit()

    sink = Slow(tmp_path / "a.tar")
    with ThreadPoolExecutor() as pool:
        future = pool.submit(copy, MemorySource(DISK), sink)
        assert committing.wait(LONG)
        sink.close()
        assert (tmp_path / "a.tar").exists()
        assert future.result(LONG)
    with TarStreamSource(tmp_path / "a.tar") as source:
        copy(source, DiscardSink())


# --- Two copies ---


def test_a_second_copy_of_a_source_or_sink_in_use(tmp_path: Path) -> None:
    source, middle = held_source()
    sink = TarStreamSink(tmp_path / "a.tar")
    unused, other = MemorySource(DISK), MemorySink()
    with copying(lambda: copy(source, sink, **SMALL), middle) as future:
        with pytest.raises(UsageError, match="another copy uses this TarStreamSink"):
            copy(unused, sink)
        with pytest.raises(UsageError, match="another copy uses this MemorySource"):
            copy(source, other)
        assert not future.done()
        assert len(list(tmp_path.iterdir())) == 1
        sink.close()
        with pytest.raises(ClosedError):
            future.result(LONG)
    copy(unused, MemorySink())


# --- Backends of others ---


class Wrapper(ForwardingSink):
    """Passes everything on to another sink, and counts how often it was closed."""

    was_closed = 0

    def close(self) -> None:
        self.was_closed += 1
        super().close()


@pytest.mark.parametrize("inner", [False, True])
def test_a_sink_that_wraps_another(inner: bool, tmp_path: Path) -> None:
    source, middle = held_source()
    sink = TarStreamSink(tmp_path / "a.tar", checksum=None)
    wrapper = Wrapper(sink)
    closed: Sink = sink if inner else wrapper
    with copying(lambda: copy(source, wrapper, **SMALL), middle) as future:
        closed.close()
        check_ended(future, middle, tmp_path, type(closed).__name__)
    assert {p.name for p in tmp_path.iterdir()} == {"mine"}
    assert wrapper.was_closed == (0 if inner else 1)


def test_what_a_copy_calls_takes_keywords() -> None:
    class Named(MemorySource):
        def open_reader(self, *, quickly: bool = False) -> Reader:
            assert quickly
            return super().open_reader()

    sink, source = MemorySink(), Named(DISK)
    extents = Extents.of(source.extents())
    sink.begin(info=source.info, extents=extents)
    assert sink.extents is extents
    source.open_reader(quickly=True).close()


def test_a_source_whose_reader_closes_what_it_has_opened(tmp_path: Path) -> None:
    """That is its own business."""
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)

    class Opening(MemorySource):
        def open_reader(self) -> Reader:
            inner = RawImageSource(path)
            reader = inner.open_reader()

            class Closing(Reader):
                def readinto(self, start: int, buffer: memoryview) -> None:
                    reader.readinto(start, buffer)

                def close(self) -> None:
                    inner.close()

            return Closing()

        def finish(self) -> None:
            pass

    sink = MemorySink()
    source: Source = Opening(DISK)
    copy(source, sink)
    assert bytes(sink.disk) == DISK


# --- File objects of the caller ---


@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("writes", [True, False])
def test_a_file_object_that_the_caller_closes(writes: bool, buffering: int, tmp_path: Path) -> None:
    """Its descriptor's number is soon another file's, which nobody touches."""
    tar = tar_of_the_disk()
    path = tmp_path / "disk.tar"
    path.write_bytes(b"" if writes else tar)
    file = open(path, "wb" if writes else "rb", buffering)  # noqa: SIM115
    held, middle = held_until_closed(file)
    source: Source = MemorySource(DISK, before_read=held) if writes else TarStreamSource(file)
    sink: Sink = TarStreamSink(file) if writes else MemorySink(before_write=held)
    with ThreadPoolExecutor() as pool:
        future = pool.submit(copy, source, sink, **SMALL)
        assert middle.wait(LONG)
        number = file.fileno()
        file.close()
        with (tmp_path / "mine").open("w+b") as mine:
            assert mine.fileno() == number
            mine.write(b"m" * len(tar))
            mine.seek(0)
            error = future.exception(LONG)
            assert mine.tell() == 0
        assert error is None or isinstance(error, TapestreamError)
    sink.close()
    source.close()
    assert (tmp_path / "mine").read_bytes() == b"m" * len(tar)
    assert path.read_bytes() == tar or error is not None
    if isinstance(sink, MemorySink):
        assert bytes(sink.disk) == DISK or error is not None


def held_until_closed(file: IO[bytes]) -> tuple[Hook, threading.Event]:
    reached = threading.Event()

    def hold(start: int, length: int) -> None:
        reached.set()
        while not file.closed:
            time.sleep(0.005)
        time.sleep(0.02)

    return hold, reached
