"""Sequential mode: the steps of a run one after another in this process, in Kahn's order, a higher priority first.

The same lifecycle and the same codec as on a cluster, so outputs, errors and events are the same; what a step raises
has its live frames, so a debugger works. It must not know of processes and messages.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from math import inf
from types import FrameType
from typing import Any

from pfw import context
from pfw import outcome as oc
from pfw.alarm import alarm, can_alarm, is_debugged
from pfw.capture import Buffer, capturing
from pfw.codec import LoadedFunction, dumped
from pfw.context import Entry, LocalEntry
from pfw.debugging import outside_of_blocks
from pfw.errors import InternalError, StepInterrupt
from pfw.execution import execute, execute_async, is_interruptible, load_function, report_load_error, run, uninterrupted
from pfw.facts import ENDED_INTERRUPTED, ENDED_ITSELF, STATE_NAMES, Cost, pack_capacity, pack_progress, sendable_reason
from pfw.failure import Failure, describe_timeout
from pfw.graph import LANE_CPU
from pfw.graphs import unpack_fragment
from pfw.interrupts import are_pythons_own
from pfw.lifecycle import RunLife
from pfw.printed import LAST_BYTES, Pace
from pfw.record import RunRecord
from pfw.returned import Returned
from pfw.usage import Loads, Meter

#: The "worker" that events and metrics name.
WORKER = 1
#: This process is the one slot of every lane.
CAPACITY = pack_capacity((1, 1, 1))
#: Steps that take less are committed together with those before them, s, and for so long.
SHORT_S = 0.0005
TOGETHER_S = 0.002


class Sequential:
    """Runs one workflow. It is the engine of its Run: `wait` serves other threads while `execute` goes on."""

    def __init__(self, record: RunRecord, life: RunLife) -> None:
        self._record, self._life = record, life
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # so many threads, for a change: telling nobody takes as long as applying a fact
        #: Of the step that began last, with a token of its own.
        self._entry = Entry("", 0)
        #: Whether the run is to end; a step's token may have been cancelled by the step itself.
        self._is_cancelled = False
        self._reason, self._cancelled_at = "", 0.0
        #: The thread that executes; what it runs must not wait for the run's end.
        self._thread = 0
        #: Whether Ctrl-C was pressed, and whether it may raise where the main thread is now.
        self._is_interrupted = self._may_interrupt = False
        self._meter, self._loads = Meter(), Loads()
        #: What the step that runs has printed.
        self._printed = Buffer()
        #: The step that executes, since when, and when it may say how far it is.
        self._step_now, self._began = 0, 0.0
        self._pace: Pace | None = None
        #: Whether the running step was told that its time, or the run's, is over.
        self._is_late = False
        self._has_raised = False  # in the step that runs
        #: {pickle: the function that was loaded of it, or why none was}
        self._functions: dict[bytes, LoadedFunction | BaseException] = {}
        #: {(function, spec) of steps that took less than SHORT_S when last run: the function}
        self._short: dict[tuple[int, int], LoadedFunction] = {}
        self._returned = Returned()
        record.epoch_s = time.time() - time.monotonic()
        record.run_id = os.urandom(5).hex()
        record.workers[WORKER] = f"sequential-{os.getpid()}"

    def wait(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until `predicate()` is true; False if the time is over before, or if a step of the run itself waits."""
        if threading.get_ident() == self._thread:
            return predicate()
        with self._changed:
            self._waiting += 1
            try:
                return self._changed.wait_for(predicate, timeout)
            finally:
                self._waiting -= 1

    def look(self, record: RunRecord, step: int) -> dict[str, Any]:
        """How a step stands that has not ended, as `explanation.explain` reads it; {} before the start."""
        life = self._life
        if not life.states:
            return {}
        return {
            "state": STATE_NAMES[life.states[step]], "attempt": life.attempts[step],
            "retry_s": life.retry_s(step, time.monotonic()), "worker": record.workers[WORKER], "silent_s": 0.0,
            "obstacle": "", "slots": 1, "taken": 1, "waiting": life.ready[LANE_CPU].count, "is_in_later_wave": False,
        }  # fmt: skip

    def cancel_record(self, record: RunRecord, reason: str, *, is_urgent: bool = False) -> None:
        """Ends the run before its next step; the running one sees it in its token, and nothing here can end it."""
        self._note_cancel(sendable_reason(reason))
        with self._changed:
            self._changed.notify_all()

    def execute(self) -> None:
        """Runs all steps.

        Raises:
            KeyboardInterrupt: Ctrl-C; the run is cancelled.
        """
        life, self._thread = self._life, threading.get_ident()
        try:
            with outside_of_blocks(), self._hearing_interrupts(), capturing():
                life.start(self._record.graph, time.monotonic(), CAPACITY)
                self._meter.begin()  # and then at the end of each step: 1 µs for one look at that clock
                while not life.is_finished:
                    self._step()
                    self._publish()
            self._publish()
        finally:
            context.end()  # what escapes just as a step begins finds no block that would end it
            self._thread, self._entry = 0, Entry("", 0)
        if self._is_interrupted:
            raise KeyboardInterrupt

    def execute_apart(self) -> None:
        """As `execute`, on a thread of its own: whatever goes wrong ends the run and those who wait for it."""
        try:
            self.execute()
        except BaseException as error:
            with self._changed:
                self._record.error = InternalError(f"sequential mode broke: {error!r}")
                self._record.error.__cause__ = error
                self._changed.notify_all()

    def _note_cancel(self, reason: str) -> None:
        if not self._is_cancelled:
            self._reason, self._cancelled_at = reason, time.monotonic()
            self._is_cancelled = True
        self._entry.need_token()  # made if there is none: the step counts as one that was told to stop

    def reason_to_stop(self) -> str | None:
        """Why steps are to stop; None if they are not."""
        return self._reason if self._is_cancelled else None

    @contextmanager
    def _hearing_interrupts(self) -> Iterator[None]:
        """Ctrl-C cancels the run and interrupts the step, as a cancel on a cluster does."""

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            self._is_interrupted = True
            self._note_cancel("interrupted")
            if self._may_interrupt or is_interruptible():
                self._has_raised = True
                raise StepInterrupt

        if not are_pythons_own():
            yield
            return
        signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C ends what is done inside."""
        try:
            self._may_interrupt = True
            yield
        except StepInterrupt:
            pass
        finally:
            self._may_interrupt = False

    def _step(self) -> None:
        """Some steps, or the wait for a backoff to end."""
        life = self._life
        now, wake_at = time.monotonic(), life.wake_at()
        if self._is_cancelled or (wake_at is not None and wake_at <= now):
            with self._lock:
                life.cancel(self._reason, now) if self._is_cancelled else life.on_time(now)
        elif life.ready[LANE_CPU].count:
            if not self._run_short(now + TOGETHER_S if wake_at is None else min(now + TOGETHER_S, wake_at)):
                self._run(life.ready[LANE_CPU].take()[0])
        else:
            with self._interruptible(), self._changed:
                self._changed.wait_for(lambda: self._is_cancelled, max(0.0, (wake_at or now) - now))
            self._meter.begin()

    def _run_short(self, until: float) -> bool:
        """Short steps in their order, as long as the next one is short too; whether there were any.

        5 µs a no-op, where one by one takes 8. Nobody hears of their ends before the last one has ended.
        """
        life, short, returned, take_printed = self._life, self._short, self._returned, self._printed.take
        graph, outputs, queue, has_run = life.graph, life.outputs, life.ready[LANE_CPU], False
        now = time.monotonic()
        try:
            while short and now < until and not self._is_cancelled:
                if not queue.count:
                    if not returned.steps:
                        break
                    self._commit(now)  # of a chain each step waits for the one before it
                    now = time.monotonic()
                    continue
                step = queue.heads()[0]
                kind = graph.function_of[step], graph.spec_of[step]
                function = short.get(kind)
                if function is None:
                    break
                queue.take()
                self._began, has_run = now, True
                entry = self._begin(step)
                context.succeed(entry)
                inputs: list[bytes] = [outputs[dependency] for dependency in graph.inputs[step]]  # type: ignore[misc]
                code, payload = run(function, graph.calls[step], inputs, entry)
                began, now = now, time.monotonic()
                printed = take_printed()
                is_short = now - began < SHORT_S
                if not is_short:
                    del short[kind]
                if code != oc.OK or printed or self._is_cancelled or not is_short:
                    self._commit(began, max(1, int((now - began) * 1e6)))
                    self._end(step, code, dumped(payload), now, printed)
                    break
                returned.add(step, began, now - began, payload)
        finally:
            if has_run:
                context.end()
        self._commit(now)
        return has_run

    def _commit(self, now: float, running_us: int = 0) -> None:
        """Commits the short steps that have returned; another one may be running, for so long."""
        with self._lock:
            steps, started_at, runs_s, outputs = self._returned.take()
            runs_us = [int(run_s * 1e6) for run_s in runs_s]
            if len(steps) == 1 and not running_us:
                cost = self._meter.end_one(runs_us[0])
                self._life.on_succeeded(steps[0], WORKER, started_at[0], runs_s[0], outputs[0], now, cost)
            elif steps:
                columns = steps, started_at, runs_s, outputs, *self._meter.end(runs_us, running_us)
                self._life.on_all_succeeded(WORKER, columns, now)

    def _run(self, step: int) -> None:
        life, timeout_s = self._life, self._life.spec(step).timeout
        started = self._began = time.monotonic()
        ends_at = started + timeout_s if timeout_s else inf
        ends_at = ends_at if life.deadline is None else min(ends_at, life.deadline)
        code, payload = self._call(step, self._begin(step), ends_at)
        now = time.monotonic()
        if code == oc.OK and now - started < SHORT_S and ends_at == inf:
            self._note_short(step)
        self._end(step, code, payload, now, self._printed.take())

    def _note_short(self, step: int) -> None:
        """Others that are like this step are short too; not where one that becomes ready may go before them."""
        graph = self._life.graph
        function = self._functions.get(graph.functions[graph.function_of[step]])
        if isinstance(function, LoadedFunction) and not (function.is_async or self._life.has_priorities):
            self._short[graph.function_of[step], graph.spec_of[step]] = function

    def _end(self, step: int, code: int, payload: bytes, now: float, printed: bytes) -> None:
        """Commits how the step that began last has ended."""
        with self._lock:  # a thread that it has left may say how far it is
            life, started = self._life, self._began
            run_s = now - started
            if self._loads.ns:
                run_s -= self._loads.take(self._meter) * 1e-9
            cost = self._meter.end_one(int(run_s * 1e6))
            life.on_printed(step, WORKER, printed, now)
            if self._is_cancelled:  # from then on nothing that the step returns counts
                life.cancel(self._reason, self._cancelled_at)
            if self._is_late and not self._is_cancelled:
                last_output = printed[-LAST_BYTES:].decode("utf-8", "replace")
                failure = describe_timeout(life.spec(step).timeout, last_output, b"" if code == oc.OK else payload)
                self._end_late(step, started, run_s, failure, now, cost)
            elif code == oc.OK:
                life.on_succeeded(step, WORKER, started, run_s, payload, now, cost)
            elif code == oc.EXPANDED:
                self._short.clear()  # its steps may have priorities
                life.on_expanded(step, WORKER, started, run_s, unpack_fragment(payload), payload, now, cost)
            elif code == oc.STOPPED and self._is_cancelled:
                how = ENDED_INTERRUPTED if self._has_raised else ENDED_ITSELF
                life.on_stopped(step, WORKER, how, now, started, run_s, cost)
            else:
                life.on_failed(step, WORKER, started, run_s, payload, code == oc.RETRYABLE, now, cost)

    def _end_late(self, step: int, started: float, run_s: float, failure: Failure, now: float, cost: Cost) -> None:
        """The step was told that its time is over: what it returned does not count."""
        life = self._life
        life.on_time(now)
        if life.deadline is None and life.cancel_reason:
            life.on_stopped(step, WORKER, ENDED_INTERRUPTED, now, started, run_s, cost)
        else:
            life.on_timed_out(step, WORKER, started, run_s, failure.pack(), now, cost)

    def _begin(self, step: int) -> Entry:
        attempt = self._life.on_assigned(step)
        self._is_late = self._has_raised = False
        entry = LocalEntry(self._record.run_id, attempt, self._printed, self._on_progress)
        entry.host = self
        self._entry, self._step_now, self._pace = entry, step, None
        if self._is_cancelled:
            entry.need_token()
        if attempt > 1:
            self._record.raised.pop(step, None)
        return entry

    def _call(self, step: int, entry: Entry, ends_at: float) -> tuple[int, bytes]:
        graph, outputs = self._life.graph, self._life.outputs
        function = self._load(graph.functions[graph.function_of[step]], entry)
        if isinstance(function, BaseException):
            return report_load_error(function)
        inputs: list[bytes] = [outputs[dependency] for dependency in graph.inputs[step]]  # type: ignore[misc]
        if function.is_async:
            found = oc.STOPPED, b""
            with self._interruptible():
                found = asyncio.run(self._await(execute_async(function, graph.calls[step], inputs, entry), ends_at))
            return found
        if ends_at == inf or not can_alarm():
            return execute(function, graph.calls[step], inputs, entry)
        with alarm(ends_at, self._on_alarm):
            return execute(function, graph.calls[step], inputs, entry)

    def on_raised(self, error: BaseException) -> None:
        """The running step has ended with this exception."""
        self._record.raised[self._step_now] = error

    def _on_alarm(self) -> None:
        self._note_late()
        if is_interruptible():
            raise StepInterrupt(self._entry.need_token().reason)

    def _note_late(self) -> None:
        self._is_late = True
        self._entry.need_token().cancel("its timeout is over")

    async def _await(self, call: Coroutine[None, None, tuple[int, bytes]], ends_at: float) -> tuple[int, bytes]:
        """Awaits a step in a task of its own loop, which is cancelled when its time is over."""
        if ends_at < inf and not is_debugged():
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            loop.call_at(ends_at, self._note_late)
            loop.call_at(ends_at, task.cancel)  # type: ignore[union-attr]
        return await call

    def _on_progress(self, entry: Entry, done: float, total: float, message: str) -> None:
        now = time.monotonic()
        pace = self._pace = self._pace or Pace(now, inf)
        if now < pace.due or entry is not self._entry:
            return  # too early, or a thread of a step that has ended
        was_cancelled = entry.is_cancelled()
        with uninterrupted(), self._lock:
            if entry is not self._entry:
                return
            pace.on_told(0, now)
            if threading.get_ident() == self._thread:  # else what has ended is told when this step has ended too
                self._commit(self._began, max(1, int((now - self._began) * 1e6)))
            self._life.on_progressed(self._step_now, WORKER, pack_progress(done, total, message), now, self._began)
            self._publish()
        if entry.is_cancelled() and not was_cancelled:
            raise StepInterrupt  # which could not be raised meanwhile

    def _load(self, pickled: bytes, entry: Entry) -> LoadedFunction | BaseException:
        found = self._functions.get(pickled)
        if found is None:
            is_common = True
            try:
                with self._loads.measured():
                    found, is_common = load_function(pickled, entry)
            except BaseException as error:  # whatever the function's own module raises, as in a slot
                found = error
            if is_common:
                self._functions[pickled] = found
        return found

    def _publish(self) -> None:
        """Hands new facts to the record."""
        if self._life.facts:
            with self._lock:  # a step that says how far it is publishes as well
                for part in self._life.take_facts().parts:
                    self._record.take(part)
                if self._waiting:
                    self._changed.notify_all()


def start_thread(engine: Sequential) -> None:
    """Executes on a thread of its own, with the caller's context variables."""
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(engine.execute_apart,), name="pfw-sequential", daemon=True).start()
