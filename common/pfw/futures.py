"""Single calls on a cluster: steps added one by one to a run that stays open."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from pfw import codec
from pfw import messages as m
from pfw.call import Input, Numbering, is_plain, replace_sources
from pfw.errors import ClusterError, PfwError
from pfw.facts import (
    FACT_CANCELLED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_SKIPPED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    SUCCEEDED,
)
from pfw.graph import IF_ALL, Graph
from pfw.graphs import pack_graph
from pfw.inherited import Inherited, StepDefaults
from pfw.kinds import Columns, Kind, Steps
from pfw.messages import FactRow
from pfw.record import RunRecord
from pfw.session import Session
from pfw.stepfunction import StepFunction

if TYPE_CHECKING:
    from pfw.link import Link

T = TypeVar("T")
#: Of one call: positional and keyword arguments.
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

#: After so many calls the next one starts a new run, once those before are done.
CALLS_PER_RUN = 100_000


class Future(concurrent.futures.Future[Any]):
    """The result of one call. `result` and `exception` raise or give what the function raised."""

    def __init__(self, link: Link, run: RunRecord, step_id: str) -> None:
        super().__init__()
        self._link, self._run = link, run
        #: Which call this is, for messages.
        self.step_id = step_id
        #: Its step in the open run; -1 until it is sent.
        self.step = -1

    def cancel(self) -> bool:
        """Gives the result up, and has the call stopped: its function, or all that the Workflow it returned has become.

        Calls that need the result are not made.
        """
        if self.cancelled() or not super().cancel():
            return self.cancelled()
        self._link.post(lambda session, now: session.cancel_call(self._run, self.step))
        with contextlib.suppress(RuntimeError):  # another thread has cancelled it at the same time
            self.set_running_or_notify_cancel()  # wait() and as_completed() count only futures that were told
        return True

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the call and returns what the function returned.

        Raises:
            Exception: What the function raised, with the worker's traceback as a note.
            TimeoutError: The time is over before.
            CancelledError: The call was cancelled.
            PfwError: The call could not be carried out: its process crashed, its worker or the cluster was lost.
        """
        if not self.done():
            self._link.wait(self.done, timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the call and returns what the function raised, None if it returned."""
        if not self.done():
            self._link.wait(self.done, timeout)
        return super().exception(0)


class Calls:
    """The open run of one client."""

    def __init__(self, link: Link, defaults: StepDefaults) -> None:
        """Makes it, not yet open.

        Args:
            link: Of the client.
            defaults: For options that steps do not set.
        """
        self._link = link
        self._inherited = codec.dump_inherited(Inherited({}, defaults))
        self._record = RunRecord("calls", "parallel", Graph([], [], [], [], [], [], [], []), None, is_open=True)
        self._futures: dict[int, Future] = {}
        self._kinds: weakref.WeakKeyDictionary[StepFunction, Kind] = weakref.WeakKeyDictionary()
        self._steps = Steps(lambda step: step.settled(defaults))
        self._count, self._is_finished = 0, False
        #: What calls have failed with, for those that needed their results.
        self._reasons: dict[int, BaseException] = {}

    def open(self, session: Session) -> None:
        """Opens it, with the link's lock held."""
        submit = m.Submit(
            os.urandom(16), "calls", "parallel", "continue", 0, (), 1, 0, 0, b"",
            pack_graph(self._record.graph),
        )  # fmt: skip
        session.submit(submit, self._record)
        self._record.on_new_facts = self._on_facts
        session.on_end = self._on_end

    def close(self) -> None:
        """Cancels what is not done."""
        self._link.call(lambda session, now: session.cancel(self._record, "the client was closed"))

    @property
    def is_broken(self) -> bool:
        """Whether the run behind these calls is lost, so that others need a new one."""
        return self._record.error is not None

    @property
    def is_spent(self) -> bool:
        """Whether this run has had many calls and none is under way: a new one lets the cluster forget them."""
        return self._count >= CALLS_PER_RUN and not self._futures

    def finish(self, session: Session) -> bool:
        """No more calls will come; False if some are under way, for then they may. With the link's lock held."""
        if not self._futures:
            self._is_finished = True
            session.close_run(self._record)
        return self._is_finished

    # -- calls out -------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future:
        """One call."""
        step = self._steps.of(fn)
        return (
            self._send_one(step, args) if not kwargs and is_plain(args) else self._send_all(step, [(args, kwargs)])[0]
        )

    def submit_all(self, fn: Callable[..., Any], rows: list[tuple[Any, ...]]) -> list[Future]:
        """One call for each row of arguments, sent together."""
        return self._send_all(self._steps.of(fn), [(row, {}) for row in rows]) if rows else []

    def _send_one(self, step: StepFunction, args: tuple[Any, ...]) -> Future:
        """Sends a call with plain arguments, as most are: none of them can fail, or has to be looked for."""
        kind = self._kinds.get(step) or self._note(step)
        step_id = f"{step.name}-{self._count}"
        self._count += 1
        future = Future(self._link, self._record, step_id)
        columns = (step_id,), (codec.dump_plain_call(step_id, args),), ((),)
        self._link.call(lambda session, now: self._extend(session, kind, columns, (future,), now))
        return future

    def _extend(self, session: Session, kind: Kind, columns: Columns, futures: Sequence[Future], now: float) -> None:
        """With the link's lock held."""
        if self._is_finished:
            raise CallsFinished
        number = kind.extend(session, self._record, columns, now)
        for future in futures:
            future.step = number
            self._futures[number] = future
            number += 1

    def _send_all(self, step: StepFunction, calls: Sequence[Arguments]) -> list[Future]:
        while True:
            sent = self._send(step, calls)
            if sent is not None:
                return sent

    def _pack(
        self, step_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, tuple[Future, ...]] | BaseException:
        """The call as it travels, and the futures among its arguments; or the exception of one that has failed."""
        if not kwargs and is_plain(args):
            return codec.dump_plain_call(step_id, args), ()
        numbering: Numbering[Future] = Numbering()
        try:
            placed = replace_sources((args, kwargs), (Future,), self._place, numbering)
        except _ArgumentFailed as failed:
            return failed.reason
        return codec.dump_call(step_id, placed[0], placed[1] or None), numbering.sources

    def _place(self, future: Future, numbering: Numbering[Future]) -> Any:
        if future._link is not self._link:
            raise ClusterError("a future can be an argument only of calls of its own client: pass future.result()")
        # The coordinator frees an output once the client has confirmed it; from then on it is the client's to send.
        if not future.done() and self._record.states[future.step] == SUCCEEDED:
            self._link.wait(future.done)
        if not future.done():
            return Input(numbering.position(future))
        if future.cancelled():
            raise _ArgumentFailed(concurrent.futures.CancelledError())
        reason = future.exception()
        if reason is not None:
            raise _ArgumentFailed(reason)
        return future.result()

    def _send(self, step: StepFunction, calls: Sequence[Arguments]) -> list[Future] | None:
        """Sends calls; None if the result of a future among the arguments has come meanwhile, to be sent as a value."""
        kind = self._kinds.get(step) or self._note(step)
        first = self._count
        self._count += len(calls)
        link, record, name = self._link, self._record, step.name
        futures: list[Future] = []
        good: list[Future] = []
        failed: list[tuple[Future, BaseException]] = []
        ids: list[str] = []
        packed: list[bytes] = []
        sources: list[tuple[Future, ...]] = []
        for number, (args, kwargs) in enumerate(calls, first):
            step_id = f"{name}-{number}"
            future = Future(link, record, step_id)
            futures.append(future)
            found = self._pack(step_id, args, kwargs)
            if isinstance(found, tuple):
                good.append(future)
                ids.append(step_id)
                packed.append(found[0])
                sources.append(found[1])
            else:
                failed.append((future, found))

        def extend(session: Session, now: float) -> bool:
            inputs: tuple[tuple[int, ...], ...] = ((),) * len(good)
            if any(sources):
                inputs = tuple([tuple([source.step for source in needed]) for needed in sources])
                if any(record.states[source] == SUCCEEDED for source in chain.from_iterable(inputs)):
                    return False
            self._extend(session, kind, (tuple(ids), tuple(packed), inputs), good, now)
            return True

        if good and not link.call(extend):
            return None
        for future, reason in failed:
            future.set_exception(_not_called(future, reason))
        return futures

    def _note(self, step: StepFunction) -> Kind:
        # A call whose argument has failed is not made, wherever that is found out.
        spec = step.spec._replace(run_if=IF_ALL)
        kind = self._kinds[step] = Kind(codec.dump_function(step, self._inherited), spec)
        return kind

    # -- results in ------------------------------------------------------------------------------------------------

    def _on_facts(self, rows: Sequence[FactRow]) -> None:
        """With the link's lock held: results are set outside, since setting them calls the user's callbacks."""
        ended = [row for row in rows if row[0] in _ENDS]
        if ended:
            self._link.afterwards(lambda: self._resolve(ended))

    def _resolve(self, rows: Sequence[FactRow]) -> None:
        for row in rows:
            if row[0] == FACT_FINISHED:
                self._fail_all(None)
                continue
            future = self._futures.pop(row[1], None)
            if future is not None:
                try:
                    self._settle(future, row)
                except concurrent.futures.InvalidStateError:  # its owner has cancelled it meanwhile
                    continue

    def _settle(self, future: Future, row: FactRow) -> None:
        kind, payload = row[0], row[8]
        if kind == FACT_SUCCEEDED:
            self._record.outputs.pop(row[1], None)
            try:
                value = codec.load(payload)
            except Exception as error:  # whatever the result's own code raises while it is unpickled
                future.set_exception(error)
            else:
                future.set_result(value)
        elif kind in (FACT_FAILED, FACT_TIMED_OUT):
            self._record.failures.pop(row[1], None)
            reason = self._reasons[row[1]] = _as_raised(payload, future.step_id, row[3])
            future.set_exception(reason)
        elif kind == FACT_SKIPPED:
            future.set_exception(_not_called(future, self._reasons.get(row[3])))
        elif kind == FACT_CANCELLED:
            self._reasons[row[1]] = concurrent.futures.CancelledError()
            future.cancel()

    def _on_end(self, error: Exception) -> None:
        self._link.afterwards(lambda: self._fail_all(error))

    def _fail_all(self, error: Exception | None) -> None:
        futures, self._futures = self._futures, {}
        for future in futures.values():
            if future.done():
                continue
            if error is None:
                future.cancel()
            else:
                with contextlib.suppress(concurrent.futures.InvalidStateError):  # as above
                    future.set_exception(error)


class UseCalls(Protocol):
    """`Client._use_calls`."""

    def __call__(self, use: Callable[[Calls], T], /) -> T:
        """What `use` gives for calls that take more."""


class CallsFinished(Exception):
    """The run of these calls takes no more of them."""


class Caller:
    """Calls functions with options that they do not have by themselves; made by `Client.options`."""

    def __init__(self, use_calls: UseCalls, options: dict[str, Any]) -> None:
        self._use_calls = use_calls
        self._steps = Steps(lambda step: step.options(**options))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """As `Client.submit`.

        Raises:
            ConfigError: An option has a value that it cannot have, or not for this function.
        """
        step = self._steps.of(fn)
        return self._use_calls(lambda calls: calls.submit(step, args, kwargs))

    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any]) -> list[Future]:
        """As `Client.map`; errors as for `submit`."""
        step, rows = self._steps.of(fn), list(zip(*iterables, strict=False))
        return self._use_calls(lambda calls: calls.submit_all(step, rows))


_ENDS = frozenset({FACT_SUCCEEDED, FACT_FAILED, FACT_TIMED_OUT, FACT_SKIPPED, FACT_CANCELLED, FACT_FINISHED})


def _as_raised(packed: bytes, step_id: str, attempts: int) -> BaseException:
    """What the function raised, with the worker's traceback as a note; else the StepFailedError that says why."""
    from pfw.failure import Failure
    from pfw.remote import to_error

    error = to_error(Failure.unpack(packed), step_id, attempts, 0)
    cause = error.__cause__
    if cause is None:
        return error
    cause.add_note(error.remote_traceback)
    return cause


class _ArgumentFailed(Exception):
    """A future among the arguments of a call has failed."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _not_called(future: Future, reason: BaseException | None) -> PfwError:
    error = PfwError(f"{future.step_id} was not called: one of its arguments failed")
    error.__cause__ = reason
    return error
