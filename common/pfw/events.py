"""What happens in a run, as its caller hears it.

Events are derived from the run's facts: a fact of a short step says when it was queued and started as well as how it
ended, so three events cost one row on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, NamedTuple, Protocol, TypeVar

from pfw.facts import (
    ENDED_NAMES,
    ENDED_UNSTARTED,
    FACT_CANCELLED,
    FACT_EXPANDED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_PROGRESSED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    FACT_WAITING,
    RUN_STATE_NAMES,
    SUCCEEDED,
    unpack_end,
    unpack_progress,
)
from pfw.failure import Failure
from pfw.messages import FactRow

#: Onlookers who are behind by more facts than this are told of `Queued` and `Started` in numbers.
COUNT_ABOVE = 1_000
#: The status in `RunFinished` of a run that nothing more will be heard of.
LOST = "LOST"


class _Fields(NamedTuple):
    run_id: str
    step_id: str | None
    timestamp: float
    attempt: int = 0
    worker: str = ""
    duration: float | None = None
    error: str | None = None
    message: str | None = None
    steps: int = 1
    done: float | None = None
    total: float | None = None


class Event(_Fields):
    """Something that happened to a step, or to the run. Events cannot be changed.

    Attributes:
        type: The name of the event's class.
        run_id: Of the run.
        step_id: Of the step; None for the run itself, and where several steps are counted.
        timestamp: Wall-clock time, s since 1970.
        attempt: Which try of the step, from 1; 0 where none had begun.
        worker: Its name; "" where none took part.
        duration: Seconds the attempt's code ran; for RunFinished from the run's start.
        error: What went wrong: type and message of the exception.
        message: Why, in words; for RunStarted the name of the workflow, for RunFinished the run's status.
        steps: How many steps it is about: those of the run; or more than 1 where Queued or Started are counted.
        done: For Progressed how much is done, in the step's own unit.
        total: For Progressed how much there is to do; None where that is not known.
    """

    __slots__ = ()

    type: ClassVar[str] = "Event"

    def __init_subclass__(cls) -> None:
        cls.type = cls.__name__

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = _Fields.__hash__


class RunStarted(Event):
    """The run was accepted."""

    __slots__ = ()


class Queued(Event):
    """Everything the step depends on is there."""

    __slots__ = ()


class Started(Event):
    """An attempt executes."""

    __slots__ = ()


class Completed(Event):
    """The step succeeded."""

    __slots__ = ()


class Progressed(Event):
    """The step says how far it is (`current().progress`); what it said in between may be left out."""

    __slots__ = ()


class Retrying(Event):
    """An attempt failed, and there will be another."""

    __slots__ = ()


class Failed(Event):
    """The step failed for good."""

    __slots__ = ()


class TimedOut(Event):
    """The step failed for good, because its last attempt ran for longer than its timeout."""

    __slots__ = ()


class Cancelled(Event):
    """The step did not end by itself: its run was cancelled or stopped, or the cluster was lost.

    `message` says why, and how the step ended.
    """

    __slots__ = ()


class Expanded(Event):
    """The step returned a Workflow, which runs in its place; the step ends with it."""

    __slots__ = ()


class Skipped(Event):
    """The step cannot run, because one that it depends on did not succeed."""

    __slots__ = ()


class Waiting(Event):
    """No worker of the cluster can run the step now or later, or there is none; `message` says what is missing.

    It is told once for all steps of the run that take the same, and again when the reason has changed.
    """

    __slots__ = ()


class RunFinished(Event):
    """The run has ended."""

    __slots__ = ()


#: {kind of fact that ends an attempt or a step: its event}
OF_STEP: dict[int, type[Event]] = {
    FACT_SUCCEEDED: Completed,
    FACT_RETRYING: Retrying,
    FACT_FAILED: Failed,
    FACT_TIMED_OUT: TimedOut,
    FACT_CANCELLED: Cancelled,
    FACT_SKIPPED: Skipped,
    FACT_WAITING: Waiting,
    FACT_EXPANDED: Expanded,
}

#: Build an event from one tuple; a quarter of the time of `Completed(...)`.
_new_queued, _new_started = partial(tuple.__new__, Queued), partial(tuple.__new__, Started)
_new_completed = partial(tuple.__new__, Completed)

T = TypeVar("T")


class FactReader(Protocol[T]):
    """Turns a run's facts, read in order, into what somebody is told of them."""

    def read(self, rows: Sequence[FactRow], epoch_s: float, *, may_count: bool = False) -> list[T]:
        """What these rows mean."""

    def conclude(self, states: Iterable[int], error: Exception, timestamp: float) -> list[T]:
        """What is said last of a run of which nothing more will be heard."""


