"""What makes a function a step: its options, and what a call of it means.

Outside a workflow's block a step is simply called; inside, a call adds a node. Options are checked here, once, when
they are given. This module must not know how a workflow keeps its steps or how they are run.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

from pfw.checks import check_number, checked_text
from pfw.errors import ConfigError, GraphError, did_you_mean
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO, Spec
from pfw.node import Deferred, MapNode
from pfw.retry import Retry, Selector

if TYPE_CHECKING:
    from pfw.workflow import Workflow

__all__ = [
    "HINTS",
    "STEP_DEFAULTS",
    "Retry",
    "Selector",
    "StepDefaults",
    "StepFunction",
    "is_async",
    "open_workflow",
    "step",
]

#: The workflow whose block is open here. Whoever runs steps in the caller's own context sets it to None meanwhile.
open_workflow: ContextVar[Workflow | None] = ContextVar("open_workflow", default=None)

#: `{hint: (lane, heavy)}`
HINTS = {
    "light_cpu": (LANE_CPU, 0),
    "heavy_cpu": (LANE_CPU, 1),
    "light_io": (LANE_IO, 0),
    "heavy_io": (LANE_IO, 1),
    "async_io": (LANE_ASYNC, 0),
}


class StepDefaults(NamedTuple):
    """What steps get that do not set an option; the Config of a run says it."""

    retry: Retry = Retry(retries=0)
    #: Time between the request to stop and the end by force, s.
    grace: float = 2.0


STEP_DEFAULTS = StepDefaults()


# ---------------------------------------------------------------- functions


class StepFunction:
    """A function made runnable, with the options that its uses have. Made by `step`."""

    #: The function. Its name, docstring and signature are also the step's.
    fn: Callable[..., Any]
    #: What its uses are called.
    name: str
    #: One of HINTS.
    hint: str
    retry: Retry
    #: Time between the request to stop and the end by force, s.
    grace: float
    #: Id of its (only) use, None: made from the name.
    id: str | None
    #: What each use starts after: Nodes, or ids.
    after: tuple[Deferred | str, ...]
    #: Options that were not given, of those that StepDefaults has.
    unset: frozenset[str]
    #: Name of the function, where it has one.
    __name__: str

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        hint: str | None = None,
        retry: int | Retry | None = None,
        grace: float | None = None,
        id: str | None = None,
        after: Deferred | str | Iterable[Deferred | str] = (),
    ) -> None:
        _check_function(fn)
        # First, because it copies attributes of the function.
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.name = _checked_name("name", _name_of(fn) if name is None else name)
        self.hint = _checked_hint(hint, fn)
        options = {"retry": retry, "grace": grace}
        self.unset = frozenset(option for option, value in options.items() if value is None)
        retry = STEP_DEFAULTS.retry if retry is None else retry
        self.retry = retry if isinstance(retry, Retry) else Retry(retries=retry)
        grace = STEP_DEFAULTS.grace if grace is None else grace
        check_number("grace", grace)
        self.grace = float(grace)
        self.id = None if id is None else _checked_name("id", id)
        self.after = _after(after)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function; inside a workflow's block adds a node and returns it."""
        workflow = open_workflow.get()
        if workflow is not None:
            return workflow.add(self, *args, **kwargs)
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, Deferred):
                raise GraphError(
                    f"{argument!r} is an argument of {self.name}() outside a workflow's block: "
                    f"call it inside `with workflow:`, or use workflow.add({self.name}, ...)"
                )
        return self.fn(*args, **kwargs)

    def options(
        self,
        *,
        id: str | None = None,
        after: Deferred | str | Iterable[Deferred | str] | None = None,
        name: str | None = None,
        hint: str | None = None,
        retry: int | Retry | None = None,
        grace: float | None = None,
    ) -> StepFunction:
        """Returns a copy with other options; those not given stay as they are.

        Args:
            id: id of the use, any str without `/`; for a map the name of the map.
            after: Nodes, or ids of steps or maps, that must have ended first; no data is passed.
            name: as in `step`.
            hint: as in `step`.
            retry: as in `step`.
            grace: as in `step`.

        Raises:
            ConfigError: as `step`.
        """
        return StepFunction(
            self.fn,
            id=self.id if id is None else id,
            after=self.after if after is None else after,
            name=self.name if name is None else name,
            hint=self.hint if hint is None else hint,
            retry=self._given("retry") if retry is None else retry,
            grace=self._given("grace") if grace is None else grace,
        )

    def _given(self, option: str) -> Any:
        return None if option in self.unset else getattr(self, option)

    def settled(self, defaults: StepDefaults) -> Self:
        """Returns this step with what it does not set as `defaults` say."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update((option, getattr(defaults, option)) for option in self.unset)
        return copy

    def map(self, /, *iterables: Iterable[Any], **constants: Any) -> MapNode:
        """Adds one use for each item (with several iterables: for each tuple of items, until the shortest one ends).

        Args:
            iterables: known now; their items are values or Nodes.
            constants: keyword arguments that each use gets.

        Raises:
            GraphError: no workflow's block is open.
        """
        if not iterables:
            raise TypeError(f"{self.name}.map() needs at least one iterable")
        return self._workflow_for("map").add_map(self, list(zip(*iterables, strict=False)), constants)

    def starmap(self, rows: Iterable[Iterable[Any]], /, **constants: Any) -> MapNode:
        """Adds one use for each row, with the row's items as its positional arguments; else as `map`."""
        return self._workflow_for("starmap").add_map(self, [tuple(row) for row in rows], constants)

    def _workflow_for(self, method: str) -> Workflow:
        workflow = open_workflow.get()
        if workflow is None:
            raise GraphError(
                f"{self.name}.{method}() adds steps to a workflow, and no workflow's block is open here: "
                f"call it inside `with Workflow() as wf:`; to compute at once, use the built-in map()"
            )
        return workflow

    @property
    def spec(self) -> Spec:
        """The options as they travel."""
        lane, heavy = HINTS[self.hint]
        retry = self.retry
        jitter = int(retry.jitter == "full")
        backoff, factor, max_delay = float(retry.backoff), float(retry.factor), float(retry.max_delay)
        return Spec(lane, heavy, retry.retries, backoff, factor, max_delay, jitter, self.grace)

    def named(self) -> StepFunction | None:
        """Returns the step that other processes find when they import the function's module, if it runs this function.

        None if there is none, or if the module is sent by value (such as `__main__`).
        """
        from pfw.codec import is_by_value

        module = getattr(self.fn, "__module__", None)
        if module not in sys.modules or is_by_value(module):
            return None
        try:
            found = functools.reduce(getattr, self.fn.__qualname__.split("."), sys.modules[module])
        except AttributeError:
            return None
        return found if isinstance(found, StepFunction) and found.fn is self.fn else None

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By reference where that is possible: the function's own name leads to the step. What belongs to one workflow
        # (id, after) does not travel.
        named = self.named()
        if named is self:
            return self.fn.__qualname__
        options = self.name, self.hint, self._given("retry"), self._given("grace")
        return _rebuild, (self.fn if named is None else named, *options)

    def __repr__(self) -> str:
        return f"<step {self.name}>"


