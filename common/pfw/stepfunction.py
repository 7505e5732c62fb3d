"""What makes a function a step: its options, and what a call of it means.

Outside a workflow's block a step is simply called; inside, a call adds a node. Options are checked here, once, when
they are given. This module must not know how a workflow keeps its steps or how they are run.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, overload

from pfw.call import rows_of
from pfw.checks import check_number, check_timeout, checked_priority, checked_tags
from pfw.errors import GraphError, StepTimeoutError
from pfw.graph import Spec
from pfw.hint import Hint
from pfw.inherited import STEP_DEFAULTS, Inherited, StepDefaults
from pfw.node import Deferred, MapNode, Node
from pfw.options import (
    RUN_IF,
    check_function,
    checked_after,
    checked_hint,
    checked_keep,
    checked_name,
    checked_rerun,
    checked_run_if,
    is_async,
    name_of,
)
from pfw.retry import Retry, Selector
from pfw.signature import Form, check_call, known_forms

if TYPE_CHECKING:
    from pfw.workflow import Workflow

__all__ = [
    "RUN_IF",
    "STEP_DEFAULTS",
    "Hint",
    "Inherited",
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


class StepFunction:
    """A function made runnable, with the options that its uses have. Made by `step`."""

    #: The function. Its name, docstring and signature are also the step's.
    fn: Callable[..., Any]
    #: What its uses are called.
    name: str
    #: What it uses, with its kind.
    hint: Hint
    retry: Retry
    #: Time between the request to stop and the end by force, s.
    grace: float
    #: Longest run time of an attempt, s; None: no limit.
    timeout: float | None
    #: Whether it is executed again when it was lost with its worker, or its process died.
    rerun_on_loss: bool
    #: One of RUN_IF.
    run_if: str
    #: Whether the outputs of its uses are kept for the caller, whatever the run's own `keep` says.
    keep: bool
    #: Its uses go before those of a lower priority, among the ready steps of a run.
    priority: int
    tags: tuple[str, ...]
    #: Id of its (only) use, None: made from the name.
    id: str | None
    #: What each use starts after: Nodes, or ids.
    after: tuple[Deferred | str, ...]
    #: Options that were not given, of those that StepDefaults has.
    unset: frozenset[str]
    #: Forms of calls that are known to fit the function.
    forms: set[Form]
    #: Name of the function, where it has one.
    __name__: str

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        hint: str | Hint | None = None,
        retry: int | Retry | None = None,
        grace: float | None = None,
        timeout: float | None = None,
        rerun_on_loss: bool = True,
        run_if: str = "all",
        keep: bool = False,
        priority: int = 0,
        tags: Iterable[str] = (),
        id: str | None = None,
        after: Deferred | str | Iterable[Deferred | str] = (),
    ) -> None:
        if isinstance(fn, StepFunction):
            raise TypeError(f"{fn.name} is a step already: change it with {fn.name}.options(...)")
        check_function(fn)
        # First, because it copies attributes of the function.
        functools.update_wrapper(self, fn)
        self.fn, self.forms = fn, known_forms(fn)
        self.name = checked_name("name", name_of(fn) if name is None else name)
        self.hint = checked_hint(hint, fn)
        options = {"retry": retry, "grace": grace, "timeout": timeout}
        self.unset = frozenset(option for option, value in options.items() if value is None)
        retry = STEP_DEFAULTS.retry if retry is None else retry
        self.retry = retry if isinstance(retry, Retry) else Retry(retries=retry)
        grace = STEP_DEFAULTS.grace if grace is None else grace
        check_number("grace", grace)
        self.grace = float(grace)
        check_timeout("timeout", timeout)
        self.timeout = timeout
        self.rerun_on_loss = checked_rerun(rerun_on_loss)
        self.run_if = checked_run_if(run_if)
        self.keep = checked_keep(keep)
        self.priority = checked_priority("priority", priority)
        self.tags = checked_tags(tags)
        self.id = None if id is None else checked_name("id", id)
        self.after = checked_after(after)

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

    def options(  # noqa: D417 - what they mean is said once, at `step`
        self,
        *,
        id: str | None = None,
        after: Deferred | str | Iterable[Deferred | str] | None = None,
        name: str | None = None,
        hint: str | Hint | None = None,
        retry: int | Retry | None = None,
        grace: float | None = None,
        timeout: float | None = None,
        rerun_on_loss: bool | None = None,
        run_if: str | None = None,
        keep: bool | None = None,
        priority: int | None = None,
        tags: Iterable[str] | None = None,
    ) -> StepFunction:
        """Returns a copy with other options; those not given stay as they are.

        Args:
            id: id of the use, any str without `/`; for a map the name of the map.
            after: Nodes, or ids of steps or maps, that must have ended first; no data is passed.
            name: as in `step`; so are all that follow.

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
            timeout=self._given("timeout") if timeout is None else timeout,
            rerun_on_loss=self.rerun_on_loss if rerun_on_loss is None else rerun_on_loss,
            run_if=self.run_if if run_if is None else run_if,
            keep=self.keep if keep is None else keep,
            priority=self.priority if priority is None else priority,
            tags=self.tags if tags is None else tags,
        )

    def check_call(self, count: int, keywords: Iterable[str]) -> None:
        """Raises a TypeError if the function does not take `count` positional arguments and these keywords."""
        form = (count, tuple(keywords))
        if form not in self.forms:
            check_call(self.fn, form, self.id or self.name)
            self.forms.add(form)

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
        return self._workflow_for("map").add_map(self, rows_of(iterables), constants)

    def starmap(self, rows: Iterable[Iterable[Any]], /, **constants: Any) -> MapNode:
        """Adds one use for each row, with the row's items as its positional arguments; else as `map`."""
        return self._workflow_for("starmap").add_map(self, [tuple(row) for row in rows], constants)

    def loop(self, value: Any, /, *, until: Callable[[Any], Any], limit: int = 1_000, **constants: Any) -> Node:
        """Adds a step that repeats this one: it gets `value`, then its own output, until `until(output)` is true.

        Args:
            value: input of the first round; a value or a Node.
            until: is asked after each round, where steps run.
            limit: after so many rounds that were not enough the step fails with a GraphError.
            constants: keyword arguments that each round gets; values, not Nodes.

        Returns:
            The Node that stands for the output of the last round.

        Raises:
            GraphError: no workflow's block is open.
            ConfigError: `limit` is no number of rounds.
        """
        from pfw.standins import make_loop

        self.check_call(1, constants)
        return self._workflow_for("loop").add(make_loop(self, until, limit, constants), value)

    def _workflow_for(self, method: str) -> Workflow:
        if (workflow := open_workflow.get()) is None:
            raise GraphError(
                f"{self.name}.{method}() adds steps to a workflow, and no workflow's block is open here: "
                f"call it inside `with Workflow() as wf:`; to compute at once, use the built-in map()"
            )
        return workflow

    @property
    def spec(self) -> Spec:
        """The options as they travel."""
        hint, retry = self.hint, self.retry
        jitter = int(retry.jitter == "full")
        backoff, factor, max_delay = float(retry.backoff), float(retry.factor), float(retry.max_delay)
        return Spec(
            hint.lane, hint.heavy, retry.retries, backoff, factor, max_delay, jitter, self.grace,
            run_if=RUN_IF[self.run_if], keep=int(self.keep), priority=self.priority, tags=self.tags,
            timeout=float(self.timeout or 0.0), retries_timeouts=self._retries_timeouts(),
            reruns=int(self.rerun_on_loss),
            slots=max(1, hint.slots), needs=hint.reserved, limits=hint.limits,
            retries_memory=int(retry.allows_memory(hint.memory_bytes)),
        )  # fmt: skip

    def _retries_timeouts(self) -> int:
        """Asks the retry rule about a timeout: here, because the process in which it happens may have to be killed."""
        if self.timeout is None or not self.retry.retries:
            return 0
        return int(self.retry.is_retryable(StepTimeoutError(f"it ran for longer than {self.timeout:g} s")))

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
        options = {option: self._given(option) for option in _TRAVELLING}
        return _rebuild, (self.fn if named is None else named, options)

    def __repr__(self) -> str:
        return f"<step {self.name}>"


