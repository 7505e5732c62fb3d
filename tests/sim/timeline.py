"""The virtual clock: a heap of things to come. Time jumps from one to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

#: Far from 0, so that a time that was forgotten shows.
START_S = 1_000.0


class Timeline:
    """What happens when. Ties are broken by the order of their entry, so that a seed gives one story."""

    def __init__(self) -> None:
        self.now = START_S
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Does something at a time; at once if it has passed."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action, args))

    def after(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        """Does something after a delay."""
        self.at(self.now + delay_s, action, *args)

    def step(self) -> bool:
        """Jumps to the next thing and does it; False if nothing is to come."""
        if not self._heap:
            return False
        self.now, _, action, args = heapq.heappop(self._heap)
        action(*args)
        return True
