"""What happens in a run, as its caller hears it.

Events are derived from the run's facts: a fact of a short step says when it was queued and started as well as how it
ended, so three events cost one row on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pfw.facts import (
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
    RUN_STATE_NAMES,
)
from pfw.failure import Failure
from pfw.messages import FactRow


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a step (or, with `step_id` None, to the run)."""

    #: The name of the event's class.
    type: ClassVar[str] = "Event"

    run_id: str
    step_id: str | None
    #: Wall-clock time, s since 1970.
    timestamp: float
    #: Which try of the step, from 1; 0 where none had begun.
    attempt: int = 0
    #: Name of the worker, "" where none took part.
    worker: str = ""
    #: Seconds the attempt's code ran; for RunFinished from the run's start.
    duration: float | None = None
    #: What went wrong: the type and message of the exception.
    error: str | None = None
    #: Why, in words.
    message: str | None = None

    def __init_subclass__(cls) -> None:
        cls.type = cls.__name__


class RunStarted(Event):
    """The run was accepted."""


class Queued(Event):
    """Everything the step depends on is there."""


class Started(Event):
    """An attempt executes."""


class Completed(Event):
    """The step succeeded."""


class Retrying(Event):
    """An attempt failed, and there will be another."""


class Failed(Event):
    """The step failed for good."""


class TimedOut(Event):
    """The step failed for good, because its last attempt ran for longer than its timeout."""


class Cancelled(Event):
    """The step did not end by itself: its run was cancelled or stopped."""


class Skipped(Event):
    """The step cannot run, because one that it depends on did not succeed."""


class RunFinished(Event):
    """The run has ended; `message` is its status."""


_OF_STEP: dict[int, type[Event]] = {
    FACT_SUCCEEDED: Completed,
    FACT_RETRYING: Retrying,
    FACT_FAILED: Failed,
    FACT_TIMED_OUT: TimedOut,
    FACT_CANCELLED: Cancelled,
    FACT_SKIPPED: Skipped,
}


class EventReader:
    """Turns a run's facts, read in order, into events."""

    def __init__(self, run_id: str, ids: Sequence[str], workers: Mapping[int, str]) -> None:
        """Makes one, not yet at work.

        Args:
            run_id: Of the run.
            ids: Step ids by index; may grow.
            workers: Worker names by number; may grow.
        """
        self._run_id, self._ids, self._workers = run_id, ids, workers
        self._queued: set[int] = set()
        self._started: set[tuple[int, int]] = set()
        self._began = 0.0

    def read(self, rows: Iterable[FactRow], epoch_s: float) -> Iterator[Event]:
        """The events of these rows.

        Args:
            rows: Facts, in order, each once.
            epoch_s: Wall clock minus the clock of the rows.
        """
        for kind, step, at, attempt, worker, queued_at, started_at, run_s, payload, _, _ in rows:
            if kind == FACT_CAPACITY:
                continue
            if kind == FACT_RUN_STARTED:
                self._began = at
                yield RunStarted(self._run_id, None, at + epoch_s)
            elif kind == FACT_FINISHED:
                status = RUN_STATE_NAMES[attempt]
                yield RunFinished(self._run_id, None, at + epoch_s, duration=at - self._began, message=status)
            else:
                name = self._workers.get(worker, "")
                if kind != FACT_SKIPPED and (attempt or kind == FACT_STARTED):
                    yield from self._before(step, attempt, name, queued_at + epoch_s, started_at + epoch_s)
                if kind != FACT_STARTED:
                    yield self._end(kind, step, at + epoch_s, attempt, name, run_s, payload)

    def _before(self, step: int, attempt: int, worker: str, queued_at: float, started_at: float) -> Iterator[Event]:
        if step not in self._queued:
            self._queued.add(step)
            yield Queued(self._run_id, self._ids[step], queued_at)
        if (step, attempt) not in self._started:
            self._started.add((step, attempt))
            yield Started(self._run_id, self._ids[step], started_at, attempt, worker)

    def _end(
        self, kind: int, step: int, timestamp: float, attempt: int, worker: str, run_s: float, payload: bytes
    ) -> Event:
        error = message = None
        if kind in (FACT_FAILED, FACT_RETRYING, FACT_TIMED_OUT):
            error = Failure.unpack(payload).headline
        elif kind == FACT_CANCELLED:
            message = payload.decode() or "the run stopped after a failure"
        elif kind == FACT_SKIPPED:
            message, attempt = f"{self._ids[attempt]} failed", 0
        duration = None if kind in (FACT_SKIPPED, FACT_CANCELLED) else run_s
        return _OF_STEP[kind](
            self._run_id, self._ids[step], timestamp, attempt, worker, duration, error=error, message=message
        )
