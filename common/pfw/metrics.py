"""What a run cost: computed from its facts, in every ending."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pfw.facts import (
    CANCELLED,
    EXPANDED,
    FACT_CANCELLED,
    FACT_CAPACITY,
    FACT_EXPANDED,
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
    FACT_EXPANDED: STATE_NAMES[EXPANDED],
}
#: Kinds of facts that say what a step went through.
_OF_STEPS = frozenset({*_ENDS, FACT_STARTED, FACT_SKIPPED})
#: A run shorter than this has no parallelism to speak of, s.
_INSTANT_S = 1e-6


@dataclass(slots=True)
class AttemptMetrics:
    """One try of a step. Times are wall-clock seconds since 1970, durations seconds."""

    #: SUCCEEDED, FAILED, TIMED_OUT, CANCELLED, or EXPANDED: it returned a Workflow.
    status: str
    worker: str
    #: When everything it needed was there, when it began, and when its end was known.
    queued_at: float
    started_at: float
    ended_at: float
    #: How long its code ran once it was loaded, and how long it had waited for a slot.
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
    steps: Mapping[str, StepMetrics] = field(default_factory=dict)

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
    return dict(found) if isinstance(found, _Steps) else {name: getattr(found, name) for name in found.__slots__}


class _Steps(Mapping[str, StepMetrics]):
    """The steps of a run; each is made when it is first asked for, since that takes ten times as long as the sums."""

    def __init__(
        self,
        graph: Graph,
        ids: Sequence[str],
        states: Sequence[int],
        rows: Callable[[int], Sequence[FactRow]],
        workers: Mapping[int, str],
        epoch_s: float,
    ) -> None:
        self._graph, self._ids, self._states, self._rows = graph, ids, states, rows
        self._workers, self._epoch_s = workers, epoch_s
        self._index: dict[str, int] = {}
        self._made: dict[str, StepMetrics] = {}

    def __getitem__(self, step_id: str) -> StepMetrics:
        found = self._made.get(step_id)
        if found is None:
            if not self._index:
                self._index = {name: index for index, name in enumerate(self._ids)}
            step = self._index[step_id]
            tags = self._graph.specs[self._graph.spec_of[step]].tags
            found = self._made[step_id] = StepMetrics(step_id, STATE_NAMES[self._states[step]], tags=list(tags))
            for row in self._rows(step):
                _add(found, row, self._workers, self._epoch_s)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return repr(dict(self))


class _History:
    """The facts of each step; few steps have several, so that those are kept apart."""

    def __init__(self, count: int) -> None:
        #: By step.
        self.last: list[FactRow | None] = [None] * count
        #: {step: all of its facts but the last one}, of steps that have several.
        self._earlier: dict[int, list[FactRow]] = {}

    def note_several(self, step: int) -> None:
        """The step's last fact is about to be followed by another one."""
        self._earlier.setdefault(step, []).append(self.last[step])  # type: ignore[arg-type]  # there is one

    def of(self, step: int) -> Sequence[FactRow]:
        """The step's facts, in order."""
        last = self.last[step]
        return () if last is None else (*self._earlier.get(step, ()), last)

    def of_all(self, steps: Sequence[int]) -> Sequence[FactRow]:
        """The facts of these steps, in no order."""
        found = [row for step in steps if (row := self.last[step]) is not None]
        return [*found, *[row for step in self._earlier.keys() & set(steps) for row in self._earlier[step]]]


def measure(
    rows: Sequence[FactRow],
    graph: Graph,
    states: Sequence[int],
    workers: Mapping[int, str],
    epoch_s: float,
    now: float,
    fragments: Sequence[tuple[int, int, int]] = (),
) -> WorkflowMetrics:
    """The metrics of a run. 0.5 µs a step, as little as possible of it in Python: it is done when the run has ended.

    Args:
        rows: Its facts.
        graph: Its steps; there may be more than states, where some are added meanwhile.
        states: Step states by index.
        workers: Worker names by number.
        epoch_s: Wall clock minus the clock of the rows.
        now: The time on the clock of the rows, for a run that goes on.
        fragments: Steps that took another's place: (first, how many, in whose place).
    """
    ids, states = graph.ids[: len(states)], bytes(states)
    lanes = [graph.specs[spec].lane for spec in graph.spec_of[: len(ids)]]
    began, ended, retries, peak_bytes = now, now, 0, 0
    run_s = [0.0] * len(LANE_NAMES)
    capacities: list[tuple[float, list[int]]] = []
    history = _History(len(ids))
    last = history.last
    for row in rows:
        kind, step = row[0], row[1]
        if kind in _OF_STEPS:
            if last[step] is not None:
                history.note_several(step)
            last[step] = row
            run_s[lanes[step]] += row[7]
            if row[10] > peak_bytes:
                peak_bytes = row[10]
            if kind == FACT_RETRYING:
                retries += 1
        elif kind == FACT_FINISHED:
            ended = row[2]
        elif kind in (FACT_RUN_STARTED, FACT_CAPACITY):
            began = row[2] if kind == FACT_RUN_STARTED else began
            capacities.append((row[2], unpack_capacity(row[8])))
    duration_s = max(0.0, ended - began)
    run_time = dict(zip(LANE_NAMES, run_s, strict=True))
    return WorkflowMetrics(
        total_duration=duration_s,
        parallelism_factor=sum(run_s) / duration_s if duration_s >= _INSTANT_S else 1.0,
        resource_utilization=_utilization(_busy_s(run_s, graph, history), capacities, ended),
        peak_memory=peak_bytes or None,
        total_steps=len(ids),
        successful_steps=states.count(SUCCEEDED),
        failed_steps=states.count(FAILED) + states.count(TIMED_OUT),
        retries=retries,
        run_time=run_time,
        waves=_waves(graph, ids, history, epoch_s, fragments),
        steps=_Steps(graph, ids, states, history.of, workers, epoch_s),
    )


