"""Single calls that return a Workflow: what the coordinator makes of them."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from helpers.columns import Assigned, Told, columns_of
from helpers.coordinator_rig import EPOCH_S, WHY, CoordinatorRig, assign, of_kind, row
from helpers.samples import graph_of, spec
from pfw import messages as m
from pfw import outcome as oc
from pfw.expansion import Fragment
from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    ENDED_ANYWAY,
    ENDED_NEVER_STARTED,
    EXPANDED,
    FACT_CANCELLED,
    FACT_EXPANDED,
    FACT_FAILED,
    FACT_PRINTED,
    FACT_SKIPPED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    FAILED,
    READY,
    RUN_CANCELLED,
    RUN_RUNNING,
    RUN_STOPPING,
    RUN_SUCCEEDED,
    SKIPPED,
    SUCCEEDED,
    TIMED_OUT,
    WAITING,
    unpack_end,
)
from pfw.failure import FAIL_LOST, Failure
from pfw.graph import IF_ALWAYS, Graph
from pfw.graphs import pack_fragment, pack_graph
from pfw.lifecycle import RunLife
from pfw.wire import unpack
from pfw_coordinator.core import CLIENT_GONE_S
from pfw_coordinator.ledger import Run

EMPTY = graph_of([])
#: Two steps and the tail that needs both.
DIAMOND = graph_of([(), (), (0, 1)], functions=[b"inner"])


@pytest.fixture
def rig() -> CoordinatorRig:
    """A coordinator with one client, "client", and one worker, "w"."""
    rig = CoordinatorRig()
    rig.client()
    rig.join("w", cpu=4)
    return rig


def open_run(rig: CoordinatorRig, graph: Graph) -> Run:
    """An open run with these calls, of which those that may start are assigned."""
    run = rig.submit(EMPTY, is_open=1, on_failure="continue")
    rig.core.on_extend(b"client", m.Extend(run.number, 0, pack_graph(graph)), rig.now)
    rig.turn()
    return run


def expand(rig: CoordinatorRig, attempt: int, fragment: Graph, *, number: int | None = None, **more: Any) -> None:
    """The worker's next outcome: this attempt has returned a Workflow."""
    payload = pack_fragment(Fragment(fragment, **more))
    rig._outcomes["w"] = rig._outcomes.get("w", 0) + 1 if number is None else number
    cells = rig.row(attempt, oc.EXPANDED)
    rows = ((*cells[:4], payload, *cells[5:]),)
    rig.core.on_outcomes(b"w", m.Outcomes(rig._outcomes["w"], columns_of(rows)), rig.now)


def facts(said: dict[str, list[Any]]) -> list[tuple[int, int, bytes]]:
    """(kind, step, payload) of what the client was told."""
    return [(fact[0], fact[1], fact[8]) for facts in of_kind(said.get("client", []), Told) for fact in facts.rows]


def test_a_call_gives_way_to_a_run_of_its_own(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([(), (0,)]))
    rig.now += 1.0
    expand(rig, 1, DIAMOND)
    said = rig.turn()
    calls = (row(2, 0, run=2, function=1), row(3, 1, run=2, function=1))
    assert said == {
        "w": [assign(2, *calls, functions=((1, b"inner"),), runs=((2, f"{run.id}-0"),), acked=1)],
        "client": [
            Told(
                1, 1, 2, EPOCH_S, ((1, "w"),),
                ((FACT_EXPANDED, 0, 101.0, 1, 1, 100.0, 101.0, 0.5, b"", 250_000, 1 << 20),),
            )
        ],
    }  # fmt: skip
    assert list(run.life.states) == [EXPANDED, WAITING]
    rig.outcome("w", 2, 3)
    assert list(rig.turn()) == ["w"]
    rig.now += 1.0
    rig.outcome("w", 4)
    said = rig.turn()
    assert of_kind(said["w"], m.Forget) == [m.Forget((2,), (1,))]
    assert facts(said) == [(FACT_SUCCEEDED, 0, b"out 4")]
    assert of_kind(said["w"], Assigned)[0].rows[0][9] == (b"out 4",)
    assert list(rig.core.runs) == [1]
    assert not run.inner


