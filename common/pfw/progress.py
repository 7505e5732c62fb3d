"""Telling trackers what happens in a run: in order, apart from the run, so that none of them can slow or end it."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

from pfw.runs import Run
from pfw.trackers import Tracker

logger = logging.getLogger(__name__)

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
    for patience_s, group in groupby(sorted(trackers, key=_patience), _patience):
        thread = threading.Thread(target=_tell, args=(run, list(group)), name="pfw-progress", daemon=True)
        thread.start()
        run.reporters.append(Reporter(thread, patience_s))
        _runs.add(run)


@atexit.register
def _join_all() -> None:
    for run in list(_runs):
        if run.done():
            run.join_reporters()


def _patience(tracker: Tracker) -> float:
    return tracker.patience_s


def _tell(run: Run, trackers: list[Tracker]) -> None:
    for events in run.watch():
        for tracker in list(trackers):
            if not _try(tracker, partial(tracker.on_events, events)):
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
