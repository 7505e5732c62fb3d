"""Ctrl-C around the start of a run: there is no run yet, or it is there to be cancelled."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def are_pythons_own() -> bool:
    """Whether Ctrl-C raises KeyboardInterrupt on this thread: it is the main one, and nobody else deals with it."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Interrupts:
    """Keeps Ctrl-C from the moment a run is handed over until somebody stands ready to cancel it.

    In between the run would go on, and nobody would have it. Pressed once more it is raised at once, for what is waited
    for may hang. Without effect in other threads, which Ctrl-C does not reach, and where the program handles it itself.
    """

    __slots__ = ("_is_held", "_is_pressed")

    def __init__(self) -> None:
        self._is_held = self._is_pressed = False

    def __enter__(self) -> Interrupts:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def hold(self) -> None:
        """From here on Ctrl-C is kept."""
        if are_pythons_own():
            signal.signal(signal.SIGINT, self._on_interrupt)
            self._is_held = True

    def release(self) -> None:
        """From here on Ctrl-C is raised.

        Raises:
            KeyboardInterrupt: It was pressed meanwhile.
        """
        if self._is_held:
            self._is_held = False
            if signal.getsignal(signal.SIGINT) == self._on_interrupt:  # else somebody deals with it since then
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._is_pressed:
            self._is_pressed = False
            raise KeyboardInterrupt

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._is_pressed:
            raise KeyboardInterrupt
        self._is_pressed = True