def test_the_client_goes_on_numbering_its_calls(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    expand(rig, 1, DIAMOND)
    rig.turn()
    rig.core.on_extend(b"client", m.Extend(1, 1, pack_graph(graph_of([(), (0, 1)], first=1))), rig.now)
    rig.cursors((1, 1, 1))
    assert of_kind(rig.turn()["client"], Told)[0].steps == 3
    assert list(run.life.states) == [EXPANDED, ASSIGNED, WAITING]


def test_fragments_inside_stay_inside(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    expand(rig, 1, graph_of([()]))
    for attempt in range(2, 50):
        rig.turn()
        expand(rig, attempt, graph_of([()]))
    rig.turn()
    (inner,) = run.inner.values()
    assert (len(run.life.states), len(inner.life.states), len(inner.life.facts)) == (1, 50, 0)
    rig.outcome("w", 50)
    assert facts(rig.turn())[-1] == (FACT_SUCCEEDED, 0, b"out 50")


def test_an_outcome_that_is_repeated_expands_once(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    for number in (1, 1, 2):
        expand(rig, 1, DIAMOND, number=number)
    rig.turn()
    assert len(run.inner) == 1
    assert [fact.kind for fact in run.life.facts].count(FACT_EXPANDED) == 1


def test_an_attempt_that_failed_before_expands_once(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()], specs=[spec(retries=1)]))
    rig.outcome("w", 1, code=oc.RETRYABLE)
    rig.turn()
    assert run.life.states[0] == BACKOFF
    expand(rig, 1, DIAMOND)
    rig.sleep(0.2)
    assert not run.inner
    expand(rig, 2, DIAMOND)
    rig.turn()
    assert len(run.inner) == 1


def test_the_inputs_of_the_call_are_done_with(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([(), (0,)]))
    rig.outcome("w", 1)
    rig.turn()
    rig.cursors((1, 2, 2))
    assert run.life.outputs[0] == b"out 1"
    expand(rig, 2, DIAMOND)
    rig.turn()
    assert run.life.outputs[0] is None


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_a_failure_inside_is_the_calls(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([(), (0,)]))
    expand(rig, 1, graph_of([(), (), (0, 1)]))
    rig.turn()
    rig.outcome("w", 2, code=oc.ERROR)
    said = rig.turn()
    assert facts(said) == [(FACT_FAILED, 0, WHY), (FACT_SKIPPED, 1, b"")]
    assert list(run.life.states) == [FAILED, SKIPPED]
    # What does not depend on it goes on, as in every run in which others do.
    assert list(run.inner[0].life.states) == [FAILED, FAILED, ASSIGNED, SKIPPED]
    rig.outcome("w", 3)
    rig.turn()
    assert not run.inner
    assert list(rig.core.runs) == [1]


def test_a_call_whose_tail_timed_out_has_timed_out_and_is_not_tried_again(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()], specs=[spec(retries=3, timeout=9.0, retries_timeouts=1)]))
    expand(rig, 1, graph_of([()]))
    rig.turn()
    rig.outcome("w", 2, code=oc.TIMED_OUT)
    assert facts(rig.turn()) == [(FACT_TIMED_OUT, 0, WHY)]
    assert list(run.life.states) == [TIMED_OUT]


