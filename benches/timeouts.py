"""When a step that hangs has timed out: after its timeout and its grace, and not later."""

from __future__ import annotations

import itertools

from benches._common import Bench, Figures, Line, expect, main, stopwatch

from pfw import LocalCluster, Workflow, run, step

TIMEOUT_S, GRACE_S = 1.0, 0.5


@step(timeout=TIMEOUT_S, grace=GRACE_S)
def hang() -> int:
    """Is in C, with Python's lock, for ever: it has to be killed."""
    return sum(itertools.repeat(0))


def hang_round(cluster: LocalCluster, mode: str) -> Figures:
    """One run to its end."""
    figures: dict[str, float] = {}
    with Workflow("hang") as workflow:
        hang()
    with stopwatch(figures, mode):
        found = run(workflow, on=cluster, mode=mode, check=False)
    expect(found.states, {"hang": "TIMED_OUT"}, "states")
    return figures


def measure(bench: Bench) -> None:
    """In both modes that have workers."""
    with LocalCluster(cpu=1) as cluster:
        found = bench.play(*[lambda mode=mode: hang_round(cluster, mode) for mode in ("parallel", "waves")])
    what = f"timeout of {TIMEOUT_S:.0f} s, grace {GRACE_S} s, on a step that hangs"
    for mode, figures in found.items():
        bench.add(Line(f"{what}: to the run's end, {mode} mode", "s", figures, target=TIMEOUT_S + GRACE_S + 0.2))


if __name__ == "__main__":
    main(measure)
