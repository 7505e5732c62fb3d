"""The token with which work is told to stop: by whoever holds it, to every run and step that looks at it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pfw.checks import check_number
from pfw.errors import ConfigError, StepInterrupt

if TYPE_CHECKING:
    from pfw.record import RunRecord

logger = logging.getLogger(__name__)


class CancellationToken:
    """Says whether work is to stop. May be shared by threads and runs; cancelling again changes nothing.

    Given to a run (`run(wf, token=token)`) it cancels that run. One that a step gets as an argument, or that its
    function holds, is in the step the token of the step itself: `current().token`.

    >>> token = CancellationToken()
    >>> token.cancelled
    False
    >>> token.cancel("no longer needed")
    >>> token.cancelled, token.reason
    (True, 'no longer needed')
    """

    # No locks: a signal may come, and cancel, in the middle of any of these. Each operation on a list is atomic.
    __slots__ = ("__weakref__", "_callbacks", "_reasons", "cancelled")

    def __init__(self) -> None:
        #: Whether work is to stop; a plain attribute, so reading it in a tight loop is cheap.
        self.cancelled = False
        self._reasons: list[str | None] = []
        self._callbacks: list[Callable[[], object]] = []

    @property
    def reason(self) -> str | None:
        """Why, where the one who cancelled has said so."""
        return self._reasons[0] if self._reasons else None

    def cancel(self, reason: str | None = None) -> None:
        """Ask for work to stop; the first reason stands."""
        if not self.cancelled:
            self._reasons.append(reason)
            self.cancelled = True
            self._tell()

    def cancel_after(self, seconds: float) -> None:
        """Cancel when so many seconds have passed, unless it was cancelled before.

        Raises:
            ConfigError: It is no number of seconds, 0 or more.
        """
        check_number("cancel_after", seconds)
        timer = threading.Timer(seconds, self.cancel, (f"cancelled after {seconds:g} s",))
        timer.daemon = True
        timer.start()
        self.on_cancel(timer.cancel)

    def check(self) -> None:
        """Return at once, or end the step.

        Raises:
            StepInterrupt: The token is cancelled.
        """
        if self.cancelled:
            raise StepInterrupt(self.reason or "cancelled")

    def on_cancel(self, fn: Callable[[], object]) -> None:
        """Have a function called when the token is cancelled, once, by the thread that cancels; now, if it is already.

        What it raises is logged, and stops neither the cancel nor other functions.

        Raises:
            ConfigError: It is no function.
        """
        if not callable(fn):
            raise ConfigError(f"on_cancel takes a function, not {fn!r}")
        self._callbacks.append(fn)
        if self.cancelled:
            self._tell()

    def _tell(self) -> None:
        while self._callbacks:
            with suppress(IndexError):  # another thread has taken the last one
                _call(self._callbacks.pop(0))

    def _forget(self, fn: Callable[[], object]) -> None:
        with suppress(ValueError):
            self._callbacks.remove(fn)

    def __reduce__(self) -> tuple[Any, ...]:
        from pfw.context import token_here

        return token_here, (self.cancelled, self.reason)


def _call(fn: Callable[[], object]) -> None:
    try:
        fn()
    except (Exception, StepInterrupt):
        logger.exception("a function given to on_cancel raised")


def tie(token: CancellationToken, record: RunRecord, cancel: Callable[[RunRecord, str], None]) -> None:
    """Have a run cancelled with the token, as long as it goes on; the token keeps nothing of runs that are gone.

    Args:
        token: The token.
        record: The run's; somebody else keeps it while the run goes on.
        cancel: What cancels it, given the record and the reason. Called by whoever cancels, maybe in a signal handler.
    """

    def act() -> None:
        target = reference()
        if target is not None and not target.is_finished:
            cancel(target, token.reason or "")

    reference = weakref.ref(record, lambda _: token._forget(act))
    token.on_cancel(act)
