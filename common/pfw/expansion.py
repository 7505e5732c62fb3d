"""Steps that end by giving way to other steps: what a fragment is, how its steps are called, who waits for whom.

Theory of operation. A step that returns a Workflow is *expanded*: the slot makes a *fragment* of the Workflow (its
graph, checked and pickled there), which travels as the payload of the outcome EXPANDED. Whoever drives the run hands it
to the run's life as one event:

    ASSIGNED --on_expanded(step, fragment)--> EXPANDED --the fragment's tail ended--> SUCCEEDED, FAILED or CANCELLED

* The fragment is accepted with the outcome of the attempt, and the first accepted outcome ends it: a step that
  is tried again, or runs twice because a worker was lost, expands once. Its retries, timeout and inputs are those of
  its own code and are done with when it is expanded; it holds no slot.
* The steps of a fragment are steps of the run like all others. They depend only on each other. Exactly one of them, the
  last one, is the *tail*: all others lead to it. (A Workflow that has several leaves, or whose value is made of several
  outputs, gets a tail that puts the value together.)
* When the tail ends, the expanded step ends: with the tail's output if it succeeded; FAILED, with the error of the step
  to blame, if it failed or was skipped; CANCELLED if it was cancelled. The tail may itself be expanded: then both wait
  for the tail of the inner fragment. Such chains are ended in a loop, each level once, so they may be of any length.
* A fragment may take the places of further steps: waiting ones that depend on the expanded step and would work on its
  value item by item (`MapNode.map` at run time). They are expanded with it, each with a tail of its own.
* A fragment may hold steps that are skipped from the start: the side of a branch that is not taken.
* In waves mode the steps of a fragment belong to the wave of the step that they stand for.
* A run that stops or is cancelled takes no fragment any more: the step is cancelled.
* An open run takes none either: its fragments run apart, each in a run of its own (`pfw_coordinator.inner`).

The fact of an expansion carries the fragment, so that every reader of the facts, also one that comes later, numbers and
names its steps as the run does.

Ids: the steps of `outer` are `outer/inner`. What the tail of a fragment expands into stands in the tail's place, on
level 2 of the same outer step, `outer/#2/inner`, and so on: in a long chain ids stay short. This module is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pfw.graph import Graph


class Fragment(NamedTuple):
    """What an expanded step gives way to. Steps are named by their index in the fragment's graph."""

    #: Its dependencies are indices into the fragment. The last step is the tail.
    graph: Graph
    #: Steps that are not taken: nothing depends on them.
    skipped: tuple[int, ...] = ()
    #: (id of a further step whose place is taken, its tail)
    taken: tuple[tuple[str, int], ...] = ()


class Expanded(NamedTuple):
    """A step that waits for a tail, and where its own code ran."""

    step: int
    worker: int
    started_at: float


class Tail(str):
    """Id of a step that is the tail of a fragment, as the step itself knows it."""

    __slots__ = ("level", "outer")

    #: The step whose place the fragment took, and the level of the fragment in it, from 1.
    outer: str
    level: int

    def __new__(cls, text: str, outer: str, level: int) -> Tail:
        """Makes one of its text."""
        tail = super().__new__(cls, text)
        tail.outer, tail.level = outer, level
        return tail

    def __reduce__(self) -> tuple[type[Tail], tuple[str, str, int]]:
        return Tail, (str(self), self.outer, self.level)


def ids_within(step_id: str, ids: Sequence[str], *, has_tail: bool) -> list[str]:
    """Returns what the steps of a Workflow are called in the place of a step.

    Args:
        step_id: The step that returned the Workflow.
        ids: Their ids in the Workflow.
        has_tail: Whether the last one is the fragment's tail.
    """
    outer, level = (step_id.outer, step_id.level + 1) if isinstance(step_id, Tail) else (step_id, 1)
    prefix = f"{outer}/" if level == 1 else f"{outer}/#{level}/"
    found = [prefix + name for name in ids]
    if has_tail:
        found[-1] = Tail(found[-1], outer, level)
    return found


def shifted(graph: Graph, first: int) -> Graph:
    """Returns a fragment's graph with dependencies that are indices into the run, where its first step is `first`."""

    def shift(column: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [tuple([step + first for step in steps]) if steps else () for steps in column]

    return graph._replace(inputs=shift(graph.inputs), after=shift(graph.after))


def append(graph: Graph, fragment: Graph) -> None:
    """Adds steps to a graph, whose columns are changed; equal specs are shared."""
    functions = len(graph.functions)
    graph.ids.extend(fragment.ids)
    graph.functions.extend(fragment.functions)
    graph.function_of.extend([f + functions for f in fragment.function_of] if functions else fragment.function_of)
    if not graph.specs or fragment.specs == graph.specs:
        graph.specs[:] = fragment.specs
        graph.spec_of.extend(fragment.spec_of)
    else:
        known = {spec: number for number, spec in enumerate(graph.specs)}
        graph.specs.extend([spec for spec in dict.fromkeys(fragment.specs) if spec not in known])
        known = {spec: number for number, spec in enumerate(graph.specs)}
        numbers = [known[spec] for spec in fragment.specs]
        graph.spec_of.extend([numbers[spec] for spec in fragment.spec_of])
    graph.calls.extend(fragment.calls)
    graph.inputs.extend(fragment.inputs)
    graph.after.extend(fragment.after)
