"""A progress bar for terminals and notebooks, drawn by rich."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pfw.trackers import ConsoleProgress, Tracker

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from pfw.events import Event

logger = logging.getLogger(__name__)

#: {type of an event: what its steps are counted as}
_ENDS = {"Completed": "", "Failed": "failed", "TimedOut": "timed out", "Cancelled": "cancelled", "Skipped": "skipped"}
#: How often the bar is drawn anew, in a second.
_PER_S = 10
#: Of so many steps at a time it is shown how far they are.
_STEPS_SHOWN = 8


class BarProgress(Tracker):
    """Draws a bar for each run: how many of its steps have ended, how many of them badly, and for how long it has run.

    Below it are the steps that say how far they are, a few at a time.

    Where there is neither a terminal nor a notebook, and where rich is missing (`pip install 'pfw-cluster[ui]'`), it
    writes lines as ConsoleProgress does, and says so once.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Makes one that draws on this console of rich; None: on the error stream."""
        self._console = console
        self._progress: Progress | None = None
        self._fallback: ConsoleProgress | None = None
        self._bars: dict[str, _Bar] = {}
        self._runs = 0
        # One tracker may serve several runs at a time.
        self._lock = threading.Lock()

    def open(self) -> None:
        """Begins to draw, or finds out that lines are all that can be done."""
        with self._lock:
            self._runs += 1
            if self._progress is None and self._fallback is None:
                try:
                    self._progress = _make_progress(self._console)
                except ImportError:
                    self._fall_back("rich is not installed (pip install 'pfw-cluster[ui]')")
                else:
                    console = self._progress.console
                    if console.is_terminal or console.is_jupyter:
                        self._progress.start()
                    else:
                        self._progress = None
                        self._fall_back("there is no terminal")

    def _fall_back(self, why: str) -> None:
        logger.warning("no progress bar, %s: a line for each event instead", why)
        self._fallback = ConsoleProgress(None if self._console is None else self._console.file)  # type: ignore[arg-type]

    def on_events(self, events: Sequence[Event]) -> None:
        """Brings the bars up to date."""
        if self._fallback is not None:
            self._fallback.on_events(events)
            return
        with self._lock:
            for event in events:
                if event.run_id not in self._bars:
                    assert self._progress is not None  # since open
                    self._bars[event.run_id] = _Bar(self._progress, event.message or event.run_id)
                self._bars[event.run_id].on_event(event)
            for run_id in {event.run_id for event in events}:
                self._bars[run_id].show()

    def close(self) -> None:
        """Leaves the last state of the bars on the screen when the last run has ended."""
        with self._lock:
            self._runs -= 1
            if not self._runs and self._progress is not None:
                self._progress.stop()
                self._progress = None
                self._bars.clear()


class _Bar:
    """The bar of one run."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task(name, total=None, bad="")
        self._total: int | None = None
        self._ended: Counter[str] = Counter()
        #: {step: the line that shows how far it is}
        self._steps: dict[str | None, TaskID] = {}

    def on_event(self, event: Event) -> None:
        kind = event.type
        if kind == "Progressed":
            self._show_step(event)
        elif self._steps and kind != "Started" and event.step_id in self._steps:
            self._progress.remove_task(self._steps.pop(event.step_id))
        if kind in _ENDS:
            self._ended[_ENDS[kind]] += 1
        elif kind == "RunStarted":
            self._total = event.steps

    def _show_step(self, event: Event) -> None:
        task = self._steps.get(event.step_id)
        if task is None:
            if len(self._steps) == _STEPS_SHOWN:
                return
            task = self._steps[event.step_id] = self._progress.add_task(f"  {event.step_id}", total=None, bad="")
        self._progress.update(task, total=event.total, completed=event.done, bad=event.message or "")

    def show(self) -> None:
        bad = ", ".join([f"{count:,} {how}" for how, count in self._ended.items() if how])
        ended = self._ended.total()
        if self._total is not None:
            self._total = max(self._total, ended)  # steps may be added as the run goes on
        self._progress.update(self._task, total=self._total, completed=ended, bad=bad)


def _make_progress(console: Console | None) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bad]}", style="red", markup=False),
        TimeElapsedColumn(),
        console=console or Console(stderr=True),
        refresh_per_second=_PER_S,
    )
