"""What a run cost: computed from its facts, in every ending."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pfw.facts import (
    FACT_FAILED,
    FACT_FINISHED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    STATE_NAMES,
)
from pfw.messages import FactRow


@dataclass(slots=True)
class StepMetrics:
    """One step. Times are wall-clock seconds since 1970, None where it did not come so far."""

    step_id: str
    status: str
    attempts: int = 0
    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    #: Seconds the code of its attempts ran, waiting excluded.
    run_time: float = 0.0
    #: Seconds from being ready to the start of the last attempt.
    wait_time: float = 0.0
    worker: str = ""


@dataclass(slots=True)
class WorkflowMetrics:
    """One run."""

    #: Seconds from submission to the end, or until now.
    total_duration: float = 0.0
    #: Sum of the run times / total duration: how many steps ran at a time on average.
    parallelism_factor: float = 0.0
    total_steps: int = 0
    successful_steps: int = 0
    failed_steps: int = 0
    retries: int = 0
    #: Seconds of running by lane: cpu, io, async.
    run_time: dict[str, float] = field(default_factory=dict)
    steps: dict[str, StepMetrics] = field(default_factory=dict)

    def to_json(self) -> str:
        """The metrics as a JSON object."""
        return json.dumps(asdict(self))


LANE_NAMES = ("cpu", "io", "async")


def measure(
    rows: Sequence[FactRow],
    ids: Sequence[str],
    lanes: Sequence[int],
    states: Sequence[int],
    workers: Mapping[int, str],
    epoch_s: float,
    now: float,
) -> WorkflowMetrics:
    """The metrics of a run.

    Args:
        rows: Its facts.
        ids: Step ids by index.
        lanes: Lanes by step index.
        states: Step states by index.
        workers: Worker names by number.
        epoch_s: Wall clock minus the clock of the rows.
        now: The time on the clock of the rows, for a run that goes on.
    """
    result = WorkflowMetrics(total_steps=len(ids), run_time=dict.fromkeys(LANE_NAMES, 0.0))
    steps = [StepMetrics(step_id, STATE_NAMES[state]) for step_id, state in zip(ids, states, strict=True)]
    began, ended = now, now
    for kind, step, at, attempt, worker, queued_at, started_at, run_s, _ in rows:
        if kind == FACT_RUN_STARTED:
            began = at
        elif kind == FACT_FINISHED:
            ended = at
        else:
            found = steps[step]
            if kind != FACT_STARTED:
                found.ended_at = at + epoch_s
            if kind == FACT_SKIPPED or not attempt:
                continue
            found.attempts, found.worker = attempt, workers.get(worker, "")
            found.queued_at, found.started_at = queued_at + epoch_s, started_at + epoch_s
            found.wait_time = max(0.0, started_at - queued_at)
            found.run_time += run_s
            result.run_time[LANE_NAMES[lanes[step]]] += run_s
            result.retries += kind == FACT_RETRYING
            result.successful_steps += kind == FACT_SUCCEEDED
            result.failed_steps += kind == FACT_FAILED
    result.total_duration = max(0.0, ended - began)
    if result.total_duration > 0:
        result.parallelism_factor = sum(result.run_time.values()) / result.total_duration
    result.steps = {step.step_id: step for step in steps}
    return result
