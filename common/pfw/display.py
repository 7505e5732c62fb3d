"""Showing people how a run goes, on the error stream: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import TextIO

from pfw.events import Event
from pfw.runs import Run

#: How often the line is renewed, s: on a terminal, and where each renewal is a line more.
LIVE_S = 0.1
PLAIN_S = 1.0

#: {type of event: state of its step afterwards}, for the states that are counted.
_STATE_AFTER = {
    "Completed": "SUCCEEDED", "Failed": "FAILED", "TimedOut": "TIMED_OUT", "Skipped": "SKIPPED",
    "Cancelled": "CANCELLED",
}  # fmt: skip
#: Of these, how they are told beside the count of all.
_BAD = {"FAILED": "failed", "TIMED_OUT": "timed out", "SKIPPED": "skipped", "CANCELLED": "cancelled"}


class CounterLine:
    """Counts how many steps have ended how."""

    def __init__(self, stream: TextIO, total: int) -> None:
        """Shows nothing yet.

        Args:
            stream: Where it is shown.
            total: Number of steps.
        """
        self._stream, self._total = stream, total
        self._is_live = stream.isatty()
        self._counts: Counter[str] = Counter()
        self._began = self._shown_at = time.monotonic()
        self._shown = ""
        #: How often it should be told of new states, s.
        self.period_s = LIVE_S if self._is_live else PLAIN_S

    def on_event(self, event: Event) -> None:
        """Takes an event of the run."""
        if event.type in _STATE_AFTER:
            self._counts[_STATE_AFTER[event.type]] += 1
            self._total = max(self._total, self._counts.total())  # steps may be added as the run goes on
            if time.monotonic() - self._shown_at >= self.period_s:
                self._show()

    def on_states(self, states: Iterable[str]) -> None:
        """Takes the states of all steps."""
        self._counts = Counter(states)
        self._total = max(self._total, self._counts.total())
        self._show()

    def finish(self) -> None:
        """Removes the live line; what comes next stands in its place."""
        if self._is_live and self._shown:
            self._write("\r\x1b[K")

    def line(self) -> str:
        """What is shown."""
        counts = self._counts
        done = sum(counts[state] for state in _STATE_AFTER.values())
        bad = ", ".join(f"{counts[state]:,} {text}" for state, text in _BAD.items() if counts[state])
        share = f"{done / self._total:4.0%}" if self._total else ""
        seconds = time.monotonic() - self._began
        return f"{seconds:6.1f} s {share}  {done:,} of {self._total:,} steps{f' ({bad})' if bad else ''}"

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        self._shown = self.line()
        self._write(f"\r{self._shown}\x1b[K" if self._is_live else f"{self._shown}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def follow(run: Run, line: CounterLine | None) -> None:
    """Waits for the end of a run and keeps the line up to date meanwhile.

    Raises:
        ClusterError: The cluster was lost before the run ended.
    """
    if line is None:
        run.wait()
        return
    try:
        while not run.wait(line.period_s):
            line.on_states(run.states.values())
    finally:
        line.finish()
