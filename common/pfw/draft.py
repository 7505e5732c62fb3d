"""A workflow's steps while it is put together: columns of plain records, in the order in which the steps were added.

Other steps are named by their places here. This module must not know Nodes, pickles or blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, Final, NamedTuple

from pfw.call import Column, Row, is_plain
from pfw.errors import EmptyWorkflowError, UnknownDependencyError, did_you_mean
from pfw.graph import topological_order
from pfw.names import Names
from pfw.stepfunction import StepFunction

#: A dependency as it was given: the place of a step, or the id of a step or map, which may still be to come.
Target = int | str


#: Several threads may ask for the names of one workflow, to run it.
_naming: Final = threading.Lock()


class Dependencies(NamedTuple):
    """Checked dependencies: one entry per step, of places."""

    #: Steps whose outputs the step gets, distinct.
    inputs: list[tuple[int, ...]]
    #: Further ones, distinct and disjoint from `inputs`.
    after: list[tuple[int, ...]]
    #: All places in a topological order: that in which they were added, if it is one.
    order: Sequence[int]

    def ranks(self) -> Sequence[int]:
        """Returns per place its position in the order."""
        if isinstance(self.order, range):
            return self.order
        ranks = [0] * len(self.order)
        for position, place in enumerate(self.order):
            ranks[place] = position
        return ranks

    def of_steps(self) -> dict[int, tuple[int, ...]]:
        """Returns `{place: places that it depends on}`."""
        return _joined(self.inputs, self.after)


class Draft:
    """Columns of steps, and the names that are taken."""

    __slots__ = (
        "_names",
        "_parts",
        "_rows",
        "after",
        "inputs",
        "named",
        "others",
        "steps",
    )

    def __init__(self) -> None:
        self.steps: list[StepFunction] = []
        #: `{place: (args, kwargs)}` of the calls that have more than plain positional arguments: only these have to be
        #: looked at one by one.
        self.others: dict[int, tuple[Row, dict[str, Any] | None]] = {}
        self.inputs: list[tuple[int, ...]] = []
        #: `{place: what it starts after}`, only where there is something.
        self.after: dict[int, list[Target]] = {}
        #: `{place: ids of its inputs}` of class steps.
        self.named: dict[int, tuple[str, ...]] = {}
        # Rows of plain arguments, None for all others: in lists and Columns, and the list that is the last of them.
        self._rows: list[Row] = []
        self._parts: list[list[Row] | Column] = [self._rows]
        self._names = Names()

    @property
    def names(self) -> Names:
        """What the steps and maps are called. Steps get the ids that pfw makes when somebody asks for names.

        All at once takes a third of the time: 0.3 µs a step.
        """
        if len(self.steps) > len(self._names.ids):
            with _naming:
                self._names.add_uses([step.name for step in self.steps[len(self._names.ids) :]])
        return self._names

    @property
    def ids(self) -> list[str]:
        """Ids of the steps."""
        return self.names.ids

    @property
    def maps(self) -> dict[str, range]:
        """Places of the members of each map, by its name."""
        return self._names.maps

    def add(
        self,
        step: StepFunction,
        args: Row,
        kwargs: dict[str, Any] | None,
        inputs: tuple[int, ...],
    ) -> int:
        """Adds a step, whose inputs were added before, and returns its place.

        Raises:
            DuplicateStepError: its explicit id is taken.
        """
        place = len(self.steps)
        if step.id is not None:
            self.names.add_id(step.id)
        self.steps.append(step)
        self._rows.append(self._plain(place, args, kwargs) if args or kwargs else None)
        self.inputs.append(inputs)
        return place

    def add_map(
        self,
        step: StepFunction,
        args: Sequence[Row] | Column,
        kwargs: Sequence[dict[str, Any] | None],
        inputs: Iterable[tuple[int, ...]],
    ) -> str:
        """Adds a use of `step` per entry of `args`; returns the name of the map.

        Args:
            step: the step.
            args: positional arguments of each use.
            kwargs: keyword arguments of each use; empty: no use has any.
            inputs: of each use.

        Raises:
            DuplicateStepError: its explicit id, or the id of a member, is taken.
        """
        name = self.names.add_map(step.name, step.id, len(args))
        members = self.maps[name]
        self.steps += repeat(step, len(members))
        if any(kwargs) or not (isinstance(args, Column) or is_plain(chain.from_iterable(filter(None, args)))):
            calls = zip(members, args, kwargs or repeat(None), strict=False)
            args = [self._plain(place, row, named) for place, row, named in calls]
        if isinstance(args, Column):
            self._rows = []
            self._parts += (args, self._rows)
        else:
            self._rows += args
        self.inputs += inputs
        return name

    def _plain(self, place: int, args: Row, kwargs: dict[str, Any] | None) -> Row:
        """Returns the arguments if they are plain, else None, and puts the call among the others."""
        if not kwargs and (args is None or is_plain(args)):
            return args
        self.others[place] = args, kwargs
        return None

    def rows(self) -> Iterator[Row]:
        """Gives the arguments of each step in the order in which they were added; None for those in `others`."""
        return chain.from_iterable(self._parts)

    def place_of(self, name: Any) -> int | None:
        """Returns the place of the step with this id; None if there is none."""
        return self.names.place_of(name)

    def order_after(self, places: Iterable[int], targets: Sequence[Target]) -> None:
        """Lets each of `places` start only when all `targets` have ended."""
        for place in places:
            self.after.setdefault(place, []).extend(targets)

    def check(self) -> Dependencies:
        """Looks up the ids among the dependencies and puts the steps in order.

        Raises:
            EmptyWorkflowError: there is no step.
            UnknownDependencyError: an id that is depended on is none of this workflow.
            CycleError: the dependencies go round in a circle.
        """
        if not self.ids:
            raise EmptyWorkflowError(
                "the workflow has no steps: call steps inside `with workflow:`, or use workflow.add(function, ...)"
            )
        inputs = self._look_up_inputs()
        after: list[tuple[int, ...]] = [()] * len(self.ids)
        for place, targets in self.after.items():
            wanted = dict.fromkeys(found for target in targets for found in self._look_up(place, target))
            after[place] = tuple(found for found in wanted if found not in inputs[place])
        # All other inputs were added before, since a Node is made first.
        if _are_earlier(inputs, self.named) and _are_earlier(after, self.after):
            return Dependencies(inputs, after, range(len(self.ids)))
        return Dependencies(inputs, after, topological_order(_joined(inputs, after), self.ids.__getitem__))

    def _look_up_inputs(self) -> list[tuple[int, ...]]:
        inputs = self.inputs
        if self.named:
            inputs = list(inputs)
            for place, names in self.named.items():
                inputs[place] = tuple(self._look_up_step(place, name) for name in names)
        return inputs

    def _look_up(self, place: int, target: Target) -> Sequence[int]:
        if isinstance(target, int):
            return (target,)
        return self.maps[target] if target in self.maps else (self._look_up_step(place, target),)

    def _look_up_step(self, place: int, name: str) -> int:
        found = self.place_of(name)
        if found is None:
            raise UnknownDependencyError(
                f'step "{self.ids[place]}" depends on "{name}", which is no step of this workflow'
                + did_you_mean(name, self.ids)
            )
        return found


def ranks_of(members: range, ranks: Sequence[int]) -> Sequence[int]:
    """Returns the positions in the order of what stands at these places; of a fan-out they are one range as well."""
    return members if isinstance(ranks, range) else tuple([ranks[member] for member in members])


def _are_earlier(column: list[tuple[int, ...]], places: Iterable[int]) -> bool:
    """Whether the steps at `places` depend only on steps that were added before them: the usual case."""
    return all(max(column[place], default=-1) < place for place in places)


def _joined(inputs: list[tuple[int, ...]], after: list[tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    return {place: data + order for place, (data, order) in enumerate(zip(inputs, after, strict=True))}
