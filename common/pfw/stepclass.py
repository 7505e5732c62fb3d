"""Steps in class form, as in code ported from pf-workflow-core: an object whose method is what a StepFunction runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from pfw.stepfunction import StepFunction, is_async


class Step:
    """Base of steps in class form: subclass it, and add an instance with `workflow.add(MyStep())`.

    Everything but `execute` may be an attribute, a property or a method. `execute` may be `async def`.
    """

    #: Id of the step; None: the name of the class.
    id: Any = None
    #: Ids of the steps whose outputs it gets.
    dependencies: Any = ()
    #: As in `step`.
    hint: Any = None
    #: As in `step`.
    retry: Any = None
    #: As in `step`.
    timeout: Any = None
    #: As in `step`.
    rerun_on_loss: Any = True

    def execute(self, ctx: Any) -> Any:
        """Does the step's work; `ctx` is the StepContext, and `ctx[dependency_id]` the output of a dependency."""
        raise NotImplementedError


def _execute(instance: Step, names: Sequence[str], *outputs: Any) -> Any:
    """Is the function of a Step; it gets the ids of its dependencies and then their outputs."""
    from pfw.context import current

    return instance.execute(current().with_inputs(dict(zip(names, outputs, strict=True))))


async def _execute_async(instance: Step, names: Sequence[str], *outputs: Any) -> Any:
    """Is the function of a Step whose `execute` is `async def`."""
    return await _execute(instance, names, *outputs)


def from_instance(instance: Step) -> tuple[StepFunction, tuple[str, ...]]:
    """Returns what runs a Step, with its id, and the ids of its dependencies, each once.

    Raises:
        TypeError: it has no `execute`, or its `dependencies` are no ids.
        ConfigError: as `step`.
    """
    kind = type(instance)
    if kind.execute is Step.execute:
        raise TypeError(f"{kind.__name__} has no method execute(self, ctx)")
    dependencies = _read(instance.dependencies)
    if isinstance(dependencies, str) or not all(isinstance(name, str) for name in dependencies):
        raise TypeError(f"{kind.__name__}.dependencies is a list of ids, not {dependencies!r}")
    execute = _execute_async if is_async(instance.execute) else _execute
    id = _read(instance.id)
    function = StepFunction(
        functools.partial(execute, instance),
        id=id,
        name=kind.__name__ if id is None else id,
        hint=_read(instance.hint),
        retry=_read(instance.retry),
        timeout=_read(instance.timeout),
        rerun_on_loss=_read(instance.rerun_on_loss),
    )
    return function, tuple(dict.fromkeys(dependencies))


def _read(value: Any) -> Any:
    """Returns the value of an attribute or property, or what a method returns."""
    return value() if callable(value) else value
