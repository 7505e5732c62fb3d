"""How many independent steps a second: 100,000 no-ops, from the first line of the workflow to the last result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benches._common import CPU, Bench, Figures, Line, expect, main, stopwatch
from benches._dag import warm_pool

from pfw import LocalCluster, Workflow, run, step

STEPS = 100_000
#: Enough for a rate: the executor needs ten times as long for each.
REFERENCE_STEPS = 20_000


def same(number: int) -> int:
    """The no-op."""
    return number


def pfw_round(cluster: LocalCluster) -> Figures:
    """Builds, submits, runs, and reads every result."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "all"):
        with stopwatch(figures, "build"):
            with Workflow("fanout") as workflow:
                step(same).map(range(STEPS))
            workflow.compile()
        value = run(workflow, on=cluster).value
    expect(value, list(range(STEPS)), "fan-out")
    return {"pfw": STEPS / figures["all"], "build": figures["build"] / STEPS * 1e6}


def executor_round(pool: ProcessPoolExecutor) -> Figures:
    """The same on an executor."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "all"):
        futures = [pool.submit(same, number) for number in range(REFERENCE_STEPS)]
        value = [future.result() for future in futures]
    expect(value, list(range(REFERENCE_STEPS)), "fan-out on an executor")
    return {"executor": REFERENCE_STEPS / figures["all"]}


def measure(bench: Bench) -> None:
    """Both, in turns."""
    with warm_pool(CPU) as pool, LocalCluster(cpu=CPU) as cluster:
        pfw_round(cluster)
        contestants: list[Callable[[], Figures]] = [lambda: pfw_round(cluster), lambda: executor_round(pool)]
        found = bench.play(*contestants)
    bench.add(
        Line(
            f"fan-out of {STEPS:,} no-op steps",
            "steps/s",
            found["pfw"],
            target=80_000,
            is_rate=True,
            reference=f"ProcessPoolExecutor({CPU}), {REFERENCE_STEPS:,} calls",
            reference_figures=found["executor"],
        ),
        Line("    of which building and compiling the workflow", "µs/step", found["build"]),
    )


if __name__ == "__main__":
    main(measure)
