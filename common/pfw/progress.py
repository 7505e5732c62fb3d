"""Telling trackers what happens in a run: in order, apart from the run, so that none of them can slow or end it."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

from pfw.runs import Run
from pfw.trackers import FileProgress, Tracker, takes_lines

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Tracker)
T = TypeVar("T")

#: Runs that trackers are told of; at the end of this process the last events are not to be lost.
_runs: weakref.WeakSet[Run] = weakref.WeakSet()


class Reporter(NamedTuple):
    """A thread that tells trackers."""

    thread: threading.Thread
    patience_s: float

    def join(self) -> None:
        """Waits until they have heard of the end, but not for ever: one may hang."""
        self.thread.join(self.patience_s)


def open_all(trackers: Sequence[Tracker]) -> None:
    """Prepares them for a run.

    Raises:
        ConfigError: One of them cannot do its work.
    """
    for number, tracker in enumerate(trackers):
        try:
            tracker.open()
        except BaseException:
            for other in trackers[:number]:
                other.close()
            raise


def report(run: Run, trackers: Sequence[Tracker]) -> None:
    """Tells trackers, which are open, each event of the run, and closes them after the last one.

    Those for whom the end of a run waits longer have a thread of their own.
    """
    for (patience_s, are_lines), group in groupby(sorted(trackers, key=_ear), _ear):
        tell = _tell_lines if are_lines else _tell_events
        thread = threading.Thread(target=tell, args=(run, list(group)), name="pfw-progress", daemon=True)
        thread.start()
        run.reporters.append(Reporter(thread, patience_s))
        _runs.add(run)


@atexit.register
def _join_all() -> None:
    for run in list(_runs):
        if run.done():
            run.join_reporters()


def _ear(tracker: Tracker) -> tuple[float, bool]:
    return tracker.patience_s, takes_lines(tracker)


def _tell_events(run: Run, trackers: list[Tracker]) -> None:
    from pfw.events import EventReader

    _tell(trackers, run.watch(EventReader), lambda tracker, events: tracker.on_events(events))


def _tell_lines(run: Run, trackers: list[FileProgress]) -> None:
    from pfw.lines import LineReader

    _tell(trackers, run.watch(LineReader), lambda tracker, lines: tracker.on_lines(lines))


def _tell(trackers: list[K], news: Iterable[list[T]], tell: Callable[[K, list[T]], None]) -> None:
    for some in news:
        for tracker in list(trackers):
            if not _try(tracker, partial(tell, tracker, some)):
                trackers.remove(tracker)
                _try(tracker, tracker.close)
    for tracker in trackers:
        _try(tracker, tracker.close)


def _try(tracker: Tracker, call: Callable[[], object]) -> bool:
    """Whether it went well; what went wrong is logged, once for each tracker, since it is not told more."""
    try:
        call()
    except OSError as error:  # a full disk, a closed pipe: the message says all
        logger.error("%s failed and is told no more: %s", type(tracker).__name__, error)
    except Exception:
        logger.exception("%s raised and is told no more", type(tracker).__name__)
    else:
        return True
    return False
