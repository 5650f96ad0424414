"""The newest layer of a chain wins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tapestream import Extent
from tapestream.model.extents import Extents
from tapestream.model.overlay import Overlay
from tests.chains import CLEAN, DATA, ZERO


@st.composite
def layered(draw: st.DrawFn) -> list[Extents]:
    """Layers of a disk that grows; what is clean may lie anywhere."""
    made = []
    size = draw(st.integers(0, 40))
    for i in range(draw(st.integers(1, 5))):
        lengths = draw(st.lists(st.integers(1, 12), max_size=12))
        runs, at = [], 0
        for wanted in [*lengths, size]:
            length = min(wanted, size - at)
            if length:
                zero, dirty = draw(st.booleans()), draw(st.booleans()) if i else None
                runs.append(Extent(at, length, zero=zero, dirty=dirty))
                at += length
        made.append(Extents.of(runs))
        size += draw(st.integers(0, 6))
    return made


def told(layers: Sequence[Extents]) -> list[tuple[Any, int]]:
    """For every byte, its kind and the layer that tells it, by plain search."""
    found = []
    for at in range(layers[-1].size):
        answer = (ZERO, 0)
        for layer in reversed(range(len(layers))):
            kind = next(
                (e.kind for e in layers[layer] if e.start <= at < e.start + e.length), CLEAN
            )
            if kind is not CLEAN:
                answer = (kind, layer)
                break
        found.append(answer)
    return found


@settings(max_examples=300)
@given(layers=layered(), data=st.data())
def test_the_newest_layer_wins(layers: list[Extents], data: st.DataObject) -> None:
    model = told(layers)
    size = len(model)
    found = Overlay(layers)
    assert found.extents.size == size
    whole = list(found.within(0, size))
    assert [(s.kind, s.layer) for s in whole for _ in range(s.length)] == model
    assert [s.start for s in whole] == [sum(s.length for s in whole[:i]) for i in range(len(whole))]
    kinds = [(e.kind, e.length) for e in found.extents]
    assert [kind for kind, length in kinds for _ in range(length)] == [kind for kind, _ in model]
    assert all(a[0] is not b[0] for a, b in itertools.pairwise(kinds))
    assert [found.layer_at(at) for at in range(size)] == [layer for _, layer in model]
    provided = [(layer, *run) for layer in range(len(layers)) for run in found.provided_by(layer)]
    bytes_told = {
        start + i: (kind, layer) for layer, start, length, kind in provided for i in range(length)
    }
    assert sum(length for _, _, length, _ in provided) == size
    assert [bytes_told[at] for at in range(size)] == model
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    part = list(found.within(start, end))
    assert [(s.kind, s.layer) for s in part for _ in range(s.length)] == model[start:end]
    assert sum(s.length for s in part) == end - start
    assert [s.start for s in part[:1]] == [start][: len(part)]
    assert list(found.data_within(start, end)) == [s for s in part if s.kind is DATA]
