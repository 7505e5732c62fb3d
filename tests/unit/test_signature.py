"""Calls that do not fit their function are refused while the workflow is put together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from pfw import GraphError, Step, Workflow, run, step


@step
def add(x: int, y: int, *, scale: int = 1) -> int:
    return (x + y) * scale


def _adds_one(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(1, *args, **kwargs)

    return call


class _Callable:
    def __call__(self, x: int) -> int:
        return x

    def method(self, x: int) -> int:
        return x


def _claims(x: int) -> Callable[..., Any]:
    def fn(*args: Any) -> int:
        return x

    fn.__signature__ = "of something else"  # type: ignore[attr-defined]
    return fn


def _any(*args: Any, **kwargs: Any) -> int:
    return len(args) + len(kwargs)


REFUSED: dict[str, tuple[Callable[[Workflow], Any], str]] = {
    "missing": (lambda wf: add(1), "missing a required argument: 'y'"),
    "unknown": (lambda wf: add(1, 2, z=3), "got an unexpected keyword argument 'z'"),
    "too many": (lambda wf: add(1, 2, 3), "too many positional arguments"),
    "twice": (lambda wf: add(1, 2, x=3), "multiple values for argument 'x'"),
    "with a node": (lambda wf: add(add(1, 2)), "missing a required argument: 'y'"),
    "options": (lambda wf: add.options(retry=1)(1), "missing a required argument: 'y'"),
    "map": (lambda wf: add.map([1, 2]), "missing a required argument: 'y'"),
    "constant of a map": (lambda wf: add.map([1], [2], z=1), "unexpected keyword argument 'z'"),
    "one row": (lambda wf: add.starmap([(1, 2), (1, 2, 3)]), "too many positional arguments"),
    "map of a map": (lambda wf: add.map([1], [2]).map(add), "missing a required argument: 'y'"),
    "late map": (lambda wf: add(1, 2).map(add), "missing a required argument: 'y'"),
    "loop": (lambda wf: add.loop(1, until=bool), "missing a required argument: 'y'"),
    "then": (lambda wf: add(1, 2).when(bool).then(add), "missing a required argument: 'y'"),
    "otherwise": (lambda wf: add(1, 2).when(bool).then(abs).otherwise(add), "missing a required argument: 'y'"),
    "partial": (lambda wf: wf.add(functools.partial(add.fn, 1)), "missing a required argument: 'y'"),
    "lambda": (lambda wf: wf.add(lambda: 1, 2), "too many positional arguments"),
    "object": (lambda wf: wf.add(_Callable()), "missing a required argument: 'x'"),
    "method": (lambda wf: wf.add(_Callable().method), "missing a required argument: 'x'"),
    "builtin": (lambda wf: wf.add(abs, 1, 2), "too many positional arguments"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_call_that_does_not_fit_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with Workflow() as wf, pytest.raises(TypeError, match=f'^step ".*": .*{message}'):
        make(wf)


def test_the_error_has_the_steps_name_and_nothing_is_added() -> None:
    with Workflow() as wf, pytest.raises(TypeError, match=r'^step "sum": missing'):
        add.options(id="sum")(1)
    assert wf.nodes == []


ACCEPTED: dict[str, Callable[[Workflow], Any]] = {
    "default": lambda wf: add(1, 2),
    "keywords": lambda wf: add(y=add(1, 2), x=1, scale=2),
    "any arguments": lambda wf: wf.add(_any, 1, 2, fn=3, name=4, self=5),
    "no row": lambda wf: add.starmap([]),
    "rows of two forms": lambda wf: wf.add_map(_any, [(1,), (1, 2)], {}),
    "partial": lambda wf: wf.add(functools.partial(add.fn, 1, scale=3), 2, scale=4),
    "wrapper that adds an argument": lambda wf: wf.add(_adds_one(add.fn), 2),
    "claimed signature": lambda wf: wf.add(_claims(1), 2, 3, 4),
    "builtin without a signature": lambda wf: wf.add(max, 1, 2, 3),
    "class": lambda wf: wf.add(int, "7"),
    "branch": lambda wf: add(1, 2).when(bool).then(str).otherwise(abs),
    "other branch": lambda wf: add(1, -1).when(bool).then(str).otherwise(abs),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_call_that_fits_is_run(name: str) -> None:
    with Workflow() as wf:
        ACCEPTED[name](wf)
    if wf.nodes:
        assert "FAILED" not in run(wf, mode="sequential", check=False).states.values()


def test_a_step_in_class_form_takes_its_dependencies() -> None:
    class Total(Step):
        dependencies = ("add",)

        def execute(self, ctx: Any) -> Any:
            return ctx["add"]

    wf = Workflow()
    wf.add(add, 1, 2)
    wf.add(Total())
    assert run(wf, mode="sequential").value == 3


def test_each_form_is_looked_at_once() -> None:
    def fn(x: int = 0) -> int:
        return x

    wf = Workflow()
    for _ in range(3):
        wf.add(fn)
        wf.add(fn, 1)
        wf.add(fn, x=1)
    assert step(fn).forms == {(0, ()), (1, ()), (0, ("x",))}


def test_a_map_over_a_node_names_the_map_that_is_meant() -> None:
    with Workflow(), pytest.raises(GraphError, match=r"for each item use node\.map\(fn\)"):
        add.map(add(1, 2))
