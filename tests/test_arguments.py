"""Arguments that cannot work are refused at once, by a UsageError that says what they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestream import (
    DiscardSink,
    ImageioHTTPSource,
    ImageioUploadSink,
    RawImageSink,
    TarStreamSink,
    compare,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.errors import UsageError

from .memory import MemorySource

WRONG: Any = "https://host:54322/images/secret-ticket"


def source() -> MemorySource:
    return MemorySource(bytes(4096))


def swapped() -> Any:
    return DiscardSink(), source()


@pytest.mark.parametrize(
    "call",
    [
        lambda: copy(WRONG, DiscardSink()),
        lambda: copy(source(), WRONG),
        lambda: copy(*swapped()),
        lambda: verify(WRONG),
        lambda: compare(source(), WRONG),
        lambda: compare(WRONG, source()),
        lambda: restore_chain([WRONG], DiscardSink()),
        lambda: restore_chain([source()], WRONG),
        lambda: merge_chain([WRONG]),
    ],
)
def test_what_is_no_source_or_sink(
    call: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UsageError, match="is needed to") as caught:
        call()
    assert "secret" not in str(caught.value)
    assert not caplog.records


def test_a_chain_is_not_one_source() -> None:
    with pytest.raises(UsageError, match="list of sources"):
        restore_chain(source(), DiscardSink())  # type: ignore[arg-type]


def test_a_sink_is_aborted_when_the_source_is_none(tmp_path: Path) -> None:
    with TarStreamSink(tmp_path / "disk.tar") as sink, pytest.raises(UsageError):
        copy(WRONG, sink)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_workers", "2"),
        ("max_workers", 1.5),
        ("buffer_size", None),
        ("buffer_memory", "1"),
        ("max_gap", 0.5),
        ("progress", 5),
        ("progress", print),
    ],
)
def test_options_of_a_copy(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        copy(source(), DiscardSink(), **{option: value})


@pytest.mark.parametrize("party", [ImageioHTTPSource, ImageioUploadSink])
@pytest.mark.parametrize("url", [None, 5, b"https://host/images/x", Path("/images/x")])
def test_urls(party: Any, url: Any) -> None:
    with pytest.raises(UsageError, match="URL is a str"):
        party(url)


@pytest.mark.parametrize("seconds", [0, -1, "5", None, float("nan"), 1e300])
def test_timeouts(seconds: Any) -> None:
    with pytest.raises(UsageError, match="timeout"):
        ImageioHTTPSource(WRONG, read_timeout=seconds)


@pytest.mark.parametrize("retries", [-1, 1.5, "x", None])
def test_retries(retries: Any) -> None:
    with pytest.raises(UsageError, match="retries"):
        ImageioHTTPSource(WRONG, retries=retries)


def test_sizes(tmp_path: Path) -> None:
    size: Any = "1"
    with pytest.raises(UsageError, match="'1'"):
        RawImageSink(tmp_path / "disk", size=size)
    with pytest.raises(UsageError, match="'512'"):
        TarStreamSink(tmp_path / "disk.tar", part_size="512")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'1'"):
        ImageioUploadSink(WRONG, max_gap=size)
