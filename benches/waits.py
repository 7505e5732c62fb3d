"""Steps that only wait: 8 that sleep 0.5 s on IO slots, and 1,000 `async def` steps that wait 1 s in one process."""

from __future__ import annotations

import asyncio
import os
import time

from benches._common import Bench, Figures, Line, expect, main, stopwatch

from pfw import LocalCluster, Workflow, run, step

SLEEPS, SLEEP_S = 8, 0.5
WAITS, WAIT_S = 1_000, 1.0

Span = tuple[float, float]


@step(hint="light_io")
def sleep(number: int) -> Span:
    """Waits in a slot; returns from when to when."""
    began = time.monotonic()
    time.sleep(SLEEP_S)
    return began, time.monotonic()


@step
async def wait(number: int) -> int:
    """Waits in the event loop; returns in which process."""
    await asyncio.sleep(WAIT_S)
    return os.getpid()


def sleep_round(cluster: LocalCluster) -> Figures:
    """All sleep at once: how long that takes, and how true the parallelism factor is."""
    figures: dict[str, float] = {}
    with Workflow("sleeps") as workflow:
        workflow.returns(sleep.map(range(SLEEPS)))
    with stopwatch(figures, "s"):
        found = run(workflow, on=cluster)
    spans: list[Span] = found.value
    truth = sum(until - since for since, until in spans) / found.metrics.total_duration
    return {"sleeps": figures["s"], "factor": abs(found.metrics.parallelism_factor / truth - 1) * 100}


def wait_round(cluster: LocalCluster) -> Figures:
    """All wait at once."""
    figures: dict[str, float] = {}
    with Workflow("waits") as workflow:
        workflow.returns(wait.map(range(WAITS)))
    with stopwatch(figures, "s"):
        processes = run(workflow, on=cluster).value
    expect((len(processes), len(set(processes))), (WAITS, 1), "one process")
    return {"waits": figures["s"]}


def measure(bench: Bench) -> None:
    """Both, in turns."""
    with LocalCluster(io=SLEEPS) as cluster:
        sleep_round(cluster)
        wait_round(cluster)
        found = bench.play(lambda: sleep_round(cluster), lambda: wait_round(cluster))
    bench.add(
        Line(f"{SLEEPS} steps that sleep {SLEEP_S} s, on IO slots", "s", found["sleeps"], target=0.65),
        Line("    how far the parallelism factor is from the truth", "%", found["factor"], target=5),
        Line(f"{WAITS:,} `async def` steps that wait {WAIT_S:.0f} s, in one process", "s", found["waits"], target=1.5),
    )


if __name__ == "__main__":
    main(measure)
