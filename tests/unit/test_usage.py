"""What steps cost: measured on this process itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from pfw import host, usage
from pfw.usage import LOOK_US, Loads, Meter, Turns

MIB = 1 << 20


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_cpu_time_is_what_was_computed_and_not_what_was_waited() -> None:
    meter = Meter()
    meter.begin()
    burn(0.02)
    (cpu_us,), _ = meter.end([1_000_000])
    assert cpu_us >= 20_000
    time.sleep(0.02)  # what is between two steps is not counted
    meter.begin()
    (idle_us,), _ = meter.end([1_000_000])
    assert idle_us < 20_000


def test_loading_is_no_part_of_what_steps_cost() -> None:
    meter, loads = Meter(), Loads()
    meter.begin()
    for _ in range(2):
        with loads.measured():
            burn(0.02)
    spent_ns = loads.ns
    assert spent_ns >= 40_000_000
    assert loads.take(meter) == spent_ns
    assert (loads.ns, loads.take(meter)) == (0, 0)
    assert meter.end([1_000])[0] < [40_000]


def test_a_load_is_left_out_once_also_where_others_are_told_before_its_step_has_ended() -> None:
    meter, loads = Meter(), Loads()
    meter.begin()
    with loads.measured():
        burn(0.02)
    loads.leave_out(meter)
    (before_us,), _ = meter.end([100], 100)
    loads.take(meter)
    (cpu_us,), _ = meter.end([1_000])
    assert 0 <= before_us < 20_000
    assert 0 <= cpu_us < 20_000


def test_a_load_that_fails_is_measured_too() -> None:
    loads = Loads()
    with pytest.raises(TypeError), loads.measured():
        burn("for as long as nobody can say")  # type: ignore[arg-type]
    assert loads.ns


def test_steps_that_ran_together_share_their_cpu_time_as_their_run_time() -> None:
    meter = Meter()
    meter.begin()
    burn(0.02)
    shares, _ = meter.end([100, 0, 300])
    assert shares[1] == 0
    assert shares[2] == pytest.approx(3 * shares[0], abs=3)
    assert sum(shares) >= 20_000 - 3
    assert meter.end([0, 0]) == ([0, 0], [0, 0])


def test_memory_is_looked_at_only_after_steps_that_took_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "take_peak_memory", lambda: 7)
    meter = Meter()
    meter.begin()
    assert meter.end([LOOK_US - 1])[1] == [0]
    assert meter.end([LOOK_US - 1, 1])[1] == [7, 7]


def test_the_peak_of_memory_starts_anew_after_each_look() -> None:
    before = host.take_peak_memory()
    del_me = bytearray(128 * MIB)
    del_me[:: 1 << 12] = bytes(len(del_me[:: 1 << 12]))
    del del_me
    high, low = host.take_peak_memory(), host.take_peak_memory()
    assert high > before + 100 * MIB
    assert low < high - 100 * MIB


def test_without_a_way_to_start_anew_the_peak_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(host.os, "open", refuse)
        assert host.take_peak_memory() > MIB


# -- one task among others ---------------------------------------------------------------------------------------------


async def work(seconds: float) -> str:
    burn(seconds)
    await asyncio.sleep(0.01)
    burn(seconds)
    return "done"


def test_the_turns_of_a_task_are_its_own() -> None:
    async def both() -> tuple[usage.Cost, usage.Cost]:
        costs = []
        watched = [Turns(), Turns()]
        for turns, seconds in zip(watched, (0.02, 0.0), strict=True):
            costs.append(turns.watch(work(seconds)))
        assert await asyncio.gather(*map(_await, costs)) == ["done", "done"]
        return watched[0].cost(), watched[1].cost()

    (busy_us, peak), (idle_us, _) = asyncio.run(both())
    assert busy_us >= 40_000
    assert idle_us < 20_000
    assert peak == 0


def test_a_task_runs_from_its_first_turn_on() -> None:
    async def wait() -> list[int]:
        turns, known = Turns(), []
        task = asyncio.ensure_future(_await(turns.watch(asyncio.sleep(0.02))))
        time.sleep(0.05)  # another task has the loop
        known.append(turns.run_us())
        await task
        return [*known, turns.run_us()]

    before, after = asyncio.run(wait())
    assert before == 0
    assert 20_000 <= after < 50_000


async def _await(found: object) -> object:
    return await found  # type: ignore[misc]


def test_a_watched_task_can_be_cancelled_and_can_fail() -> None:
    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise KeyError("while cleaning up") from None

    async def cancelled() -> None:
        task = asyncio.ensure_future(_await(Turns().watch(clean_up())))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(KeyError, match="while cleaning up"):
        asyncio.run(cancelled())
