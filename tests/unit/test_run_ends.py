"""How a run ends: failures, cancels, waves, open runs."""

from __future__ import annotations

import pytest

from helpers.lives import assign, fail, kinds, start, succeed
from helpers.samples import graph_of, spec
from pfw.facts import (
    ASSIGNED,
    CANCELLED,
    ENDED_ANYWAY,
    ENDED_ITSELF,
    ENDED_KILLED,
    ENDED_LOST,
    ENDED_NEVER_STARTED,
    FACT_CANCELLED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FAILED,
    READY,
    RUN_CANCELLED,
    RUN_FAILED,
    RUN_RUNNING,
    RUN_STOPPING,
    RUN_SUCCEEDED,
    SKIPPED,
    SUCCEEDED,
    WAITING,
    unpack_end,
)
from pfw.lifecycle import RunLife

# -- failure and cancel ------------------------------------------------------------------------------------------------


def two_branches(on_failure: str) -> RunLife:
    """Steps 0 and 1 run; 2 depends on 0, 3 on 1, 4 on both."""
    life = start(graph_of([(), (), (0,), (1,), (0, 1)]), on_failure=on_failure)
    assert sorted(assign(life)) == [0, 1]
    return life


def test_continue_goes_on_with_what_does_not_depend_on_the_failure() -> None:
    life = two_branches("continue")
    fail(life, 0)
    assert list(life.states) == [FAILED, ASSIGNED, SKIPPED, WAITING, SKIPPED]
    assert kinds(life)[1:] == [(FACT_FAILED, 0), (FACT_SKIPPED, 2), (FACT_SKIPPED, 4)]
    assert [fact.attempt for fact in list(life.facts)[2:]] == [0, 0], "the step that caused it"
    succeed(life, 1)
    assign(life)
    succeed(life, 3)
    assert life.status == RUN_FAILED


def test_stop_starts_nothing_more_and_lets_running_steps_end() -> None:
    life = two_branches("stop")
    fail(life, 0)
    assert life.status == RUN_STOPPING
    assert list(life.states) == [FAILED, ASSIGNED, SKIPPED, CANCELLED, SKIPPED]
    assert life.to_stop == []
    succeed(life, 1)
    assert list(life.states)[1] == SUCCEEDED
    assert life.status == RUN_FAILED
    assert kinds(life)[-1] == (FACT_FINISHED, 0)


@pytest.mark.parametrize("end", ["retryable", "crash", "loss"])
def test_stop_retries_nothing(end: str) -> None:
    life = start(graph_of([(), ()], specs=[spec(), spec(retries=3)]), on_failure="stop")
    assign(life)
    fail(life, 0)
    if end == "retryable":
        fail(life, 1, is_retryable=True)
    elif end == "crash":
        life.on_crashed(1, 1, 1.0, 0.5, b"", 1.0)
    else:
        life.on_lost(1, 1, b"", 1.0)
    assert list(life.states) == [FAILED, FAILED]
    assert life.status == RUN_FAILED


def test_stop_does_not_start_what_was_handed_back() -> None:
    life = two_branches("stop")
    fail(life, 0)
    life.on_not_started(1, 1, 2.0)
    assert list(life.states)[1] == CANCELLED
    assert life.status == RUN_FAILED


def test_stop_ends_backoffs() -> None:
    life = start(graph_of([(), ()], specs=[spec(), spec(retries=3, backoff=9.0)]), on_failure="stop")
    assign(life)
    fail(life, 1, is_retryable=True)
    fail(life, 0)
    assert list(life.states) == [FAILED, CANCELLED]
    assert life.wake_at() is None
    assert life.status == RUN_FAILED


def test_abort_stops_running_steps_too_and_takes_nothing_from_them() -> None:
    life = two_branches("abort")
    fail(life, 0)
    assert life.to_stop == [1]
    succeed(life, 1)
    assert list(life.states) == [FAILED, CANCELLED, SKIPPED, CANCELLED, SKIPPED]
    assert life.status == RUN_FAILED
    assert life.outputs == [None] * 5


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("ok", ENDED_ANYWAY),
        ("error", ENDED_ANYWAY),
        ("crash", ENDED_ANYWAY),
        ("loss", ENDED_LOST),
        ("not started", ENDED_NEVER_STARTED),
        ("stopped", ENDED_KILLED),
    ],
)
def test_after_a_cancel_every_end_of_an_attempt_is_a_cancel(end: str, how: int) -> None:
    life = start(graph_of([(), (0,)], specs=[spec(retries=3)]))
    assign(life)
    assert life.cancel("enough", 1.0)
    assert life.status == RUN_STOPPING
    assert list(life.states) == [ASSIGNED, CANCELLED]
    assert life.to_stop == [0]
    if end == "ok":
        succeed(life, 0, 1.25)
    elif end == "error":
        fail(life, 0, 1.25, is_retryable=True)
    elif end == "crash":
        life.on_crashed(0, 1, 1.0, 0.5, b"", 1.25)
    elif end == "loss":
        life.on_lost(0, 1, b"", 1.25)
    elif end == "not started":
        life.on_not_started(0, 1, 1.25)
    else:
        life.on_stopped(0, 1, ENDED_KILLED, 1.25)
    assert life.status == RUN_CANCELLED
    assert kinds(life)[1:] == [(FACT_CANCELLED, 1), (FACT_CANCELLED, 0), (FACT_FINISHED, 0)]
    assert [unpack_end(fact.payload) for fact in list(life.facts)[1:3]] == [
        (ENDED_NEVER_STARTED, 0, "enough"),
        (how, 250, "enough"),
    ]
    assert list(life.facts)[3].payload == b"enough"
    assert list(life.facts)[2].attempt == (0 if end == "not started" else 1)


