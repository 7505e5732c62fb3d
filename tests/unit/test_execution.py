"""One step's call, and what becomes of whatever it does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pfw import codec, execution, outcome
from pfw.call import Input
from pfw.codec import LoadedFunction
from pfw.context import Entry, current
from pfw.errors import StepInterrupt
from pfw.failure import FAIL_CANCELLED, FAIL_ERROR, FAIL_MODULE, FAIL_UNPICKLABLE, Failure
from pfw.stepfunction import Retry


def loaded(fn: Callable[..., Any], on: Any = Exception) -> LoadedFunction:
    return LoadedFunction(fn, Retry(on=on).is_retryable, False)


def call_of(step_id: str = "s", args: tuple[Any, ...] | None = (), kwargs: dict[str, Any] | None = None) -> bytes:
    return codec.dump((step_id, args, kwargs))


def execute(fn: Callable[..., Any], *args: Any, inputs: tuple[Any, ...] = (), **kwargs: Any) -> tuple[int, bytes]:
    pickled = [codec.dump(value) for value in inputs]
    return execution.execute(loaded(fn), call_of("s", args, kwargs), pickled, Entry("run", 1))


def failure_of(result: tuple[int, bytes], code: int = outcome.RETRYABLE) -> Failure:
    assert result[0] == code
    return Failure.unpack(result[1])


def raising(error: BaseException) -> Any:
    raise error


def test_a_step_gets_its_arguments_and_returns_its_output() -> None:
    code, payload = execute(lambda x, y, z: (x, y, z), 1, [Input(0, ("k",))], z=Input(1), inputs=({"k": 2}, 3))
    assert (code, codec.load(payload)) == (outcome.OK, (1, [2], 3))


@pytest.mark.parametrize("value", [0, True, False, -1, 1.5, float("inf"), float("nan"), 1 << 63, 1 << 64, -(1 << 200)])
def test_numbers_come_back_as_they_were(value: float) -> None:
    code, payload = execute(lambda: value)
    found = codec.load(payload)
    assert (code, type(found), repr(found)) == (outcome.OK, type(value), repr(value))


def test_small_values_are_left_to_be_pickled_together() -> None:
    outputs = [
        execution.run(loaded(lambda value=value: value), call_of(), (), Entry("run", 1))[1]
        for value in (7, True, 0.5, None, "text", 1 << 64)
    ]
    assert [type(output) for output in outputs] == [int, bool, float, bytes, bytes, bytes]
    assert list(map(codec.load, codec.all_dumped(outputs))) == [7, True, 0.5, None, "text", 1 << 64]
    assert list(map(codec.dumped, outputs)) == codec.all_dumped(outputs)


def test_the_short_form_passes_the_inputs_on() -> None:
    result = execution.execute(loaded(max), call_of("s", None), [codec.dump(3), codec.dump(4)], Entry("run", 1))
    assert result == (outcome.OK, codec.dump(4))


def test_the_context_is_the_steps() -> None:
    code, payload = execute(lambda: (current().run_id, current().step_id, current().attempt))
    assert (code, codec.load(payload)) == (outcome.OK, ("run", "s", 1))
    assert current().attempt == 0


@pytest.mark.parametrize("error", [ValueError("x"), OSError(2, "gone")])
def test_an_exception_may_be_retried(error: Exception) -> None:
    found = failure_of(execute(raising, error))
    assert (found.code, found.message) == (FAIL_ERROR, str(error))
    assert "pfw/execution.py" not in found.traceback


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StepInterrupt("own")])
def test_other_exceptions_end_the_step_only(error: BaseException) -> None:
    assert failure_of(execute(raising, error), outcome.ERROR).type_name.endswith(type(error).__name__)


def test_the_steps_rule_decides_what_may_be_retried() -> None:
    step = loaded(raising, on=KeyError)
    entry = Entry("run", 1)
    assert execution.execute(step, call_of("s", (KeyError(),)), (), entry)[0] == outcome.RETRYABLE
    assert execution.execute(step, call_of("s", (ValueError(),)), (), entry)[0] == outcome.ERROR


def test_an_interrupt_after_a_cancel_is_a_stop() -> None:
    def stops_itself() -> None:
        current().token.cancel()
        current().check()

    found = failure_of(execute(stops_itself), outcome.STOPPED)
    assert found.code == FAIL_CANCELLED


def test_a_step_that_ignores_its_cancel_has_returned() -> None:
    assert execute(lambda: current().token.cancel())[0] == outcome.OK


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> int:
    return 1


@pytest.mark.parametrize(("fn", "advice"), [(generator, "return a list"), (coroutine, "await it")])
def test_an_output_that_cannot_be_sent_is_the_steps_failure(fn: Callable[[], Any], advice: str) -> None:
    found = failure_of(execute(fn), outcome.ERROR)
    assert found.code == FAIL_UNPICKLABLE
    assert found.message.startswith("its output: ")
    assert advice in found.message


def test_a_module_missing_for_an_argument_is_named() -> None:
    call = call_of("s", (Input(0),))
    found = failure_of(execution.execute(loaded(id), call, [b"cno_such_module\nf\n."], Entry("run", 1)), outcome.ERROR)
    assert found.code == FAIL_MODULE
    assert "no_such_module" in found.message


def test_a_call_that_is_no_pickle_is_the_steps_failure() -> None:
    assert failure_of(execution.execute(loaded(id), b"junk", (), Entry("run", 1))).code == FAIL_ERROR


def test_a_function_that_does_not_load_is_reported() -> None:
    with pytest.raises(Exception, match="no_such_module") as caught:
        codec.load_function(b"cno_such_module\nf\n.")
    found = failure_of(execution.report_load_error(caught.value), outcome.ERROR)
    assert found.code == FAIL_MODULE


def test_signals_may_interrupt_only_while_the_step_runs() -> None:
    assert not execution.is_interruptible()
    assert codec.load(execute(execution.is_interruptible)[1]) is True
    execute(raising, ValueError())
    assert not execution.is_interruptible()


def run_async(fn: Callable[..., Any], entry: Entry, *args: Any) -> tuple[int, bytes]:
    return asyncio.run(execution.execute_async(loaded(fn), call_of("s", args), (), entry))


async def own_attempt(offset: int) -> int:
    await asyncio.sleep(0)
    return current().attempt + offset


async def cancels_itself() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.sleep(0)


def test_an_async_step_is_awaited_in_its_context() -> None:
    assert run_async(own_attempt, Entry("run", 4), 10) == (outcome.OK, codec.dump(14))


def test_a_cancelled_task_is_a_stop_if_the_step_was_to_stop() -> None:
    entry = Entry("run", 1)
    assert failure_of(run_async(cancels_itself, entry), outcome.ERROR).code == FAIL_ERROR
    entry.need_token().cancel()
    assert failure_of(run_async(cancels_itself, entry), outcome.STOPPED).code == FAIL_CANCELLED


def test_an_async_step_may_raise_anything() -> None:
    async def leaves() -> None:
        sys.exit(3)

    assert failure_of(run_async(leaves, Entry("run", 1)), outcome.ERROR).type_name == "SystemExit"
