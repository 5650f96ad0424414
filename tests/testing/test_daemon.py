from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tapestream.errors import UsageError
from tapestream.testing import (
    EngineDouble,
    ImageioDaemon,
    ImageServer,
    compare_images,
    create_image,
    image_info,
    serve_image,
    virtual_size,
    write_pattern,
)
from tapestream.testing.daemon import UnixHTTPConnection

WRONG: Any = 5
KIB = 1024
MIB = 1024 * KIB


def tls_connection(daemon: ImageioDaemon) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(daemon.cafile))
    return http.client.HTTPSConnection("127.0.0.1", daemon.port, context=context, timeout=30)


def request(
    connection: http.client.HTTPConnection,
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request on its own connection; the path of a transfer URL is the same on each socket."""
    with contextlib.closing(connection):
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()


def get_json(connection: http.client.HTTPConnection, method: str, url: str) -> Any:
    status, answer = request(connection, method, url)
    assert status == 200, answer
    return json.loads(answer)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    create_image(path, 4 * MIB)
    write_pattern(path, ["write -P 1 1M 64k", "write -z 2M 64k"])
    return path


def test_options_over_tls(daemon: ImageioDaemon, disk: Path) -> None:
    with serve_image(disk) as nbd_url:
        url = daemon.add_ticket(nbd_url, 4 * MIB)
        options = get_json(tls_connection(daemon), "OPTIONS", url)
    assert options["unix_socket"] == daemon.local_socket
    assert options["features"] == ["checksum", "extents"]
    assert options["max_readers"] == 8


def test_options_over_unix_socket(daemon: ImageioDaemon, disk: Path) -> None:
    with serve_image(disk) as nbd_url:
        url = daemon.add_ticket(nbd_url, 4 * MIB, ops=["read", "write"])
        options = get_json(UnixHTTPConnection(daemon.local_socket), "OPTIONS", url)
    assert options["features"] == ["checksum", "extents", "flush", "zero"]


def test_certificate_needs_cafile(daemon: ImageioDaemon) -> None:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", daemon.port, context=ssl.create_default_context(), timeout=30
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        request(connection, "OPTIONS", "/images/*")


def test_unknown_ticket_is_forbidden(daemon: ImageioDaemon) -> None:
    url = f"/images/{uuid.uuid4()}"
    status, _ = request(tls_connection(daemon), "OPTIONS", url)
    assert status == 403


def test_zero_extents(daemon: ImageioDaemon, disk: Path) -> None:
    with serve_image(disk) as nbd_url:
        url = daemon.add_ticket(nbd_url, virtual_size(disk))
        extents = get_json(tls_connection(daemon), "GET", url + "/extents")
    assert [(e["start"], e["length"], e["zero"]) for e in extents] == [
        (0, MIB, True),
        (MIB, 64 * KIB, False),
        (MIB + 64 * KIB, 3 * MIB - 64 * KIB, True),
    ]


def test_dirty_extents(daemon: ImageioDaemon, disk: Path) -> None:
    subprocess.run(["qemu-img", "bitmap", "--add", str(disk), "changes"], check=True)
    write_pattern(disk, ["write -P 2 3M 64k"])
    with serve_image(disk, bitmap="changes") as nbd_url:
        url = daemon.add_ticket(nbd_url, 4 * MIB, dirty=True)
        extents = get_json(tls_connection(daemon), "GET", url + "/extents?context=dirty")
    dirty = [(e["start"], e["length"], e["zero"]) for e in extents if e["dirty"]]
    assert dirty == [(3 * MIB, 64 * KIB, False)]


def test_upload(daemon: ImageioDaemon, tmp_path: Path) -> None:
    expected = tmp_path / "expected.raw"
    expected.write_bytes(b"\x05" * MIB)
    disk = tmp_path / "disk.qcow2"
    create_image(disk, MIB)
    with serve_image(disk, read_only=False, detect_zeroes=True) as nbd_url:
        url = daemon.add_ticket(nbd_url, MIB, ops=["write"])
        body = expected.read_bytes()
        status, answer = request(tls_connection(daemon), "PUT", url, body=body)
        assert status == 200, answer
        assert daemon.ticket_info(url)["transferred"] == MIB
    compare_images(disk, expected, b_format="raw")


def test_remove_ticket(daemon: ImageioDaemon, disk: Path) -> None:
    with serve_image(disk) as nbd_url:
        url = daemon.add_ticket(nbd_url, 4 * MIB, timeout=7)
        assert daemon.ticket_info(url)["timeout"] == 7
        daemon.remove_ticket(url)
        daemon.remove_ticket(url)
        with pytest.raises(LookupError):
            daemon.ticket_info(url)
        status, _ = request(tls_connection(daemon), "OPTIONS", url)
    assert status == 403


def test_refused_ticket(daemon: ImageioDaemon) -> None:
    with pytest.raises(RuntimeError, match=r"400.*Unsupported url scheme"):
        daemon.add_ticket("gopher://disk", 1)


def test_abstract_local_socket(tmp_path: Path) -> None:
    address = f"\0tapestream/{uuid.uuid4()}"
    with ImageioDaemon(tmp_path, local_socket=address) as daemon:
        options = get_json(UnixHTTPConnection(address), "OPTIONS", "/images/*")
        assert options["unix_socket"] == daemon.local_socket == address


def test_the_directory_may_be_a_text(tmp_path: Path) -> None:
    daemon = ImageioDaemon(str(tmp_path / "daemon"))
    assert daemon.cafile == tmp_path / "daemon" / "ca.pem"
    engine = EngineDouble(str(tmp_path / "engine"))
    assert engine.cafile == tmp_path / "engine" / "engine-ca.pem"
    for wrong in (ImageioDaemon, EngineDouble):
        with pytest.raises(UsageError, match="directory must be a path"):
            wrong(b"daemon")  # type: ignore[arg-type]


def test_start_again(tmp_path: Path) -> None:
    daemon = ImageioDaemon(tmp_path / "new")
    for _ in range(2):
        with daemon:
            assert get_json(tls_connection(daemon), "OPTIONS", "/images/*")
            sockets = Path(daemon.local_socket).parent
            with pytest.raises(RuntimeError, match="running already"):
                daemon.start()
        assert not sockets.exists()
        assert "Stopped" in daemon.read_log()
    daemon.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = daemon.port


def test_daemon_that_dies_shows_its_log(tmp_path: Path) -> None:
    daemon = ImageioDaemon(tmp_path, local_socket="/" + "x" * 200)
    with pytest.raises(RuntimeError, match=r"(?s)exited with code 1.*AF_UNIX path too long"):
        daemon.start()


def test_serve_image_that_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"ended with code 1: .*No such file"),
        serve_image(tmp_path / "missing.qcow2"),
    ):
        pytest.fail("the block ran without a server")


def test_missing_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(RuntimeError, match=r"^qemu-nbd not found: install qemu-utils$"),
        serve_image(tmp_path / "disk.qcow2"),
    ):
        pytest.fail("the block ran without a server")


def test_compare_images(disk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.raw"
    create_image(other, 4 * MIB, format="raw")
    with pytest.raises(AssertionError, match="Content mismatch at offset 1048576"):
        compare_images(disk, other, b_format="raw")
    write_pattern(other, ["write -P 1 1M 64k"], format="raw")
    compare_images(disk, other, b_format="raw")
    with pytest.raises(RuntimeError, match="not in qcow2 format"):
        compare_images(disk, other, b_format="qcow2")


def test_strict_comparison_tells_allocation(tmp_path: Path) -> None:
    empty, zeros = tmp_path / "empty.raw", tmp_path / "zeros.raw"
    create_image(empty, MIB, format="raw")
    zeros.write_bytes(bytes(2 * MIB))
    compare_images(empty, zeros, a_format="raw", b_format="raw")
    with pytest.raises(AssertionError, match="Strict mode"):
        compare_images(empty, zeros, a_format="raw", b_format="raw", strict=True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("write 1G 64k", "write failed"),
        ("read -P 9 1M 64k", "Pattern verification failed"),
        ("nonsense", "not found"),
    ],
)
def test_write_pattern_that_fails(disk: Path, command: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        write_pattern(disk, [command])


def test_images_by_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that qemu takes for an option, and one that it takes for a URL, are files as well."""
    monkeypatch.chdir(tmp_path)
    for name in "-disk", "nbd:disk":
        create_image(name, MIB)
        write_pattern(name, ["write -P 1 0 64k"])
        assert virtual_size(name) == MIB
        with serve_image(name) as url:
            assert url.startswith("nbd:unix:/")
    compare_images("-disk", "nbd:disk")


@pytest.mark.parametrize(
    "call",
    [
        lambda: create_image(WRONG, MIB),
        lambda: image_info(WRONG),
        lambda: compare_images("a", WRONG),
        lambda: write_pattern(WRONG, []),
        lambda: ImageServer(WRONG),
    ],
)
def test_an_image_is_a_path(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match=r"must be a path \(str or os.PathLike\), not 5"):
        call()


def test_image_info(disk: Path) -> None:
    assert image_info(disk)["format"] == "qcow2"
    assert virtual_size(disk) == 4 * MIB


def test_daemon_killed_and_started_again_serves_the_same_ticket(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"x" * 4096)
    with ImageioDaemon(tmp_path / "imageio") as daemon:
        url = daemon.add_ticket(f"file://{image}", 4096)
        ticket_id = url.rpartition("/")[2]
        daemon.kill()
        daemon.start()
        assert daemon.add_ticket(f"file://{image}", 4096, ticket_id=ticket_id).endswith(ticket_id)
        with contextlib.closing(tls_connection(daemon)) as connection:
            connection.request("GET", f"/images/{ticket_id}")
            assert connection.getresponse().read() == b"x" * 4096


def test_image_server_killed_and_started_again_has_the_same_url(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    create_image(image, MIB)
    with ImageServer(image) as server:
        url, pid = server.url, server.pid
        server.kill()
        server.start()
        assert server.url == url
        assert server.pid != pid
        command = ["qemu-img", "info", "--output=json", url]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert json.loads(said)["virtual-size"] == MIB
