"""Runs driven by hand, without a cluster."""

from __future__ import annotations

from pfw.graph import LANE_CPU, Graph
from pfw.lifecycle import RunLife

#: Runs that were started in this test.
LIVES: list[RunLife] = []


def start(graph: Graph, *, now: float = 0.0, **options: object) -> RunLife:
    life = RunLife(**options)  # type: ignore[arg-type]
    life.start(graph, now)
    LIVES.append(life)
    return life


def assign(life: RunLife, lane: int = LANE_CPU) -> list[int]:
    """Hands out everything that is ready in a lane, in the order in which it is given."""
    steps = []
    while life.ready[lane].count:
        step = life.ready[lane].take()[0]
        life.on_assigned(step)
        steps.append(step)
    return steps


def succeed(life: RunLife, step: int, now: float = 1.0) -> None:
    life.on_succeeded(step, 1, now, 0.5, b"out %d" % step, now)


def fail(life: RunLife, step: int, now: float = 1.0, *, is_retryable: bool = False) -> None:
    life.on_failed(step, 1, now, 0.5, b"why", is_retryable, now)


def kinds(life: RunLife) -> list[tuple[int, int]]:
    return [(fact.kind, fact.step) for fact in life.facts]
