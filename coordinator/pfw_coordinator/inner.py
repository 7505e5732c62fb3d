"""Inner runs: what a single call gives way to when it returns a Workflow. Pure.

The steps of an open run are numbered by its client, so no others can come between them. A call that returns a Workflow
is EXPANDED in the open run, and its fragment is the business of a run of its own, which nobody follows:

* Its first step is the call once more, expanded there by the fragment as in every other run. How it ends there is
  how the call ends, told in the turn in which it is decided.
* Its facts are read here in each turn, so nothing is kept of what is over. When all in it has ended it is gone, and not
  before then has the open run ended.
* It is cancelled as every run is, by its number: when the open run is.
"""

from __future__ import annotations

from pfw.facts import FACT_CANCELLED, FACT_FINISHED, FACT_PRINTED, FACT_SUCCEEDED, FAILURES
from pfw.graph import Graph
from pfw.lifecycle import RunLife
from pfw_coordinator.ledger import Run

#: The call, among the steps of an inner run.
CALL = 0

_ENDS = frozenset({FACT_SUCCEEDED, FACT_CANCELLED, *FAILURES})


def make_inner(outer: Run, step: int, number: int, now: float) -> Run:
    """Makes the run of that number for a call, which may be expanded at once."""
    run_id, calls = f"{outer.id}-{step}", outer.life
    life = RunLife(on_failure=calls.on_failure, keep=(CALL,), seed=run_id.encode(), limits=calls.limits)
    life.start(Graph([calls.graph.ids[step]], [], [calls.spec(step)], [0], [0], [b""], [()], [()]), now)
    for queue in (*life.ready, *life.demanding.values()):
        queue.clear()
    life.on_assigned(CALL)
    inner = Run(number, run_id, outer.name, outer.session, b"", life)
    inner.outer, inner.outer_step = outer, step
    inner.priority, inner.started_at = outer.priority, now
    return inner


def relay(inner: Run, outer: Run, now: float) -> None:
    """Tells the open run what is new: what was printed, and how the call has ended."""
    for fact in inner.life.take_facts():
        if fact.kind == FACT_PRINTED:
            outer.life.on_printed(inner.outer_step, fact.worker, fact.payload, now)
        elif fact.step == CALL and fact.kind in _ENDS:
            outer.life.on_inner_end(inner.outer_step, fact, now)
        elif fact.kind == FACT_FINISHED:
            outer.life.on_inner_finished(now)
