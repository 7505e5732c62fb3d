"""Simulated slot processes: they take RUN messages, spend virtual time on steps, stop, crash and are killed.

They follow the slots' protocol (pfw_worker/slot.py, async_slot.py): outcomes of short steps are collected, the status
page names what executes, and steps of cancelled runs are not begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from helpers.columns import columns_of, rows_of_slot
from pfw import outcome as oc
from pfw.failure import FAIL_CANCELLED, FAIL_ERROR, Failure
from pfw_worker.core import STOP_UNLOAD

if TYPE_CHECKING:
    from sim.actors import SimWorker

#: [attempt, run, run id, try, function, known short, call, inputs]
Row = Any

_RUN, _TRY, _SHORT, _INPUTS = 1, 3, 5, 7

_PIPE_S = 0.00003


class SimSlot:
    """A slot process that executes one step at a time."""

    def __init__(self, worker: SimWorker, number: int) -> None:
        self.worker, self.number = worker, number
        self.timeline, self.random = worker.world.timeline, worker.world.random
        self.is_alive = True
        #: What the status page says: (attempt or 0, start_us).
        self.page = (0, 0)
        self.cancelled: set[int] = set()
        self.functions: set[int] = set()
        #: What was sent and not read, and the rest of the message that was read last.
        self._unread: deque[list[Any]] = deque()
        self._rows: deque[Row] = deque()
        self._row: Row = None
        self._outcomes: list[tuple[int, int, int, int, bytes]] = []
        #: What the step before in the message returned.
        self._before: bytes | None = None
        #: Raised whenever what was scheduled for the executing step no longer counts.
        self._era = 0
        self._sent_at = 0.0
        self.timeline.after(self.random.uniform(0.002, 0.010), self._on_started)

    def _on_started(self) -> None:
        if self.is_alive and self.worker.world.may_fail_to_start(self.worker):
            self.die(0, 1)
        elif self.is_alive:
            self._say("ready", None)

    def _say(self, kind: str, payload: Any) -> None:
        """To the supervisor, in order."""
        self._sent_at = max(self._sent_at, self.timeline.now + _PIPE_S)
        self.timeline.at(self._sent_at, self.worker.on_slot, self.number, kind, payload)

    def on_message(self, message: list[Any]) -> None:
        """A RUN message of the supervisor."""
        self._unread.append(message)
        if self._row is None:
            self.timeline.after(_PIPE_S, self._next, self._era)

    def recall(self) -> list[list[Any]]:
        """The supervisor takes back what was not read."""
        messages = list(self._unread)
        self._unread.clear()
        return messages

    def _next(self, era: int) -> None:
        """Begins the next step of the message."""
        if not self.is_alive or era != self._era or self._row is not None:
            return
        while True:
            while self._rows:
                row = self._rows.popleft()
                if self._outcomes and not row[_SHORT]:
                    self._flush()
                if self._begin(row):
                    return
            self._flush()
            if not self._unread:
                return
            functions, forget, blocks, *_ = self._unread.popleft()
            self.functions.difference_update(forget)
            self.functions.update(number for number, _ in functions)
            self._rows.extend(rows_of_slot(blocks))
            self._before = None

    def _begin(self, row: Row) -> bool:
        """True if the step executes now; False if it was passed over."""
        start_us = self.worker.clock_us()
        self.page = (row[0], start_us)
        before, self._before = self._before, None
        if row[_RUN] in self.cancelled or (before is None and None in row[_INPUTS]):
            self.page = (0, 0)
            self._outcomes.append((row[0], oc.NOT_STARTED, start_us, 0, b"", 0, 0))
            return False
        self._row = row
        self.worker.world.oracle.on_begun(self.worker, self, row, before)
        step = self.worker.world.step_of(row)
        self._print_later(row, step.duration_s)
        code = step.code_of(row[_TRY])
        self._era += 1
        if code == oc.CRASHED:
            self.timeline.after(step.duration_s * self.random.random(), self._crash, self._era)
        else:
            self.timeline.after(step.duration_s, self._end, self._era, code)
        return True

    def _crash(self, era: int) -> None:
        if self.is_alive and era == self._era:
            self.die(11, 0)

    def _end(self, era: int, code: int) -> None:
        if not self.is_alive or era != self._era:
            return
        row, (_, start_us) = self._row, self.page
        payload = self.worker.world.oracle.on_ended(self.worker, row, code)
        self._before = payload if code == oc.OK else None
        self._outcomes.append((row[0], code, start_us, self.worker.clock_us() - start_us, payload, 1, 0))
        self._row, self.page = None, (0, 0)
        self._era += 1
        self._next(self._era)

    def _print_later(self, row: Row, duration_s: float) -> None:
        """Every seventh attempt prints something halfway."""
        if row[0] % 7 == 0:
            self.timeline.after(duration_s / 2, self._print, row)

    def _print(self, row: Row) -> None:
        if self.is_alive and self._executes(row):
            self._say("printed", (row[0], self.worker.world.oracle.on_prints(row)))

    def _executes(self, row: Row) -> bool:
        return self._row is row

    def _flush(self) -> None:
        if self._outcomes:
            self._say("outcomes", columns_of(self._outcomes))
        self._outcomes = []

    def on_stop(self, attempt: int, level: int) -> None:
        """The supervisor's signal: it concerns only the attempt that the page names."""
        if not self.is_alive or self._row is None or self.page[0] != attempt:
            return
        if level == STOP_UNLOAD:
            rest = [(row[0], oc.NOT_STARTED, 0, 0, b"", 0, 0) for row in self._rows]
            self._outcomes.extend(rest)
            self._rows.clear()
            self._flush()
            return
        if level >= self.worker.world.step_of(self._row).listens_to:
            self._era += 1
            code = oc.OK if self.random.random() < 0.2 else oc.STOPPED
            self.timeline.after(self.random.uniform(0.0, 0.010), self._end, self._era, code)

    def runs(self) -> set[str]:
        """Ids of the runs whose steps it executes."""
        return {self._row[2]} if self._row is not None else set()

    def kill(self) -> None:
        """SIGKILL; the process may get a little further before it dies."""
        self.timeline.after(self.random.uniform(0.0, 0.001), self.die, 9, 0)

    def die(self, signal: int, exit_code: int) -> None:
        """The process ends; the supervisor hears of it after all that was said."""
        if self.is_alive:
            self.is_alive = False
            self._say("died", (self.page, signal, exit_code))


