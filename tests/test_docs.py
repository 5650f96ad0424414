"""The documentation is true: its examples run, its links lead somewhere, its reference is complete.

Blocks marked `python` are run, those of a page in order and in one namespace, in a directory of
their own; docs/how-to.md lists the names they are given. Blocks marked `py` need an engine, and
are only compiled. Blocks marked `console` are run, too, and must show what they say.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partialmethod
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, cast

import pytest

import tapestream
from tapestream import (
    BackupInfo,
    DiscardSink,
    ImageioHTTPSource,
    TarStreamSink,
    TarStreamSource,
    copy,
    errors,
    tape,
)
from tapestream.tape import TapeDevice
from tapestream.testing import (
    ImageioDaemon,
    compare_images,
    create_image,
    serve_image,
    write_pattern,
)
from tapestream.testing.drive import Cartridge, FakeDrive

from .cli.console import an_engine, examples, is_as_shown, shown_by, surroundings
from .servers.examples import names_of_other_servers

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
MIB = 1024**2
SIZE = 16 * MIB


class CodeBlock(NamedTuple):
    page: Path
    line: int
    code: str

    def compile(self) -> CodeType:
        """Compile it so that a traceback shows the line of the page."""
        return compile("\n" * self.line + self.code, self.page, "exec")


def code_blocks(page: Path, language: str) -> list[CodeBlock]:
    text = page.read_text(encoding="utf-8")
    fences = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [CodeBlock(page, text.count("\n", 0, m.start(1)), m[1]) for m in fences]


def each_page_with(language: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if code_blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=name_of)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@contextmanager
def names_of_the_docs(daemon: ImageioDaemon) -> Iterator[dict[str, object]]:
    """Put what the examples expect into the current directory, and give the names they expect."""
    shutil.copy(daemon.cafile, "ca.pem")
    Path("vm.ovf").write_text("<Envelope/>\n")
    full, changed, restored = Path("full.qcow2"), Path("changed.qcow2"), Path("restored.qcow2")
    create_image(full, SIZE)
    write_pattern(full, ["write -P 1 0 1M", "write -P 2 3M 192k", "write -P 3 15M 1M"])
    shutil.copy(full, changed)
    subprocess.run(["qemu-img", "bitmap", "--add", changed, "since-full"], check=True)
    write_pattern(changed, ["write -P 4 8M 256k", "write -z 0 512k"])
    create_image(restored, SIZE)
    device = Path("device")
    device.write_bytes(b"old" * (SIZE // 2))

    with (
        serve_image(full) as full_nbd,
        serve_image(changed, bitmap="since-full") as changed_nbd,
        serve_image(restored, read_only=False) as restored_nbd,
    ):
        transfer_url = daemon.add_ticket(full_nbd, SIZE)
        dirty_url = daemon.add_ticket(changed_nbd, SIZE, dirty=True)
        back_up_disks(transfer_url, dirty_url)
        yield {
            "transfer_url": transfer_url,
            "proxy_url": transfer_url,
            "disks": {"disk-1": transfer_url, "disk-2": transfer_url},
            "dirty_url": dirty_url,
            "upload_url": daemon.add_ticket(restored_nbd, SIZE, ops=["write"]),
            "device": str(device),
            "s3": S3Client(),
        }


class S3Client:
    """A double of boto3's client for S3: what the example calls, and what a store would refuse."""

    def __init__(self) -> None:
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.objects: dict[str, bytes] = {}

    def create_multipart_upload(self, **request: str) -> dict[str, str]:
        self.uploads[f"upload of {request['Key']}"] = {}
        return {"UploadId": f"upload of {request['Key']}"}

    def upload_part(self, **request: Any) -> dict[str, str]:
        assert 1 <= request["PartNumber"] <= 10_000
        self.uploads[request["UploadId"]][request["PartNumber"]] = request["Body"]
        return {"ETag": f"etag-{request['PartNumber']}"}

    def complete_multipart_upload(self, **request: Any) -> None:
        parts = self.uploads.pop(request["UploadId"])
        numbers = [part["PartNumber"] for part in request["MultipartUpload"]["Parts"]]
        assert numbers == sorted(parts)
        assert all(len(parts[number]) >= 5 * MIB for number in numbers[:-1])
        self.objects[request["Key"]] = b"".join(parts[number] for number in numbers)

    def abort_multipart_upload(self, **request: str) -> None:
        del self.uploads[request["UploadId"]]

    def check(self) -> None:
        assert self.uploads == {}
        for tar in self.objects.values():
            with TarStreamSource(io.BytesIO(tar)) as src, DiscardSink() as dst:
                copy(src, dst)


