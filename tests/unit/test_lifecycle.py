"""The life of a run, event by event."""

from __future__ import annotations

import pytest

from helpers.lives import assign, fail, kinds, start, succeed
from helpers.samples import graph_of, spec
from pfw.asides import INPUTS_BYTES
from pfw.facts import (
    BACKOFF,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_INPUT,
    FACT_PRINTED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FAILED,
    READY,
    RUN_FAILED,
    RUN_RUNNING,
    RUN_SUCCEEDED,
    SKIPPED,
    SUCCEEDED,
    Fact,
)
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO
from pfw.lifecycle import CRASH_LIMIT, LOSS_LIMIT, ReadyQueue, RunLife
from pfw.printed import LOG_BYTES

DIAMOND = ((), (0,), (0,), (1, 2))


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_of_too_much_that_was_printed_the_oldest_is_dropped() -> None:
    life = start(graph_of([(), ()]))
    assign(life)
    half = b"." * (LOG_BYTES // 2)
    life.on_printed(0, 1, b"first", 1.0)
    life.on_printed(0, 1, b"", 1.0)
    life.on_printed(1, 1, half, 1.0)
    life.on_printed(1, 1, half, 1.0)
    assert [fact.payload for fact in list(life.facts)[1:]] == [b"", half, half]
    assert kinds(life) == [(FACT_RUN_STARTED, 0), (FACT_PRINTED, 0), (FACT_PRINTED, 1), (FACT_PRINTED, 1)]
    succeed(life, 0)
    succeed(life, 1)
    life.on_printed(1, 1, b"after the end", 2.0)
    assert list(life.facts)[-1].kind == FACT_FINISHED


def test_an_open_run_forgets_what_was_printed_and_read() -> None:
    life = start(graph_of([()]), is_open=True)
    assign(life)
    text = b"." * (LOG_BYTES // 2 + 1)
    life.on_printed(0, 1, text, 1.0)
    life.release(2)
    life.on_printed(0, 1, text, 1.0)
    life.on_printed(0, 1, b"last", 1.0)
    assert [fact.payload for fact in life.facts] == [text, b"last"]


# -- what a failed step was called with --------------------------------------------------------------------------------


def given(life: RunLife) -> list[tuple[int, bytes]]:
    return [(fact.step, fact.payload) for fact in life.facts if fact.kind == FACT_INPUT]


def test_the_inputs_of_a_failed_step_are_told_once_and_before_its_end() -> None:
    life = start(graph_of([(), (), (0, 1), (0,), (1,)]), on_failure="continue", keep=(1,))
    assign(life)
    succeed(life, 0)
    succeed(life, 1)
    assign(life)
    fail(life, 2)
    assert given(life) == [(0, b"out 0")], "1 is kept, so the caller has it"
    fail(life, 3)
    fail(life, 4)
    assert given(life) == [(0, b"out 0")]
    assert [fact.kind for fact in list(life.facts)[-5:-2]] == [FACT_INPUT, FACT_FAILED, FACT_FAILED]


def test_a_retry_tells_no_inputs() -> None:
    life = start(graph_of([(), (0,)], specs=[spec(retries=1)]))
    assign(life)
    succeed(life, 0)
    assign(life)
    fail(life, 1, is_retryable=True)
    assert given(life) == []


def test_of_too_large_inputs_none_are_told() -> None:
    life = start(graph_of([(), (), (0, 1), (1,)]), on_failure="continue")
    assign(life)
    life.on_succeeded(0, 1, 1.0, 0.5, bytes(INPUTS_BYTES), 1.0)
    succeed(life, 1)
    assign(life)
    fail(life, 2)
    assert given(life) == []
    fail(life, 3)
    assert given(life) == [(1, b"out 1")]


# -- the order of things -----------------------------------------------------------------------------------------------


def test_a_diamond_runs_in_the_order_of_its_edges() -> None:
    life = start(graph_of(DIAMOND), keep=(3,))
    assert assign(life) == [0]
    succeed(life, 0)
    assert assign(life) == [1, 2]
    succeed(life, 2)
    assert assign(life) == []
    succeed(life, 1)
    assert assign(life) == [3]
    assert life.status == RUN_RUNNING
    succeed(life, 3)
    assert life.status == RUN_SUCCEEDED
    assert list(life.states) == [SUCCEEDED] * 4
    assert kinds(life) == [
        (FACT_RUN_STARTED, 0), (FACT_SUCCEEDED, 0), (FACT_SUCCEEDED, 2), (FACT_SUCCEEDED, 1), (FACT_SUCCEEDED, 3),
        (FACT_FINISHED, 0),
    ]  # fmt: skip


def test_a_fact_says_everything_about_an_attempt() -> None:
    life = start(graph_of([()]), now=10.0, keep=(0,))
    assign(life)
    life.on_succeeded(0, 7, 10.5, 0.25, b"out", 11.0)
    assert list(life.facts) == [
        Fact(FACT_RUN_STARTED, 0, 10.0, 0, 0, 10.0, 10.0, 0.0, b""),
        Fact(FACT_SUCCEEDED, 0, 11.0, 1, 7, 10.0, 10.5, 0.25, b"out"),
        Fact(FACT_FINISHED, 0, 11.0, RUN_SUCCEEDED, 0, 11.0, 11.0, 0.0, b""),
    ]


def test_the_critical_path_goes_first() -> None:
    life = start(graph_of([(), (), (), (1,), (3,)]))
    assert assign(life) == [1, 0, 2]


def test_equal_ranks_are_served_in_the_order_of_their_coming() -> None:
    queue = ReadyQueue()
    for step, rank in ((1, 0), (2, 5), (3, 0), (4, 5)):
        queue.push(step, rank)
    assert queue.count == 4
    queue.extend([5, 6, 7], 0)
    assert queue.count == 7
    assert list(queue.heads()) == [2, 4]
    assert [queue.take() for _ in range(3)] == [[2], [4], [1]]
    assert list(queue.heads()) == [3, 5, 6, 7]
    assert queue.take(3) == [3, 5, 6]
    assert queue.count == 1
    assert queue.take() == [7]
    with pytest.raises(IndexError):
        queue.take()
    ranks = [3, 9, 1, 7, 2, 8, 3, 0, 9]
    for rank in ranks:
        queue.push(rank, rank)
    assert [queue.take()[0] for _ in ranks] == sorted(ranks, reverse=True)


def test_each_lane_has_its_own_queue() -> None:
    specs = [spec(LANE_CPU), spec(LANE_IO), spec(LANE_ASYNC)]
    life = start(graph_of([(), (), ()], specs=specs))
    assert [assign(life, lane) for lane in (LANE_ASYNC, LANE_IO, LANE_CPU)] == [[2], [1], [0]]


def test_sequential_mode_has_one_queue_in_kahns_order() -> None:
    life = start(graph_of([(), (), (0,)], specs=[spec(LANE_IO), spec(LANE_CPU), spec(LANE_ASYNC)]), mode="sequential")
    assert assign(life) == [0, 1]
    succeed(life, 0)
    assert assign(life) == [2]


@pytest.mark.parametrize("mode", ["parallel", "waves", "sequential"])
def test_a_priority_counts_more_than_any_path_and_comes_before_kahns_order(mode: str) -> None:
    urgent = spec()._replace(priority=1)
    life = start(graph_of([(), (), (), (1,)], specs=[spec(), spec(), urgent, spec()]), mode=mode)
    assert assign(life) == ([2, 1, 0] if mode == "parallel" else [2, 0, 1])


def test_a_repeated_edge_counts_once() -> None:
    life = start(graph_of([(), (0, 0)], after=[(), (0,)]))
    assign(life)
    succeed(life, 0)
    assert assign(life) == [1]
    succeed(life, 1)
    assert life.status == RUN_SUCCEEDED
    assert life.outputs == [None, None]


def test_a_long_chain_and_a_wide_fan_need_no_recursion() -> None:
    size = 50_000
    life = start(graph_of([(), *((0,) for _ in range(size)), tuple(range(1, size + 1))]), on_failure="continue")
    assign(life)
    fail(life, 0)
    assert life.status == RUN_FAILED
    chain = start(graph_of([(), *((step,) for step in range(size))]))
    assign(chain)
    fail(chain, 0)
    assert chain.states.count(SKIPPED) == size


# -- outputs -----------------------------------------------------------------------------------------------------------


def test_an_output_stays_until_its_last_consumer_has_ended() -> None:
    life = start(graph_of([(), (0,), (0,), ()], after=[(), (), (), (0,)]))
    assign(life)
    succeed(life, 0)
    assert life.outputs[0] == b"out 0"
    assign(life)
    succeed(life, 1)
    assert life.outputs[0] == b"out 0"
    fail(life, 2)
    assert life.outputs[0] is None
    assert life.is_released(0)


def test_only_kept_outputs_are_in_the_facts() -> None:
    life = start(graph_of([(), (0,)]), keep=(1,))
    for step in (0, 1):
        assign(life)
        succeed(life, step)
    assert [fact.payload for fact in life.facts if fact.kind == FACT_SUCCEEDED] == [b"", b"out 1"]


def test_keep_all_keeps_all() -> None:
    life = start(graph_of([(), (0,)]), keep_all=True)
    for step in (0, 1):
        assign(life)
        succeed(life, step)
    assert [fact.payload for fact in life.facts if fact.kind == FACT_SUCCEEDED] == [b"out 0", b"out 1"]


def test_calls_of_ended_steps_are_freed() -> None:
    life = start(graph_of([(), ()]))
    assign(life)
    succeed(life, 0)
    assert life.graph.calls == [b"", b"call 1"]


# -- retries, crashes, losses ------------------------------------------------------------------------------------------


def test_a_retryable_error_waits_for_its_backoff() -> None:
    life = start(graph_of([()], specs=[spec(retries=2, backoff=0.5)]))
    assign(life)
    fail(life, 0, 1.0, is_retryable=True)
    assert list(life.states) == [BACKOFF]
    assert life.wake_at() == 1.5
    life.on_time(1.49)
    assert list(life.states) == [BACKOFF]
    life.on_time(1.5)
    assert assign(life) == [0]
    assert life.attempts == [2]
    fail(life, 0, 2.0, is_retryable=True)
    assert life.wake_at() == 3.0
    life.on_time(3.0)
    assign(life)
    fail(life, 0, 4.0, is_retryable=True)
    assert life.status == RUN_FAILED
    assert [(fact.kind, fact.attempt) for fact in list(life.facts)[1:-1]] == [
        (FACT_RETRYING, 1), (FACT_RETRYING, 2), (FACT_FAILED, 3),
    ]  # fmt: skip


def test_an_error_that_is_not_retryable_is_final() -> None:
    life = start(graph_of([()], specs=[spec(retries=5)]))
    assign(life)
    fail(life, 0)
    assert list(life.states) == [FAILED]


def test_the_delay_grows_up_to_its_bound_and_never_overflows() -> None:
    life = start(graph_of([()], specs=[spec(retries=9, backoff=1.0)]))
    assert [life.backoff_s(0, retry) for retry in (1, 2, 3, 6, 5_000)] == [1.0, 2.0, 4.0, 30.0, 30.0]
    patient = start(graph_of([()], specs=[spec(backoff=0.0)]))
    assert [patient.backoff_s(0, retry) for retry in (1, 1_025, 5_000, 1_000_000)] == [0.0] * 4, "no delay stays none"


def test_jitter_is_a_share_that_the_seed_decides() -> None:
    graph = graph_of([(), ()], specs=[spec(backoff=8.0, jitter=1), spec(backoff=8.0, jitter=1)])
    lives = [RunLife(seed=seed) for seed in (b"a", b"a", b"b" * 100)]
    for life in lives:
        life.start(graph, 0.0)
    delays = [[life.backoff_s(step, retry) for step in (0, 1) for retry in (1, 2)] for life in lives]
    assert delays[0] == delays[1] != delays[2]
    assert len(set(delays[0])) == 4
    assert all(0 <= delay <= 16.0 for delay in delays[0])


@pytest.mark.parametrize(("what", "limit"), [("crashed", CRASH_LIMIT), ("lost", LOSS_LIMIT)])
def test_crashes_and_losses_have_budgets_of_their_own(what: str, limit: int) -> None:
    life = start(graph_of([()]))

    def end_badly() -> None:
        assert assign(life) == [0]
        if what == "crashed":
            life.on_crashed(0, 1, 1.0, 0.5, b"why", 1.0)
        else:
            life.on_lost(0, 1, b"why", 1.0)

    for _ in range(limit - 1):
        end_badly()
        assert list(life.states) == [READY], "without a backoff"
    end_badly()
    assert list(life.states) == [FAILED]
    assert [fact.kind for fact in list(life.facts)[1:-1]] == [FACT_RETRYING] * (limit - 1) + [FACT_FAILED]


def test_the_budgets_do_not_touch_each_other() -> None:
    life = start(graph_of([()], specs=[spec(retries=1, backoff=0.0)]))
    for end in ("crash", "loss", "crash", "loss", "error"):
        assert assign(life) == [0]
        if end == "crash":
            life.on_crashed(0, 1, 1.0, 0.5, b"", 1.0)
        elif end == "loss":
            life.on_lost(0, 1, b"", 1.0)
        else:
            fail(life, 0, is_retryable=True)
            life.on_time(1.0)
    assign(life)
    succeed(life, 0)
    assert life.status == RUN_SUCCEEDED
    assert list(life.facts)[-2].attempt == 6


def test_an_attempt_that_was_handed_back_was_none() -> None:
    life = start(graph_of([()]))
    assign(life)
    life.on_not_started(0, 1, 5.0)
    assert list(life.states) == [READY]
    assert life.queued_at == [5.0]
    assign(life)
    assert life.attempts == [1]
    assert len(life.facts) == 1
    life.on_started(0, 1, 6.0, 6.0)
    life.on_not_started(0, 1, 7.0)
    assign(life)
    life.on_started(0, 2, 8.0, 8.0)
    assert [fact.started_at for fact in list(life.facts)[1:]] == [6.0, 8.0], "each start is told"


def test_a_start_is_told_once_per_attempt() -> None:
    life = start(graph_of([()], specs=[spec(retries=1, backoff=0.0)]))
    life.on_started(0, 1, 0.5, 1.0)
    assert len(life.facts) == 1, "it is not assigned"
    assign(life)
    life.on_started(0, 1, 0.5, 1.0)
    life.on_started(0, 1, 0.6, 1.1)
    fail(life, 0, 2.0, is_retryable=True)
    life.on_time(2.0)
    assign(life)
    life.on_started(0, 1, 2.5, 3.0)
    assert [fact for fact in life.facts if fact.kind == FACT_STARTED] == [
        Fact(FACT_STARTED, 0, 1.0, 1, 1, 0.0, 0.5, 0.0, b""),
        Fact(FACT_STARTED, 0, 3.0, 2, 1, 2.0, 2.5, 0.0, b""),
    ]
