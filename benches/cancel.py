"""How long a cancel takes: of steps that look at their token, and of one that has to be killed."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benches._common import Bench, Figures, Line, expect, main

from pfw import LocalCluster, Run, Workflow, current, run, start, step

STEPS = 8
#: Cancels in a round.
CANCELS = 40
KILLS = 3
GRACE_S = 0.5


def look(folder: str, name: int) -> None:
    """Looks at its token until that is cancelled."""
    Path(folder, str(name)).touch()
    token = current().token
    while not token.cancelled:
        time.sleep(0.001)
    token.check()


def hold_lock(folder: str) -> int:
    """A loop in C that keeps Python's lock: no signal is heard and no exception is raised in it."""
    Path(folder, "0").touch()
    return sum(range(10**11))


def started(cluster: LocalCluster, workflow: Workflow, folder: str, steps: int) -> Run:
    """The run, when all of its steps run."""
    found = start(workflow, on=cluster)
    while len(list(Path(folder).iterdir())) < steps:
        time.sleep(0.001)
    time.sleep(0.01)
    return found


def tokens_round(cluster: LocalCluster) -> Figures:
    """Cancels of steps that look."""
    times = []
    for _ in range(CANCELS):
        with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder:
            with Workflow("look") as workflow:
                step(look, hint="light_io").map([folder] * STEPS, range(STEPS))
            found = started(cluster, workflow, folder, STEPS)
            began = time.perf_counter()
            receipt = found.cancel("measured")
            times.append((time.perf_counter() - began) * 1e3)
            expect(receipt.counts(), {"stopped itself": STEPS}, "a cancel")
    times.sort()
    return {"p50": times[CANCELS // 2], "p99": times[-1]}


def kill_round(cluster: LocalCluster) -> Figures:
    """Cancels of a step that hears nothing, until the slot has executed another one."""
    latest = 0.0
    with Workflow("next") as another:
        step(abs)(-1)
    for _ in range(KILLS):
        with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder:
            with Workflow("hold") as workflow:
                step(hold_lock, grace=GRACE_S)(folder)
            found = started(cluster, workflow, folder, 1)
            began = time.perf_counter()
            receipt = found.cancel("measured")
            expect(run(another, on=cluster).value, 1, "a step after a kill")
            latest = max(latest, time.perf_counter() - began)
            expect(receipt.counts(), {"killed": 1}, "a kill")
    return {"killed": latest}


def measure(bench: Bench) -> None:
    """Both, in turns."""
    with LocalCluster(cpu=1, io=STEPS) as cluster:
        tokens_round(cluster)
        found = bench.play(lambda: tokens_round(cluster), lambda: kill_round(cluster))
    bench.add(
        Line(
            f"cancel of {STEPS} running steps that look at their token, to receipt, p50 of {CANCELS}",
            "ms",
            found["p50"],
            target=20,
        ),
        Line(f"    the slowest of {CANCELS}", "ms", found["p99"], target=100),
        Line(
            f"cancel of a C loop that holds Python's lock, grace {GRACE_S} s, until its slot has executed another step",
            "s",
            found["killed"],
            target=GRACE_S + 0.2,
            note=f"slowest of {KILLS}",
        ),
    )


if __name__ == "__main__":
    main(measure)
