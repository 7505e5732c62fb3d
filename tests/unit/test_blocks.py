"""Attempts that are alike go in one block, and what is not alike, or too much for one, does not."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.columns import AssignRow, columns_of
from helpers.coordinator_rig import CoordinatorRig, of_kind
from helpers.samples import graph_of, spec
from helpers.worker_rig import WorkerRig, row
from pfw import messages as m
from pfw import outcome as oc
from pfw.errors import ProtocolError
from pfw.facts import CANCELLED, FAILED, RUN_FAILED
from pfw.graph import LANE_IO, Graph
from pfw.graphs import pack_graph, unpack_graph
from pfw.wire import PIECE_BYTES, parts
from pfw_coordinator import core as coordinator
from pfw_coordinator.core import ACKNOWLEDGE_BYTES, ACKNOWLEDGE_S
from pfw_worker.core import MESSAGE_BYTES, NOTE_AFTER_S

# -- at the coordinator ------------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> CoordinatorRig:
    rig = CoordinatorRig()
    rig.client()
    return rig


def known(rig: CoordinatorRig, **slots: int) -> None:
    """A worker joins, and it becomes known how long a step of that function takes."""
    rig.join("a", **slots)
    rig.submit(graph_of([()]), key=b"first")
    rig.turn()
    rig.outcome("a", 1, us=50)
    rig.turn()


def assigns(rig: CoordinatorRig) -> list[m.Assign]:
    """A turn's end: what is sent to the worker, as it travels."""
    box = rig.core.drain(rig.now)
    return [message for messages in box.messages.values() for message in messages if isinstance(message, m.Assign)]


def blocks_sent(rig: CoordinatorRig) -> list[m.AssignBlock]:
    return [block for message in assigns(rig) for block in message.blocks]


def test_steps_that_are_alike_share_a_block(rig: CoordinatorRig) -> None:
    known(rig)
    run = rig.submit(graph_of([()] * 50))
    single, rest = blocks_sent(rig)
    assert (single[0], len(single[10])) == (2, 1), "for the slot that idles"
    calls = tuple(b"call %d" % step for step in range(1, 50))
    assert rest == (3, run.number, 1, 0, 0, 51, 2_000, 0, 0, (), calls, ())


def test_another_function_or_spec_begins_another_block(rig: CoordinatorRig) -> None:
    known(rig)
    specs, functions = [spec(), spec(grace=5.0)], [b"fn", b"other"]
    graph = graph_of([()] * 8, specs=specs, functions=functions)
    rig.submit(graph._replace(spec_of=[0, 0, 0, 0, 1, 1, 0, 0], function_of=[0, 0, 0, 0, 0, 0, 0, 1]))
    assert [(block[0], block[3], block[6]) for block in blocks_sent(rig)] == [
        (2, 0, 2_000),  # for the slot that idles
        (3, 0, 2_000),
        (6, 0, 5_000),
        (8, 0, 2_000),
    ], "and the last one, whose function nobody knows, waits"


def test_tries_that_are_mixed_do_not_break_up_the_rest(rig: CoordinatorRig) -> None:
    known(rig)
    run = rig.submit(graph_of([()] * 40, specs=[spec(retries=1, backoff=0.0)]))
    assert [(block[0], len(block[10])) for block in blocks_sent(rig)] == [(2, 1), (3, 39)]
    rig.outcome("a", 2, code=oc.RETRYABLE)
    assert blocks_sent(rig) == []
    rig.outcome("a", *range(3, 42), code=oc.NOT_STARTED)
    rig.now += 0.1
    rig.core.on_time(rig.now)
    again = [(block[0], block[2], len(block[10])) for block in blocks_sent(rig)]
    assert again == [(42, 1, 1), (43, 1, 38), (81, 2, 1)]
    assert list(run.life.attempts) == [2, *[1] * 39]