#: Options that a pickled step has; the others belong to one workflow.
_TRAVELLING = ("name", "hint", "retry", "grace", "timeout", "rerun_on_loss", "run_if", "keep", "priority", "tags")


def _rebuild(fn: Callable[..., Any], options: dict[str, Any]) -> StepFunction:
    return StepFunction(fn.fn if isinstance(fn, StepFunction) else fn, **options)


@overload
def step(
    fn: Callable[..., Any],
    /,
    *,
    name: str | None = None,
    hint: str | Hint | None = None,
    retry: int | Retry | None = None,
    grace: float | None = None,
    timeout: float | None = None,
    rerun_on_loss: bool = True,
    run_if: str = "all",
    keep: bool = False,
    priority: int = 0,
    tags: Iterable[str] = (),
) -> StepFunction: ...


@overload
def step(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    hint: str | Hint | None = None,
    retry: int | Retry | None = None,
    grace: float | None = None,
    timeout: float | None = None,
    rerun_on_loss: bool = True,
    run_if: str = "all",
    keep: bool = False,
    priority: int = 0,
    tags: Iterable[str] = (),
) -> Callable[[Callable[..., Any]], StepFunction]: ...


def step(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    hint: str | Hint | None = None,
    retry: int | Retry | None = None,
    grace: float | None = None,
    timeout: float | None = None,
    rerun_on_loss: bool = True,
    run_if: str = "all",
    keep: bool = False,
    priority: int = 0,
    tags: Iterable[str] = (),
) -> StepFunction | Callable[[Callable[..., Any]], StepFunction]:
    """Makes a function a step: `@step`, `@step(retry=2)` or `step(function)`.

    Args:
        fn: a function, an `async def` function, or anything that can be called.
        name: what its uses are called; None: the function's name.
        hint: what it uses: "light_cpu" (a CPU slot; may be sent ahead in a batch), "heavy_cpu" (a CPU slot, never sent
            ahead), "light_io" (it mostly waits), "heavy_io" (also one of its worker's few permits for that), "async_io"
            (an `async def` function); or a `Hint`; several joined by `+`. None: "light_cpu", for `async def`
            "async_io".
        retry: how often it is tried again when it raises, or a `Retry`. None: as the run's Config says, else never.
        grace: time between the request to stop and the end by force, s. None: as the run's Config says, else 2 s.
        timeout: how long an attempt may run, s: then `StepInterrupt` is raised in it, and after `grace` its process is
            killed. It has failed with a `StepTimeoutError`, about which `retry` decides. None: as the run's Config
            says, else as long as it takes.
        rerun_on_loss: whether it is executed again when its worker is lost or its process dies while it runs. False: it
            has failed then, with a `WorkerLostError` or a `StepCrashedError`, and is executed at most once; it is
            never sent ahead of a free slot. What it raises is still retried as `retry` says.
        run_if: when it starts: "all" (all that it depends on succeeded), "any" (all has ended and something succeeded;
            lists lose the inputs that are missing, other arguments are None) or "always" (all has ended; a `Failed`
            stands for each missing input).
        keep: whether its output is kept for the caller, whatever the run's `keep` says.
        priority: among the ready steps of a run those of a higher priority go first, 0 or more.
        tags: words of your own, to be read from `node.tags` and the metrics.

    Raises:
        TypeError: `fn` cannot be called, or is a generator function.
        ConfigError: an option has a value that it cannot have.

    >>> @step
    ... def double(x):
    ...     return 2 * x
    >>> double(4)
    8
    """
    options: dict[str, Any] = {
        "name": name, "hint": hint, "retry": retry, "grace": grace, "timeout": timeout, "rerun_on_loss": rerun_on_loss,
        "run_if": run_if, "keep": keep, "priority": priority, "tags": tags,
    }  # fmt: skip
    return functools.partial(StepFunction, **options) if fn is None else StepFunction(fn, **options)
