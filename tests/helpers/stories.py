"""What a run tells of itself, in the forms in which tests compare it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pfw import Run, Workflow

TERMINAL = {"Completed", "Failed", "Cancelled", "Skipped"}


def story(found: Run, *types: str) -> list[tuple[str, str | None]]:
    """[(type, step)] of the run's events of these types, in order."""
    return [(event.type, event.step_id) for event in found.events() if event.type in types]


def intervals(found: Run, ids: Iterable[str]) -> list[tuple[float, float]]:
    """When the attempts of these steps ran, 1 ms off each end."""
    steps = found.metrics.steps
    tries = [attempt for step_id in ids for attempt in steps[step_id].history]
    return [(attempt.started_at + 0.001, attempt.started_at + attempt.run_time - 0.001) for attempt in tries]


def peak(spans: Iterable[tuple[float, float]]) -> int:
    """How many of these ran at once."""
    changes = sorted(change for begin, end in spans if begin < end for change in ((begin, 1), (end, -1)))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def check_order(found: Run, wf: Workflow) -> None:
    """No step started before what it depends on had completed; in waves mode, nor before the wave before it had."""
    events = story(found, "Started", "Completed")
    at = {event: number for number, event in enumerate(events)}
    depth = {step_id: number for number, wave in enumerate(wf.waves()) for step_id in wave}
    compiled = wf.compile()
    for number, step_id in enumerate(compiled.graph.ids):
        for needed in (*compiled.graph.inputs[number], *compiled.graph.after[number]):
            assert at["Completed", compiled.graph.ids[needed]] < at["Started", step_id]
    if found._record.mode == "waves":
        ended = {wave: max(at["Completed", s] for s in depth if depth[s] == wave) for wave in set(depth.values())}
        for step_id, wave in depth.items():
            assert wave == 0 or ended[wave - 1] < at["Started", step_id]


def check_terminals(found: Run) -> None:
    """Every step has exactly one terminal event, and it is that of its state."""
    ends = Counter((event.step_id, event.type) for event in found.events() if event.type in TERMINAL)
    names = {"SUCCEEDED": "Completed", "FAILED": "Failed", "CANCELLED": "Cancelled", "SKIPPED": "Skipped"}
    assert ends == Counter({(step_id, names[state]): 1 for step_id, state in found.states.items()})
