"""A full backup where an incremental one cannot be had: only if wanted, and it says so."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    BackupInfo,
    DiscardSink,
    ImageioHTTPSource,
    RawImageSink,
    TarStreamSink,
    TarStreamSource,
    copy,
)
from tapestream.errors import ServerError, TicketError, UnsupportedError, UsageError
from tapestream.testing import (
    ImageioDaemon,
    MemorySink,
    compare_images,
    create_image,
    serve_image,
    write_pattern,
)
from tests.disks import noise
from tests.hostile import HostileServer, Status
from tests.imageio.support import KIB, MIB, always, asked, content, on

SIZE = 16 * MIB
IMAGE = noise(200 * KIB)
INFO = BackupInfo(disk_id="disk", checkpoint_id="c2", parent_checkpoint_id="c1")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk with a bitmap since its full backup; 1 MiB was written after that."""
    path = tmp_path / "disk.qcow2"
    create_image(path, SIZE)
    write_pattern(path, ["write -P 1 0 4M"])
    subprocess.run(["qemu-img", "bitmap", "--add", path, "since-full"], check=True)
    write_pattern(path, ["write -P 2 8M 1M"])
    return path


Serve = Callable[[Path, ImageioDaemon], Any]


@contextmanager
def no_bitmap(image: Path, daemon: ImageioDaemon) -> Iterator[str]:
    """A disk that was not in the parent checkpoint."""
    with serve_image(image) as nbd_url:
        yield daemon.add_ticket(nbd_url, SIZE, dirty=True)


@contextmanager
def full_mode(image: Path, daemon: ImageioDaemon) -> Iterator[str]:
    """A disk that oVirt backs up in full: its ticket says so."""
    with serve_image(image, bitmap="since-full") as nbd_url:
        yield daemon.add_ticket(nbd_url, SIZE, dirty=False)


@contextmanager
def incremental(image: Path, daemon: ImageioDaemon) -> Iterator[str]:
    with serve_image(image, bitmap="since-full") as nbd_url:
        yield daemon.add_ticket(nbd_url, SIZE, dirty=True)


@pytest.mark.parametrize("serve", [no_bitmap, full_mode])
def test_a_full_backup_instead(
    serve: Serve,
    image: Path,
    daemon: ImageioDaemon,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tar, restored = tmp_path / "disk.tar", tmp_path / "restored.raw"
    with (
        serve(image, daemon) as url,
        ImageioHTTPSource(
            url,
            cafile=daemon.cafile,
            context="dirty",
            fallback="full",
            info=INFO,
            record_block_hash=True,
        ) as source,
        TarStreamSink(tar) as sink,
    ):
        result = copy(source, sink, block_hash=True)
        recorded = source.block_hash()
    assert result.context == "zero"
    [warning] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "Taking a full backup" in warning.getMessage()
    with TarStreamSource(tar) as src, RawImageSink(restored) as dst:
        info = src.info
        copy(src, dst)
    assert (info.context, info.fallback) == ("zero", True)
    assert (info.checkpoint_id, info.parent_checkpoint_id) == ("c2", "c1")
    assert info.block_hash == recorded == result.block_hash
    compare_images(image, restored, b_format="raw")


@pytest.mark.parametrize("serve", [no_bitmap, full_mode])
def test_not_unless_wanted(
    serve: Serve, image: Path, daemon: ImageioDaemon, tmp_path: Path
) -> None:
    with (
        serve(image, daemon) as url,
        ImageioHTTPSource(url, cafile=daemon.cafile, context="dirty") as source,
        TarStreamSink(tmp_path / "disk.tar") as sink,
        pytest.raises(UnsupportedError, match="take a full backup"),
    ):
        copy(source, sink)
    assert not (tmp_path / "disk.tar").exists()


def test_not_where_there_are_dirty_extents(
    image: Path, daemon: ImageioDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        incremental(image, daemon) as url,
        ImageioHTTPSource(
            url,
            cafile=daemon.cafile,
            context="dirty",
            fallback="full",
            info=BackupInfo(fallback=True),
        ) as source,
    ):
        result = copy(source, DiscardSink())
        assert (source.info.context, source.info.fallback) == ("dirty", False)
    assert result.context == "dirty"
    assert result.data_bytes == MIB
    assert not caplog.records


@pytest.mark.parametrize(
    "behaviour", [{"options_status": 405}, {"options_status": 204}, {"features": ()}, {}]
)
def test_servers_without_dirty_extents(behaviour: dict[str, Any]) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, **behaviour) as server:
        with ImageioHTTPSource(
            server.url, secure=False, context="dirty", fallback="full"
        ) as source:
            assert copy(source, sink).context == "zero"
            assert source.info.fallback
        assert sink.disk == content(server)


def test_the_full_extents_are_tried_again() -> None:
    with HostileServer(IMAGE, on_extents=on(2, Status(500))) as server:
        with ImageioHTTPSource(
            server.url, secure=False, context="dirty", fallback="full"
        ) as source:
            copy(source, MemorySink())
        assert len(asked(server, "GET", "/extents")) == 3


@pytest.mark.parametrize(("code", "error"), [(403, TicketError), (500, ServerError)])
def test_other_errors_are_errors(code: int, error: type[Exception]) -> None:
    with (
        HostileServer(IMAGE, on_extents=always(Status(code))) as server,
        ImageioHTTPSource(
            server.url, secure=False, context="dirty", fallback="full", retries=1
        ) as source,
        pytest.raises(error),
    ):
        source.extents()


@pytest.mark.parametrize(
    "wrong",
    [
        {"fallback": "zero", "context": "dirty"},
        {"fallback": True, "context": "dirty"},
    ],
    ids=str,
)
def test_arguments_that_cannot_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"fall ?back"):
        ImageioHTTPSource("https://host/images/ticket", **wrong)
