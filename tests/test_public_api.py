"""No name, signature, command or option changes unnoticed; `make api` accepts a change."""

from __future__ import annotations

import pytest

from . import public_api

pytest.importorskip("ovirtsdk4", reason="the names of tapestream.ovirt need oVirt's engine SDK")


def test_nothing_public_has_changed() -> None:
    changes = public_api.difference()
    assert not changes, (
        f"{changes}\nIf this is meant: `make api`, and a line in CHANGELOG.md and docs/upgrading.md"
    )
