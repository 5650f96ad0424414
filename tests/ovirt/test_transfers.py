"""A transfer ends in every outcome; nothing that it needs goes on forever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tapestream import ImageioHTTPSource
from tapestream.errors import EngineError, EnginePhaseError, EngineTimeoutError
from tapestream.ovirt import EngineTimeouts, Transfer, connect
from tapestream.ovirt.patience import Patience
from tapestream.ovirt.transfers import running_transfer
from tapestream.testing import EngineDouble, VmDouble

from .steps import FAST, MIB, SHORT, calls, other_tools_backup, press_ctrl_c, types


class Downloads:
    """Transfers of the disk of a backup that is ready."""

    def __init__(self, connection: Any, vm: VmDouble, backup: Any) -> None:
        self._connection = connection
        self._vm = vm
        self._backup = backup

    def __call__(self, timeouts: EngineTimeouts = FAST) -> AbstractContextManager[Transfer]:
        wanted = types.ImageTransfer(
            disk=types.Disk(id=self._vm.disks[0].id),
            backup=types.Backup(id=self._backup.id),
            direction=types.ImageTransferDirection.DOWNLOAD,
            format=types.DiskFormat.RAW,
        )
        return running_transfer(self._connection, wanted, "the download", Patience(timeouts))


@pytest.fixture
def download(engine: EngineDouble) -> Iterator[Downloads]:
    vm = engine.add_vm("mail", [MIB])
    with connect() as connection, other_tools_backup(engine, connection, vm) as backup:
        yield Downloads(connection, vm, backup)
        # None of these is open when another one has to end.
        assert engine.leftovers().transfers == ()


def test_it_has_a_url_and_is_finalized(engine: EngineDouble, download: Downloads) -> None:
    with download() as transfer:
        with ImageioHTTPSource(transfer.url, cafile=engine.daemon.cafile) as source:
            assert source.extents().size == MIB
        assert transfer.host_id == engine.host.id
        assert transfer.url not in repr(transfer)
    assert (calls(engine, "/finalize"), calls(engine, "/cancel")) == (1, 0)


@pytest.mark.parametrize("end", ["finalizing_cleanup", "dancing"])
def test_it_is_cancelled_after_an_error(
    engine: EngineDouble, download: Downloads, end: str
) -> None:
    engine.phases.transfer_cancel = ("cancelled_user", end, "finished_cleanup")
    with pytest.raises(LookupError) as caught, download():
        raise LookupError
    assert (calls(engine, "/finalize"), calls(engine, "/cancel")) == (0, 1)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (("initializing", "dancing"), "in a phase that oVirt's SDK does not know"),
        (("initializing", "paused_system"), "the download is in phase paused_system"),
        (("initializing", "finished_failure"), "the download is in phase finished_failure"),
    ],
)
def test_it_does_not_start(
    engine: EngineDouble, download: Downloads, phases: tuple[str, ...], message: str
) -> None:
    engine.phases.transfer_start = phases
    with pytest.raises(EnginePhaseError, match=message), download():
        pass


def test_it_never_starts(engine: EngineDouble, download: Downloads) -> None:
    engine.phases.transfer_start = ("initializing",)
    with pytest.raises(EngineTimeoutError, match=r"initializing after 0\.05 sec"), download(SHORT):
        pass
    assert calls(engine, "/cancel") == 1


def test_a_refusal_is_not_cancelled(engine: EngineDouble, download: Downloads) -> None:
    engine.host.status = "down"
    with pytest.raises(EngineError, match=r"cannot start the download: .*no host"), download():
        pass
    assert calls(engine, "/cancel") == 0


def test_it_is_cancelled_if_no_reply_comes(engine: EngineDouble, download: Downloads) -> None:
    """The first request is on a connection that was used before, so libcurl sends another one."""
    engine.drop("POST", "/imagetransfers", carry_out=True, times=2)
    with pytest.raises(EngineError, match="cannot start the download: ") as caught, download():
        pass
    assert "pycurl" not in str(caught.value)
    assert (calls(engine, "POST /imagetransfers"), calls(engine, "/cancel")) == (2, 2)


def test_two_are_started_by_one_request(engine: EngineDouble, download: Downloads) -> None:
    engine.drop("POST", "/imagetransfers", carry_out=True)
    with download():
        pass
    assert (calls(engine, "/finalize"), calls(engine, "/cancel")) == (1, 1)


def test_the_engine_is_busy_and_restarts(engine: EngineDouble, download: Downloads) -> None:
    engine.drop("GET", "/imagetransfers/*", times=2)
    engine.refuse("POST", "/imagetransfers/*/finalize", 409)
    engine.refuse("POST", "/imagetransfers/*/finalize", 503)
    engine.drop("POST", "/imagetransfers/*/finalize", carry_out=True)  # libcurl sends it again
    with download():
        pass
    assert (calls(engine, "/finalize"), calls(engine, "/cancel")) == (4, 0)


def test_it_is_refused_for_too_long(engine: EngineDouble, download: Downloads) -> None:
    engine.refuse("POST", "/imagetransfers/*/finalize", 409, "[Busy.]", times=10**6)
    with pytest.raises(EngineError, match=r"cannot finalize the download: Busy"), download(SHORT):
        pass
    assert calls(engine, "/cancel") == 1


@pytest.mark.parametrize("finalize", [("finalizing_failure", "finished_failure"), ("dancing",)])
def test_it_does_not_end_well(
    engine: EngineDouble, download: Downloads, finalize: tuple[str, ...]
) -> None:
    engine.phases.transfer_finalize = finalize
    with pytest.raises(EnginePhaseError), download():
        pass


def test_an_error_of_the_end_does_not_hide_that_of_the_work(
    engine: EngineDouble, download: Downloads
) -> None:
    engine.refuse("POST", "/imagetransfers/*/cancel", 405, "[No.]")
    with pytest.raises(LookupError) as caught, download():
        raise LookupError
    [note] = caught.value.__notes__
    assert note.startswith("While cleaning up: cannot cancel the download: No")
    engine.pass_time(61)  # the engine cancels it itself


def test_it_is_cancelled_although_others_cannot_be_seen(
    engine: EngineDouble, download: Downloads
) -> None:
    def fail() -> None:
        engine.refuse("GET", "/imagetransfers", 405, "[No.]")
        raise LookupError

    with pytest.raises(LookupError) as caught, download():
        fail()
    assert calls(engine, "/cancel") == 1
    assert caught.value.__notes__ == ["While cleaning up: cannot look for image transfers: No."]


def end(is_good: bool) -> None:
    if not is_good:
        raise KeyboardInterrupt


@pytest.mark.parametrize("work_is_good", [True, False])
def test_a_second_ctrl_c_does_not_end_the_clean_up(
    engine: EngineDouble, download: Downloads, work_is_good: bool
) -> None:
    engine.when("POST", "/imagetransfers/*", press_ctrl_c)
    engine.when("GET", "/imagetransfers/*", press_ctrl_c, skip=1)
    with pytest.raises(KeyboardInterrupt), download():
        end(work_is_good)
    assert "clean-up" not in [thread.name for thread in threading.enumerate()]
    assert calls(engine, "/finalize" if work_is_good else "/cancel") == 1


def test_an_engine_that_forgets_a_transfer(engine: EngineDouble, download: Downloads) -> None:
    with download():
        engine.refuse("GET", "/imagetransfers/*", 404)
    assert calls(engine, "/finalize") == 1