def test_a_cancel_counts_once_and_not_after_the_end() -> None:
    life = start(graph_of([()]))
    assert life.cancel("", 1.0)
    assert life.cancel_reason == b"cancelled"
    assert not life.cancel("again", 1.0)
    assert life.status == RUN_CANCELLED
    ended = start(graph_of([()]))
    assign(ended)
    succeed(ended, 0)
    facts = list(ended.facts)
    assert not ended.cancel("late", 2.0)
    assert list(ended.facts) == facts


def test_a_run_that_stops_can_still_be_cancelled() -> None:
    life = two_branches("stop")
    fail(life, 0)
    assert life.cancel("enough", 2.0)
    assert life.to_stop == [1]
    life.on_stopped(1, 1, ENDED_ITSELF, 3.0)
    assert life.status == RUN_CANCELLED
    end = unpack_end(list(life.facts)[-2].payload)
    assert end == (ENDED_ITSELF, 1000, "enough"), "from the cancel, not from the failure"


# -- waves -------------------------------------------------------------------------------------------------------------


def test_a_wave_starts_when_the_one_before_has_ended() -> None:
    life = start(graph_of([(), (), (0,), (1,), (2,)]), mode="waves")
    assert assign(life) == [0, 1]
    succeed(life, 0)
    assert list(life.states) == [SUCCEEDED, ASSIGNED, READY, WAITING, WAITING]
    assert assign(life) == []
    succeed(life, 1)
    assert sorted(assign(life)) == [2, 3]
    succeed(life, 2)
    assert assign(life) == []
    succeed(life, 3)
    assert assign(life) == [4]


def test_a_failed_wave_that_continues_lets_the_next_one_start() -> None:
    life = start(graph_of([(), (), (0,), (1,), (2,)]), mode="waves", on_failure="continue")
    assign(life)
    fail(life, 0)
    succeed(life, 1)
    assert list(life.states) == [FAILED, SUCCEEDED, SKIPPED, READY, SKIPPED]
    assert assign(life) == [3]


def test_a_retry_holds_up_its_wave() -> None:
    life = start(graph_of([(), (), (1,)], specs=[spec(retries=1), spec(), spec()]), mode="waves")
    assign(life)
    fail(life, 0, is_retryable=True)
    succeed(life, 1)
    assert assign(life) == []
    life.on_time(9.0)
    assert assign(life) == [0]
    succeed(life, 0)
    assert assign(life) == [2]


# -- open runs ---------------------------------------------------------------------------------------------------------


def open_run() -> RunLife:
    return start(graph_of([]), is_open=True, on_failure="continue")


def test_an_open_run_ends_when_it_is_closed_and_done() -> None:
    life = open_run()
    assert life.extend(graph_of([()]), 1.0) == 0
    assign(life)
    succeed(life, 0)
    assert life.status == RUN_RUNNING
    assert life.extend(graph_of([()]), 2.0) == 1
    life.close(3.0)
    assert life.status == RUN_RUNNING
    assign(life)
    succeed(life, 1)
    assert life.status == RUN_SUCCEEDED


def test_outputs_after_the_close_are_told_too() -> None:
    life = open_run()
    life.extend(graph_of([()]), 1.0)
    life.close(2.0)
    assign(life)
    succeed(life, 0)
    assert list(life.facts)[-2].payload == b"out 0"


def test_an_empty_open_run_ends_when_it_is_closed() -> None:
    life = open_run()
    life.close(1.0)
    assert life.status == RUN_SUCCEEDED
    assert kinds(life) == [(FACT_RUN_STARTED, 0), (FACT_FINISHED, 0)]


def test_a_fragment_may_depend_on_what_has_ended() -> None:
    life = open_run()
    life.extend(graph_of([(), ()]), 1.0)
    assign(life)
    succeed(life, 0)
    fail(life, 1)
    assert life.extend(graph_of([(0,), (1,), (3,)], functions=[b"other"]), 2.0) == 2
    assert list(life.states) == [SUCCEEDED, FAILED, READY, SKIPPED, SKIPPED]
    assert [life.graph.functions[function] for function in life.graph.function_of] == [b"fn"] * 2 + [b"other"] * 3


def test_released_facts_and_their_outputs_go() -> None:
    life = open_run()
    life.extend(graph_of([(), (0,)]), 1.0)
    assign(life)
    succeed(life, 0)
    assert list(life.facts)[-1].payload == b"out 0"
    life.release(2)
    assert life.facts.first == 2
    assert not life.facts
    assert life.outputs[0] == b"out 0", "step 1 needs it"
    assert not life.is_released(0)
    assign(life)
    succeed(life, 1)
    assert life.outputs == [None, b"out 1"]
    life.release(1)
    life.release(2)
    assert life.facts.first == 2
    life.release(3)
    assert life.outputs == [None, None]
    assert life.is_released(0)


def test_a_cancelled_open_run_is_closed() -> None:
    life = open_run()
    life.extend(graph_of([()]), 1.0)
    life.cancel("enough", 2.0)
    assert not life.is_open
    assert life.status == RUN_CANCELLED
