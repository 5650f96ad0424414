"""Imports point downwards only: which folder may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import tapestream

ROOT = Path(tapestream.__file__).parent
# Every folder may import these, and itself.
COMMON = {"errors", "arguments", "cancel", "_version", "_lazy", "_log", "_typing", "_process"}
# Words for people; and `_shown` finds `display`, which is above all others, by its name.
COMMON |= {"_readable", "_shown", "_table"}
# Folders, and single modules of them, that a folder may import besides.
ALLOWED = {
    "model": set(),
    "backend": {"model"},
    "engine": {"model", "backend"},
    "imageio": {"model", "backend"},
    "files": {"model", "backend", "tar.medium"},
    "drive": set(),
    "tar": {"model", "backend"},
    "tape": {"model", "backend", "files", "tar", "drive"},
    "stream": {"model", "backend", "files", "tar", "tape", "drive"},
    "workflows": {"model", "backend", "engine"},
    "archive": {"model", "backend", "files", "tar", "tape", "stream"},
    "testing": {"model", "backend", "engine", "drive"},
    "fleet": set(),
    "ovirt": set(),
    "cli": set(),
    "display": set(),
}
# These are programs: they use the public names only, as any other program does.
PROGRAMS = {"cli", "display", "fleet", "ovirt"}
PUBLIC = {"tapestream"} | {
    f"tapestream.{name}"
    for name in ("archive", "backend", "display", "errors", "fleet", "ovirt", "tape", "testing")
}
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
# These do not keep their rule yet.
KNOWN: set[str] = set()


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of ours that a module imports, as in "tar.medium"; "" is the package."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            if node.module:
                yield module
            else:
                yield from (f"{module}.{name.name}".strip(".") for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tapestream"):
            yield str(node.module).removeprefix("tapestream").strip(".")


def is_allowed(folder: str, module: str) -> bool:
    first = module.partition(".")[0]
    return first in {folder, *COMMON} or first in ALLOWED[folder] or module in ALLOWED[folder]


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, marks=pytest.mark.xfail(strict=True) if folder in KNOWN else ())
        for folder in FOLDERS
    ],
)
def test_imports_point_downwards(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for module in imports(path)
        if not is_allowed(folder, module)
    ]
    assert wrong == []


def test_what_is_learnt_depends_on_nothing_else_of_the_engine() -> None:
    """So it can be tested with simulated servers alone."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((ROOT / "engine/learning").rglob("*.py"))
        for module in imports(path)
        if module.startswith("engine.") and not module.startswith("engine.learning.")
    ]
    assert wrong == []


def test_nobody_imports_the_package_itself() -> None:
    wrong = [str(path) for path in ROOT.rglob("*.py") if "" in imports(path)]
    assert wrong == []


@pytest.mark.parametrize("folder", sorted(PROGRAMS))
def test_programs_use_public_names_only(folder: str) -> None:
    """They say `import tapestream`, and then `tapestream.copy`: see `_lazy`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} uses {ast.unparse(node)}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in PUBLIC
        and f"{ast.unparse(node)}" not in PUBLIC
        and not _is_public(ast.unparse(node.value), node.attr)
    ]
    assert wrong == []


def _is_public(module: str, name: str) -> bool:
    names = getattr(import_module(module), "__all__", None)
    # `errors` has no list: its classes are public.
    return name in names if names is not None else name[0].isupper()


def test_a_package_does_not_import_its_modules() -> None:
    """Threads that import two of them would wait for each other: Python then breaks an import."""
    wrong = [
        f"{path.parent.name} imports {node.module}"
        for path in ROOT.glob("**/__init__.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.level and node.module != "_lazy"
    ]
    assert wrong == []


def test_every_folder_has_its_rule() -> None:
    assert set(FOLDERS) == set(ALLOWED)