def test_no_assignment_is_longer_than_a_piece(rig: CoordinatorRig) -> None:
    known(rig, io=100)
    rig.submit(graph_of([()], specs=[spec(LANE_IO)]), key=b"io")
    rig.turn()
    rig.outcome("a", 2, us=50)
    rig.turn()
    graph = graph_of([()] * 170, specs=[spec(LANE_IO)])
    rig.submit(graph._replace(calls=[b"call"] * 100 + [bytes(1 << 20)] * 70))
    sizes = [[len(call) for block in message.blocks for call in block[10]] for message in assigns(rig)]
    assert sum(map(len, sizes)) == 170
    assert [sum(part) <= PIECE_BYTES for part in sizes] == [True, True]


def test_rows_are_parted_before_they_are_too_much() -> None:
    sizes = [PIECE_BYTES - 5, 6, 1, PIECE_BYTES + 1, PIECE_BYTES + 1, 2, 3]
    assert [list(part) for part in parts(range(7), sizes)] == [[0], [1, 2], [3], [4], [5, 6]]
    assert [list(part) for part in parts(range(2), [1, 2])] == [[0, 1]]


@pytest.mark.parametrize("on_failure", ["stop", "abort", "continue"])
def test_inputs_that_are_too_large_fail_their_step_alone(
    rig: CoordinatorRig, monkeypatch: pytest.MonkeyPatch, on_failure: str
) -> None:
    monkeypatch.setattr(coordinator, "INPUT_BYTES", 100)
    known(rig)
    graph = graph_of([()] * 6)
    calls = [b"c" * (500 if step in (2, 4) else 10) for step in range(6)]
    run = rig.submit(Graph(*graph[:5], calls, *graph[6:]), on_failure=on_failure)
    rig.turn()
    rig.turn()
    assert [run.life.states[step] for step in (2, 4)] == [FAILED, CANCELLED if on_failure == "abort" else FAILED]
    held = list(rig.core.workers[b"a"].attempts)
    rig.outcome("a", *held, us=50)
    rig.turn()
    assert run.life.unfinished == 0
    assert run.life.status == RUN_FAILED


def test_what_waits_for_several_slots_is_gone_when_a_step_placed_before_it_ends_the_run(
    rig: CoordinatorRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "INPUT_BYTES", 100)
    rig.join("a", cpu=8)
    graph = graph_of([()] * 2, specs=[spec()._replace(slots=2), spec()._replace(slots=3)])
    run = rig.submit(Graph(*graph[:5], [bytes(500), b"x"], *graph[6:]))
    rig.turn()
    assert list(run.life.states) == [FAILED, CANCELLED]


def outcome_of(rig: CoordinatorRig, number: int, attempt: int, size: int) -> None:
    cells = rig.row(attempt)
    rig.core.on_outcomes(b"a", m.Outcomes(number, columns_of([(*cells[:4], bytes(size), 0, 0)])), rig.now)


