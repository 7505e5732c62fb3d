"""What the events of a replayed workflow must show."""

from __future__ import annotations

from collections.abc import Sequence

from pfw.wfformat import Instance, step_ids, to_workflow

#: (type of event, step id or None), in the order in which they came.
Events = Sequence[tuple[str, str | None]]


def check_order(instance: Instance, events: Events) -> None:
    """Each task is queued, started and completed once, and not started before all of its parents are completed."""
    ids = step_ids(instance)
    place = {event: number for number, event in enumerate(events)}
    assert len(place) == len(events), "no event comes twice"
    assert len(events) == 3 * len(instance.tasks) + 2, "nothing else happened"
    for task in instance.tasks:
        step = ids[task.id]
        assert place["Started", step] < place["Completed", step]
        for parent in task.parents:
            assert place["Completed", ids[parent]] < place["Started", step], f"{step} started before {parent} ended"


def check_barriers(instance: Instance, events: Events) -> None:
    """No wave starts before the one before has ended."""
    wave_of = {step: number for number, wave in enumerate(to_workflow(instance).waves()) for step in wave}
    left = [list(wave_of.values()).count(number) for number in range(max(wave_of.values()) + 1)]
    for kind, step in events:
        if step in wave_of:
            if kind == "Started":
                assert not any(left[: wave_of[step]]), f"{step} started before the waves before had ended"
            left[wave_of[step]] -= kind == "Completed"
