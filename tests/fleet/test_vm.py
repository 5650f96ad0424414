"""The job of docs/fleet.md: a backup of a VM in the engine, with all its disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapestream.errors import TransferError
from tapestream.fleet.work import back_up
from tapestream.ovirt import checkpoints, connect
from tapestream.tape import Catalog
from tapestream.testing import ImageioDaemon

from ..test_docs import code_blocks
from .drives import DRIVES, new_drive

pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")
pytest.importorskip("distributed", reason="distributed is not installed")
PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"


@pytest.fixture
def page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in code_blocks(PAGE, "python"):
        exec(block.compile(), names)
    names["STATE"] = "state"
    return names


def test_a_vm_is_backed_up_whole_or_again(
    page: dict[str, Any],
    daemon: ImageioDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ..ovirt.examples import an_engine  # noqa: PLC0415 - it needs the SDK

    monkeypatch.chdir(tmp_path)
    drive = new_drive("a", label="A")
    with an_engine(daemon), connect() as connection:
        job = page["make_job"]("monday", "mail", "host")
        real = page["ImageioHTTPSource"]

        def fail_at_second(*args: Any, info: Any, **options: Any) -> Any:
            if info.disk_id == job.disk_ids[1]:
                raise TransferError("the host is gone")
            return real(*args, info=info, **options)

        page["ImageioHTTPSource"] = fail_at_second
        with pytest.raises(TransferError, match="the host is gone"):
            back_up(job, drive, "catalog", None)
        # No incremental backup can start from what is half done.
        assert checkpoints(connection, "mail") == []
        page["ImageioHTTPSource"] = real
        done = back_up(job, drive, "catalog", None)
        assert [each.id for each in checkpoints(connection, "mail")] != []
        assert back_up(job, drive, "catalog", None).was_there
    assert set(done.places) == set(job.disk_ids)
    with Catalog("catalog") as known:
        [first, second] = known.find(backup_id=done.backup_id)
    assert first.info.checkpoint_id == second.info.checkpoint_id
    DRIVES.clear()
