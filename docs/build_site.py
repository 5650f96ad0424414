"""Build the site from the pages of this folder, and from those at the top of the repository.

Usage: build_site.py

The pages are written so that their links work where the source is browsed. On the site, pages are
in other places: this puts them together in build/site/pages, with links that lead there. Zensical
makes build/site/html of them. A link that leads nowhere fails the build. The notebooks, with what
they have shown, come from build/notebooks, where `make notebooks` puts them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BUILD = ROOT / "build" / "site"
NOTEBOOKS = ROOT / "build" / "notebooks"
WIDTH = 80  # of a signature
NOT_PAGES = {"mkdocs.yml", "build_site.py", "__pycache__", ".ipynb_checkpoints"}
AT_THE_TOP = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def places() -> dict[Path, Path]:
    """Where each file of the repository is on the site, below the pages."""
    found = {ROOT / name: Path(name.lower()) for name in AT_THE_TOP}
    for file in sorted(DOCS.rglob("*")):
        within = file.relative_to(DOCS)
        if file.is_file() and not NOT_PAGES & set(within.parts):
            is_made = is_program(file) or is_notebook(file)
            found[file] = within.with_suffix(".md") if is_made else within
    return found


def is_program(file: Path) -> bool:
    """Whether a file is an example that becomes a page."""
    return file.suffix == ".py"


def is_notebook(file: Path) -> bool:
    """Whether a file is a notebook, which becomes a page when it has run."""
    return file.suffix == ".ipynb"


def program_page(program: Path) -> str:
    """Show a program as a page."""
    code = program.read_text(encoding="utf-8")
    return f"# {program.name}\n\n```python\n{code}```\n"


def with_words_of_pictures(text: str, notebook: str) -> str:
    """The text of a notebook's page. Its pictures have the words that the notebook shows them with.

    Raises:
        KeyError: A picture has none.
    """
    words = iter(
        [
            output["metadata"]["image/svg+xml"]["alt"]
            for cell in json.loads(notebook)["cells"]
            for output in cell.get("outputs", ())
            if "image/svg+xml" in output.get("data", {})
        ]
    )
    return re.sub(r"^!\[svg\]", lambda _: f"![{next(words)}]", text, flags=re.MULTILINE)


def with_links_of_the_site(text: str, page: Path, found: dict[Path, Path]) -> str:
    """The text of a page. Links to what is not on the site become plain text."""

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if ":" in target or not path:
            return match[0]
        if there not in found:
            return words if there.exists() else match[0]
        here = found[page].parent
        return f"[{words}]({os.path.relpath(found[there], here)}{hash_sign}{anchor})"

    def outside_code(part: str) -> str:
        return part if part.startswith("```") else re.sub(r"\[([^]]*)\]\(([^)\s]+)\)", link, part)

    blocks = re.split(r"^(```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(map(outside_code, blocks))


def with_signatures(text: str) -> str:
    """The text of a page. Before each docstring with arguments, it says how the name is called."""

    def called(match: re.Match[str]) -> str:
        module, _, name = match[1].rpartition(".")
        thing = getattr(importlib.import_module(module), name)
        if "Args:" not in (inspect.getdoc(thing) or ""):
            return match[0]
        return f"```python\n{signature(name, thing)}\n```\n\n{match[0]}"

    return re.sub(r"^::: (\S+)$", called, text, flags=re.MULTILINE)


def signature(name: str, thing: Callable[..., object]) -> str:
    """How a function, or a class, is called: the arguments with their defaults, without types."""
    arguments = [
        argument.replace(annotation=inspect.Parameter.empty)
        for argument in inspect.signature(thing).parameters.values()
    ]
    within = str(inspect.Signature(arguments))[1:-1]
    if len(name) + len(within) < WIDTH:
        return f"{name}({within})"
    lines = textwrap.fill(within, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{name}(\n{lines}\n)"


def put_together() -> None:
    """Make build/site/pages anew."""
    shutil.rmtree(BUILD, ignore_errors=True)
    found = places()
    for file, place in found.items():
        target = BUILD / "pages" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_program(file):
            target.write_text(program_page(file), encoding="utf-8")
        elif target.suffix == ".md":
            page = NOTEBOOKS / target.name if is_notebook(file) else file
            text = page.read_text(encoding="utf-8")
            if is_notebook(file):
                ran = NOTEBOOKS / file.name
                text = with_words_of_pictures(text, ran.read_text(encoding="utf-8"))
            text = with_signatures(with_links_of_the_site(text, file, found))
            target.write_text(text, encoding="utf-8")
        else:
            shutil.copy(file, target)
    for pictures in NOTEBOOKS.glob("*_files"):
        shutil.copytree(pictures, BUILD / "pages" / "notebooks" / pictures.name)
    shutil.copy(DOCS / "mkdocs.yml", BUILD)


def main() -> int:
    """Build the site; the exit status of Zensical."""
    put_together()
    zensical = Path(sys.executable).with_name("zensical")
    build = subprocess.run([zensical, "build", "--strict"], cwd=BUILD, check=False)
    if build.returncode == 0:
        print("To see it at http://localhost:8000: python3 -m http.server -d build/site/html")
    return build.returncode


if __name__ == "__main__":
    sys.exit(main())
