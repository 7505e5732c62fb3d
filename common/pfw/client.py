"""A client of a coordinator: runs, single calls, and what the cluster says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from pfw import codec
from pfw import messages as m
from pfw.call import Input, Inputs
from pfw.checks import check_number, checked_text
from pfw.config import Config, Keep, checked_config, settle
from pfw.connection import find_address
from pfw.errors import ClusterError, ConfigError, PfwError, UnknownDependencyError, UnknownRunError, did_you_mean
from pfw.graph import Graph
from pfw.progress import open_all, report
from pfw.receipt import CancelReceipt
from pfw.record import RunRecord
from pfw.results import Meaning
from pfw.runs import Run

if TYPE_CHECKING:
    from pfw.futures import Caller, Calls, Future
    from pfw.hint import Hint
    from pfw.link import Link
    from pfw.retry import Retry
    from pfw.session import Session
    from pfw.workflow import Compiled, Workflow

T = TypeVar("T")


class Client:
    """A connection to a coordinator; may be shared by threads. Use it in a `with` block, or `close` it."""

    def __init__(self, address: str | None = None, *, timeout: float = 5.0, config: Config | None = None) -> None:
        """Connects.

        Args:
            address: "tcp://HOST:PORT" or "ipc://PATH"; None: $PFW_ADDRESS, else this user's coordinator.
            timeout: Seconds to wait for the coordinator's answer.
            config: What holds for its runs that are given no config, and for its single calls (`retry`, `grace`,
                `step_timeout`); None: `Config.load()`, each time.

        Raises:
            ConfigError: The address is none, the timeout is no number of seconds, or the config no Config.
            ClusterError: Nobody answers there.
            VersionMismatchError: The coordinator runs another protocol or Python version.
        """
        from pfw.link import Link

        check_number("timeout", timeout)
        #: As it was given.
        self.config = checked_config(config)
        self._link: Link = Link(find_address(address))
        self._calls: Calls | None = None
        self._connect(timeout)

    def _connect(self, timeout: float) -> None:
        session = self._link.session
        self._link.wait(lambda: session.is_welcome or session.error is not None, timeout)
        if session.error is None and not session.is_welcome:
            self._link.close()
            raise ClusterError(
                f"no coordinator answers at {self._link.address} within {timeout:g} s: "
                f"is `pfw-coordinator` running there, and is the address right?"
            )
        if session.error is not None:
            error = session.error
            self._link.close()
            raise error

    @property
    def address(self) -> str:
        """Of the coordinator."""
        return self._link.address

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or its coordinator is lost."""
        return self._link.is_closed

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. Futures that are not done are cancelled; runs made by `start` go on."""
        try:
            if self._calls is not None and not self._link.is_closed:
                self._calls.close()
        finally:
            self._link.close()

    # -- runs ------------------------------------------------------------------------------------------------------

    def start(self, wf: Workflow, /, *, key: str | None = None, config: Config | None = None, **options: Any) -> Run:
        """Starts a workflow, which goes on without this process, and returns as soon as the coordinator has it.

        Args:
            wf: The workflow.
            key: The same key twice is one run, so that a start whose answer was lost may be repeated.
            config: As for `pfw.run`.
            options: mode, timeout, on_failure, keep, priority, progress: as for `pfw.run`.

        Raises:
            ConfigError: An option has a value that it cannot have.
            GraphError: The workflow is not valid.
            TypeError: It is no Workflow.
            UnpicklableError: A function or an argument cannot be sent.
        """
        from pfw.workflow import checked_workflow

        settled = settle(self.config if config is None else config, **options)
        return self.submit_run(checked_workflow(wf), settled, key=key, is_detached=True)

    def run(self, wf: Workflow, /, **options: Any) -> Run:
        """Runs a workflow and waits for its end; options and errors as for `pfw.run`."""
        from pfw.running import run

        return run(wf, on=self, **options)

    def submit_run(self, wf: Workflow, config: Config, *, key: str | None = None, is_detached: bool = False) -> Run:
        """As `start`; a run that is not detached is cancelled when this process has been gone for 30 s."""
        if config.mode == "sequential":
            raise ConfigError("mode 'sequential' is of runs in this process; on a cluster it is 'parallel' or 'waves'")
        from pfw.graphs import pack_graph

        compiled = wf.compile(config.step_defaults)
        self._check_demands(compiled.graph)
        kept = kept_steps(compiled, config.keep)
        meaning = Meaning(compiled.value, compiled.leaves, compiled.maps)
        record = RunRecord(wf.name, config.mode, compiled.graph, meaning, version=wf.version or "")
        message = m.Submit(
            os.urandom(16) if key is None else _checked_key(key),
            wf.name,
            config.mode,
            config.on_failure,
            int(kept is None),
            kept or (),
            0,
            int(is_detached),
            config.priority,
            codec.dump(tuple(meaning)) if is_detached else b"",
            pack_graph(compiled.graph),
            wf.version or "",
            config.timeout or 0.0,
            config.max_parallel_steps or 0,
        )
        open_all(config.trackers)
        record = self._link.call(lambda session, now: session.submit(message, record))
        run = Run(record, meaning, self)
        report(run, config.trackers)
        if is_detached:
            self.wait(lambda: bool(record.run_id) or record.error is not None)
            if record.error is not None:
                raise record.error
        return run

    def _check_demands(self, graph: Graph) -> None:
        """Refuses what this cluster can never run; of an open cluster nobody knows that."""

    def attach(self, run_id: str) -> Run:
        """The run of this id, with its history from the start.

        Raises:
            UnknownRunError: The coordinator has no such run (any more).
        """
        attached: m.Attached = self._ask(lambda number: m.Attach(number, _checked_id(run_id)))
        if not attached.graph:
            raise UnknownRunError(
                f"run {run_id!r} cannot be attached to: it is of a local cluster, whose client has it"
            )
        record = self._link.session.attached.pop(attached.request)
        self.wait(lambda: record.position >= attached.position or record.error is not None)
        meaning = Meaning(*codec.load(attached.meta)) if attached.meta else Meaning(None, (), {})
        return Run(record, meaning, self)

    def cancel(self, run_id: str, reason: str = "", timeout: float | None = None) -> CancelReceipt:
        """Cancels a run by its id and waits for its end; as `Run.cancel`.

        Raises:
            UnknownRunError: The coordinator has no such run.
        """
        mine = [record for record in list(self._link.session.records.values()) if record.run_id == run_id]
        found = Run(mine[0], Meaning(None, (), {}), self) if mine else self.attach(run_id)
        return found.cancel(reason, timeout)

    def runs(self) -> list[dict[str, Any]]:
        """The runs the coordinator knows.

        Of each id, name, version, status, mode, steps, number of steps by state, started_at and duration_s.
        """
        return list(self._ask(lambda number: m.Query(number, "runs")))

    def workers(self) -> list[dict[str, Any]]:
        """The workers: name, pid, state, cpu and io slots, resources and what is free of them, held steps, and its use.

        The use is rss_bytes, cpu_percent and load; seen_s is how long nothing was heard.
        """
        return list(self._ask(lambda number: m.Query(number, "workers")))

    def status(self) -> dict[str, Any]:
        """The coordinator in numbers: versions, workers, clients, runs, slots, held steps, odd messages."""
        return dict(self._ask(lambda number: m.Query(number, "status")))

    def _ask(self, make: Callable[[int], m.Message]) -> Any:
        link = self._link
        number = link.call(lambda session, now: session.ask(make))
        answers = link.session.answers
        link.wait(lambda: number in answers or link.is_closed)
        if number not in answers:
            raise link.session.error or ClusterError("the client was closed")
        return answer_of(answers.pop(number))

    # -- single calls ----------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Calls a function on the cluster.

        Args:
            fn: A function or a step (whose options count; those that it does not set are as the Config says).
            args: Arguments; futures of this client among them stand for their results, also inside lists, tuples and
                dict values, and are waited for on the cluster.
            kwargs: As `args`.

        Raises:
            UnpicklableError: The function or an argument cannot be sent.
            ConfigError: With the first call: there is no good Config.
        """
        return self._use_calls(lambda calls: calls.submit(fn, args, kwargs))

    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any]) -> list[Future]:
        """Calls a function for each item (with several iterables: for each tuple of items); the futures, in order."""
        rows = list(zip(*iterables, strict=False))
        return self._use_calls(lambda calls: calls.submit_all(fn, rows))

    def options(
        self,
        *,
        name: str | None = None,
        hint: str | Hint | None = None,
        retry: int | Retry | None = None,
        grace: float | None = None,
        timeout: float | None = None,
        rerun_on_loss: bool | None = None,
        priority: int | None = None,
    ) -> Caller:
        """Single calls with options: `client.options(hint="heavy_io").submit(fn, x)`; those not given stay as they are.

        Args:
            name: As in `step`.
            hint: As in `step`.
            retry: As in `step`.
            grace: As in `step`.
            timeout: As in `step`.
            rerun_on_loss: As in `step`.
            priority: As in `step`; among the single calls of this client.
        """
        from pfw.futures import Caller

        options = {
            "name": name, "hint": hint, "retry": retry, "grace": grace, "timeout": timeout,
            "rerun_on_loss": rerun_on_loss, "priority": priority,
        }  # fmt: skip
        return Caller(self._use_calls, options)

    def gather(self, futures: Iterable[Future]) -> list[Any]:
        """The results of futures, in order. Raises the first exception, in that order."""
        return [future.result() for future in futures]

    def _use_calls(self, use: Callable[[Calls], T]) -> T:
        """What `use` gives for calls that take more; those that it is given first may be finished by another thread."""
        from pfw.futures import CallsFinished

        while True:
            try:
                return use(self._need_calls())
            except CallsFinished:
                continue

    def _need_calls(self) -> Calls:
        calls = self._calls
        if calls is not None and not (calls.is_broken or calls.is_spent):
            return calls
        from pfw.futures import Calls

        fresh = Calls(self._link, settle(self.config).step_defaults)
        return self._link.call(lambda session, now: self._renew_calls(session, fresh))

    def _renew_calls(self, session: Session, fresh: Calls) -> Calls:
        """With the link's lock held: another thread may just have done the same."""
        calls = self._calls
        if calls is None or calls.is_broken or (calls.is_spent and calls.finish(session)):
            calls = self._calls = fresh
            calls.open(session)
        return calls

    # -- what a Run needs of its engine ----------------------------------------------------------------------------

    def wait(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until `predicate()` is true; False if the time is over before."""
        return self._link.wait(predicate, timeout)

    def look(self, record: RunRecord, step: int) -> dict[str, Any]:
        """How a step stands that has not ended, as `explanation.explain` reads it; {} if nobody knows any more."""
        try:
            return dict(self._ask(lambda number: m.Query(number, "step", record.number, step)))
        except PfwError:
            return {}

    def cancel_record(self, record: RunRecord, reason: str, *, is_urgent: bool = False) -> None:
        """Asks for the end of a run of this client; may be called in a signal handler."""
        self._link.post(lambda session, now: session.cancel(record, reason, is_urgent=is_urgent))


def kept_steps(compiled: Compiled, keep: Keep) -> tuple[int, ...] | None:
    """The steps whose outputs the caller gets; None for all.

    Raises:
        UnknownDependencyError: An id is not one of the workflow's.
    """
    if keep == "all":
        return None
    value = _steps_of(compiled.value)
    if keep == "leaves":
        # Of a fan-out both are one range.
        return tuple(value if value == compiled.leaves else {*compiled.leaves, *value})
    kept, index = set(value), compiled.index
    for wanted in keep:
        name = wanted if isinstance(wanted, str) else wanted.id
        if name not in compiled.maps and name not in index:
            raise UnknownDependencyError(f"keep names {name!r}, which is no step{did_you_mean(name, index)}")
        kept.update(compiled.maps[name] if name in compiled.maps else (index[name],))
    return tuple(kept)


def _steps_of(value: Any) -> Sequence[int]:
    """The steps that a value's structure names."""
    if isinstance(value, Inputs):
        return range(value.start, value.start + value.count)
    steps: list[int] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Input):
            steps.append(item.position)
        elif isinstance(item, Inputs):
            steps.extend(range(item.start, item.start + item.count))
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return steps


def _checked_key(key: str) -> bytes:
    if not checked_text("key", key):
        raise ConfigError("key is empty: the same key twice is one run, so give each run one of its own, or none")
    return key.encode()


def _checked_id(run_id: str) -> str:
    if not isinstance(run_id, str) or len(run_id) > 100 or not run_id.isascii():
        raise UnknownRunError(f"no run has the id {str(run_id)[:100]!r}")
    return run_id


def answer_of(message: m.Message) -> Any:
    """The body of an answer.

    Raises:
        UnknownRunError: What was asked for is not there.
    """
    if isinstance(message, m.Rejected):
        raise UnknownRunError(message.text)
    if isinstance(message, m.Answer):
        from pfw.wire import unpack

        return unpack(message.body)
    if isinstance(message, m.Attached):
        return message
    raise ClusterError(f"unexpected answer {type(message).__name__}")