def test_what_many_outcomes_keep_at_their_worker_adds_up(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    rig.submit(graph_of([(), ()]))
    rig.turn()
    outcome_of(rig, 1, 1, ACKNOWLEDGE_BYTES)
    assert "a" not in rig.turn()
    outcome_of(rig, 2, 2, 1)
    assert of_kind(rig.turn()["a"], m.Reply) == [m.Reply(2, 0, ())]
    rig.turn(at=rig.now + ACKNOWLEDGE_S)


def test_a_worker_that_begins_to_leave_is_told_what_is_here(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    rig.submit(graph_of([(), ()]))
    rig.turn()
    rig.outcome("a", 1)
    rig.turn()
    rig.core.on_leaving(b"a", m.Leaving(0), rig.now)
    assert rig.turn()["a"] == [m.Reply(1, 0, ())]


@pytest.mark.parametrize("place", [0, 2, 5])
@pytest.mark.parametrize("odd", [True, 1.5, -1, "1", None, (), {}])
def test_a_good_spec_does_not_let_an_odd_one_pass(place: int, odd: Any) -> None:
    graph = graph_of([()], specs=[spec()._replace(needs=(("a", 1),))])
    assert unpack_graph(pack_graph(graph)).specs == graph.specs
    cells = list(spec())
    cells[place] = odd
    if place != 5 or odd != 1.5:  # a delay may be that long
        with pytest.raises(ProtocolError):
            unpack_graph(pack_graph(graph._replace(specs=[tuple(cells)])))  # type: ignore[list-item]
    named = spec()._replace(needs=(("a", True),))
    with pytest.raises(ProtocolError):
        unpack_graph(pack_graph(graph._replace(specs=[named])))


# -- at a worker -------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker() -> WorkerRig:
    return WorkerRig(cpu=2).join()


def short(attempt: int, size: int = 10) -> AssignRow:
    """A row of a step that takes 50 µs, with a call of so many bytes."""
    return (*row(attempt, us=50)[:8], bytes(size), ())


def sent_to_slots(worker: WorkerRig) -> list[list[int]]:
    return [[step[0] for step in message[2]] for _, message in worker.turn()["to_slots"]]


def test_one_large_call_does_not_make_its_block_a_large_one(worker: WorkerRig) -> None:
    worker.assign(*(short(attempt, 5_000 if attempt == 3 else 10) for attempt in range(1, 101)))
    assert sent_to_slots(worker) == [list(range(1, 41)), list(range(41, 81))]


def test_a_message_ends_with_the_call_that_fills_it(worker: WorkerRig) -> None:
    worker.assign(*(short(attempt, MESSAGE_BYTES if attempt == 3 else 10) for attempt in range(1, 101)))
    assert sent_to_slots(worker) == [[1, 2, 3], list(range(4, 44))]


def test_beside_a_step_that_lasts_nothing_stays_because_another_call_is_large(worker: WorkerRig) -> None:
    worker.assign(*(short(attempt, MESSAGE_BYTES - 1_000 if attempt == 45 else 10) for attempt in range(1, 81)))
    assert [held[0] for held in sent_to_slots(worker)] == [1, 41]
    worker.now += 2 * NOTE_AFTER_S
    worker.look(slot1=1)
    assert worker.turn()["recalls"] == [1]


def test_what_goes_back_from_the_middle_of_a_block_leaves_the_rest(worker: WorkerRig) -> None:
    worker.assign(*(row(attempt) for attempt in range(1, 9)))
    assert sent_to_slots(worker) == [[1], [2]]
    worker.core.on_give_back(m.GiveBack((4, 5, 8)), worker.now)
    worker.turn()
    for attempt, following in ((1, 3), (2, 6), (3, 7)):
        slot = next(number for number, slot in worker.core.slots.items() if attempt in slot.held)
        worker.end(slot, attempt)
        assert sent_to_slots(worker) == [[following]]


def test_a_block_that_comes_twice_adds_only_what_is_missing(worker: WorkerRig) -> None:
    worker.assign(row(1), row(2), row(3))
    assert sent_to_slots(worker) == [[1], [2]]
    worker.end(1, 1)
    assert sent_to_slots(worker) == [[3]]
    worker.assign(*(row(attempt) for attempt in range(1, 5)))
    assert "to_slots" not in worker.turn()
    worker.end(2, 2)
    assert sent_to_slots(worker) == [[4]]


@pytest.mark.parametrize("numbers", [(1, 1), (1, 99), (1, 2)])
def test_outcomes_that_are_not_all_a_slots_own_are_looked_at_one_by_one(
    worker: WorkerRig, numbers: tuple[int, int]
) -> None:
    worker.assign(row(1), row(2))
    assert sent_to_slots(worker) == [[1], [2]]
    worker.end(1, *numbers)
    (said,) = worker.turn()["messages"]
    assert [cells[0] for cells in said.rows] == [1], "2 is in another slot, 99 nowhere"
