"""Telling the user's functions what happens: in order, one at a time, on one thread of its own for each run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from pfw.errors import ConfigError
from pfw.events import Event
from pfw.runs import Run

logger = logging.getLogger(__name__)

Listener = Callable[[Event], object]


def report(run: Run, progress: Listener | Iterable[Listener]) -> threading.Thread:
    """Calls the listeners with each event of the run; a slow one delays nobody but itself.

    A listener that raises is logged once and called no more.

    Raises:
        ConfigError: Something given is not a function.
    """
    listeners = [progress] if callable(progress) else list(progress)
    for listener in listeners:
        if not callable(listener):
            raise ConfigError(f"progress is a function that takes an event, or a list of them, not {listener!r}")
    thread = threading.Thread(target=_tell, args=(run, listeners), name="pfw-progress", daemon=True)
    thread.start()
    run.reporter = thread
    return thread


def _tell(run: Run, listeners: list[Listener]) -> None:
    for event in run.watch():
        for listener in list(listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("a progress function raised and is called no more")
                listeners.remove(listener)
