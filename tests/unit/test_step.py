"""Steps: options, plain calls, what is refused, and how they are pickled."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pfw import codec
from pfw.errors import ConfigError, GraphError, StepTimeoutError
from pfw.graph import IF_ALWAYS, LANE_ASYNC, LANE_CPU, LANE_IO, Spec
from pfw.hint import HINTS, Hint
from pfw.stepfunction import Retry, StepFunction, is_async, step
from pfw.workflow import Workflow


@step
def double(x: int) -> int:
    """Twice."""
    return 2 * x


@step(hint="heavy_io", retry=2, grace=0.5, name="fetch")
def fetch_page(url: str) -> str:
    return url


#: What no timeout can be.
ODD_TIMEOUTS = (0, 0.0, -1, float("nan"), float("inf"), "1", True, 10**9)


async def wait(x: int) -> int:
    return x


class Adder:
    def __call__(self, x: int, y: int) -> int:
        return x + y


class AsyncAdder:
    async def __call__(self, x: int) -> int:
        return x


def test_outside_a_block_a_step_is_its_function() -> None:
    assert double(4) == 8
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice."
    assert list(inspect.signature(double).parameters) == ["x"]
    assert asyncio.run(step(wait)(3)) == 3


def test_all_arguments_go_to_the_function() -> None:
    @step
    def echo(self: int, name: str, fn: int) -> tuple[Any, ...]:
        return self, name, fn

    assert echo(self=1, name="x", fn=2) == (1, "x", 2)
    assert Workflow().add(echo, self=1, name="x", fn=2).id == "echo"


def test_options_change_a_copy() -> None:
    changed = fetch_page.options(id="x", retry=Retry(retries=5), after="y")
    assert (changed.id, changed.retry.retries, changed.after, changed.hint) == ("x", 5, ("y",), Hint("heavy_io"))
    assert changed.fn is fetch_page.fn
    assert (fetch_page.id, fetch_page.retry.retries, fetch_page.after) == (None, 2, ())
    assert changed.options(retry=0).retry.retries == 0
    assert not fetch_page.options(rerun_on_loss=False).options(id="y").rerun_on_loss
    assert (fetch_page.timeout, changed.options(timeout=1.5).options(id="y").timeout) == (None, 1.5)


def test_spec_holds_the_options() -> None:
    assert fetch_page.spec == Spec(LANE_IO, 1, 2, 0.1, 2.0, 30.0, 1, 0.5, needs=(("heavy_io", 1),), retries_memory=1)
    assert (fetch_page.spec.reruns, step(len, rerun_on_loss=False).spec.reruns) == (1, 0)
    assert (fetch_page.spec.timeout, step(len, timeout=3).spec.timeout) == (0.0, 3.0)
    assert step(wait).spec.lane == LANE_ASYNC
    assert step(wait, retry=Retry(jitter="none")).spec.jitter == 0
    marked = step(len, run_if="always", keep=True, priority=7, tags="nightly").spec
    assert (marked.run_if, marked.keep, marked.priority, marked.tags) == (IF_ALWAYS, 1, 7, ("nightly",))
    assert [step(len, hint=hint).spec[:2] for hint in ("light_cpu", "heavy_cpu", "light_io")] == [
        (LANE_CPU, 0),
        (LANE_CPU, 1),
        (LANE_IO, 0),
    ]


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (len, "len"),
        (lambda: 1, "lambda"),
        (functools.partial(len, "x"), "len"),
        (Adder(), "Adder"),
        (str.upper, "upper"),
        (int, "int"),
    ],
)
def test_names_come_from_the_function(fn: Any, name: str) -> None:
    assert step(fn).name == name


def test_is_async() -> None:
    assert is_async(wait)
    assert is_async(functools.partial(wait, 1))
    assert is_async(AsyncAdder())
    assert not is_async(Adder())
    assert not is_async(len)
    assert not is_async(AsyncAdder)


def some_items() -> Iterator[int]:
    yield 1


async def some_later() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("fn", [some_items, some_later, functools.partial(some_items), 5, "len", double])
def test_what_cannot_be_a_step_is_a_type_error(fn: Any) -> None:
    with pytest.raises(TypeError):
        step(fn)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hint": "ligth_io"}, 'light_cpu.*did you mean "light_io"'),
        ({"hint": 3}, "not 3"),
        ({"hint": "async_io"}, "not `async def`"),
        ({"name": "a/b"}, "holds a /"),
        ({"name": 5}, "is a str"),
        ({"grace": -1}, "grace"),
        ({"grace": float("nan")}, "grace"),
        *(({"timeout": odd}, "timeout") for odd in ODD_TIMEOUTS),
        ({"rerun_on_loss": 0}, "rerun_on_loss is True or False, not 0"),
        ({"retry": -1}, "Retry.retries"),
        ({"retry": True}, "Retry.retries"),
        ({"run_if": "alway"}, 'did you mean "always"'),
        ({"run_if": 1}, "not 1"),
        ({"keep": 1}, "True or False"),
        ({"keep": "all"}, "True or False"),
        ({"priority": -1}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 1 << 31}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"tags": 3}, "tags"),
        ({"tags": ["a", 3]}, "a tag is a str"),
    ],
)
def test_wrong_options_are_config_errors(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        step(len, **options)


@pytest.mark.parametrize("options", [{"id": "a/b"}, {"id": "\ud800"}, {"after": [3]}])
def test_wrong_options_of_a_use_are_config_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        double.options(**options)


def test_async_steps_have_no_other_lane() -> None:
    for hint in set(HINTS) - {"async_io"}:
        with pytest.raises(ConfigError, match="async_io"):
            step(wait, hint=hint)


@pytest.mark.parametrize(
    "fields",
    [
        {"retries": -1},
        {"retries": 1.5},
        {"backoff": -0.1},
        {"backoff": "1"},
        {"factor": float("inf")},
        {"max_delay": None},
        {"jitter": "some"},
        {"on": 3},
        {"on": (int,)},
        {"on": int},
        {"give_up": [KeyError]},
    ],
)
def test_retry_names_the_wrong_field(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Retry.{next(iter(fields))}"):
        Retry(**fields)


def test_retry_says_what_is_worth_another_attempt() -> None:
    assert Retry().is_retryable(ValueError())
    assert not Retry().is_retryable(SystemExit())
    assert Retry(on=OSError).is_retryable(FileNotFoundError())
    assert not Retry(on=OSError, give_up=FileNotFoundError).is_retryable(FileNotFoundError())
    assert not Retry(on=(KeyError, OSError)).is_retryable(ValueError())
    assert Retry(on=lambda error: "busy" in str(error)).is_retryable(ValueError("busy"))
    assert not Retry(give_up=lambda error: True).is_retryable(ValueError())


@pytest.mark.parametrize(
    ("rule", "is_tried_again"),
    [
        (Retry(), 1), (Retry(retries=0), 0), (Retry(on=TimeoutError), 1), (Retry(on=ValueError), 0),
        (Retry(give_up=StepTimeoutError), 0), (Retry(on=lambda error: "2 s" in str(error)), 1),
    ],
)  # fmt: skip
def test_a_retry_rule_is_asked_about_timeouts_beforehand(rule: Retry, is_tried_again: int) -> None:
    assert step(len, retry=rule, timeout=2).spec.retries_timeouts == is_tried_again
    assert step(len, retry=rule).spec.retries_timeouts == 0


def test_a_rule_that_raises_means_no_and_leaves_a_note() -> None:
    error = ValueError("the step's")
    assert not Retry(on=lambda _: 1 / 0).is_retryable(error)
    assert "ZeroDivisionError" in error.__notes__[0]


@pytest.mark.parametrize("method", ["map", "starmap"])
def test_map_outside_a_block_says_what_to_do(method: str) -> None:
    with pytest.raises(GraphError, match=r"with Workflow\(\) as wf"):
        getattr(double, method)([1])


def test_a_node_outside_a_block_says_what_to_do() -> None:
    with Workflow() as workflow:
        node = double(1)
    with pytest.raises(GraphError, match=r"workflow.add\(double"):
        double(node)
    with pytest.raises(GraphError):
        double(x=workflow["double"])


def test_a_step_of_a_module_is_pickled_by_reference() -> None:
    assert pickle.loads(pickle.dumps(double)) is double
    assert len(pickle.dumps(double)) < 100


def test_a_changed_copy_finds_its_function_by_reference() -> None:
    changed = double.options(
        retry=2, name="twice", id="x", after="y", run_if="any", keep=True, priority=3, tags=["a", "b", "a"],
        timeout=7.0, rerun_on_loss=False,
    )  # fmt: skip
    copy = pickle.loads(pickle.dumps(changed))
    assert copy.fn is double.fn
    assert (copy.name, copy.retry.retries, copy.timeout, copy.rerun_on_loss) == ("twice", 2, 7.0, False)
    assert (copy.run_if, copy.keep, copy.priority, copy.tags) == ("any", True, 3, ("a", "b"))
    # These belong to one workflow.
    assert (copy.id, copy.after) == (None, ())


def test_a_wrapped_importable_function_is_pickled_by_reference() -> None:
    assert pickle.loads(pickle.dumps(step(len))).fn is len


def test_a_local_step_goes_by_value() -> None:
    offset = 10

    @step(retry=1)
    def shift(x: int) -> int:
        return x + offset

    assert shift.named() is None
    copy = codec.load(codec.dump(shift))
    assert isinstance(copy, StepFunction)
    assert copy(1) == 11
    assert codec.load_function(codec.dump_function(shift)).fn(1) == 11
