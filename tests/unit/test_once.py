"""Steps with `rerun_on_loss=False`: never begun again where they may have been begun."""

from __future__ import annotations

import signal

import pytest

from helpers.columns import Assigned
from helpers.coordinator_rig import CoordinatorRig, assign, row
from helpers.lives import assign as hand_out
from helpers.lives import fail, kinds, start
from helpers.samples import graph_of, spec
from helpers.worker_rig import WorkerRig, sent
from helpers.worker_rig import row as worker_row
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import ASSIGNED, BACKOFF, FACT_FAILED, FACT_FINISHED, FAILED, READY, RUN_FAILED, SUCCEEDED
from pfw.failure import FAIL_LOST, Failure
from pfw.graph import LANE_ASYNC
from pfw_coordinator.core import LOST_S
from pfw_worker.core import COMPANY_S

ONCE = spec(retries=1, reruns=0)


# -- the lifecycle -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["crash", "loss"])
def test_the_first_loss_is_final(end: str) -> None:
    life = start(graph_of([()], specs=[ONCE]))
    hand_out(life)
    if end == "crash":
        life.on_crashed(0, 1, 1.0, 0.5, b"why", 1.0)
    else:
        life.on_lost(0, 1, b"why", 1.0)
    assert (list(life.states), life.status) == ([FAILED], RUN_FAILED)
    assert kinds(life)[1:] == [(FACT_FAILED, 0), (FACT_FINISHED, 0)]


def test_what_was_handed_back_or_has_failed_is_tried_again() -> None:
    life = start(graph_of([()], specs=[ONCE]))
    hand_out(life)
    life.on_not_started(0, 1, 1.0)
    assert list(life.states) == [READY]
    hand_out(life)
    fail(life, 0, is_retryable=True)
    assert list(life.states) == [BACKOFF]


# -- the coordinator ---------------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> CoordinatorRig:
    """A coordinator with a client and a worker with one CPU slot."""
    rig = CoordinatorRig()
    rig.client()
    rig.join("a", cpu=2)
    return rig


def test_a_worker_is_told_and_gets_no_estimate(rig: CoordinatorRig) -> None:
    first = rig.submit(graph_of([()]), key=b"1")
    rig.turn()
    rig.outcome("a", 1, us=100)
    rig.turn()
    run = rig.submit(graph_of([()], specs=[ONCE]), key=b"2")
    (message,) = (said for said in rig.turn()["a"] if isinstance(said, Assigned))
    assert message.rows == (row(2, run=run.number, function=message.rows[0][4]),)
    assert message.limits == ((2, 0, 1),)
    assert first.life.states[0] == SUCCEEDED


def test_the_loss_of_its_worker_fails_the_step(rig: CoordinatorRig) -> None:
    run = rig.submit(graph_of([(), ()], specs=[ONCE, spec()]), on_failure="continue")
    rig.turn()
    rig.join("b", cpu=2)
    while run.life.states[0] == ASSIGNED and rig.now < 100.0 + 2 * LOST_S:
        rig.heartbeat("b", 0)
        rig.sleep(1.0)
    assert run.life.states[0] == FAILED
    assert run.life.states[1] != FAILED
    (fact,) = (fact for fact in run.life.facts if fact.kind == FACT_FAILED)
    assert Failure.unpack(fact.payload).code == FAIL_LOST


def test_what_a_worker_has_not_finished_when_it_leaves_is_lost(rig: CoordinatorRig) -> None:
    run = rig.submit(graph_of([(), ()], specs=[ONCE, spec()]), on_failure="continue")
    rig.turn()
    rig.core.on_leaving(b"a", m.Leaving(0), rig.now)
    rig.core.on_leaving(b"a", m.Leaving(1), rig.now)
    rig.turn()
    assert list(run.life.states) == [FAILED, READY]


def test_what_a_worker_hands_back_runs_elsewhere(rig: CoordinatorRig) -> None:
    run = rig.submit(graph_of([()], specs=[ONCE]))
    rig.turn()
    rig.core.on_leaving(b"a", m.Leaving(0), rig.now)
    rig.outcome("a", 1, code=oc.NOT_STARTED)
    rig.join("b")
    rig.turn()
    rig.outcome("b", 2)
    rig.turn()
    assert list(run.life.states) == [SUCCEEDED]


def test_a_batch_that_was_lost_is_sent_again(rig: CoordinatorRig) -> None:
    """It was never there, so nothing of it has begun."""
    run = rig.submit(graph_of([()], specs=[ONCE]))
    rig.turn()
    rig.heartbeat("a", 1)
    again = assign(2, row(1), runs=((1, run.id),), limits=((1, 0, 1),))
    assert rig.turn()["a"] == [again, m.Reply(0, 0, ())]


# -- the worker --------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker() -> WorkerRig:
    """A worker with one CPU slot, number 1, welcome and ready."""
    return WorkerRig().join()


def test_a_step_that_had_not_begun_when_its_slot_died_goes_to_another(worker: WorkerRig) -> None:
    worker.assign(worker_row(1), limits=((1, 0, 1),))
    worker.turn()
    worker.core.on_slot_died(1, 0, 0, signal.SIGKILL, 0, worker.now)
    worker.turn()
    worker.core.on_slot_ready(2, worker.now)
    assert worker.turn()["to_slots"] == [(2, [[(0, b"fn 0")], [], [sent(1)]])]


def test_async_steps_that_may_have_begun_go_down_with_their_process(worker: WorkerRig) -> None:
    worker.assign(
        worker_row(1, lane=LANE_ASYNC), worker_row(2, lane=LANE_ASYNC), worker_row(3, lane=LANE_ASYNC),
        limits=((2, 0, 1),),
    )  # fmt: skip
    worker.turn()
    worker.core.on_slot_ready(2, worker.now)
    worker.turn()
    worker.core.on_slot_died(2, 0, 0, signal.SIGSEGV, 0, worker.now)
    worker.turn()
    rows = worker.turn(at=worker.now + 2 * COMPANY_S)["messages"][-1].rows
    assert [(row[0], row[1]) for row in rows] == [(2, oc.CRASHED)]
    assert list(worker.core.attempts) == [1, 3]
