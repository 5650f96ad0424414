"""What a server lists of a disk is held against what it says elsewhere."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    BackupInfo,
    CopyResult,
    ImageioHTTPSource,
    RawImageSink,
    TarStreamSink,
    TarStreamSource,
    copy,
    restore_chain,
)
from tapestream.errors import ServerError, ServerProtocolError, TransferError, UnsupportedError
from tapestream.model.info import Context
from tapestream.testing import (
    ImageioDaemon,
    MemorySink,
    compare_images,
    create_image,
    serve_image,
    write_pattern,
)
from tests.disks import noise
from tests.hostile import (
    CloseBeforeReply,
    Connection,
    Fault,
    HostileServer,
    Reply,
    Request,
    Status,
    Whole,
)
from tests.imageio.support import (
    KIB,
    MIB,
    Say,
    always,
    asked,
    download,
    gets,
    looks_beyond,
    to_json,
)

SIZE = 200 * KIB
IMAGE = noise(SIZE)


def extent(start: int, end: int, **more: Any) -> dict[str, Any]:
    return {"start": start, "length": end - start, "zero": False, **more}


# --- A list where nothing is dirty ---

NOTHING_DIRTY = to_json(extent(0, SIZE, hole=False, dirty=False))


@pytest.mark.parametrize(
    "full",
    [NOTHING_DIRTY, to_json(extent(0, 512, dirty=True), extent(512, SIZE, dirty=False))],
    ids=["the same", "another that says what is dirty"],
)
def test_a_server_that_ignores_what_it_is_asked_for(full: bytes) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, extents={"dirty": NOTHING_DIRTY, "zero": full}) as server:
        with pytest.raises(UnsupportedError, match="what changed") as caught:
            download(server, sink, context="dirty")
        assert "full backup" in caught.value.hint
        assert not gets(server)
        assert sink.state != "committed"
        assert not sink.disk


def test_it_gets_a_full_backup_where_that_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, extents=NOTHING_DIRTY) as server:
        result = download(server, sink, context="dirty", fallback="full")
        assert len(asked(server, "GET", "/extents")) == 2
    assert result.context == "zero"
    assert sink.disk == IMAGE
    assert "Taking a full backup" in caplog.text


def test_a_full_list_in_place_of_a_dirty_one() -> None:
    """It does not even say what is dirty."""
    full = to_json(extent(0, SIZE, hole=False))
    with HostileServer(IMAGE, extents=full) as server:
        with pytest.raises(UnsupportedError, match="what changed"):
            download(server, MemorySink(), context="dirty")
        sink = MemorySink()
        assert download(server, sink, context="dirty", fallback="full").context == "zero"
    assert sink.disk == IMAGE


def test_the_full_list_is_asked_for_only_where_nothing_is_dirty() -> None:
    some = to_json(extent(0, SIZE - 512, dirty=False), extent(SIZE - 512, SIZE, dirty=True))
    with HostileServer(IMAGE, extents={"dirty": some}) as server:
        download(server, MemorySink(), context="dirty")
        assert len(asked(server, "GET", "/extents")) == 1


def test_where_the_full_list_cannot_be_had_nothing_is_believed() -> None:
    sink = MemorySink()
    with (
        HostileServer(IMAGE, extents={"dirty": NOTHING_DIRTY}) as server,
        pytest.raises(ServerError),
    ):
        download(server, sink, context="dirty")
    assert sink.state != "committed"


def backup(url: str, daemon: ImageioDaemon, tar: Path, **options: Any) -> CopyResult:
    with (
        ImageioHTTPSource(url, cafile=daemon.cafile, **options) as source,
        TarStreamSink(tar) as sink,
    ):
        return copy(source, sink)


@pytest.mark.parametrize("data", [True, False], ids=["with data", "empty"])
def test_a_disk_where_nothing_changed(daemon: ImageioDaemon, tmp_path: Path, data: bool) -> None:
    """The real daemon, and a bitmap in which nothing is dirty: an incremental backup of nothing."""
    disk, full, nothing = tmp_path / "disk.qcow2", tmp_path / "full.tar", tmp_path / "nothing.tar"
    create_image(disk, 4 * MIB)
    if data:
        write_pattern(disk, ["write -P 1 0 4M"])
    subprocess.run(["qemu-img", "bitmap", "--add", disk, "since-full"], check=True)
    with serve_image(disk, bitmap="since-full") as nbd_url:
        url = daemon.add_ticket(nbd_url, 4 * MIB, dirty=True)
        first = BackupInfo(disk_id="disk", checkpoint_id="c1")
        next_one = BackupInfo(disk_id="disk", checkpoint_id="c2", parent_checkpoint_id="c1")
        backup(url, daemon, full, info=first)
        result = backup(url, daemon, nothing, context="dirty", fallback="full", info=next_one)
    assert (result.context, result.data_bytes) == ("dirty", 0)
    with (
        TarStreamSource(full) as one,
        TarStreamSource(nothing) as other,
        RawImageSink(tmp_path / "restored.raw") as sink,
    ):
        restore_chain([one, other], sink)
    compare_images(disk, tmp_path / "restored.raw", b_format="raw")


# --- A transfer that the server does not know ---


@pytest.mark.parametrize("fallback", [None, "full"])
@pytest.mark.parametrize("context", ["zero", "dirty"])
def test_an_unknown_transfer(context: Context, fallback: Any) -> None:
    """Some servers answer OPTIONS for every transfer, and the rest with 404."""
    with HostileServer(IMAGE, extents={}) as server:
        with pytest.raises(ServerError, match="not know this transfer") as caught:
            download(server, MemorySink(), context=context, fallback=fallback)
        assert len(asked(server, "GET", "/extents")) == (1 if context == "zero" else 2)
    assert caught.value.status == 404
    assert "full backup" not in str(caught.value)


# --- Where the disk ends ---


@dataclass(frozen=True)
class NoTotal(Fault):
    """The honest reply, of which `Content-Range` does not tell the size."""

    def play(self, connection: Connection, reply: Reply) -> None:
        headers = dict(reply.headers)
        if "Content-Range" in headers:
            headers["Content-Range"] = headers["Content-Range"].rpartition("/")[0] + "/*"
        connection.send(replace(reply, headers=headers).head(), reply.body())


@pytest.mark.parametrize("fault", [None, NoTotal(), Whole()], ids=str)
@pytest.mark.parametrize("context", ["zero", "dirty"])
def test_a_list_that_ends_early(fault: Fault | None, context: Context) -> None:
    more = {"dirty": True} if context == "dirty" else {}
    short = to_json(extent(0, SIZE - 512, **more))
    sink = MemorySink()
    with (
        HostileServer(IMAGE, extents={context: short}, on_get=lambda *_: fault) as server,
        pytest.raises(ServerProtocolError, match=f"cover only {SIZE - 512}"),
    ):
        download(server, sink, context=context)
    assert sink.state != "committed"


@pytest.mark.parametrize("fault", [None, NoTotal()], ids=str)
@pytest.mark.parametrize(
    ("listed", "image"),
    [
        ([extent(0, SIZE)], IMAGE),
        ([extent(0, SIZE, zero=True)], bytes(SIZE)),
        ([extent(0, 0, zero=True)], b""),
    ],
    ids=["data", "zeros", "no bytes"],
)
def test_a_list_that_is_right(listed: list[dict[str, Any]], image: bytes, fault: Any) -> None:
    sink = MemorySink()
    with HostileServer(image, extents=to_json(*listed), on_get=lambda *_: fault) as server:
        download(server, sink)
        assert looks_beyond(server) == 1
    assert sink.disk == image


class FailsBeyond(HostileServer):
    """The double, which fails where it should say that it has no such byte."""

    fault: Fault = Status(500, "nbdsh failed")
    readable = SIZE  # the bytes before that can be read

    def _get(self, request: Request, body: Iterator[bytes]) -> tuple[Reply, Fault]:
        start = int(request.headers["range"].removeprefix("bytes=").partition("-")[0])
        if start >= self.readable:
            return Reply(), self.fault
        return super()._get(request, body)


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The levels at which it was said where the disk ends."""
    return [r.levelno for r in caplog.records if f"ends at byte {SIZE}" in r.getMessage()]


