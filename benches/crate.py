"""The 8 suites of pf-workflow-core, with pytest-benchmark: same names, same sizes, and every result compared.

`scripts/bench crate` measures them; `pytest benches/crate.py --benchmark-disable` runs each once, as the tests do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from benches._common import Bench, Figures, Line, expect, main

from pfw import CancellationToken, LocalCluster, Workflow, current, run, step

T = TypeVar("T")

#: Seconds that pytest-benchmark gives to each case, and rounds it plays at the least.
CASE_S = 0.5
MIN_ROUNDS = 5
#: Looks at a token in one round.
CHECKS = 1_000_000
STEPS_OF_CANCELLATION = 20
STEPS_OF_SCALING = 32
STEPS_OF_HINTS = 16

Clusters = Callable[[int], LocalCluster]


class Benchmark(Protocol):
    """What pytest-benchmark gives as its fixture `benchmark`."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> T:
        """Calls the function many times, and returns what the last call did."""


@step
def spin(iterations: int) -> int:
    """Computes for a while."""
    total = 0
    for number in range(iterations):
        total += number
    return total


@step
def add(*numbers: int) -> int:
    """The step that does next to nothing."""
    return sum(numbers, start=1)


@step
def check_often() -> int:
    """Looks at the token of its own run."""
    return checks(current().token)


def checks(token: CancellationToken) -> int:
    """Looks at a token many times; returns how often it was not cancelled."""
    count = 0
    for _ in range(CHECKS):
        if not token.cancelled:
            count += 1
    return count


def independent(count: int) -> Workflow:
    """So many steps that do nothing."""
    with Workflow("independent") as workflow:
        workflow.returns([add() for _ in range(count)])
    return workflow


def spins(count: int, iterations: int, hint: str = "heavy_cpu") -> Workflow:
    """So many steps that compute."""
    with Workflow("spins") as workflow:
        workflow.returns(spin.options(hint=hint).map([iterations] * count))
    return workflow


def linear(count: int) -> Workflow:
    """A chain of so many steps; its value is their number."""
    with Workflow("linear") as workflow:
        node = add()
        for _ in range(count - 1):
            node = add(node)
    return workflow


def diamond(width: int) -> Workflow:
    """One step, so many that need it, and one that needs them all."""
    with Workflow("diamond") as workflow:
        first = add()
        add(*[add(first) for _ in range(width)])
    return workflow


