"""Which ready step goes to which worker, and what is taken back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from helpers.samples import graph_of, spec
from pfw.graph import LANE_CPU, LANE_IO, Spec
from pfw.lifecycle import RunLife
from pfw_coordinator.ledger import (
    AHEAD_BYTES,
    DEEP_TARGET_US,
    FLOOR_US,
    LONG_US,
    MAX_HELD,
    TARGET_US,
    Attempt,
    Run,
    Worker,
)
from pfw_coordinator.placement import RECALL_AFTER_S, RECALL_EVERY_S, Recall, plan_recall, plan_return, plan_round

LONG, UNKNOWN = float(LONG_US), 0.0

#: As Placement, step by step.
Placed = tuple[Worker, Run, int, int]


def run_of(
    count: int, *, number: int = 1, priority: int = 0, one: Spec | None = None, function: int = 0, call: bytes = b"call"
) -> Run:
    """A run with so many independent steps, all ready."""
    life = RunLife()
    life.start(graph_of([()] * count, specs=[one or spec()])._replace(calls=[call] * count), 0.0)
    run = Run(number, f"run-{number}", "name", b"session", b"key", life)
    run.priority, run.functions = priority, [function]
    return run


def worker_of(number: int, cpu: int = 1, io: int = 1) -> Worker:
    return Worker(number, b"w%d" % number, f"worker-{number}", (cpu, io, 1), 0.0)


def place(
    runs: Sequence[Run], workers: Sequence[Worker], estimates_us: Sequence[float] = (UNKNOWN,), lane: int = LANE_CPU,
    *, is_alone: bool = False,
) -> list[Placed]:  # fmt: skip
    """A round, booked as the core books it."""
    placed: list[Placed] = []
    held = sum(len(worker.attempts) for worker in workers)
    for worker, run, steps, _, expected_us in plan_round(lane, runs, workers, estimates_us, is_alone=is_alone):
        assert worker.has_credit(lane)
        for step in steps:
            worker.add(held + len(placed), [Attempt(run, step, 0, lane, expected_us, 10, 1)], lane)
            placed.append((worker, run, step, expected_us))
    return placed


def free(worker: Worker, count: int) -> None:
    """The worker is through with so many of its attempts."""
    for number in list(worker.attempts)[:count]:
        worker.free(number, 0.0)


def counts(placed: Sequence[Placed]) -> dict[int, int]:
    return dict(Counter(worker.number for worker, _, _, _ in placed))


# -- idle slots --------------------------------------------------------------------------------------------------------


def test_each_idle_slot_gets_one_step_of_unknown_duration() -> None:
    run, workers = run_of(10), [worker_of(1, 2), worker_of(2, 3)]
    placed = place([run], workers)
    assert counts(placed) == {1: 2, 2: 3}
    assert [step for _, _, step, _ in placed] == list(range(5))
    assert {expected for _, _, _, expected in placed} == {TARGET_US}
    assert place([run], workers) == []
    assert run.life.ready[LANE_CPU].count == 5


def test_the_least_loaded_worker_is_first() -> None:
    workers = [worker_of(1, 4), worker_of(2, 2), worker_of(3, 1)]
    placed = place([run_of(4)], workers)
    assert [worker.number for worker, _, _, _ in placed] == [1, 2, 3, 1]


def test_runs_take_turns() -> None:
    runs = [run_of(5, number=1), run_of(1, number=2), run_of(5, number=3)]
    placed = place(runs, [worker_of(1, 7)])
    assert [run.number for _, run, _, _ in placed] == [1, 2, 3, 1, 3, 1, 3]


def test_a_higher_priority_goes_first() -> None:
    runs = [run_of(2, number=1), run_of(2, number=2, priority=3), run_of(2, number=3, priority=7)]
    placed = place(runs, [worker_of(1, 5)])
    assert [run.number for _, run, _, _ in placed] == [3, 3, 2, 2, 1]


def test_only_steps_of_the_lane_are_placed() -> None:
    run = run_of(2, one=spec(LANE_IO))
    worker = worker_of(1, 2, 1)
    assert place([run], [worker]) == []
    assert counts(place([run], [worker], lane=LANE_IO)) == {1: 1}


def test_a_worker_without_slots_in_the_lane_gets_nothing() -> None:
    assert place([run_of(3)], [worker_of(1, 0)]) == []
    assert place([run_of(3)], [worker_of(1, 0)], [5.0]) == []


# -- sent ahead --------------------------------------------------------------------------------------------------------


def test_short_steps_are_sent_ahead_up_to_the_target_for_each_slot() -> None:
    placed = place([run_of(500)], [worker_of(1, 2)], [100.0])
    assert counts(placed) == {1: 2 * TARGET_US // 100}
    many = place([run_of(9_000)], [worker_of(1, 2)], [100.0])
    assert counts(many) == {1: min(MAX_HELD, 2 * DEEP_TARGET_US // 100)}, "more where much more is ready"
    assert {expected for _, _, _, expected in placed} == {100}


@pytest.mark.parametrize(
    ("lane", "is_alone", "expected"), [(LANE_CPU, True, 1_000), (LANE_CPU, False, 200), (LANE_IO, True, 20)]
)
def test_a_worker_that_is_alone_is_sent_all_that_it_may_have(lane: int, is_alone: bool, expected: int) -> None:
    run = run_of(2_000, one=spec(lane=lane))
    assert len(place([run], [worker_of(1)], [1_000.0], lane, is_alone=is_alone)) == expected


def test_every_worker_is_sent_its_share() -> None:
    workers = [worker_of(1), worker_of(2), worker_of(3)]
    assert counts(place([run_of(30)], workers, [100.0])) == {1: 10, 2: 10, 3: 10}


def test_a_worker_that_is_full_leaves_the_rest_to_the_others() -> None:
    workers = [worker_of(1), worker_of(2), worker_of(3)]
    assert counts(place([run_of(1_000)], workers, [100.0])) == dict.fromkeys((1, 2, 3), TARGET_US // 100)


def test_short_steps_of_one_run_do_not_keep_the_slots_from_another() -> None:
    """While a step waits that cannot be sent ahead, a worker gets more only when a slot of it idles."""
    short, other, worker = run_of(5_000), run_of(2, number=2, function=1), worker_of(1, 2)
    assert len(place([short], [worker], [1_000.0, UNKNOWN])) == 2 * DEEP_TARGET_US // 1_000
    free(worker, 100)
    assert place([short, other], [worker], [1_000.0, UNKNOWN]) == []
    ((returned_by, attempts),) = plan_return(LANE_CPU, [worker])
    assert (returned_by, len(attempts)) == (worker, len(worker.attempts) - 2 * TARGET_US // 1_000)
    assert attempts == sorted(attempts, reverse=True)
    free(worker, len(worker.attempts) - 1)
    placed = place([other, short], [worker], [1_000.0, UNKNOWN])
    assert placed[0][1] is other
    assert 1 < len(placed) <= 2 * TARGET_US // 1_000


def test_of_a_lower_priority_nothing_is_sent_ahead_of_what_waits_for_a_slot() -> None:
    short, other, worker = run_of(100), run_of(3, number=2, function=1, priority=1), worker_of(1, 2)
    placed = place([short, other], [worker], [1_000.0, UNKNOWN])
    assert [run for _, run, _, _ in placed] == [other, other]
    free(worker, 1)
    assert place([short, other], [worker], [1_000.0, UNKNOWN])[0][1] is other


def test_nothing_is_free() -> None:
    placed = place([run_of(6_000)], [worker_of(1)], [0.5 + FLOOR_US / 10])
    assert {expected for _, _, _, expected in placed} == {FLOOR_US}
    assert len(placed) == TARGET_US // FLOOR_US


@pytest.mark.parametrize("estimate", [UNKNOWN, LONG, 10 * LONG])
def test_steps_that_are_long_or_unknown_are_not_sent_ahead(estimate: float) -> None:
    assert counts(place([run_of(9)], [worker_of(1, 2)], [estimate])) == {1: 2}


def test_heavy_steps_are_not_sent_ahead() -> None:
    assert counts(place([run_of(9, one=spec(heavy=1))], [worker_of(1, 2)], [10.0])) == {1: 2}


def test_a_run_that_cannot_be_sent_ahead_does_not_hold_up_the_others() -> None:
    runs = [run_of(50, number=1, function=0), run_of(50, number=2, function=1)]
    placed = place(runs, [worker_of(1, 2)], [UNKNOWN, 100.0])
    assert Counter(run.number for _, run, _, _ in placed) == {1: 1, 2: 50}


def test_no_worker_holds_more_than_the_limit() -> None:
    worker = worker_of(1, 1_000)
    place([run_of(10_000)], [worker], [10.0])
    assert len(worker.attempts) == MAX_HELD
    assert worker.room_us(LANE_CPU) == 0


def test_large_inputs_are_not_sent_ahead() -> None:
    worker = worker_of(1)
    worker.add(0, [Attempt(run_of(1), 0, 0, LANE_CPU, 10, AHEAD_BYTES + 1, 1)], LANE_CPU)
    assert not worker.has_credit(LANE_CPU)
    assert worker.has_credit(LANE_IO)


def test_steps_are_sent_ahead_together_as_long_as_they_are_alike_and_find_room() -> None:
    """Each placement is of one function and one spec; the order of the queue is kept."""
    life = RunLife()
    graph = graph_of([()] * 8, specs=[spec(), spec(retries=1)])
    graph.function_of[:] = [0, 0, 0, 1, 1, 0, 0, 0]
    graph.spec_of[:] = [0, 0, 0, 0, 0, 0, 1, 1]
    life.start(graph, 0.0)
    run = Run(1, "run-1", "name", b"session", b"key", life)
    run.functions = [0, 1]
    worker, number, groups = worker_of(1), 0, []
    for _, _, steps, _, expected_us in plan_round(LANE_CPU, [run], [worker], [10.0, 20.0]):
        groups.append((list(steps), expected_us))
        worker.add(number + steps[0], [Attempt(run, step, 0, LANE_CPU, expected_us, 10, 1) for step in steps], LANE_CPU)
    assert groups == [([0], 10), ([1, 2], 10), ([3, 4], 20), ([5], 10), ([6, 7], 10)]


def test_no_more_is_sent_ahead_once_calls_and_inputs_fill_a_megabyte() -> None:
    run, worker = run_of(9, call=bytes(AHEAD_BYTES // 2)), worker_of(1)
    placed = []
    for _, _, steps, _, expected_us in plan_round(LANE_CPU, [run], [worker], [10.0]):
        placed += steps
        size = AHEAD_BYTES // 2
        worker.add(steps[0], [Attempt(run, step, 0, LANE_CPU, expected_us, size, 1) for step in steps], LANE_CPU)
    assert placed == [0, 1, 2]


# -- credit ------------------------------------------------------------------------------------------------------------


def test_a_ledger_counts_what_goes_in_and_out() -> None:
    worker, run = worker_of(1, 2), run_of(1)
    worker.add(5, [Attempt(run, 0, 0, LANE_CPU, 100, 7, 1)], LANE_CPU)
    assert (worker.out, worker.queued_us, worker.out_bytes) == ([1, 0, 0], [100, 0, 0], 7)
    assert worker.free(6, 1.0) is None
    assert worker.free(5, 1.0) == Attempt(run, 0, 0, LANE_CPU, 100, 7, 1)
    assert worker.free(5, 1.0) is None
    assert (worker.out, worker.queued_us, worker.out_bytes) == ([0, 0, 0], [0, 0, 0], 0)


@pytest.mark.parametrize("mark", ["is_suspect", "is_leaving"])
def test_who_is_suspect_or_leaves_has_no_credit(mark: str) -> None:
    worker = worker_of(1, 2)
    assert worker.has_credit(LANE_CPU)
    setattr(worker, mark, True)
    assert not worker.has_credit(LANE_CPU)


def test_a_lane_is_idle_since_its_first_slot_was_freed() -> None:
    worker, run = worker_of(1, 2), run_of(1)
    for number in (1, 2):
        worker.add(number, [Attempt(run, 0, 0, LANE_CPU, 100, 0, 1)], LANE_CPU)
    worker.free(1, 5.0)
    worker.free(2, 6.0)
    assert worker.idle_since[LANE_CPU] == 5.0


# -- taking back -------------------------------------------------------------------------------------------------------


def loaded(number: int, held: int, cpu: int = 1) -> Worker:
    worker, run = worker_of(number, cpu), run_of(1)
    for attempt in range(held):
        worker.add(100 * number + attempt, [Attempt(run, 0, 0, LANE_CPU, 100, 0, 1)], LANE_CPU)
    return worker


NOTHING = Recall([], None)


def test_half_of_the_excess_is_taken_back_latest_first() -> None:
    donor = loaded(1, 6)
    recall = plan_recall(LANE_CPU, [donor, loaded(2, 0)], 1.0)
    assert recall == Recall([(donor, [103, 104, 105])], 1.0 + RECALL_EVERY_S)


def test_the_same_worker_is_not_asked_again_at_once() -> None:
    donor, idle = loaded(1, 6), loaded(2, 0)
    assert plan_recall(LANE_CPU, [donor, idle], 1.0).requests
    assert plan_recall(LANE_CPU, [donor, idle], 1.0 + RECALL_EVERY_S / 2) == Recall([], 1.0 + RECALL_EVERY_S)
    assert plan_recall(LANE_CPU, [donor, idle], 1.0 + RECALL_EVERY_S * 1.01).requests


def test_the_worker_with_the_most_gives() -> None:
    donor = loaded(2, 4)
    assert plan_recall(LANE_CPU, [loaded(1, 2), donor, loaded(3, 0)], 1.0).requests == [(donor, [202, 203])]


def test_what_runs_is_not_taken_back() -> None:
    assert plan_recall(LANE_CPU, [loaded(1, 2, cpu=2), loaded(2, 0)], 1.0) == NOTHING


def test_a_slot_must_have_idled_for_a_while() -> None:
    donor, idle = loaded(1, 6), loaded(2, 0)
    idle.idle_since = [1.0] * 3
    assert plan_recall(LANE_CPU, [donor, idle], 1.0 + RECALL_AFTER_S / 2) == Recall([], 1.0 + RECALL_AFTER_S)
    assert plan_recall(LANE_CPU, [donor, idle], 1.0 + RECALL_AFTER_S * 1.01).requests


@pytest.mark.parametrize("mark", ["is_suspect", "is_leaving"])
def test_nothing_is_taken_back_for_a_worker_that_may_get_nothing(mark: str) -> None:
    donor, idle = loaded(1, 6), loaded(2, 0)
    setattr(idle, mark, True)
    assert plan_recall(LANE_CPU, [donor, idle], 1.0) == NOTHING


def test_a_worker_alone_gives_to_nobody() -> None:
    assert plan_recall(LANE_CPU, [], 1.0) == NOTHING
    assert plan_recall(LANE_CPU, [loaded(1, 6)], 1.0) == NOTHING
    assert plan_recall(LANE_CPU, [loaded(1, 6), loaded(2, 1)], 1.0) == NOTHING
    assert plan_recall(LANE_IO, [loaded(1, 6), loaded(2, 0)], 1.0) == NOTHING


# -- retries -----------------------------------------------------------------------------------------------------------


def failed_on(run: Run, step: int, worker: int) -> None:
    """The step was tried on this worker and is ready again."""
    life = run.life
    life.ready[LANE_CPU].take()
    life.on_assigned(step)
    life.on_failed(step, worker, 0.0, 0.0, b"why", True, 0.0)
    life.on_time(100.0)


def test_a_retry_goes_to_another_worker_if_one_has_an_idle_slot() -> None:
    run, workers = run_of(1, one=spec(retries=5)), [worker_of(1, 4), worker_of(2), worker_of(3)]
    workers[2].add(99, [Attempt(run, 9, 0, LANE_CPU, 1, 1, 1)], LANE_CPU)
    failed_on(run, 0, 1)
    assert [worker.number for worker, _, _, _ in place([run], workers)] == [2], "although 1 has as little to do"


def test_a_retry_goes_to_the_same_worker_if_no_other_is_idle() -> None:
    run, workers = run_of(1, one=spec(retries=5)), [worker_of(1), worker_of(2)]
    failed_on(run, 0, 1)
    place([run_of(1, number=2)], workers[1:])
    assert [worker.number for worker, _, _, _ in place([run], workers)] == [1]


def test_the_worker_that_a_retry_avoids_gets_the_next_step() -> None:
    run, workers = run_of(3, one=spec(retries=5)), [worker_of(1), worker_of(2), worker_of(3)]
    failed_on(run, 0, 1)
    # The retry comes last in its queue: two others are placed before it.
    assert [(worker.number, step) for worker, _, step, _ in place([run], workers)] == [(1, 1), (2, 2), (3, 0)]
    again, workers = run_of(2, one=spec(retries=5)), [worker_of(1), worker_of(2)]
    failed_on(again, 0, 1)
    failed_on(again, 1, 1)
    assert [(worker.number, step) for worker, _, step, _ in place([again], workers)] == [(2, 0), (1, 1)]


def test_steps_that_may_be_begun_only_once_are_not_sent_ahead() -> None:
    assert len(place([run_of(10, one=spec(reruns=0))], [worker_of(1, 2)], (100.0,))) == 2