def back_up_disks(transfer_url: str, dirty_url: str) -> None:
    incremental = BackupInfo(
        disk_id="mail-disk",
        checkpoint_id="monday",
        parent_checkpoint_id="sunday",
        context="dirty",
    )
    for url, tar, info in [
        (transfer_url, "disk.tar", BackupInfo(disk_id="disk-1")),
        (transfer_url, "sunday.tar", BackupInfo(disk_id="mail-disk", checkpoint_id="sunday")),
        (dirty_url, "monday.tar", incremental),
    ]:
        with (
            ImageioHTTPSource(url, context=info.context, cafile="ca.pem", info=info) as src,
            TarStreamSink(tar) as dst,
        ):
            copy(src, dst)


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to an empty directory, with an ssh that runs its command here and an mtx that notes it."""
    monkeypatch.chdir(tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, does in [("ssh", 'exec sh -c "$2"'), ("mtx", 'echo "$@" >> mtx.log')]:
        command = commands / name
        command.write_text(f"#!/bin/sh\n{does}\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")


class TapeLibrary:
    """What the examples find at /dev/nst0 and /dev/nst1: doubles of tape drives, not real ones.

    Tapes are changed by the operator, whom `input` asks, and by `mtx`. A large tape is in the first
    drive, but for examples about several tapes: they get small ones, blank to begin with.
    """

    def __init__(self) -> None:
        self.drives = {"/dev/nst0": FakeDrive(), "/dev/nst1": FakeDrive()}
        self.large = Cartridge()
        self.small: list[Cartridge] = []
        self.number = 0
        self.mtx_lines = 0

    def open(self, path: str, *, read_only: bool) -> TapeDevice:
        self.do_as_mtx_was_told()
        return self.drives[path].open(path, read_only=read_only)

    def prepare(self, code: str) -> None:
        if "on_volume_full" in code:
            self.small = [Cartridge(3 * MIB, 2 * MIB) for _ in range(4)]
            self.drives["/dev/nst1"].swap(self.small[3])
        if "on_volume_full" in code or "on_next_volume" in code:
            self.load_small(0)
        else:
            self.drives["/dev/nst0"].swap(self.large)

    def check(self, code: str) -> None:
        if "on_volume_full" in code and "with TapeDrive(" in code:
            assert len([cartridge for cartridge in self.small if cartridge.blocks]) == 2

    def load_small(self, number: int) -> None:
        self.number = number
        self.drives["/dev/nst0"].swap(self.small[number])

    def ask(self, prompt: str) -> str:
        self.load_small(self.number + 1)
        return ""

    def do_as_mtx_was_told(self) -> None:
        log = Path("mtx.log")
        lines = log.read_text().splitlines() if log.exists() else []
        for line in lines[self.mtx_lines :]:
            if loads := re.fullmatch(r"-f /dev/sg3 load (\d) 0", line):
                self.load_small(int(loads[1]) - 1)
            else:
                assert line == "-f /dev/sg3 unload"
        self.mtx_lines = len(lines)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> TapeLibrary:
    library = TapeLibrary()

    class Drive(tape.TapeDrive):
        __init__ = partialmethod(tape.TapeDrive.__init__, open_device=library.open)

    # Loaded now: it keeps the drive of this moment as a default, for all tests after this one.
    importlib.import_module("tapestream.fleet.fleet")
    monkeypatch.setattr(tape, "TapeDrive", Drive)
    return library


@pytest.fixture
def own_signal_handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("in_tmp_path", "own_signal_handlers")
@each_page_with("python")
def test_examples_run(page: Path, daemon: ImageioDaemon, library: TapeLibrary) -> None:
    blocks = code_blocks(page, "python")
    with ExitStack() as stack:
        names = stack.enter_context(names_of_the_docs(daemon))
        if page.name == "servers.md":
            names |= stack.enter_context(names_of_other_servers())
        if page.name == "ovirt.md":
            pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")
            from .ovirt.examples import an_engine  # noqa: PLC0415 - it needs the SDK

            stack.enter_context(an_engine(daemon))
        if page.name == "fleet.md":  # tests/fleet/test_vm.py runs what it defines
            pytest.importorskip("distributed", reason="distributed is not installed")
            pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")
        names["input"] = library.ask
        for block in blocks:
            library.prepare(block.code)
            exec(block.compile(), names)
            library.check(block.code)
        cast(S3Client, names["s3"]).check()

    if uploads := [block.code for block in blocks if "upload_url" in block.code]:
        uploaded = "changed.qcow2" if "restore_chain" in uploads[-1] else "full.qcow2"
        compare_images(Path(uploaded), Path("restored.qcow2"))
    if any("RawImageSink(device" in block.code for block in blocks):
        compare_images(Path("full.qcow2"), Path("device"), b_format="raw")
    for block in blocks:
        for chain in re.findall(r'RawImageSink\("(chain.*?)"\)', block.code):
            compare_images(Path("changed.qcow2"), Path(chain), b_format="raw")


@each_page_with("py")
def test_examples_for_an_engine_compile(page: Path) -> None:
    for block in code_blocks(page, "py"):
        block.compile()


@pytest.mark.usefixtures("in_tmp_path")
@each_page_with("console")
def test_commands_show_what_the_examples_say(page: Path, daemon: ImageioDaemon) -> None:
    blocks = code_blocks(page, "console")
    with ExitStack() as stack:
        stack.enter_context(surroundings(daemon))
        if any("tapestream vm" in block.code for block in blocks):
            pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")
            stack.enter_context(an_engine(daemon))
        wrong = [
            f"{example.command}\n{shown}\n"
            for block in blocks
            for example in examples(block.code)
            if not is_as_shown(example, shown := shown_by(example.command))
        ]
    assert wrong == [], "\n".join(wrong)


# A backup that takes a minute. It stands in for the transfer of the examples.
SLOW_BACKUP = """
import sys, time
from pathlib import Path
from tapestream import Cancel, OperationCancelledError, TarStreamSink, copy
from tapestream.testing import MemorySource

