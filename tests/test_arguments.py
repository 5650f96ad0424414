"""Arguments that cannot work are refused at once, by a UsageError that says what they should be."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tapestream
from tapestream import (
    BackupInfo,
    DiscardSink,
    ImageioHTTPSource,
    ImageioUploadSink,
    RateLimit,
    RawImageSink,
    RawImageSource,
    TarStreamSink,
    TarStreamSource,
    compare,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.engine.options import CopyKeywords
from tapestream.errors import UsageError
from tapestream.tape import Catalog, TapeDrive
from tapestream.testing.memory import MemorySource

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


# --- Every argument of every call, before anything is touched ---

NOTHING = object()
JUNK: list[Any] = [
    None,
    NOTHING,
    True,
    -1,
    0,
    3,
    10**30,
    1.5,
    float("nan"),
    "",
    "no",
    "a\0b",
    "\ud800",
    b"bytes",
    [],
    {},
    {"a/b": b""},
    {"name": "text"},
    {5: b""},
    lambda: None,
    dict,
    print,
]


def is_int(value: Any) -> bool:
    return type(value) is int


def is_path(value: Any) -> bool:
    return isinstance(value, str) and value == "no"


def is_party(value: Any) -> bool:
    return False


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_count(value: Any) -> bool:
    return is_int(value) and value >= 0


def is_function(value: Any) -> bool:
    return value is None or (callable(value) and value is not dict)


def is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and value is not True and 0 < value < 10**8


def is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "\ud800")


def is_none(value: Any) -> bool:
    return value is None


# What each parameter takes, of the values above. What has a name of its own in one call only
# stands there. A new parameter must be given here, too.
TAKES: dict[str, Callable[[Any], bool]] = {
    "src": is_party,
    "dst": is_party,
    "sink": is_party,
    "source": is_party,
    "sources": is_party,
    "a": is_party,
    "b": is_party,
    "max_workers": lambda v: v is None or (is_int(v) and v > 0),
    "buffer_size": is_party,  # none of them is a multiple of 4096
    "buffer_memory": lambda v: v == 10**30,
    "max_gap": is_count,
    "block_hash": is_flag,
    "progress": lambda v: v is None,
    "max_rate": lambda v: v is None or (is_int(v) and v >= 4096),
    "bytes_per_second": lambda v: is_int(v) and v >= 4096,
    "cancel": is_none,
    "verify_first": is_flag,
    "path": is_path,
    "target": is_path,
    "size": lambda v: v is None or (is_count(v) and v < 2**63),
    "info": is_none,
    "url": is_party,
    "context": is_party,
    "fallback": is_none,
    "cafile": is_none,
    "secure": is_flag,
    "proxy_url": is_none,
    "record_block_hash": is_flag,
    "use_unix_socket": is_flag,
    "unix_socket_owner": lambda v: v is None or (is_count(v) and v < 2**32 - 1),
    "connect_timeout": is_seconds,
    "read_timeout": is_seconds,
    "zero_timeout": is_seconds,
    "extents_timeout": is_seconds,
    "checksum_timeout": is_seconds,
    "retries": is_count,
    "disk_is_zero": is_flag,
    "record_size": is_none,
    "part_size": is_none,
    "checksum": is_none,
    "attachments": lambda v: v is None or v == {},
    "on_volume_full": is_function,
    "open_device": lambda v: v is None or callable(v),
    "on_next_volume": is_function,
    "verify": is_flag,
    "allow_incomplete": is_flag,
    "file": is_none,
    "expect": is_none,
    **{
        name: is_text for name in BackupInfo.__dataclass_fields__ if name.endswith(("_id", "_name"))
    },
    "created": is_none,
    "metadata": lambda v: isinstance(v, dict) and b"" not in v.values(),
    "BackupInfo.context": is_party,
    "BackupInfo.size": is_count,
    "BackupInfo.block_hash": is_none,
    "BackupInfo.fallback": is_flag,
}

# Nothing answers there: what is refused only after that has touched the network.
URL = "https://127.0.0.1:1/images/ticket"


def calls(here: Path) -> dict[str, tuple[Callable[..., object], dict[str, Any]]]:
    """Every public call, with arguments that are right."""
    raw = RawImageSink(here / "old.raw")
    return {
        "copy": (copy, {"src": source(), "dst": raw}),
        "restore_chain": (restore_chain, {"sources": [source()], "sink": raw}),
        "merge_chain": (merge_chain, {"sources": [source()]}),
        "verify": (verify, {"source": source()}),
        "compare": (compare, {"a": source(), "b": source()}),
        "RawImageSource": (RawImageSource, {"path": here / "old.raw"}),
        "RawImageSink": (RawImageSink, {"path": here / "old.raw"}),
        "TarStreamSource": (TarStreamSource, {"target": here / "old.tar"}),
        "TarStreamSink": (TarStreamSink, {"target": here / "old.tar"}),
        "ImageioHTTPSource": (ImageioHTTPSource, {"url": URL}),
        "ImageioUploadSink": (ImageioUploadSink, {"url": URL}),
        "BackupInfo": (BackupInfo, {}),
        "RateLimit": (RateLimit, {"bytes_per_second": 4096}),
        "Catalog": (Catalog, {"path": here / "tapes"}),
        "TapeDrive": (TapeDrive, {"path": "/dev/null"}),
    }


def parameters() -> Iterator[tuple[str, str]]:
    for name, (call, _) in calls(Path("nowhere")).items():
        for parameter in inspect.signature(call).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD:
                yield name, parameter.name
            else:
                yield from ((name, option) for option in CopyKeywords.__annotations__)


def test_each_public_call_is_walked() -> None:
    public = {name for name in tapestream.__all__ if name not in NOT_CALLED}
    public |= {"Catalog", "TapeDrive"}
    assert set(calls(Path("nowhere"))) == public


# Protocols, errors and enums, what takes no argument, and what only the library makes.
NOT_CALLED = {
    *("Source", "Sink", "Reader", "Writer", "TapestreamError", "DiscardSink", "Extent", "Extents"),
    *("Kind", "CopyResult", "CompareReport", "VerifyReport", "Damage", "Findings", "BlockHash"),
    *("CopySample", "CopyStatus"),
    *("Cancel", "OperationCancelledError"),
}


def snapshot(here: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_ino, p.read_bytes()) for p in here.iterdir()}


@pytest.mark.parametrize(("name", "parameter"), list(parameters()))
def test_a_wrong_argument_touches_nothing(name: str, parameter: str, tmp_path: Path) -> None:
    with TarStreamSink(tmp_path / "old.tar") as backup:
        copy(source(), backup)
    (tmp_path / "old.raw").write_bytes(b"before")
    before = snapshot(tmp_path)
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    takes = TAKES.get(f"{name}.{parameter}") or TAKES[parameter]
    refused = [value for value in JUNK if not takes(value)]
    assert refused
    for value in refused:
        call, right = calls(tmp_path)[name]
        with pytest.raises(UsageError) as caught:
            call(**{**right, parameter: value})
        str(caught.value).encode()
        assert snapshot(tmp_path) == before, value
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


@pytest.mark.parametrize("name", ["copy", "restore_chain", "verify", "compare"])
def test_an_unknown_option(name: str, tmp_path: Path) -> None:
    (tmp_path / "old.raw").write_bytes(b"before")
    before = snapshot(tmp_path)
    call, right = calls(tmp_path)[name]
    with pytest.raises((UsageError, TypeError), match="max_threads"):
        call(**right, max_threads=2)
    assert snapshot(tmp_path) == before


class ReadOnly:
    """A progress whose total is computed."""

    total = property(lambda self: 5)

    def update(self, n: int) -> None:
        pass


@pytest.mark.parametrize(
    "progress",
    [
        print,
        type("Bar", (), {"update": print}),
        {},
        set(),
        ReadOnly(),
        type("Bar", (), {"update": lambda self: None})(),
        type("Bar", (), {"update": lambda self, n, total: None})(),
    ],
)
@pytest.mark.parametrize("chain", [False, True])
def test_a_progress_that_cannot_work(chain: bool, progress: Any, tmp_path: Path) -> None:
    (tmp_path / "old.raw").write_bytes(b"before")
    before = snapshot(tmp_path)
    given: Any = [source()] if chain else source()
    restore: Any = restore_chain if chain else copy
    with RawImageSink(tmp_path / "old.raw") as sink, pytest.raises(UsageError, match="progress"):
        restore(given, sink, progress=progress)
    assert snapshot(tmp_path) == before


def test_one_source_twice() -> None:
    twice = source()
    with pytest.raises(UsageError, match="twice"):
        compare(twice, twice)
    with pytest.raises(UsageError, match="twice"):
        restore_chain([twice, twice], DiscardSink())
