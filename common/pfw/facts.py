"""What is kept of a run: states, and facts, one row for each thing that was decided. Rows travel as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

WAITING, READY, BACKOFF, ASSIGNED, EXPANDED, SUCCEEDED, FAILED, CANCELLED, SKIPPED, TIMED_OUT = range(10)
STATE_NAMES = (
    "WAITING", "READY", "BACKOFF", "ASSIGNED", "EXPANDED", "SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED", "TIMED_OUT",
)  # fmt: skip

RUN_RUNNING, RUN_STOPPING, RUN_SUCCEEDED, RUN_FAILED, RUN_CANCELLED, RUN_TIMED_OUT = range(6)
RUN_STATE_NAMES = ("RUNNING", "STOPPING", "SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT")

FACT_RUN_STARTED, FACT_STARTED, FACT_SUCCEEDED, FACT_RETRYING = range(4)
FACT_FAILED, FACT_CANCELLED, FACT_SKIPPED, FACT_FINISHED = range(4, 8)
#: The cluster has gained or lost slots while the run went on.
FACT_CAPACITY = 8
#: A piece of what an attempt has printed; the run's log, not its history.
FACT_PRINTED = 9
#: The output of a step that another one got as an input and failed with; beside the history as well.
FACT_INPUT = 10
#: Facts that are no part of the history.
ASIDE = frozenset({FACT_PRINTED, FACT_INPUT})
FACT_TIMED_OUT = 11
#: Facts of steps that have failed for good.
FAILURES = (FACT_FAILED, FACT_TIMED_OUT)
#: No worker there is can ever be given the step; the payload says why.
FACT_WAITING = 12
#: The step gave way to a fragment; another fact will tell its end.
FACT_EXPANDED = 13
#: How far an attempt says that it is.
FACT_PROGRESSED = 14

#: Why the side of a branch that is not taken is skipped.
REASON_BRANCH = b"branch"

#: What an attempt cost beside its time: the last two cells of an outcome and of a fact.
Cost: TypeAlias = tuple[int, int]
UNMEASURED: Cost = (0, 0)


#: How a step came to its end that was cancelled: part of the payload of its fact.
ENDED_NEVER_STARTED, ENDED_ITSELF, ENDED_INTERRUPTED, ENDED_KILLED, ENDED_ANYWAY, ENDED_LOST = range(6)
#: It waited for its next attempt.
ENDED_NOT_AGAIN = 6
ENDED_NAMES = (
    "never started", "stopped itself", "interrupted", "killed", "finished anyway", "lost with its worker",
    "not started again",
)  # fmt: skip
#: Of these, those in which nothing ran when the cancel came.
ENDED_UNSTARTED = (ENDED_NEVER_STARTED, ENDED_NOT_AGAIN)

#: Characters of a cancel's reason.
REASON_LIMIT = 10_000


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
    #: The output if it is kept, the packed failure, how a step was cancelled (`pack_end`), why a run was or a step was
    #: skipped or waits, what was printed, or an input; for RUN_STARTED and CAPACITY the packed number of slots in each
    #: lane; for EXPANDED the packed fragment (empty: that of an earlier fact, or of another run); for PROGRESSED the
    #: packed progress.
    payload: bytes
    #: What the attempt cost: CPU time in µs, and peak memory in bytes, each 0 where it was not measured.
    cpu_us: int = 0
    peak_bytes: int = 0


#: Builds a Fact from one tuple; a third of the time of `Fact(...)`, which counts at one or two facts a step.
new_fact = partial(tuple.__new__, Fact)


def pack_capacity(slots: Sequence[int]) -> bytes:
    """The slots of a cluster, lane by lane, as a fact's payload."""
    return b" ".join([b"%d" % count for count in slots])


def unpack_capacity(payload: bytes) -> list[int]:
    """What `pack_capacity` was given; empty where nothing was said."""
    return [int(count) for count in payload.split()]


def pack_end(how: int, after_ms: int, reason: bytes) -> bytes:
    """The payload of FACT_CANCELLED: one of ENDED_, the time since the cancel, why the run was cancelled."""
    return b"%d %d %b" % (how, after_ms, reason)


def unpack_end(payload: bytes) -> tuple[int, int, str]:
    """What `pack_end` was given."""
    how, after_ms, reason = payload.split(b" ", 2)
    return int(how), int(after_ms), reason.decode()


def sendable_reason(reason: object) -> str:
    """A reason in words that can be sent, whatever was given as one."""
    return str(reason or "cancelled").encode("utf-8", "replace").decode()[:REASON_LIMIT]


def pack_progress(done: float, total: float, message: str) -> bytes:
    """How far an attempt is, as a fact's payload; a total of 0 is not known."""
    return f"{done!r} {total!r} {message}".encode(errors="replace")


def unpack_progress(payload: bytes) -> tuple[float, float, str]:
    """What `pack_progress` was given."""
    done, total, message = payload.decode().split(" ", 2)
    return float(done), float(total), message
