"""A slot: a process that executes one synchronous step at a time, CPU and IO steps alike.

It receives RUN messages, executes their steps in order and sends the outcomes back. Those of steps known to be short
are collected into one message; before any other step they are sent, so that nothing waits for a long step. Of steps
that have printed it is said before their outcomes where the output then ended: a message of `(attempt, end)`.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pfw import context, execution, outcome
from pfw.codec import LoadedFunction, Small, all_dumped, dumped, load_plain_calls
from pfw.columns import pack_outcome, pack_outcomes
from pfw.context import Entry
from pfw.errors import StepInterrupt
from pfw.usage import Loads, Meter
from pfw_worker.channel import Channel
from pfw_worker.page import GENERATION, PRINTED, STOP_INTERRUPT, STOP_SIGNAL, STOP_TIMEOUT, STOP_UNLOAD, StatusPage
from pfw_worker.streams import Streams
from pfw_worker.surroundings import Surroundings

#: Collected outputs that take more bytes than this are sent at once.
_COLLECT_BYTES: Final = 64 * 1024


#: Steps as they come in a RUN message, `(first, run, run_id, n, fn, known_short, calls, inputs)`: attempts with
#: consecutive numbers from `first` on, unique per coordinator, one for each of the calls, which are pickled. They have
#: in common: the run's number and its public name; which try of its step each is, from 1; the number of their function,
#: sent in this message or an earlier one; 1 if they are expected to take well under a millisecond. The inputs are ()
#: if no step has any, else those of each step, pickled; None is what the step before it in the message returns.
Block = tuple[int, int, str, int, int, int, tuple[bytes, ...], tuple[tuple[bytes | None, ...], ...]]

#: `(attempt, code, start_us, run_us, payload)`: the code is one of `pfw.outcome`, the start one of the monotonic clock.
#: It leaves, its payload dumped, with what the attempt cost, cpu_us and peak_bytes, in columns (`pack_outcomes`).
SlotOutcome = tuple[int, int, int, int, bytes | Small]


class Functions:
    """The functions that a slot has been sent; each is loaded when its first step has begun, so that step is blamed."""

    __slots__ = ("_loaded", "_pickled", "loads")

    def __init__(self) -> None:
        self.loads = Loads()
        self._pickled: dict[int, bytes] = {}
        self._loaded: dict[int, LoadedFunction] = {}

    def update(self, functions: tuple[tuple[int, bytes], ...], forget: tuple[int, ...]) -> None:
        """Forget the functions of these numbers, then take the new ones."""
        for fn in (*forget, *(fn for fn, _ in functions)):
            self._pickled.pop(fn, None)
            self._loaded.pop(fn, None)
        self._pickled.update(functions)

    def get(self, fn: int) -> LoadedFunction | None:
        """Return a function that is loaded and serves all attempts."""
        return self._loaded.get(fn)

    def load(self, fn: int, entry: Entry) -> LoadedFunction:
        """Return a function for this attempt; raises whatever its unpickling raises."""
        loaded = self._loaded.get(fn)
        if loaded is None:
            with self.loads.measured():
                loaded, is_common = execution.load_function(self._pickled[fn], entry)
            if is_common:
                self._loaded[fn] = loaded
        return loaded


class Slot:
    """The loop of a slot process."""

    __slots__ = (
        "_cancelled",
        "_channel",
        "_collected_bytes",
        "_end",
        "_entry",
        "_functions",
        "_generation",
        "_meter",
        "_notes",
        "_outcomes",
        "_page",
        "_rest",
        "_sink",
        "_surroundings",
    )

    def __init__(self, channel: Channel, page: StatusPage, folder: Path) -> None:
        self._channel = channel
        self._page = page
        self._functions = Functions()
        self._surroundings = Surroundings(Streams(), folder)
        self._outcomes: list[SlotOutcome] = []
        #: Blocks of the message of which no step has begun.
        self._rest = deque[Block]()
        #: What follows the last attempt to be begun of the block before them; 0 once the others were given back.
        self._end = 0
        #: (attempt, where the output then ended) of steps that have printed, sent before their outcomes.
        self._notes: list[tuple[int, int]] = []
        self._collected_bytes = 0
        self._entry = Entry("", 0)
        self._sink = self._on_progress
        self._generation = 0
        self._meter = Meter()
        self._cancelled: frozenset[int] = frozenset()

    def run(self) -> None:
        """Say that the slot is ready, then execute what comes until the supervisor is gone."""
        signal.signal(STOP_SIGNAL, self._on_stop_signal)
        self._channel.send(())
        while (message := self._channel.recv_one()) is not None:
            self.on_message(message)

    def on_message(self, message: tuple[Any, ...]) -> None:
        """Execute the steps of a RUN message, `(functions, forget, blocks)`, and send their outcomes."""
        functions, forget, blocks = message
        self._surroundings.restore_touched()
        self._meter.begin()
        if functions or forget:
            self._functions.update(functions, forget)
        output = None
        self._rest.extend(blocks)
        while self._rest:
            output = self._execute_block(self._rest.popleft(), output)
        if self._outcomes:
            self._send_outcomes()
        self._surroundings.restore_all()  # now, while nobody waits for it

    def _execute_block(self, block: Block, output: bytes | Small | None) -> bytes | Small | None:
        """Execute steps; `output` is what the one before them returned. Returns that of the last, None for none."""
        first, run, run_id, n, fn, known_short, calls, inputs = block
        outcomes, functions, page, words = self._outcomes, self._functions, self._page, self._page.words
        restore, loaded = self._surroundings.restore, functions.get(fn)
        self._end = first + len(calls)
        self._surroundings.use_temporary(run_id)
        # One flat loop, and nothing asked for twice: all that a no-op step costs here, its share of the message
        # included, was measured at 25,600 instructions (batches of 64).
        now_us = time.monotonic_ns() // 1000
        for attempt, call in enumerate(load_plain_calls(calls) if len(calls) > 1 else calls, first):
            if attempt >= self._end:
                break
            if outcomes and (not known_short or self._collected_bytes >= _COLLECT_BYTES):
                self._send_outcomes()
                now_us = time.monotonic_ns() // 1000
            self._entry = entry = Entry(run_id, n)
            entry.sink, start_us = self._sink, now_us
            page.begin(attempt, start_us)  # before the cancelled runs are read, so that a cancel sees one or the other
            if words[GENERATION] != self._generation:
                self._read_cancelled()
            given = _fill_in(inputs[attempt - first], output) if inputs else ()
            payload: bytes | Small = b""
            if given is None or run in self._cancelled:
                code = outcome.NOT_STARTED
            else:
                try:
                    function = loaded or functions.load(fn, entry)
                except BaseException as error:  # importing its module runs user code
                    code, payload = execution.report_load_error(error)
                else:
                    context.succeed(entry)
                    code, payload = execution.run(function, call, given, entry)
                printed = restore()
                if printed:
                    words[PRINTED] = printed
                    self._notes.append((attempt, printed))
            now_us = time.monotonic_ns() // 1000
            run_us = now_us - start_us
            if loaded is None:
                loaded = functions.get(fn)
                run_us = max(0, run_us - functions.loads.take(self._meter) // 1000)
            outcomes.append((attempt, code, start_us, run_us, payload))
            self._collected_bytes += payload.__sizeof__()
            output = payload if code == outcome.OK else None
        context.end()
        return output

    def _send_outcomes(self, running_us: int = 0, given_back: Sequence[int] = ()) -> None:
        """Send what has ended, and which attempts were not begun and will not be.

        `running_us` is not 0 while another step executes, and for how long it has.
        """
        # Until this has succeeded the last step is to blame: it may have closed the socket, or returned too much.
        if self._notes:
            self._channel.send(self._notes)
            self._notes = []
        if len(self._outcomes) == 1 and not (running_us or given_back):
            attempt, code, start_us, run_us, payload = self._outcomes[0]
            packed = pack_outcome(attempt, code, start_us, run_us, dumped(payload), *self._meter.end_one(run_us))
        else:
            attempts, codes, starts_us, runs_us, payloads = (
                zip(*self._outcomes, strict=True) if self._outcomes else ((),) * 5
            )
            outputs, costs = tuple(all_dumped(payloads)), self._meter.end(runs_us, running_us)
            columns = attempts, bytes(codes), starts_us, runs_us, outputs, *costs
            packed = pack_outcomes(_with_unbegun(columns, given_back) if given_back else columns)
        self._channel.send(packed)
        self._outcomes.clear()
        self._collected_bytes = 0
        if not running_us:
            self._page.end()

    def _unload(self) -> None:
        """Send what has ended before the executing step and give back what has not begun: others wait for both."""
        executing, start_us = self._page.executing()
        given_back = list(range(executing + 1, self._end))
        for first, *_, calls, _ in self._rest:
            given_back += range(first, first + len(calls))
        if given_back or self._outcomes:
            loads = self._functions.loads
            loads.leave_out(self._meter)
            running_us = max(1, time.monotonic_ns() // 1000 - start_us - loads.ns // 1000)
            # An interrupt in here would lose what is given back. Where this fails nothing is: the supervisor is gone,
            # which the loop will find out, or the step has used up the stack, and its slot goes on as if never asked.
            with contextlib.suppress(OSError, RecursionError), execution.uninterrupted():
                self._send_outcomes(running_us, given_back)
                self._rest.clear()
                self._end = 0

    def _read_cancelled(self) -> None:
        self._generation = self._page.words[GENERATION]
        self._cancelled = self._page.cancelled_runs()

    def _on_progress(self, entry: Entry, done: float, total: float, message: str) -> None:
        if entry is self._entry:  # not what a thread says of a step that has ended
            self._page.show_progress(self._page.executing()[0], done, total, message)

    def _on_stop_signal(self, number: int, frame: object) -> None:
        """Stop the executing step if the page addresses it; the supervisor repeats the signal until the step ends."""
        level = self._page.stop_level()
        if level and execution.is_interruptible():  # else the slot itself is at work, and the supervisor asks again
            self._unload()
        if level and level != STOP_UNLOAD:
            why = "its timeout is over" if level == STOP_TIMEOUT else "it was cancelled"
            self._entry.need_token().cancel(why)
            if level >= STOP_INTERRUPT and execution.is_interruptible():
                raise StepInterrupt(why)


def _fill_in(inputs: tuple[bytes | None, ...], before: bytes | Small | None) -> tuple[bytes, ...] | None:
    """Return the inputs with what the step before returned; None if one of them is that, and it is nothing."""
    if None not in inputs:
        return inputs  # type: ignore[return-value]
    if before is None:
        return None
    output = dumped(before)
    return tuple([output if pickled is None else pickled for pickled in inputs])


def _with_unbegun(columns: tuple[Any, ...], unbegun: Sequence[int]) -> tuple[Any, ...]:
    """Return the columns of outcomes with rows for attempts that were not begun."""
    attempts, codes, *others = columns
    zeros, payloads = (0,) * len(unbegun), (b"",) * len(unbegun)
    rest = zip(others, (zeros, zeros, payloads, zeros, zeros), strict=True)
    codes += bytes((outcome.NOT_STARTED,)) * len(unbegun)
    return (*attempts, *unbegun), codes, *[(*column, *more) for column, more in rest]


def main(channel: Channel, page: StatusPage, folder: Path) -> None:
    """Be a slot until the supervisor is gone; each run's temporary files have a folder of their own in `folder`."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the supervisor is gone: nobody is left to tell
        Slot(channel, page, folder).run()
