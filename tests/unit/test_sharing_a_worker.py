"""A worker that has much of one run, and another run that comes."""

from __future__ import annotations

import pytest

from helpers.coordinator_rig import CoordinatorRig
from helpers.samples import graph_of
from pfw import messages as m
from pfw.outcome import NOT_STARTED
from pfw_coordinator.ledger import ALONE_TARGET_US, DEEP_TARGET_US, TARGET_US

STEP_US = 5_000
#: Of these, on both slots.
FILLED = 2 * ALONE_TARGET_US // STEP_US


@pytest.fixture
def rig() -> CoordinatorRig:
    """One worker, which has as much as it may have of a run whose steps take 5 ms each."""
    rig = CoordinatorRig()
    rig.client()
    rig.join("a", cpu=2)
    rig.submit(graph_of([()]), key=b"first")
    rig.turn()
    rig.outcome("a", 1, us=STEP_US)
    rig.submit(graph_of([()] * 1_000), key=b"many")
    rig.turn()
    assert held(rig) == FILLED
    return rig


def held(rig: CoordinatorRig) -> int:
    return len(rig.core.workers[b"a"].attempts)


def test_it_gives_back_what_is_in_the_way_of_another_run(rig: CoordinatorRig) -> None:
    rig.submit(graph_of([()]), key=b"other")
    (asked,) = [message for message in rig.turn()["a"] if isinstance(message, m.GiveBack)]
    assert FILLED - len(asked.attempts) == 2 * TARGET_US // STEP_US - 1
    assert max(asked.attempts) == FILLED + 1, "the latest"
    assert not asked.is_final


def test_then_both_have_their_turn_and_it_is_sent_less(rig: CoordinatorRig) -> None:
    other = rig.submit(graph_of([()] * 3), key=b"other")
    (asked,) = [message for message in rig.turn()["a"] if isinstance(message, m.GiveBack)]
    rig.outcome("a", *asked.attempts, code=NOT_STARTED)
    rig.turn()
    assert other.life.ready[0].count == 0
    assert 2 * TARGET_US // STEP_US < held(rig) <= 2 * DEEP_TARGET_US // STEP_US


def test_it_is_asked_once(rig: CoordinatorRig) -> None:
    rig.submit(graph_of([()]), key=b"other")
    rig.turn()
    rig.submit(graph_of([()]), key=b"another")
    assert [message for message in rig.turn().get("a", []) if isinstance(message, m.GiveBack)] == []


def test_more_steps_of_the_same_run_change_nothing(rig: CoordinatorRig) -> None:
    rig.outcome("a", 2, 3, us=STEP_US)
    assert [message for message in rig.turn()["a"] if isinstance(message, m.GiveBack)] == []
    assert held(rig) == FILLED
