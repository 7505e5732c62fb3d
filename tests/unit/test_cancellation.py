"""The token: cancelled once, by anybody, and told to everybody who asked for it."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from helpers import wait_until
from pfw import codec
from pfw.cancellation import CancellationToken, tie
from pfw.context import Entry, current, enter, leave
from pfw.errors import ConfigError, StepInterrupt
from pfw.execution import load_function
from pfw.facts import FACT_FINISHED, RUN_SUCCEEDED, Fact, sendable_reason
from pfw.graph import Graph
from pfw.record import RunRecord


def test_a_cancelled_token_interrupts_and_keeps_the_first_reason() -> None:
    token = CancellationToken()
    token.check()
    assert (token.cancelled, token.reason) == (False, None)
    token.cancel("enough")
    token.cancel("too late")
    assert (token.cancelled, token.reason) == (True, "enough")
    with pytest.raises(StepInterrupt, match="enough"):
        token.check()


def test_cancelled_is_a_plain_slot_attribute() -> None:
    assert type(vars(CancellationToken)["cancelled"]).__name__ == "member_descriptor"
    assert not hasattr(CancellationToken(), "__dict__")


def test_callbacks_are_called_once_in_order_by_the_thread_that_cancels() -> None:
    token = CancellationToken()
    called: list[tuple[int, int]] = []
    for number in range(3):
        token.on_cancel(lambda number=number: called.append((number, threading.get_ident())))  # type: ignore[misc]
    assert called == []
    thread = threading.Thread(target=token.cancel)
    thread.start()
    thread.join()
    token.cancel()
    assert called == [(number, thread.ident) for number in range(3)]


def test_a_callback_of_a_cancelled_token_is_called_at_once() -> None:
    token = CancellationToken()
    token.cancel()
    called: list[int] = []
    token.on_cancel(lambda: called.append(threading.get_ident()))
    assert called == [threading.get_ident()]


def fail() -> None:
    raise ValueError("no good")


def interrupt() -> None:
    raise StepInterrupt


@pytest.mark.parametrize("bad", [fail, interrupt])
def test_a_callback_that_raises_is_logged_and_stops_nothing(
    bad: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    token, called = CancellationToken(), []
    token.on_cancel(bad)
    token.on_cancel(lambda: called.append(1))
    token.cancel()
    assert called == [1]
    (record,) = caplog.records
    assert record.exc_info is not None


def test_a_callback_may_use_the_token() -> None:
    token, called = CancellationToken(), []

    def again() -> None:
        token.cancel("once more")
        token.on_cancel(lambda: called.append(token.reason))

    token.on_cancel(again)
    token.cancel("first")
    assert called == ["first"]


@pytest.mark.parametrize("fn", [None, 1, "f"])
def test_a_callback_is_a_function(fn: Any) -> None:
    with pytest.raises(ConfigError, match="on_cancel"):
        CancellationToken().on_cancel(fn)


def test_of_many_threads_one_reason_stands_and_each_callback_is_called_once() -> None:
    for _ in range(50):
        token, called = CancellationToken(), []
        barrier = threading.Barrier(4)

        def cancel(reason: str, token: Any = token, called: Any = called, barrier: Any = barrier) -> None:
            barrier.wait()
            token.on_cancel(lambda: called.append(reason))
            token.cancel(reason)

        threads = [threading.Thread(target=cancel, args=(f"reason {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(called) == [f"reason {n}" for n in range(4)]
        assert token.reason in called


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_cancel_after_cancels_from_a_thread_that_ends() -> None:
    token, gone = CancellationToken(), threading.Event()
    token.on_cancel(gone.set)
    token.cancel_after(0.01)
    assert gone.wait(20)
    assert token.reason == "cancelled after 0.01 s"
    wait_until(lambda: not timers(), what="the timer's thread has ended")


def test_a_timer_of_a_token_that_is_cancelled_ends_at_once() -> None:
    token = CancellationToken()
    token.cancel_after(3600)
    (timer,) = timers()
    assert timer.daemon
    token.cancel("before")
    timer.join(20)
    assert not timer.is_alive()
    assert token.reason == "before"
    token.cancel_after(3600)
    wait_until(lambda: not timers(), what="no timer for a cancelled token")


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None, True, 1e12])
def test_cancel_after_takes_seconds(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="cancel_after"):
        CancellationToken().cancel_after(seconds)
    assert not timers()


# -- sent to a step ----------------------------------------------------------------------------------------------------


def test_outside_a_step_a_copy_has_the_same_state_and_is_another_token() -> None:
    token = CancellationToken()
    copy = pickle.loads(pickle.dumps(token))
    token.cancel("enough")
    assert not copy.cancelled
    copy = pickle.loads(pickle.dumps(token))
    assert (copy.cancelled, copy.reason) == (True, "enough")


def test_in_a_step_it_is_the_steps_own() -> None:
    pickled = pickle.dumps(CancellationToken())
    entry = Entry("run-1", 1)
    previous = enter(entry)
    try:
        assert pickle.loads(pickled) is current().token is pickle.loads(pickled)
    finally:
        leave(previous)


def test_a_function_that_holds_a_token_is_loaded_for_each_attempt() -> None:
    token = CancellationToken()
    pickled = codec.dump_function(lambda: token)
    for _ in range(2):
        entry = Entry("run-1", 1)
        loaded, is_common = load_function(pickled, entry)
        assert loaded.fn() is entry.need_token()
        assert not is_common
    assert load_function(codec.dump_function(lambda: 1), Entry("run-1", 1))[1]


# -- tied to runs ------------------------------------------------------------------------------------------------------


def record_of(run_id: str) -> RunRecord:
    record = RunRecord("name", "parallel", Graph([], [], [], [], [], [], [], []), None)
    record.run_id = run_id
    return record


def test_every_run_that_goes_on_is_cancelled_with_its_token() -> None:
    token, cancelled = CancellationToken(), []
    records = [record_of(name) for name in "abc"]
    for record in records:
        tie(token, record, lambda record, reason: cancelled.append((record.run_id, reason)))
    records[1].apply([Fact(FACT_FINISHED, 0, 1.0, RUN_SUCCEEDED, 0, 1.0, 1.0, 0.0, b"")])
    token.cancel("all of you")
    assert cancelled == [("a", "all of you"), ("c", "all of you")]
    tie(token, records[0], lambda record, reason: cancelled.append((record.run_id, "at once")))
    assert cancelled[2:] == [("a", "at once")]


def test_a_token_keeps_nothing_of_runs_that_are_gone() -> None:
    token = CancellationToken()
    for number in range(100):
        tie(token, record_of(str(number)), lambda record, reason: None)
    gc.collect()
    assert token._callbacks == []
    token.cancel()


@pytest.mark.parametrize(
    ("reason", "text"),
    [("", "cancelled"), (None, "cancelled"), ("a\udcff", "a?"), (7, "7"), ("x" * 20_000, "x" * 10_000)],
)
def test_any_reason_can_be_sent(reason: Any, text: str) -> None:
    assert sendable_reason(reason) == text
