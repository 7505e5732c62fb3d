"""Steps that are sent along with the one they wait for: what the coordinator books, what counts, what a worker does."""

from __future__ import annotations

import pytest

from helpers.columns import Assigned, AssignRow
from helpers.coordinator_rig import CoordinatorRig, of_kind
from helpers.coordinator_rig import row as assigned
from helpers.samples import graph_of, spec
from helpers.worker_rig import WorkerRig, outcome, sent
from helpers.worker_rig import row as plain
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import (
    ASSIGNED,
    CANCELLED,
    FACT_RETRYING,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FAILED,
    READY,
    RUN_SUCCEEDED,
    SKIPPED,
    SUCCEEDED,
    WAITING,
)
from pfw.graph import LANE_CPU, Graph
from pfw_coordinator.ledger import AHEAD_BYTES, MAX_HELD, Run
from pfw_coordinator.placement import CHAIN_STEPS, CHAIN_US, plan_recall

CHAIN = graph_of([(), (0,), (1,)])


@pytest.fixture
def rig() -> CoordinatorRig:
    """A coordinator with one client and one worker, which knows how long the function takes: 100 µs."""
    rig = CoordinatorRig()
    rig.client()
    rig.join("a", cpu=2)
    learn(rig, 100)
    return rig


def learn(rig: CoordinatorRig, us: int) -> None:
    rig.submit(key=b"first", is_detached=1)
    rig.turn()
    rig.outcome("a", 1, us=us)
    rig.turn()


def steps_of(said: list[m.Message]) -> list[list[int]]:
    """The steps of each batch."""
    return [[row[2] for row in message.rows] for message in of_kind(said, Assigned)]


def begin(rig: CoordinatorRig, graph: Graph = CHAIN, **fields: int | str) -> tuple[Run, list[list[int]]]:
    """Submits; gives the run and the steps of each batch. Its attempts have numbers from 2 on."""
    run = rig.submit(graph._replace(), **fields)
    return run, steps_of(rig.turn().get("a", []))


def test_a_chain_goes_out_whole_and_each_step_gets_the_output_before_it(rig: CoordinatorRig) -> None:
    run = rig.submit(CHAIN)
    (batch,) = of_kind(rig.turn()["a"], Assigned)
    assert batch.rows == (
        assigned(2, 0, run=2, us=101), assigned(3, 1, (None,), run=2, us=101), assigned(4, 2, (None,), run=2, us=101)
    )  # fmt: skip
    assert rig.core.workers[b"a"].out[0] == 1, "those behind the first take no slot"
    rig.outcome("a", 2, 3, 4, us=100)
    assert run.life.status == RUN_SUCCEEDED
    ended = [fact for fact in run.life.facts if fact.kind == FACT_SUCCEEDED]
    assert [fact.step for fact in ended] == [0, 1, 2]
    assert all(fact.queued_at <= fact.started_at for fact in ended)
    assert ended[1].queued_at == pytest.approx(ended[0].started_at + ended[0].run_s)


@pytest.mark.parametrize(
    ("graph", "together"),
    [
        (graph_of([(), (0,), (0,)]), [0]),
        (graph_of([(), (), (0, 1)]), [0, 1]),
        (graph_of([(), ()], after=[(), (0,)]), [0]),
        (graph_of([(), (0,)], specs=[spec(), spec(lane=1)]), [0]),
        (graph_of([(), (0,)], specs=[spec(), spec(heavy=1)]), [0]),
        (graph_of([(), (0,)], specs=[spec(heavy=1), spec()]), [0]),
        (graph_of([(), (0,)], specs=[spec(), spec()._replace(run_if=1)]), [0]),
        (graph_of([(), (0,)], specs=[spec(), spec()._replace(timeout=1.0)]), [0]),
        (graph_of([(), (0,)], specs=[spec(), spec()._replace(reruns=0)]), [0]),
        (graph_of([(), (0,)], specs=[spec(), spec()._replace(needs=(("gpu", 1),))]), [0]),
    ],
    ids=["fork", "join", "order", "lane", "heavy", "heavy first", "tolerant", "timeout", "once", "needs"],
)
def test_only_plain_steps_that_wait_for_nothing_else_go_along(
    rig: CoordinatorRig, graph: Graph, together: list[int]
) -> None:
    assert begin(rig, graph)[1] == [together]


