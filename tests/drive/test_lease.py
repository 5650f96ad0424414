"""Leases: first come, first served, whatever becomes of those who wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from tapestream.drive.lease import FairLock, Lease
from tapestream.errors import TapeError, UsageError

pytestmark = pytest.mark.timeout(30)


class Drive:
    """Something that can be leased."""

    def __init__(self, on_release: Callable[[object], object] | None = None) -> None:
        self.lock = FairLock("the drive", on_release)

    def lease(self) -> Lease[Drive]:
        return Lease(self)

    def waiting(self, count: int) -> None:
        """Wait until so many leases are waited for."""
        while len(self.lock._waiting) < count:
            time.sleep(0.001)

    def is_free(self) -> bool:
        """Whether another thread gets it immediately."""

        def use() -> None:
            with self.lease():
                pass

        thread = started(use)
        thread.join(1)
        return not thread.is_alive()


def started(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


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


def test_first_come_first_served() -> None:
    drive, order = Drive(), []

    def use(number: int) -> None:
        with drive.lease():
            order.append(number)

    threads = []
    with drive.lease():
        for number in range(10):
            threads.append(started(partial(use, number)))
            drive.waiting(number + 1)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(10))


def test_one_at_a_time() -> None:
    drive, inside, most = Drive(), [0], []

    def use() -> None:
        for _ in range(200):
            with drive.lease():
                inside[0] += 1
                most.append(inside[0])
                inside[0] -= 1

    for thread in [started(use) for _ in range(8)]:
        thread.join()
    assert most == [1] * 1600


def test_it_never_waits_for_itself() -> None:
    drive = Drive()
    with drive.lease(), pytest.raises(UsageError, match="uses the drive already"):
        drive.lease().acquire()
    with drive.lease():
        pass


def test_ending_twice_takes_nobodys_turn_away() -> None:
    drive = Drive()
    first = drive.lease()
    first.acquire()
    first.release()
    first.release()
    with drive.lease() as second:
        first.release()
        assert second.is_held
        assert not drive.is_free()
    assert not first.is_held


def test_any_thread_may_use_and_end_it() -> None:
    """What is opened in one thread is read in a second one, and closed in a third one."""
    drive = Drive()
    lease = drive.lease()
    in_a_thread(lease.acquire)
    in_a_thread(lease.acquire)
    assert lease.is_held
    in_a_thread(lease.release)
    assert drive.is_free()


def test_whoever_uses_it_now_may_scan() -> None:
    drive, done = Drive(), threading.Event()
    lease, seen = drive.lease(), []

    def use() -> None:
        lease.acquire()
        seen.append(drive.lock.is_mine)
        done.wait()

    lease.acquire()
    assert drive.lock.is_mine
    user = started(use)
    while not seen:
        time.sleep(0.001)
    assert seen == [True]
    assert not drive.lock.is_mine
    done.set()
    user.join()
    # Only the thread that made the lease can end it now: it must not wait.
    assert drive.lock.is_mine
    with pytest.raises(UsageError, match="already"):
        drive.lease().acquire()
    lease.release()


def test_a_wait_is_cancelled() -> None:
    drive = Drive()
    with drive.lease():
        waits = drive.lease()
        waits.is_cancelled = True
        with pytest.raises(TapeError, match="the wait for the drive was cancelled"):
            in_a_thread(waits.acquire)
    assert drive.is_free()


def test_it_moves_to_another_drive() -> None:
    one, other = Drive(), Drive()
    with one.lease() as lease:
        lease.move(one)
        assert not one.is_free()
        lease.move(other)
        assert one.is_free()
        assert not other.is_free()
    assert other.is_free()


def test_what_happens_at_its_end_happens_before_the_next() -> None:
    events: list[str] = []

    def fails(drive: object) -> None:
        events.append("ended")
        raise KeyboardInterrupt

    drive = Drive(fails)

    def use() -> None:
        lease = drive.lease()
        lease.acquire()
        events.append("next")
        drive.lock.on_release = None
        lease.release()

    lease = drive.lease()
    lease.acquire()
    after = started(use)
    drive.waiting(1)
    with pytest.raises(KeyboardInterrupt):
        lease.release()
    after.join()
    assert events == ["ended", "next"]


def test_a_lease_that_is_forgotten_ends() -> None:
    drive = Drive()
    lease = drive.lease()
    lease.acquire()
    with pytest.warns(ResourceWarning, match="the drive is still in use"):
        lease = drive.lease()
    assert drive.is_free()


# --- Interrupts ---


class Interrupted(FairLock):
    """The next wait for it ends as with a signal, if there is something that happens before."""

    def __init__(self) -> None:
        super().__init__("the drive")
        self.before: Callable[[], object] | None = None

    def enter(self, claim: object) -> None:
        super().enter(claim)  # type: ignore[arg-type]
        if self.before is not None:
            before, self.before = self.before, None
            before()
            raise KeyboardInterrupt


def interrupted(drive: Drive, before: Callable[[], object] = lambda: None) -> None:
    """Wait for a turn, and be interrupted; others wait as ever."""
    assert isinstance(drive.lock, Interrupted)
    drive.lock.before = before
    with pytest.raises(KeyboardInterrupt):
        drive.lease().acquire()


def interruptible() -> Drive:
    drive = Drive()
    drive.lock = Interrupted()
    return drive


def use(drive: Drive) -> None:
    with drive.lease():
        pass


def test_who_gives_up_waiting_holds_nobody_up() -> None:
    drive = interruptible()
    with drive.lease():
        in_a_thread(lambda: interrupted(drive))
        after = started(lambda: use(drive))
        drive.waiting(1)
    after.join()


def test_who_gives_up_just_when_the_turn_comes_hands_it_on() -> None:
    drive = interruptible()
    lease = drive.lease()
    lease.acquire()
    after = []

    def meanwhile() -> None:
        after.append(started(lambda: use(drive)))
        drive.waiting(2)
        lease.release()

    in_a_thread(lambda: interrupted(drive, meanwhile))
    after[0].join()


def test_who_gives_up_a_free_turn_leaves_it_free() -> None:
    drive = interruptible()
    interrupted(drive)
    with drive.lease():
        pass
