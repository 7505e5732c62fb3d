"""Clients that never wait, but look now and then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import ROOT, steps, wait_until
from helpers.daemons import Daemons, daemons
from pfw import Client, LocalCluster, Workflow, start, step

__all__ = ["daemons"]

#: As often as a program may look that does something else between.
LOOKS = 200_000


def look_until(is_done: Callable[[], bool]) -> None:
    """Looks without a pause."""
    for _ in range(LOOKS):
        if is_done():
            return
    pytest.fail(f"nothing was heard in {LOOKS:,} looks")


def test_who_looks_without_waiting_hears_of_the_end() -> None:
    with LocalCluster(cpu=1) as cluster:
        with Workflow() as wf:
            step(steps.give)(1)
        run = cluster.start(wf)
        look_until(lambda: run.wait(0))
        assert run.value == 1


def test_who_asks_a_future_without_waiting_gets_its_result() -> None:
    with LocalCluster(cpu=1) as cluster:
        future = cluster.submit(steps.give, 2)

        def is_there() -> bool:
            with contextlib.suppress(TimeoutError):
                return bool(future.result(timeout=0) == 2)
            return False

        look_until(is_there)


def test_a_cancel_that_is_not_waited_for_stands_when_its_client_goes(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}")
    daemons.start_coordinator()
    daemons.start_worker()
    with Workflow() as wf:
        step(steps.hold)(str(tmp_path), "it", 1)
    with Client(daemons.address) as client:
        run = client.start(wf)
        wait_until((tmp_path / "it").exists, what="it runs")
        run.cancel(timeout=0)
    with Client(daemons.address) as client:
        assert client.attach(run.id).wait(20)
        assert client.attach(run.id).status == "CANCELLED"


def test_a_cancel_that_comes_before_the_run_was_accepted_stands(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}")
    daemons.start_coordinator()
    daemons.start_worker()
    with Workflow("early") as wf:
        step(steps.hold)(str(tmp_path), "it", 1)
    with Client(daemons.address) as client:
        start(wf, on=client).cancel(timeout=0)
    with Client(daemons.address) as client:
        wait_until(lambda: [run["status"] for run in client.runs()] == ["CANCELLED"], what="it has ended")
