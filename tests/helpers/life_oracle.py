"""What the life of a run must be, recomputed from scratch after every event."""

from __future__ import annotations

from dataclasses import dataclass, field

from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    EXPANDED,
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
from pfw.graph import IF_ALL, IF_ALWAYS, Graph


def run_if_of(graph: Graph) -> list[int]:
    return [graph.specs[spec].run_if for spec in graph.spec_of]


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
    #: Calls of which an attempt ran when they were cancelled, and those whose inner run is not over.
    unwanted: set[int] = field(default_factory=set)
    inner: set[int] = field(default_factory=set)

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
        if self.discards or event == "stopped" or step in self.unwanted:
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

    def cancel_calls(self, steps: list[int]) -> None:
        """Nobody wants what these steps return."""
        for step in [] if self.discards else steps:
            if self.states[step] == ASSIGNED:
                self.unwanted.add(step)
            elif self.states[step] < ASSIGNED:
                self.states[step] = CANCELLED
                self.settle()

    def end_inner(self, step: int, state: int) -> None:
        """A call ends as it did in its inner run."""
        if self.discards or state in (CANCELLED, SUCCEEDED):
            self.states[step] = CANCELLED if self.discards else state
        else:
            self._fail(step, state)
        self.settle()

    def status(self) -> int:
        if self.is_open or self.inner or min(self.states, default=SUCCEEDED) < SUCCEEDED:
            return RUN_STOPPING if self.is_stopping else RUN_RUNNING
        if self.is_cancelled:
            return RUN_TIMED_OUT if self.is_timed_out else RUN_CANCELLED
        return RUN_FAILED if {FAILED, TIMED_OUT} & set(self.states) else RUN_SUCCEEDED
