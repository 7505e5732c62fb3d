"""Whether the arguments of a call fit its function: a call that cannot succeed is refused where it is written.

Only the number of positional arguments and the names of the others matter, so Nodes fit as values do. This module must
not know what a step is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

#: The number of positional arguments of a call, and the names of the others.
Form = tuple[int, tuple[str, ...]]

#: The forms that are known to fit each plain function; steps that are made of it again need no second look.
_KNOWN: WeakKeyDictionary[FunctionType, set[Form]] = WeakKeyDictionary()


def known_forms(fn: Callable[..., Any]) -> set[Form]:
    """Returns the forms that are known to fit `fn`, to which its steps add what `check_call` has found good."""
    if type(fn) is not FunctionType:
        return set()
    found = _KNOWN.get(fn)
    if found is None:
        found = _KNOWN[fn] = set()
    return found


def check_call(fn: Callable[..., Any], form: Form, name: str) -> None:
    """Checks that calls of this form fit `fn`; what has no signature takes all.

    Args:
        fn: the function.
        form: what it would get.
        name: what the step is called in the error.

    Raises:
        TypeError: they do not.
    """
    signature = _signature(fn)
    if signature is not None:
        count, keywords = form
        try:
            signature.bind(*range(count), **dict.fromkeys(keywords))
        except TypeError as error:
            raise TypeError(f'step "{name}": {error}') from None


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Returns what is really called with the arguments; None where that cannot be known.

    A wrapper's own parameters count, not those of what it wraps or claims to be: it may add arguments, or take some.
    """
    if hasattr(fn, "__signature__"):
        return None
    try:
        return inspect.signature(fn, follow_wrapped=False)
    except Exception:  # no signature (some builtins), or whatever annotations raise that are evaluated for it
        return None