class EventReader:
    """Turns a run's facts, read in order, into events."""

    def __init__(self, run_id: str, ids: Sequence[str], workers: Mapping[int, str], name: str = "") -> None:
        """Makes one, not yet at work.

        Args:
            run_id: Of the run.
            ids: Step ids by index; may grow.
            workers: Worker names by number; may grow.
            name: Of the workflow.
        """
        self._run_id, self._name, self._ids, self._workers = run_id, name, ids, workers
        #: {step: attempt that is known to execute}
        self._started: dict[int, int] = {}
        #: Of steps in whose place others run: how long their own code ran.
        self.own_run_s: dict[int, float] = {}
        self._began = 0.0

    def read(self, rows: Sequence[FactRow], epoch_s: float, *, may_count: bool = False) -> list[Event]:
        """The events of these rows. 1 µs a step where they are counted, else 2.

        Args:
            rows: Facts, in order, each once.
            epoch_s: Wall clock minus the clock of the rows.
            may_count: Whether, of many rows, `Queued` and `Started` of steps that have ended meanwhile come as one
                event each, with their number.
        """
        events: list[Event] = []
        counted: list[FactRow] | None = [] if may_count and len(rows) > COUNT_ABOVE else None
        for row in rows:
            kind = row[0]
            if kind in OF_STEP:
                if self.is_news(row):
                    if counted is None:
                        events += self.before(row, epoch_s)
                    else:
                        counted.append(row)
                events.append(self.end(row, epoch_s))
            else:
                events += self.other(row, epoch_s)
        if counted:
            at = int(rows[0][0] == FACT_RUN_STARTED)
            events[at:at] = self.count(counted, epoch_s)
        return events

    def other(self, row: FactRow, epoch_s: float) -> list[Event]:
        """The events of a fact that ends no attempt."""
        kind, step, at, attempt, *_ = row
        if kind == FACT_RUN_STARTED:
            self._began = at
            return [RunStarted(self._run_id, None, at + epoch_s, message=self._name, steps=len(self._ids))]
        if kind == FACT_FINISHED:
            return [self._run_finished(at, epoch_s, RUN_STATE_NAMES[attempt])]
        if kind not in (FACT_STARTED, FACT_PROGRESSED):
            return []
        events = [] if self._started.get(step) == attempt else self.before(row, epoch_s)
        self._started[step] = attempt
        return [*events, self._progressed(row, epoch_s)] if kind == FACT_PROGRESSED else events

    def conclude(self, states: Iterable[int], error: Exception, timestamp: float) -> list[Event]:
        """The last events of a run of which nothing more will be heard: the cluster is lost, or the client closed."""
        text = f"{type(error).__name__}: {error}"
        steps = [step for step, state in enumerate(states) if state < SUCCEEDED]
        events: list[Event] = [Cancelled(self._run_id, self._ids[step], timestamp, message=text) for step in steps]
        return [*events, RunFinished(self._run_id, None, timestamp, error=text, message=LOST, steps=len(self._ids))]

    def _run_finished(self, at: float, epoch_s: float, status: str) -> Event:
        duration, steps = at - self._began, len(self._ids)
        return RunFinished(self._run_id, None, at + epoch_s, duration=duration, message=status, steps=steps)

    def _progressed(self, row: FactRow, epoch_s: float) -> Event:
        done, total, message = unpack_progress(row[8])
        step_id, name = self._ids[row[1]], self._workers.get(row[4], "")
        return Progressed(
            self._run_id, step_id, row[2] + epoch_s, row[3], name, message=message or None, done=done,
            total=total or None,
        )  # fmt: skip

    def is_news(self, row: FactRow) -> bool:
        """Whether the attempt that ends here had begun without being told of. To be asked once, in order."""
        attempt = row[3]
        if self._started.pop(row[1], None) == attempt or attempt == 0:
            return False
        kind = row[0]
        return kind == FACT_SUCCEEDED or (
            kind not in (FACT_SKIPPED, FACT_WAITING) and (row[4] > 0 or kind != FACT_CANCELLED)
        )

    def before(self, row: FactRow, epoch_s: float) -> list[Event]:
        """What happened before the attempt ended that nobody was told of."""
        _, step, _, attempt, worker, queued_at, started_at, _, _, _, _ = row
        run_id, step_id, name = self._run_id, self._ids[step], self._workers.get(worker, "")
        started = _new_started((run_id, step_id, started_at + epoch_s, attempt, name, None, None, None, 1, None, None))
        if attempt > 1:
            return [started]
        return [_new_queued((run_id, step_id, queued_at + epoch_s, 0, "", None, None, None, 1, None, None)), started]

    def count(self, rows: list[FactRow], epoch_s: float) -> list[Event]:
        """As `before`, of all these rows in numbers."""
        queued, last = sum([row[3] == 1 for row in rows]), rows[-1]
        found: list[Event] = [Queued(self._run_id, None, last[5] + epoch_s, steps=queued)] if queued else []
        return [*found, Started(self._run_id, None, last[6] + epoch_s, steps=len(rows))]

    def end(self, row: FactRow, epoch_s: float) -> Event:
        """The event of a fact that ends an attempt or a step."""
        kind, step, at, attempt, worker, _, _, run_s, payload, _, _ = row
        step_id, name = self._ids[step], self._workers.get(worker, "")
        if self.own_run_s and kind != FACT_RETRYING:
            run_s = self.own_run_s.get(step, run_s)
        if kind == FACT_SUCCEEDED:
            return _new_completed(
                (self._run_id, step_id, at + epoch_s, attempt, name, run_s, None, None, 1, None, None)
            )
        error = message = None
        duration: float | None = run_s
        if kind in (FACT_FAILED, FACT_RETRYING, FACT_TIMED_OUT):
            error = Failure.unpack(payload).headline
        elif kind == FACT_CANCELLED:
            message = _how_cancelled(payload)
            duration = run_s if worker else None
        elif kind == FACT_WAITING:
            message, duration = payload.decode(), None
        elif kind == FACT_EXPANDED:
            # Its end is no news of an attempt.
            self.own_run_s[step], self._started[step] = run_s, attempt
        else:
            message, attempt, duration = payload.decode() or f"{self._ids[attempt]} failed", 0, None
        return OF_STEP[kind](self._run_id, step_id, at + epoch_s, attempt, name, duration, error=error, message=message)


def _how_cancelled(payload: bytes) -> str:
    how, after_ms, reason = unpack_end(payload)
    why = reason or "the run stopped after a failure"
    return f"{why}: {ENDED_NAMES[how]}" + (f" after {after_ms} ms" if how not in ENDED_UNSTARTED else "")
