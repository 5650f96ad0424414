"""Where data will be in the tar is known before it is written."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from tapestream import Extent, TarStreamSink, copy
from tapestream.model.extents import Extents
from tapestream.tar import format as fmt
from tapestream.tar.layout import Layout
from tapestream.testing.memory import MemorySource
from tests.disks import noise
from tests.strategies import extent_lists


@given(
    extents=extent_lists(min_size=1),
    part_size=st.integers(1, 12).map(lambda n: 512 * n),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_data_is_in_the_tar_where_the_layout_says(
    extents: list[Extent], part_size: int, data: st.DataObject
) -> None:
    size = sum(e.length for e in extents)
    tar = io.BytesIO()
    with (
        MemorySource(noise(size), extents) as source,
        TarStreamSink(tar, part_size=part_size) as sink,
    ):
        copy(source, sink)
    members = list(fmt.data_members(Extents.of(extents), part_size))
    if not members:
        return
    with tarfile.open(fileobj=io.BytesIO(tar.getvalue())) as found:
        places = {m.name: (m.offset, m.offset_data) for m in found}
    first = data.draw(st.sampled_from(members), label="first")
    layout = Layout(
        Extents.of(extents),
        part_size,
        first.start,
        places[first.name][0],
        lambda offset, length: memoryview(tar.getvalue())[offset : offset + length],
    )
    for member in members[members.index(first) :]:
        start = member.start + data.draw(st.integers(0, member.length - 1))
        length = data.draw(st.integers(1, member.start + member.length - start))
        at = places[member.name][1] + start - member.start
        assert bytes(layout.memory(start, length) or b"") == tar.getvalue()[at : at + length]
        assert layout.memory(start, member.start + member.length - start + 1) is None


def test_it_looks_only_forward() -> None:
    """Readers beside each other may ask out of order: then they use other memory."""
    extents = [Extent(0, 4096), Extent(4096, 4096, zero=True), Extent(8192, 4096)]
    layout = Layout(Extents.of(extents), 2048, 0, 0, lambda _, length: memoryview(bytes(length)))
    assert layout.memory(0, 2048) is not None
    assert layout.memory(2048, 2048) is not None
    assert layout.memory(0, 2048) is not None
    assert layout.memory(4096, 512) is None
    assert layout.memory(8192, 2048) is not None
    assert layout.memory(0, 2048) is None
    assert layout.memory(12288, 1) is None


def test_no_data_before_the_first_member() -> None:
    extents = Extents.of([Extent(0, 4096)])
    layout = Layout(extents, 2048, 2048, 0, lambda _, length: memoryview(bytes(length)))
    assert layout.memory(0, 2048) is None
    assert layout.memory(2048, 2048) is not None
