"""What is said about a run when it has ended: how long it took, how long it had to take, how busy the slots were."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pfw.graph import LANE_ASYNC
from pfw.metrics import LANE_NAMES
from pfw.runs import Run

#: The "lane" of sequential mode: this process, which executes one step at a time.
PROCESS = "process"
ASYNC = LANE_NAMES[LANE_ASYNC]
#: The longest value that is shown, in characters.
VALUE_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in figures."""

    run: str
    name: str
    #: SUCCEEDED, FAILED, CANCELLED, TIMED_OUT or, while it goes on, RUNNING or STOPPING.
    status: str
    #: {state: number of steps in it}
    steps: dict[str, int]
    retries: int
    #: Seconds from submission to the end.
    makespan_s: float
    #: Seconds that no schedule can be faster than, None where that is not known.
    lower_bound_s: float | None
    #: makespan / lower bound, None where there is no lower bound.
    ratio: float | None
    #: Sum of the run times / makespan.
    parallelism_factor: float
    #: {lane: slots}; lanes without slots are left out, and async where no `async def` step ran.
    slots: dict[str, int]
    #: {lane: busy slot-seconds / slot-seconds}
    utilisation: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            ("steps", self._steps_text()),
            ("makespan", f"{self.makespan_s:.3f} s"),
            *self._bound_rows(),
            ("parallelism", f"{self.parallelism_factor:.2f} steps at a time"),
            ("utilisation", self._utilisation_text()),
        ]
        lines = [f"{self.name}: {self.status}" + (f" (run {self.run})" if self.run else "")]
        return "\n".join([*lines, *(f"  {label:<12} {text}" for label, text in rows if text)])

    def _steps_text(self) -> str:
        states = ", ".join(f"{count:,} {state.lower()}" for state, count in self.steps.items())
        retries = f", {self.retries:,} {'retry' if self.retries == 1 else 'retries'}" if self.retries else ""
        return states + retries

    def _bound_rows(self) -> list[tuple[str, str]]:
        if self.lower_bound_s is None:
            return []
        rows = [("lower bound", f"{self.lower_bound_s:.3f} s = max(critical path, total / slots)")]
        return [*rows, ("ratio", f"{self.ratio:.3f}")] if self.ratio is not None else rows

    def _utilisation_text(self) -> str:
        return ", ".join(
            f"{lane} {share:.1%}" + (f" of {self.slots[lane]:,} slots" if lane != PROCESS else "")
            for lane, share in self.utilisation.items()
        )


def summarise(run: Run, slots: Mapping[str, int], lower_bound_s: float | None = None) -> Summary:
    """Makes the summary of a run.

    Args:
        run: It may have ended or not.
        slots: {lane: slots} that it could use.
        lower_bound_s: Seconds that no schedule can be faster than, if that is known.
    """
    metrics = run.metrics
    makespan_s = metrics.total_duration
    is_whole = run.status == "SUCCEEDED"
    slots = {lane: count for lane, count in slots.items() if count and (lane != ASYNC or metrics.run_time[ASYNC])}
    # In sequential mode every lane is this one process.
    shares = {**metrics.resource_utilization, PROCESS: sum(metrics.resource_utilization.values())}
    return Summary(
        run=run.id,
        name=run.name,
        status=run.status,
        steps=dict(Counter(run.states.values()).most_common()),
        retries=metrics.retries,
        makespan_s=makespan_s,
        lower_bound_s=lower_bound_s,
        # A run that did not do all of its work may well be faster than the bound.
        ratio=makespan_s / lower_bound_s if lower_bound_s and is_whole else None,
        parallelism_factor=metrics.parallelism_factor,
        slots=dict(slots),
        utilisation={lane: shares[lane] for lane in slots},
    )


def shorten(value: object) -> str:
    """The `repr` of a value, cut where it is long; never raises, whatever the value's own `__repr__` does."""
    short = reprlib.Repr()
    short.maxlevel = 5
    short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = short.maxdeque = short.maxdict = 12
    short.maxstring = short.maxother = short.maxlong = 300
    try:
        text = short.repr(value)
    except Exception as error:  # whatever the value's own code raises
        return f"<{type(value).__name__}: its __repr__ raised {type(error).__name__}>"
    return text if len(text) <= VALUE_CHARS else f"{text[: VALUE_CHARS - 3]}..."
