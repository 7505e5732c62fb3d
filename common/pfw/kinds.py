"""What the single calls of one function have in common: the step it is called as, and how the first one was sent."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

from pfw.graph import Graph, Spec
from pfw.record import RunRecord
from pfw.session import Session
from pfw.stepfunction import StepFunction

#: Of calls: ids, calls, inputs.
Columns: TypeAlias = tuple[tuple[str, ...], tuple[bytes, ...], tuple[tuple[int, ...], ...]]


class Kind:
    """The calls of one step in one open run."""

    __slots__ = ("first", "pickled", "spec")

    def __init__(self, pickled: bytes, spec: Spec) -> None:
        self.pickled, self.spec = pickled, spec
        #: The first of them that was sent; -1: none was.
        self.first = -1

    def extend(self, session: Session, record: RunRecord, columns: Columns, now: float) -> int:
        """Adds calls to the run; returns the index of the first one."""
        ids, calls, inputs = columns
        if self.first >= 0:
            return session.extend_like(record, self.first, ids, calls, inputs, now)
        zeros = [0] * len(ids)
        fragment = Graph(
            list(ids), [self.pickled], [self.spec], zeros, zeros, list(calls), list(inputs), [()] * len(ids)
        )
        self.first = session.extend(record, fragment, now)
        self.pickled = b""
        return self.first


class Steps:
    """The steps that functions are called as. Each is made once, so that its function is pickled once."""

    def __init__(self, change: Callable[[StepFunction], StepFunction]) -> None:
        self._change = change
        self._made: weakref.WeakKeyDictionary[Callable[..., Any], StepFunction] = weakref.WeakKeyDictionary()

    def of(self, fn: Callable[..., Any]) -> StepFunction:
        """The step for a function, or a step, with the change."""
        try:
            step = self._made.get(fn)
            if step is None:
                step = self._made[fn] = self._make(fn)
            return step
        except TypeError:  # it cannot be hashed or referred to weakly, so it is wrapped each time
            return self._make(fn)

    def _make(self, fn: Callable[..., Any]) -> StepFunction:
        return self._change(fn if isinstance(fn, StepFunction) else StepFunction(fn))
