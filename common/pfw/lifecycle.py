"""The life of a run: which step may start, what an outcome means, when the run has ended.

Pure: no clock, no IO, no randomness. Every engine drives this one machine: the coordinator for clusters, the
sequential engine inline. It knows nothing of workers, messages or placement.

    WAITING --all dependencies succeeded--> READY --on_assigned--> ASSIGNED --on_succeeded--> SUCCEEDED
       |                                      ^                       |-- final failure ----> FAILED, TIMED_OUT
       |                                      |<-- crash, loss, not started, end of backoff
       |                                      +--- BACKOFF <-- retryable error, retries left
       |-- a dependency failed or was skipped --> SKIPPED
       +-- the run is cancelled or stops -------> CANCELLED      (so do READY and BACKOFF)

A step that returns a Workflow goes from ASSIGNED to EXPANDED, and ends as the steps in its place do: `pfw.expansion`.

A *tolerant* step (`run_if` "any" or "always") waits until everything it depends on has ended, however that was; it is
skipped only if it needs a success and there is none. It also starts in a run that stops after a failure, so that it can
clean up, but not in one that is cancelled. In place of an input that did not succeed it gets an Absence.

A run that is not complete at its deadline ends as by a cancel, in the state TIMED_OUT.

What happened is kept as *facts*, one row per thing worth knowing, in the order in which it was decided; clients read
them by position (a cursor), so nothing that was decided can be lost on the way.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import repeat
from operator import add
from typing import Any, TypeAlias

from pfw.absence import Absence
from pfw.asides import Asides
from pfw.columns import pack_alike
from pfw.demand import Demand, demand_of
from pfw.expansion import Expanded, Fragment, append, shifted
from pfw.factlog import FactLog
from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    ENDED_ANYWAY,
    ENDED_LOST,
    ENDED_NEVER_STARTED,
    ENDED_NOT_AGAIN,
    EXPANDED,
    FACT_CANCELLED,
    FACT_CAPACITY,
    FACT_EXPANDED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_INPUT,
    FACT_PRINTED,
    FACT_PROGRESSED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    FACT_WAITING,
    FAILED,
    READY,
    REASON_BRANCH,
    RUN_CANCELLED,
    RUN_FAILED,
    RUN_RUNNING,
    RUN_STOPPING,
    RUN_SUCCEEDED,
    RUN_TIMED_OUT,
    SKIPPED,
    SUCCEEDED,
    TIMED_OUT,
    UNMEASURED,
    WAITING,
    Cost,
    Fact,
    new_fact,
    pack_end,
)
from pfw.graph import IF_ALL, IF_ALWAYS, LANE_ASYNC, LANE_CPU, LANE_IO, Graph, Spec

MODES = ("parallel", "waves", "sequential")
ON_FAILURE = ("stop", "continue", "abort")

#: A step whose process dies this many times has failed; the same for the loss of its worker. Budgets of their own:
#: neither is charged to the retries the user asked for.
CRASH_LIMIT = 3
LOSS_LIMIT = 3

#: Fewer successes at once are facts one by one.
PACKED_FROM = 12

#: Stands for all steps of a run.
_ALL = range(1 << 62)

#: A step's priority counts more than any rank.
_PRIORITY_SHIFT = 32


#: Of attempts that returned: (steps, started_at, runs_s, outputs, cpus_us, peaks_bytes), as long as each other.
Successes: TypeAlias = tuple[
    Sequence[int], Sequence[float], Sequence[float], Sequence[bytes], Sequence[int], Sequence[int]
]


class ReadyQueue:
    """Steps of one lane that may start, the highest rank first, first come first served within a rank."""

    __slots__ = ("_buckets", "_ranks", "count")

    def __init__(self) -> None:
        self._buckets: dict[int, deque[int]] = {}
        self._ranks: list[int] = []
        self.count = 0

    def push(self, step: int, rank: int) -> None:
        """Adds a step."""
        bucket = self._buckets.get(rank)
        if bucket is None:
            bucket = self._buckets[rank] = deque()
            heapq.heappush(self._ranks, -rank)
        bucket.append(step)
        self.count += 1

    def extend(self, steps: Sequence[int], rank: int) -> None:
        """Adds steps of one rank, at least one."""
        self.push(steps[0], rank)
        self._buckets[rank].extend(steps[1:])
        self.count += len(steps) - 1

    def heads(self) -> Sequence[int]:
        """The steps that `take` would give next, as far as they have one rank; not to be changed."""
        return self._buckets[-self._ranks[0]]

    def take(self, count: int = 1) -> list[int]:
        """The next `count` steps, not more than `heads` has."""
        bucket = self._buckets[-self._ranks[0]]
        if count == len(bucket):
            steps = list(bucket)
            del self._buckets[-heapq.heappop(self._ranks)]
        else:
            steps = [bucket.popleft() for _ in range(count)]
        self.count -= count
        return steps

    def discard(self, step: int, rank: int) -> None:
        """Drops a step of this rank, if it is here; the sooner its turn, the quicker."""
        bucket = self._buckets.get(rank)
        if bucket is None or step not in bucket:
            return
        bucket.remove(step)
        self.count -= 1
        if not bucket:
            del self._buckets[rank]
            self._ranks.remove(-rank)
            heapq.heapify(self._ranks)

    def clear(self) -> None:
        """Drops all steps."""
        self._buckets.clear()
        self._ranks.clear()
        self.count = 0


class RunLife:
    """One run. Columns indexed by step, because a list of ints costs the collector nothing at a million steps."""

    #: On the driver's clock.
    deadline: float | None
    #: Steps that were told to stop: nothing they return counts any more, each is cancelled instead.
    _discards: set[int] | range
    #: Columns beside the states, and what a new step has there.
    _columns: tuple[tuple[list[Any], Any], ...]

    __slots__ = (
        "_asides",
        "_backoff_heap",
        "_columns",
        "_consumers",
        "_crashes",
        "_dependents",
        "_depths",
        "_discards",
        "_ended_tails",
        "_failures",
        "_has_links",
        "_has_tolerant",
        "_plain_specs",
        "_is_timed_out",
        "_is_passing_on",
        "_kept",
        "_largest_call",
        "_largest_output",
        "_losses",
        "_missing",
        "_most_inputs",
        "_parked",
        "_queue_of_spec",
        "_ranks",
        "_reasons",
        "_seed",
        "_stopped_at",
        "_tails",
        "_timeout_s",
        "_wave",
        "_wave_left",
        "cancel_reason",
        "deadline",
        "demanding",
        "facts",
        "failed_on",
        "failed",
        "graph",
        "has_inputs",
        "has_lines",
        "has_priorities",
        "is_open",
        "keep_all",
        "limits",
        "mode",
        "on_failure",
        "attempts",
        "outputs",
        "queued_at",
        "ready",
        "started_at",
        "states",
        "status",
        "to_stop",
        "unfinished",
    )

    def __init__(
        self,
        *,
        mode: str = "parallel",
        on_failure: str = "stop",
        keep: Iterable[int] = (),
        keep_all: bool = False,
        is_open: bool = False,
        seed: bytes = b"",
        timeout_s: float = 0.0,
        limits: tuple[tuple[str, int], ...] = (),
    ) -> None:
        """Starts with nothing known.

        Args:
            mode: "parallel", "waves" (strict barrier between topological generations) or "sequential" (Kahn order).
                Of what is ready a higher priority goes first in each.
            on_failure: what a final failure does to the rest: "stop", "continue" or "abort".
            keep: Steps whose outputs the facts carry to the caller.
            keep_all: Keep every output.
            is_open: More steps may come (`extend`) until `close`; outputs stay until `release`.
            seed: Makes the jitter of this run's backoff its own.
            timeout_s: How long the run may take from its start; 0: as long as it takes.
            limits: (name, number) that every step of the run counts for, as `Spec.limits`.
        """
        self.graph = Graph([], [], [], [], [], [], [], [])
        self.mode, self.on_failure, self.is_open, self.limits = mode, on_failure, is_open, limits
        self.keep_all, self._kept = keep_all or is_open, set(keep)
        #: Whether any step gets another one's output, and whether one may be all that depends on another.
        self.has_inputs, self.has_lines, self.status, self.cancel_reason = False, False, RUN_RUNNING, b""
        #: Open runs drop what was acknowledged.
        self.facts = FactLog()
        self.states, self.attempts, self.started_at = bytearray(), list[int](), dict[int, float]()
        #: Output bytes while somebody may still need them.
        self.outputs: list[bytes | None] = []
        #: Bytes of the largest call and output so far, and how many inputs a step has at most.
        self._largest_call = self._largest_output = self._most_inputs = 0
        self.ready = tuple(ReadyQueue() for _ in (LANE_CPU, LANE_IO, LANE_ASYNC))
        #: Steps that may start and take more than one slot; those of one demand are as good as each other.
        self.demanding: dict[Demand, ReadyQueue] = {}
        #: Steps whose running attempts have to be stopped; whoever drives the run empties it.
        self.to_stop: list[int] = []
        self.unfinished = self.failed = self._wave = 0
        #: {step that is tried again: worker of its last attempt}
        self.failed_on: dict[int, int] = {}
        #: When the run ends whether it is complete or not (None for never), and when it was decided that it ends.
        self.deadline, self._stopped_at = None, 0.0
        self._seed, self._timeout_s, self._is_timed_out = seed, timeout_s, False
        #: Whether a step may go before others; whether steps depend on each other, or a client uses their outputs.
        self.has_priorities, self._has_links = False, is_open
        self._discards, self._has_tolerant, self._is_passing_on = set(), False, False
        #: {failed step: packed failure}
        self._reasons: dict[int, bytes] = {}
        #: {tail: the step that waits for it}, and those that have ended since the last look, with the step to blame.
        self._tails: dict[int, Expanded] = {}
        self._ended_tails: list[tuple[int, int]] = []
        self._missing, self._consumers, self._ranks = list[int](), list[int](), list[int]()
        self._dependents: list[list[int] | None] = []
        #: Where the ready steps of a spec wait; how many specs were looked at, none of which was special (-1: one was).
        self._queue_of_spec, self._plain_specs = list[ReadyQueue](), 0
        self._depths, self._wave_left, self._parked = list[int](), list[int](), list[int]()
        self._failures, self._crashes, self._losses = dict[int, int](), dict[int, int](), dict[int, int]()
        self._backoff_heap, self._asides, self.queued_at = list[tuple[float, int]](), Asides(), list[float]()

    # -- the graph -------------------------------------------------------------------------------------------------

    def start(self, graph: Graph, now: float, capacity: bytes = b"") -> None:
        """Loads the graph and makes its roots ready; `capacity` are the slots there are for it (`pack_capacity`)."""
        self.facts.append(Fact(FACT_RUN_STARTED, 0, now, 0, 0, now, now, 0.0, capacity))
        self.deadline = now + self._timeout_s if self._timeout_s else None
        self._columns = (
            (self.attempts, 0), (self.queued_at, 0.0), (self.outputs, None), (self._missing, 0),
            (self._dependents, None), (self._consumers, int(self.is_open)), (self._ranks, 0),
        )  # fmt: skip
        self.extend(graph, now)

    def extend(self, fragment: Graph, now: float, within: int | None = None, skipped: Iterable[int] = ()) -> int:
        """Adds steps. Dependencies are indices into the whole run, each smaller than that of its step.

        Args:
            fragment: The steps.
            now: The time.
            within: The step whose place they take, if they do.
            skipped: Those that are a side of a branch that is not taken.

        Returns:
            The index of the first step added.
        """
        append(self.graph, fragment)
        self._queue_of_spec.extend([self._queue_for(spec) for spec in self.graph.specs[len(self._queue_of_spec) :]])
        self._note_sizes(fragment.calls, fragment.inputs)
        has_inputs = any(fragment.inputs)
        self.has_inputs = self.has_inputs or has_inputs
        return self._take_in(len(fragment.ids), has_inputs or any(fragment.after), now, within, skipped)

    def extend_like(
        self,
        like: int,
        ids: Sequence[str],
        calls: Sequence[bytes],
        inputs: Sequence[tuple[int, ...]],
        now: float,
    ) -> None:
        """As `extend`, for steps with the function and spec of an earlier one, which depend on inputs alone."""
        graph, count = self.graph, len(ids)
        # Such steps of an open run have no ranks, waves, dependencies or priorities: nothing is left but to start them.
        is_plain = self._plain_specs == len(graph.specs) and self.status == RUN_RUNNING
        if is_plain and count == 1 and not inputs[0]:
            self._extend_by_one(like, ids[0], calls[0], now)
            return
        graph.ids.extend(ids)
        graph.function_of.extend([graph.function_of[like]] * count)
        graph.spec_of.extend([graph.spec_of[like]] * count)
        graph.calls.extend(calls)
        graph.inputs.extend(inputs)
        graph.after.extend([()] * count)
        self._note_sizes(calls, inputs)
        has_inputs = any(inputs)
        if not has_inputs and is_plain:
            self._make_columns(count)
            self.unfinished += count
            self._start_roots(range(len(graph.ids) - count, len(graph.ids)), now)
        else:
            self.has_inputs = self.has_inputs or has_inputs
            self._take_in(count, has_inputs, now)

    def _extend_by_one(self, like: int, step_id: str, call: bytes, now: float) -> None:
        """As `extend_like` for a single call, as nearly all are: all that a call costs is 5 % less."""
        ids, _, _, function_of, spec_of, calls, inputs, after = self.graph
        step = len(ids)
        ids.append(step_id)
        function_of.append(function_of[like])
        spec_of.append(spec_of[like])
        calls.append(call)
        inputs.append(())
        after.append(())
        if len(call) > self._largest_call:
            self._largest_call = len(call)
        self.states.append(WAITING)
        for column, cell in self._columns:
            column.append(cell)
        self.unfinished += 1
        self._make_ready(step, now)

    def _take_in(
        self, count: int, is_linked: bool, now: float, within: int | None = None, skipped: Iterable[int] = ()
    ) -> int:
        """Begins the life of the last steps of the graph; returns the index of the first of them."""
        first = len(self.states)
        self._make_columns(count)
        self._has_links = self._has_links or is_linked
        self.unfinished += count
        if within is not None:
            self._ranks[first:] = [self._ranks[within] % (1 << _PRIORITY_SHIFT)] * count
        if self.mode == "parallel" and not self.is_open and is_linked:
            self._rank(first)
        elif self.mode == "waves":
            self._measure_depths(first, within)
        self._read_specs(first, 0 if within is None else self._ranks[within] >> _PRIORITY_SHIFT)
        steps = range(first, first + count)
        blocked = self._link_all(steps) if is_linked else []
        for step in skipped:
            self._skip(first + step, within or 0, now, REASON_BRANCH)
        states, missing = self.states, self._missing
        if is_linked or skipped:
            self._start_roots([s for s in steps if not missing[s] and states[s] == WAITING], now)
        else:
            self._start_roots(steps, now)
        for step in blocked:
            if self.states[step] == WAITING:
                self._skip(step, self._failed_dependency(step), now)
                self._spread(step, self._failed_dependency(step), now)
        self._advance_wave()
        if self.status != RUN_RUNNING:
            self._cancel_unstarted(now)
        self._settle(now)
        return first

    def _note_sizes(self, calls: Sequence[bytes], inputs: Sequence[tuple[int, ...]]) -> None:
        self._largest_call = max(self._largest_call, max(map(len, calls), default=0))
        self._most_inputs = max(self._most_inputs, max(map(len, inputs), default=0))

    def _note_output(self, output: bytes) -> None:
        if len(output) > self._largest_output:
            self._largest_output = len(output)

    def _make_columns(self, count: int) -> None:
        self.states.extend(bytes(count))
        for column, cell in self._columns:
            column.extend([cell] * count)

    def _read_specs(self, first: int, least_priority: int) -> None:
        """Notes down which of the steps from `first` on are tolerant, kept, or go before others."""
        specs, spec_of = self.graph.specs, self.graph.spec_of
        if len(specs) == self._plain_specs and not least_priority:
            return
        self._has_tolerant = self._has_tolerant or any(spec.run_if for spec in specs)
        if any(spec.keep for spec in specs):
            self._kept.update(step for step in range(first, len(spec_of)) if specs[spec_of[step]].keep)
        if least_priority or any(spec.priority for spec in specs):
            self.has_priorities = True
            for step in range(first, len(spec_of)):
                self._ranks[step] += max(specs[spec_of[step]].priority, least_priority) << _PRIORITY_SHIFT
        is_special = any(spec.run_if or spec.keep or spec.priority for spec in specs)
        self._plain_specs = -1 if is_special else len(specs)

    def _queue_for(self, spec: Spec) -> ReadyQueue:
        if self.mode == "sequential":
            return self.ready[LANE_CPU]
        demand = demand_of(spec, self.limits)
        return self.ready[spec.lane] if demand is None else self.demanding.setdefault(demand, ReadyQueue())

    def _link(self, step: int) -> bool:
        """Ties a new step to its dependencies; True if one of them has ended without success."""
        missing, blocked = 0, False
        for dependency in self.graph.inputs[step]:
            self._consumers[dependency] += 1
        for dependency in (*self.graph.inputs[step], *self.graph.after[step]):
            state = self.states[dependency]
            if state < SUCCEEDED:
                missing += 1
                dependents = self._dependents[dependency]
                if dependents is None:
                    self._dependents[dependency] = [step]
                else:
                    dependents.append(step)
            elif state != SUCCEEDED:
                missing += 1
                blocked = True
        self._missing[step] = missing
        return blocked

    def _link_all(self, steps: range) -> list[int]:
        """Ties new steps to their dependencies; returns those of which one has ended without success.

        Before any can have ended it takes 0.3 µs for a step with three inputs, one by one 1.0.
        """
        inputs, after = self.graph.inputs, self.graph.after
        if steps.start:
            self.has_lines = self.has_inputs
            return [step for step in steps if (inputs[step] or after[step]) and self._link(step)]
        dependents: list[list[int]] = [[] for _ in steps]
        for step, needed in enumerate(inputs):
            for dependency in needed:
                dependents[dependency].append(step)
        self._consumers[:] = map(add, self._consumers, map(len, dependents))
        self._missing[:] = map(len, inputs)
        for step in [step for step in steps if after[step]] if any(after) else ():
            self._missing[step] += len(after[step])
            for dependency in after[step]:
                insort(dependents[dependency], step)
        self.has_lines = self.has_inputs and 1 in map(len, dependents)
        self._dependents[:] = [found or None for found in dependents]
        return []

    def _failed_dependency(self, step: int) -> int:
        graph = self.graph
        return next(d for d in (*graph.inputs[step], *graph.after[step]) if self.states[d] > SUCCEEDED)

    def _rank(self, first: int) -> None:
        """Rank = steps on the longest path below a step, in the run: the critical path goes first."""
        ranks, inputs, after = self._ranks, self.graph.inputs, self.graph.after
        for step in range(len(ranks) - 1, first - 1, -1):
            above = ranks[step] + 1
            for dependency in inputs[step]:
                if ranks[dependency] < above:
                    ranks[dependency] = above
            if after[step]:
                for dependency in after[step]:
                    ranks[dependency] = max(ranks[dependency], above)

    def _measure_depths(self, first: int, within: int | None) -> None:
        depths, graph = self._depths, self.graph
        for step in range(first, len(self.states)):
            if within is not None:
                depth = depths[within]
            else:
                depth = 1 + max((depths[d] for d in (*graph.inputs[step], *graph.after[step])), default=-1)
            depths.append(depth)
            self._wave_left.extend([0] * (depth + 1 - len(self._wave_left)))
            self._wave_left[depth] += 1

    # -- what may start --------------------------------------------------------------------------------------------

    def spec(self, step: int) -> Spec:
        """How a step is to be run."""
        return self.graph.specs[self.graph.spec_of[step]]

    def has_follower(self, steps: Iterable[int]) -> bool:
        """Whether there is a `follower` of any of these."""
        dependents = self._dependents
        alone = [step for step in steps if (found := dependents[step]) is not None and len(found) == 1]
        return any(self.follower(step) is not None for step in alone)

    def follower(self, step: int) -> int | None:
        """The step that may be handed out along with this one, to be begun where its output is made.

        It is the only one that depends on this one, waits for nothing else, and is as plain.
        """
        dependents = self._dependents[step]
        if dependents is None or len(dependents) != 1 or self.mode != "parallel" or self.is_open:
            return None
        (other,), spec_of = dependents, self.graph.spec_of
        if self.states[other] != WAITING or self._missing[other] != 1 or step not in self.graph.inputs[other]:
            return None
        spec = self.spec(other)
        is_alike = self._queue_of_spec[spec_of[other]] is self._queue_of_spec[spec_of[step]]
        # One that has ended its process goes alone, so that no other is executed again with it.
        is_plain = is_alike and spec.may_go_ahead and not (spec.run_if or spec.timeout) and other not in self._crashes
        return other if is_plain else None

    def _make_ready(self, step: int, now: float) -> None:
        if self._missing[step]:  # it was handed out ahead of its input
            self.states[step] = WAITING
            return
        self.queued_at[step] = now
        self.states[step] = READY
        if self._depths and self._depths[step] > self._wave:
            self._parked.append(step)
        else:
            self._queue_of_spec[self.graph.spec_of[step]].push(step, self._ranks[step])

    def _advance_wave(self) -> None:
        """Opens the next wave once every step of the open one has ended (waves mode)."""
        left = self._wave_left
        if not left or left[self._wave]:
            return
        while self._wave + 1 < len(left) and not left[self._wave]:
            self._wave += 1
        # In a run that stops a tolerant step may be ready waves ahead of its turn.
        parked, self._parked = self._parked, []
        for step in parked:
            if self._depths[step] > self._wave:
                self._parked.append(step)
            elif self.states[step] == READY:
                self._queue_of_spec[self.graph.spec_of[step]].push(step, self._ranks[step])

    def _start_roots(self, roots: Sequence[int], now: float) -> None:
        """As `_make_ready`, for steps without dependencies: 0.05 µs each where all are alike, one by one 0.7."""
        if self._depths or len(roots) < 2:
            for step in roots:
                self._make_ready(step, now)
            return
        queues, ranks, spec_of = self._queue_of_spec, self._ranks, self.graph.spec_of
        first, last = roots[0], roots[-1]
        if last - first + 1 == len(roots):
            self.states[first : last + 1] = bytes([READY]) * len(roots)
            self.queued_at[first : last + 1] = [now] * len(roots)
            kinds = set(zip(spec_of[first : last + 1], ranks[first : last + 1], strict=True))
            if len(kinds) == 1:
                queues[spec_of[first]].extend(roots, ranks[first])
                return
        self._make_all_ready(roots, now)

    def _make_all_ready(self, steps: Sequence[int], now: float) -> None:
        """As `_make_ready`, for steps that wait for nothing, not even for their wave."""
        queues, ranks, spec_of = self._queue_of_spec, self._ranks, self.graph.spec_of
        states, queued_at = self.states, self.queued_at
        for step in steps:
            states[step] = READY
            queued_at[step] = now
        if len(set(map(ranks.__getitem__, steps))) == len(set(map(spec_of.__getitem__, steps))) == 1:
            queues[spec_of[steps[0]]].extend(steps, ranks[steps[0]])
            return
        alike: dict[tuple[ReadyQueue, int], list[int]] = {}
        for step in steps:
            alike.setdefault((queues[spec_of[step]], ranks[step]), []).append(step)
        for (queue, rank), equals in alike.items():
            queue.extend(equals, rank)

    def wake_at(self) -> float | None:
        """When the next backoff ends or the deadline comes, on the driver's clock; None: nothing will."""
        if not self._backoff_heap:
            return self.deadline
        backoff_ends = self._backoff_heap[0][0]
        return backoff_ends if self.deadline is None else min(backoff_ends, self.deadline)

    def retry_s(self, step: int, now: float) -> float:
        """Seconds until the backoff of a step ends, 0 if it is in none. For people: it looks at every backoff."""
        due = [at for at, other in self._backoff_heap if other == step]
        return max(0.0, due[-1] - now) if due and self.states[step] == BACKOFF else 0.0

    def is_in_later_wave(self, step: int) -> bool:
        """Whether a step waits for the open wave to end (waves mode)."""
        return bool(self._depths) and self._depths[step] > self._wave

    def on_time(self, now: float) -> None:
        """Ends every backoff that is due, and the run if its deadline has come."""
        if self.deadline is not None and now >= self.deadline:
            self._is_timed_out = True
            self.cancel(f"the run's timeout of {self._timeout_s:g} s is over", now)
        while self._backoff_heap and self._backoff_heap[0][0] <= now:
            _, step = heapq.heappop(self._backoff_heap)
            if self.states[step] == BACKOFF:
                self._make_ready(step, now)

    def on_late(self, seconds: float) -> None:
        """The driver could not look for so long: that time does not count."""
        if self.deadline is not None:
            self.deadline += seconds

    def input_bytes(self, step: int) -> int:
        """How many bytes a worker has to be sent for a ready step: its call and its inputs."""
        size = len(self.graph.calls[step])
        for dependency in self.graph.inputs[step]:
            size += len(self.outputs[dependency] or b"")
        return size

    @property
    def most_input_bytes(self) -> int:
        """No ready step of the run has more `input_bytes` than this."""
        return self._largest_call + self._most_inputs * self._largest_output

    def all_input_bytes(self, steps: Sequence[int]) -> list[int]:
        """As `input_bytes` for each, 0.2 µs of one with three inputs."""
        calls, inputs, outputs = self.graph.calls, self.graph.inputs, self.outputs
        if self.has_inputs:
            sizes = []
            for step in steps:
                size = len(calls[step])
                for dependency in inputs[step]:
                    size += len(outputs[dependency] or b"")
                sizes.append(size)
            return sizes
        return [len(calls[step]) for step in steps]

    def on_assigned(self, step: int) -> int:
        """A ready step, or the `follower` of one, was handed out; returns the number of this attempt, from 1."""
        self.states[step] = ASSIGNED
        self.attempts[step] += 1
        return self.attempts[step]

    def on_all_assigned(self, steps: Sequence[int]) -> None:
        """As `on_assigned` for each. 0.1 µs a step."""
        states, attempts = self.states, self.attempts
        for step in steps:
            states[step] = ASSIGNED
            attempts[step] += 1

    def on_waiting(self, step: int, reason: str, now: float) -> None:
        """A ready step cannot be assigned, to nobody there is; said once, and the step goes on waiting."""
        queued = self.queued_at[step]
        self.facts.append(Fact(FACT_WAITING, step, now, 0, 0, queued, queued, 0.0, reason.encode()))

    def on_started(self, step: int, worker: int, started_at: float, now: float) -> None:
        """The attempt is known to execute (told only of attempts that last)."""
        if self.states[step] == ASSIGNED and step not in self.started_at:
            self.started_at[step] = started_at
            attempt, queued = self.attempts[step], self.queued_at[step]
            self.facts.append(Fact(FACT_STARTED, step, now, attempt, worker, queued, started_at, 0.0, b""))

    def on_capacity(self, capacity: bytes, now: float) -> None:
        """The cluster has other slots than before."""
        self.facts.append(Fact(FACT_CAPACITY, 0, now, 0, 0, now, now, 0.0, capacity))

    def on_progressed(self, step: int, worker: int, progress: bytes, now: float, started_at: float = 0.0) -> None:
        """The step's attempt says how far it is (`pack_progress`); an open run does not keep it."""
        if self.states[step] == ASSIGNED and not self.is_open:
            attempt, queued = self.attempts[step], self.queued_at[step]
            start = started_at or self.started_at.get(step, now)
            self.facts.append(Fact(FACT_PROGRESSED, step, now, attempt, worker, queued, start, 0.0, progress))

    def on_printed(self, step: int, worker: int, text: bytes, now: float) -> None:
        """The step's attempt has printed this since it was last told."""
        if text and not self.is_finished:
            fact = Fact(FACT_PRINTED, step, now, self.attempts[step], worker, now, now, 0.0, text)
            self._asides.add_printed(fact, self.facts)

    # -- how attempts end ------------------------------------------------------------------------------------------

    def on_succeeded(
        self,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        output: bytes,
        now: float,
        cost: Cost = UNMEASURED,
    ) -> None:
        """The attempt returned. 1.3 µs a step with one dependant, most of it the fact."""
        if self._discards and step in self._discards:
            self.on_stopped(step, worker, ENDED_ANYWAY, now, started_at, run_s, cost)
            return
        self.states[step] = SUCCEEDED
        kept = self.keep_all or step in self._kept
        if self._consumers[step]:
            self.outputs[step] = output
            self._note_output(output)
        self.facts.append(
            new_fact(
                (
                    FACT_SUCCEEDED,
                    step,
                    now,
                    self.attempts[step],
                    worker,
                    self.queued_at[step],
                    started_at,
                    run_s,
                    output if kept else b"",
                    cost[0],
                    cost[1],
                )
            )
        )
        if self.started_at:
            self.started_at.pop(step, None)
        if self._dependents[step] is not None:
            freed: list[int] = []
            self._free_dependents(step, min(now, started_at + run_s), freed)
            for dependent in freed:
                self._make_ready(dependent, now)
        self._end(step)
        if self._ended_tails:
            self._pass_on(now)
        if not self.unfinished:
            self._finish_if_done(now)

    def on_all_succeeded(self, worker: int, columns: Successes, now: float) -> None:
        """As `on_succeeded` for each, where one by one takes 1.3 µs: 0.4 µs a step without links, 0.7 with one."""
        steps, started_at, runs_s, given, cpus_us, peaks_bytes = columns
        if self._discards or self._depths or self._tails or self.started_at:
            for step, began, run_s, output, *cost in zip(*columns, strict=True):
                self.on_succeeded(step, worker, began, run_s, output, now, (cost[0], cost[1]))
            return
        states, calls = self.states, self.graph.calls
        for step in steps:
            states[step] = SUCCEEDED
            calls[step] = b""
        freed = self._pass_outputs_on(columns, now) if self._has_links else []
        kept = self._kept
        told: Sequence[bytes]
        if self.keep_all:
            told = given
        elif kept.isdisjoint(steps):
            told = [b""] * len(steps)
        else:
            told = [output if step in kept else b"" for step, output in zip(steps, given, strict=True)]
        attempts, queued_at = list(map(self.attempts.__getitem__, steps)), list(map(self.queued_at.__getitem__, steps))
        others = queued_at, started_at, runs_s, told, cpus_us, peaks_bytes
        if len(steps) < PACKED_FROM:
            heads = repeat(FACT_SUCCEEDED), steps, repeat(now), attempts, repeat(worker)
            self.facts.extend(map(new_fact, zip(*heads, *others, strict=False)))
        else:
            self.facts.add_packed(pack_alike(FACT_SUCCEEDED, now, worker, steps, attempts, *others))
        if freed:
            self._make_all_ready(freed, now)
        self.unfinished -= len(steps)
        if not self.unfinished:
            self._finish_if_done(now)

    def _pass_outputs_on(self, columns: Successes, now: float) -> list[int]:
        """Keeps outputs for those who get them, frees those that nobody needs any more; returns who may start now.

        In order, for a step may be in the same columns as those that depend on it. As calls of `_free_dependents` and
        `_consume` it would take half as much time again.
        """
        steps, started_at, runs_s, given, *_ = columns
        self._note_output(max(given, key=len))
        states, outputs, missing, inputs = self.states, self.outputs, self._missing, self.graph.inputs
        consumers, all_dependents = self._consumers, self._dependents
        freed: list[int] = []
        for place, step in enumerate(steps):
            if consumers[step]:
                outputs[step] = given[place]
            dependents = all_dependents[step]
            if dependents is not None:
                all_dependents[step] = None
                for dependent in dependents:
                    missing[dependent] = left = missing[dependent] - 1
                    if not left:
                        if states[dependent] == WAITING:
                            freed.append(dependent)
                        elif states[dependent] in (ASSIGNED, SUCCEEDED):  # it was handed out ahead
                            self.queued_at[dependent] = min(now, started_at[place] + runs_s[place])
            for dependency in inputs[step]:
                consumers[dependency] = left = consumers[dependency] - 1
                if not left:
                    outputs[dependency] = None
        return freed

    def _free_dependents(self, step: int, ended_at: float, freed: list[int]) -> None:
        """What depends on a step waits for one less; what waits for nothing more is added to `freed`."""
        dependents, self._dependents[step] = self._dependents[step], None
        missing, states = self._missing, self.states
        for dependent in dependents or ():
            missing[dependent] -= 1
            if not missing[dependent]:
                if states[dependent] == WAITING:
                    freed.append(dependent)
                elif states[dependent] == ASSIGNED:  # ahead
                    self.queued_at[dependent] = ended_at

    def on_expanded(
        self,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        fragment: Fragment,
        packed: bytes,
        now: float,
        cost: Cost = UNMEASURED,
    ) -> None:
        """The attempt returned a Workflow, whose steps take the place of the step; `packed` is the same fragment."""
        if not self.may_expand(step):
            self.on_stopped(step, worker, ENDED_ANYWAY, now, started_at, run_s, cost)
            return
        self._give_way(step, worker, started_at, run_s, packed, now, cost)
        first = len(self.states)
        self._tails[first + len(fragment.graph.ids) - 1] = Expanded(step, worker, started_at)
        if fragment.taken:
            self._take_over(step, first, fragment.taken, now)
        self.extend(shifted(fragment.graph, first), now, step, fragment.skipped)
        for tail in (len(fragment.graph.ids) - 1, *(tail for _, tail in fragment.taken)):
            if first + tail in self._tails:
                self._consumers[first + tail] += 1

    def counts(self, step: int) -> bool:
        """Whether it counts how an attempt of the step ends; not if it was told to stop."""
        return step not in self._discards

    def may_expand(self, step: int) -> bool:
        """Whether a fragment may take the place of a step."""
        return self.status == RUN_RUNNING and self.counts(step)

    def on_expanded_apart(
        self, step: int, worker: int, started_at: float, run_s: float, now: float, cost: Cost = UNMEASURED
    ) -> None:
        """The attempt returned a Workflow, and another run takes the place of the step: this one waits for its end."""
        self._give_way(step, worker, started_at, run_s, b"", now, cost)
        self.unfinished += 1

    def on_inner_end(self, step: int, end: Fact, now: float) -> None:
        """The step has ended in the run that took its place; `end` is the fact there."""
        if end.kind == FACT_SUCCEEDED:
            self.on_succeeded(step, end.worker, end.started_at, 0.0, end.payload, now)
        elif end.kind == FACT_CANCELLED:
            self.on_stopped(step, 0, ENDED_ANYWAY, now)
        else:
            self._retry_or_fail(end.kind, step, end.worker, end.started_at, 0.0, end.payload, False, now, UNMEASURED)

    def on_inner_finished(self, now: float) -> None:
        """Nothing runs any more in the run that took a step's place."""
        self.unfinished -= 1
        self._settle(now)

    def _give_way(
        self,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        packed: bytes,
        now: float,
        cost: Cost,
    ) -> None:
        """The step's own code is done with; it has no output yet."""
        self.states[step] = EXPANDED
        self._again(FACT_EXPANDED, step, worker, started_at, run_s, packed, now, cost)
        for dependency in self.graph.inputs[step]:
            self._consume(dependency)
        self.graph.inputs[step] = ()
        self.graph.calls[step] = b""

    def _take_over(self, step: int, first: int, taken: Iterable[tuple[str, int]], now: float) -> None:
        """Steps that wait for an expanded one, or for each other, get their values from tails of its fragment."""
        ids = self.graph.ids
        behind = {ids[dependent]: dependent for dependent in self._dependents[step] or ()}
        for name, tail in taken:
            found = behind.get(name)
            # One that waits for something else as well takes the list when it is there.
            if found is None or self.states[found] != WAITING or self._missing[found] != 1:
                continue
            self.states[found], self.queued_at[found] = EXPANDED, now
            self.facts.append(Fact(FACT_EXPANDED, found, now, 0, 0, now, now, 0.0, b""))
            self._tails[first + tail] = Expanded(found, 0, now)
            behind.update((ids[dependent], dependent) for dependent in self._dependents[found] or ())

    def _pass_on(self, now: float) -> None:
        """Ends steps as the tails that they waited for. What that ends in its turn is done in the same loop."""
        if self._is_passing_on:
            return
        self._is_passing_on = True
        while self._ended_tails:
            tail, cause = self._ended_tails.pop()
            step, worker, started_at = self._tails.pop(tail)
            state, output = self.states[tail], self.outputs[tail]
            failure = self._reasons.get(cause, b"")
            if state == SUCCEEDED:
                self.on_succeeded(step, worker, started_at, 0.0, output or b"", now)
            elif state != CANCELLED and failure:
                kind = FACT_TIMED_OUT if state == TIMED_OUT else FACT_FAILED
                self._mark_failed(step, worker, started_at, 0.0, failure, now, kind=kind)
            else:
                self._cancel_one(step, 0, ENDED_ANYWAY, now)
            self._consume(tail)
        self._is_passing_on = False

    def on_failed(
        self,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        failure: bytes,
        is_retryable: bool,
        now: float,
        cost: Cost = UNMEASURED,
    ) -> None:
        """The attempt raised; `is_retryable` is the verdict of the step's retry policy on the exception."""
        self._retry_or_fail(FACT_FAILED, step, worker, started_at, run_s, failure, is_retryable, now, cost)

    def on_timed_out(
        self,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        failure: bytes,
        now: float,
        cost: Cost = UNMEASURED,
    ) -> None:
        """The attempt ran for longer than the step's timeout: it has failed, whatever it returned afterwards."""
        is_retryable = bool(self.spec(step).retries_timeouts)
        self._retry_or_fail(FACT_TIMED_OUT, step, worker, started_at, run_s, failure, is_retryable, now, cost)

    def _retry_or_fail(
        self,
        kind: int,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        failure: bytes,
        is_retryable: bool,
        now: float,
        cost: Cost,
    ) -> None:
        if step in self._discards:
            self.on_stopped(step, worker, ENDED_ANYWAY, now, started_at, run_s, cost)
            return
        used = self._failures.get(step, 0)
        if is_retryable and used < self.spec(step).retries and self._may_start(step):
            self._failures[step] = used + 1
            self._again(FACT_RETRYING, step, worker, started_at, run_s, failure, now, cost)
            self.states[step] = BACKOFF
            heapq.heappush(self._backoff_heap, (now + self.backoff_s(step, used + 1), step))
        else:
            self._fail(step, worker, started_at, run_s, failure, now, cost, kind)

    def on_crashed(
        self,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        failure: bytes,
        now: float,
        cost: Cost = UNMEASURED,
    ) -> None:
        """The process that executed the attempt died."""
        if step in self._discards:
            self.on_stopped(step, worker, ENDED_ANYWAY, now, started_at, run_s, cost)
        else:
            self._charge(self._crashes, CRASH_LIMIT, step, worker, started_at, run_s, failure, now, cost)

    def on_lost(self, step: int, worker: int, failure: bytes, now: float) -> None:
        """The worker that held the attempt is gone, and with it whatever the attempt did."""
        started_at = self.started_at.get(step, now)
        if step in self._discards:
            self.on_stopped(step, worker, ENDED_LOST, now, started_at)
        else:
            self._charge(self._losses, LOSS_LIMIT, step, worker, started_at, 0.0, failure, now)

    def on_not_started(self, step: int, worker: int, now: float) -> None:
        """The attempt was handed back unexecuted, or does not count without its input: no attempt, nobody's fault."""
        self.attempts[step] -= 1
        self.started_at.pop(step, None)
        if not self._may_start(step):
            self._cancel_one(step, 0, self._end_unstarted(step), now)
            self._settle(now)
        else:
            self._make_ready(step, now)

    def on_stopped(
        self,
        step: int,
        worker: int,
        how: int,
        now: float,
        started_at: float | None = None,
        run_s: float = 0.0,
        cost: Cost = UNMEASURED,
    ) -> None:
        """The attempt ended because it was told to; `how` is one of ENDED_."""
        self._cancel_one(step, worker, how, now, started_at, run_s, cost)
        self._settle(now)

    def _may_start(self, step: int) -> bool:
        """Whether the step may be tried (again): in a run that stops after a failure only if it is tolerant."""
        return step not in self._discards and (self.status == RUN_RUNNING or self.spec(step).run_if != IF_ALL)

    def _charge(
        self,
        budget: dict[int, int],
        limit: int,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        failure: bytes,
        now: float,
        cost: Cost = UNMEASURED,
    ) -> None:
        budget[step] = budget.get(step, 0) + 1
        if budget[step] < limit and self.spec(step).reruns and self._may_start(step):
            self._again(FACT_RETRYING, step, worker, started_at, run_s, failure, now, cost)
            self._make_ready(step, now)
        else:
            self._fail(step, worker, started_at, run_s, failure, now, cost)

    def backoff_s(self, step: int, retry: int) -> float:
        """Delay before retry number `retry` (from 1): min(max_delay, backoff * factor ** (retry - 1)).

        With full jitter a uniform share of it (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015), drawn
        from a hash of run seed, step and retry so that a replay of the run decides alike.
        """
        spec = self.spec(step)
        try:
            delay = min(spec.max_delay, spec.backoff * spec.factor ** (retry - 1))
        except OverflowError:
            delay = spec.max_delay if spec.backoff else 0.0
        if spec.jitter:
            digest = blake2b(b"%d %d" % (step, retry), key=self._seed[:64], digest_size=8).digest()
            delay *= int.from_bytes(digest) / 2**64
        return delay

    def _again(
        self,
        kind: int,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        failure: bytes,
        now: float,
        cost: Cost = UNMEASURED,
    ) -> None:
        attempt, queued = self.attempts[step], self.queued_at[step]
        self.facts.append(Fact(kind, step, now, attempt, worker, queued, started_at, run_s, failure, *cost))
        self.started_at.pop(step, None)
        if kind == FACT_RETRYING:
            self.failed_on[step] = worker

    def _fail(
        self,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        failure: bytes,
        now: float,
        cost: Cost = UNMEASURED,
        kind: int = FACT_FAILED,
    ) -> None:
        self._give_inputs(step, now)
        self._mark_failed(step, worker, started_at, run_s, failure, now, cost, kind)
        # What depends on a step in whose place this one ran is skipped, so that comes before all else is cancelled.
        self._pass_on(now)
        if self.on_failure != "continue" and self.status == RUN_RUNNING:
            self.status, self._stopped_at = RUN_STOPPING, now
            if self.on_failure == "abort":
                self._discards = _ALL
            self._cancel_unstarted(now)
            if self._discards is _ALL:
                self.to_stop.extend(self.running())
        self._settle(now)

    def _give_inputs(self, step: int, now: float) -> None:
        """Tells what a failed step was called with and the caller has not got."""
        if self.is_open:
            return
        outputs = {d: self.outputs[d] or b"" for d in self.graph.inputs[step] if not self._is_told(d)}
        inputs = self._asides.choose_inputs(outputs)
        self.facts.extend([Fact(FACT_INPUT, d, now, 0, 0, now, now, 0.0, output) for d, output in inputs])

    def _is_told(self, step: int) -> bool:
        """Whether the caller has got the step's output."""
        return self.states[step] == SUCCEEDED and (self.keep_all or step in self._kept)

    def _mark_failed(
        self,
        step: int,
        worker: int,
        started_at: float,
        run_s: float,
        failure: bytes,
        now: float,
        cost: Cost = UNMEASURED,
        kind: int = FACT_FAILED,
    ) -> None:
        self.states[step] = FAILED if kind == FACT_FAILED else TIMED_OUT
        self.failed += 1
        self._reasons[step] = failure
        self._again(kind, step, worker, started_at, run_s, failure, now, cost)
        self._spread(step, step, now)
        self._end(step)

    def running(self) -> list[int]:
        """Steps that are handed out now."""
        return [step for step, state in enumerate(self.states) if state == ASSIGNED]

    def _spread(self, step: int, cause: int, now: float) -> None:
        """Tells what depends on a step that it has ended without success, because `cause` failed.

        What needs it is skipped in its turn (if it was cancelled with its run: is cancelled too), what is tolerant
        waits for one less.
        """
        stack = [step]
        while stack:
            ended = stack.pop()
            for dependent in self._dependents[ended] or ():
                if self.states[dependent] != WAITING:
                    continue
                if not self.spec(dependent).run_if:
                    if self.states[ended] != CANCELLED or self.status == RUN_RUNNING:
                        if self._has_tolerant and cause in self._reasons:
                            self._reasons[dependent] = self._reasons[cause]
                        self._skip(dependent, cause, now)
                        stack.append(dependent)
                    continue
                if self.outputs[ended] is None and self._consumers[ended]:
                    failure = self._reasons.get(cause, b"")
                    self.outputs[ended] = absence = Absence(self.graph.ids[ended], self.states[ended], failure).pack()
                    self._note_output(absence)
                self._missing[dependent] -= 1
                if not self._missing[dependent] and not self._starts_tolerant(dependent, now):
                    stack.append(dependent)

    def _starts_tolerant(self, step: int, now: float) -> bool:
        """All that a tolerant step depends on has ended: starts it, unless it needs a success and there is none."""
        dependencies = (*self.graph.inputs[step], *self.graph.after[step])
        ended = {self.states[d] for d in dependencies}
        if SUCCEEDED in ended or self.spec(step).run_if == IF_ALWAYS:
            self._make_ready(step, now)
            return True
        if ended == {CANCELLED}:
            self._mark_cancelled(step, 0, self._pack_end(ENDED_NEVER_STARTED, now), now)
        else:
            cause = next(d for d in dependencies if self.states[d] != CANCELLED)
            self._reasons[step] = self._reasons.get(cause, b"")
            self._skip(step, cause, now)
        return False

    def _skip(self, step: int, cause: int, now: float, reason: bytes = b"") -> None:
        self.states[step] = SKIPPED
        self.facts.append(Fact(FACT_SKIPPED, step, now, cause, 0, now, now, 0.0, reason))
        self._end(step, cause)

    # -- cancel and end --------------------------------------------------------------------------------------------

    def cancel(self, reason: str, now: float) -> bool:
        """Nothing starts any more; what runs is to be stopped. False if the run has ended or is being cancelled."""
        if self.status not in (RUN_RUNNING, RUN_STOPPING) or self.cancel_reason:
            return False
        self.status, self.is_open, self._discards = RUN_STOPPING, False, _ALL
        self.deadline = None
        self.cancel_reason, self._stopped_at = reason.encode() or b"cancelled", now
        self._cancel_unstarted(now)
        self.to_stop.extend(self.running())
        self._settle(now)
        return True

    def cancel_calls(self, steps: Iterable[int], now: float) -> list[int]:
        """Nobody wants what these steps of an open run return: they are not started, and what needs them is skipped.

        Returns:
            Those of which an attempt is to be stopped; how it ends does not count.
        """
        if isinstance(self._discards, range):
            return []
        self._stopped_at = now
        running = []
        for step in steps:
            if self.states[step] == ASSIGNED:
                running.append(step)
            elif self.states[step] < ASSIGNED:
                self._queue_of_spec[self.graph.spec_of[step]].discard(step, self._ranks[step])
                self._cancel_one(step, 0, self._end_unstarted(step), now)
        self._discards.update(running)
        self._settle(now)
        return running

    def close(self, now: float) -> None:
        """No more steps will come to this open run."""
        self.is_open = False
        self._settle(now)

    def _cancel_unstarted(self, now: float) -> None:
        """Cancels what has not started; tolerant steps only if the run is cancelled."""
        for queue in (*self.ready, *self.demanding.values()):
            queue.clear()
        self._parked.clear()
        survives = self._may_start if self._has_tolerant and self._discards is not _ALL else lambda step: False
        for step in [step for step, state in enumerate(self.states) if state == READY and survives(step)]:
            self._make_ready(step, now)
        self._backoff_heap = [(at, step) for at, step in self._backoff_heap if survives(step)]
        heapq.heapify(self._backoff_heap)
        ends = {how: self._pack_end(how, now) for how in (ENDED_NEVER_STARTED, ENDED_NOT_AGAIN)}
        doomed = [step for step, state in enumerate(self.states) if state < ASSIGNED and not survives(step)]
        for step in doomed:
            self._mark_cancelled(step, 0, ends[self._end_unstarted(step)], now)
        # Afterwards: a tolerant step that cannot start any more must not have others skipped that were to be cancelled.
        for step in doomed if self._has_tolerant and self._discards is not _ALL else ():
            self._spread(step, step, now)

    def _end_unstarted(self, step: int) -> int:
        """What a cancel does to a step of which no attempt runs."""
        return ENDED_NOT_AGAIN if self.attempts[step] else ENDED_NEVER_STARTED

    def _cancel_one(
        self,
        step: int,
        worker: int,
        how: int,
        now: float,
        started_at: float | None = None,
        run_s: float = 0.0,
        cost: Cost = UNMEASURED,
    ) -> None:
        self._append_cancelled(step, worker, self._pack_end(how, now), now, started_at, run_s, cost)

    def _pack_end(self, how: int, now: float) -> bytes:
        return pack_end(how, max(0, round((now - self._stopped_at) * 1000)), self.cancel_reason)

    def _append_cancelled(
        self,
        step: int,
        worker: int,
        end: bytes,
        now: float,
        started_at: float | None = None,
        run_s: float = 0.0,
        cost: Cost = UNMEASURED,
    ) -> None:
        self._mark_cancelled(step, worker, end, now, started_at, run_s, cost)
        if self.status == RUN_RUNNING or (self._has_tolerant and self._discards is not _ALL):
            self._spread(step, step, now)

    def _mark_cancelled(
        self,
        step: int,
        worker: int,
        end: bytes,
        now: float,
        started_at: float | None = None,
        run_s: float = 0.0,
        cost: Cost = UNMEASURED,
    ) -> None:
        self.states[step] = CANCELLED
        attempt, queued = self.attempts[step], self.queued_at[step]
        noted_at = self.started_at.pop(step, now)
        start = noted_at if started_at is None else started_at
        self.facts.append(Fact(FACT_CANCELLED, step, now, attempt, worker, queued, start, run_s, end, *cost))
        self._end(step)

    def _end(self, step: int, cause: int | None = None) -> None:
        """The step is terminal: its inputs may be freed, its wave may be over. `_settle` has to follow."""
        consumers = self._consumers
        for dependency in self.graph.inputs[step]:
            consumers[dependency] -= 1
            if not consumers[dependency]:
                self.outputs[dependency] = None
        self.graph.calls[step] = b""
        if self._tails and step in self._tails:
            self._ended_tails.append((step, step if cause is None else cause))
        self.unfinished -= 1
        if self._wave_left:
            self._wave_left[self._depths[step]] -= 1
            self._advance_wave()

    def _consume(self, step: int) -> None:
        self._consumers[step] -= 1
        if not self._consumers[step]:
            self.outputs[step] = None

    def _settle(self, now: float) -> None:
        """What has ended may be all that others waited for, or all that there was: follows every change of state."""
        if self._ended_tails:
            self._pass_on(now)
        if not self.unfinished:
            self._finish_if_done(now)

    def _finish_if_done(self, now: float) -> None:
        if self.unfinished or self.is_open or self.is_finished:
            return
        self.deadline = None
        if self.cancel_reason:
            self.status = RUN_TIMED_OUT if self._is_timed_out else RUN_CANCELLED
        else:
            self.status = RUN_FAILED if self.failed else RUN_SUCCEEDED
        self.facts.append(Fact(FACT_FINISHED, 0, now, self.status, 0, now, now, 0.0, self.cancel_reason))

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended."""
        return self.status >= RUN_SUCCEEDED

    def is_released(self, step: int) -> bool:
        """Whether the step succeeded and its output is no longer here."""
        return self.states[step] == SUCCEEDED and self.outputs[step] is None

    def take_facts(self) -> FactLog:
        """The facts since the last time; whoever takes them is their only reader."""
        facts, self.facts = self.facts, FactLog(self.facts.end)
        return facts

    def release(self, upto: int) -> None:
        """The client of an open run has every fact before position `upto`: they and their outputs may go."""
        for kind, step in self.facts.drop(upto):
            self._reasons.pop(step, None)
            if kind == FACT_SUCCEEDED:
                self._consume(step)
