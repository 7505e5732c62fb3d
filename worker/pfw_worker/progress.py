"""How far running attempts say that they are: the latest of each, told less often the longer it takes. Pure."""

from __future__ import annotations

from collections.abc import Container
from math import inf

from pfw.messages import ProgressRow
from pfw.printed import Pace


class Progress:
    """What is known of all attempts of a worker."""

    __slots__ = ("_latest", "_paces", "_told")

    def __init__(self) -> None:
        #: {attempt: the last row of it}, and the one that was told.
        self._latest: dict[int, ProgressRow] = {}
        self._told: dict[int, ProgressRow] = {}
        self._paces: dict[int, Pace] = {}

    def add(self, row: ProgressRow, now: float) -> None:
        """An attempt says how far it is; it may say so again and again."""
        if self._told.get(row[0]) != row:
            self._latest[row[0]] = row
            # In all the time it takes an attempt tells a few hundred rows at most: they are kept.
            self._paces.setdefault(row[0], Pace(now, inf))

    def take(self, noted: Container[int], now: float) -> tuple[ProgressRow, ...]:
        """What is to be told now, of attempts that are known to execute."""
        due = [n for n in self._latest if n in noted and now >= self._paces[n].due]
        for number in due:
            self._paces[number].on_told(0, now)
            self._told[number] = self._latest[number]
        return tuple([self._latest.pop(number) for number in due])

    def keep(self, attempts: Container[int]) -> None:
        """Forgets all other attempts: they have ended."""
        for number in [number for number in self._paces if number not in attempts]:
            del self._paces[number]
            self._latest.pop(number, None)
            self._told.pop(number, None)
