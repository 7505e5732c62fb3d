"""docs/parity.md names tests; this one sees that they are there."""

from __future__ import annotations

import ast
import re
from itertools import pairwise

import pytest

from helpers import ROOT

_TEST = re.compile(r"`(\w+/test_\w+\.py)::(test_\w+)`")
_BENCH = re.compile(r"`scripts/bench (\w+)`")


def rows() -> list[str]:
    """The rows of the page's tables, without their heads."""
    lines = (ROOT / "docs" / "parity.md").read_text("utf-8").splitlines()
    return [line for above, line in pairwise(lines) if line.startswith("| ") and above.startswith("|")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip() or row.split("|")[2].strip())
def test_a_row_names_what_shows_it_or_says_that_it_is_missing(row: str) -> None:
    tests, benches = _TEST.findall(row), _BENCH.findall(row)
    assert tests or benches or "not yet" in row
    for file, name in tests:
        tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name
    for name in benches:
        assert (ROOT / "benches" / f"{name}.py").is_file(), name
