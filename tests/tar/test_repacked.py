"""Backups that other tar programs unpacked and packed anew: the same members, other headers."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestream import Damage, TarStreamSource, copy, verify
from tapestream.errors import CorruptStreamError, ForeignStreamError, IncompleteStreamError
from tapestream.testing.memory import MemorySink
from tests.tar.layouts import Layout, flipped
from tests.tar.tars import DISK, make_tar, split

ATTACHMENTS = {"vm.ovf": b"<ovf/>" * 20, "größer.xml": b"1" * 700}
TAR = make_tar(attachments=ATTACHMENTS)
PARTS = split(TAR)
NAMES = [part.name for part in PARTS]

Pack = Callable[[Path], bytes]


def by_tool(*command: str) -> Pack:
    """Pack the files of a directory with a tar program, into a pipe."""

    def pack(directory: Path) -> bytes:
        names = directory / "names"
        names.write_text("\n".join(NAMES) + "\n")
        tool, *options = command
        return subprocess.run(
            [tool, "-cf", "-", *options, "-C", directory, "-T", names],
            capture_output=True,
            check=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        ).stdout

    return pack


def by_bsdtar_into_a_file(directory: Path) -> bytes:
    """It does not fill up the last record of a file."""
    (directory / "names").write_text("\n".join(NAMES) + "\n")
    command = ["bsdtar", "-cf", "new.tar", "--format=ustar", "-T", "names"]
    subprocess.run(command, cwd=directory, check=True, env={"LC_ALL": "C.UTF-8"})
    return (directory / "new.tar").read_bytes()


def by_tarfile(format_: int, **pax_headers: str) -> Pack:
    def pack(directory: Path) -> bytes:
        out = io.BytesIO()
        with tarfile.open(
            fileobj=out, mode="w", format=format_, pax_headers=pax_headers or None
        ) as tar:
            for name in NAMES:
                tar.add(directory / name, name)
        return out.getvalue()

    return pack


def with_directories(directory: Path) -> bytes:
    command = ["tar", "-cf", "-", "--format=pax", *NAMES[:2], "attachments", *NAMES[4:]]
    return subprocess.run(command, cwd=directory, capture_output=True, check=True).stdout


PACKERS: dict[str, Pack] = {
    **{
        f"tar {f}": by_tool("tar", f"--format={f}") for f in ("pax", "gnu", "oldgnu", "ustar", "v7")
    },
    "tar names": by_tool("tar", "--format=pax", "--owner=a-name", "--numeric-owner", "--mode=777"),
    "tar global": by_tool("tar", "--format=pax", "--pax-option=globexthdr.name=g,comment=hello"),
    "tar directory": with_directories,
    **{f"bsdtar {f}": by_tool("bsdtar", f"--format={f}") for f in ("pax", "gnutar", "ustar")},
    "bsdtar file": by_bsdtar_into_a_file,
    "tarfile pax": by_tarfile(tarfile.PAX_FORMAT),
    "tarfile gnu": by_tarfile(tarfile.GNU_FORMAT),
    "tarfile ustar": by_tarfile(tarfile.USTAR_FORMAT),
    "tarfile global": by_tarfile(tarfile.PAX_FORMAT, comment="hello"),
}


@pytest.fixture(params=PACKERS)
def packer(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def repacked(packer: str, directory: Path, tar: bytes = TAR) -> bytes:
    directory.mkdir()
    (directory / "old.tar").write_bytes(tar)
    subprocess.run(["tar", "-xf", "old.tar"], cwd=directory, check=True)
    return PACKERS[packer](directory)


def restored(tar: bytes, **options: Any) -> bytes:
    sink = MemorySink()
    with TarStreamSource(io.BytesIO(tar), **options) as source:
        assert source.attachments == ATTACHMENTS
        copy(source, sink)
    assert sink.state == "committed"
    return bytes(sink.disk)


def test_restore(packer: str, tmp_path: Path) -> None:
    tar = repacked(packer, tmp_path / "new")
    assert restored(tar) == restored(tar, allow_incomplete=True) == DISK


def test_verify(packer: str, tmp_path: Path) -> None:
    tar = repacked(packer, tmp_path / "new")
    path = tmp_path / "new.tar"
    path.write_bytes(tar)
    with TarStreamSource(path) as source:
        source.check_complete()
        report = verify(source)
    assert report.ok, str(report)
    assert report.checksum == "sha256"


def test_damage_is_found_and_the_rest_salvaged(packer: str, tmp_path: Path) -> None:
    tar = repacked(packer, tmp_path / "new")
    place = Layout(tar).place("extent-2@5120")
    damaged = flipped(tar, place.data)
    with pytest.raises(CorruptStreamError):
        restored(damaged)
    sink = MemorySink()
    with TarStreamSource(io.BytesIO(damaged), allow_incomplete=True) as source:
        copy(source, sink)
        assert source.findings is not None
        assert source.findings.damage == [Damage(5120, 1024, "extent-2@5120", missing=False)]
        assert source.findings.digest_name == "sha256"
    assert bytes(sink.disk) == Layout(TAR).image(flipped(TAR, Layout(TAR).place(place.name).data))


def test_a_cut_is_found(packer: str, tmp_path: Path) -> None:
    tar = repacked(packer, tmp_path / "new")
    manifest = Layout(tar).place("manifest.json")
    for cut in (*range(512, manifest.end, 512), manifest.end, manifest.end + 1):
        with pytest.raises(IncompleteStreamError):
            restored(tar[:cut])


@pytest.mark.parametrize("packer", ["tar pax", "bsdtar pax", "tarfile pax", "tar gnu"])
def test_records_of_a_tape_are_not_missed(packer: str, tmp_path: Path) -> None:
    """Other programs fill up records of 10 KiB, where a backup on tape may have 1 MiB."""
    tar = make_tar(attachments=ATTACHMENTS, record_size=1024**2)
    assert restored(repacked(packer, tmp_path / "new", tar)) == DISK


@pytest.mark.parametrize("packer", ["tar oldgnu", "tar pax", "bsdtar pax", "tarfile pax"])
def test_the_longest_name(packer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a header of its own in some formats, and in a pax header if it is not ASCII."""
    kept = {"ä" * 44: b"<ovf/>"}
    tar = make_tar(attachments=kept)
    monkeypatch.setattr("tests.tar.test_repacked.NAMES", [part.name for part in split(tar)])
    with TarStreamSource(io.BytesIO(repacked(packer, tmp_path / "new", tar))) as source:
        assert source.attachments == kept
        assert verify(source).ok


