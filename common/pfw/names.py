"""The ids of a workflow's steps, and the names of its maps.

A step has the id that its author gave it, or its name, with a number from the second use of that on; a member of a map
has the name of the map and its own number. This module must not know what a step or a Node is.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from pfw.errors import DuplicateStepError


class Names:
    """Which ids there are, by the places of the steps, and which names are taken."""

    __slots__ = ("_indexed", "_last_number", "_numbered", "_others", "ids", "maps")

    def __init__(self) -> None:
        self.ids: list[str] = []
        #: `{name of the map: places of its members}`
        self.maps: dict[str, range] = {}
        # `{id: place}` of all but members of maps, whose ids say which ones they are, and numbered uses.
        self._others: dict[str, int] = {}
        # The same of numbered uses, as far as somebody has asked for one.
        self._numbered: dict[str, int] = {}
        self._indexed = 0
        # So that the hundred-thousandth use of a step does not try all numbers before its own.
        self._last_number: dict[str, int] = {}

    def add_uses(self, names: Iterable[str]) -> None:
        """Gives ids to steps without one of their own. 0.2 µs each where one follows others of its name."""
        for name, group in groupby(names):
            count = len(list(group))
            if name not in self._others and not self.is_taken(name):
                self._others[name] = len(self.ids)
                self.ids.append(name)
                count -= 1
            self.ids += self._free_numbered(name, count)

    def _free_numbered(self, name: str, count: int) -> list[str]:
        found: list[str] = []
        last = self._last_number.get(name, 1)
        while len(found) < count:
            first, last = last + 1, last + count - len(found)
            numbered = [f"{name}#{number}" for number in range(first, last + 1)]
            # A member of a map has another form, and what was numbered before another number or name.
            for taken in (self._others, self.maps):
                if not taken.keys().isdisjoint(numbered):
                    numbered = [id for id in numbered if id not in taken]
            found += numbered
        self._last_number[name] = last
        return found

    def add_id(self, id: str) -> None:
        """Gives a step the id that its author chose.

        Raises:
            DuplicateStepError: it is taken.
        """
        if self.is_taken(id):
            raise _duplicate(id)
        self._others[id] = len(self.ids)
        self.ids.append(id)

    def add_map(self, name: str, id: str | None, count: int) -> str:
        """Gives ids to the members of a map, and returns its name.

        Args:
            name: name of the step that it uses.
            id: what its author calls the map, None: it is called as the step, with a number from the second one on.
            count: how many members it has.

        Raises:
            DuplicateStepError: the id, or that of a member, is taken.
        """
        if id is not None and self.is_taken(id):
            raise _duplicate(id)
        found = id or (self._free_numbered(name, 1)[0] if self.is_taken(name) else name)
        ids = _members(found, count)
        # Members of two maps have two ids, since the maps have two names.
        while not self._others.keys().isdisjoint(ids):
            if id is not None:
                raise _duplicate(next(member for member in ids if member in self._others))
            (found,) = self._free_numbered(name, 1)
            ids = _members(found, count)
        self.maps[found] = range(len(self.ids), len(self.ids) + count)
        self.ids += ids
        return found

    def is_taken(self, name: str) -> bool:
        """Whether a step or a map is called so."""
        return name in self.maps or self.place_of(name) is not None

    def place_of(self, id: Any) -> int | None:
        """Returns the place of the step with this id; None if there is none."""
        place = self._others.get(id)
        if place is not None or not isinstance(id, str):
            return place
        if id.endswith("]"):
            name, _, number = id[:-1].rpartition("[")
            members = self.maps.get(name, ())
            # No other number is longer; and "[01]" is none that a member has.
            if number.isdecimal() and len(number) <= len(str(len(members))) and int(number) < len(members):
                found = members[int(number)]
                return found if self.ids[found] == id else None
            return None
        return self._place_of_numbered(id) if "#" in id else None

    def _place_of_numbered(self, id: str) -> int | None:
        for place in range(self._indexed, len(self.ids)):
            if "#" in self.ids[place]:
                self._numbered[self.ids[place]] = place
        self._indexed = len(self.ids)
        return self._numbered.get(id)


def _members(name: str, count: int) -> list[str]:
    return [f"{name}[{number}]" for number in range(count)]


def _duplicate(name: str) -> DuplicateStepError:
    return DuplicateStepError(
        f'the id "{name}" is taken in this workflow: give another one, or leave it out and pfw numbers the steps'
    )
