"""Extents: imageio's JSON in, checked columns out."""

import contextlib
import json
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestream.errors import ExtentsError
from tapestream.model.extents import Extent, Extents, Kind
from tapestream.model.info import Context
from tests.strategies import extent_lists


def parse(items: Any, **kwargs: Any) -> Extents:
    return Extents.parse(json.dumps(items).encode(), **kwargs)


def test_parse_full() -> None:
    text = (
        b'[{"start": 0, "length": 512, "zero": false, "hole": false},'
        b' {"start": 512, "length": 1024, "zero": true, "hole": true}]\n'
    )
    extents = Extents.parse(text)
    assert list(extents) == [
        Extent(0, 512, zero=False, hole=False),
        Extent(512, 1024, zero=True, hole=True),
    ]
    assert extents.size == 1536
    assert extents.json == text
    assert extents[-1] == extents[1]
    assert extents[:1] == [extents[0]]
    assert extents.tally(Kind.DATA) == (1, 512)
    assert extents.tally(Kind.ZERO) == (1, 1024)
    assert extents.tally(Kind.CLEAN) == (0, 0)


def test_parse_dirty() -> None:
    extents = parse(
        [
            {"start": 0, "length": 1, "dirty": True, "zero": False},
            {"start": 1, "length": 1, "dirty": True, "zero": True},
            {"start": 2, "length": 1, "dirty": False, "zero": False},
            {"start": 3, "length": 1, "dirty": False, "zero": True},
            {"start": 4, "length": 1, "dirty": True},
        ],
        context="dirty",
    )
    assert [kind for _, _, kind in extents.runs()] == [
        Kind.DATA,
        Kind.ZERO,
        Kind.CLEAN,
        Kind.CLEAN,
        Kind.DATA,
    ]


def test_old_servers_leave_keys_out() -> None:
    [extent] = parse([{"start": 0, "length": 9}])
    assert extent.kind is Kind.DATA
    assert extent.hole is None
    [extent] = parse([{"start": 0, "length": 9, "zero": None, "hole": None}])
    assert extent.kind is Kind.DATA
    assert extent.hole is None


def test_dirty_in_a_full_list_is_not_ours() -> None:
    [extent] = parse([{"start": 0, "length": 9, "dirty": False}])
    assert extent.kind is Kind.DATA


def test_unknown_keys_are_kept() -> None:
    text = b'[{"start":0,"length":9,"zero":false,"depth":1,"more":{"a":[1,{"start":2}]}}]'
    extents = Extents.parse(text)
    assert extents.json == text
    assert len(extents) == 1


@pytest.mark.parametrize("context", ["zero", "dirty"])
def test_objects_must_fit_the_context(context: Context) -> None:
    listed = [Extent(0, 9, dirty=True if context == "zero" else None)]
    with pytest.raises(ExtentsError, match="what is dirty"):
        Extents.of(listed, context=context)
    with pytest.raises(ExtentsError, match="what is dirty"):
        Extents.of(Extents.of(listed), context=context)
    assert Extents.of([], context=context).size == 0


def test_index_errors() -> None:
    extents = parse([{"start": 0, "length": 9}])
    with pytest.raises(IndexError):
        extents[1]


def data(start: Any, length: Any, **more: Any) -> dict[str, Any]:
    return {"start": start, "length": length, "zero": False, **more}


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([data(1, 9)], "leaves a gap"),
        ([data(0, 9), data(10, 9)], "leaves a gap"),
        ([data(0, 9), data(8, 9)], "overlaps"),
        ([data(0, 9), data(0, 9)], "overlaps"),
        ([data(-1, 9)], "overlaps"),
        ([data(0, 0)], "length 0"),
        ([data(0, -1)], "length -1"),
        ([data(0, 2**63)], "beyond any disk"),
        ([data(0, 2**62), data(2**62, 2**62)], "beyond any disk"),
        # The most digits that JSON may have here, and a sum that has one more.
        ([data(0, 1), data(1, 10**4300 - 1)], "beyond any disk"),
        ([data("0", 9)], "start is not a whole number"),
        ([data(0, "9")], "length is not a whole number"),
        ([data(0.0, 9)], "start is not a whole number"),
        ([data(False, 9)], "start is not a whole number"),
        ([{"start": 0}], "length is not a whole number"),
        ([{"length": 9}], "start is not a whole number"),
        ([data(0, 9, hole="no")], "hole is not true or false"),
        ([{"start": 0, "length": 9, "zero": 0}], "zero is not true or false"),
        ([{}], "not an extent"),
        ([[]], "not an extent"),
        ([None], "not an extent"),
        (data(0, 9), "not a list"),
        ("extents", "not a list"),
    ],
)
def test_lists_that_lie(items: Any, says: str) -> None:
    with pytest.raises(ExtentsError, match=says) as caught:
        parse(items)
    assert caught.value.hint


