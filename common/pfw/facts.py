"""What is kept of a run: states, and facts, one row for each thing that was decided. Rows travel as they are."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

WAITING, READY, BACKOFF, ASSIGNED, SUCCEEDED, FAILED, CANCELLED, SKIPPED = range(8)
STATE_NAMES = ("WAITING", "READY", "BACKOFF", "ASSIGNED", "SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED")

RUN_RUNNING, RUN_STOPPING, RUN_SUCCEEDED, RUN_FAILED, RUN_CANCELLED = range(5)
RUN_STATE_NAMES = ("RUNNING", "STOPPING", "SUCCEEDED", "FAILED", "CANCELLED")

FACT_RUN_STARTED, FACT_STARTED, FACT_SUCCEEDED, FACT_RETRYING = range(4)
FACT_FAILED, FACT_CANCELLED, FACT_SKIPPED, FACT_FINISHED = range(4, 8)


class Fact(NamedTuple):
    """One row of a run's history. Times are seconds on the clock of whoever drives the run."""

    kind: int
    #: Index of the step; 0 for facts of the run itself.
    step: int
    at: float
    #: Attempt number from 1; for SKIPPED the index of the step that caused it; for FINISHED the run's state.
    attempt: int
    #: Number of the worker, from 1; 0 where none took part.
    worker: int
    queued_at: float
    started_at: float
    #: Seconds the attempt's code ran, waiting excluded.
    run_s: float
    #: The output if it is kept, the packed failure, or the reason of a cancel.
    payload: bytes


#: Builds a Fact from one tuple; a third of the time of `Fact(...)`, which counts at one or two facts a step.
new_fact = partial(tuple.__new__, Fact)
