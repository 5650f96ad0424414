"""The source in docs/examples/kubevirt.py, against a double of its server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from docs.examples.kubevirt import Endpoint, KubeVirtSource
from tapestream import BackupInfo, Cancel, TarStreamSource, compare, copy, verify
from tapestream.errors import (
    ExtentsError,
    OperationCancelledError,
    ServerError,
    ServerProtocolError,
    TapestreamError,
    TicketError,
)
from tapestream.testing import MemorySink, check_source
from tests.disks import noise
from tests.servers.double import authority
from tests.servers.kubevirt import TOKEN, ExportServer, Map, UnavailableError
from tests.servers.support import (
    FULL,
    HOLE,
    INCREMENTAL,
    KIB,
    MIB,
    MONDAY,
    SUNDAY,
    back_up,
    restored,
)

ALLOCATION: Map = [
    (MIB, "data"),
    (HOLE, "hole,zero"),
    (100 * KIB, "data"),
    (200 * KIB, "hole"),
    (HOLE, "zero"),
    (65 * KIB + 512, "data"),
]
BITMAP: Map = [
    (HOLE, "clean"),
    (128 * KIB, "dirty"),
    (HOLE - 128 * KIB, "dirty,zero"),
    (HOLE, "zero"),
    (len(MONDAY) - MIB - HOLE, "clean"),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoint, "pauses", (0.0, 0.0))


@pytest.fixture
def cafile(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def source(server: ExportServer, cafile: str, info: BackupInfo = FULL) -> KubeVirtSource:
    return KubeVirtSource(server.map_url, server.data_url, TOKEN, cafile=cafile, info=info)


def test_a_full_backup_comes_back(cafile: str, tmp_path: Path) -> None:
    tar = tmp_path / "disk.tar"
    with ExportServer(SUNDAY, ALLOCATION) as server:
        result = back_up(source(server, cafile), tar)
        with source(server, cafile) as live, TarStreamSource(tar) as kept:
            assert compare(live, kept).equal
    assert (result.zero_bytes, result.context) == (2 * HOLE, "zero")
    with TarStreamSource(tar) as kept:
        assert verify(kept).ok
    assert restored([tar], tmp_path / "disk.raw") == SUNDAY


def test_an_incremental_backup_restores_with_its_full_one(cafile: str, tmp_path: Path) -> None:
    tars = [tmp_path / "sunday.tar", tmp_path / "monday.tar"]
    with ExportServer(SUNDAY, ALLOCATION) as server:
        back_up(source(server, cafile), tars[0])
    with ExportServer(MONDAY, BITMAP) as server:
        result = back_up(source(server, cafile, INCREMENTAL), tars[1])
    assert (result.data_bytes, result.zero_bytes) == (128 * KIB, HOLE - 128 * KIB)
    assert restored(tars, tmp_path / "disk.raw") == MONDAY


def test_a_map_of_many_pages(cafile: str) -> None:
    """The server decides where a page ends, whatever was asked for."""
    count = 2 * 512 + 1
    disk = SUNDAY[: count * 512]
    sink = MemorySink()
    with ExportServer(disk, [(512, "data")] * count) as server:
        server.largest_page = 512
        with source(server, cafile) as src, sink:
            copy(src, sink)
        assert server.count("GET", "&page_size=10000") == 3
    assert sink.disk == disk


def not_connected(n: int) -> None:
    """The pod of the VM comes only after a while, and goes once more."""
    if n in (1, 2, 4):
        raise UnavailableError


def test_it_waits_until_the_pod_of_the_vm_is_connected(cafile: str) -> None:
    sink = MemorySink()
    with ExportServer(SUNDAY, ALLOCATION) as server, source(server, cafile) as src, sink:
        server.before = not_connected
        copy(src, sink)
    assert sink.disk == SUNDAY


@pytest.mark.parametrize("cut", [0, 1, 300 * KIB])
def test_a_download_that_breaks_is_repeated(cut: int, cafile: str) -> None:
    sink = MemorySink()
    with ExportServer(SUNDAY, ALLOCATION) as server, source(server, cafile) as src, sink:
        server.cuts = [cut, cut]
        copy(src, sink)
    assert not server.cuts
    assert sink.disk == SUNDAY


def copies_nothing(server: ExportServer, src: KubeVirtSource) -> TapestreamError:
    sink = MemorySink()
    with server, src, sink, pytest.raises(TapestreamError) as caught:
        copy(src, sink)
    assert not sink.writes
    assert sink.state == "aborted"
    assert TOKEN not in str(caught.value) + repr(caught.value) + repr(src)
    return caught.value


def test_a_download_that_breaks_each_time(cafile: str) -> None:
    server = ExportServer(SUNDAY, ALLOCATION)
    server.cuts = [1] * 100
    assert type(copies_nothing(server, source(server, cafile))) is ServerError


def test_a_pod_that_does_not_come(cafile: str) -> None:
    server = ExportServer(SUNDAY, ALLOCATION)

    def never(n: int) -> None:
        raise UnavailableError

    server.before = never
    error = copies_nothing(server, source(server, cafile))
    assert "Backup source not connected" in str(error)
    assert isinstance(error, ServerError)
    assert error.status == 503
    assert len(server.requests) == 3


def test_a_reply_with_too_much_data(cafile: str) -> None:
    server = ExportServer(SUNDAY, ALLOCATION)
    server.extra = b"!"
    assert type(copies_nothing(server, source(server, cafile))) is ServerProtocolError


def test_a_disk_that_ends_before_its_map(cafile: str) -> None:
    server = ExportServer(SUNDAY[:-1], ALLOCATION)
    server.page = lambda *_: {  # type: ignore[method-assign]
        "extents": [{"offset": 0, "length": len(SUNDAY), "type": 0, "description": "data"}],
        "next_offset": None,
    }
    with (
        server,
        source(server, cafile) as src,
        MemorySink() as sink,
        pytest.raises(ServerProtocolError, match="more or less"),
    ):
        copy(src, sink)


def test_a_wrong_token(cafile: str) -> None:
    server = ExportServer(SUNDAY, ALLOCATION)
    src = KubeVirtSource(server.map_url, server.data_url, "x", cafile=cafile, info=FULL)
    error = copies_nothing(server, src)
    assert type(error) is TicketError
    assert len(server.requests) == 1


@pytest.mark.parametrize(("map_", "info"), [(ALLOCATION, INCREMENTAL), (BITMAP, FULL)])
def test_a_context_that_is_not_that_of_the_backup(map_: Map, info: BackupInfo, cafile: str) -> None:
    server = ExportServer(SUNDAY, map_)
    error = copies_nothing(server, source(server, cafile, info))
    assert type(error) is ExtentsError
    assert "context" in error.hint


DATA = {"offset": 0, "length": 512, "type": 0, "description": "data"}


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ({"extents": [DATA], "next_offset": 0}, ServerProtocolError),
        ({"extents": [DATA]}, ServerProtocolError),
        ({"extents": None, "next_offset": None}, ServerProtocolError),
        ({"extents": [{"offset": 0, "length": 512}], "next_offset": None}, ServerProtocolError),
        ({"extents": [{**DATA, "offset": 512}], "next_offset": None}, ExtentsError),
        ({"extents": [{**DATA, "length": "512"}], "next_offset": None}, ExtentsError),
    ],
    ids=["again and again", "no next_offset", "null", "no description", "a gap", "a string"],
)
def test_a_map_that_is_wrong(
    page: dict[str, object], expected: type[TapestreamError], cafile: str
) -> None:
    server = ExportServer(SUNDAY, ALLOCATION)
    server.page = lambda *_: page  # type: ignore[method-assign]
    assert type(copies_nothing(server, source(server, cafile))) is expected


def test_a_certificate_of_another_ca(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(trustme.CA().cert_pem.bytes())
    server = ExportServer(SUNDAY, ALLOCATION)
    error = copies_nothing(server, source(server, str(other)))
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert not server.requests


def hang_in(server: ExportServer, part: str, reached: threading.Event) -> Callable[[int], None]:
    """Answer no request for this part, for a while."""

    def before(n: int) -> None:
        if part in server.requests[-1].path:
            reached.set()
            server.released.wait(60)

    return before


@pytest.mark.parametrize("part", ["/map", "/data"])
def test_a_cancel_ends_a_copy_that_waits_for_the_server(part: str, cafile: str) -> None:
    reached, cancel = threading.Event(), Cancel()
    sink = MemorySink()
    with ExportServer(SUNDAY, ALLOCATION) as server, ThreadPoolExecutor() as pool:
        server.before = hang_in(server, part, reached)
        with source(server, cafile) as src, sink:
            copying = pool.submit(copy, src, sink, cancel=cancel)
            assert reached.wait(30)
            cancel.cancel("the operator went home")
            with pytest.raises(OperationCancelledError, match="operator"):
                copying.result(30)  # the server hangs for longer than that
        server.released.set()
    assert sink.state == "aborted"


# --- The contract of a source ---

SMALL = noise(30 * KIB) + bytes(9 * KIB) + noise(17 * KIB) + bytes(4 * KIB) + noise(5 * KIB + 1)
LENGTHS = (30 * KIB, 9 * KIB, 17 * KIB, 4 * KIB, 5 * KIB + 1)
SMALL_FULL = list(zip(LENGTHS, ("data", "hole,zero", "hole", "zero", "data"), strict=True))
SMALL_CHANGES = list(zip(LENGTHS, ("dirty", "dirty,zero", "dirty", "clean", "dirty"), strict=True))


@pytest.mark.parametrize(("map_", "info"), [(SMALL_FULL, FULL), (SMALL_CHANGES, INCREMENTAL)])
def test_it_keeps_the_contract(map_: Map, info: BackupInfo, cafile: str) -> None:
    with (
        ExportServer(SMALL, map_) as server,
        ExportServer(SMALL, map_) as failing,
        ExportServer(SMALL, map_) as blocking,
    ):
        failing.readable = 40 * KIB
        blocking.before = hang_in(blocking, "/data", threading.Event())
        report = check_source(
            lambda: source(server, cafile, info),
            SMALL,
            failing=lambda: source(failing, cafile, info),
            blocking=lambda: source(blocking, cafile, info),
        )
        blocking.released.set()
    report.raise_()
    # The others are about abilities that it does not have.
    assert len(report.passed) > 30
    assert all(" has no " in why for why in report.skipped.values()), report
