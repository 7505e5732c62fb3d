"""`step.loop`: a step that is repeated until its output is good, made of steps that return workflows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pfw.checks import check_count
from pfw.errors import GraphError
from pfw.step import StepFunction

#: Id of the step that looks at the output of a round.
UNTIL = "until"


def make_loop(step: StepFunction, until: Callable[[Any], Any], limit: int, constants: dict[str, Any]) -> StepFunction:
    """Returns the step that stands for all rounds; its argument is the first input.

    Raises:
        ConfigError: `limit` is no number of rounds.
        TypeError: `until` cannot be called.
    """
    check_count("limit", limit, 1_000_000_000)
    if not callable(until):
        raise TypeError(f"until is a function of the output, not {until!r}")
    check = until.fn if isinstance(until, StepFunction) else until
    begin = functools.partial(_round, 0, step, check, limit, constants)
    return StepFunction(begin, name=step.name, id=step.id, after=step.after, priority=step.priority)


def _round(number: int, step: StepFunction, until: Callable[[Any], Any], limit: int, constants: Any, value: Any) -> Any:
    """Is the function of the loop's steps: the value if it is good, else a workflow of one more round."""
    if number and until(value):
        return value
    if number == limit:
        raise GraphError(f"{step.name}.loop() is not done after {limit:,} rounds: raise limit=, or look at until=")
    from pfw.workflow import Workflow

    workflow = Workflow(step.name)
    output = workflow.add(step, value, **constants)
    again = functools.partial(_round, number + 1, step, until, limit, constants)
    workflow.add(StepFunction(again, name=UNTIL), output)
    return workflow
