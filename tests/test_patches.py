"""No test patches a module of ours: what a test must change is an argument, or a default."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from inspect import isclass
from pathlib import Path

import pytest

import tapestream

TESTS = Path(__file__).parent
# The examples in the docs take a drive by its path alone, as a reader types them.
ALLOWED = {"test_docs.py": {"tape.TapeDrive"}}


def ours(tree: ast.AST) -> Iterator[tuple[str, object]]:
    """What a file imports from us, by the names that it has there."""
    yield "tapestream", tapestream
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname and alias.name.startswith("tapestream"):
                    yield alias.asname, import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tapestream"):
            for alias in node.names:
                found = getattr(import_module(node.module or ""), alias.name, None)
                yield alias.asname or alias.name, found


def patches(text: str) -> Iterator[str]:
    """What a file patches: `setattr(module, name, ...)`, `patch.object(...)`, `patch(path)`.

    A public attribute of a class is one of its defaults, and may be set.
    """
    tree = ast.parse(text)
    known = dict(ours(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if ast.unparse(node.func).rpartition(".")[2] not in ("setattr", "patch", "object"):
            continue
        path = path_of(node.args[0])
        if path.split(".")[0] not in known:
            continue
        name = node.args[1] if len(node.args) > 1 else None
        if isinstance(name, ast.Constant) and not is_text(node.args[0]):
            if isclass(known.get(path)) and not str(name.value).startswith("_"):
                continue
            path += f".{name.value!s}"
        yield path


def is_text(node: ast.expr) -> bool:
    return isinstance(node, (ast.Constant, ast.JoinedStr))


def path_of(target: ast.expr) -> str:
    """What a patch is applied to; of an f-string, what is fixed of it."""
    if isinstance(target, ast.JoinedStr):
        return "".join(str(v.value) for v in target.values if isinstance(v, ast.Constant))
    return str(target.value) if isinstance(target, ast.Constant) else ast.unparse(target)


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_nothing_of_ours_is_patched(path: Path) -> None:
    found = set(patches(path.read_text(encoding="utf-8")))
    assert found == ALLOWED.get(str(path.relative_to(TESTS)), set())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('patch.setattr("tapestream.tar.writer.SIZE", 1)', "tapestream.tar.writer.SIZE"),
        ('patch.setattr(f"tapestream.tar.{name}", 1)', "tapestream.tar."),
        ("from tapestream.tar import writer\np.setattr(writer, 'X', 1)", "writer.X"),
        ("from tapestream.tar import writer as w\nsetattr(w, 'X', 1)", "w.X"),
        ("import tapestream\np.setattr(tapestream.tar.writer, 'X', 1)", "tapestream.tar.writer.X"),
        ("from tapestream import copy\nmock.patch.object(copy, 'X')", "copy.X"),
        ("from tapestream import Extent\np.setattr(Extent, '_kind', 1)", "Extent._kind"),
        ("from tapestream import Extent\np.setattr(Extent, 'kind', 1)", None),
        ("import os\np.setattr(os, 'write', 1)", None),
        ("p.setattr(device, 'command', 1)", None),
    ],
)
def test_such_a_patch_is_found(text: str, found: str | None) -> None:
    assert list(patches(text)) == ([found] if found else [])
