"""How much of the cores is left to the steps: 1,000 steps of 5 ms of CPU on two slots, against the ideal."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from benches._common import CPU, Bench, Figures, Line, expect, main, stopwatch
from benches._dag import warm_pool

from pfw import LocalCluster, Workflow, run, step

STEPS = 1_000
STEP_S = 0.005
IDEAL_S = STEPS * STEP_S / CPU
#: Steps of the bare processes: enough to see what the machine itself takes.
BARE_STEPS = 200


def burn(number: int) -> int:
    """Uses 5 ms of CPU, however long that takes."""
    end = time.thread_time() + STEP_S
    while time.thread_time() < end:
        pass
    return number


def burn_many(count: int) -> None:
    """Burns without anything between."""
    for number in range(count):
        burn(number)


def pfw_round(cluster: LocalCluster) -> Figures:
    """Builds, submits, runs, and reads the results."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        with Workflow("efficiency") as workflow:
            step(burn).map(range(STEPS))
        value = run(workflow, on=cluster).value
    expect(value, list(range(STEPS)), "efficiency")
    return {"pfw": figures["s"] / IDEAL_S}


def executor_round(pool: ProcessPoolExecutor) -> Figures:
    """The same on an executor."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        futures = [pool.submit(burn, number) for number in range(STEPS)]
        value = [future.result() for future in futures]
    expect(value, list(range(STEPS)), "efficiency of an executor")
    return {"executor": figures["s"] / IDEAL_S}


def bare_round() -> Figures:
    """Two processes that each know their share: what this machine itself makes of it."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=burn_many, args=(BARE_STEPS // CPU,)) for _ in range(CPU)]
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    expect([process.exitcode for process in processes], [0] * CPU, "bare processes")
    return {"bare": figures["s"] / (BARE_STEPS * STEP_S / CPU)}


def measure(bench: Bench) -> None:
    """All three, in turns."""
    with warm_pool(CPU) as pool, LocalCluster(cpu=CPU) as cluster:
        run(_warm_up(), on=cluster)
        found = bench.play(lambda: pfw_round(cluster), lambda: executor_round(pool), bare_round)
    bench.add(
        Line(
            f"{STEPS:,} steps of {STEP_S * 1e3:.0f} ms CPU on {CPU} slots",
            "× ideal",
            found["pfw"],
            target=1.05,
            reference=f"ProcessPoolExecutor({CPU})",
            reference_figures=found["executor"],
        ),
        Line(f"    {CPU} bare processes that do nothing else", "× ideal", found["bare"]),
    )


def _warm_up() -> Workflow:
    with Workflow("warm-up") as workflow:
        step(burn).map(range(2 * CPU))
    return workflow


if __name__ == "__main__":
    main(measure)