def spun(count: int, iterations: int) -> list[int]:
    """The value of `spins`."""
    return [iterations * (iterations - 1) // 2] * count


def compare(benchmark: Benchmark, build: Callable[[], Workflow], wanted: object, **options: Any) -> None:
    """Has the workflow built and run many times."""
    expect(benchmark(lambda: run(build(), **options).value), wanted, "value")


@pytest.fixture(scope="module")
def clusters() -> Iterator[Clusters]:
    """Clusters by their CPU slots, each started when it is first asked for."""
    found: dict[int, LocalCluster] = {}
    with ExitStack() as stack:

        def of_size(cpu: int) -> LocalCluster:
            if cpu not in found:
                found[cpu] = stack.enter_context(LocalCluster(cpu=cpu))
            return found[cpu]

        yield of_size


@pytest.mark.benchmark(group="sequential_overhead")
@pytest.mark.parametrize("count", [1, 5, 10, 20, 50], ids="{} steps".format)
def test_sequential_overhead(benchmark: Benchmark, count: int) -> None:
    """Steps that do nothing, in this process."""
    compare(benchmark, lambda: independent(count), [1] * count, mode="sequential")


@pytest.mark.benchmark(group="parallel_speedup")
@pytest.mark.parametrize("count", [4, 8, 16], ids="{} steps".format)
@pytest.mark.parametrize("workers", [0, 4], ids=["sequential", "4 parallel"])
def test_parallel_speedup(benchmark: Benchmark, clusters: Clusters, count: int, workers: int) -> None:
    """Steps of 100,000 iterations, in this process and on 4 slots."""
    options: dict[str, Any] = {"on": clusters(workers)} if workers else {"mode": "sequential"}
    compare(benchmark, lambda: spins(count, 100_000), spun(count, 100_000), **options)


@pytest.mark.benchmark(group="cancellation_check")
@pytest.mark.parametrize("token", [None, CancellationToken()], ids=["baseline", "unused token"])
def test_cancellation_check(benchmark: Benchmark, token: CancellationToken | None) -> None:
    """The same steps without a token, and with one that nobody cancels."""
    count = STEPS_OF_CANCELLATION
    compare(benchmark, lambda: independent(count), [1] * count, mode="sequential", token=token)


@pytest.mark.benchmark(group="cancellation_check")
def test_token_check_latency(benchmark: Benchmark) -> None:
    """Looks at a token, the loop around them included."""
    expect(benchmark(checks, CancellationToken()), CHECKS, "checks")


@pytest.mark.benchmark(group="cancellation_check")
def test_token_check_in_a_step(benchmark: Benchmark, clusters: Clusters) -> None:
    """The same in a step on a worker, with its run's own token."""

    def build() -> Workflow:
        with Workflow("checks") as workflow:
            check_often()
        return workflow

    compare(benchmark, build, CHECKS, on=clusters(1))


@pytest.mark.benchmark(group="dag_operations")
def test_linear_50(benchmark: Benchmark) -> None:
    """A chain, in this process."""
    compare(benchmark, lambda: linear(50), 50, mode="sequential")


@pytest.mark.benchmark(group="dag_operations")
def test_wide_50(benchmark: Benchmark, clusters: Clusters) -> None:
    """Independent steps on 8 slots."""
    compare(benchmark, lambda: independent(50), [1] * 50, on=clusters(8))


@pytest.mark.benchmark(group="dag_operations")
def test_diamond(benchmark: Benchmark, clusters: Clusters) -> None:
    """One step, 4 that need it, and one that needs them, on 4 slots."""
    compare(benchmark, lambda: diamond(4), 9, on=clusters(4))


@pytest.mark.benchmark(group="step_execution_cost")
@pytest.mark.parametrize("iterations", [0, 10_000, 100_000], ids=["minimal", "10k iterations", "100k iterations"])
def test_step_execution_cost(benchmark: Benchmark, iterations: int) -> None:
    """A step called outside a workflow."""
    expect(benchmark(spin, iterations), iterations * (iterations - 1) // 2, "sum")


@pytest.mark.benchmark(group="executor_construction")
@pytest.mark.parametrize("count", [0, 10, 100], ids="{} steps".format)
def test_executor_construction(benchmark: Benchmark, count: int) -> None:
    """What is to be made before a run can begin."""

    def construct() -> int:
        with Workflow("construction") as workflow:
            for _ in range(count):
                add()
        return len(workflow.nodes)

    expect(benchmark(construct), count, "nodes")


@pytest.mark.benchmark(group="parallel_scaling")
@pytest.mark.parametrize("workers", [1, 2, 4, 8], ids="{} workers".format)
def test_parallel_scaling(benchmark: Benchmark, clusters: Clusters, workers: int) -> None:
    """32 steps of 50,000 iterations on more and more slots."""
    wanted = spun(STEPS_OF_SCALING, 50_000)
    compare(benchmark, lambda: spins(STEPS_OF_SCALING, 50_000), wanted, on=clusters(workers))


@pytest.mark.benchmark(group="resource_hints")
@pytest.mark.parametrize("hint", ["heavy_cpu", "light_cpu"], ids=["with HeavyCPU", "without"])
def test_resource_hints(benchmark: Benchmark, clusters: Clusters, hint: str) -> None:
    """16 steps of 100,000 iterations that say that they are heavy, and the same steps when they do not."""
    wanted = spun(STEPS_OF_HINTS, 100_000)
    compare(benchmark, lambda: spins(STEPS_OF_HINTS, 100_000, hint), wanted, on=clusters(4))


# ---------------------------------------------------------------------------------------------------- as a program


def play_suites(cases: list[dict[str, Any]]) -> Figures:
    """Runs this file with pytest-benchmark and adds what it says of each case."""
    with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder:
        file = Path(folder, "cases.json")
        command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"]
        limits = [f"--benchmark-max-time={CASE_S}", f"--benchmark-min-rounds={MIN_ROUNDS}"]
        table = ["--benchmark-columns=min,median,max,rounds", "--benchmark-sort=fullname"]
        subprocess.run([*command, *limits, *table, f"--benchmark-json={file}"], check=True)
        cases += json.loads(file.read_text("utf-8"))["benchmarks"]
    return {}


def line_for(case: dict[str, Any]) -> Line:
    """The median of a case and its quartiles, which say more of hundreds of rounds than their extremes."""
    name = case["param"] or case["name"].removeprefix("test_").replace("_", " ")
    unit, scale = ("ns", 1e9 / CHECKS) if name.startswith("token check") else ("µs", 1e6)
    return Line(f"{case['group']}: {name}", unit, [case["stats"][key] * scale for key in ("q1", "median", "q3")])


def measure(bench: Bench) -> None:
    """All suites, one after the other; within a case pytest-benchmark plays the rounds."""
    cases: list[dict[str, Any]] = []
    bench.play(lambda: play_suites(cases), rounds=1)
    bench.lines += [line_for(case) for case in cases]


if __name__ == "__main__":
    main(measure)
