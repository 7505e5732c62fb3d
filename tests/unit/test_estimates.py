"""How long steps are expected to take, where some take far longer or shorter than others."""

from __future__ import annotations

import pytest

from helpers.columns import columns_of
from helpers.worker_rig import WorkerRig, row
from pfw import outcome as oc
from pfw_coordinator.catalogue import Catalogue
from pfw_worker.core import MESSAGE_STEPS, MESSAGE_US

# -- at the coordinator ------------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue() -> Catalogue:
    found = Catalogue()
    found.use(b"function")
    return found


def test_the_first_outcomes_say_all_that_is_known(catalogue: Catalogue) -> None:
    catalogue.learn(0, [10, 30])
    assert catalogue.estimates_us == [21.0]


def test_one_step_that_waited_for_its_core_does_not_make_a_thousand_seem_long(catalogue: Catalogue) -> None:
    catalogue.learn(0, [4] * 1_000)
    catalogue.learn(0, [4] * 999 + [2_500])
    assert 5.0 < catalogue.estimates_us[0] < 8.0


def test_single_outcomes_move_the_estimate_by_a_quarter(catalogue: Catalogue) -> None:
    catalogue.learn(0, [99])
    catalogue.learn(0, [199])
    assert catalogue.estimates_us == [125.0]


def test_a_function_that_has_become_slower_is_noticed(catalogue: Catalogue) -> None:
    catalogue.learn(0, [4] * 1_000)
    for _ in range(3):
        catalogue.learn(0, [5_000] * 20)
    assert catalogue.estimates_us[0] > 4_900


# -- at the worker -----------------------------------------------------------------------------------------------------


def end(rig: WorkerRig, attempts: list[int], run_us: int) -> None:
    rows = [(attempt, oc.OK, 100, run_us, b"", 1, 1) for attempt in attempts]
    rig.core.on_slot_outcomes(1, columns_of(rows), rig.now)


def sent_by(rig: WorkerRig) -> list[list[int]]:
    """The attempts in each message of a turn."""
    return [[sent[0] for sent in message[2]] for _, message in rig.turn().get("to_slots", ())]


@pytest.fixture
def rig() -> WorkerRig:
    """One slot, that was sent two messages of three attempts; 594 more wait, all of 600 µs as it seems."""
    rig = WorkerRig().join()
    rig.assign(*[row(attempt, us=600) for attempt in range(1, 301)])
    rig.assign(*[row(attempt, us=600) for attempt in range(301, 601)])
    sent = sent_by(rig) + sent_by(rig)
    assert sent == [[1, 2, 3], [4, 5, 6]]
    assert rig.core.slots[1].expected_us == 6 * 600
    return rig


def test_slots_are_sent_more_of_what_takes_far_less_than_it_seemed(rig: WorkerRig) -> None:
    end(rig, [1, 2, 3], run_us=5)
    assert rig.core.slots[1].expected_us == 3 * 150
    assert sent_by(rig) == [list(range(7, 20))], "2 ms of 150 µs each"
    assert {held.estimate_us for held in rig.core.attempts.values()} == {150}
    end(rig, [4, 5, 6, *range(7, 20)], run_us=5)
    assert rig.core.slots[1].expected_us == 0
    assert sent_by(rig) == [list(range(20, 74))], "2 ms of 37 µs each"


@pytest.mark.parametrize("run_us", [150, 600, 5_000])
def test_what_takes_about_as_long_as_it_seemed_is_left_alone(rig: WorkerRig, run_us: int) -> None:
    end(rig, [1, 2, 3], run_us=run_us)
    assert rig.core.slots[1].expected_us == 3 * 600
    assert sent_by(rig) == [[7, 8, 9]]


def test_other_functions_are_left_alone() -> None:
    rig = WorkerRig().join()
    rig.assign(*[row(attempt, us=600) for attempt in range(1, 4)], row(4, us=600, function=1), functions=(0, 1))
    rig.turn()
    end(rig, [1, 2, 3], run_us=5)
    assert rig.core.attempts[4].estimate_us == 600


def test_nothing_is_expected_anew_where_that_would_change_no_message() -> None:
    """A message has MESSAGE_STEPS of such steps at most, however little they take."""
    rig = WorkerRig().join()
    rig.assign(*[row(attempt, us=MESSAGE_US // MESSAGE_STEPS) for attempt in range(1, 1_200)])
    first, _ = sent_by(rig) + sent_by(rig)
    assert len(first) == MESSAGE_STEPS
    end(rig, first, run_us=0)
    assert {held.estimate_us for held in rig.core.attempts.values()} == {MESSAGE_US // MESSAGE_STEPS}
