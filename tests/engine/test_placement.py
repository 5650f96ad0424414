"""The balance: who writes and digests, by what a chunk took."""

from __future__ import annotations

import pytest

from tapestream.engine.placement import Balance, Spent

UNIX = Spent(reading=1.0, working=0.2, digesting=0.7)
TLS = Spent(reading=1.2, working=0.9, digesting=0.7)


def weighed(
    spent: Spent, *, writing: float = 0.1, readers: int = 1, shares_processors: bool = True
) -> Balance:
    balance = Balance(readers, shares_processors=shares_processors)
    balance.weigh(spent, writing)
    return balance


def test_nobody_is_known_to_be_quick_at_first() -> None:
    balance = Balance(1, shares_processors=False)
    assert not balance.is_quick
    assert not balance.writer_digests


def test_the_writer_digests_while_the_reader_waits() -> None:
    assert weighed(UNIX).writer_digests
    assert not weighed(UNIX, writing=1.1).writer_digests
    assert not weighed(UNIX, readers=2).writer_digests


def test_no_second_thread_where_receiving_is_the_work_and_the_server_needs_a_processor() -> None:
    assert not weighed(TLS).writer_digests
    assert weighed(TLS, shares_processors=False).writer_digests
    assert weighed(TLS._replace(inspecting=1.2)).writer_digests


@pytest.mark.parametrize("spent", [UNIX, TLS])
def test_who_digests_does_not_depend_on_who_did(spent: Spent) -> None:
    by_writer = spent._replace(writer_digested=True)
    assert weighed(by_writer).writer_digests == weighed(spent).writer_digests


def test_a_quick_sink_takes_a_quarter_of_the_time_of_reading() -> None:
    assert weighed(UNIX, writing=0.4).is_quick
    assert not weighed(UNIX, writing=0.5).is_quick
    assert not weighed(UNIX, writing=0.4, readers=2).is_quick
    assert not weighed(UNIX._replace(writer_digested=True), writing=0.4).is_quick