def test_the_side_of_a_branch_that_is_not_taken_is_skipped(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    expand(rig, 1, graph_of([(), ()]), skipped=(0,))
    rig.turn()
    assert list(run.inner[0].life.states) == [EXPANDED, SKIPPED, ASSIGNED]
    rig.outcome("w", 2)
    assert facts(rig.turn())[-1] == (FACT_SUCCEEDED, 0, b"out 2")


def test_a_tolerant_tail_saves_the_call(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    expand(rig, 1, graph_of([(), (0,)], specs=[spec(), spec()._replace(run_if=IF_ALWAYS)]))
    rig.turn()
    rig.outcome("w", 2, code=oc.ERROR)
    rig.turn()
    rig.outcome("w", 3)
    rig.turn()
    assert list(run.life.states) == [SUCCEEDED]


def test_what_is_no_fragment_fails_the_call(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    cells = rig.row(1, oc.EXPANDED)
    rig.core.on_outcomes(b"w", m.Outcomes(1, columns_of(((*cells[:4], b"noise", *cells[5:]),))), rig.now)
    ((_, _, payload),) = facts(rig.turn())
    assert Failure.unpack(payload).type_name == "GraphError"
    assert not run.inner


def test_what_is_printed_inside_is_the_calls(rig: CoordinatorRig) -> None:
    open_run(rig, graph_of([(), ()]))
    expand(rig, 2, graph_of([()]))
    rig.turn()
    rig.core.on_printed(b"w", m.Printed(1, ((3, b"hello"),)), rig.now)
    assert facts(rig.turn()) == [(FACT_PRINTED, 1, b"hello")]


def test_steps_inside_of_a_worker_that_is_lost_go_elsewhere(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    expand(rig, 1, graph_of([()]))
    rig.turn()
    rig.core.on_peer_died(b"w", rig.now)
    rig.turn()
    assert list(run.inner[0].life.states) == [EXPANDED, READY]
    rig.join("v")
    rig.outcome("v", 3)
    assert facts(rig.turn())[-1] == (FACT_SUCCEEDED, 0, b"out 3")


def test_losses_inside_have_their_budget(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    expand(rig, 1, graph_of([()]))
    for name in ("a", "b", "c"):
        rig.turn()
        rig.register(name)
        rig.core.on_peer_died(next(iter(rig.core.workers)), rig.now)
    ((kind, step, payload),) = facts(rig.turn())
    assert (kind, step, Failure.unpack(payload).code) == (FACT_FAILED, 0, FAIL_LOST)
    assert not run.inner


# -- the open run ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_urgent", [0, 1])
def test_a_cancel_of_the_open_run_reaches_what_runs_inside(rig: CoordinatorRig, is_urgent: int) -> None:
    run = open_run(rig, graph_of([(), (0,)]))
    expand(rig, 1, DIAMOND)
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough", is_urgent), rig.now)
    told = [cancels for cancels in rig.turn()["all"] if 2 in cancels.runs]
    assert told
    assert bool(told[0].urgent) == bool(is_urgent)
    assert list(run.life.states) == [CANCELLED, CANCELLED]
    assert [unpack_end(fact.payload)[::2] for fact in run.life.facts if fact.kind == FACT_CANCELLED] == [
        (ENDED_NEVER_STARTED, "enough"),
        (ENDED_ANYWAY, "enough"),
    ]
    assert run.life.status == RUN_STOPPING
    rig.outcome("w", 2, 3, code=oc.STOPPED)
    rig.turn()
    assert run.life.status == RUN_CANCELLED
    assert list(rig.core.runs) == [1]


def test_a_second_cancel_kills_what_runs_inside(rig: CoordinatorRig) -> None:
    open_run(rig, graph_of([()]))
    expand(rig, 1, DIAMOND)
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough"), rig.now)
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough", 1), rig.now)
    assert (2,) in [cancels.urgent for cancels in rig.turn()["all"]]


def test_a_call_that_returns_a_workflow_after_the_cancel_is_cancelled(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough"), rig.now)
    expand(rig, 1, DIAMOND)
    rig.turn()
    assert not run.inner
    assert list(run.life.states) == [CANCELLED]


def test_a_deadline_of_the_open_run_reaches_what_runs_inside(rig: CoordinatorRig) -> None:
    run = rig.submit(EMPTY, is_open=1, timeout=1.0)
    rig.core.on_extend(b"client", m.Extend(1, 0, pack_graph(graph_of([()]))), rig.now)
    rig.turn()
    expand(rig, 1, DIAMOND)
    rig.turn()
    rig.sleep(1.1)
    assert run.inner[0].life.cancel_reason


def test_what_goes_on_beside_a_failed_call_ends_with_its_client(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    expand(rig, 1, DIAMOND)
    rig.turn()
    rig.outcome("w", 2, code=oc.ERROR)
    rig.core.on_close_run(b"client", m.CloseRun(1), rig.now)
    rig.turn()
    assert (list(run.life.states), run.life.status) == ([FAILED], RUN_RUNNING)
    until = rig.now + CLIENT_GONE_S + 1.0
    while rig.now < until:
        rig.sleep(1.0)
        rig.heartbeat("w", 10**6, *rig.core.workers[b"w"].attempts)
    assert run.inner[0].life.cancel_reason
    rig.outcome("w", 3, code=oc.KILLED)
    rig.turn()
    assert run.life.status == RUN_CANCELLED


def test_a_call_expands_in_an_open_run_that_is_closed(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    rig.core.on_close_run(b"client", m.CloseRun(1), rig.now)
    rig.turn()
    expand(rig, 1, graph_of([()]))
    rig.turn()
    assert (len(run.life.states), run.life.status) == (1, RUN_RUNNING)
    rig.outcome("w", 2)
    rig.turn()
    assert run.life.status == RUN_SUCCEEDED


# -- what is kept and what is said -------------------------------------------------------------------------------------


def test_an_inner_run_that_has_ended_leaves_nothing(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()] * 3))
    expand(rig, 1, DIAMOND)
    rig.turn()
    inner = id(run.inner[0].life)
    for attempt in (4, 5, 6):
        rig.outcome("w", attempt, code=oc.ERROR if attempt == 6 else oc.OK)
        rig.turn()
    rig.turn()
    gc.collect()
    assert not [life for life in gc.get_objects() if type(life) is RunLife and id(life) == inner]
    assert not rig.core._cancels
    assert rig.core._functions.pickles[1] == b""


def test_reports_are_of_the_runs_that_were_asked_for(rig: CoordinatorRig) -> None:
    open_run(rig, graph_of([()]))
    needs = spec()._replace(needs=(("gpu", 1),))
    expand(rig, 1, graph_of([()], specs=[needs]))
    rig.turn()
    rig.core.on_query(b"client", m.Query(1, "runs"), rig.now)
    rig.core.on_query(b"client", m.Query(2, "status"), rig.now)
    (runs, status) = (unpack(answer.body) for answer in of_kind(rig.turn()["client"], m.Answer))
    assert [report["id"] for report in runs] == [rig.core.runs[1].id]
    assert "gpu" in runs[0]["waits_for"]
    assert (status["runs"], status["waiting"]) == (1, 1)


def test_an_inner_run_counts_for_the_limits_of_its_open_run(rig: CoordinatorRig) -> None:
    run = rig.submit(EMPTY, is_open=1, on_failure="continue", max_parallel=2)
    rig.core.on_extend(b"client", m.Extend(1, 0, pack_graph(graph_of([()] * 3))), rig.now)
    rig.turn()
    expand(rig, 1, DIAMOND)
    rig.turn()
    started = list(run.life.states) + list(run.inner[0].life.states)
    assert started.count(ASSIGNED) == 2


def test_what_no_worker_can_run_inside_fails_the_call_on_a_fixed_cluster() -> None:
    rig = CoordinatorRig(is_embedded=True)
    rig.client()
    rig.join("w")
    run = open_run(rig, graph_of([()]))
    expand(rig, 1, graph_of([()], specs=[spec()._replace(slots=9)]))
    rig.turn()
    ((kind, _, payload),) = facts(rig.turn())
    assert (kind, Failure.unpack(payload).type_name) == (FACT_FAILED, "UnschedulableError")
    assert not run.inner
    assert FACT_CANCELLED not in [fact.kind for fact in run.life.facts]
