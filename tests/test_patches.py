"""No test patches a name of ours by path: what a test must change is an argument."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Patches that are left, by file; take out what is mended.
KNOWN: dict[str, set[str]] = {
    "engine/test_pipeline.py": {
        "tapestream.engine.pipeline.ANNOUNCED",
        "tapestream.engine.pipeline.WRITER_DIGESTS",
    },
    "imageio/conftest.py": {"Tries.first_pause", "Tries.longest_pause"},
    "imageio/test_cancel.py": {"Endpoint.connect", "Tries.first_pause", "Tries.longest_pause"},
    "imageio/test_hostile_upload.py": {"sink_module.WARM_UP_FROM"},
    "imageio/test_many_ranges.py": {
        "Connection.largest_reply",
        "Exchange.connect",
        "queries.LARGEST_LIST",
    },
    "imageio/test_real_daemon.py": {"Connection.is_local"},
    "tape/conftest.py": {"position.LOAD_SECONDS", "position.POLL_SECONDS"},
    "tape/test_volumes.py": {
        "tapestream.drive.position.LOAD_SECONDS",
        "tapestream.drive.position.POLL_SECONDS",
    },
    "test_docs.py": {"tape.TapeDrive"},
    "test_interrupts.py": {"AtomicFile.abort"},
    "workflows/test_verify_headers.py": {"tapestream.tar.format.MAX_ATTACHMENTS"},
}


def names_of_ours(tree: ast.AST) -> Iterator[str]:
    """The names by which a file knows what it imports from us."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "tapestream":
                    yield alias.asname or "tapestream"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tapestream"):
            yield from (alias.asname or alias.name for alias in node.names)


def patches(text: str) -> Iterator[str]:
    """What a file patches: `setattr(module, name, ...)`, `patch.object(...)`, `patch(path)`."""
    tree = ast.parse(text)
    ours = set(names_of_ours(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = ast.unparse(node.func)
        if called.rpartition(".")[2] not in ("setattr", "patch", "object", "setitem", "dict"):
            continue
        path = path_of(node.args[0])
        if path.split(".")[0] in {"tapestream", *ours}:
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(name, ast.Constant) and not is_text(node.args[0]):
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
    assert found <= KNOWN.get(str(path.relative_to(TESTS)), set())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('patch.setattr("tapestream.tar.writer.SIZE", 1)', "tapestream.tar.writer.SIZE"),
        ('patch.setattr(f"tapestream.tar.{name}", 1)', "tapestream.tar."),
        ("from tapestream.tar import writer\np.setattr(writer, 'X', 1)", "writer.X"),
        ("from tapestream.tar import writer as w\nsetattr(w, 'X', 1)", "w.X"),
        ("import tapestream\np.setattr(tapestream.tar.writer, 'X', 1)", "tapestream.tar.writer.X"),
        ("from tapestream import copy\nmock.patch.object(copy, 'X')", "copy.X"),
        ("import os\np.setattr(os, 'write', 1)", None),
        ("p.setattr(device, 'command', 1)", None),
    ],
)
def test_such_a_patch_is_found(text: str, found: str | None) -> None:
    assert list(patches(text)) == ([found] if found else [])