@pytest.mark.parametrize("text", [b"", b"[", b"\xff\xff", b"[1,]", b"[" * 100_000])
def test_not_json(text: bytes) -> None:
    with pytest.raises(ExtentsError, match="not JSON"):
        Extents.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        b'[{"start": 0, "length": 9} {"start": 9, "length": 9}]',
        b'[{"start": 0, "length": 9}] []',
        b'[{"start": 0, "length": 9}',
        b'[{"start": 0, "length": 9}, ]',
        '[{"start": 0, "length": 9}]'.encode("utf-16"),
    ],
)
def test_not_quite_json(text: bytes) -> None:
    with pytest.raises(ExtentsError, match="not JSON"):
        Extents.parse(text)


def test_objects_inside_of_an_extent_are_no_extents() -> None:
    inside = data(0, 9)
    assert list(parse([data(0, 9, more=inside), data(9, 9)])) == list(
        parse([data(0, 9), data(9, 9)])
    )
    with pytest.raises(ExtentsError, match="leaves a gap"):
        parse([data(9, 9, more=inside)])


@pytest.mark.parametrize(
    "last",
    [
        data(500_000, 10, hole=0),
        data(500_000, 10, more=data(0, 10)),
        {"start": 500_000, "length": 10**5000},
        "\udc80",
    ],
    ids=["a bad one", "one that is right, with an object in it", "a huge number", "a string"],
)
def test_the_last_of_many_extents_costs_no_more_memory(last: Any) -> None:
    """The list is not made of dicts to find out what is wrong with it."""
    many = b",".join(b'{"start":%d,"length":10,"zero":false}' % (i * 10) for i in range(50_000))
    with sys_digits(6000):
        text = b"[" + many + b"," + json.dumps(last).encode() + b"]"
    tracemalloc.start()
    try:
        with contextlib.suppress(ExtentsError):
            Extents.parse(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(text)


@contextlib.contextmanager
def sys_digits(number: int) -> Iterator[None]:
    """Numbers of so many digits may be made into text."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(number)
    yield
    sys.set_int_max_str_digits(before)


def test_an_error_is_short_and_keeps_nothing_of_the_text() -> None:
    for text in (b'[{"start": "' + b"x" * 10**6 + b'"}]', b"[" + b"9" * 10**6 + b"]", b"x" * 10**6):
        with pytest.raises(ExtentsError) as caught:
            Extents.parse(text)
        assert len(str(caught.value)) < 500
        assert caught.value.__cause__ is None


@given(extent_lists(), st.integers(1))
def test_a_cut_list_is_that_of_a_smaller_disk(listed: list[Extent], size: int) -> None:
    extents = Extents.of(listed)
    if size >= extents.size:
        return
    cut = extents.cut(size)
    assert cut.size == size
    assert (
        list(cut)
        == list(Extents.of(list(cut)))
        == list(
            Extents.parse(cut.json, context=("dirty" if listed[0].dirty is not None else "zero"))
        )
    )
    assert list(cut.runs()) == list(extents.within(0, size))


def test_dirty_must_be_there_in_an_incremental() -> None:
    with pytest.raises(ExtentsError, match="does not say if it is dirty"):
        parse([data(0, 9)], context="dirty")


@given(extent_lists())
def test_round_trip(listed: list[Extent]) -> None:
    extents = Extents.of(listed)
    assert list(extents) == listed
    assert [(e.start, e.length, e.kind) for e in listed] == list(extents.runs())
    context = "dirty" if listed and listed[0].dirty is not None else "zero"
    again = Extents.parse(extents.json, context=context)  # type: ignore[arg-type]
    assert list(again) == listed
    assert Extents.of(again) is again


@given(extent_lists(min_size=2), st.data())
def test_any_displaced_extent_is_found(listed: list[Extent], draw: st.DataObject) -> None:
    i = draw.draw(st.integers(0, len(listed) - 1))
    moved = draw.draw(st.integers(-5, 5).filter(bool))
    items = [extent.to_dict() for extent in listed]
    items[i]["start"] += moved
    with pytest.raises(ExtentsError):
        parse(items)


@given(data=st.data(), count=st.integers(1, 40))
def test_shares_lengths_and_tallies_are_those_of_the_bytes(data: st.DataObject, count: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, 20), max_size=12))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    extents = Extents.of(
        Extent(start, length, zero=data.draw(st.booleans()), dirty=data.draw(st.booleans()))
        for start, length in zip(starts, lengths, strict=True)
    )
    for kind in Kind:
        disk = [extent.kind is kind for extent in extents for _ in range(extent.length)]
        bounds = [len(disk) * i // count for i in range(count + 1)]
        parts = [disk[bounds[i] : bounds[i + 1]] for i in range(count)]
        assert extents.shares(kind, count) == [sum(part) / max(len(part), 1) for part in parts]
        own = [extent.length for extent in extents if extent.kind is kind]
        assert list(extents.lengths(kind)) == own
        assert extents.tally(kind) == (len(own), sum(own))
