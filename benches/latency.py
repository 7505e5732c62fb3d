"""How long one step takes on a warm cluster, from submit to its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benches._common import CPU, Bench, Figures, Line, expect, main
from benches._dag import warm_pool
from benches._relay import relay

from pfw import LocalCluster, Workflow, run, step

CALLS = 500
#: Workflows of one step in a round.
RUNS = 200


def increment(number: int) -> int:
    """The step."""
    return number + 1


def trips_us(call: Callable[[int], int], count: int) -> list[float]:
    """The durations of calls one after another, sorted, in µs."""
    found = []
    for number in range(count):
        began = time.perf_counter()
        value = call(number)
        found.append((time.perf_counter() - began) * 1e6)
        expect(value, number + 1, "one step")
    return sorted(found)


def submit_round(cluster: LocalCluster) -> Figures:
    """Single calls."""
    trips = trips_us(lambda number: cluster.submit(increment, number).result(), CALLS)
    return {"p50": trips[CALLS // 2], "p99": trips[CALLS * 99 // 100]}


def run_round(cluster: LocalCluster) -> Figures:
    """Workflows of one step."""

    def call(number: int) -> int:
        with Workflow("one") as workflow:
            step(increment)(number)
        value: int = run(workflow, on=cluster).value
        return value

    return {"run": trips_us(call, RUNS)[RUNS // 2]}


def executor_round(pool: ProcessPoolExecutor) -> Figures:
    """Single calls of an executor."""
    trips = trips_us(lambda number: pool.submit(increment, number).result(), CALLS)
    return {"executor p50": trips[CALLS // 2], "executor p99": trips[CALLS * 99 // 100]}


def relay_round(call: Callable[[int, int], int]) -> Figures:
    """Single calls through processes that only pass them on."""
    return {"relay p50": trips_us(lambda number: call(1, number), CALLS)[CALLS // 2]}


def measure(bench: Bench) -> None:
    """All four, in turns."""
    with relay() as call, warm_pool(CPU) as pool, LocalCluster(cpu=CPU) as cluster:
        submit_round(cluster)
        found = bench.play(
            lambda: submit_round(cluster),
            lambda: run_round(cluster),
            lambda: executor_round(pool),
            lambda: relay_round(call),
        )
    reference = f"ProcessPoolExecutor({CPU})"
    bench.add(
        Line(
            f"one step on a warm cluster, submit to result, p50 of {CALLS}",
            "µs",
            found["p50"],
            target=400,
            reference=reference,
            reference_figures=found["executor p50"],
        ),
        Line("    p99", "µs", found["p99"], reference=reference, reference_figures=found["executor p99"]),
        Line("    a bare relay with as many processes and hops, p50", "µs", found["relay p50"]),
        Line("    a workflow of one step, `run(wf).value`, p50", "µs", found["run"]),
    )


if __name__ == "__main__":
    main(measure)
