"""What became of each step of a run that was cancelled, read from the run's facts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pfw.facts import ENDED_NAMES, FACT_CANCELLED, SUCCEEDED, unpack_end

if TYPE_CHECKING:
    from pfw.record import RunRecord

ALREADY_DONE = "already done"
NOT_ENDED = "not ended"


class StepEnd(NamedTuple):
    """How one step came to its end."""

    #: "never started", "not started again" (it waited for its next attempt), "stopped itself" (by its token),
    #: "interrupted" (by `StepInterrupt`, or `task.cancel()` if it is `async def`), "killed", "finished anyway" (what it
    #: returned does not count), "lost with its worker", "already done" (before the cancel: its end stands), or "not
    #: ended" (so far).
    how: str
    #: Milliseconds from the cancel to its end; None where nothing had to end, or has ended.
    after_ms: int | None


@dataclass(frozen=True, slots=True)
class CancelReceipt:
    """What a cancel has done."""

    #: The run.
    run_id: str
    #: Why it was cancelled; "" if it had ended before.
    reason: str
    #: Whether the run has ended: nothing of it runs any more.
    is_complete: bool
    #: {id: how the step ended}
    steps: dict[str, StepEnd]

    @property
    def after_ms(self) -> int:
        """Milliseconds from the cancel to the end of the last step that had to be ended."""
        return max((end.after_ms for end in self.steps.values() if end.after_ms is not None), default=0)

    def counts(self) -> dict[str, int]:
        """`{how: number of steps}`, the most frequent first."""
        return dict(Counter(end.how for end in self.steps.values()).most_common())

    def to_dict(self) -> dict[str, Any]:
        """The receipt as plain data."""
        steps = {step: {"how": end.how, "after_ms": end.after_ms} for step, end in self.steps.items()}
        return {
            "run": self.run_id, "reason": self.reason, "is_complete": self.is_complete, "after_ms": self.after_ms,
            "counts": self.counts(), "steps": steps,
        }  # fmt: skip

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {how}" for how, count in self.counts().items())
        return f"{counts}; {f'all after {self.after_ms:,} ms' if self.is_complete else 'the run has not ended yet'}"


def read_receipt(record: RunRecord) -> CancelReceipt:
    """The receipt of a run as far as its facts are known."""
    done, open_end = StepEnd(ALREADY_DONE, None), StepEnd(NOT_ENDED, None)
    # Steps may be added meanwhile, with their ids before their states.
    ids, states = record.graph.ids, bytes(record.states)
    steps = {step: done if state >= SUCCEEDED else open_end for step, state in zip(ids, states, strict=False)}
    # Of many that never started the payloads are equal.
    known: dict[bytes, StepEnd] = {}
    for row in list(record.rows):
        if row[0] == FACT_CANCELLED:
            if row[8] not in known:
                how, after_ms, _ = unpack_end(row[8])
                known[row[8]] = StepEnd(ENDED_NAMES[how], after_ms)
            steps[ids[row[1]]] = known[row[8]]
    return CancelReceipt(record.run_id, record.cancel_reason, record.is_finished, steps)