def test_files_with_holes(tmp_path: Path) -> None:
    """Their data is not stored as it is."""
    tar = make_tar(bytes(7999), attachments=ATTACHMENTS)
    for packer in ("tar pax", "tar gnu"):
        directory = tmp_path / packer
        repacked(packer, directory, tar)
        for name in NAMES:
            if name.startswith("extent-2"):
                subprocess.run(["fallocate", "--dig-holes", directory / name], check=True)
                with (directory / name).open("r+b") as file:
                    size = file.seek(0, 2)
                    file.truncate(0)
                    file.truncate(size)
        format_ = packer.replace("tar ", "--format=")
        sparse = by_tool("tar", "--sparse", format_)(directory)
        with pytest.raises(CorruptStreamError, match="holes"):
            restored(sparse)


def test_other_tars_are_foreign(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_bytes(b"1" * 3000)
    (tmp_path / "a-link").symlink_to("a-file")
    for names in (["a-file"], ["a-link"], ["."]):
        for form in ("pax", "gnu", "ustar"):
            command = ["tar", "-cf", "-", f"--format={form}", *names]
            tar = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
            with pytest.raises(ForeignStreamError):
                restored(tar)


def test_headers_without_end() -> None:
    """A million pax headers, and no member."""
    info = tarfile.TarInfo("backup-info.json")
    info.pax_headers = {"comment": "hello"}
    header = info.tobuf(tarfile.PAX_FORMAT)[:1024]
    file = io.BytesIO(header * 100_000)
    with pytest.raises(ForeignStreamError):
        TarStreamSource(file)
    assert file.tell() < 100_000


@pytest.mark.parametrize(
    "records",
    [
        b"",
        b"7 x=1\n",
        b"99999999 path=a\n",
        b"10 path=a",
        b"0 path=a\n",
        b"-9 path=a\n",
        b"path=a\n",
    ],
)
def test_pax_records_that_are_none(records: bytes) -> None:
    """In front of a member of ours; those that say nothing do not matter."""
    at = Layout(TAR).place("extents.json").header
    header = tarfile.TarInfo("PaxHeaders/extents.json")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    block = header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    tar = TAR[:at] + block + TAR[at:]
    tar += bytes(-len(tar) % 2048)
    if records in (b"", b"7 x=1\n"):
        if records:
            with pytest.raises(CorruptStreamError, match="pax header is damaged"):
                restored(tar)
        else:
            assert restored(tar) == DISK
        return
    with pytest.raises(CorruptStreamError, match="pax header is damaged"):
        restored(tar)
