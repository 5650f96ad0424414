"""Replies that lie about the data are found out."""

from __future__ import annotations

import gc
import warnings
from contextlib import suppress
from typing import Any

import pytest

from tapestream.errors import ServerProtocolError, TransferError
from tapestream.testing import MemorySink
from tests.hostile import Chunked, Cut, Fault, HostileServer, Stall, Whole, WrongLength, WrongRange
from tests.imageio.downloads import HOLE, IMAGE, SIZE, SPARSE, check_written
from tests.imageio.support import FOREVER, Last, Say, always, download, gets, in_turn, on

LIES = {
    "a byte too many": WrongLength(1),
    "a byte too few": WrongLength(-1),
    "nothing": WrongLength(-HOLE),
    "much more": WrongLength(len(SPARSE)),
    "the whole disk": Whole(),
    "a sector further": WrongRange(512),
    "a byte before": WrongRange(-1),
    "chunked": Chunked(),
    "without a range": Say(206, bytes(HOLE)),
    "a range of another unit": Say(206, bytes(HOLE), {"Content-Range": f"clusters 0-{HOLE}/*"}),
    "a range that is none": Say(206, bytes(HOLE), {"Content-Range": "bytes 1-2-3"}),
    "an unsatisfied range": Say(206, bytes(HOLE), {"Content-Range": f"bytes */{len(SPARSE)}"}),
    "200 with the length asked for": Say(200, bytes(HOLE)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_a_lie_is_found_out_before_a_byte_of_it_is_used(lie: Fault) -> None:
    sink = MemorySink()
    with HostileServer(SPARSE, on_get=on(2, lie), max_readers=1) as server:
        with pytest.raises(ServerProtocolError):
            download(server, sink)
        assert len(set(gets(server))) == len(gets(server))  # it is not asked again
    check_written(sink, SPARSE)
    assert all(start < HOLE for start, _ in sink.writes)
    assert sink.state == "aborted"


@pytest.mark.parametrize("lie", [Whole(), WrongRange(-1), WrongLength(1), Chunked()])
def test_a_lie_in_the_middle_is_found_out(lie: Fault) -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=in_turn([Cut(70_000), lie])) as server:
        with pytest.raises(ServerProtocolError):
            download(server, sink)
        assert gets(server) == [(0, SIZE), (70_000, SIZE)]
    check_written(sink, IMAGE)


ENDLESS = Say(206, IMAGE, {"Content-Range": f"bytes 0-{SIZE - 1}/*"}, close=True)


@pytest.mark.parametrize(
    "behaviour",
    [
        {"on_get": always(ENDLESS)},
        {"on_get": always(Last(WrongLength(1)))},
        {"on_extents": always(Last(Stall(5, FOREVER)))},
    ],
)
def test_no_socket_is_left_to_the_garbage_collector(behaviour: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with (
            HostileServer(IMAGE, **behaviour) as server,
            suppress(TransferError),
        ):
            download(server, MemorySink(), read_timeout=0.2, extents_timeout=0.2, retries=0)
        gc.collect()
    assert not caught


def test_a_reply_without_a_length_is_not_believed() -> None:
    with warnings.catch_warnings(), HostileServer(IMAGE, on_get=always(ENDLESS)) as server:
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(ServerProtocolError):
            download(server, MemorySink())
        gc.collect()


def test_200_is_right_for_the_whole_disk() -> None:
    sink = MemorySink()
    with HostileServer(IMAGE, on_get=always(Whole())) as server:
        download(server, sink)
    assert sink.disk == IMAGE
