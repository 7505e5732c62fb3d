"""Steps that cannot overlap: a chain of 1,000, each with the output of the one before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benches._common import CPU, Bench, Figures, Line, expect, main, stopwatch
from benches._dag import Call, build, serial, warm_pool
from benches._relay import relay

from pfw import LocalCluster, run

STEPS = 1_000


def increment(number: int) -> int:
    """The step."""
    return number + 1


CALLS = [Call(increment, (0,), ()), *(Call(increment, (), (index,)) for index in range(STEPS - 1))]
EXPECTED = serial(CALLS)[-1]


def pfw_round(cluster: LocalCluster) -> Figures:
    """Builds, submits, runs, and reads the end of the chain."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        value = run(build("chain", CALLS, [STEPS - 1]), on=cluster).value
    expect(value, [EXPECTED], "chain")
    return {"pfw": STEPS / figures["s"]}


def executor_round(pool: ProcessPoolExecutor) -> Figures:
    """The same on an executor: each call is submitted with the result of the one before."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        value = 0
        for _ in range(STEPS):
            value = pool.submit(increment, value).result()
    expect(value, EXPECTED, "chain on an executor")
    return {"executor": STEPS / figures["s"]}


def relay_round(call: Callable[[int, int], int]) -> Figures:
    """The same through processes that only pass it on."""
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        value = call(STEPS, 0)
    expect(value, EXPECTED, "chain through a bare relay")
    return {"relay": STEPS / figures["s"]}


def measure(bench: Bench) -> None:
    """All three, in turns."""
    with relay() as call, warm_pool(CPU) as pool, LocalCluster(cpu=CPU) as cluster:
        pfw_round(cluster)
        found = bench.play(lambda: pfw_round(cluster), lambda: executor_round(pool), lambda: relay_round(call))
    bench.add(
        Line(
            f"chain of {STEPS:,} steps",
            "steps/s",
            found["pfw"],
            target=4_000,
            is_rate=True,
            reference=f"ProcessPoolExecutor({CPU}), resubmitting",
            reference_figures=found["executor"],
        ),
        Line("    a bare relay, with a round trip for each step", "steps/s", found["relay"], is_rate=True),
    )


if __name__ == "__main__":
    main(measure)
