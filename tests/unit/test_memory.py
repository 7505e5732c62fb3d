"""Who holds too much memory, how often that is looked at, and what becomes of the step."""

from __future__ import annotations

import pytest

from helpers.worker_rig import WorkerRig, row, sent
from pfw import ConfigError, Hint, MemoryLimitError, Retry, step
from pfw import outcome as oc
from pfw.checks import checked_bytes
from pfw.failure import FAIL_MEMORY, Failure
from pfw.remote import to_error
from pfw_worker.memory import FILL_BYTES_PER_S, LEAST_S, MOST_S, WORKER_SHARE, Weight, judge, pause_s

MB, GB = 10**6, 10**9


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("2GB", 2 * GB),
        ("2GiB", 2 << 30),
        (" 1.5 gib ", 3 << 29),
        ("500 MB", 500 * MB),
        ("7B", 7),
        (1024, 1024),
    ],
)
def test_a_size_is_bytes_or_a_text_with_a_unit(size: int | str, expected: int) -> None:
    assert checked_bytes("memory", size) == expected
    assert Hint.memory(size).needs == (("memory", expected),)


@pytest.mark.parametrize(
    "size",
    ["2", "GB", "-1GB", "1e9B", "2 G B", "2PB", "9" * 400 + "GB", "", 0, -1, True, 1.5, None, float("nan"), 1 << 60],
)
def test_odd_sizes_are_refused(size: object) -> None:
    with pytest.raises(ConfigError, match="memory is a number of bytes"):
        Hint.memory(size)  # type: ignore[arg-type]


def test_a_retry_rule_is_asked_about_memory_too() -> None:
    assert step(len, retry=2).spec.retries_memory == 1
    assert step(len, retry=Retry(on=ValueError)).spec.retries_memory == 0
    assert step(len, retry=Retry(on=ValueError, give_up=())).spec.retries_memory == 0
    assert step(len, retry=Retry(on=MemoryError)).spec.retries_memory == 1
    assert step(len).spec.retries_memory == 0


# -- who holds too much ------------------------------------------------------------------------------------------------


def test_nothing_is_too_much_within_the_limits() -> None:
    assert judge([Weight(1, 99, 100), Weight(2, 5 * GB, 0)], 0, 10 * GB).excesses == {}
    assert judge([Weight(1, 99, 0)], 0, 0) == ({}, MOST_S)


def test_a_process_over_its_own_limit_is_named_with_both() -> None:
    excesses, _ = judge([Weight(1, 150 * MB, 100 * MB), Weight(2, 50 * MB, 100 * MB)], 0, 10 * GB)
    assert list(excesses) == [1]
    assert (excesses[1].limit, excesses[1].bytes) == (100 * MB, 150 * MB)
    assert excesses[1].message == "it held 150.0 MB of memory, its limit is 100.0 MB"


