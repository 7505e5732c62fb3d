"""Says in words how a step stands: why it has not started, what it waits for, how it ended. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pfw.events import EventReader
from pfw.facts import (
    EXPANDED,
    FACT_CAPACITY,
    FACT_FINISHED,
    FACT_RUN_STARTED,
    FACT_STARTED,
    FAILED,
    RUN_STATE_NAMES,
    STATE_NAMES,
    SUCCEEDED,
    TIMED_OUT,
)
from pfw.messages import FactRow
from pfw.metrics import LANE_NAMES
from pfw.record import RunRecord

#: Gives what the engine knows of a step that has not ended.
Look = Callable[[RunRecord, int], dict[str, Any]]

#: So many steps that wait for each other are named, and so many that hold up a run.
NAMED = 10
_OF_THE_RUN = frozenset({FACT_RUN_STARTED, FACT_FINISHED, FACT_CAPACITY})


def explain(record: RunRecord, step: int, look: Look, now: float) -> str:
    """Returns one or several sentences about a step.

    Args:
        record: What is known of its run.
        step: Its index.
        look: Asked for steps that have not ended, while their cluster is there.
        now: Wall-clock time.
    """
    if record.states[step] >= SUCCEEDED:
        return _describe_end(record, step)
    sentences: list[str] = []
    while len(sentences) < NAMED and (missing := _missing(record, step)):
        sentences.append(_describe_wait(record, step, missing))
        step = missing[0]
    sentences.append(_describe_standing(record, step, look(record, step), now))
    return "\n".join(sentences)


def explain_run(record: RunRecord, look: Look, now: float) -> str:
    """Returns how a run stands, and of the steps that hold it up how they do; arguments as for `explain`."""
    held_up_by = [
        step
        for step, state in enumerate(record.states)
        if state in (FAILED, TIMED_OUT) or (state < SUCCEEDED and not _missing(record, step))
    ]
    sentences = [explain(record, step, look, now) for step in held_up_by[:NAMED]]
    more = [f"Beside these there are {len(held_up_by) - NAMED:,} more."] if len(held_up_by) > NAMED else []
    return "\n".join(
        [f"Run {record.run_id} of {record.name!r} is {RUN_STATE_NAMES[record.status]}.", *sentences, *more]
    )


def _missing(record: RunRecord, step: int) -> list[int]:
    """The dependencies of a step that have not ended, each once; of an expanded one what it ends with."""
    if record.states[step] == EXPANDED:
        return [record.tails[step]] if step in record.tails else []
    dependencies = dict.fromkeys((*record.graph.inputs[step], *record.graph.after[step]))
    return [dependency for dependency in dependencies if record.states[dependency] < SUCCEEDED]


def _rows(record: RunRecord, step: int) -> list[FactRow]:
    return [row for row in record.rows if row[1] == step and row[0] not in _OF_THE_RUN]


def _name(record: RunRecord, step: int) -> str:
    return repr(record.graph.ids[step])


def _describe_end(record: RunRecord, step: int) -> str:
    name, state = _name(record, step), STATE_NAMES[record.states[step]]
    events = EventReader(record.run_id, record.graph.ids, record.workers).read(_rows(record, step), record.epoch_s)
    if not events:
        return f"{name} is {state}."
    last = events[-1]
    where = f" on worker {last.worker}" if last.worker else ""
    when = f" at attempt {last.attempt}{where}" if last.attempt else ""
    after = f" after {last.duration:.2f} s" if last.duration is not None else ""
    why = last.error or last.message
    blamed = record.blamed(step)
    through = f" It gave way to a workflow, in which {_name(record, blamed)} failed." if blamed != step else ""
    return f"{name} is {state}{when}{after}{f': {why}' if why else ''}.{through}"


def _describe_wait(record: RunRecord, step: int, missing: list[int]) -> str:
    graph = record.graph
    if record.states[step] == EXPANDED:
        return f"{_name(record, step)} has given way to a workflow and ends with {_name(record, missing[0])}."
    count = len({*graph.inputs[step], *graph.after[step]})
    names = ", ".join(_name(record, dependency) for dependency in missing[:NAMED])
    more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
    return f"{_name(record, step)} waits for {len(missing):,} of the {count:,} steps it depends on: {names}{more}."


def _describe_standing(record: RunRecord, step: int, seen: dict[str, Any], now: float) -> str:
    name = _name(record, step)
    if not record.run_id and record.error is None:
        return f"{name} has not started: no coordinator has taken its run yet."
    if record.error is not None or not seen:
        return f"{name} has not ended, and its cluster cannot be asked (any more)."
    if seen["state"] == "ASSIGNED":
        return _describe_attempt(record, step, seen, now)
    if seen["state"] == "BACKOFF":
        why = _last_error(record, step)
        return (
            f"{name} has failed at attempt {seen['attempt']}: {why}. The next one may start in {seen['retry_s']:.1f} s."
        )
    if seen["state"] != "READY":
        return f"{name} has just become {seen['state']}."
    if seen["is_in_later_wave"]:
        return f"{name} starts with its wave: steps of the wave before have not ended."
    if seen["obstacle"]:
        return f"{name} could start, but {seen['obstacle']}."
    lane = LANE_NAMES[record.graph.specs[record.graph.spec_of[step]].lane]
    return (
        f"{name} could start and waits for one of the {seen['slots']:,} {lane} slots: {seen['taken']:,} are taken, "
        f"and {seen['waiting']:,} steps of this run wait for them."
    )


def _describe_attempt(record: RunRecord, step: int, seen: dict[str, Any], now: float) -> str:
    where = f"on worker {seen['worker']}" if seen["worker"] else "on a worker"
    began = [row[6] for row in _rows(record, step) if row[0] == FACT_STARTED and row[3] == seen["attempt"]]
    name = _name(record, step)
    if seen["silent_s"]:
        return f"{name} is {where}, attempt {seen['attempt']}, which is suspect: silent for {seen['silent_s']:.1f} s."
    if began:
        return f"{name} executes {where}, attempt {seen['attempt']}, since {now - record.epoch_s - began[-1]:.1f} s."
    return f"{name} is {where}, attempt {seen['attempt']}, and has begun just now or waits there for a slot."


def _last_error(record: RunRecord, step: int) -> str:
    rows = _rows(record, step)
    events = EventReader(record.run_id, record.graph.ids, record.workers).read(rows, record.epoch_s)
    return next((event.error for event in reversed(events) if event.error), "for a reason that has not come here yet")
