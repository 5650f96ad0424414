"""The clauses of the kit are those in docs/own-backend.md, word for word."""

from __future__ import annotations

import re
from pathlib import Path

from tapestream.testing.kit.sink import SINK_CLAUSES
from tapestream.testing.kit.source import SOURCE_CLAUSES

PAGE = Path(__file__).parents[2] / "docs" / "own-backend.md"
ROW = re.compile(r'^\| <a id="(.+?)"></a>`\1` \| (.+) \|$', re.MULTILINE)


def test_the_page_has_all_clauses_of_a_sink() -> None:
    rows = [row for row in ROW.findall(PAGE.read_text()) if row[0].startswith("sink-")]
    assert rows == [(clause.id, clause.says) for clause in SINK_CLAUSES]


def test_the_page_has_all_clauses_of_a_source() -> None:
    rows = [row for row in ROW.findall(PAGE.read_text()) if row[0].startswith("source-")]
    assert rows == [(clause.id, clause.says) for clause in SOURCE_CLAUSES]
