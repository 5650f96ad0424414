"""Type checkers accept the examples of the documentation and the code that users write.

The blocks of a page are one program, as in `test_docs.py`, and each keeps its line: an error shows
the line of the page. `vendor.py` is what programs that embed us write; mypy checks it with the
other tests.
"""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import tapestream
import tapestream.archive
import tapestream.backend
import tapestream.errors
import tapestream.ovirt
import tapestream.tape
import tapestream.testing

from .test_docs import PAGES, code_blocks

ROOT = Path(__file__).parents[1]
SOURCE = Path(tapestream.__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"  # pages import kubevirt.py
# The names that the examples are given, with their types; `test_docs.py` gives them.
GIVEN = """\
from typing import Any
transfer_url: str
proxy_url: str
dirty_url: str
upload_url: str
disks: dict[str, str]
device: str
onebex_url: str
cloudstack_url: str
cloudstack_restore_url: str
map_url: str
data_url: str
token: str
s3: Any
"""


@pytest.fixture
def programs(tmp_path: Path) -> list[Path]:
    """The examples of each page, as a program."""
    (tmp_path / "given.pyi").write_text(GIVEN)
    found = []
    for page in PAGES:
        lines = ["from given import *"]
        for block in code_blocks(page, "python"):
            lines += [""] * (block.line - len(lines)) + block.code.splitlines()
        if len(lines) > 1:
            name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
            found.append(tmp_path / f"{name}.py")
            found[-1].write_text("\n".join(lines) + "\n")
    return found


def check(*command: object, inside: Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], cwd=inside, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_accepts_the_examples(programs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(
        # The blocks of a page use the same names, such as src, for different classes.
        f"[mypy]\nstrict = true\nallow_redefinition = true\nmypy_path = {SOURCE}:{EXAMPLES}\n"
        # oVirt's engine SDK has no types.
        "[mypy-ovirtsdk4.*]\nignore_missing_imports = true\n"
        # Half of it has no types.
        "[mypy-distributed.*]\nfollow_imports = skip\nignore_missing_imports = true\n"
    )
    check(sys.executable, "-m", "mypy", *programs, inside=tmp_path)


def pyright() -> str | None:
    """The command, if it works: its package loads the program itself when it is first used."""
    found = shutil.which("pyright", path=Path(sys.executable).parent) or shutil.which("pyright")
    if found is None:
        return None
    try:
        subprocess.run([found, "--version"], capture_output=True, check=True, timeout=120)
    except subprocess.SubprocessError:
        return None
    return found


def test_pyright_accepts_the_examples_and_the_code_of_users(
    programs: list[Path], tmp_path: Path
) -> None:
    command = pyright()
    if command is None:
        pytest.skip("pyright is not installed")
    (tmp_path / "pyrightconfig.json").write_text(
        f'{{"extraPaths": ["{SOURCE}", "{EXAMPLES}", "{ROOT}"], "pythonVersion": "3.10",'
        '"typeCheckingMode": "strict", "reportMissingModuleSource": false, '
        # oVirt's engine SDK has no types; the last line of a notebook's cell shows its value.
        '"reportMissingTypeStubs": false, "reportUnusedExpression": false}'
    )
    for name in ("vendor.py", "public_names.py"):
        shutil.copy(Path(__file__).with_name(name), tmp_path)
    check(command, "--pythonpath", sys.executable, inside=tmp_path)


def public_callables() -> Iterator[tuple[str, object]]:
    """Every public function and class, and every public method that we define."""
    packages = (
        tapestream,
        tapestream.archive,
        tapestream.backend,
        *([tapestream.ovirt] if find_spec("ovirtsdk4") else []),
        tapestream.tape,
        tapestream.testing,
    )
    found: dict[str, object] = {
        f"{package.__name__}.{name}": getattr(package, name)
        for package in packages
        for name in package.__all__
        if not isinstance(getattr(package, name), ModuleType)
    }
    found |= {f"errors.{name}": each for name, each in vars(tapestream.errors).items()}
    for name, each in found.items():
        if not getattr(each, "__module__", "").startswith("tapestream"):
            continue
        yield name, each
        for base in inspect.getmro(each) if inspect.isclass(each) else ():
            if base.__module__.startswith("tapestream"):
                yield from members(base)


def members(described: type) -> Iterator[tuple[str, object]]:
    for name, member in vars(described).items():
        if name.startswith("_") and not name.startswith("__"):
            continue
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if inspect.isfunction(function):
            yield f"{described.__module__}.{described.__qualname__}.{name}", function


def test_type_hints_can_be_read_at_run_time() -> None:
    """As libraries do that check or convert arguments by their annotations."""
    failed = {}
    names = 0
    for name, each in public_callables():
        names += 1
        try:
            typing.get_type_hints(each)
        except Exception as e:  # noqa: BLE001 - whatever it is
            if sys.version_info < (3, 11) and "InitVar" in repr(e):
                continue  # Python 3.10 itself cannot read one
            if sys.version_info >= (3, 14) and getattr(each, "__name__", "") == "__new__":
                continue  # Python 3.14 itself cannot read the one of a NamedTuple
            failed[name] = repr(e)
    assert failed == {}
    assert names > 400
