"""One execution of a workflow, as its caller holds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pfw.call import fill
from pfw.cancellation import CancellationToken, tie
from pfw.checks import check_wait
from pfw.errors import (
    OutputNotKeptError,
    RunCancelledError,
    RunTimeoutError,
    StepFailedError,
    UnknownDependencyError,
    did_you_mean,
    members_of,
)
from pfw.facts import FACT_SUCCEEDED, FAILURES, RUN_CANCELLED, RUN_STATE_NAMES, RUN_TIMED_OUT, STATE_NAMES, SUCCEEDED
from pfw.node import MapNode, Node
from pfw.receipt import CancelReceipt, read_receipt
from pfw.record import RunRecord
from pfw.results import Meaning, OutputMapping, PickledOutputs

if TYPE_CHECKING:
    from pfw.events import Event, FactReader
    from pfw.metrics import WorkflowMetrics
    from pfw.progress import Reporter

T = TypeVar("T")

#: How often somebody who only watches looks for new events.
WATCH_S = 0.02


class Engine(Protocol):
    """What executes the run."""

    def wait(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until `predicate()` is true; False if the time is over before."""

    def look(self, record: RunRecord, step: int) -> dict[str, Any]:
        """How a step stands that has not ended; {} if nobody knows any more."""

    def cancel_record(self, record: RunRecord, reason: str, *, is_urgent: bool = False) -> None:
        """Asks for the end of the run, an urgent one by force; may be called in a signal handler."""


