"""Steps that give way to others: ids, fragments on the wire, and the life of a run that grows."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from helpers.columns import columns_of
from helpers.coordinator_rig import CoordinatorRig
from helpers.lives import assign, fail, kinds, start, succeed
from helpers.samples import graph_of, spec
from pfw import messages as m
from pfw import outcome as oc
from pfw.errors import ProtocolError
from pfw.expansion import Fragment, Tail, append, ids_within, shifted
from pfw.facts import (
    CANCELLED,
    EXPANDED,
    FACT_EXPANDED,
    FACT_FAILED,
    FACT_SKIPPED,
    FACT_TIMED_OUT,
    FAILED,
    READY,
    REASON_BRANCH,
    RUN_FAILED,
    RUN_SUCCEEDED,
    SKIPPED,
    SUCCEEDED,
    TIMED_OUT,
    WAITING,
)
from pfw.failure import Failure
from pfw.graph import Graph, Spec
from pfw.graphs import pack_fragment, pack_graph, unpack_fragment
from pfw.lifecycle import RunLife


def expand(life: RunLife, step: int, graph: Graph, **more: Any) -> None:
    fragment = Fragment(graph, **more)
    life.on_expanded(step, 1, 2.0, 0.5, fragment, pack_fragment(fragment), 2.0)


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_ids_of_a_chain_stay_short() -> None:
    step_id: str = "outer"
    for level in range(1, 4):
        first, step_id = ids_within(step_id, ["a", "b"], has_tail=True)
        assert (first, str(step_id)) == (
            ("outer/a", "outer/b") if level == 1 else (f"outer/#{level}/a", f"outer/#{level}/b")
        )
    assert isinstance(step_id, Tail)
    assert ids_within("outer/a", ["a"], has_tail=False) == ["outer/a/a"]
    assert type(ids_within("x", ["a"], has_tail=False)[0]) is str


def test_a_graph_grows_and_shares_equal_specs() -> None:
    graph, fragment = graph_of([(), (0,)]), graph_of([(), (0,)], functions=[b"a", b"b"])
    append(graph, shifted(fragment, 2))
    assert graph.inputs == [(), (0,), (), (2,)]
    assert graph.functions == [b"fn", b"a", b"b"]
    assert graph.function_of == [0, 0, 1, 2]
    assert (len(graph.specs), graph.spec_of) == (1, [0, 0, 0, 0])


# -- on the wire -------------------------------------------------------------------------------------------------------


def test_a_fragment_travels() -> None:
    fragment = Fragment(graph_of([(), (), (0,), (2,)]), (1,), (("other", 2),))
    assert unpack_fragment(pack_fragment(fragment)) == fragment


GRAPH = pack_graph(graph_of([(), (), (0,)]))


@pytest.mark.parametrize(
    "cells",
    [
        5,
        (),
        (GRAPH, ()),
        (GRAPH, (), (), ()),
        ("x", (), ()),
        (pack_graph(graph_of([])), (), ()),
        (GRAPH, (2,), ()),
        (GRAPH, (3,), ()),
        (GRAPH, (0,), ()),
        (GRAPH, (1, 1), ()),
        (GRAPH, (-1,), ()),
        (GRAPH, (), (("a", 2),)),
        (GRAPH, (), (("a", 0), ("b", 0))),
        (GRAPH, (1,), (("a", 1),)),
        (GRAPH, (), ((1, 0),)),
        (GRAPH, (), (("a",),)),
    ],
)
def test_odd_fragments_are_refused(cells: Any) -> None:
    with pytest.raises(ProtocolError):
        unpack_fragment(msgpack.packb(cells))


# -- the life of a run -------------------------------------------------------------------------------------------------


def test_a_step_ends_as_the_tail_of_its_fragment() -> None:
    life = start(graph_of([(), (0,), (1,)]), keep=(1, 2))
    assign(life)
    succeed(life, 0)
    assign(life)
    expand(life, 1, graph_of([(), (0,)]))
    assert list(life.states) == [SUCCEEDED, EXPANDED, WAITING, READY, WAITING]
    assert life.outputs[0] is None
    for step in (3, 4):
        assert assign(life) == [step]
        succeed(life, step)
    assert life.states[1] == SUCCEEDED
    assert assign(life) == [2]
    assert life.outputs[1] == b"out 4"
    succeed(life, 2)
    assert life.status == RUN_SUCCEEDED
    assert life.outputs == [None] * 5


def test_a_step_whose_tail_timed_out_has_timed_out() -> None:
    life = start(graph_of([()]))
    assign(life)
    expand(life, 0, graph_of([()]))
    (tail,) = assign(life)
    life.on_timed_out(tail, 1, 0.0, 1.0, b"late", 2.0)
    assert list(life.states) == [TIMED_OUT, TIMED_OUT]
    assert [(fact.kind, fact.step, fact.payload) for fact in list(life.facts)[-3:-1]] == [
        (FACT_TIMED_OUT, tail, b"late"),
        (FACT_TIMED_OUT, 0, b"late"),
    ]
    assert life.status == RUN_FAILED


def test_the_steps_of_a_fragment_go_before_others_as_far_as_they_are_from_the_end() -> None:
    life = start(graph_of([(), (0,), (1,), (), (3,), (4,), (5,), (), (7,)]))
    assert assign(life) == [3, 0, 7]
    succeed(life, 3)  # 4 is three steps from the end
    expand(life, 0, graph_of([(), (0,), ()], after=[(), (), (1,)]))  # its first step is five
    succeed(life, 7)  # 8 is the end
    assert assign(life) == [9, 4, 8]


@pytest.mark.parametrize("mode", ["parallel", "waves"])
def test_a_long_chain_ends_without_recursion(mode: str) -> None:
    life, levels = start(graph_of([(), (0,)]), mode=mode), 5_000
    for _ in range(levels):
        (step,) = assign(life)
        expand(life, step, graph_of([()]))
    succeed(life, *assign(life))
    assert set(life.states) == {SUCCEEDED, READY}
    succeed(life, *assign(life))
    assert (life.status, len(life.states)) == (RUN_SUCCEEDED, levels + 2)


def test_deep_nesting_fails_without_recursion() -> None:
    life = start(graph_of([()]), on_failure="continue")
    for _ in range(2_000):
        (step,) = assign(life)
        expand(life, step, graph_of([(), (0,)]))  # the first one is expanded again, the tail waits for it
    fail(life, *assign(life))
    assert life.status == RUN_FAILED
    assert list(life.states).count(FAILED) == 2_001
    assert list(life.states).count(SKIPPED) == 2_000
    assert list(life.facts)[-2].payload == b"why"


@pytest.mark.parametrize("on_failure", ["stop", "continue", "abort"])
def test_what_depends_on_a_step_that_failed_inside_is_skipped(on_failure: str) -> None:
    life = start(graph_of([(), (0,), ()]), on_failure=on_failure)
    assign(life)
    expand(life, 0, graph_of([(), (0,)]))
    assert assign(life) == [3]
    fail(life, 3)
    assert [life.states[step] for step in (0, 1, 3, 4)] == [FAILED, SKIPPED, FAILED, SKIPPED]
    failed = [fact for fact in life.facts if fact.kind == FACT_FAILED]
    assert [(fact.step, fact.payload) for fact in failed] == [(3, b"why"), (0, b"why")]


def test_a_run_that_ends_takes_no_fragment() -> None:
    life = start(graph_of([(), (0,)]))
    assign(life)
    life.cancel("enough", 1.5)
    expand(life, 0, graph_of([()]))
    assert list(life.states) == [CANCELLED, CANCELLED]
    assert FACT_EXPANDED not in dict(kinds(life))


@pytest.mark.parametrize("mode", ["parallel", "waves", "sequential"])
def test_what_takes_the_place_of_a_step_has_its_priority(mode: str) -> None:
    life = start(graph_of([(), (), ()], specs=[spec()._replace(priority=2), spec(), spec()]), mode=mode)
    life.on_assigned(life.ready[0].take()[0])
    expand(life, 0, graph_of([(), (), (0, 1)]))
    assert assign(life) == [3, 4, 1, 2]


@pytest.mark.parametrize("mode", ["parallel", "waves", "sequential"])
def test_priorities_of_a_step_and_of_those_in_its_place_do_not_add_up(mode: str) -> None:
    def urgent(priority: int) -> Spec:
        return spec()._replace(priority=priority)

    life = start(graph_of([(), (), (0,), (0,)], specs=[urgent(9), urgent(5), urgent(7), urgent(4)]), mode=mode)
    for step in (0, 1):
        assert life.ready[0].take() == [step]
        life.on_assigned(step)
    expand(life, 1, graph_of([(), (), (0, 1)], specs=[urgent(5), urgent(8), urgent(0)]))
    succeed(life, 0)
    order = assign(life)
    assert order == ([5, 4] if mode == "waves" else [5, 2, 4, 3])
    succeed(life, 4)
    succeed(life, 5)
    (tail,) = assign(life)
    expand(life, tail, graph_of([(), ()], specs=[urgent(1), urgent(6)], after=[(), (0,)]))
    assert assign(life) == [7]


def test_the_side_of_a_branch_that_is_not_taken_is_skipped_and_fails_nothing() -> None:
    life = start(graph_of([()]))
    assign(life)
    expand(life, 0, graph_of([(), ()]), skipped=(0,))
    assert next(fact.payload for fact in life.facts if fact.kind == FACT_SKIPPED) == REASON_BRANCH
    assert assign(life) == [2]
    succeed(life, 2)
    assert (life.status, list(life.states)) == (RUN_SUCCEEDED, [SUCCEEDED, SKIPPED, SUCCEEDED])


def test_a_fragment_takes_the_places_of_steps_behind_the_expanded_one() -> None:
    # 1 and 2 follow 0 one after the other; 3 waits for something else as well.
    life = start(graph_of([(), (0,), (1,), (0,)]), keep=(1, 2))
    assign(life)
    taken = (("s1", 0), ("s2", 1), ("elsewhere", 2))
    expand(life, 0, graph_of([(), (0,), (), ()]), taken=taken)
    assert list(life.states[:4]) == [EXPANDED, EXPANDED, EXPANDED, WAITING]
    for step in assign(life):
        succeed(life, step)
    assert list(life.states[:3]) == [SUCCEEDED, SUCCEEDED, EXPANDED]
    for step in assign(life):
        succeed(life, step)
    assert life.status == RUN_SUCCEEDED
    assert [fact.payload for fact in life.facts if fact.kind == 2 and fact.step in (1, 2)] == [b"out 4", b"out 5"]


# -- at the coordinator ------------------------------------------------------------------------------------------------


def test_a_fragment_is_accepted_once() -> None:
    rig = CoordinatorRig()
    rig.join("w")
    rig.client()
    run = rig.submit()
    rig.turn()
    fragment = pack_fragment(Fragment(graph_of([()], functions=[b"inner"])))
    message = rig.row(1, oc.EXPANDED)
    row = (*message[:4], fragment, *message[5:])
    for number in (1, 1, 2):
        rig.core.on_outcomes(b"w", m.Outcomes(number, columns_of((row,))), rig.now)
    rig.turn()
    assert list(run.life.states) == [EXPANDED, 3]
    assert len(run.functions) == 2
    rig.outcome("w", 2, number=3)
    rig.turn()
    assert run.life.status == RUN_SUCCEEDED


def test_a_fragment_that_is_none_fails_its_step() -> None:
    rig = CoordinatorRig()
    rig.join("w")
    rig.client()
    run = rig.submit()
    rig.turn()
    message = rig.row(1, oc.EXPANDED)
    row = (*message[:4], b"no fragment", *message[5:])
    rig.core.on_outcomes(b"w", m.Outcomes(1, columns_of((row,))), rig.now)
    rig.turn()
    assert run.life.status == RUN_FAILED
    failure = next(fact.payload for fact in run.life.facts if fact.kind == FACT_FAILED)
    assert Failure.unpack(failure).type_name == "GraphError"
