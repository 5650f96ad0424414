"""The reference is complete: the site shows each public docstring, and these explain everything."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / "api.md", *sorted((DOCS / "api").glob("*.md"))]
MODULES = ["", ".archive", ".backend", ".display", ".fleet", ".ovirt", ".tape", ".testing"]
# Only tapestream makes these: how they are made is not public.
MADE_BY_US = {"EngineConnection", "Extents", "FakeDrive", "VMBackup"}
# Fields for the double's own use.
INTERNAL = {"progress"}


def names_in_the_reference() -> list[str]:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    return re.findall(r"^::: (tapestream\S+)$", text, re.MULTILINE)


def public(name: str) -> Any:
    if name.startswith("tapestream.ovirt."):
        pytest.importorskip("ovirtsdk4", reason="oVirt's engine SDK is not installed")
    if name.startswith("tapestream.fleet."):
        pytest.importorskip("distributed", reason="distributed is not installed")
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def test_every_public_name_is_in_the_reference_once() -> None:
    names = names_in_the_reference()
    expected = {
        f"tapestream{end}.{name}"
        for end in MODULES
        for name in importlib.import_module(f"tapestream{end}").__all__
    }
    with_backends = {f"tapestream.{name}" for name in ("Reader", "Sink", "Source", "Writer")}
    assert with_backends <= expected
    assert sorted(names) == sorted(expected - with_backends)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_docstring_is_below_its_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^#+ (\w+)\n\n::: \S*\.(\w+)$", text, re.MULTILINE)
    assert found
    assert len(found) == text.count("\n::: ")
    assert all(heading == name for heading, name in found)


@pytest.mark.parametrize("name", names_in_the_reference())
def test_every_argument_and_field_is_explained(name: str) -> None:
    described = public(name)
    text = inspect.getdoc(described) or ""
    assert text
    missing = [
        argument
        for argument in arguments_and_fields(described)
        if not re.search(rf"^ +\*{{0,2}}{argument}: |`{argument}`", text, re.MULTILINE)
    ]
    assert missing == []


def arguments_and_fields(described: Any) -> list[str]:
    if described.__name__ in MADE_BY_US:
        return []
    if dataclasses.is_dataclass(described):
        names = [field.name for field in dataclasses.fields(described)]
    elif inspect.isclass(described) and issubclass(described, enum.Enum):
        names = []
    elif inspect.isclass(described) and issubclass(described, tuple):
        names = list(get_type_hints(described))
    else:
        names = list(inspect.signature(described).parameters)
    return [n for n in names if not n.startswith("_") and n not in {"args", "kwargs", *INTERNAL}]


@pytest.mark.parametrize("name", names_in_the_reference())
def test_every_member_has_a_docstring(name: str) -> None:
    described = public(name)
    members = vars(described) if inspect.isclass(described) else {}
    silent = [
        member
        for member, value in members.items()
        if not member.startswith("_")
        and (callable(value) or isinstance(value, (property, classmethod, staticmethod)))
        and not inspect.getdoc(getattr(described, member))
    ]
    assert silent == []
