"""The public names: loaded when first used, the same for everybody, and known to type checkers."""

from __future__ import annotations

import ast
import importlib
import pickle
import pydoc
import re
import subprocess
import sys
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import tapestream
import tapestream.archive
import tapestream.backend
import tapestream.display
import tapestream.fleet
import tapestream.ovirt
import tapestream.tape
import tapestream.testing

PACKAGES = (
    tapestream,
    tapestream.archive,
    tapestream.backend,
    tapestream.display,
    *([tapestream.fleet] if find_spec("distributed") else []),
    # Its modules need oVirt's engine SDK, which is built from source.
    *([tapestream.ovirt] if find_spec("ovirtsdk4") else []),
    tapestream.tape,
    tapestream.testing,
)
NAMES = [(package.__name__, name) for package in PACKAGES for name in package.__all__]
# What a program that only imports us need not pay for, with our own modules that need it.
EXPENSIVE = {
    "asyncio",
    "ctypes",
    "dataclasses",
    "email",
    "fcntl",
    "hashlib",
    "http",
    "inspect",
    "json",
    "logging",
    "ovirt_imageio",
    "socket",
    "sqlite3",
    "ssl",
    "typing_extensions",
    "urllib",
    "urllib3",
}
EACH_ALONE = """
import importlib, os, sys, tapestream
for package, names in {modules}:
    if (pid := os.fork()) == 0:
        try:
            for name in names:
                value = getattr(importlib.import_module(package), name)
                assert name in getattr(value, "__name__", name), value
            if logging := sys.modules.get("logging"):  # it prints nothing unless it is set up
                assert logging.getLogger("tapestream").hasHandlers()
        except BaseException as e:
            sys.stderr.write(f"{{package}}.{{name}}: {{e!r}}\\n")
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, names
"""
MANY_THREADS = """
import random, threading, tapestream, tapestream.tape
names = [(package, name) for package in (tapestream, tapestream.tape) for name in package.__all__]
start, found, failed = threading.Barrier(8), [{} for _ in range(8)], []
def load(seed):
    mine = random.Random(seed).sample(names, len(names))
    start.wait()
    try:
        for package, name in mine:
            found[seed][name] = getattr(package, name)
    except BaseException as e:
        failed.append(f"{name}: {e!r}")
threads = [threading.Thread(target=load, args=(seed,)) for seed in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
for name in found[0]:
    assert len({id(each[name]) for each in found}) == 1, name
"""


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def type_checked(package: ModuleType) -> dict[str, str]:
    """The names that a type checker finds, with the modules that it takes them from."""
    tree = ast.parse(Path(str(package.__file__)).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        if node.module is not None:
            found.update({alias.name: "." * node.level + node.module for alias in node.names})
    return found


def table(package: ModuleType) -> dict[str, str]:
    """The names that are loaded when they are used, with their modules."""
    tree = ast.parse(Path(str(package.__file__)).read_text())
    [modules] = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    found = [
        (name, module)
        for module, names in ast.literal_eval(modules).items()
        for name in names.split()
    ]
    assert Counter(name for name, _ in found).most_common(1)[0][1] == 1
    return dict(found)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_see_what_is_loaded(package: ModuleType) -> None:
    assert table(package) == type_checked(package)
    assert sorted(package.__all__) == sorted(table(package))
    assert set(package.__all__) <= set(dir(package))
    for name, module in table(package).items():
        home = importlib.import_module(module, package.__name__)
        assert getattr(package, name) is getattr(home, name)


def test_a_program_that_mypy_checks_uses_every_name() -> None:
    program = Path(__file__).with_name("public_names.py")
    used = [node.attr for node in ast.walk(ast.parse(program.read_text())) if hasattr(node, "attr")]
    assert {name for _, name in NAMES} <= set(used)


def test_the_bare_import_loads_nothing_expensive() -> None:
    loaded = run("import sys, tapestream; print(*sys.modules)").split()
    assert EXPENSIVE.isdisjoint(loaded)
    ours = {name for name in loaded if name.startswith("tapestream")}
    assert ours == {"tapestream", "tapestream._lazy"}


def test_a_backup_into_a_file_loads_nothing_of_tapes() -> None:
    code = (
        "import sys, tempfile, os, tapestream\n"
        "tapestream.ImageioHTTPSource, tapestream.copy\n"
        "with tempfile.TemporaryDirectory() as here:\n"
        "    tapestream.TarStreamSink(os.path.join(here, 'disk.tar')).close()\n"
        "print(*sys.modules)"
    )
    loaded = run(code).split()
    assert "tapestream.imageio.connection" in loaded
    assert not [name for name in loaded if name.startswith("tapestream.tape")]
    assert {"ctypes", "platform", "sqlite3", "urllib3", "uuid"}.isdisjoint(loaded)


def test_a_backup_loads_only_what_it_uses() -> None:
    """The import is most of the time that an incremental backup of few changes takes."""
    code = (
        "import sys\n"
        "from tapestream import ImageioHTTPSource, TarStreamSink, copy\n"
        "print(*sys.modules)"
    )
    unused = {
        "logging",
        "tapestream.engine.hashing",
        "tapestream.engine.status",
        "tapestream.model.damage",
        "tapestream.tar.reader",
    }
    assert unused.isdisjoint(run(code).split())


def test_the_names_of_each_module_can_be_loaded_alone() -> None:
    modules = []
    for package in PACKAGES:
        homes = defaultdict(list)
        for name, module in table(package).items():
            homes[module].append(name)
        modules += [(package.__name__, names) for names in homes.values()]
    run(EACH_ALONE.format(modules=modules))


def test_threads_that_load_names_together_get_the_same() -> None:
    run(MANY_THREADS)


def test_functions_are_not_hidden_by_modules_of_their_name() -> None:
    run(
        "import types, tapestream.engine.copy, tapestream.workflows.verify\n"
        "import tapestream.workflows.compare, tapestream\n"
        "for name in ('copy', 'verify', 'compare'):\n"
        "    assert isinstance(getattr(tapestream, name), types.FunctionType), name"
    )


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from tapestream import *", names)
    assert names["copy"] is tapestream.copy
    assert set(tapestream.__all__) == set(names) - {"__builtins__"}


def test_public_submodules_need_no_import_of_their_own() -> None:
    run(
        "import tapestream\n"
        "tapestream.errors.TicketError, tapestream.tape.Catalog, tapestream.testing.ImageioDaemon"
    )


def test_help_shows_the_names() -> None:
    text = pydoc.plain(pydoc.render_doc(tapestream))
    assert "class ImageioHTTPSource" in text
    assert re.search(r"\bcopy\(\s*src: ", text)  # each on a line of its own since Python 3.13


def test_values_are_pickled() -> None:
    extent = tapestream.Extent(0, 4096)
    assert pickle.loads(pickle.dumps(extent)) == extent
    assert pickle.loads(pickle.dumps(tapestream.copy)) is tapestream.copy
    assert run(f"import pickle; print(pickle.loads({pickle.dumps(extent)!r}).length)") == "4096\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    for package in PACKAGES:
        with pytest.raises(AttributeError, match=f"{package.__name__!r} has no attribute 'nope'"):
            package.nope  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nope'"):
        exec("from tapestream import nope")
