"""Tokens that cancel runs, tokens in steps, and what a cancel says it has done."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import steps, wait_until
from pfw import (
    CancellationToken,
    CancelReceipt,
    ConfigError,
    LocalCluster,
    Run,
    RunCancelledError,
    Workflow,
    arun,
    current,
    run,
    start,
    step,
)

MODES = ("sequential", "parallel", "waves")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


def began(folder: Path, name: str = "it") -> None:
    wait_until((folder / name).exists, what=f"{name} has begun")


def obeying(folder: Path, *names: str) -> Workflow:
    with Workflow("obeying") as wf:
        for name in names or ("it",):
            step(steps.obey_token, grace=20.0)(str(folder), name)
    return wf


def ends(receipt: CancelReceipt) -> dict[str, str]:
    return {name: end.how for name, end in receipt.steps.items()}


# -- token= ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_token_cancels_its_run(cluster: LocalCluster, tmp_path: Path, mode: str) -> None:
    token = CancellationToken()
    found = start(obeying(tmp_path), mode=mode, on=cluster, token=token)
    began(tmp_path)
    token.cancel("enough")
    assert found.wait(20)
    with pytest.raises(RunCancelledError, match="enough") as caught:
        found.check()
    assert (found.status, found.states) == ("CANCELLED", {"obey_token": "CANCELLED"})
    assert ends(caught.value.receipt) == {"obey_token": "finished anyway"}


@pytest.mark.parametrize("mode", MODES)
def test_with_a_token_that_is_cancelled_nothing_runs(cluster: LocalCluster, tmp_path: Path, mode: str) -> None:
    token = CancellationToken()
    token.cancel("before it began")
    with Workflow() as wf:
        step(steps.mark).map([str(tmp_path)] * 3, "abc")
    with pytest.raises(RunCancelledError, match="before it began") as caught:
        run(wf, mode=mode, on=cluster, token=token)
    assert list(tmp_path.iterdir()) == []
    assert set(ends(caught.value.receipt).values()) == {"never started"}
    found = caught.value.run
    assert [event.type for event in found.events()] == ["RunStarted", *["Cancelled"] * 3, "RunFinished"]
    assert start(wf, mode=mode, on=cluster, token=token).wait(20)
    assert asyncio.run(arun(wf, mode=mode, on=cluster, token=token, check=False)).status == "CANCELLED"


def test_one_token_serves_many_runs(cluster: LocalCluster, tmp_path: Path) -> None:
    token = CancellationToken()
    with Workflow() as quick:
        step(steps.give)(1)
    assert run(quick, on=cluster, token=token).value == 1
    both = [start(obeying(tmp_path, name), on=cluster, token=token) for name in ("it", "other")]
    began(tmp_path), began(tmp_path, "other")
    bystander = start(quick, on=cluster)
    token.cancel()
    assert all(found.wait(20) for found in both)
    assert {found.status for found in both} == {"CANCELLED"}
    assert bystander.value == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_handler_may_cancel_a_token(cluster: LocalCluster, tmp_path: Path, mode: str) -> None:
    token, pid = CancellationToken(), os.getpid()

    def interrupt() -> None:
        began(tmp_path)
        os.kill(pid, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: token.cancel("SIGUSR1"))
    try:
        threading.Thread(target=interrupt).start()
        found = run(obeying(tmp_path), mode=mode, on=cluster, token=token, check=False)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (found.status, found.cancel().reason) == ("CANCELLED", "SIGUSR1")


def test_a_task_is_told_that_its_token_was_cancelled(cluster: LocalCluster, tmp_path: Path) -> None:
    async def main() -> None:
        token = CancellationToken()
        task = asyncio.create_task(arun(obeying(tmp_path), on=cluster, token=token))
        while not (tmp_path / "it").exists():
            await asyncio.sleep(0.005)
        token.cancel_after(0.0)
        with pytest.raises(RunCancelledError, match="after 0 s"):
            await task

    asyncio.run(main())


def test_a_token_is_a_token(cluster: LocalCluster) -> None:
    with pytest.raises(ConfigError, match="token"):
        run(obeying(Path()), on=cluster, token="stop")  # type: ignore[arg-type]


# -- in a step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_token_that_a_step_holds_is_its_own(cluster: LocalCluster, mode: str, is_async: bool) -> None:
    token = CancellationToken()

    def hold(given: CancellationToken) -> bool:
        return token is current().token is given

    async def hold_async(given: CancellationToken) -> bool:
        await asyncio.sleep(0.001)
        return token is current().token is given

    with Workflow() as wf:
        many = step(hold_async if is_async else hold).map([token] * 20)
    assert run(wf, mode=mode, on=cluster, token=token, keep=[many]).outputs[many] == [True] * 20


@pytest.mark.parametrize("mode", MODES)
def test_a_captured_token_stops_the_step(cluster: LocalCluster, tmp_path: Path, mode: str) -> None:
    token, folder = CancellationToken(), str(tmp_path)

    def work() -> None:
        token.on_cancel(lambda: steps.mark(folder, "told"))
        steps.mark(folder, "it")
        while True:
            token.check()
            time.sleep(0.001)

    with Workflow() as wf:
        step(work, grace=20.0)()
    found = start(wf, mode=mode, on=cluster, token=token)
    began(tmp_path)
    token.cancel()
    assert found.wait(20)
    assert (tmp_path / "told").read_text().count("\n") == 1
    assert ends(found.cancel()) == {"work": "stopped itself"}


# -- receipts ----------------------------------------------------------------------------------------------------------


def swallow_exceptions(folder: str, name: str) -> None:
    """Goes on after every Exception; `StepInterrupt` is none."""
    steps.mark(folder, name)
    while True:
        try:
            time.sleep(600)
        except Exception:
            continue


def test_a_receipt_says_how_each_step_ended(tmp_path: Path) -> None:
    folder = str(tmp_path)
    with Workflow() as wf:
        done = step(steps.give)(1)
        io = {"hint": "light_io"}
        running = {
            "stopped itself": step(steps.obey_check, grace=20.0, **io)(folder, "a"),
            "interrupted": step(swallow_exceptions, grace=1.0, **io)(folder, "b"),
            "killed": step(steps.ignore_all, grace=0.3, **io)(folder, "c"),
            "finished anyway": step(steps.obey_token, grace=20.0, **io)(folder, "d"),
        }
        task = step(steps.sleep_long_async, grace=20.0)(folder, "e")
        late = step(steps.mark)(folder, "late").after(running["killed"])
    with LocalCluster(cpu=1, io=4) as cluster:
        found = start(wf, on=cluster)
        for name in "abcde":
            began(tmp_path, name)
        wait_until(lambda: found.states[done.id] == "SUCCEEDED", what="the first is done")
        receipt = found.cancel("enough")
        assert ends(receipt) == {
            done.id: "already done",
            late.id: "never started",
            task.id: "interrupted",
            **{node.id: how for how, node in running.items()},
        }
        after_ms = {how: receipt.steps[node.id].after_ms or 0 for how, node in running.items()}
        assert after_ms["stopped itself"] < 500 <= after_ms["interrupted"] <= receipt.after_ms
        assert after_ms["killed"] >= 300
        assert (receipt.run_id, receipt.reason, receipt.is_complete) == (found.id, "enough", True)
        assert found.cancel("again") == receipt
        messages = {event.step_id: event.message for event in found.events() if event.type == "Cancelled"}
        assert messages[late.id] == "enough: never started"
        assert messages[running["killed"].id] == f"enough: killed after {after_ms['killed']} ms"
        with Workflow() as again:
            step(steps.meet, hint="light_io").map([folder] * 4, [f"meet{n}" for n in range(4)], count=4)
        assert run(again, on=cluster).status == "SUCCEEDED", "its slots are usable again"


def test_a_receipt_of_sequential_mode(tmp_path: Path) -> None:
    with Workflow() as wf:
        first = step(steps.give)(1)
        second = step(steps.obey_check)(str(tmp_path), "it").after(first)
        third = step(steps.give)(3).after(second)
    found = start(wf, mode="sequential")
    began(tmp_path)
    receipt = found.cancel("enough")
    assert ends(receipt) == {first.id: "already done", second.id: "stopped itself", third.id: "never started"}
    assert (receipt.reason, receipt.is_complete) == ("enough", True)


def test_a_cancel_waits_no_longer_than_it_is_told(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.ignore_all, grace=1.0)(str(tmp_path), "it")
    found = start(wf, on=cluster)
    began(tmp_path)
    receipt = found.cancel(timeout=0.0)
    assert (ends(receipt), receipt.is_complete) == ({"ignore_all": "not ended"}, False)
    assert ends(found.cancel()) == {"ignore_all": "killed"}


def test_a_run_is_cancelled_by_its_id_with_a_receipt(cluster: LocalCluster, tmp_path: Path) -> None:
    found = start(obeying(tmp_path), on=cluster)
    began(tmp_path)
    wait_until(lambda: found.id, what="the run is accepted")
    assert ends(cluster.cancel(found.id, "by its id")) == {"obey_token": "finished anyway"}
    assert found.status == "CANCELLED"


def test_a_progress_function_may_cancel_its_run(cluster: LocalCluster, tmp_path: Path) -> None:
    found: list[Run] = []
    receipts: list[CancelReceipt] = []
    ready = threading.Event()

    def on_event(event: Any) -> None:
        if event.type == "Started":
            ready.wait(20)
            receipts.append(found[0].cancel("seen"))

    found.append(start(obeying(tmp_path), on=cluster, progress=on_event))
    ready.set()
    assert found[0].wait(20)
    found[0].join_reporters()
    assert [receipt.reason for receipt in receipts] == ["seen"]