class SimAsyncSlot(SimSlot):
    """The process of all async steps: they run at once, and the page names one only if it is the only one."""

    def __init__(self, worker: SimWorker, number: int) -> None:
        super().__init__(worker, number)
        #: attempt -> (row, start_us, era)
        self._running: dict[int, tuple[Row, int, int]] = {}

    def on_message(self, message: list[Any]) -> None:
        functions, forget, blocks, *stop = message
        self.functions.difference_update(forget)
        self.functions.update(number for number, _ in functions)
        self.timeline.after(_PIPE_S, self._take, rows_of_slot(blocks), stop[0] if stop else ())

    def _take(self, rows: list[Row], stop: Iterable[int]) -> None:
        if not self.is_alive:
            return
        for row in rows:
            if row[_RUN] in self.cancelled:
                self._say("outcomes", columns_of([(row[0], oc.NOT_STARTED, self.worker.clock_us(), 0, b"", 0, 0)]))
            else:
                self._start(row)
        for attempt in stop:
            if attempt in self._running:
                row = self._running[attempt][0]
                if self.worker.world.step_of(row).listens_to <= 2:
                    self._reschedule(row, self.random.uniform(0.0, 0.01), oc.STOPPED)

    def _start(self, row: Row) -> None:
        self.worker.world.oracle.on_begun(self.worker, self, row)
        step = self.worker.world.step_of(row)
        code = step.code_of(row[_TRY])
        self._running[row[0]] = (row, self.worker.clock_us(), 0)
        share = self.random.random() if code == oc.CRASHED else 1.0
        self._reschedule(row, step.duration_s * share, code)
        self._print_later(row, step.duration_s)
        self._show()

    def _reschedule(self, row: Row, delay_s: float, code: int) -> None:
        self._era += 1
        self._running[row[0]] = (row, self._running[row[0]][1], self._era)
        self.timeline.after(delay_s, self._conclude, row[0], self._era, code)

    def _conclude(self, attempt: int, era: int, code: int) -> None:
        if not self.is_alive or attempt not in self._running or self._running[attempt][2] != era:
            return
        if code == oc.CRASHED:
            self.die(11, 0)
            return
        row, start_us, _ = self._running.pop(attempt)
        self._show()
        payload = self.worker.world.oracle.on_ended(self.worker, row, code)
        self._say("outcomes", columns_of([(attempt, code, start_us, self.worker.clock_us() - start_us, payload, 1, 0)]))

    def _executes(self, row: Row) -> bool:
        return row[0] in self._running and self._running[row[0]][0] is row

    def _show(self) -> None:
        self.page = (0, 0)
        if len(self._running) == 1:
            ((attempt, (_, start_us, _)),) = self._running.items()
            self.page = (attempt, start_us)

    def runs(self) -> set[str]:
        return {row[2] for row, _, _ in self._running.values()}

    def on_stop(self, attempt: int, level: int) -> None:
        raise AssertionError("the async process is told by message, not by signal")


def failure_of(code: int) -> bytes:
    """The payload of an outcome that is not OK."""
    if code == oc.STOPPED:
        return Failure(FAIL_CANCELLED, "StepInterrupt", "the run was cancelled").pack()
    return Failure(FAIL_ERROR, "ValueError", "as planned").pack()