def slowly(start, length):
    print("reading", flush=True)
    time.sleep(0.05)

def ImageioHTTPSource(url, cafile, cancel):
    return MemorySource(bytes(1200 * 4096), before_read=slowly)

def copy(src, dst, copy=copy, **options):
    return copy(src, dst, buffer_size=4096, buffer_memory=65536, max_workers=1, **options)

transfer_url = "https://host/images/ticket"
"""


def run_slowly(code: str, directory: Path) -> subprocess.Popen[str]:
    """Run code with the slow backup in a process of its own; return after it began to read."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BACKUP + code],
        cwd=directory,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    return process


def example_with(text: str) -> str:
    [block] = [
        block for page in PAGES for block in code_blocks(page, "python") if text in block.code
    ]
    return block.code


def test_a_terminated_process_leaves_nothing(tmp_path: Path) -> None:
    with run_slowly(example_with("signal.SIGTERM"), tmp_path) as process:
        began = time.monotonic()
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_task_ends_its_copy(tmp_path: Path) -> None:
    """In the process of a service: another task runs on meanwhile, and no thread is left."""
    definitions = example_with("asyncio.shield").split("\nresult = ")[0]
    code = f"""{definitions}
import threading

async def main():
    task = asyncio.create_task(back_up_async("disk.tar"))
    while not list(Path().glob(".disk.tar.*.partial")):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    task.cancel()
    began = time.monotonic()
    try:
        await task
    except asyncio.CancelledError:
        took = time.monotonic() - began
        print("ended", list(Path().iterdir()), took < 10, file=sys.stderr)
    print([t.name for t in threading.enumerate() if "tapestream" in t.name], file=sys.stderr)

asyncio.run(main())
"""
    with run_slowly(code, tmp_path) as process:
        assert process.communicate(timeout=30)[1] == "ended [] True\n[]\n"
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_demo_restores_identical_disks(tmp_path: Path) -> None:
    """Two VMs with two disks each, from a tape and from a folder."""
    said = run_example("demo.py", tmp_path)
    assert said.count("Images are identical.") == 8
    assert "over TLS" in said
    assert "Nothing is open in the engine." in said
    assert str(tmp_path / "backups") in said
    assert "tape VM0001: 8 of 9 tape files are backups" in said
    [tar] = (tmp_path / "backups").glob("mail_mail_Disk1_*_full.tar")
    with tapestream.TarStreamSource(tar) as src, tapestream.DiscardSink() as dst:
        assert tapestream.copy(src, dst).data_bytes > 32 * 1024**2


def test_the_shell_to_try_it_has_an_engine() -> None:
    said = run_example("try_it.py", sys.executable, "-m", "tapestream", "vm", "list")
    assert re.search(r"^mail +up ", said, re.MULTILINE)


