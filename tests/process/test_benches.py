"""The benchmarks still run; what they measure is a matter for a quiet machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest
from benches import _report
from benches._common import CALIBRATIONS, OTHERS, Line
from benches.crate import line_for

from helpers import ROOT

#: The crate's 29, and the look at a token in a running step.
CASES = 30


@pytest.mark.slow
def test_every_case_of_the_suites_of_the_crate_runs_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benches/crate.py", "--benchmark-disable", "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        timeout=55,
        cwd=ROOT,
        check=False,
    )
    assert f"{CASES} passed" in done.stdout, done.stdout + done.stderr


def record(*lines: Line) -> dict[str, Any]:
    calibrations = dict.fromkeys((*CALIBRATIONS, OTHERS), 1.0)
    return {"lines": [asdict(line) for line in lines], "calibrations": calibrations}


def test_the_suites_have_a_section_of_their_own_on_the_page() -> None:
    case = {"name": "test_parallel_scaling[2 workers]", "group": "parallel_scaling", "param": "2 workers"}
    check = {"name": "test_token_check_latency", "group": "cancellation_check", "param": None}
    lines = [line_for(c | {"stats": {"q1": 1e-2, "median": 2e-2, "q3": 4e-2}}) for c in (case, check)]
    page = _report.page({"crate": record(*lines), "fanout": record(Line("fan-out", "µs", [1.0]))})
    before, after = page.split(_report.SUITES_HEAD)
    assert "| fan-out |" in before
    assert "| parallel_scaling | 2 workers | 20,000 µs (10,000 – 40,000) |" in after
    assert "| cancellation_check | token check latency | 20.0 ns (10.0 – 40.0) |" in after
    assert "| `crate` | 1.00 |" in after
