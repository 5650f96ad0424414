"""What expires when it is not used is used during a copy, whatever the copy waits for."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from tapestream import DiscardSink
from tapestream.errors import ServerError
from tapestream.testing.memory import MemorySource

from .kept import copy_kept_alive

copy = partial(copy_kept_alive, interval=0.01)


class Source(MemorySource):
    """Counts how often it is kept alive, and can wait in `extents` until that happened."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(bytes(4096))
        self.error = error
        self.alive = threading.Event()
        self.threads: set[str] = set()

    def keep_alive(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.alive.set()
        if self.error:
            raise self.error


class Sink(DiscardSink):
    """Waits in `commit`, as a tape does for a filemark."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.alive = threading.Event()

    def keep_alive(self) -> None:
        self.alive.set()

    def commit(self) -> None:
        assert self.source.alive.wait(10)
        assert self.alive.wait(10)
        super().commit()


def test_both_sides_are_kept_alive_until_the_end() -> None:
    source = Source()
    copy(source, Sink(source))
    assert source.threads == {"tapestream-keep-alive"}
    assert "tapestream-keep-alive" not in {t.name for t in threading.enumerate()}


def test_a_failure_to_keep_alive_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(ServerError("the server is being restarted"))
    copy(source, Sink(source))
    assert "cannot keep the transfer alive: the server is being restarted" in caplog.text


def test_it_ends_with_a_copy_that_failed() -> None:
    source = Source()

    class Broken(Sink):
        def commit(self) -> None:
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        copy(source, Broken(source))
    assert "tapestream-keep-alive" not in {t.name for t in threading.enumerate()}


def test_a_call_that_hangs_holds_nobody_up() -> None:
    released = threading.Event()

    class Hanging(Source):
        def keep_alive(self) -> None:
            super().keep_alive()
            released.wait()

    class Waiting(DiscardSink):
        def commit(self) -> None:
            assert source.alive.wait(10)

    source = Hanging()
    copy(source, Waiting(), patience=0.01)
    thread = next(t for t in threading.enumerate() if t.name == "tapestream-keep-alive")
    released.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_party_that_hangs_delays_no_other() -> None:
    answered = threading.Event()

    class Hanging(Source):
        def keep_alive(self) -> None:
            super().keep_alive()
            answered.wait(30)

    source = Hanging()
    copy(source, Sink(source), patience=0.01)  # waits until the sink was kept alive, too
    answered.set()


def test_an_interrupt_while_it_begins_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        copy(Source(), DiscardSink())
    assert "tapestream-keep-alive" not in {t.name for t in threading.enumerate()}