def test_the_source_distribution_has_what_the_demo_needs() -> None:
    """What `make demo` reads there; README and LICENSE are always in it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [included] = re.findall(r"targets.sdist\]\ninclude = (\[.*?\])", text, re.DOTALL)
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    needed = {"Makefile", ".ci", "docs", "src"}
    assert ".ci/system-packages" in recipe
    assert "docs/examples/demo.py" in recipe
    assert needed <= {name.strip("/") for name in ast.literal_eval(included)}


def test_week_restores_the_disk_of_wednesday(tmp_path: Path) -> None:
    said = run_example("week.py", tmp_path)
    assert "the restored disk is Wednesday's." in said
    assert "ChainError: no backup leads from" in said
    full, *incremental = sorted(tmp_path.iterdir())
    assert [tar.name for tar in incremental] == [f"2026-02-0{day}.tar" for day in range(2, 8)]
    assert full.stat().st_size > 4 * max(tar.stat().st_size for tar in incremental)


def run_example(name: str, *arguments: str | Path) -> str:
    """Run an example that needs nothing but what the tests need; what it printed."""
    example = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "docs" / "examples" / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert example.returncode == 0, example.stderr
    assert example.stderr == ""
    return example.stdout


@each_page_with("sh")
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for block in code_blocks(page, "sh"):
        assert set(re.findall(r"^make (\w+)", block.code, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_import_only_what_is_public(page: Path) -> None:
    packages = ("archive", "backend", "display", "errors", "fleet", "ovirt", "tape", "testing")
    public = {"tapestream", *(f"tapestream.{name}" for name in packages)}
    for language in ("python", "py"):
        for block in code_blocks(page, language):
            for node in ast.walk(ast.parse(block.code)):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tapestream"):
                    assert node.module in public
                    names = getattr(sys.modules[str(node.module)], "__all__", dir(errors))
                    assert {alias.name for alias in node.names} <= {*names, "errors", "tape"}


def test_readme_names_the_commands_to_begin_with() -> None:
    commands = "".join(block.code for block in code_blocks(README, "sh")).splitlines()
    assert {"make demo", "make test"} <= set(commands)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    prose = without_code(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_a_notebook_is_stored_without_what_it_has_shown(notebook: Path) -> None:
    """`make notebooks` runs it, and the site has what it shows then. Its links lead somewhere."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs"), "clear its outputs before it is committed"
        assert cell.get("execution_count") is None
        for target in re.findall(r"\]\(([^)\s]+)\)", "".join(cell["source"])):
            assert (notebook.parent / target).exists(), target


def test_a_picture_of_a_notebook_has_its_words() -> None:
    """`jupyter nbconvert` makes "svg" of them in a page."""
    named = runpy.run_path(str(ROOT / "docs/build_site.py"))["with_words_of_pictures"]
    pictures: list[dict[str, Any]] = [
        {"data": {"image/svg+xml": "<svg/>"}, "metadata": {"image/svg+xml": {"alt": words}}}
        for words in ("two bars", r"a \1 line")
    ]
    cells = [{"source": []}, {"outputs": [{"text": ["x"]}, *pictures]}]
    page = "![svg](a.svg)\n\n    ![svg](no picture)\n![svg](b.svg)\n"
    assert named(page, json.dumps({"cells": cells})) == (
        "![two bars](a.svg)\n\n    ![svg](no picture)\n![a \\1 line](b.svg)\n"
    )
    pictures[1]["metadata"] = {}
    with pytest.raises(KeyError):
        named(page, json.dumps({"cells": cells}))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "pyproject.toml"], ids=name_of)
def test_projects_are_linked_not_registries(page: Path) -> None:
    """Where a package is published may change; the project says where."""
    assert not re.search(r"\b(pypi|pythonhosted)\b", page.read_text(encoding="utf-8"))


def without_code(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_error_is_explained() -> None:
    table = (ROOT / "docs" / "how-to" / "errors.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\|[^`|]*`(\w+Error)`", table, re.MULTILINE)
    classes = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TapestreamError)
    ]
    assert set(classes) - {"TapestreamError"} == set(explained)


def test_the_name_of_a_service_is_the_name_of_its_vm() -> None:
    """systemd makes "mail/1" of "mail-1" where a unit says `%I`."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    units = re.findall(r"^```ini\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert any("vm incremental %i " in unit for unit in units)
    assert not any("%I" in unit for unit in units)
