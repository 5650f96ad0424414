"""Streams that earlier versions have written are read, verified, salvaged and restored."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import tapestream
from tapestream import (
    BackupInfo,
    DiscardSink,
    RawImageSink,
    Source,
    TapestreamError,
    TarStreamSource,
    copy,
    merge_chain,
    restore_chain,
    verify,
)

from .old import (
    FOLDERS,
    Case,
    expected,
    image_before,
    restored,
    stretches,
    subjects,
    whole_image,
)
from .recipes import damaged, extents, load, sha256

GOOD = [Case(f, v, name) for f in FOLDERS for name, v in expected(f)["streams"].items()]
DAMAGED = [
    Case(f, v, f"{v['stream']}, {v['name']}") for f in FOLDERS for v in expected(f)["damaged"]
]


def tar_of(folder: Path, name: str) -> bytes:
    return load(folder / "streams" / f"{name}.tar.xz")


def opened(case: Case) -> TarStreamSource:
    return TarStreamSource(io.BytesIO(tar_of(case.folder, case.name)))


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_what_a_stream_says(case: Case) -> None:
    with opened(case) as stream:
        assert stream.info == BackupInfo.from_dict(case.values["info"])
        recipe, dirty = case.values["recipe"], stream.info.context == "dirty"
        assert list(stream.extents()) == extents(recipe, dirty=dirty)
        attachments = {name: data.decode() for name, data in stream.attachments.items()}
        assert attachments == case.values["attachments"]
        assert stream.digest_name == case.values["checksum"]


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_every_byte_comes_back(case: Case, tmp_path: Path) -> None:
    streams = expected(case.folder)["streams"]
    before = image_before(streams, case.name)
    found = restored(opened(case), tmp_path / "disk.raw", before)
    assert found == whole_image(streams, case.name)
    assert sha256(found) == case.values["sha256"]


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_it_verifies(case: Case) -> None:
    with opened(case) as stream:
        report = verify(stream)
    assert report.ok, str(report)
    assert report.checksum == case.values["checksum"]
    assert report.data_bytes == case.values["data_bytes"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_block_hash_in_it_is_that_of_its_data(folder: Path) -> None:
    with TarStreamSource(io.BytesIO(tar_of(folder, "block-hash"))) as stream:
        assert stream.info.block_hash is not None
        result = copy(stream, DiscardSink(), block_hash=True)
    assert result.block_hash == stream.info.block_hash


@pytest.mark.parametrize("merged", [False, True], ids=["restore_chain", "merge_chain"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_chain(folder: Path, merged: bool, tmp_path: Path) -> None:
    names = ["third", "full", "second"]
    sources: list[Source] = [TarStreamSource(io.BytesIO(tar_of(folder, name))) for name in names]
    with RawImageSink(tmp_path / "disk.raw") as sink:
        if merged:
            copy(merge_chain(sources), sink)
        else:
            restore_chain(sources, sink, verify_first=True)
    for source in sources:
        source.close()
    found = (tmp_path / "disk.raw").read_bytes()
    assert found == whole_image(expected(folder)["streams"], "third")


@pytest.mark.parametrize("case", DAMAGED, ids=str)
def test_a_strict_reader_raises_the_same_error(case: Case) -> None:
    wanted = case.values["error"]
    tar = damaged(tar_of(case.folder, case.values["stream"]), case.values["edits"])
    if wanted is None:
        with TarStreamSource(io.BytesIO(tar)) as stream:
            copy(stream, DiscardSink())
    else:
        with (
            pytest.raises(getattr(tapestream.errors, wanted)),
            TarStreamSource(io.BytesIO(tar)) as stream,
        ):
            copy(stream, DiscardSink())


@pytest.mark.parametrize("case", DAMAGED, ids=str)
def test_verify_finds_the_same(case: Case) -> None:
    tar = damaged(tar_of(case.folder, case.values["stream"]), case.values["edits"])
    wanted = case.values.get("verify")
    if wanted is None:
        with pytest.raises(TapestreamError), TarStreamSource(io.BytesIO(tar)) as stream:
            verify(stream)
        return
    with TarStreamSource(io.BytesIO(tar)) as stream:
        report = verify(stream)
    assert stretches(report.damage) == wanted["damage"]
    assert subjects(report.problems) == subjects(wanted["problems"])
    assert report.complete == wanted["complete"]
    assert report.checksum == wanted["compared"]
    assert report.data_bytes == wanted["data_bytes"]


@pytest.mark.parametrize("case", DAMAGED, ids=str)
def test_a_salvage_brings_the_same_back(case: Case, tmp_path: Path) -> None:
    tar = damaged(tar_of(case.folder, case.values["stream"]), case.values["edits"])
    wanted = case.values["salvage"]
    if wanted is None:
        with pytest.raises(getattr(tapestream.errors, case.values["salvage_error"])):
            restored(TarStreamSource(io.BytesIO(tar), allow_incomplete=True), tmp_path / "disk.raw")
        return
    stream = TarStreamSource(io.BytesIO(tar), allow_incomplete=True)
    found = restored(stream, tmp_path / "disk.raw")
    assert sha256(found) == wanted["sha256"]
    assert stream.findings is not None
    assert stretches(stream.findings.damage) == wanted["damage"]
    assert subjects(stream.findings.problems) == subjects(wanted["problems"])
    assert stream.findings.complete == wanted["complete"]
    assert stream.findings.digest_name == wanted["compared"]
