"""What a step knows about itself."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pfw import CancellationToken, context
from pfw.context import Entry, current, enter, enter_task, leave
from pfw.errors import ConfigError


def test_outside_a_run_the_context_is_inert() -> None:
    ctx = current()
    assert (ctx.run_id, ctx.step_id, ctx.attempt) == ("", "", 0)
    assert dict(ctx.params) == {}
    ctx.check()
    with pytest.raises(KeyError):
        ctx["anything"]


def test_inside_a_step_it_says_which() -> None:
    entry = Entry("run-1", 2)
    previous = enter(entry)
    entry.step_id = "load"
    try:
        ctx = current()
        assert (ctx.run_id, ctx.step_id, ctx.attempt) == ("run-1", "load", 2)
        assert current() is ctx
        assert ctx.logger.name == "pfw.step.load"
    finally:
        leave(previous)
    assert current().attempt == 0


def test_threads_of_a_step_see_its_context() -> None:
    seen = []
    previous = enter(Entry("run-1", 1))
    thread = threading.Thread(target=lambda: seen.append(current().run_id))
    thread.start()
    thread.join()
    leave(previous)
    assert seen == ["run-1"]


def test_async_steps_have_each_its_own_context() -> None:
    async def step(run_id: str, all_entered: asyncio.Barrier) -> str:
        enter_task(Entry(run_id, 1))
        await all_entered.wait()
        return current().run_id

    async def both() -> list[str]:
        all_entered = asyncio.Barrier(2)
        return list(await asyncio.gather(step("a", all_entered), step("b", all_entered)))

    assert asyncio.run(both()) == ["a", "b"]
    assert current().run_id == ""


def test_params_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        current().params["x"] = 1  # type: ignore[index]


def test_with_inputs_gives_the_outputs_of_dependencies() -> None:
    ctx = current().with_inputs({"extract": [1, 2]})
    assert ctx["extract"] == [1, 2]
    with pytest.raises(KeyError):
        current()["extract"]


def test_a_token_is_made_when_it_is_needed_and_is_the_contexts() -> None:
    entry = Entry("run-1", 1)
    assert not entry.is_cancelled()
    token = entry.need_token()
    assert entry.context().token is token
    assert not entry.is_cancelled()
    token.cancel()
    assert entry.is_cancelled()


def test_threads_that_need_the_token_at_once_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, others = Entry("run-1", 1), list[CancellationToken]()

    def make_meanwhile() -> CancellationToken:
        monkeypatch.setattr(context, "CancellationToken", CancellationToken)
        others.append(entry.need_token())
        return CancellationToken()

    monkeypatch.setattr(context, "CancellationToken", make_meanwhile)
    assert entry.need_token() is others[0]


def test_progress_goes_where_the_step_runs_and_nowhere_outside() -> None:
    said: list[tuple[object, ...]] = []
    entry = Entry("run-1", 1)
    entry.sink = lambda *what: said.append(what)
    entry.context().progress(3, 10, "x" * 1_000)
    entry.context().with_inputs({}).progress(0.5, message="\ud800")
    assert said == [(entry, 3.0, 10.0, "x" * 200), (entry, 0.5, 0.0, "?")]
    current().progress(1, 2, "nobody hears it")


@pytest.mark.parametrize(
    "amounts", [(-1,), (float("nan"),), (float("inf"),), ("1",), (None,), (True,), (1, -1), (1, "2")]
)
def test_progress_is_told_in_numbers(amounts: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match=r"progress: (done|total) is a number"):
        current().progress(*amounts)


def test_steps_that_follow_one_another_are_running_one_by_one() -> None:
    first, second = Entry("run", 1), Entry("run", 2)
    context.succeed(first)
    assert context.running() is first
    context.succeed(second)
    seen: list[Entry | None] = []
    thread = threading.Thread(target=lambda: seen.append(context.running()))
    thread.start()
    thread.join()
    assert [context.running(), *seen] == [second] * 2
    context.end()
    assert context.running() is None
