"""New disks, and uploads into them: a disk that was not restored as a whole does not stay."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestream import ImageioUploadSink, RawImageSource, copy
from tapestream.errors import EngineError, EnginePhaseError, EngineTimeoutError, UsageError
from tapestream.ovirt import connect, new_disk, qcow2_size, upload_transfer
from tapestream.testing import EngineDouble, compare_images, create_image, write_pattern

from .steps import FAST, MIB, SHORT, calls, press_ctrl_c


@pytest.fixture
def connection(engine: EngineDouble) -> Iterator[Any]:
    with connect() as connection:
        yield connection
    assert engine.leftovers().nothing_open


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.raw"
    create_image(path, 2 * MIB, "raw")
    write_pattern(path, ["write -P 1 0 64k", "write -P 2 1M 4k"], "raw")
    return path


def restore(engine: EngineDouble, connection: Any, image: Path, **options: Any) -> None:
    with (
        new_disk(connection, "new", 2 * MIB, "data", timeouts=FAST, **options) as disk,
        upload_transfer(connection, disk, timeouts=FAST) as transfer,
        RawImageSource(image) as source,
        ImageioUploadSink(transfer.url, cafile=engine.daemon.cafile) as sink,
    ):
        copy(source, sink)


@pytest.mark.parametrize("disk_format", ["cow", "raw"])
def test_a_disk_is_restored(
    engine: EngineDouble, connection: Any, image: Path, disk_format: str
) -> None:
    restore(engine, connection, image, disk_format=disk_format, description="of Monday")
    [disk] = engine.disks
    compare_images(image, disk.path, a_format="raw", b_format=disk.format)
    assert disk.status == "ok"
    assert disk.incremental == (disk_format == "cow")
    assert "<description>of Monday</description>" in engine.calls[2].body
    assert (calls(engine, "/finalize"), calls(engine, "/cancel")) == (1, 0)


def test_an_error_while_it_is_written(engine: EngineDouble, connection: Any) -> None:
    with (
        pytest.raises(LookupError) as caught,
        new_disk(connection, "new", MIB, "data", timeouts=FAST) as disk,
        upload_transfer(connection, disk, timeouts=FAST),
    ):
        raise LookupError
    assert not hasattr(caught.value, "__notes__")
    assert engine.disks == []
    assert (calls(engine, "/finalize"), calls(engine, "/cancel")) == (0, 1)


@pytest.mark.parametrize(
    ("method", "path", "ends"),
    [
        ("POST", "/disks", (0, 0)),
        ("GET", "/disks/*", (0, 0)),
        ("POST", "/imagetransfers", (0, 1)),
        ("GET", "/imagetransfers/*", (0, 1)),
        ("POST", "/imagetransfers/*/finalize", (1, 0)),
    ],
)
def test_a_ctrl_c(
    engine: EngineDouble,
    connection: Any,
    image: Path,
    method: str,
    path: str,
    ends: tuple[int, int],
) -> None:
    """It comes while the engine carries out a request, which is then under way for nobody."""
    engine.when(method, path, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt) as caught:
        restore(engine, connection, image)
    assert engine.disks == []
    assert (calls(engine, "/finalize"), calls(engine, "/cancel")) == ends
    assert not hasattr(caught.value, "__notes__")


def test_a_ctrl_c_while_it_is_written(engine: EngineDouble, connection: Any) -> None:
    engine.when("POST", "/imagetransfers/*/cancel", press_ctrl_c)  # a second one
    with (
        pytest.raises(KeyboardInterrupt),
        new_disk(connection, "new", MIB, "data", timeouts=FAST) as disk,
        upload_transfer(connection, disk, timeouts=FAST),
    ):
        press_ctrl_c()
    assert engine.disks == []
    assert (calls(engine, "/finalize"), calls(engine, "/cancel")) == (0, 1)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (("locked", "illegal"), "the new disk new is in phase illegal"),
        (("locked", "dancing"), "the new disk new is in a phase that oVirt's SDK does not know"),
        (("locked",), "the new disk new is in phase locked after 0.05 seconds"),
    ],
)
def test_a_disk_that_does_not_get_ready(
    engine: EngineDouble, connection: Any, phases: tuple[str, ...], message: str
) -> None:
    engine.phases.disk_add = phases
    with pytest.raises(EnginePhaseError, match=message) as caught, create(connection):
        pytest.fail("it is no disk to write to")
    if phases[-1] == "locked":
        assert isinstance(caught.value, EngineTimeoutError)
        assert "While cleaning up: cannot remove the disk" in caught.value.__notes__[0]
        engine.disks[0].status = "ok"
        with connect() as again:
            again.system_service().disks_service().disk_service(engine.disks[0].id).remove()
    assert engine.disks == []


def create(connection: Any, **options: Any) -> Any:
    return new_disk(connection, "new", MIB, "data", timeouts=SHORT, **options)


@pytest.mark.parametrize("carry_out", [False, True])
def test_a_reply_is_lost(engine: EngineDouble, connection: Any, *, carry_out: bool) -> None:
    """libcurl sends a request again: the disk then exists already, and it is ours."""
    engine.drop("POST", "/disks", carry_out=carry_out, times=3)
    with create(connection) as disk:
        assert [each.id for each in engine.disks] == [disk.id]
    assert [each.id for each in engine.disks] == [disk.id]


def test_a_disk_is_refused(engine: EngineDouble, connection: Any) -> None:
    engine.refuse("POST", "/disks", 400, "[Low disk space on Storage Domain data.]")
    with (
        pytest.raises(EngineError, match=r"cannot make the disk new: Low disk space on Storage"),
        create(connection),
    ):
        pytest.fail("there is no disk")


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (("finalizing_failure", "finished_failure"), "the upload of disk new is in phase finished"),
        (("paused_system",), "the upload of disk new is in phase paused_system"),
    ],
)
def test_an_upload_that_cannot_be_finalized(
    engine: EngineDouble, connection: Any, image: Path, phases: tuple[str, ...], message: str
) -> None:
    engine.phases.transfer_finalize = phases
    with pytest.raises(EnginePhaseError, match=message):
        restore(engine, connection, image)
    assert engine.disks == []


def forget_transfers(engine: EngineDouble) -> None:
    """As engines before 4.4.7: a transfer that is finalized is not there any more."""
    engine.when(
        "POST",
        "/imagetransfers/*/finalize",
        lambda: engine.refuse("GET", "/imagetransfers/*", 404, "Entity not found", times=99),
    )


def test_an_engine_that_forgets_its_transfers(
    engine: EngineDouble, connection: Any, image: Path
) -> None:
    """Before 4.4.7: the disk alone says how the transfer ended."""
    engine.phases.transfer_finalize = ("finished_success",)
    forget_transfers(engine)
    restore(engine, connection, image)
    [disk] = engine.disks
    assert disk.status == "ok"


def test_such_an_engine_that_has_removed_the_disk(
    engine: EngineDouble, connection: Any, image: Path
) -> None:
    engine.phases.transfer_finalize = ("finished_failure",)
    forget_transfers(engine)
    with pytest.raises(EngineError, match="cannot look at the uploaded disk new: Entity not found"):
        restore(engine, connection, image)
    assert engine.disks == []


def test_wrong_arguments(engine: EngineDouble, connection: Any) -> None:
    for wrong, message in (
        ({"size": 1000}, "a multiple of 512"),
        ({"storage_domain": "elsewhere"}, "no storage domain elsewhere. It has: data."),
        ({"disk_format": "qcow2"}, "'cow' or 'raw', not 'qcow2'"),
        ({"disk_format": "raw", "incremental": True}, "the format 'cow'"),
    ):
        arguments: dict[str, Any] = {"name": "x", "size": MIB, "storage_domain": "data", **wrong}
        with pytest.raises(UsageError, match=message), new_disk(connection, **arguments):
            pass
    with (
        pytest.raises(UsageError, match="inactivity_timeout"),
        upload_transfer(connection, "x", inactivity_timeout=0),
    ):
        pass
    assert calls(engine, "POST /disks") == 0


def test_the_host_that_is_to_serve_it(engine: EngineDouble, connection: Any) -> None:
    with create(connection) as disk:
        with upload_transfer(connection, disk, host=engine.host.id, timeouts=FAST) as transfer:
            assert transfer.host_id == engine.host.id
        [body] = [
            call.body for call in engine.calls if call.path == "/imagetransfers" and call.body
        ]
        assert f'<host id="{engine.host.id}"' in body
        assert "<inactivity_timeout>3600</inactivity_timeout>" in body
        assert "<timeout_policy>cancel</timeout_policy>" in body


@pytest.mark.parametrize(
    ("size", "writes"),
    [
        (MIB, []),
        (64 * MIB, ["write -P 1 0 1k", "write -P 1 63k 4k", "write -P 1 40M 3M"]),
        (5 * 1024**4, ["write -P 1 1T 64k", "write -P 1 4T 1"]),
        (64 * MIB, ["write -P 1 0 64M"]),
    ],
)
def test_what_an_image_needs(tmp_path: Path, size: int, writes: list[str]) -> None:
    raw = tmp_path / "disk.raw"
    create_image(raw, size, "raw")
    write_pattern(raw, writes, "raw")
    measure = ["qemu-img", "measure", "-f", "raw", "-O", "qcow2", "--output", "json", str(raw)]
    needed = json.loads(subprocess.check_output(measure))["required"]
    with RawImageSource(raw) as source:
        ours = qcow2_size(source.extents(), size)
    assert needed <= ours <= needed + 4 * 64 * 1024 + needed // 1000, (needed, ours)
