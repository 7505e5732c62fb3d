"""How long a script takes that imports pfw, runs one step on a local cluster of its own, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benches._common import CPU, Bench, Figures, Line, expect, main, stopwatch

PFW = f"""
from pfw import Workflow, run, step

@step
def increment(number):
    return number + 1

with Workflow("one") as workflow:
    increment(41)
print(run(workflow, cpu={CPU}).value)
"""

EXECUTOR = f"""
from concurrent.futures import ProcessPoolExecutor

def increment(number):
    return number + 1

with ProcessPoolExecutor({CPU}) as pool:
    print(list(pool.map(increment, [41] * {CPU}))[0])
"""

IMPORTS = "import zmq, msgpack, cloudpickle; print(42)"


def script_round(name: str, script: Path, environment: dict[str, str]) -> Figures:
    """One fresh process, from its start to its end."""
    figures: dict[str, float] = {}
    with stopwatch(figures, name):
        done = subprocess.run(
            [sys.executable, script], env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=30
        )
    expect(done.stdout, "42\n", name)
    return figures


def measure(bench: Bench) -> None:
    """All scripts, in turns."""
    with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder:
        # Compiled modules are kept, as they are for users, but not in the tree.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        contestants = []
        for name, text in (("pfw", PFW), ("executor", EXECUTOR), ("imports", IMPORTS), ("nothing", "print(42)")):
            script = Path(folder, f"cold_{name}.py")
            script.write_text(text, "utf-8")
            contestants.append(partial(script_round, name, script, environment))
        for contestant in contestants:
            contestant()
        found = bench.play(*contestants)
    bench.add(
        Line(
            "fresh process: import, local cluster, one step, exit",
            "s",
            found["pfw"],
            target=0.6,
            reference=f"ProcessPoolExecutor({CPU}) in a fresh process",
            reference_figures=found["executor"],
        ),
        Line("    a fresh process that imports pyzmq, msgpack and cloudpickle", "s", found["imports"]),
        Line("    a fresh process that does nothing", "s", found["nothing"]),
    )


if __name__ == "__main__":
    main(measure)