def _rebuild(fn: Callable[..., Any], name: str, hint: str, retry: Retry | None, grace: float | None) -> StepFunction:
    plain = fn.fn if isinstance(fn, StepFunction) else fn
    return StepFunction(plain, name=name, hint=hint, retry=retry, grace=grace)


@overload
def step(fn: Callable[..., Any], /) -> StepFunction: ...


@overload
def step(
    fn: Callable[..., Any],
    /,
    *,
    name: str | None = None,
    hint: str | None = None,
    retry: int | Retry | None = None,
    grace: float | None = None,
) -> StepFunction: ...


@overload
def step(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    hint: str | None = None,
    retry: int | Retry | None = None,
    grace: float | None = None,
) -> Callable[[Callable[..., Any]], StepFunction]: ...


def step(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    hint: str | None = None,
    retry: int | Retry | None = None,
    grace: float | None = None,
) -> StepFunction | Callable[[Callable[..., Any]], StepFunction]:
    """Makes a function a step: `@step`, `@step(retry=2)` or `step(function)`.

    Args:
        fn: a function, an `async def` function, or anything that can be called.
        name: what its uses are called; None: the function's name.
        hint: what it uses: "light_cpu" (a CPU slot; may be sent ahead in a batch), "heavy_cpu" (a CPU slot, never sent
            ahead), "light_io" or "heavy_io" (it mostly waits), "async_io" (an `async def` function). None: "light_cpu",
            for `async def` "async_io".
        retry: how often it is tried again when it raises, or a `Retry`. None: as the run's Config says, else never.
        grace: time between the request to stop and the end by force, s. None: as the run's Config says, else 2 s.

    Raises:
        TypeError: `fn` cannot be called, or is a generator function.
        ConfigError: an option has a value that it cannot have.

    >>> @step
    ... def double(x):
    ...     return 2 * x
    >>> double(4)
    8
    """
    if fn is None:
        return functools.partial(StepFunction, name=name, hint=hint, retry=retry, grace=grace)
    return StepFunction(fn, name=name, hint=hint, retry=retry, grace=grace)