def test_a_server_that_fails_beyond_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """The last byte shows the end. A warning would come with every backup from OneBEX."""
    caplog.set_level(logging.INFO)
    sink = MemorySink()
    with FailsBeyond(IMAGE, on_get=always(NoTotal())) as server:
        download(server, sink)
        assert looks_beyond(server) == 3
    assert sink.disk == IMAGE
    assert levels(caplog) == [logging.INFO]


def test_a_server_that_fails_before_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing shows whether more follows. The last byte itself is not needed: it is zero."""
    image, half = IMAGE[: SIZE // 2] + bytes(SIZE // 2), SIZE // 2
    listed = to_json(extent(0, half), extent(half, SIZE, zero=True))
    sink = MemorySink()
    with FailsBeyond(image, extents=listed) as server:
        server.readable = half
        download(server, sink)
    assert sink.disk == image
    assert levels(caplog) == [logging.WARNING]


@pytest.mark.parametrize(
    "fault", [Status(400), Status(403), Status(404), Say(204), CloseBeforeReply()], ids=str
)
def test_a_server_that_refuses_otherwise_beyond_its_end(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """Not every server knows 416. It does know the transfer: it sends the last byte."""
    caplog.set_level(logging.INFO)
    sink = MemorySink()
    with FailsBeyond(IMAGE, on_get=always(NoTotal())) as server:
        server.fault = fault
        download(server, sink)
    assert sink.disk == IMAGE
    assert f"ends at byte {SIZE}" in caplog.text


@pytest.mark.parametrize("code", [400, 403, 404])
def test_a_server_that_refuses_the_last_byte_too(code: int) -> None:
    sink = MemorySink()
    refuse = always(Status(code))
    with HostileServer(IMAGE, on_get=refuse) as server, pytest.raises(TransferError):
        download(server, sink)
    assert sink.state != "committed"


def test_there_the_size_that_comes_with_data_counts() -> None:
    class Grown(FailsBeyond):
        def _get(self, request: Request, body: Iterator[bytes]) -> tuple[Reply, Fault]:
            if request.headers["range"] == f"bytes={SIZE - 512}-{SIZE - 512}":
                return Reply(), Status(500)
            return super()._get(request, body)

    with (
        Grown(IMAGE, extents=to_json(extent(0, SIZE - 512))) as server,
        pytest.raises(ServerProtocolError, match=f"{SIZE} bytes.*only {SIZE - 512}"),
    ):
        download(server, MemorySink())


@pytest.mark.parametrize("context", ["zero", "dirty"])
@pytest.mark.parametrize("more", [1, 512, MIB])
def test_a_list_that_goes_beyond_what_may_be_read(context: Context, more: int) -> None:
    says = {"dirty": True} if context == "dirty" else {}
    extents = [extent(0, 512, **says), extent(512, SIZE + 512, **says)]
    if more > 512:
        extents.append(extent(SIZE + 512, SIZE + more, **says))
    sink = MemorySink()
    with HostileServer(IMAGE, extents={context: to_json(*extents)}) as server:
        result = download(server, sink, context=context)
        assert looks_beyond(server) == 2
    assert result.size == SIZE
    assert sink.disk == IMAGE


def test_a_server_that_contradicts_itself() -> None:
    """It refuses a byte, and says that there are fewer, but sends one of those that are not."""

    class Confused(HostileServer):
        def _get(self, request: Request, body: Iterator[bytes]) -> tuple[Reply, Fault]:
            if request.headers["range"] == f"bytes={SIZE}-{SIZE}":
                return Reply(), Say(416, headers={"Content-Range": "bytes */512"})
            return super()._get(request, body)

    with Confused(IMAGE) as server, pytest.raises(ServerProtocolError, match="acts otherwise"):
        download(server, MemorySink())


# --- The sizes of the ticket, of the disk and of the backup, with the real daemon ---

DATA = 5 * 64 * KIB  # and a hole of the same length


@pytest.fixture(params=["file", "nbd", "nbd, dirty"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Context, Path]]:
    """What the daemon is to read, the context, and the image."""
    context: Context = "zero"
    if request.param == "file":
        image = tmp_path / "disk.raw"
        image.write_bytes(noise(DATA) + bytes(DATA - 100))  # no multiple of 4096
        yield f"file://{image}", context, image
        return
    image = tmp_path / "disk.qcow2"
    create_image(image, 2 * DATA)
    bitmap = None
    if "dirty" in request.param:
        context, bitmap = "dirty", "all"
        subprocess.run(["qemu-img", "bitmap", "--add", image, bitmap], check=True)
    (tmp_path / "noise").write_bytes(noise(DATA))
    write_pattern(image, [f"write -s {tmp_path / 'noise'} 0 {DATA}", f"write -z {DATA} {DATA}"])
    with serve_image(image, bitmap=bitmap) as nbd_url:
        yield nbd_url, context, image


@pytest.mark.parametrize(
    "ticket", [512, DATA - 512, DATA, DATA + 1000, 2 * DATA - 100, 2 * DATA, 3 * DATA]
)
def test_the_disk_is_what_the_ticket_allows_of_what_there_is(
    daemon: ImageioDaemon, volume: tuple[str, Context, Path], ticket: int, tmp_path: Path
) -> None:
    url, context, image = volume
    there = 2 * DATA - 100 if image.suffix == ".raw" else 2 * DATA
    tar = tmp_path / "disk.tar"
    url = daemon.add_ticket(url, ticket, dirty=context == "dirty")
    result = backup(url, daemon, tar, context=context)
    assert result.size == min(ticket, there)
    with TarStreamSource(tar) as source, MemorySink() as sink:
        copy(source, sink)
    assert sink.disk == (noise(DATA) + bytes(DATA))[: result.size]


def test_no_block_hash_is_recorded_of_more_than_the_disk(
    daemon: ImageioDaemon, tmp_path: Path
) -> None:
    """The daemon would compute that of the whole volume."""
    image = tmp_path / "disk.raw"
    image.write_bytes(noise(DATA))
    url = daemon.add_ticket(f"file://{image}", DATA - 4096)
    with pytest.raises(UnsupportedError, match=f"all {DATA} bytes"):
        backup(url, daemon, tmp_path / "disk.tar", record_block_hash=True)
    with ImageioHTTPSource(url, cafile=daemon.cafile) as source, MemorySink() as sink:
        assert copy(source, sink, block_hash=True).size == DATA - 4096


def test_an_empty_list_of_an_empty_disk() -> None:
    sink = MemorySink()
    with HostileServer(b"", extents=b"[]") as server:
        assert download(server, sink).size == 0
    assert sink.state == "committed"


@pytest.mark.parametrize("context", ["zero", "dirty"])
def test_an_empty_list_of_a_disk(context: Context) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, extents=b"[]") as server:
        with pytest.raises(ServerProtocolError, match="empty list"):
            download(server, sink, context=context)
        assert {length for _, length in gets(server)} == {1}  # is it an empty disk?
    assert sink.state == "aborted"
    assert not sink.disk


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"on_get": always(Say(206, b"no"))}, "disk vda at {server}: asked for"),
        ({"extents": {}}, "disk vda at {server}: .* 404"),
        ({"extents": NOTHING_DIRTY}, "disk vda at {server}: the server does not know"),
    ],
    ids=["reply", "no list", "context"],
)
def test_a_refusal_names_the_disk_and_the_server(behaviour: dict[str, Any], error: str) -> None:
    context: Context = "dirty" if "extents" in behaviour else "zero"
    info = BackupInfo(disk_name="vda")
    with HostileServer(IMAGE, **behaviour) as server:
        wanted = error.format(server=server.url.partition("/images")[0])
        with pytest.raises(TransferError, match=f"^{wanted}"):
            download(server, MemorySink(), context=context, info=info)


@pytest.mark.parametrize("kind", ["file", "nbd"])
@pytest.mark.parametrize("ticket", [0, MIB])
def test_an_empty_disk(daemon: ImageioDaemon, tmp_path: Path, kind: str, ticket: int) -> None:
    """The daemon lists one extent of no bytes, and fails to list those of an empty NBD export."""
    image = tmp_path / "disk.raw"
    image.write_bytes(b"")
    tar, restored = tmp_path / "disk.tar", tmp_path / "restored.raw"
    with serve_image(image, format="raw") as nbd_url:
        url = daemon.add_ticket(nbd_url if kind == "nbd" else f"file://{image}", ticket)
        assert backup(url, daemon, tar).size == 0
    with TarStreamSource(tar) as source, RawImageSink(restored) as sink:
        copy(source, sink)
    assert restored.read_bytes() == b""


def test_an_old_server_that_wants_to_be_asked_for_a_range() -> None:
    class OnlyRanges(HostileServer):
        def _get(self, request: Request, body: Iterator[bytes]) -> tuple[Reply, Fault]:
            if "range" not in request.headers:
                return Reply(), Say(416, headers={"Content-Range": f"bytes */{SIZE}"})
            return super()._get(request, body)

    sink = MemorySink()
    with OnlyRanges(IMAGE, features=()) as server:
        download(server, sink)
    assert sink.disk == IMAGE