class Run:
    """One execution of a workflow. Made by `run`, `start`, `arun` and `Client.attach`."""

    def __init__(self, record: RunRecord, meaning: Meaning, engine: Engine) -> None:
        self._record, self._meaning, self._engine = record, meaning, engine
        self._index: dict[str, int] | None = None
        #: Steps whose outputs `as_completed` has given and freed.
        self._given: set[int] = set()
        #: What tells the trackers of this run.
        self.reporters: list[Reporter] = []
        #: Set where somebody waits for them to have heard of the end: they need not sleep any longer.
        self._is_over = threading.Event()

    @property
    def id(self) -> str:
        """The run's id at its coordinator; "" until it is accepted."""
        return self._record.run_id

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._record.name

    @property
    def version(self) -> str | None:
        """The workflow's version, None if it has none."""
        return self._record.version or None

    @property
    def status(self) -> str:
        """RUNNING, STOPPING, SUCCEEDED, FAILED, CANCELLED or TIMED_OUT."""
        return RUN_STATE_NAMES[self._record.status]

    def __repr__(self) -> str:
        return f"<Run {self.id or '(not accepted yet)'} of {self.name!r}: {self.status}>"

    # -- waiting ---------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the run has ended."""
        return self._record.is_finished

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end of the run.

        Args:
            timeout: Seconds, None for as long as it takes.

        Returns:
            Whether the run has ended.

        Raises:
            ConfigError: The timeout is no number of seconds.
            ClusterError: The cluster was lost before the run ended.
            StalledError: The local cluster can start no slots any more.
        """
        check_wait("timeout", timeout)
        is_done = self._record.is_finished or self._engine.wait(lambda: self._record.is_finished, timeout)
        if self._record.error is not None:
            raise self._record.error
        return is_done

    def join_reporters(self) -> None:
        """Waits until the trackers have heard of the end, but not for ever: one may hang."""
        if self.done():  # else those who watch would look without a pause
            self._is_over.set()
        for reporter in self.reporters:
            reporter.join()

    def cancel(self, reason: str = "", timeout: float | None = None) -> CancelReceipt:
        """Ends the run and waits for its end: nothing starts any more, what runs is stopped, or killed after its grace.

        Args:
            reason: Why; part of the run's error.
            timeout: Seconds to wait at most, None for as long as it takes. The cancel itself stands in any case.

        Returns:
            How each step ended; of a run that has ended before as well.

        Raises:
            ConfigError: The timeout is no number of seconds.
            ClusterError: The cluster was lost before the run ended.
            StalledError: The local cluster can start no slots any more.
        """
        check_wait("timeout", timeout)
        self.ask_to_end(reason)
        if not self.done():
            self.wait(timeout)
        return read_receipt(self._record)

    def ask_to_end(self, reason: str, *, is_urgent: bool = False) -> None:
        """As `cancel`, without waiting for anything; if it is urgent what runs is killed at once."""
        if not self.done():
            self._engine.cancel_record(self._record, reason, is_urgent=is_urgent)

    def obey(self, token: CancellationToken) -> None:
        """Has the run cancelled with this token."""
        tie(token, self._record, self._engine.cancel_record)

    def check(self) -> Run:
        """Returns the run if it succeeded.

        Raises:
            StepFailedError: A step failed; the error of the first one, with `.run`.
            RunCancelledError: It was cancelled, with `.run`, `.reason` and `.receipt`; RunTimeoutError: because of its
                timeout.
            ClusterError: The cluster was lost before the run ended.
            StalledError: The local cluster can start no slots any more.
        """
        record = self._record
        if record.error is not None:
            raise record.error
        if record.status in (RUN_CANCELLED, RUN_TIMED_OUT):
            kind = RunCancelledError if record.status == RUN_CANCELLED else RunTimeoutError
            reason, receipt = record.cancel_reason, read_receipt(record)
            raise kind(f"run {self.id} was cancelled: {reason}", reason=reason, receipt=receipt, run=self)
        if record.failures:
            first, attempts = next((row[1], row[3]) for row in record.rows if row[0] in FAILURES)
            error = self._error(first, attempts)
            error.run = self
            raise error
        return self

    # -- results ---------------------------------------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """What `returns` names, else the output of the only leaf. Waits for the end of the run.

        Raises:
            ValueError: There are several leaves and `returns` was not used.
            OutputNotKeptError: A part of it was not kept.
            StepFailedError: A step failed, and RunCancelledError, ClusterError, as `check`.
        """
        self.wait()
        self.check()
        if self._meaning.value is None:
            names = ", ".join(repr(self._record.graph.ids[step]) for step in self._meaning.leaves[:10])
            raise ValueError(
                f"workflow {self.name!r} has {len(self._meaning.leaves)} leaves ({names}): "
                f"say with wf.returns(...) what its value is, or read run.outputs"
            )
        return fill(self._meaning.value, PickledOutputs(self))  # type: ignore[arg-type]  # all it does is look up

    @property
    def outputs(self) -> Mapping[str | Node | MapNode, Any]:
        """Outputs that were kept, by id or node, unpickled when they are read; a map's is the list of its members'."""
        return OutputMapping(self)

    @property
    def errors(self) -> dict[str, StepFailedError]:
        """`{id: error}` of the steps that have failed for good."""
        attempts = {row[1]: row[3] for row in self._record.rows if row[0] in FAILURES}
        return {self._record.graph.ids[step]: self._error(step, attempts[step]) for step in self._record.failures}

    @property
    def states(self) -> dict[str, str]:
        """`{id: state}`; the state of a step that has not ended is the last one heard of."""
        # The states first: steps may be added meanwhile, with their ids before their states.
        states, ids = bytes(self._record.states), self._record.graph.ids
        return {step_id: STATE_NAMES[state] for step_id, state in zip(ids, states, strict=False)}

    def output(self, step: int) -> Any:
        """The output of the step with this index in the graph.

        Raises:
            OutputNotKeptError: It was not kept, or the step did not succeed.
        """
        from pfw import codec

        record, name, state = self._record, self._record.graph.ids[step], self._record.states[step]
        if (pickled := record.outputs.get(step)) is not None:
            return codec.load(pickled)
        if step in self._given:
            raise OutputNotKeptError(f"the output of {name!r} was given by as_completed and then freed")
        if state == SUCCEEDED:
            from pfw.debugging import how_to_keep

            raise OutputNotKeptError(f"the output of {name!r} was not kept: {how_to_keep(record, [step])}")
        raise OutputNotKeptError(f"{name!r} has no output: its state is {STATE_NAMES[state]}")

    def step_index(self, step: str | Node) -> int:
        """The index of a step.

        Raises:
            UnknownDependencyError: There is none of this id.
        """
        step_id = step if isinstance(step, str) else step.id
        if self._index is None or len(self._index) < len(self._record.states):
            self._index = {name: index for index, name in enumerate(self._record.graph.ids)}
        if step_id not in self._index:
            instead = members_of(step_id, self._index) or did_you_mean(step_id, self._index)
            raise UnknownDependencyError(f"run {self.id} has no step {step_id!r}{instead}")
        return self._index[step_id]

    def logs(self, step: str | Node, attempt: int | None = None) -> str:
        """What a step has printed and logged so far, on both streams, bounded.

        Args:
            step: Its id or node.
            attempt: Of this attempt only, from 1; None: of all, one after the other.

        Raises:
            UnknownDependencyError: The run has no such step.
        """
        return self._record.log.text(self.step_index(step), attempt)

    def explain(self, step: str | Node | None = None) -> str:
        """Says in words why a step has not started, what it waits for, or how it ended.

        Args:
            step: Its id or node; None: those that hold up the run, which have failed or could go on.

        Raises:
            UnknownDependencyError: The run has no such step.
        """
        from pfw import explanation

        record, look, now = self._record, self._engine.look, time.time()
        if step is None:
            return explanation.explain_run(record, look, now)
        return explanation.explain(record, self.step_index(step), look, now)

    def as_completed(self) -> Iterator[tuple[str, Any]]:
        """Gives `(id, output)` of each step whose output is kept, as it ends, and frees the output here.

        After the last one it raises what `check` raises. With `keep="all"` every step counts, else the leaves and
        what `keep` names; an output that was given is no longer in `outputs`.

        Raises:
            StepFailedError: A step failed; and RunCancelledError, ClusterError, StalledError as `check`.
        """
        from pfw import codec

        record, rows, position = self._record, self._record.rows, 0
        is_last = False
        while not is_last:
            self._wait_for_news(position)
            is_last, first, position = record.is_finished, position, len(rows)
            for place in range(first, position):
                row = rows[place]
                if row[0] == FACT_SUCCEEDED and record.outputs.pop(row[1], None) is not None:
                    self._given.add(row[1])
                    rows.blank(place)
                    yield record.graph.ids[row[1]], codec.load(row[8])
        self.check()

    def inputs(self, step: str | Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a step was called with, `(args, kwargs)`, unpickled anew at each call.

        They are there for steps that have failed, as long as those of one run are at most 16 MiB together, for steps
        without inputs, and where the outputs that they are made of are kept.

        Raises:
            UnknownDependencyError: The run has no such step.
            OutputNotKeptError: They are not here; the message says which `keep=` to use.
        """
        from pfw.debugging import arguments

        return arguments(self._record, self.step_index(step))

    def blamed(self, step: str | Node) -> str:
        """The id of the step whose call failed when this one did: itself, or if others took its place one of those.

        Raises:
            UnknownDependencyError: The run has no such step.
        """
        return self._record.graph.ids[self._record.blamed(self.step_index(step))]

    def replay(self, step: str | Node) -> Any:
        """Calls a step again here, with what it was called with, so that a debugger can look on; nothing is recorded.

        Of a step that returned a Workflow and failed through one of its steps, the call of that one is made (`blamed`).
        Whatever it raises comes with live frames: `pdb.post_mortem()` shows where, and `pdb.runcall(found.replay, id)`
        goes through it. An `async def` step gets an event loop of its own.

        Returns:
            What the step returns, if it does not fail here.

        Raises:
            UnknownDependencyError: The run has no such step.
            OutputNotKeptError: Its arguments are not here, as `inputs`.
            MissingModuleError: A module that it needs is not installed here.
        """
        from pfw.debugging import call_again

        return call_again(self._record, self.step_index(self.blamed(step)))

    def _error(self, step: int, attempts: int) -> StepFailedError:
        from pfw.failure import Failure
        from pfw.remote import to_error

        record, raised = self._record, self._record.raised.get(step)
        # A step whose place was taken by others was not tried again because of them.
        retries = 0 if step in record.expanded else record.graph.specs[record.graph.spec_of[step]].retries
        return to_error(Failure.unpack(record.failures[step]), record.graph.ids[step], attempts, retries, raised)

    # -- what happened ---------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> WorkflowMetrics:
        """What the run has cost so far."""
        from pfw.metrics import measure

        record = self._record
        now = time.time() - record.epoch_s
        rows, states = list(record.rows), bytes(record.states)
        return measure(rows, record.graph, states, record.workers, record.epoch_s, now, record.fragments)

    def events(self) -> Iterator[Event]:
        """Every event from the start of the run, then further ones as they come, until the run has ended."""
        from pfw.events import EventReader

        for events in self._follow(EventReader, self._wait_for_news):
            yield from events

    def watch(self, make: Callable[..., FactReader[T]]) -> Iterator[list[T]]:
        """As `events`, for an onlooker: new ones are looked for every WATCH_S, and one who is behind gets counts."""
        return self._follow(make, self._nap, may_count=True)

    def _wait_for_news(self, known: int) -> None:
        self._engine.wait(lambda: self._has_news(known))

    def _nap(self, known: int) -> None:
        while not self._has_news(known):
            self._is_over.wait(WATCH_S)

    def _has_news(self, known: int) -> bool:
        return len(self._record.rows) > known or self._record.is_finished

    def _follow(
        self, make: Callable[..., FactReader[T]], wait: Callable[[int], object], *, may_count: bool = False
    ) -> Iterator[list[T]]:
        record = self._record
        wait(0)
        reader, position = make(record.run_id, record.graph.ids, record.workers, record.name), 0
        while True:
            is_last = record.is_finished
            rows = record.rows[position:]
            position += len(rows)
            yield reader.read(rows, record.epoch_s, may_count=may_count)
            if is_last:
                break
            wait(position)
        if record.error is not None:
            yield reader.conclude(record.states, record.error, time.time())