def is_async(fn: Callable[..., Any]) -> bool:
    """Returns whether calling `fn` gives a coroutine (`async def`, or an object with such a `__call__`)."""
    return any(map(inspect.iscoroutinefunction, _functions_of(fn)))


def _functions_of(fn: Any) -> tuple[Any, Any]:
    """Returns where the kind of a function is to be looked for: an object may have it in its `__call__`."""
    return fn, getattr(type(fn), "__call__", None)  # noqa: B004 - of the class, whether it is there or not


def _check_function(fn: Any) -> None:
    if isinstance(fn, StepFunction):
        raise TypeError(f"{fn.name} is a step already: change it with {fn.name}.options(...)")
    if not callable(fn):
        raise TypeError(f"a step is made of something that can be called, not of {fn!r}")
    for function in _functions_of(fn):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{_name_of(fn)} is a generator function, whose output cannot be sent to other processes; return a list"
            )


def _name_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return "lambda" if name == "<lambda>" else str(name)


def _checked_name(option: str, name: Any) -> str:
    if "/" in checked_text(option, name):
        raise ConfigError(f"{option} {name!r} holds a /, which separates ids of nested workflows; use another one")
    return str(name)


def _checked_hint(hint: Any, fn: Callable[..., Any]) -> str:
    wanted = is_async(fn)
    if hint is None:
        return "async_io" if wanted else "light_cpu"
    if not isinstance(hint, str) or hint not in HINTS:
        close = did_you_mean(hint, HINTS) if isinstance(hint, str) else ""
        raise ConfigError(f"hint is one of {', '.join(HINTS)}, not {hint!r}{close}")
    if wanted and hint != "async_io":
        raise ConfigError(f'{_name_of(fn)} is `async def`, so its hint is "async_io" (or left out), not {hint!r}')
    if hint == "async_io" and not wanted:
        raise ConfigError(f'{_name_of(fn)} is not `async def`: its hint can be "light_io", not "async_io"')
    return hint


def _after(after: Deferred | str | Iterable[Deferred | str]) -> tuple[Deferred | str, ...]:
    others = (after,) if isinstance(after, Deferred | str) else tuple(after)
    for other in others:
        if not isinstance(other, Deferred | str):
            raise ConfigError(f"after holds Nodes, or ids of steps, not {other!r}")
    return others
