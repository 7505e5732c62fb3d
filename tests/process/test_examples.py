from __future__ import annotations

import subprocess
import sys

import pytest

from helpers import ROOT

#: {example: (its arguments, what its output must say)}
EXAMPLES = {
    "etl.py": ([], "lines written"),
    "code_census.py": (["60"], "speed-up"),
}


def test_every_example_is_here() -> None:
    assert {file.name for file in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


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
    assert expected in done.stdout
    assert "Traceback" not in done.stderr
