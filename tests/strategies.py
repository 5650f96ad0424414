"""Random disks, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from tapestream.model.extents import Extent


@st.composite
def extent_lists(
    draw: st.DrawFn, *, min_size: int = 0, max_size: int = 20, max_length: int = 5000
) -> list[Extent]:
    """Extents that cover a disk: of a full backup or of an incremental one."""
    lengths = draw(st.lists(st.integers(1, max_length), min_size=min_size, max_size=max_size))
    dirty = draw(st.booleans())
    extents, start = [], 0
    for length in lengths:
        extents.append(
            Extent(
                start,
                length,
                zero=draw(st.booleans()),
                hole=None if dirty else draw(st.sampled_from([None, True, False])),
                dirty=draw(st.booleans()) if dirty else None,
            )
        )
        start += length
    return extents
