"""Eight partitions that take 100 ms each, then one step that adds them up: how much faster is it in parallel?

Run it with `python examples/parallel_execution.py [SLOTS]`. The partitions wait, as for a disk or a database, so
they have the hint "light_io" and slots of their own, however few cores there are.
"""

from __future__ import annotations

import sys
import time

from pfw import LocalCluster, Run, Workflow, run, step

PARTITIONS = 8
#: How long each partition takes, s.
PAUSE_S = 0.1
#: Numbers in each partition.
SIZE = 1_000


@step(hint="light_io")
def partition(number: int) -> int:
    """Adds up the numbers of one partition, as slowly as a database would."""
    time.sleep(PAUSE_S)
    return sum(range(number * SIZE, (number + 1) * SIZE))


@step
def aggregate(sums: list[int]) -> int:
    """Adds up the partitions."""
    return sum(sums)


def main() -> Workflow:
    """Makes the workflow."""
    with Workflow("parallel execution") as workflow:
        aggregate(partition.map(range(PARTITIONS)))
    return workflow


def line(name: str, found: Run) -> str:
    """Returns what a run took."""
    metrics = found.metrics
    return (
        f"{name:10}  {metrics.total_duration:6.3f} s   value {found.value:,}   "
        f"parallelism factor {metrics.parallelism_factor:.2f}"
    )


if __name__ == "__main__":
    slots = int(sys.argv[1]) if len(sys.argv) > 1 else PARTITIONS
    workflow = main()
    print(f"{PARTITIONS} partitions of {PAUSE_S * 1000:.0f} ms, {slots} slots")
    sequential = run(workflow, mode="sequential")
    print(line("sequential", sequential))
    with LocalCluster(io=slots) as cluster:
        first = run(workflow, on=cluster)
        print(line("first", first), "  (it starts the slots)")
        parallel = run(workflow, on=cluster)
        print(line("parallel", parallel))
        waves = run(workflow, mode="waves", on=cluster)
        print(line("waves", waves))
    assert sequential.value == first.value == parallel.value == waves.value == sum(range(PARTITIONS * SIZE))
    speed_up = sequential.metrics.total_duration / parallel.metrics.total_duration
    print(f"speed-up    {speed_up:6.2f}     efficiency {speed_up / min(slots, PARTITIONS):.0%}")
