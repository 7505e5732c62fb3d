"""Waiting for a condition, instead of sleeping for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], timeout: float = 10.0, *, what: str = "", detail: Callable[[], object] | None = None
) -> T:
    """Calls `predicate` until its result is truthy, and returns that result.

    Args:
        predicate: Asked at once, then after 1 ms, then less often, at least every 50 ms.
        timeout: Seconds; the predicate is asked a last time when they are over.
        what: What is waited for, said in the failure.
        detail: Called only on failure; its result (a log's tail, say) is added to the message.

    Raises:
        AssertionError: The predicate was still falsy when the time was over.
    """
    deadline = time.monotonic() + timeout
    pause_s = 0.001
    while True:
        is_last = time.monotonic() >= deadline
        result = predicate()
        if result:
            return result
        if is_last:
            message = (
                f"not within {timeout:g} s: {what or getattr(predicate, '__name__', predicate)} (last: {result!r})"
            )
            raise AssertionError(message if detail is None else f"{message}\n{detail()}")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)
