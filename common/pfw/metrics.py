"""What a run cost: computed from its facts, in every ending."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pfw.facts import (
    CANCELLED,
    FACT_CANCELLED,
    FACT_CAPACITY,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    FAILED,
    STATE_NAMES,
    SUCCEEDED,
    TIMED_OUT,
    unpack_capacity,
)
from pfw.failure import Failure
from pfw.graph import Graph
from pfw.messages import FactRow

LANE_NAMES = ("cpu", "io", "async")

#: {kind of fact: state of the attempt that it ends}
_ENDS = {
    FACT_SUCCEEDED: STATE_NAMES[SUCCEEDED],
    FACT_RETRYING: STATE_NAMES[FAILED],
    FACT_FAILED: STATE_NAMES[FAILED],
    FACT_TIMED_OUT: STATE_NAMES[TIMED_OUT],
    FACT_CANCELLED: STATE_NAMES[CANCELLED],
}
#: A run shorter than this has no parallelism to speak of, s.
_INSTANT_S = 1e-6


@dataclass(slots=True)
class AttemptMetrics:
    """One try of a step. Times are wall-clock seconds since 1970, durations seconds."""

    #: SUCCEEDED, FAILED, TIMED_OUT or CANCELLED.
    status: str
    worker: str
    #: When everything it needed was there, when it began, and when its end was known.
    queued_at: float
    started_at: float
    ended_at: float
    #: How long its code ran, and how long it had waited for a slot.
    run_time: float
    wait_time: float
    #: CPU time of its process meanwhile, user and system, with all threads but without child processes.
    cpu_time: float
    #: Peak resident memory of its process meanwhile, bytes; None where it was not measured: the attempt took less than
    #: a millisecond, was killed, or shared its process with others (`async def`).
    memory_peak: int | None
    #: What went wrong: type and message of the exception.
    error: str | None


@dataclass(slots=True)
class StepMetrics:
    """One step. Times are wall-clock seconds since 1970, None where it did not come so far."""

    step_id: str
    status: str
    attempts: int = 0
    #: When it could start for the first time, when its first attempt began, when it ended.
    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    #: Sums over its attempts: how long its code ran, how long it waited for a slot, the CPU time it took.
    run_time: float = 0.0
    wait_time: float = 0.0
    cpu_time: float = 0.0
    #: The largest of its attempts' peaks, bytes.
    memory_peak: int | None = None
    #: Of the last attempt.
    worker: str = ""
    #: Why it failed: type and message of the exception.
    error: str | None = None
    #: Its attempts that have ended, in order.
    history: list[AttemptMetrics] = field(default_factory=list)
    #: The step's own words, as given to `step`.
    tags: list[str] = field(default_factory=list)


@dataclass(slots=True)
class WaveMetrics:
    """The steps at one depth of the graph: all that none of them waits for another."""

    steps: list[str]
    #: When the first of them began and when the last of them ended; None where none did.
    started_at: float | None = None
    ended_at: float | None = None
    #: Sum of their run times, s.
    run_time: float = 0.0


@dataclass(slots=True)
class WorkflowMetrics:
    """One run."""

    #: Seconds from submission to the end, or until now.
    total_duration: float = 0.0
    #: Sum of the run times / total duration: how many steps ran at a time on average.
    parallelism_factor: float = 1.0
    #: By lane (cpu, io, async): slot-seconds in which steps ran / slot-seconds that the cluster had during the run.
    resource_utilization: dict[str, float] = field(default_factory=dict)
    #: The largest peak of a step, bytes; None where none was measured.
    peak_memory: int | None = None
    total_steps: int = 0
    successful_steps: int = 0
    #: Those that timed out too.
    failed_steps: int = 0
    retries: int = 0
    #: Seconds of running by lane.
    run_time: dict[str, float] = field(default_factory=dict)
    #: By depth.
    waves: list[WaveMetrics] = field(default_factory=list)
    steps: dict[str, StepMetrics] = field(default_factory=dict)

    def to_json(self) -> str:
        """The metrics as a JSON object, which `from_json` reads."""
        return json.dumps(self, default=_fields)

    @classmethod
    def from_json(cls, text: str) -> WorkflowMetrics:
        """The metrics that `to_json` wrote.

        Raises:
            ValueError: The text is anything else.
        """
        try:
            data: Any = json.loads(text)
            data["waves"] = [WaveMetrics(**wave) for wave in data["waves"]]
            data["steps"] = {step_id: StepMetrics(**step) for step_id, step in data["steps"].items()}
            for step in data["steps"].values():
                step.history = [AttemptMetrics(**attempt) for attempt in step.history]
            return cls(**data)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"not the metrics of a run: {error!r}") from error


def _fields(found: Any) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__slots__}


def measure(
    rows: Sequence[FactRow],
    graph: Graph,
    states: Sequence[int],
    workers: Mapping[int, str],
    epoch_s: float,
    now: float,
) -> WorkflowMetrics:
    """The metrics of a run. 3 µs a step.

    Args:
        rows: Its facts.
        graph: Its steps.
        states: Step states by index.
        workers: Worker names by number.
        epoch_s: Wall clock minus the clock of the rows.
        now: The time on the clock of the rows, for a run that goes on.
    """
    steps = [StepMetrics(step_id, STATE_NAMES[state]) for step_id, state in zip(graph.ids, states, strict=True)]
    if any(spec.tags for spec in graph.specs):
        for step, spec in zip(steps, graph.spec_of, strict=True):
            step.tags = list(graph.specs[spec].tags)
    began, ended = now, now
    capacities: list[tuple[float, list[int]]] = []
    retries = 0
    for row in rows:
        kind, at = row[0], row[2]
        if kind == FACT_FINISHED:
            ended = at
        elif kind in (FACT_RUN_STARTED, FACT_CAPACITY):
            began = at if kind == FACT_RUN_STARTED else began
            capacities.append((at, unpack_capacity(row[8])))
        else:
            retries += kind == FACT_RETRYING
            _add(steps[row[1]], row, workers, epoch_s)
    found = WorkflowMetrics(total_duration=max(0.0, ended - began), retries=retries)
    _sum_up(found, steps, [graph.specs[spec].lane for spec in graph.spec_of])
    found.resource_utilization = _utilization(found.run_time, capacities, ended)
    found.waves = _waves(steps, graph)
    return found


def _add(step: StepMetrics, row: FactRow, workers: Mapping[int, str], epoch_s: float) -> None:
    kind, _, at, attempt, number, queued_at, started_at, run_s, payload, cpu_us, peak_bytes = row
    if kind not in (FACT_STARTED, FACT_RETRYING):
        step.ended_at = at + epoch_s
    if kind == FACT_SKIPPED:
        return
    step.attempts = attempt
    if step.queued_at is None and queued_at:
        step.queued_at = queued_at + epoch_s
    if kind == FACT_CANCELLED and not number:
        return  # it had not begun, or waited for another attempt
    wait_s = started_at - queued_at
    wait_s = wait_s if wait_s > 0 else 0.0
    queued_at, started_at = queued_at + epoch_s, started_at + epoch_s
    step.worker = worker = workers.get(number, "")
    if step.started_at is None:
        step.started_at = started_at
    if kind == FACT_STARTED:
        return
    error = None
    if kind in (FACT_FAILED, FACT_RETRYING, FACT_TIMED_OUT):
        error = Failure.unpack(payload).headline
        step.error = None if kind == FACT_RETRYING else error
    peak, cpu_s = peak_bytes or None, cpu_us * 1e-6
    step.run_time += run_s
    step.wait_time += wait_s
    step.cpu_time += cpu_s
    if peak and peak > (step.memory_peak or 0):
        step.memory_peak = peak
    step.history.append(
        AttemptMetrics(_ENDS[kind], worker, queued_at, started_at, at + epoch_s, run_s, wait_s, cpu_s, peak, error)
    )


def _sum_up(found: WorkflowMetrics, steps: list[StepMetrics], lanes: list[int]) -> None:
    """Adds the steps, and all that is a sum or a count over them."""
    run_s = [0.0] * len(LANE_NAMES)
    for step, lane in zip(steps, lanes, strict=True):
        run_s[lane] += step.run_time
    states = Counter([step.status for step in steps])
    found.total_steps, found.steps = len(steps), {step.step_id: step for step in steps}
    found.successful_steps, found.failed_steps = states[STATE_NAMES[SUCCEEDED]], states[STATE_NAMES[FAILED]]
    found.failed_steps += states[STATE_NAMES[TIMED_OUT]]
    found.run_time = dict(zip(LANE_NAMES, run_s, strict=True))
    found.peak_memory = max([step.memory_peak for step in steps if step.memory_peak], default=None)
    if found.total_duration >= _INSTANT_S:
        found.parallelism_factor = sum(run_s) / found.total_duration


def _utilization(
    run_time: Mapping[str, float], capacities: list[tuple[float, list[int]]], ended: float
) -> dict[str, float]:
    """Busy slot-seconds / slot-seconds of each lane; the cluster may have changed in between."""
    slot_s = [0.0] * len(LANE_NAMES)
    ends = [at for at, _ in capacities[1:]] + [ended]
    for (at, slots), until in zip(capacities, ends, strict=False):
        for lane, count in enumerate(slots):
            slot_s[lane] += count * (until - at)
    return {name: run_time[name] / total if total > 0 else 0.0 for name, total in zip(LANE_NAMES, slot_s, strict=True)}


def _waves(steps: list[StepMetrics], graph: Graph) -> list[WaveMetrics]:
    waves: list[WaveMetrics] = []
    depths: list[int] = []
    for step, inputs, after in zip(steps, graph.inputs, graph.after, strict=True):
        depth = 1 + max([depths[other] for other in inputs + after], default=-1) if inputs or after else 0
        depths.append(depth)
        if depth == len(waves):
            waves.append(WaveMetrics([]))
        wave = waves[depth]
        wave.steps.append(step.step_id)
        wave.run_time += step.run_time
        if step.started_at is not None and (wave.started_at is None or step.started_at < wave.started_at):
            wave.started_at = step.started_at
        if step.ended_at is not None and (wave.ended_at is None or step.ended_at > wave.ended_at):
            wave.ended_at = step.ended_at
    return waves
