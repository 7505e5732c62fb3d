"""Deadlines by signal, for code that runs on this process's main thread.

It interrupts Python code and system calls that wait. Native code that does not return is not interrupted. It must not
know what it interrupts.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: How often an alarm is repeated: an exception raised in a destructor is lost.
RING_EVERY_S = 0.1


def is_debugged() -> bool:
    """Whether a debugger looks on: what it has stopped must not be interrupted."""
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    return sys.gettrace() is not None or bool(monitoring and monitoring.get_tool(monitoring.DEBUGGER_ID))


def can_alarm() -> bool:
    """Whether `alarm` works here: on the main thread, where the system has such signals, and without a debugger."""
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer") and not is_debugged()


@contextmanager
def alarm(at: float, ring: Callable[[], None]) -> Iterator[None]:
    """Calls `ring` at a time of the monotonic clock, and again every RING_EVERY_S until the block is left.

    `ring` may raise; its exception comes up in what runs then. A handler and a timer that were there before are put
    back. Nothing is called any more once a debugger looks on.
    """

    def on_alarm(number: int, frame: FrameType | None) -> None:
        if is_debugged():
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        else:
            ring()

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, on_alarm)
    left_s, interval_s = signal.setitimer(signal.ITIMER_REAL, max(1e-6, at - began), RING_EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, left_s - (time.monotonic() - began)), interval_s)
