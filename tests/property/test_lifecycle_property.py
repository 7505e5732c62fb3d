"""RunLife under random schedules, compared after every event with an oracle that recomputes everything from scratch."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import invariants
from helpers.life_oracle import Oracle, run_if_of
from helpers.samples import graph_of, spec
from pfw.expansion import Fragment, shifted
from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    ENDED_ITSELF,
    EXPANDED,
    FACT_CANCELLED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_SKIPPED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    FAILED,
    READY,
    SKIPPED,
    SUCCEEDED,
    TIMED_OUT,
    Fact,
)
from pfw.graph import IF_ALL, IF_ALWAYS, IF_ANY, Graph
from pfw.graphs import pack_fragment, pack_graph, unpack_fragment, unpack_graph
from pfw.lifecycle import RunLife

_FINAL = {
    FACT_SUCCEEDED: SUCCEEDED, FACT_FAILED: FAILED, FACT_CANCELLED: CANCELLED, FACT_SKIPPED: SKIPPED,
    FACT_TIMED_OUT: TIMED_OUT,
}  # fmt: skip
EVENTS = ("ok", "retryable", "error", "timeout", "crash", "loss", "not started", "stopped")
INNER_ENDS = (FACT_SUCCEEDED, FACT_SUCCEEDED, FACT_FAILED, FACT_TIMED_OUT, FACT_CANCELLED)
#: Longer than everything but backoffs takes.
RUN_TIMEOUT_S = 1_000.0


def copy_of(graph: Graph) -> Graph:
    """A run makes the graph it is given its own."""
    return unpack_graph(pack_graph(graph), 1 << 20)


class Schedule:
    """Drives a RunLife and its oracle by the same events."""

    def __init__(self, graph: Graph, mode: str, on_failure: str, *, is_open: bool) -> None:
        self.life = RunLife(
            mode=mode, on_failure=on_failure, keep_all=True, is_open=is_open, seed=b"seed", timeout_s=RUN_TIMEOUT_S
        )
        self.oracle = Oracle(graph, mode, on_failure, is_open, run_if_of(graph))
        self.was_open = is_open
        self.now = 100.0
        self.stopped: list[int] = []
        self.life.start(copy_of(graph), self.now)
        self.oracle.settle()
        self.compare()

    def compare(self) -> None:
        life, oracle = self.life, self.oracle
        assert list(life.states) == oracle.states
        assert life.status == oracle.status()
        invariants.check_life(life, inner_runs=len(oracle.inner))
        queued = [step for queue in life.ready for bucket in queue._buckets.values() for step in bucket]
        assert sorted(queued) == sorted(oracle.may_start() if not life.is_finished else [])
        told = [(fact.step, fact.kind) for fact in life.facts if fact.kind in _FINAL]
        ended = {step: state for step, state in enumerate(oracle.states) if state >= SUCCEEDED}
        assert {step: _FINAL[kind] for step, kind in told} == ended
        assert len({step for step, _ in told}) == len(told), "an end was told twice"
        ends = [place for place, fact in enumerate(life.facts) if fact.kind == FACT_FINISHED]
        assert ends == ([len(life.facts) - 1] if life.is_finished else [])
        self.stopped += life.to_stop
        life.to_stop.clear()
        running = {step for step, state in enumerate(oracle.states) if state == ASSIGNED}
        assert not oracle.discards or running <= set(self.stopped)

    def take(self) -> None:
        queue = next(queue for queue in self.life.ready if queue.count)
        step = queue.heads()[0]
        assert queue.take() == [step]
        assert step in self.oracle.may_start()
        self.life.on_assigned(step)
        self.oracle.states[step] = ASSIGNED
        self.compare()

    def end(self, step: int, event: str) -> None:
        life, now = self.life, self.now
        if event == "ok":
            life.on_succeeded(step, 1, now, 0.1, b"out", now)
        elif event in ("retryable", "error"):
            life.on_failed(step, 1, now, 0.1, b"why", event == "retryable", now)
        elif event == "timeout":
            life.on_timed_out(step, 1, now, 0.1, b"why", now)
        elif event == "crash":
            life.on_crashed(step, 1, now, 0.1, b"why", now)
        elif event == "loss":
            life.on_lost(step, 1, b"why", now)
        elif event == "not started":
            life.on_not_started(step, 1, now)
        else:
            life.on_stopped(step, 1, ENDED_ITSELF, now)
        self.oracle.end(step, event)
        self.compare()

    def let_backoffs_end(self) -> None:
        wake_at = self.life.wake_at()
        if wake_at is not None and wake_at != self.life.deadline:
            self.now = max(self.now, wake_at) + 10.0
            self.life.on_time(self.now)
            self.oracle.states = [READY if state == BACKOFF else state for state in self.oracle.states]
            self.compare()

    def extend(self, fragment: Graph) -> None:
        first = len(self.oracle.states)
        self.oracle.graph.ids.extend(fragment.ids)
        self.oracle.graph.inputs.extend(fragment.inputs)
        self.oracle.graph.after.extend(fragment.after)
        self.oracle.run_if.extend(run_if_of(fragment))
        assert self.life.extend(copy_of(fragment), self.now) == first
        self.oracle.settle()
        self.compare()

    def time_out(self) -> None:
        """The deadline of the run comes."""
        deadline = self.life.deadline
        if deadline is not None:
            self.now = deadline
            self.life.on_time(self.now)
            self.oracle.is_timed_out = True
            self.oracle.cancel()
            self.compare()

    def expand(self, step: int, rows: list[Row], retries: int) -> None:
        first, fragment = len(self.life.states), fragment_of(with_tail(rows), retries)
        packed = pack_fragment(Fragment(fragment))
        self.life.on_expanded(step, 1, self.now, 0.1, unpack_fragment(packed), packed, self.now)
        self.oracle.expand(step, shifted(fragment, first), first)
        self.compare()

    def expand_apart(self, step: int) -> None:
        """A call returns a workflow."""
        if self.life.may_expand(step):
            self.life.on_expanded_apart(step, 1, self.now, 0.1, self.now)
            self.oracle.states[step] = EXPANDED
            self.oracle.inner.add(step)
        else:
            self.life.on_stopped(step, 1, ENDED_ITSELF, self.now)
            self.oracle.end(step, "stopped")
        self.compare()

    def end_inner(self, step: int, kind: int) -> None:
        """The call ends in its inner run; if it has ended, so does all else there."""
        if self.oracle.states[step] == EXPANDED:
            self.life.on_inner_end(step, Fact(kind, 0, self.now, 1, 1, self.now, self.now, 0.0, b"end"), self.now)
            self.oracle.end_inner(step, _FINAL[kind])
        else:
            self.life.on_inner_finished(self.now)
            self.oracle.inner.discard(step)
        self.compare()

    def cancel_calls(self, steps: list[int]) -> None:
        self.life.cancel_calls(steps, self.now)
        self.oracle.cancel_calls(steps)
        self.compare()

    def cancel(self) -> None:
        may = not self.life.is_finished and not self.oracle.is_cancelled
        assert self.life.cancel("enough", self.now) == may
        if may:
            self.oracle.cancel()
        self.compare()

    def close(self) -> None:
        self.life.close(self.now)
        self.oracle.is_open = False
        self.compare()

    @property
    def running(self) -> list[int]:
        return [step for step, state in enumerate(self.oracle.states) if state == ASSIGNED]


#: inputs, after, run_if
Row = tuple[tuple[int, ...], tuple[int, ...], int]


@st.composite
def dependencies(draw: st.DrawFn, first: int, most: int, *, tolerant: bool) -> list[Row]:
    """Some steps that follow `first` others."""
    rows = []
    for step in range(first, first + draw(st.integers(0 if first else 1, most))):
        chosen = draw(st.lists(st.integers(0, step - 1), max_size=3, unique=True)) if step else []
        cut = draw(st.integers(0, len(chosen)))
        run_if = draw(st.sampled_from([IF_ALL, IF_ALL, IF_ANY, IF_ALWAYS])) if tolerant else IF_ALL
        rows.append((tuple(chosen[:cut]), tuple(chosen[cut:]), run_if))
    return rows


def with_tail(rows: list[Row]) -> list[Row]:
    """The rows and one more, to which all of them lead."""
    needed = {dependency for inputs, after, _ in rows for dependency in (*inputs, *after)}
    return [*rows, (tuple(step for step in range(len(rows)) if step not in needed), (), IF_ALL)]


def fragment_of(rows: list[Row], retries: int) -> Graph:
    one = spec(retries=retries, backoff=1.0, retries_timeouts=retries % 2)
    specs = [one._replace(run_if=run_if) for *_, run_if in rows]
    return graph_of([inputs for inputs, _, _ in rows], after=[after for _, after, _ in rows], specs=specs)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_run_is_what_the_oracle_says_after_every_event(data: st.DataObject) -> None:
    is_open = data.draw(st.booleans(), "is_open")
    mode = "parallel" if is_open else data.draw(st.sampled_from(["parallel", "waves"]), "mode")
    on_failure = data.draw(st.sampled_from(["stop", "continue", "abort"]), "on_failure")
    retries = data.draw(st.integers(0, 2), "retries")
    graph = fragment_of(data.draw(dependencies(0, 8, tolerant=not is_open)), retries)
    schedule = Schedule(graph, mode, on_failure, is_open=is_open)
    for _ in range(data.draw(st.integers(0, 30), "events")):
        actions = ["take"] * 6 * any(queue.count for queue in schedule.life.ready)
        actions += ["end"] * 6 * bool(schedule.running)
        actions += ["expand"] * 3 * bool(schedule.running and not schedule.was_open)
        actions += ["wake"] * (BACKOFF in schedule.oracle.states) + ["cancel", "time out"]
        actions += ["extend", "close", "cancel calls"] if schedule.life.is_open else []
        actions += ["expand apart"] * 2 * bool(schedule.running and schedule.was_open)
        actions += ["end inner"] * 3 * bool(schedule.oracle.inner)
        action = data.draw(st.sampled_from(actions), "action")
        act(schedule, action, data, retries)
    finish(schedule)


def act(schedule: Schedule, action: str, data: st.DataObject, retries: int) -> None:
    """Does one thing."""
    plain = {
        "take": schedule.take, "wake": schedule.let_backoffs_end, "close": schedule.close,
        "time out": schedule.time_out, "cancel": schedule.cancel,
    }  # fmt: skip
    oracle = schedule.oracle
    if action in plain:
        plain[action]()
    elif action == "end":
        event = data.draw(st.sampled_from(EVENTS if oracle.discards else EVENTS[:-1]), "event")
        schedule.end(data.draw(st.sampled_from(schedule.running), "step"), event)
    elif action == "expand":
        rows = data.draw(dependencies(0, 3, tolerant=True))
        schedule.expand(data.draw(st.sampled_from(schedule.running), "step"), rows, retries)
    elif action == "extend":
        schedule.extend(fragment_of(data.draw(dependencies(len(oracle.states), 3, tolerant=False)), retries))
    elif action == "cancel calls":
        schedule.cancel_calls(data.draw(st.lists(st.integers(0, len(oracle.states) - 1), max_size=3)))
    elif action == "expand apart":
        schedule.expand_apart(data.draw(st.sampled_from(schedule.running), "step"))
    else:
        kind = data.draw(st.sampled_from(INNER_ENDS), "kind")
        schedule.end_inner(data.draw(st.sampled_from(sorted(oracle.inner)), "step"), kind)


def finish(schedule: Schedule) -> None:
    """Whatever has happened, a run ends once all that is ready is carried out."""
    schedule.close()
    while not schedule.life.is_finished:
        schedule.let_backoffs_end()
        while any(queue.count for queue in schedule.life.ready):
            schedule.take()
        for step in schedule.running:
            schedule.end(step, "ok")
        for step in sorted(schedule.oracle.inner):
            schedule.end_inner(step, FACT_SUCCEEDED)
    if schedule.was_open:
        schedule.life.release(len(schedule.life.facts))
    assert not any(output is not None for output in schedule.life.outputs), "an output stays for nobody"
