"""Shows what the steps of a local cluster print, on a thread of its own: a terminal that is slow delays nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from pfw.printed import abridge

logger = logging.getLogger(__name__)

#: What may wait while the terminal takes nothing; of more the oldest is not shown (the run's log may have it).
WAITING_BYTES = 16 << 20


class Echo:
    """What waits to be shown."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Makes one; its thread starts with the first text.

        Args:
            write: Shows a text; if it raises, that is logged once and ends nothing.
        """
        self.write = write
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = self._left_out = 0
        self._is_writing = self._has_failed = False
        self._thread: threading.Thread | None = None

    def put(self, text: bytes) -> None:
        """Has a text shown after those before it; returns at once."""
        with self._changed:
            self._waiting.append(text)
            self._waiting_bytes += len(text)
            while self._waiting_bytes > WAITING_BYTES:
                size = len(self._waiting.popleft())
                self._waiting_bytes -= size
                self._left_out += size
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pfw-echo", daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float) -> None:
        """Waits until everything is shown, but not for ever."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_writing, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                text, self._is_writing = b"".join(self._waiting), True
                if self._left_out:
                    text = abridge(b"", self._left_out, text)
                self._waiting.clear()
                self._waiting_bytes = self._left_out = 0
            try:
                self.write(text.decode("utf-8", "replace"))
            except Exception as error:  # a closed stdout, or one that cannot write these characters
                if not self._has_failed:
                    self._has_failed = True
                    logger.warning("what steps print cannot all be shown here (run.logs has it): %r", error)
