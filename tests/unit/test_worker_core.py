"""The worker's core: every message and event, and the whole of what it says to it."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from helpers.columns import blocks_of, columns_of
from helpers.worker_rig import REGISTER, WorkerRig, outcome, row, sent
from pfw import messages as m
from pfw import outcome as oc
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO
from pfw.printed import PIECE_EVERY_S
from pfw_worker.core import (
    IDLE_S,
    MESSAGE_STEPS,
    MESSAGE_US,
    NOTE_AFTER_S,
    REPEAT_HEARTBEATS,
    STOP_UNLOAD,
)

FUNCTION = (0, b"fn 0")


@pytest.fixture
def rig() -> WorkerRig:
    """A worker with one CPU slot, number 1, welcome and ready."""
    return WorkerRig().join()


# -- what is printed ---------------------------------------------------------------------------------------------------


def test_what_attempts_print_is_told_before_their_outcomes(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2))
    rig.turn()
    rig.core.on_printed(1, b"one", rig.now)
    assert rig.turn() == {"messages": [m.Printed(1, ((1, b"one"),))]}
    rig.core.on_printed(1, b"more", rig.now)
    rig.core.on_printed(1, b"", rig.now)
    rig.core.on_printed(9, b"not held", rig.now)
    rig.end(1, 1)
    rig.core.on_printed(1, b"too late", rig.now)
    assert rig.turn()["messages"] == [m.Printed(2, ((1, b"more"),)), rig.outcomes(outcome(1))]


def test_what_was_printed_for_another_coordinator_is_dropped(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    rig.core.on_printed(1, b"text", rig.now)
    rig.core.on_refused(m.Refused(0, "", 1), rig.now)
    assert m.Printed not in map(type, rig.turn()["messages"])


# -- joining -----------------------------------------------------------------------------------------------------------


def test_a_worker_starts_its_slots_and_registers() -> None:
    rig = WorkerRig(cpu=2)
    assert rig.turn() == {
        "messages": [REGISTER._replace(cpu=2, clock_us=100_000_000)],
        "starts": [(1, LANE_CPU), (2, LANE_CPU)],
    }


def test_a_worker_registers_until_it_is_welcome() -> None:
    rig = WorkerRig()
    rig.turn()
    assert rig.turn() == {}
    assert rig.turn(at=rig.wake_at) == {"messages": [REGISTER._replace(clock_us=int(rig.now * 1e6))]}
    rig.core.on_welcome(m.Welcome(7, 1.0, "pub", 3), rig.now)
    box = rig.turn()
    assert box.pop("has_new_numbers", True)
    assert box == {"messages": [rig.heartbeat(last_cancel=3)]}
    assert (rig.core.number, rig.core.pub) == (7, "pub")
    rig.core.on_welcome(m.Welcome(7, 1.0, "pub", 3), rig.now)
    assert rig.turn() == {"messages": [rig.heartbeat(last_cancel=3)]}


def test_a_worker_that_could_not_register_does_so_in_the_next_turn(rig: WorkerRig) -> None:
    new = WorkerRig()
    new.turn()
    for _ in range(2):
        new.core.on_unsent()
        assert new.turn() == {"messages": [REGISTER._replace(clock_us=int(new.now * 1e6))]}
        assert new.wake_at > new.now  # until then only a connection wakes the shell
    assert new.turn() == {}
    rig.core.on_unsent()  # who is known has heartbeats
    assert rig.turn() == {}


def test_a_worker_of_another_version_gives_up(rig: WorkerRig) -> None:
    rig.core.on_refused(m.Refused(m.REFUSED_PROTOCOL, "another version", 0), rig.now)
    assert rig.core.refusal == "another version"


def test_before_the_welcome_nothing_is_taken() -> None:
    rig = WorkerRig()
    rig.turn()
    rig.assign(row(1))
    assert rig.turn() == {}
    assert not rig.core.attempts


def test_who_is_not_known_any_more_drops_everything_and_registers(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2))
    rig.turn()
    rig.core.on_refused(m.Refused(0, "not registered here", 1), rig.now)
    assert rig.turn() == {
        "messages": [REGISTER._replace(clock_us=100_000_000)],
        "kills": [1],
        "has_new_numbers": True,
    }
    assert not rig.core.attempts
    rig.end(1, 1)
    assert rig.turn() == {}, "what is dropped has no outcome"


def test_numbers_of_another_coordinator_mean_other_functions_and_attempts(rig: WorkerRig) -> None:
    rig.assign(row(2))
    rig.turn()
    rig.core.on_refused(m.Refused(0, "not registered here", 1), rig.now)
    assert rig.turn()["kills"] == [1]
    rig.core.on_welcome(m.Welcome(7, 1.0, "pub", 0), rig.now)
    rig.turn()
    rig.assign(row(2, lane=LANE_IO))
    rig.turn()
    assert list(rig.core.attempts) == [2]
    rig.look(slot1=2)
    rig.end(1, 2)
    rig.core.on_slot_died(1, 2, 100_000_000, 9, 0, rig.now)
    rig.turn()
    assert list(rig.core.attempts) == [2], "what the killed slot says is about the attempt of before"


def test_a_slot_that_idles_gets_the_functions_of_another_coordinator(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    rig.end(1, 1)
    rig.turn()
    rig.core.on_refused(m.Refused(0, "not registered here", 1), rig.now)
    rig.core.on_welcome(m.Welcome(7, 1.0, "pub", 0), rig.now)
    rig.turn()
    rig.assign(row(1))
    assert rig.turn()["to_slots"] == [(1, [[FUNCTION], [0], [sent(1)]])]


# -- giving attempts to slots ------------------------------------------------------------------------------------------


def test_a_slot_gets_one_step_of_unknown_duration(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2))
    assert rig.turn() == {"to_slots": [(1, [[FUNCTION], [], [sent(1)]])]}
    assert rig.turn() == {}
    rig.end(1, 1)
    assert rig.turn() == {
        "messages": [rig.outcomes(outcome(1))],
        "to_slots": [(1, [[], [], [sent(2)]])],
    }


def rows_of(box: dict[str, Any]) -> dict[int, list[list[int]]]:
    """{slot: the attempts of each message to it}"""
    rows: dict[int, list[list[int]]] = {}
    for slot, message in box.get("to_slots", ()):
        rows.setdefault(slot, []).append([row[0] for row in message[2]])
    return rows


def test_short_steps_go_together_up_to_a_message(rig: WorkerRig) -> None:
    each_us = MESSAGE_US // 10
    rig.assign(*(row(attempt, us=each_us) for attempt in range(1, 201)))
    box = rig.turn()
    assert box["to_slots"][0] == (1, [[FUNCTION], [], [sent(attempt, short=1) for attempt in range(1, 11)]])
    assert sum(map(len, rows_of(box)[1])) * each_us == MESSAGE_US
    assert len(rows_of(rig.turn())[1][0]) * each_us == MESSAGE_US, "a second message waits in the slot's socket"
    assert rig.turn() == {}, "the slot has enough"


def test_a_message_has_a_limit_of_steps(rig: WorkerRig) -> None:
    rig.assign(*(row(attempt, us=1) for attempt in range(1, MESSAGE_STEPS + 100)))
    assert len(rows_of(rig.turn())[1][0]) == MESSAGE_STEPS


def test_short_steps_are_shared_by_the_slots() -> None:
    rig = WorkerRig(cpu=3).join()
    rig.assign(*(row(attempt, us=100) for attempt in range(1, 10)))
    shares = [list(chain.from_iterable(messages)) for messages in rows_of(rig.turn()).values()]
    assert sorted(chain.from_iterable(shares)) == list(range(1, 10))
    assert {len(share) for share in shares} == {3}


def test_what_was_taken_back_goes_to_another_slot_with_its_function() -> None:
    rig = WorkerRig(cpu=2).join()
    rig.assign(row(1), row(2), functions=(0,))
    assert rows_of(rig.turn()) == {1: [[1]], 2: [[2]]}
    rig.assign(row(3, function=1, us=100), row(4, function=1, us=100), functions=(1,))
    messages = dict(rig.turn().get("to_slots", ()))
    for slot, message in messages.items():
        rig.recalled(slot, message)
    for number in (1, 2):
        rig.end(number, number)
    taken = [pickle for _, message in rig.turn()["to_slots"] for pickle in message[0]]
    assert set(taken) == {(1, b"fn 1")}


def test_a_long_step_ends_a_message(rig: WorkerRig) -> None:
    rig.assign(row(1, us=100), row(2), row(3, us=100))
    assert rig.turn() == {"to_slots": [(1, [[FUNCTION], [], [sent(1, short=1)]])]}
    rig.end(1, 1)
    assert rig.turn()["to_slots"] == [(1, [[], [], [sent(2)]])]


def test_a_slot_gets_a_function_once_and_forgets_it_when_told(rig: WorkerRig) -> None:
    rig.assign(row(1), functions=(0, 1))
    rig.turn()
    rig.end(1, 1)
    rig.turn()
    rig.core.on_forget(m.Forget((1,), (0,)), rig.now)
    rig.assign(row(2, run=2, function=1), functions=())
    to_slots = [(1, [[(1, b"fn 1")], [0], [sent(2, run=2, function=1)]])]
    assert rig.turn() == {"to_slots": to_slots, "forgotten": ["run-1"]}


def test_io_steps_start_slots_up_to_the_limit(rig: WorkerRig) -> None:
    rig.assign(*(row(attempt, lane=LANE_IO) for attempt in (1, 2, 3)))
    assert rig.turn() == {"starts": [(2, LANE_IO), (3, LANE_IO)]}
    assert rig.turn() == {}
    rig.core.on_slot_ready(2, rig.now)
    rig.core.on_slot_ready(3, rig.now)
    assert rig.turn() == {"to_slots": [(2, [[FUNCTION], [], [sent(1)]]), (3, [[FUNCTION], [], [sent(2)]])]}


def test_short_io_steps_share_one_slot(rig: WorkerRig) -> None:
    rig.assign(*(row(attempt, lane=LANE_IO, us=10) for attempt in (1, 2, 3)))
    assert rig.turn() == {"starts": [(2, LANE_IO)]}


def test_an_io_slot_that_idles_ends_and_a_cpu_slot_does_not(rig: WorkerRig) -> None:
    rig.assign(row(1, lane=LANE_IO))
    rig.turn()
    rig.core.on_slot_ready(2, rig.now)
    rig.turn()
    rig.end(2, 1)
    rig.turn()
    assert "ends" not in rig.turn(at=rig.now + IDLE_S)
    assert rig.turn(at=rig.now + 1.1)["ends"] == [2]
    assert list(rig.core.slots) == [1]


def test_async_steps_run_together_in_one_process(rig: WorkerRig) -> None:
    rig.assign(row(1, lane=LANE_ASYNC), row(2, lane=LANE_ASYNC))
    assert rig.turn() == {"starts": [(2, LANE_ASYNC)]}
    rig.core.on_slot_ready(2, rig.now)
    assert rig.turn() == {"to_slots": [(2, [[FUNCTION], [], [sent(1), sent(2)]])]}
    rig.assign(row(3, lane=LANE_ASYNC), functions=())
    assert rig.turn() == {"to_slots": [(2, [[], [], [sent(3)]])]}


# -- what may come twice or not at all ---------------------------------------------------------------------------------


def test_an_attempt_that_is_held_is_not_taken_again(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2))
    rig.turn()
    rig.assign(row(1), row(2))
    assert rig.turn() == {}
    rig.end(1, 1)
    rig.assign(row(1))
    assert rig.turn() == {"messages": [rig.outcomes(outcome(1))], "to_slots": [(1, [[], [], [sent(2)]])]}
    rig.assign(row(1))
    assert rig.turn() == {}, "its outcome is on its way"


@pytest.mark.parametrize("lost", ["function", "run"])
def test_a_row_whose_function_or_run_was_lost_is_not_taken(rig: WorkerRig, lost: str) -> None:
    functions = ((0, b"fn 0"),) if lost == "run" else ()
    runs = ((1, "run-1"),) if lost == "function" else ()
    rig.core.on_assign(m.Assign(5, 0, 0, functions, runs, blocks_of((row(1),))), rig.now)
    assert rig.turn() == {}
    assert rig.turn(at=101.0) == {"messages": [rig.heartbeat(last_batch=5)]}


def test_outcomes_are_repeated_until_they_are_acknowledged(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2))
    rig.turn()
    rig.end(1, 1)
    first = rig.turn()["messages"]
    assert first == [rig.outcomes(outcome(1))]
    rig.end(1, 2)
    second = rig.turn()["messages"]
    assert rig.turn(at=101.0) == {"messages": [rig.heartbeat(1, 2)]}
    assert rig.turn(at=100.0 + REPEAT_HEARTBEATS) == {"messages": [*first, *second, rig.heartbeat(1, 2)]}
    rig.core.on_reply(m.Reply(1, 0, ()), rig.now)
    assert rig.turn(at=rig.now + 1.0) == {"messages": [rig.heartbeat(2)]}
    rig.assign(acked=2, functions=())
    assert rig.turn(at=rig.now + 1.0) == {"messages": [rig.heartbeat()]}


def test_a_heartbeat_lists_what_is_queued_executing_and_not_acknowledged(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2), row(3))
    rig.turn()
    rig.end(1, 1)
    rig.turn()
    rig.core.on_stats(5, 6.0, 7.0, rig.now)
    assert rig.turn(at=101.0) == {"messages": [m.Heartbeat(1, 0, (2, 3, 1), 5, 6.0, 7.0, 1)]}


def test_what_is_not_its_own_is_stopped_and_dropped(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2))
    rig.turn()
    rig.core.on_reply(m.Reply(0, 0, (1, 2, 99)), rig.now)
    assert rig.turn() == {"kills": [1]}
    rig.core.on_slot_died(1, 1, 100_000_000, 9, 0, rig.now)
    assert rig.turn() == {"starts": [(2, LANE_CPU)]}


def test_what_has_not_begun_is_given_back(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2), row(3))
    rig.turn()
    rig.core.on_give_back(m.GiveBack((1, 3, 99)), rig.now)
    assert rig.turn() == {"messages": [rig.outcomes(outcome(3, oc.NOT_STARTED))]}
    assert list(rig.core.attempts) == [1, 2]


# -- how far steps are -------------------------------------------------------------------------------------------------


def test_the_latest_progress_of_an_attempt_that_lasts_is_told_at_a_pace(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    rig.core.on_progress((1, 1.0, 9.0, "early"), rig.now)
    rig.core.on_progress((99, 1.0, 9.0, "not held"), rig.now)
    rig.look(slot1=1)
    assert rig.turn() == {}, "it is not known yet that it lasts"
    rig.now += 2 * NOTE_AFTER_S
    rig.core.on_progress((1, 2.0, 9.0, "later"), rig.now)
    rig.look(slot1=1)
    assert rig.turn()["messages"] == [m.Notes(((1, 100_000_000),)), m.Progress(((1, 2.0, 9.0, "later"),))]
    rig.now += NOTE_AFTER_S
    rig.core.on_progress((1, 3.0, 9.0, "too soon"), rig.now)
    rig.look(slot1=1)
    assert rig.turn() == {}
    rig.now += PIECE_EVERY_S
    rig.look(slot1=1)
    assert rig.turn()["messages"] == [m.Progress(((1, 3.0, 9.0, "too soon"),))]
    rig.now += PIECE_EVERY_S
    rig.core.on_progress((1, 3.0, 9.0, "too soon"), rig.now)
    rig.look(slot1=1)
    assert rig.turn() == {}, "it was told"


def test_nothing_is_told_of_how_far_an_attempt_was_that_has_ended(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2))
    rig.turn()
    rig.now += 2 * NOTE_AFTER_S
    rig.core.on_progress((1, 1.0, 9.0, ""), rig.now)
    rig.end(1, 1)
    assert rig.turn()["messages"] == [rig.outcomes(outcome(1))]
    rig.look(slot1=2)
    assert rig.turn()["messages"] == [m.Notes(((2, 100_000_000),))]


def test_what_shares_its_slot_with_a_step_that_lasts_is_told_and_goes_elsewhere(rig: WorkerRig) -> None:
    rig.assign(row(1, us=10), row(2, us=10), row(3, us=10))
    rig.turn()
    rig.now += 2 * NOTE_AFTER_S
    rig.look(slot1=2)
    box = rig.turn()
    assert (box["stops"], box["recalls"]) == ([(1, 2, STOP_UNLOAD)], [1])
    rig.core.on_slot_outcomes(1, columns_of([outcome(1), outcome(3, oc.NOT_STARTED)]), rig.now)
    box = rig.turn()
    assert box["messages"] == [rig.outcomes(outcome(1))]
    assert "to_slots" not in box, "the slot gets nothing until its step has ended"
    rig.now += 2 * NOTE_AFTER_S
    rig.look(slot1=2)
    assert "stops" not in rig.turn()
    rig.end(1, 2)
    assert [message[2] for _, message in rig.turn()["to_slots"]] == [[sent(3, short=1)]]


def test_steps_of_a_few_ms_go_together_while_many_wait(rig: WorkerRig) -> None:
    """Half of what is queued, at most LONG_MESSAGE_US of it; the outcomes of such a message come back together."""
    rig.assign(*(row(attempt, us=5_000) for attempt in range(1, 121)))
    assert [[step[0] for step in message[2]] for _, message in rig.turn()["to_slots"]] == [[1]]
    rig.core.slots[1].functions.add(0)  # as is known after its first outcome
    ((_, message),) = rig.turn()["to_slots"]
    assert [step[0] for step in message[2]] == list(range(2, 42))
    assert {step[5] for step in message[2]} == {1}
    assert "to_slots" not in rig.turn(), "one message ahead is enough"
    rig.end(1, 1, *range(2, 42))
    sizes = []
    while rig.core.attempts:
        rig.turn()
        sizes.append(len(rig.core.slots[1].held))
        rig.end(1, *rig.core.slots[1].held)
    assert (sizes, sum(sizes)) == (sorted(sizes, reverse=True), 79)
