"""What it costs to be told: 100,000 no-ops with their events in a file, and with their metrics, against without."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benches._common import CPU, Bench, Figures, Line, expect, main, stopwatch

from pfw import LocalCluster, Workflow, run, step

STEPS = 100_000


def same(number: int) -> int:
    """The no-op."""
    return number


def workflow_of(count: int) -> Workflow:
    """That many no-ops, compiled."""
    with Workflow("events") as workflow:
        step(same).map(range(count))
    workflow.compile()
    return workflow


def plain_round(cluster: LocalCluster) -> Figures:
    """Runs them and reads every result."""
    workflow, figures = workflow_of(STEPS), dict[str, float]()
    with stopwatch(figures, "all"):
        value = run(workflow, on=cluster).value
    expect(value, list(range(STEPS)), "fan-out")
    return {"plain": figures["all"] / STEPS * 1e6}


def told_round(cluster: LocalCluster, path: Path) -> Figures:
    """The same, until every end is in the file and the metrics are there."""
    workflow, figures = workflow_of(STEPS), dict[str, float]()
    with stopwatch(figures, "all"):
        found = run(workflow, on=cluster, progress=path)
        value = found.value
        with stopwatch(figures, "metrics"):
            metrics = found.metrics
    expect(value, list(range(STEPS)), "fan-out")
    expect(metrics.successful_steps, STEPS, "metrics")
    expect(path.read_text().count('{"type":"completed",'), STEPS, "events")
    return {"told": figures["all"] / STEPS * 1e6, "metrics": figures["metrics"] / STEPS * 1e6}


def pair_round(cluster: LocalCluster, path: Path) -> Figures:
    """Both, one after the other, and the difference."""
    figures = {**plain_round(cluster), **told_round(cluster, path)}
    return {**figures, "more": figures["told"] - figures["plain"]}


def measure(bench: Bench) -> None:
    """Both, in turns."""
    with tempfile.TemporaryDirectory() as folder, LocalCluster(cpu=CPU) as cluster:
        path = Path(folder, "events.jsonl")
        pair_round(cluster, path)
        found = bench.play(lambda: pair_round(cluster, path))
    bench.add(
        Line(f"fan-out of {STEPS:,} no-op steps, nobody told", "µs/step", found["plain"]),
        Line("    events in a file, and metrics", "µs/step", found["told"]),
        Line("    what that takes more", "µs/step", found["more"], target=3),
        Line("    of which computing the metrics", "µs/step", found["metrics"]),
    )


if __name__ == "__main__":
    main(measure)