def test_in_waves_mode_none_goes_along(rig: CoordinatorRig) -> None:
    assert begin(rig, mode="waves")[1] == [[0]]


def test_steps_of_unknown_or_long_duration_go_alone() -> None:
    for us in (0, CHAIN_US):
        rig = CoordinatorRig()
        rig.client()
        rig.join("a")
        if us:
            learn(rig, us)
        assert begin(rig)[1] == [[0]]


def test_a_long_chain_goes_out_in_parts(rig: CoordinatorRig) -> None:
    graph = graph_of([(), *((step,) for step in range(2 * CHAIN_STEPS))])
    run, ((*first,),) = begin(rig, graph)
    assert first == list(range(CHAIN_US // 101))
    rig.outcome("a", *range(2, 2 + len(first)), us=5)
    ((*second,),) = steps_of(rig.turn()["a"])
    assert second[0] == len(first)
    assert run.life.states[: len(first)] == bytes([SUCCEEDED]) * len(first)


def test_after_an_error_what_was_sent_along_is_skipped(rig: CoordinatorRig) -> None:
    run, _ = begin(rig)
    rig.outcome("a", 2, code=oc.ERROR)
    rig.turn()
    assert list(run.life.states) == [FAILED, SKIPPED, SKIPPED]
    rig.outcome("a", 3, 4, code=oc.NOT_STARTED)
    assert list(run.life.attempts) == [1, 0, 0]
    assert not rig.core.workers[b"a"].attempts


def test_after_a_retryable_error_what_was_sent_along_waits_again(rig: CoordinatorRig) -> None:
    run, _ = begin(rig, graph_of([(), (0,), (1,)], specs=[spec(retries=1)] * 3))
    rig.outcome("a", 2, code=oc.RETRYABLE)
    assert list(run.life.states[1:]) == [WAITING, WAITING]
    rig.turn()
    rig.sleep(1.0)
    assert list(run.life.states) == [ASSIGNED] * 3, "and goes along with the next attempt"


def test_an_outcome_counts_only_after_that_of_its_input(rig: CoordinatorRig) -> None:
    run, _ = begin(rig)
    rig.outcome("a", 3, number=9, us=100)
    rig.turn()
    assert list(run.life.states) == [ASSIGNED, WAITING, WAITING]
    rig.outcome("a", 2, number=2, us=100)
    ((*again,),) = steps_of(rig.turn()["a"])
    assert again == [1, 2]


def test_a_crash_is_charged_to_its_step_though_its_input_is_made_again(rig: CoordinatorRig) -> None:
    run, _ = begin(rig)
    rig.outcome("a", 3, code=oc.CRASHED)
    assert list(run.life.states) == [ASSIGNED, WAITING, WAITING]
    assert [(fact.kind, fact.step) for fact in run.life.facts][-1] == (FACT_RETRYING, 1)
    rig.outcome("a", 2, us=100)
    assert steps_of(rig.turn()["a"]) == [[1, 2]]
    assert run.life._crashes == {1: 1}


def test_a_step_that_has_crashed_goes_alone(rig: CoordinatorRig) -> None:
    begin(rig)
    rig.outcome("a", 3, code=oc.CRASHED)
    rig.outcome("a", 2, code=oc.NOT_STARTED)
    assert steps_of(rig.turn()["a"]) == [[0]]


def test_the_loss_of_a_worker_is_charged_to_the_first_step_only(rig: CoordinatorRig) -> None:
    run, _ = begin(rig)
    rig.core._lose(rig.core.workers[b"a"], "it is gone", rig.now)
    assert list(run.life.states) == [READY, WAITING, WAITING]
    assert run.life._losses == {0: 1}


def test_the_middle_of_a_cancelled_chain_may_report_first(rig: CoordinatorRig) -> None:
    """It takes the slot that its head has not given back: a worker that is full has no credit then."""
    _, batches = begin(rig, CHAIN._replace(calls=[bytes(2 * AHEAD_BYTES + 1), *CHAIN.calls[1:]]))
    assert batches == [[0, 1, 2]]
    worker = rig.core.workers[b"a"]
    assert worker.has_credit(LANE_CPU), "a slot idles"
    rig.core.on_cancel_run(b"client", m.CancelRun(2, "enough", 0), rig.now)
    rig.turn()
    rig.outcome("a", 3, code=oc.STOPPED)
    assert not worker.has_credit(LANE_CPU), "head and tail may be in two slots"
    assert worker not in rig.core._credit[LANE_CPU]
    rig.turn()


def test_of_a_cancelled_run_each_attempt_says_how_it_ended(rig: CoordinatorRig) -> None:
    run, _ = begin(rig)
    rig.core.on_cancel_run(b"client", m.CancelRun(2, "enough", 0), rig.now)
    rig.turn()
    rig.outcome("a", 2, 3, code=oc.KILLED)
    rig.outcome("a", 4, code=oc.NOT_STARTED)
    assert list(run.life.states) == [CANCELLED] * 3
    assert list(run.life.attempts) == [1, 1, 0]


def test_a_lost_batch_is_sent_again_with_what_is_known_by_then(rig: CoordinatorRig) -> None:
    begin(rig)
    rig.heartbeat("a", 2)
    (again,) = of_kind(rig.turn()["a"], Assigned)
    assert [(row[0], row[9]) for row in again.rows] == [(2, ()), (3, (None,)), (4, (None,))]


def lines(count: int, length: int) -> Graph:
    """So many chains side by side."""
    return graph_of([(step - count,) if step >= count else () for step in range(count * length)])


def test_chains_side_by_side_keep_to_what_a_worker_may_hold(rig: CoordinatorRig) -> None:
    begin(rig, lines(2_000, 10))
    worker = rig.core.workers[b"a"]
    assert worker.ahead
    assert len(worker.attempts) <= MAX_HELD
    assert worker.queued_us[0] <= 2 * worker.target_us[0] + CHAIN_US


def test_each_of_many_slots_has_its_chain() -> None:
    rig = CoordinatorRig()
    rig.client()
    rig.join("a", cpu=64)
    learn(rig, 1)
    begin(rig, lines(64, 200))
    worker = rig.core.workers[b"a"]
    assert worker.out[0] == 64
    assert len(worker.attempts) == MAX_HELD


def test_of_chains_the_first_steps_are_asked_back(rig: CoordinatorRig) -> None:
    begin(rig, lines(6, 20))
    worker = rig.core.workers[b"a"]
    rig.join("b", cpu=2)
    rig.turn(rig.now + 1.0)
    asked = [
        number for _, attempts in plan_recall(0, rig.core.workers.values(), rig.now + 1.0).requests
        for number in attempts
    ]  # fmt: skip
    assert asked
    assert not worker.ahead.intersection(asked)


def test_of_what_follows_nothing_is_heard_before_its_input(rig: CoordinatorRig) -> None:
    run, _ = begin(rig)
    rig.core.on_notes(b"a", m.Notes(((3, int(rig.now * 1e6)),)), rig.now)
    assert FACT_STARTED not in [fact.kind for fact in run.life.facts]


# -- at a worker -------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker() -> WorkerRig:
    """A worker with one CPU slot that is ready."""
    return WorkerRig().join()


def link(attempt: int, *, run: int = 1, us: int = 100) -> AssignRow:
    """A row that gets the output of the one before."""
    return (*plain(attempt, run=run, us=us)[:9], (None,))


def sent_link(attempt: int) -> tuple[object, ...]:
    return (*sent(attempt, short=1)[:7], (None,))


def test_a_chain_goes_to_one_slot_in_one_message(worker: WorkerRig) -> None:
    worker.assign(plain(1, us=100), link(2), link(3), plain(4, us=1_900))
    assert worker.turn()["to_slots"] == [
        (1, [[(0, b"fn 0")], [], [sent(1, short=1), sent_link(2), sent_link(3)]]),
    ]
    worker.end(1, 1, 2, 3)
    assert worker.turn()["to_slots"] == [(1, [[], [], [sent(4, short=1)]])]


@pytest.mark.parametrize("rows", [(link(2),), (plain(1, us=100), link(3)), (link(2), link(3))])
def test_a_follower_without_the_one_before_goes_back(worker: WorkerRig, rows: tuple[AssignRow, ...]) -> None:
    worker.assign(*rows)
    links = [row[0] for row in rows if None in row[9]]
    box = worker.turn()
    assert box["messages"] == [worker.outcomes(*(outcome(number, oc.NOT_STARTED) for number in links))]


def test_what_is_wanted_elsewhere_goes_back_with_what_follows_it(worker: WorkerRig) -> None:
    worker.assign(plain(1), plain(2, us=100), link(3), link(4))
    worker.turn()
    worker.core.on_give_back(m.GiveBack((3,)), worker.now)
    assert worker.turn() == {}
    worker.core.on_give_back(m.GiveBack((2,)), worker.now)
    assert worker.turn()["messages"] == [worker.outcomes(*(outcome(number, oc.NOT_STARTED) for number in (3, 4, 2)))]


def test_a_chain_is_cut_where_an_attempt_is_dropped(worker: WorkerRig) -> None:
    worker.assign(plain(1), plain(2, us=100), link(3), link(4), link(5))
    worker.turn()
    worker.core.on_reply(m.Reply(0, 0, (4,)), worker.now)
    assert worker.turn()["messages"] == [worker.outcomes(outcome(5, oc.NOT_STARTED))]
    worker.end(1, 1)
    ((_, message),) = worker.turn()["to_slots"]
    assert message[2] == [sent(2, short=1), sent_link(3)]


def test_unread_chains_are_taken_back_whole(worker: WorkerRig) -> None:
    worker.assign(plain(1, us=100), link(2), link(3))
    ((_, message),) = worker.turn()["to_slots"]
    worker.recalled(1, message)
    ((_, again),) = worker.turn()["to_slots"]
    assert again[2] == message[2]


def test_a_chain_alone_in_its_slot_stays_there() -> None:
    worker = WorkerRig(cpu=2).join()
    worker.assign(plain(1, us=1_900), link(2, us=1_900), link(3, us=1_900))
    assert list(worker.turn()) == ["to_slots"]  # taken back it would be no better off in the slot that idles
    assert worker.turn() == {}


def test_after_a_crash_what_came_before_is_run_again_and_what_follows_goes_back(worker: WorkerRig) -> None:
    worker.assign(plain(1, us=100), link(2), link(3))
    worker.turn()
    worker.core.on_slot_died(1, 2, 100_000_000, 11, 0, worker.now)
    (message,) = worker.turn()["messages"]
    assert [(row[0], row[1]) for row in message.rows] == [(2, oc.CRASHED), (3, oc.NOT_STARTED)]
    worker.core.on_slot_ready(2, worker.now)
    ((_, again),) = worker.turn()["to_slots"]
    assert again[2] == [sent(1, short=1)]


def test_a_chain_of_a_cancelled_run_goes_back_whole(worker: WorkerRig) -> None:
    worker.assign(plain(1), plain(2, run=2, us=100), link(3, run=2))
    worker.turn()
    worker.core.on_cancels(m.Cancels(0, 1, (2,)), worker.now)
    (message,) = worker.turn()["messages"]
    assert {(row[0], row[1]) for row in message.rows} == {(2, oc.NOT_STARTED), (3, oc.NOT_STARTED)}


def test_a_follower_that_lasts_is_told_of_after_the_outcome_that_it_was_given(worker: WorkerRig) -> None:
    rest = [plain(number, us=9_000) for number in range(20, 60)]  # so that outcomes wait for company
    worker.assign(plain(7, us=100), link(8), plain(9, us=100), *rest)
    worker.turn()
    worker.now += 0.06
    worker.end(1, 7)
    worker.look(slot1=8)
    assert not any(isinstance(message, m.Notes) for message in worker.turn().get("messages", []))
    worker.now += 0.06
    worker.turn()
    worker.look(slot1=8)
    assert worker.turn()["messages"] == [m.Notes(((8, 100_000_000),))]
