"""The async process: it runs all `async def` steps of a worker at once, on one asyncio loop.

It speaks the slots' protocol. A RUN message may carry a fourth element, the attempts that are to be stopped. What steps
print is sent as `[(attempt, text)]`. The status page names an attempt only while it is the only one: of several, nobody
can say which one harmed the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from pfw import execution, outcome
from pfw.capture import Buffer, capturing
from pfw.columns import pack_outcomes
from pfw.context import Entry
from pfw.facts import UNMEASURED
from pfw.messages import OutcomeRow
from pfw.printed import PIECE_EVERY_S, Pace
from pfw.usage import Turns
from pfw_worker.channel import Channel
from pfw_worker.page import StatusPage
from pfw_worker.slot import Block, Functions
from pfw_worker.streams import Streams
from pfw_worker.surroundings import use_temporary


class _Running:
    """A step that has been started and has not ended."""

    __slots__ = ("entry", "pace", "progress", "start_us", "task", "turns")

    def __init__(self, entry: Entry, start_us: int, turns: Turns, task: asyncio.Task[tuple[int, bytes]]) -> None:
        self.entry = entry
        self.start_us = start_us
        self.turns = turns
        self.task = task
        self.pace = Pace(start_us * 1e-6)
        #: How far it says that it is, where that was not told yet.
        self.progress: tuple[float, float, str] | None = None


class AsyncSlot:
    """The steps that run on the loop of an async process, and its channel."""

    __slots__ = ("_channel", "_ended", "_functions", "_is_listening", "_loop", "_outcomes", "_page", "_pid", "_running")

    def __init__(self, channel: Channel, page: StatusPage) -> None:
        """Take over channel and page; call this in a running loop."""
        self._pid = os.getpid()
        self._channel = channel
        self._page = page
        self._functions = Functions()
        self._running: dict[int, _Running] = {}
        self._outcomes: list[OutcomeRow] = []
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        #: Whether it will soon be looked what running steps have printed.
        self._is_listening = False

    async def run(self) -> None:
        """Say that the process is ready, then run what comes until the supervisor is gone."""
        self._loop.add_reader(self._channel.fileno(), self._on_readable)
        self._send(())
        try:
            await self._ended
        finally:
            self._loop.remove_reader(self._channel.fileno())

    def _on_readable(self) -> None:
        if self._ended.done():
            return
        try:
            for message in self._channel.recv():
                self.on_message(message)
        except Exception as error:  # the loop would log it and go on
            self._ended.set_exception(error)
        else:
            if self._channel.at_end:
                self._ended.set_result(None)

    def on_message(self, message: tuple[Any, ...]) -> None:
        """Start the steps of a RUN message, `(functions, forget, blocks)` or with a fourth element `stop`."""
        functions, forget, blocks, *stop = message
        self._functions.update(functions, forget)
        cancelled = self._page.cancelled_runs()
        for block in blocks:
            self._start(block, block[1] in cancelled)
        for attempt in stop[0] if stop else ():
            self._stop(attempt)

    def _start(self, block: Block, is_cancelled: bool) -> None:
        first, _, run_id, n, fn, _, calls, inputs = block
        for index, call in enumerate(calls):
            if is_cancelled:
                self._add_outcome((first + index, outcome.NOT_STARTED, 0, 0, b"", *UNMEASURED))
            else:
                # No async step is sent along with the one it waits for: its inputs are all there.
                self._start_one(first + index, Entry(run_id, n), fn, call, inputs[index] if inputs else ())  # type: ignore[arg-type]

    def _start_one(self, attempt: int, entry: Entry, fn: int, call: bytes, inputs: tuple[bytes, ...]) -> None:
        turns = Turns()
        entry.printed, entry.sink = Buffer(), self._on_progress
        task = self._loop.create_task(self._call(fn, call, inputs, entry, turns))
        self._running[attempt] = _Running(entry, _now_us(), turns, task)
        self._show_executing()
        self._listen()
        task.add_done_callback(partial(self._on_done, attempt))

    async def _call(
        self, fn: int, call: bytes, inputs: tuple[bytes, ...], entry: Entry, turns: Turns
    ) -> tuple[int, bytes]:
        try:
            loaded = self._functions.load(fn, entry)
        except BaseException as error:  # importing its module runs user code
            return execution.report_load_error(error)
        found: tuple[int, bytes] = await turns.watch(execution.execute_async(loaded, call, inputs, entry))
        return found

    def _stop(self, attempt: int) -> None:
        running = self._running.get(attempt)
        if running is not None and not running.entry.is_cancelled():  # once: its cleanup may take a while
            running.entry.need_token().cancel()
            running.task.cancel()

    def _on_done(self, attempt: int, task: asyncio.Task[tuple[int, bytes]]) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # a step forked and came back in both: only the slot itself goes on
        running = self._running.pop(attempt)
        self._show_executing()
        self._tell_printed(attempt, running)
        # A task that is cancelled before its first turn has run nothing of the step.
        code, payload = (outcome.NOT_STARTED, b"") if task.cancelled() else task.result()
        turns = running.turns
        self._add_outcome((attempt, code, running.start_us, turns.run_us(), payload, *turns.cost()))

    def _listen(self) -> None:
        if not self._is_listening and self._running:
            self._is_listening = True
            self._loop.call_later(PIECE_EVERY_S, self._on_listened)

    def _on_listened(self) -> None:
        self._is_listening = False
        now = time.monotonic()
        for attempt, running in self._running.items():
            if now >= running.pace.due:
                self._tell_printed(attempt, running)
            if running.progress is not None:
                self._send([(attempt, running.progress)])
                running.progress = None
        self._listen()

    def _on_progress(self, entry: Entry, done: float, total: float, message: str) -> None:
        # Any thread may say it; it is told from the loop.
        for running in list(self._running.values()):
            if running.entry is entry:
                running.progress = done, total, message

    def _tell_printed(self, attempt: int, running: _Running) -> None:
        """Send what a step has printed since, `(attempt, text)`."""
        assert running.entry.printed is not None
        text = running.entry.printed.take(running.pace.limit)
        if text:
            running.pace.on_told(len(text), time.monotonic())
            self._send([(attempt, text)])

    def _show_executing(self) -> None:
        self._page.end()
        if len(self._running) == 1:
            ((attempt, running),) = self._running.items()
            self._page.begin(attempt, running.start_us)

    def _add_outcome(self, ended: OutcomeRow) -> None:
        """Collect an outcome; all outcomes of one turn of the loop are sent as one message."""
        if not self._outcomes:
            self._loop.call_soon(self._send_outcomes)
        self._outcomes.append(ended)

    def _send_outcomes(self) -> None:
        attempts, codes, starts_us, runs_us, payloads, cpus_us, peaks_bytes = zip(*self._outcomes, strict=True)
        self._outcomes = []
        self._send(pack_outcomes((attempts, bytes(codes), starts_us, runs_us, payloads, cpus_us, peaks_bytes)))

    def _send(self, message: Any) -> None:
        if not self._channel.try_send(message):
            self._loop.add_writer(self._channel.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        if self._channel.flush():
            self._loop.remove_writer(self._channel.fileno())


async def _serve(channel: Channel, page: StatusPage) -> None:
    await AsyncSlot(channel, page).run()


def main(channel: Channel, page: StatusPage, folder: Path) -> None:
    """Be the async process until the supervisor is gone; what still runs then is dropped with the process.

    The temporary files of all its steps are in one folder in `folder`: at once they may be of many runs.
    """
    Streams()
    with contextlib.suppress(OSError):  # the disk is full, say
        use_temporary(folder / "async")
    # Not asyncio.run: it would wait for steps that do not let themselves be cancelled.
    with capturing():
        asyncio.new_event_loop().run_until_complete(_serve(channel, page))


def _now_us() -> int:
    return time.monotonic_ns() // 1000
