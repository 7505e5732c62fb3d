from __future__ import annotations

import re
import subprocess
import sys

import pytest

from helpers import ROOT

#: {example: (its arguments, patterns of what its output must say)}
EXAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "basic_sequential.py": (
        [],
        [
            r"order: extract -> transform -> load",
            r"south says 'broken'",
            r"3 of 3 steps in ",
            r"means: {'north': 22.0, 'south': 30.0, 'east': 18.0}",
        ],
    ),
    "cancellation.py": (
        [],
        [
            r"^timeout\n  TIMED_OUT after [0-9]\.\d+ s: ",
            r"^    wait\[0\] +stopped itself after \d+ ms\n    wait\[1\] +stopped itself after \d+ ms",
            r"^    sleep +interrupted after \d+ ms\n    last +never started",
            r"^Ctrl-C\n  CANCELLED after [0-9]\.\d+ s: interrupted",
            r"^condition\n  CANCELLED after [0-9]\.\d+ s: search\[3\] has found it$",
            r"^    search\[3\] already done$",
            r"^  the answer is 3$",
            r"^graceful shutdown\n  CANCELLED after [0-9]\.\d+ s: SIGTERM$",
            r"^  saved: \d+ of 200 items\n  the next run completes them: 200$",
        ],
    ),
    "code_census.py": (["60"], [r"60 files", r"speed-up +\d"]),
    "digits_search.py": (
        [],
        [r"^C=10 +gamma=0.002 +0.9\d+$", r"best: {'C': .* recognises 97\.\d+%", r"same scores, same best"],
    ),
    "etl.py": ([], [r"lines written"]),
    "flights_etl.py": (
        [],
        [r"^336,776 flights joined", r"^fog +7,505 +9.2% +44.3% +30.2 min$", r"^Delta Air Lines", r"the same report"],
    ),
    "link_check.py": (
        [],
        [
            r"^(\d+) pages of Python's documentation\n\1 pages have [\d,]+ links; \d+ lead elsewhere .* broken:$",
            r"^  404  /builtins.html +on \d+ pages$",
            r"^\d+ steps in [\d.]+ s; one after another they would wait",
        ],
    ),
    # Eight times the pause in sequence; at the least twice as fast in parallel, however busy the machine is.
    "parallel_execution.py": ([], [r"^sequential +0.[89]", r"^speed-up +([2-9]|\d\d)\.\d+ +efficiency \d+%"]),
    "progress_tracking.py": (
        [],
        [
            r"^\[WORKFLOW\] Completed: measure\[4\]$",
            r"^\[WORKFLOW\] Failed: broken - ValueError: 30 is more than I can bear$",
            r"^FAILED; the sum is 30$",
            r"^statistics: 6 Completed, 1 Failed, 7 Queued, 1 Retrying, .* 1 Skipped, 8 Started$",
            r"^the function saw: flaky, measure\[0\], .* measure\[4\]$",
            r"^the file has: 6 completed, 1 failed, 7 queued, 1 retrying, .* 1 skipped, 8 started$",
            r'^its last line: {"type":"runfinished",',
        ],
    ),
}


def test_every_example_is_here() -> None:
    assert {file.name for file in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


def test_the_page_describes_every_example() -> None:
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+\.py)`", page, re.MULTILINE)) == set(EXAMPLES)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_runs_and_leaves_nothing_on_stderr_but_its_progress(name: str, tmp_path: object) -> None:
    arguments, expected = EXAMPLES[name]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=str(tmp_path),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for pattern in expected:
        assert re.search(pattern, done.stdout, re.MULTILINE), (pattern, done.stdout)
    assert "Traceback" not in done.stderr
