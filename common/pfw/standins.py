"""Steps of our own that stand in a workflow for what is known only at run time: loops, maps and branches.

Each is a step that returns a workflow. A workflow of the user's steps and of the next stand-in takes its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pfw.call import rows_of
from pfw.checks import check_count
from pfw.errors import GraphError
from pfw.fragment import Replacement, give
from pfw.stepfunction import StepFunction

#: Ids of the step that looks at the output of a round, and of the one that passes a value on.
UNTIL, PASSED = "until", "passed"


def _stand_in(function: Callable[..., Any], step: StepFunction) -> StepFunction:
    """A step that is called and placed like `step`; all other options are those of the steps inside."""
    return StepFunction(function, name=step.name, id=step.id, after=step.after, priority=step.priority, tags=step.tags)


def _called(name: str, function: Any) -> Callable[[Any], Any]:
    if isinstance(function, StepFunction):
        return function.fn
    if not callable(function):
        raise TypeError(f"{name} is a function of the output, not {function!r}")
    return function  # type: ignore[no-any-return]


# ---------------------------------------------------------------- loops


def make_loop(step: StepFunction, until: Callable[[Any], Any], limit: int, constants: dict[str, Any]) -> StepFunction:
    """Returns the step that stands for all rounds; its argument is the first input.

    Raises:
        ConfigError: `limit` is no number of rounds.
        TypeError: `until` cannot be called.
    """
    check_count("limit", limit, 1_000_000_000)
    return _stand_in(functools.partial(_round, step, _called("until", until), limit, constants), step)


def _round(
    step: StepFunction, until: Callable[[Any], Any], limit: int, constants: Any, value: Any, number: int = 0, /
) -> Any:
    """Is the function of the loop's steps: the value if it is good, else a workflow of one more round.

    The number is an argument, so that the function is one in all rounds, and travels once.
    """
    if number and until(value):
        return value
    if number == limit:
        raise GraphError(f"{step.name}.loop() is not done after {limit:,} rounds: raise limit=, or look at until=")
    workflow = Replacement(step.name)
    output = workflow.add(step, value, **constants)
    again = functools.partial(_round, step, until, limit, constants)
    workflow.add(StepFunction(again, name=UNTIL), output, number + 1)
    return workflow


# ---------------------------------------------------------------- maps


class Stage(NamedTuple):
    """A step that is used for each item, or for each output of a stage before."""

    #: Number of that stage; of the first one nothing.
    before: int
    step: StepFunction
    constants: dict[str, Any]
    #: Id of the step whose value is the list of this stage's outputs; of the first one nothing.
    step_id: str
    #: The step waits for something else as well, so it calls its function itself.
    is_apart: bool = False


def make_map(step: StepFunction) -> tuple[StepFunction, list[Stage]]:
    """Returns the step that stands for all uses, and its stages; more may be added until the workflow is compiled."""
    stages = [Stage(0, step, {}, "")]
    return _stand_in(functools.partial(_spread, step.name, stages), step), stages


def _spread(name: str, stages: list[Stage], items: Iterable[Any], /, **constants: Any) -> Any:
    """Is the function of a map: a workflow with a use of each stage for each item."""
    rows = rows_of((items,))
    if not rows:
        return []
    workflow = Replacement(name)
    first = workflow.add_map(stages[0].step, rows, constants)
    maps = {0: first}
    for number, stage in enumerate(stages[1:], 1):
        if stage.before in maps and not stage.is_apart:
            maps[number] = found = maps[stage.before].map(stage.step, **stage.constants)
            workflow.take_place_of(stage.step_id, workflow.add(StepFunction(give, name="returns"), found))
    workflow.returns(first)
    return workflow


# ---------------------------------------------------------------- branches


class Sides:
    """What a branch asks and what it may do; `otherwise` may be added until the workflow is compiled."""

    __slots__ = ("is_taken", "otherwise", "then")

    def __init__(self, is_taken: Callable[[Any], Any], then: StepFunction, otherwise: StepFunction | None = None):
        self.is_taken, self.then, self.otherwise = is_taken, then, otherwise

    def __reduce__(self) -> tuple[Any, ...]:
        return Sides, (self.is_taken, self.then, self.otherwise)


def make_branch(is_taken: Callable[[Any], Any], then: StepFunction) -> tuple[StepFunction, Sides]:
    """Returns the step that stands for the side that is taken, and the sides.

    Raises:
        TypeError: `is_taken` cannot be called.
    """
    sides = Sides(_called("when(...)", is_taken), then)
    return _stand_in(functools.partial(_choose, sides), then), sides


def _choose(sides: Sides, value: Any) -> Any:
    """Is the function of a branch: a workflow with the side that is taken; the other one is skipped."""
    taken, left = sides.then, sides.otherwise
    if not sides.is_taken(value):
        taken, left = sides.otherwise or StepFunction(give, name=PASSED), sides.then
    workflow = Replacement(sides.then.name)
    if left is not None:
        workflow.skip(workflow.add(left, None))  # it is never called
    workflow.returns(workflow.add(taken, value))
    return workflow