def test_when_the_worker_is_full_the_largest_goes() -> None:
    weights = [Weight(1, 3 * GB, 0), Weight(2, 5 * GB, 6 * GB), Weight(3, GB, 0)]
    excesses, _ = judge(weights, GB // 2, 10 * GB)
    assert list(excesses) == [2]
    assert excesses[2].limit == int(10 * GB * WORKER_SHARE)
    assert "more than 90% of its 10,000.0 MB of memory, and this was the largest" in excesses[2].message
    assert not judge(weights, 0, 10 * GB).excesses


def test_one_over_its_own_limit_goes_first() -> None:
    weights = [Weight(1, 6 * GB, 0), Weight(2, 4 * GB, GB)]
    assert list(judge(weights, 0, 10 * GB).excesses) == [2]


def test_the_less_room_the_sooner_it_is_looked_at() -> None:
    assert judge([Weight(1, 0, FILL_BYTES_PER_S // 50)], 0, 0).pause_s == pytest.approx(0.020)
    assert judge([Weight(1, 0, GB)], 0, 0).pause_s == MOST_S
    assert judge([Weight(1, 95, 100)], 0, 0).pause_s == LEAST_S
    assert judge([Weight(1, 0, 0)], 0, FILL_BYTES_PER_S // 30).pause_s == pytest.approx(0.9 / 30)
    assert pause_s(float("inf")) == MOST_S


# -- in the worker -----------------------------------------------------------------------------------------------------


def holding(rig: WorkerRig, memory: int, number: int = 1, function: int = 0) -> int:
    """An attempt with this limit executes; returns its slot."""
    rig.assign(row(number, function=function), needs=((number, 1, 0, memory),), functions=(function,))
    ((slot, _),) = rig.turn()["starts"]
    rig.core.on_slot_ready(slot, rig.now)
    assert rig.turn()["to_slots"][0][1][2] == [sent(number, function=function)]
    return slot


def test_a_step_over_its_limit_is_killed_and_its_neighbour_goes_on() -> None:
    rig = WorkerRig(4).join()
    slot, other = holding(rig, 100), holding(rig, 1000, 2)
    rig.core.on_memory({slot: 100, other: 500}, 0, rig.now)
    assert "kills" not in rig.turn()
    rig.core.on_memory({slot: 101, other: 500}, 0, rig.now)
    assert rig.turn()["kills"] == [slot]
    rig.core.on_memory({slot: 999, other: 500}, 0, rig.now)
    assert "kills" not in rig.turn(), "once is enough"
    rig.core.on_slot_died(slot, 1, 100_000_000, 9, 0, rig.now)
    (outcomes,) = rig.turn()["messages"]
    ((number, code, *_, payload, _, peak),) = outcomes.rows
    assert (number, code, peak) == (1, oc.OVER_MEMORY, 101)
    error = to_error(Failure.unpack(payload), "greedy", 1, 0)
    assert isinstance(error, MemoryLimitError)
    assert isinstance(error, MemoryError)
    assert (error.limit, error.peak, Failure.unpack(payload).code) == (100, 101, FAIL_MEMORY)
    assert list(rig.core.attempts) == [2]


def test_a_limited_step_is_looked_at_soon_after_it_was_given_out() -> None:
    rig = WorkerRig(4).join()
    rig.look()
    holding(rig, FILL_BYTES_PER_S // 100)
    assert rig.wake_at == pytest.approx(rig.now + 0.010)


def test_a_step_that_had_ended_before_its_process_is_not_blamed() -> None:
    rig = WorkerRig(4).join()
    slot = holding(rig, 100)
    rig.core.on_memory({slot: 101}, 0, rig.now)
    rig.end(slot, 1)
    rig.turn()
    rig.core.on_slot_died(slot, 0, 0, 9, 0, rig.now)
    assert not rig.core.attempts


def test_what_a_slot_holds_is_that_of_one_function_and_limit() -> None:
    rig = WorkerRig(4).join()
    first = holding(rig, 100)
    rig.end(first, 1)
    rig.turn()
    second = holding(rig, 100, 2, function=1)
    assert first != second, "another function gets a fresh process"
    rig.end(second, 2)
    rig.turn()
    rig.assign(row(3), needs=((3, 1, 0, 100),))
    assert rig.turn()["to_slots"][0][0] == first


def test_when_the_worker_is_full_the_step_in_the_largest_slot_is_told_so() -> None:
    rig = WorkerRig(2, memory=1000).join()
    rig.assign(row(1), row(2))
    rig.turn()
    rig.core.on_memory({1: 300, 2: 700}, 0, rig.now)
    assert rig.turn()["kills"] == [2]
    rig.core.on_slot_died(2, 2, 100_000_000, 9, 0, rig.now)
    ((number, code, *_),) = rig.turn()["messages"][-1].rows
    assert (number, code) == (2, oc.OVER_MEMORY)
    assert list(rig.core.attempts) == [1]
