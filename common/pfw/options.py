"""What the options of a step can be; each check is a clear error at once. Not how they are used."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from pfw.checks import checked_text
from pfw.errors import ConfigError, did_you_mean
from pfw.graph import IF_ALL, IF_ALWAYS, IF_ANY
from pfw.hint import Hint
from pfw.node import Deferred

#: `{run_if: its number}`
RUN_IF = {"all": IF_ALL, "any": IF_ANY, "always": IF_ALWAYS}


def is_async(fn: Callable[..., Any]) -> bool:
    """Returns whether calling `fn` gives a coroutine (`async def`, or an object with such a `__call__`)."""
    return any(map(inspect.iscoroutinefunction, _functions_of(fn)))


def _functions_of(fn: Any) -> tuple[Any, Any]:
    """Returns where the kind of a function is to be looked for: an object may have it in its `__call__`."""
    return fn, getattr(type(fn), "__call__", None)  # noqa: B004 - of the class, whether it is there or not


def check_function(fn: Any) -> None:
    """Checks that a step can be made of `fn`.

    Raises:
        TypeError: it cannot be called, or is a generator function.
    """
    if not callable(fn):
        raise TypeError(f"a step is made of something that can be called, not of {fn!r}")
    for function in _functions_of(fn):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{name_of(fn)} is a generator function, whose output cannot be sent to other processes; return a list"
            )


def name_of(fn: Any) -> str:
    """Returns what a step made of `fn` is called."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return "lambda" if name == "<lambda>" else str(name)


def checked_name(option: str, name: Any) -> str:
    """Returns a name or id of a step; ConfigError if it cannot be one."""
    if "/" in checked_text(option, name):
        raise ConfigError(f"{option} {name!r} holds a /, which separates ids of nested workflows; use another one")
    return str(name)


def checked_hint(hint: Any, fn: Callable[..., Any]) -> Hint:
    """Returns the hint for `fn`, its default if it is None; ConfigError if there is no such hint, or not for `fn`."""
    found = Hint() if hint is None else Hint.of(hint)
    return found.resolved(name_of(fn), is_async=is_async(fn))


def checked_run_if(run_if: Any) -> str:
    """Returns one of RUN_IF; ConfigError if it is none."""
    if not isinstance(run_if, str) or run_if not in RUN_IF:
        close = did_you_mean(run_if, RUN_IF) if isinstance(run_if, str) else ""
        raise ConfigError(f"run_if is one of {', '.join(RUN_IF)}, not {run_if!r}{close}")
    return run_if


def checked_keep(keep: Any) -> bool:
    """Returns whether a step keeps its output; ConfigError if that is not what was given."""
    if not isinstance(keep, bool):
        raise ConfigError(f"keep of a step is True or False, not {keep!r}; ids are for keep= of the run")
    return keep


def checked_rerun(rerun_on_loss: Any) -> bool:
    """Returns whether a step is executed again after a loss; ConfigError if that is not what was given."""
    if not isinstance(rerun_on_loss, bool):
        raise ConfigError(f"rerun_on_loss is True or False, not {rerun_on_loss!r}")
    return rerun_on_loss


def checked_after(after: Deferred | str | Iterable[Deferred | str]) -> tuple[Deferred | str, ...]:
    """Returns what a step starts after; ConfigError if that holds anything but Nodes and ids."""
    others = (after,) if isinstance(after, Deferred | str) else tuple(after)
    for other in others:
        if not isinstance(other, Deferred | str):
            raise ConfigError(f"after holds Nodes, or ids of steps, not {other!r}")
    return others
