"""RunLife under random schedules, compared after every event with an oracle that recomputes everything from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import invariants
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
    RUN_CANCELLED,
    RUN_FAILED,
    RUN_RUNNING,
    RUN_STOPPING,
    RUN_SUCCEEDED,
    RUN_TIMED_OUT,
    SKIPPED,
    SUCCEEDED,
    TIMED_OUT,
    WAITING,
)
from pfw.graph import IF_ALL, IF_ALWAYS, IF_ANY, Graph
from pfw.lifecycle import RunLife
from pfw.wire import pack_fragment, pack_graph, unpack_fragment, unpack_graph

_FINAL = {
    FACT_SUCCEEDED: SUCCEEDED, FACT_FAILED: FAILED, FACT_CANCELLED: CANCELLED, FACT_SKIPPED: SKIPPED,
    FACT_TIMED_OUT: TIMED_OUT,
}  # fmt: skip
EVENTS = ("ok", "retryable", "error", "timeout", "crash", "loss", "not started", "stopped")
#: Longer than everything but backoffs takes.
RUN_TIMEOUT_S = 1_000.0


@dataclass
class Oracle:
    """What the states must be, the slow way."""

    graph: Graph
    mode: str
    on_failure: str
    is_open: bool
    #: Of each step.
    run_if: list[int]
    #: {tail: the step that waits for it}, {step of a fragment: the step that it stands for}
    tails: dict[int, int] = field(default_factory=dict)
    outer: dict[int, int] = field(default_factory=dict)
    states: list[int] = field(default_factory=list)
    counts: dict[tuple[str, int], int] = field(default_factory=dict)
    is_stopping: bool = False
    discards: bool = False
    is_cancelled: bool = False
    is_timed_out: bool = False

    def dependencies(self, step: int) -> set[int]:
        return {*self.graph.inputs[step], *self.graph.after[step]}

    def depth(self, step: int) -> int:
        if step in self.outer:
            return self.depth(self.outer[step])
        return 1 + max(map(self.depth, self.dependencies(step)), default=-1)

    def settle(self) -> None:
        """Skips, cancels and readies until nothing changes."""
        self.states.extend([WAITING] * (len(self.graph.ids) - len(self.states)))
        before: list[int] = []
        while before != self.states:
            before = list(self.states)
            for step, state in enumerate(self.states):
                if state == WAITING:
                    self.states[step] = self.decide(step)
            for tail, step in self.tails.items():
                if self.states[step] == EXPANDED and self.states[tail] >= SUCCEEDED:
                    self.states[step] = FAILED if self.states[tail] == SKIPPED else self.states[tail]
            for step, state in enumerate(self.states):
                if state < ASSIGNED and not self.may_try(step):
                    self.states[step] = CANCELLED

    def decide(self, step: int) -> int:
        """The state of a waiting step, as what it depends on has it."""
        ended = {self.states[dependency] for dependency in self.dependencies(step)}
        if self.run_if[step] == IF_ALL:
            if ended & {FAILED, SKIPPED, CANCELLED, TIMED_OUT}:
                return SKIPPED
            return READY if ended <= {SUCCEEDED} else WAITING
        if ended and min(ended) < SUCCEEDED:
            return WAITING
        if self.run_if[step] == IF_ALWAYS or not ended or SUCCEEDED in ended:
            return READY
        return CANCELLED if ended == {CANCELLED} else SKIPPED

    def may_try(self, step: int) -> bool:
        return not self.is_stopping or (self.run_if[step] != IF_ALL and not self.discards)

    def may_start(self) -> set[int]:
        """Ready steps; in waves mode those of the first wave that has not ended."""
        ready = {step for step, state in enumerate(self.states) if state == READY}
        if self.mode == "waves":
            going = [self.depth(step) for step, state in enumerate(self.states) if state < SUCCEEDED]
            ready = {step for step in ready if self.depth(step) <= min(going)}
        return ready

    def expand(self, step: int, fragment: Graph, first: int) -> None:
        """An attempt returns a workflow."""
        if self.is_stopping:
            self.states[step] = CANCELLED
        else:
            self.states[step] = EXPANDED
            self.graph.ids.extend(fragment.ids)
            self.graph.inputs.extend(fragment.inputs)
            self.graph.after.extend(fragment.after)
            self.run_if.extend(run_if_of(fragment))
            self.tails[first + len(fragment.ids) - 1] = step
            self.outer.update(dict.fromkeys(range(first, first + len(fragment.ids)), step))
        self.settle()

    def end(self, step: int, event: str) -> None:
        """An attempt ends."""
        if self.discards or event == "stopped":
            self.states[step] = CANCELLED
        elif event == "ok":
            self.states[step] = SUCCEEDED
        elif event == "not started":
            self.states[step] = READY if self.may_try(step) else CANCELLED
        elif self._may_try_again(event, step) and self._charge("try", step) <= self.graph.specs[0].retries:
            self.states[step] = BACKOFF
        elif event in ("crash", "loss") and self._charge(event, step) < 3 and self.may_try(step):
            self.states[step] = READY
        else:
            self._fail(step, TIMED_OUT if event == "timeout" else FAILED)
        self.settle()

    def _may_try_again(self, event: str, step: int) -> bool:
        is_allowed = event == "retryable" or (event == "timeout" and self.graph.specs[0].retries_timeouts)
        return bool(is_allowed and self.may_try(step))

    def _charge(self, what: str, step: int) -> int:
        self.counts[what, step] = self.counts.get((what, step), 0) + 1
        return self.counts[what, step]

    def _fail(self, step: int, state: int) -> None:
        self.states[step] = state
        self.settle()
        if self.on_failure != "continue":
            self.discards = self.discards or (self.on_failure == "abort" and not self.is_stopping)
            self.is_stopping = True

    def cancel(self) -> None:
        self.is_stopping = self.discards = self.is_cancelled = True
        self.is_open = False
        self.settle()

    def status(self) -> int:
        if self.is_open or min(self.states, default=SUCCEEDED) < SUCCEEDED:
            return RUN_STOPPING if self.is_stopping else RUN_RUNNING
        if self.is_cancelled:
            return RUN_TIMED_OUT if self.is_timed_out else RUN_CANCELLED
        return RUN_FAILED if {FAILED, TIMED_OUT} & set(self.states) else RUN_SUCCEEDED


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
        invariants.check_life(life)
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


def run_if_of(graph: Graph) -> list[int]:
    return [graph.specs[spec].run_if for spec in graph.spec_of]


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
        actions += ["extend", "close"] if schedule.life.is_open else []
        action = data.draw(st.sampled_from(actions), "action")
        if action == "take":
            schedule.take()
        elif action == "end":
            event = data.draw(st.sampled_from(EVENTS if schedule.oracle.discards else EVENTS[:-1]), "event")
            schedule.end(data.draw(st.sampled_from(schedule.running), "step"), event)
        elif action == "expand":
            rows = data.draw(dependencies(0, 3, tolerant=True))
            schedule.expand(data.draw(st.sampled_from(schedule.running), "step"), rows, retries)
        elif action == "wake":
            schedule.let_backoffs_end()
        elif action == "extend":
            rows = data.draw(dependencies(len(schedule.oracle.states), 3, tolerant=False))
            schedule.extend(fragment_of(rows, retries))
        elif action == "close":
            schedule.close()
        elif action == "time out":
            schedule.time_out()
        else:
            schedule.cancel()
    finish(schedule)


def finish(schedule: Schedule) -> None:
    """Whatever has happened, a run ends once all that is ready is carried out."""
    schedule.close()
    while not schedule.life.is_finished:
        schedule.let_backoffs_end()
        while any(queue.count for queue in schedule.life.ready):
            schedule.take()
        for step in schedule.running:
            schedule.end(step, "ok")
    if schedule.was_open:
        schedule.life.release(len(schedule.life.facts))
    assert not any(output is not None for output in schedule.life.outputs), "an output stays for nobody"
