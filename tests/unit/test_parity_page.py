"""What the pages about pf-workflow-core name is there: tests of ours, and public names."""

from __future__ import annotations

import ast
import re
from itertools import pairwise

import pytest

import pfw
from helpers import ROOT

_TEST = re.compile(r"`(\w+/test_\w+\.py)::(test_\w+)`")
#: A class, alone or with its arguments.
_CLASS = re.compile(r"`([A-Z][a-z]\w*)[(`]")
_BENCH = re.compile(r"`scripts/bench (\w+)`")


def rows(page: str) -> list[str]:
    """The rows of a page's tables, without their heads."""
    lines = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    return [line for above, line in pairwise(lines) if line.startswith("| ") and above.startswith("|")]


@pytest.mark.parametrize("row", rows("parity.md"), ids=lambda row: "/".join(row.split("|")[1:3]))
def test_a_row_names_what_shows_it_or_says_that_it_is_missing(row: str) -> None:
    tests, benches = _TEST.findall(row), _BENCH.findall(row)
    assert tests or benches or "not yet" in row
    for file, name in tests:
        tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name
    for name in benches:
        assert (ROOT / "benches" / f"{name}.py").is_file(), name


@pytest.mark.parametrize("row", rows("coming-from-pf-workflow-core.md"), ids=lambda row: row.split("|")[1])
def test_the_names_of_the_crate_are_translated_into_public_ones(row: str) -> None:
    for name in _CLASS.findall(row.split("|")[2]):
        assert name in pfw.__all__
