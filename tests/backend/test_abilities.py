"""`ability`: whose ability is found, through wrappers, and without evaluating anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tapestream import DiscardSink, Reader, Sink, Source, Writer, backend
from tapestream.backend import abilities
from tapestream.backend.abilities import (
    ChecksItself,
    HasDigests,
    HoldsDevice,
    KeepsAlive,
    Prefetches,
    Rewinds,
    Salvages,
    ability,
)
from tapestream.backend.forwarding import (
    ForwardingReader,
    ForwardingSink,
    ForwardingSource,
    ForwardingWriter,
)
from tapestream.backend.protocols import SinkLike, SourceLike
from tapestream.errors import BackendError
from tapestream.model.damage import Findings
from tapestream.testing.memory import MemorySource


class Plain:
    """Has nothing."""


class Able:
    """Has abilities without inheriting from their protocols."""

    device = "/dev/nst0"
    prefetch_depth = 2

    def prefetch(self, start: int, length: int) -> None: ...

    def __init__(self) -> None:
        self.calls = 0

    def rewind(self) -> None:
        self.calls += 1

    @property
    def digest_name(self) -> str:
        raise AssertionError("evaluated")

    def finish(self) -> str:
        return "sha256"


class Wrapper:
    def __init__(self, wrapped: object) -> None:
        self.wrapped = wrapped


def test_an_ability_of_its_own() -> None:
    able = Able()
    assert ability(able, Rewinds) is able
    assert ability(able, HoldsDevice) is able
    assert ability(able, KeepsAlive) is None
    assert ability(Plain(), Rewinds) is None


def test_a_property_is_not_evaluated_to_find_it() -> None:
    able = Able()
    assert ability(able, HasDigests) is able
    assert ability(Wrapper(able), HasDigests) is able


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_what_is_wrapped_has_it(depth: int) -> None:
    able: Any = Able()
    outer = able
    for _ in range(depth):
        outer = Wrapper(outer)
    found = ability(outer, Rewinds)
    assert found is not None
    found.rewind()
    assert able.calls == 1
    assert ability(outer, KeepsAlive) is None


def test_the_wrapper_comes_first() -> None:
    class Own(Wrapper):
        def rewind(self) -> None: ...

    own = Own(Able())
    assert ability(own, Rewinds) is own
    assert ability(Wrapper(own), Rewinds) is own


def test_a_method_that_is_none_hides_an_ability() -> None:
    class Hiding(Wrapper):
        rewind = None

    assert ability(Hiding(Able()), Rewinds) is None
    assert ability(Wrapper(Hiding(Able())), Rewinds) is None
    assert ability(Hiding(Able()), HoldsDevice) is not None
    hiding: Any = Wrapper(Able())
    hiding.finish = None
    assert ability(hiding, ChecksItself) is None
    assert ability(hiding, HasDigests) is not None


def test_an_attribute_that_is_none_hides_nothing() -> None:
    class Undigested(Able):
        digest_name = None  # type: ignore[assignment]
        device = None  # type: ignore[assignment]

    undigested = Undigested()
    assert ability(undigested, HasDigests) is undigested
    held = ability(Wrapper(undigested), HoldsDevice)
    assert held is not None
    assert held.device is None


def test_an_attribute_of_the_object_counts() -> None:
    plain: Any = Plain()
    plain.rewind = lambda: None
    assert ability(plain, Rewinds) is plain


def test_names_that_an_object_makes_up() -> None:
    class Delegating:
        def __init__(self, inner: object) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    outer = Delegating(Able())
    assert ability(outer, Rewinds) is outer
    assert ability(outer, KeepsAlive) is None


def test_half_of_an_ability_is_a_mistake() -> None:
    class Announced:
        def prefetch(self, start: int, length: int) -> None: ...

    with pytest.raises(BackendError, match="Announced has prefetch, but no prefetch_depth") as e:
        ability(Wrapper(Announced()), Prefetches)
    assert "abilities.md" in e.value.hint


# --- Wrappers that forward the core ---


class AbleBackend(Able):
    """Has the names of a source and of a sink, too. None of them is used."""

    info = max_readers = max_writers = sequential = None
    extents = begin = open_reader = open_writer = commit = abort = close = None


def test_each_kind_of_backend_is_looked_through() -> None:
    able: Any = AbleBackend()
    for outer in (
        ForwardingSource(able),
        ForwardingSink(able),
        ForwardingReader(able),
        ForwardingWriter(able),
    ):
        assert ability(outer, Rewinds) is able
        assert ability(outer, Prefetches) is able
        assert ability(outer, KeepsAlive) is None


class Short(Reader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        return len(buffer) - 1  # type: ignore[return-value]

    def close(self) -> None: ...


class ShortWriter(Writer):
    def write(self, start: int, buffer: memoryview) -> None:
        return len(buffer) - 1  # type: ignore[return-value]

    def zero(self, start: int, length: int) -> None:
        return length - 1  # type: ignore[return-value]

    def close(self) -> None: ...


def test_what_the_wrapped_one_returns_is_checked() -> None:
    buffer = memoryview(bytearray(10))
    with pytest.raises(BackendError, match=r"Short\.readinto\(\) at offset 0 returned 9"):
        ForwardingReader(Short()).readinto(0, buffer)
    with pytest.raises(BackendError, match=r"ShortWriter\.write\(\) at offset 0 returned 9"):
        ForwardingWriter(ShortWriter()).write(0, buffer)
    with pytest.raises(BackendError, match=r"ShortWriter\.zero\(\) at offset 0 returned 9"):
        ForwardingWriter(ShortWriter()).zero(0, 10)
    buffer[0] = 1  # it is the caller's, still

    class Promising(DiscardSink):
        def commit(self) -> None:
            return False  # type: ignore[return-value]

    with pytest.raises(BackendError, match=r"Promising\.commit\(\) returned False"):
        ForwardingSink(Promising()).commit()


def test_a_view_that_goes_on_after_damage_is_wrapped_too() -> None:
    class Salvageable(MemorySource):
        def salvaging(self, findings: Findings) -> MemorySource:
            return view

    class Counting(ForwardingSource):
        opened = 0

    view = MemorySource(b"what is left")
    outer = Counting(Counting(Salvageable(b"all of it")))
    salvages = ability(outer, Salvages)
    assert salvages is not None
    found: Any = salvages.salvaging(Findings())
    assert isinstance(found, Counting)
    assert isinstance(found.wrapped, Counting)
    assert found.wrapped.wrapped is view
    assert found.info == view.info
    assert ForwardingSource(MemorySource(b"")).salvaging(Findings()) is None


# --- What the documentation says ---

DOCS = Path(__file__).parents[2] / "docs"
CORE = (SourceLike, Reader, SinkLike, Writer)
NOT_ABILITIES = {*(each.__name__ for each in (*CORE, Source, Sink)), "Hash", "Shape", "ability"}


def table_of_abilities(text: str) -> dict[str, set[str]]:
    """The members of each ability, as a table says."""
    rows = re.findall(r"^\| +`(\w+)` +\|(.*)$", text, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)", row)) for name, row in rows}


def members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


def test_the_core_is_18_names() -> None:
    assert sum(len(members(protocol)) for protocol in CORE) == 18
    page = (DOCS / "own-backend.md").read_text()
    for protocol in CORE:
        assert all(re.search(rf"`{name}\b", page) for name in members(protocol))


def test_every_ability_is_in_both_tables() -> None:
    exported = {
        name: members(getattr(backend, name))
        for name in backend.__all__
        if name not in NOT_ABILITIES and not name.startswith("Forwarding")
    }
    page = re.sub(r"\| [^|]* \|$", "|", (DOCS / "abilities.md").read_text(), flags=re.MULTILINE)
    assert table_of_abilities(page) == exported
    assert table_of_abilities(str(abilities.__doc__)) == exported


def test_a_throttle_takes_15_lines() -> None:
    page = (DOCS / "abilities.md").read_text()
    code = page[page.index("class Throttled(") :].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
