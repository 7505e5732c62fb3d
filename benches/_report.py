"""Writes docs/benchmarks.md from what the benchmarks left: `python -m benches._report ROWS`, as scripts/bench does."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benches._common import CALIBRATIONS, OTHERS, ROUNDS, Line, spread, target_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"

HEAD = f"""# Benchmarks

Written by `scripts/bench`. Each figure is the median of {ROUNDS} rounds (lowest – highest). In every round pfw and its
reference do the same work one after the other, and each result is compared with that of a serial run. Building the
workflow, submitting it and reading its results are included where nothing else is said. *Times as good* is against the
reference, in the same run: absolute figures move with the machine, ratios much less. They move with Python's build too:
one compiled without profile-guided optimisation, as pyenv does unless it is told, is slower here than what
distributions ship. *1 M additions* tells the two apart.
"""

#: The benchmark that has a section of its own, and the words above it.
SUITES = "crate"
SUITES_HEAD = """## The suites of pf-workflow-core

The crate's 8 suites with its names and sizes, by pytest-benchmark (`scripts/bench crate`); the crate publishes no
figures to stand beside them. Each figure is the median of many rounds (lower – upper quartile). As in the crate a round
builds the workflow and runs it; clusters are warm, values are compared. Two things differ: a token check is one of a
million with its loop, once here and once in a running step, and both cases of `resource_hints` do the same work.
"""


def machine() -> str:
    """What the figures depend on; nothing that says whose machine it is."""
    cpu = _field("/proc/cpuinfo", "model name") or platform.machine()
    memory_gib = int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / (1 << 20)
    cores = len(os.sched_getaffinity(0))
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyzmq", "msgpack"))
    return (
        f"{cores} cores ({cpu}), {memory_gib:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"{platform.python_implementation()} {platform.python_version()}, pfw {version('pfw-cluster')}, {packages}"
    )


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text("utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def row_of(name: str, line: Line) -> tuple[str, ...]:
    """One line as cells."""
    verdict = {True: "yes", False: "**no**", None: ""}[line.is_met]
    reference = times = ""
    if line.times_better is not None:
        reference = f"{line.reference}: {spread(line.reference_figures, line.unit)}"
        times = f"{line.times_better:.2f}"
    what = line.what.replace("    ", "… ") + (f" ({line.note})" if line.note else "")
    measured = spread(line.figures, line.unit)
    return what, target_text(line), measured, verdict, reference, times, f"`scripts/bench {name}`"


def page(records: dict[str, dict[str, Any]]) -> str:
    """The page.

    Args:
        records: {benchmark: what it left}.
    """
    lines = {name: [Line(**line) for line in record["lines"]] for name, record in records.items()}
    rows = [row_of(name, line) for name in records if name != SUITES for line in lines[name]]
    cases = [(*line.what.split(": "), spread(line.figures, line.unit)) for line in lines[SUITES]]
    here = [
        (f"`{name}`", *(f"{record['calibrations'][figure]:.2f}" for figure in (*CALIBRATIONS, OTHERS)))
        for name, record in records.items()
    ]
    head = ("what", "target", "pfw", "met", "reference", "times as good", "command")
    return "\n".join([
        HEAD,
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}.\n",
        table(head, rows),
        SUITES_HEAD,
        table(("suite", "case", "pfw"), cases),
        "## The machine\n",
        "What the machine itself could do meanwhile, medians of the rounds of each benchmark, and who else used it:\n",
        table(("during", *CALIBRATIONS, OTHERS), here),
    ])  # fmt: skip


def main() -> None:
    """Writes the page."""
    text = Path(sys.argv[1]).read_text("utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    PAGE.write_text(page({record["name"]: record for record in records}), "utf-8")
    print(f"written: docs/{PAGE.name}")


if __name__ == "__main__":
    main()
