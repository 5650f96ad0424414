"""Turns: first come, first served, whatever becomes of those who wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from tapestream.drive import lease
from tapestream.drive.lease import Turns
from tapestream.errors import UsageError

pytestmark = pytest.mark.timeout(30)


def waiting(queue: Turns, count: int) -> None:
    """Wait until so many threads wait for their turn."""
    while len(queue._waiting) < count:
        time.sleep(0.001)


def started(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_first_come_first_served() -> None:
    queue, order = Turns(), []

    def use(number: int) -> None:
        queue.begin("it")
        order.append(number)
        queue.end()

    queue.begin("it")
    threads = []
    for number in range(10):
        threads.append(started(partial(use, number)))
        waiting(queue, number + 1)
    assert order == []
    queue.end()
    for thread in threads:
        thread.join()
    assert order == list(range(10))


def test_one_at_a_time() -> None:
    queue, inside, most = Turns(), [0], []

    def use() -> None:
        for _ in range(200):
            queue.begin("it")
            inside[0] += 1
            most.append(inside[0])
            inside[0] -= 1
            queue.end()

    for thread in [started(use) for _ in range(8)]:
        thread.join()
    assert most == [1] * 1600


def test_it_never_waits_for_itself() -> None:
    queue = Turns()
    queue.begin("the drive")
    with pytest.raises(UsageError, match="uses the drive already"):
        queue.begin("the drive")
    queue.end()
    queue.begin("the drive")


def test_ending_twice_takes_nobodys_turn_away() -> None:
    queue = Turns()
    queue.begin("it")
    queue.end()
    queue.end()
    queue.begin("it")


class InterruptedEvent(threading.Event):
    """Its wait ends as with a signal; before, something happens."""

    def __init__(self, before: Callable[[], object]) -> None:
        super().__init__()
        self._before = before

    def wait(self, timeout: float | None = None) -> bool:
        self._before()
        raise KeyboardInterrupt


def interrupt(
    monkeypatch: pytest.MonkeyPatch, queue: Turns, before: Callable[[], object] = lambda: None
) -> None:
    """Wait for a turn, and be interrupted; others wait as ever."""
    events = iter([InterruptedEvent(before)])
    stand_in = SimpleNamespace(
        get_ident=threading.get_ident, Event=lambda: next(events, None) or threading.Event()
    )
    with monkeypatch.context() as patch:
        patch.setattr(lease, "threading", stand_in)
        with pytest.raises(KeyboardInterrupt):
            queue.begin("it")


def in_a_thread(function: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as e:  # noqa: BLE001 - it is raised in the test's thread
            errors.append(e)

    started(run).join()
    if errors:
        raise errors[0]


def test_who_gives_up_waiting_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Turns()
    queue.begin("it")
    in_a_thread(lambda: interrupt(monkeypatch, queue))
    after = started(lambda: queue.begin("it"))
    waiting(queue, 1)
    queue.end()
    after.join()


def test_who_gives_up_just_when_the_turn_comes_hands_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = Turns()
    queue.begin("it")
    after = []

    def meanwhile() -> None:
        after.append(started(lambda: queue.begin("it")))
        waiting(queue, 2)
        queue.end()

    in_a_thread(lambda: interrupt(monkeypatch, queue, meanwhile))
    after[0].join()


def test_who_gives_up_a_free_turn_leaves_it_free(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Turns()
    interrupt(monkeypatch, queue)
    queue.begin("it")
