"""The facts of a run as a client keeps them: as they came, until somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, overload

from pfw.columns import PackedFacts
from pfw.messages import FactRow


class History:
    """Facts by position, from 0. One thread adds, any may read.

    Few ask for all that a run has to tell, and unpacking it takes 0.7 µs a fact, in which steps could run: it is done
    for the first reader. Until then a fact takes 90 bytes and its payload, a third of what it takes as a row.
    """

    __slots__ = ("_blanked", "_count", "_packed", "_rows")

    def __init__(self) -> None:
        #: None where it is still packed.
        self._rows: list[Any] = []
        #: {position of the first: facts}
        self._packed: dict[int, PackedFacts] = {}
        self._blanked = set[int]()
        self._count = 0

    def extend(self, facts: Sequence[FactRow] | PackedFacts) -> None:
        """Adds facts behind the others."""
        # In this order: what readers count has a place, and is there or packed.
        if isinstance(facts, PackedFacts):
            self._rows.extend(repeat(None, len(facts)))
            self._packed[self._count] = facts
        else:
            self._rows.extend(facts)
        self._count = len(self._rows)

    def _unpack(self) -> list[Any]:
        """The rows, of which as many can be read as were counted before."""
        # Two threads may both unpack some: they put the same in the same place, and see to what was blanked meanwhile.
        for first in list(self._packed):
            facts = self._packed.get(first)
            if facts is not None:
                places = range(first, first + len(facts))
                self._rows[first : places.stop] = facts
                self._packed.pop(first, None)
                for place in self._blanked.intersection(places):
                    self._drop_payload(place)
        return self._rows

    def _drop_payload(self, place: int) -> None:
        row = self._rows[place]
        self._rows[place] = (*row[:8], b"", *row[9:])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[FactRow]:
        return iter(self[:])

    @overload
    def __getitem__(self, place: int) -> FactRow: ...

    @overload
    def __getitem__(self, place: slice) -> list[FactRow]: ...

    def __getitem__(self, place: int | slice) -> FactRow | list[FactRow]:
        found = range(self._count)[place]
        rows = self._unpack()
        return rows[found] if isinstance(found, int) else list(map(rows.__getitem__, found))

    def blank(self, place: int) -> None:
        """Takes the payload out of a fact."""
        self._unpack()
        self._blanked.add(place)
        self._drop_payload(place)
