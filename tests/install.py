"""Install a wheel into empty environments, and run README's example there: `make test-install`.

For each version of Python that is here, and each extra alone. The daemon, which the example needs,
runs outside, in the environment of this program.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapestream.testing import ImageioDaemon

from .test_docs import README, code_blocks, names_of_the_docs

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# What each extra is for, and a program that needs it.
EXTRAS = {
    "": "import tapestream.tape",
    "cli": "import rich, shtab",
    "fleet": "import tapestream.fleet as f; f.run_fleet, f.Fleet",
    "ovirt": "import tapestream.ovirt as o; o.connect, o.back_up_vm, o.restore_vm",
    "testing": "import pathlib, tempfile, tapestream.testing as t\n"
    "with t.ImageioDaemon(pathlib.Path(tempfile.mkdtemp())) as daemon: daemon.pid",
}


def pythons() -> dict[str, str | None]:
    """A Python of each version, if there is one: on the path, of pyenv or uv, or a newer one."""
    return {version: next(candidates(version), None) for version in VERSIONS}


def candidates(version: str) -> Iterator[str]:
    home = Path.home()
    found = [
        shutil.which(f"python{version}"),
        *home.glob(f".pyenv/versions/{version}.*/bin/python"),
        *home.glob(f".cache/tapestream-python/{version}/usr/bin/python{version}"),
        *home.glob(f".local/share/uv/python/cpython-{version}.*/bin/python"),
    ]
    ask = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for path in found:
        if path is not None:
            done = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                yield str(path)


@contextmanager
def empty_directory() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def check(python: str, wheel: Path, extra: str) -> None:
    """Raises CalledProcessError, whose output is shown already."""
    with empty_directory():
        subprocess.run([python, "-m", "venv", "venv"], check=True)
        inside = str(Path("venv/bin/python").absolute())
        pip = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", f"{wheel}[{extra}]" if extra else wheel], check=True)
        # Nothing of this environment, and of the tree that it is installed from, may be found.
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([inside, "-I", "-W", "error", "-c", EXTRAS[extra]], check=True, env=clean)
        subprocess.run(
            ["venv/bin/tapestream", "--version"], check=True, env=clean, stdout=subprocess.DEVNULL
        )
        Path("imageio").mkdir()
        with ImageioDaemon(Path("imageio")) as daemon, names_of_the_docs(daemon) as names:
            given = {name: value for name, value in names.items() if name != "s3"}
            program = [f"globals().update({json.dumps(given)})"]
            program += [block.code for block in code_blocks(README, "python")]
            Path("example.py").write_text("\n".join(program))
            subprocess.run(
                [inside, "-I", "-W", "error", "example.py"],
                check=True,
                env=clean,
                stdout=subprocess.DEVNULL,
            )


def main(wheel: Path) -> int:
    failed = 0
    skipped = []
    for version, python in pythons().items():
        if python is None:
            skipped.append(version)
            continue
        for extra in EXTRAS:
            what = f"Python {version}, {f'[{extra}]' if extra else 'no extra'}"
            try:
                check(python, wheel, extra)
            except subprocess.CalledProcessError as e:
                failed += 1
                print(f"FAILED {what}: {e}", flush=True)
            else:
                print(f"passed {what}", flush=True)
    for version in skipped:
        print(f"SKIPPED Python {version}: it is not on this machine", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
