"""Slots with threads and GPUs of their own."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.columns import AssignRow
from helpers.worker_rig import WorkerRig, outcome, row, sent
from pfw import messages as m
from pfw import outcome as oc
from pfw.graph import LANE_CPU, LANE_IO
from pfw_worker.core import IDLE_S
from pfw_worker.outfit import GPU_VARIABLE, THREAD_VARIABLES, Need, Outfit, choose_outfit, environment_of

GPUS = 2


def joined(cpu: int = 4, io: int = 2) -> WorkerRig:
    return WorkerRig(cpu, io, gpus=GPUS).join()


def assign(rig: WorkerRig, *rows: AssignRow, **needs: tuple[int, int]) -> dict[str, Any]:
    """A batch; attempt1=(2, 0) is attempt 1 with two slots and no GPU. What is to be done then."""
    rig.assign(*rows, needs=tuple((int(name[7:]), *need, 0) for name, need in needs.items()))
    return rig.turn()


def ready(rig: WorkerRig, number: int) -> dict[str, Any]:
    rig.core.on_slot_ready(number, rig.now)
    return rig.turn()


# -- which outfit ------------------------------------------------------------------------------------------------------


def test_an_outfit_is_said_in_the_environment() -> None:
    assert environment_of(Outfit(3, ())) == dict.fromkeys(THREAD_VARIABLES, "3")
    assert environment_of(Outfit(1, (0, 2)))[GPU_VARIABLE] == "0,2"
    assert environment_of(Outfit(1, (0, 2)), ["4", "5", "GPU-6"])[GPU_VARIABLE] == "4,GPU-6"


@pytest.mark.parametrize(
    ("need", "idle", "taken", "expected"),
    [
        (Need(2, 0, 0, 0), [], [], Outfit(2, ())),
        (Need(1, 1, 0, 0), [], [0], Outfit(1, (1,))),
        (Need(1, 2, 0, 0), [], [0], None),
        (Need(1, 1, 0, 0), [Outfit(1, (1,))], [], Outfit(1, (1,))),
        (Need(1, 1, 0, 0), [Outfit(1, (1,))], [1], Outfit(1, (0,))),
        (Need(2, 1, 0, 0), [Outfit(1, (1,))], [], Outfit(2, (0,))),
    ],
)
def test_an_idle_slot_is_used_if_it_has_what_is_wanted(
    need: Need, idle: list[Outfit], taken: list[str], expected: Outfit | None
) -> None:
    assert choose_outfit(need, idle, GPUS, taken) == expected


# -- slots -------------------------------------------------------------------------------------------------------------


def test_a_wide_step_gets_a_fresh_slot_and_the_next_one_the_same() -> None:
    rig = joined()
    assert assign(rig, row(1), attempt1=(2, 0))["starts"] == [(5, LANE_CPU)]
    assert rig.core.slots[5].outfit == Outfit(2, ())
    assert "starts" not in rig.turn(), "it is on its way"
    assert ready(rig, 5)["to_slots"] == [(5, [[(0, b"fn 0")], [], [sent(1)]])]
    rig.end(5, 1)
    rig.turn()
    assert assign(rig, row(2), attempt2=(2, 0))["to_slots"] == [(5, [[], [], [sent(2)]])]


def test_the_slots_of_a_wide_step_are_not_for_others() -> None:
    rig = joined(cpu=4)
    assign(rig, row(1), attempt1=(3, 0))
    said = assign(rig, row(2), row(3))
    assert [slot for slot, _ in said["to_slots"]] == [1], "one of four is left, before the wide step has begun"
    ready(rig, 5)
    assert "to_slots" not in rig.turn()
    rig.end(5, 1)
    assert [slot for slot, _ in rig.turn()["to_slots"]] == [2]


def test_a_slot_that_a_wide_step_has_left_is_not_for_plain_ones() -> None:
    rig = joined(cpu=2)
    assign(rig, row(1), attempt1=(2, 0))
    ready(rig, 3)
    rig.end(3, 1)
    rig.turn()
    assert [slot for slot, _ in assign(rig, row(2))["to_slots"]] == [1]
    assert [slot for slot, _ in assign(rig, row(3))["to_slots"]] == [2]
    assert "to_slots" not in assign(rig, row(4))


def test_a_wide_step_waits_until_slots_are_free() -> None:
    rig = joined(cpu=2)
    assign(rig, row(1), row(2))
    assert "starts" not in assign(rig, row(3), row(4), attempt3=(2, 0))
    rig.end(1, 1)
    said = rig.turn()
    assert "starts" not in said
    assert "to_slots" not in said, "the free slot is kept for it"
    rig.end(2, 2)
    assert rig.turn()["starts"] == [(3, LANE_CPU)]


def test_each_gpu_is_given_once() -> None:
    rig = joined()
    said = assign(rig, row(1), row(2), row(3), attempt1=(1, 1), attempt2=(1, 1), attempt3=(1, 1))
    assert said["starts"] == [(5, LANE_CPU), (6, LANE_CPU)]
    assert [rig.core.slots[n].outfit for n in (5, 6)] == [Outfit(1, (0,)), Outfit(1, (1,))]
    ready(rig, 5)
    ready(rig, 6)
    rig.end(6, 2)
    assert rig.turn()["to_slots"] == [(6, [[], [], [sent(3)]])]


def test_an_idle_slot_makes_way_for_one_with_its_gpus() -> None:
    rig = joined()
    assign(rig, row(1), attempt1=(1, 1))
    ready(rig, 5)
    rig.end(5, 1)
    rig.turn()
    said = assign(rig, row(2), attempt2=(1, 2))
    assert (said["ends"], said["starts"]) == ([5], [(6, LANE_CPU)])


def test_an_io_step_may_have_a_gpu() -> None:
    rig = joined()
    assert assign(rig, row(1, lane=LANE_IO), attempt1=(1, 1))["starts"] == [(5, LANE_IO)]
    assert ready(rig, 5)["to_slots"] == [(5, [[(0, b"fn 0")], [], [sent(1)]])]


def test_such_a_slot_ends_when_it_has_idled() -> None:
    rig = joined()
    assign(rig, row(1), attempt1=(2, 0))
    ready(rig, 5)
    rig.end(5, 1)
    rig.turn()
    assert rig.turn(at=rig.now + IDLE_S + 1)["ends"] == [5]


def test_if_it_dies_its_step_is_blamed_and_no_plain_slot_takes_its_place() -> None:
    rig = joined()
    assign(rig, row(1), attempt1=(2, 0))
    ready(rig, 5)
    rig.core.on_slot_died(5, 1, 100_000_000, 9, 0, rig.now)
    said = rig.turn()
    assert said["messages"][-1].rows[0][:2] == (1, oc.CRASHED)
    assert "starts" not in said


def test_if_it_dies_before_it_is_ready_another_is_started() -> None:
    rig = joined()
    assign(rig, row(1), attempt1=(2, 0))
    rig.core.on_slot_died(5, 0, 0, 9, 0, rig.now)
    assert rig.turn()["starts"] == [(6, LANE_CPU)]


def test_a_slot_whose_step_was_taken_back_meanwhile_serves_the_next() -> None:
    rig = joined()
    assign(rig, row(1), attempt1=(1, 1))
    rig.core.on_give_back(m.GiveBack((1,)), rig.now)
    assert rig.turn()["messages"] == [rig.outcomes(outcome(1, oc.NOT_STARTED))]
    ready(rig, 5)
    assert assign(rig, row(2), attempt2=(1, 1))["to_slots"][0][0] == 5


@pytest.mark.parametrize("is_ready", [False, True])
def test_a_cancelled_run_takes_its_steps_along(is_ready: bool) -> None:
    rig = joined()
    assign(rig, row(1), attempt1=(2, 0))
    if is_ready:
        ready(rig, 5)
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    said = rig.turn()
    handed_back = [r for message in said.get("messages", []) for r in getattr(message, "rows", ())]
    assert bool(handed_back) != is_ready
    if is_ready:
        rig.look(slot5=1)
        assert rig.turn()["stops"] == [(5, 1, 1)]


def test_the_output_counts_as_any_other() -> None:
    rig = joined()
    assign(rig, row(1), attempt1=(2, 0))
    ready(rig, 5)
    rig.end(5, 1)
    assert rig.turn()["messages"] == [rig.outcomes(outcome(1))]