def _is_of_others(step: StepMetrics, kind: int, attempt: int) -> bool:
    """Whether others ran in the step's place: its own code has ended before, or never begun."""
    is_expanded = bool(step.history) and step.history[-1].status == _ENDS[FACT_EXPANDED]
    return is_expanded if attempt else kind not in (FACT_CANCELLED, FACT_STARTED)


def _add(step: StepMetrics, row: FactRow, workers: Mapping[int, str], epoch_s: float) -> None:
    kind, _, at, attempt, number, queued_at, started_at, run_s, payload, cpu_us, peak_bytes = row
    if kind not in (FACT_STARTED, FACT_RETRYING):
        step.ended_at = at + epoch_s
    if kind == FACT_SKIPPED:
        return
    step.attempts = attempt
    if step.queued_at is None and queued_at:
        step.queued_at = queued_at + epoch_s
    if _is_of_others(step, kind, attempt):
        step.error = Failure.unpack(payload).headline if kind == FACT_FAILED else None
        return
    if not _has_run(row):
        return
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


def _busy_s(run_s: Sequence[float], graph: Graph, history: _History) -> list[float]:
    """Slot-seconds by lane: run times, but a wide step keeps several slots busy."""
    busy_s = list(run_s)
    if any(spec.slots > 1 for spec in graph.specs):
        for step in range(len(history.last)):
            spec = graph.specs[graph.spec_of[step]]
            busy_s[spec.lane] += (spec.slots - 1) * sum([row[7] for row in history.of(step)])
    return busy_s


def _utilization(busy_s: Sequence[float], capacities: list[tuple[float, list[int]]], ended: float) -> dict[str, float]:
    """Busy slot-seconds / slot-seconds of each lane; the cluster may have changed in between."""
    slot_s = [0.0] * len(LANE_NAMES)
    ends = [at for at, _ in capacities[1:]] + [ended]
    for (at, slots), until in zip(capacities, ends, strict=False):
        for lane, count in enumerate(slots):
            slot_s[lane] += count * (until - at)
    shares = [busy / total if total > 0 else 0.0 for busy, total in zip(busy_s, slot_s, strict=True)]
    return dict(zip(LANE_NAMES, shares, strict=True))


def _waves(
    graph: Graph, ids: Sequence[str], history: _History, epoch_s: float, fragments: Sequence[tuple[int, int, int]]
) -> list[WaveMetrics]:
    waves: list[list[int]] = []
    depths: list[int] = []
    outer = {first + n: step for first, count, step in fragments for n in range(count)}
    for step, (inputs, after) in enumerate(zip(graph.inputs[: len(ids)], graph.after, strict=False)):
        if step in outer:
            depth = depths[outer[step]]  # it runs within the wave of the step in whose place it is
        elif inputs or after:
            depth = 1 + max([depths[other] for other in inputs + after])
        else:
            depth = 0
        depths.append(depth)
        if depth == len(waves):
            waves.append([])
        waves[depth].append(step)
    return [_wave([ids[step] for step in steps], history.of_all(steps), epoch_s) for steps in waves]


def _wave(ids: list[str], rows: Sequence[FactRow], epoch_s: float) -> WaveMetrics:
    started = [row[6] for row in rows if row[0] == FACT_SUCCEEDED or _has_run(row)]
    ended = [row[2] for row in rows if row[0] not in (FACT_STARTED, FACT_RETRYING)]
    return WaveMetrics(
        ids,
        min(started) + epoch_s if started else None,
        max(ended) + epoch_s if ended else None,
        sum([row[7] for row in rows]),
    )


def _has_run(row: FactRow) -> bool:
    """Whether the row is of an attempt that began: a step may be cancelled before its first one, or between two."""
    kind = row[0]
    return kind != FACT_SKIPPED and row[3] > 0 and (row[4] > 0 or kind != FACT_CANCELLED)
