"""Steps that return workflows, in every mode."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT, steps, wait_until
from helpers.daemons import Daemons, daemons
from helpers.pictures import picture
from pfw import (
    Client,
    GraphError,
    LocalCluster,
    Retry,
    StepFailedError,
    UnpicklableError,
    Workflow,
    current,
    run,
    start,
    step,
)
from pfw.errors import OutputNotKeptError

__all__ = ["daemons"]

MODES = ("sequential", "parallel", "waves")

add, double, fail, give, total = map(step, (steps.add, steps.double, steps.fail, steps.give, steps.total))
hold = step(steps.hold, hint="light_io")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


@step
def fibonacci(n: int) -> Any:
    if n < 2:
        return n
    with Workflow() as wf:
        add(fibonacci(n - 1), fibonacci(n - 2))
    return wf


@step
def count_down(n: int) -> Any:
    if not n:
        return current().step_id
    with Workflow() as wf:
        count_down(n - 1)
    return wf


@step
def spread(n: int) -> Workflow:
    with Workflow() as wf:
        first, second = give((n, n + 1)).unpack(2)
        doubled = double.map([first, second, 10])
        add.options(id="apart")(1, 2)
        wf.returns({"doubled": doubled, "first": (first, doubled[2])})
    return wf


@step
async def spread_later(n: int) -> Workflow:
    return spread.fn(n)


@step(retry=Retry(retries=2, backoff=0.001))
def late(value: Any) -> Workflow:
    if current().attempt < 3:
        raise ConnectionError("not yet")
    with Workflow() as wf:
        double(value)
    return wf


@step
def fails_inside(value: Any) -> Workflow:
    with Workflow() as wf:
        double(fail("inside", value))
        give("aside")
        wf.returns(wf["double"])
    return wf


@step
def nothing() -> Workflow:
    return Workflow("nothing")


@step(retry=2)
def several() -> Workflow:
    with Workflow("several") as wf:
        give(1)
        give(2)
    return wf


@step
def circle() -> Workflow:
    with Workflow() as wf:
        give.options(id="a", after="b")(1)
        give.options(id="b", after="a")(1)
    return wf


@step
def cannot_travel() -> Workflow:
    with Workflow() as wf:
        give(steps.generate())
    return wf


@step
def in_a_list() -> Any:
    return [spread.fn(1)]


def recursion() -> Workflow:
    with Workflow("recursion") as wf:
        double(fibonacci(7))
    return wf


def structure() -> Workflow:
    with Workflow("structure") as wf:
        value = spread(3)
        give([value["doubled"], value, spread_later(5)["first"]])
    return wf


def retried() -> Workflow:
    with Workflow("retried") as wf:
        double(late(late(1)))
    return wf


def looped() -> Workflow:
    with Workflow("looped") as wf:
        step(lambda x, by: x * by).options(id="grow").loop(give(1), until=lambda x: x > 100, by=2)
    return wf


def failing() -> Workflow:
    with Workflow("failing") as wf:
        double(fails_inside(1))
        double(double.options(id="other")(4))
    return wf


def refused() -> Workflow:
    with Workflow("refused") as wf:
        for maker in (nothing, several, circle, cannot_travel, in_a_list):
            double(maker())
        double.loop(1, until=lambda x: False, limit=3)
    return wf


@pytest.mark.parametrize("make", [recursion, structure, retried, looped])
def test_the_modes_agree_on_what_succeeds(cluster: LocalCluster, make: Callable[[], Workflow]) -> None:
    runs = [run(make(), mode=mode, on=cluster, keep="all") for mode in MODES]
    first, *others = map(picture, runs)
    for found in runs:
        ends = Counter(e.step_id for e in found.events() if e.type in ("Completed", "Failed", "Skipped", "Cancelled"))
        assert ends == dict.fromkeys(found.states, 1)
        assert set(found.states.values()) == {"SUCCEEDED"}
    for other in others:
        assert other == first


@pytest.mark.parametrize("make", [failing, refused])
def test_the_modes_agree_on_what_fails(cluster: LocalCluster, make: Callable[[], Workflow]) -> None:
    runs = [run(make(), mode=mode, on=cluster, keep="all", on_failure="continue", check=False) for mode in MODES]
    first, *others = map(picture, runs)
    for other in others:
        assert other == first
    assert runs[0].status == "FAILED"


def test_values_and_ids() -> None:
    found = run(recursion(), mode="sequential")
    assert found.value == 26
    assert "fibonacci/fibonacci#2/add" in found.states
    assert run(structure(), mode="sequential").value == [
        [6, 8, 20], {"doubled": [6, 8, 20], "first": (3, 20)}, (5, 20)
    ]  # fmt: skip
    assert run(looped(), mode="sequential").value == 128


@pytest.mark.parametrize("mode", MODES)
def test_a_long_chain_stays_flat(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        count_down(1_000)
    found = run(wf, mode=mode, on=cluster)
    assert found.value == "count_down/#1000/count_down"
    assert len(found.states) == 1_001
    assert len(found.outputs) == 1


@pytest.mark.parametrize("mode", MODES)
def test_what_fails_inside_fails_the_step(cluster: LocalCluster, mode: str) -> None:
    with pytest.raises(StepFailedError, match="inside") as failure:
        run(failing(), mode=mode, on=cluster, keep="all")
    found = failure.value.run
    assert failure.value.step == "fails_inside/fail"
    assert isinstance(found.errors["fails_inside"].__cause__, ValueError)
    assert found.states["fails_inside"] == "FAILED"
    assert found.states["fails_inside/double"] == "SKIPPED"
    assert found.states["double"] == "SKIPPED"
    with pytest.raises(OutputNotKeptError, match="FAILED"):
        found.outputs["fails_inside"]


def test_what_cannot_be_expanded_says_why(cluster: LocalCluster) -> None:
    found = run(refused(), on=cluster, on_failure="continue", check=False)
    errors = found.errors
    rounds = next(name for name in errors if name.endswith("until"))
    reasons = {"nothing": "no steps", "several": "2 leaves", "circle": "wait for", rounds: "not done after 3 rounds"}
    for name, text in reasons.items():
        assert isinstance(errors[name].__cause__, GraphError)
        assert text in str(errors[name])
    assert errors["several"].attempts == 1
    assert isinstance(errors["cannot_travel"], UnpicklableError)
    assert isinstance(errors["in_a_list"], UnpicklableError)


def test_who_attaches_later_sees_the_same(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT / "tests")]))

    @step
    def outer(n: int) -> Workflow:
        with Workflow() as inner:
            inner.returns(double.map([n, n + 1]))
        return inner

    def workflow() -> Workflow:
        with Workflow() as wf:
            double(outer(3))
        return wf

    daemons.start_coordinator()
    with Client(daemons.address) as client:
        daemons.start_worker()
        started = client.start(workflow(), keep="all", key="twice")
        assert started.wait(20)
        with Client(daemons.address) as other:
            attached = other.attach(started.id)
            assert attached.wait(20)
            assert picture(attached) == picture(started)
            assert attached.outputs["outer/double[1]"] == 8
            assert (attached.inputs("outer/double[1]"), attached.replay("outer/double[1]")) == (((4,), {}), 8)
        # The same key is the same run, although its graph has grown.
        assert client.start(workflow(), keep="all", key="twice").id == started.id


def test_a_step_that_is_done_again_after_a_loss_expands_once(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT / "tests")]))

    @step
    def slow(folder: str) -> Workflow:
        steps.hold(folder, f"slow-{os.getpid()}")
        with Workflow() as inner:
            double(21)
        return inner

    def called(folder: str) -> Workflow:
        with Workflow() as inner:
            double(hold(folder, "held", 21))
        return inner

    apart = tmp_path / "apart"
    apart.mkdir()
    daemons.start_coordinator()
    with Client(daemons.address) as client:
        first = daemons.start_worker()
        call = client.submit(called, str(apart))
        wait_until((apart / "held").exists, what="the step inside the call")
        with Workflow() as wf:
            give(slow(str(tmp_path)))
        found = client.start(wf)
        wait_until(lambda: list(tmp_path.glob("slow-*")), what="the first attempt")
        daemons.start_worker()
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: len(list(tmp_path.glob("slow-*"))) == 2, 30, what="the second attempt")
        wait_until(lambda: (apart / "held").read_text().count("\n") == 2, 30, what="the step inside the call, again")
        (tmp_path / "go").touch()
        (apart / "go").touch()
        assert found.value == 42
        assert call.result(20) == 42
    assert sorted(found.states) == ["give", "slow", "slow/double"]
    assert found.metrics.steps["slow"].attempts == 2


def test_an_expanded_step_holds_no_slot_and_is_cancelled_with_its_run(cluster: LocalCluster, tmp_path: Path) -> None:
    @step
    def waits(folder: str) -> Workflow:
        with Workflow() as inner:
            double(hold(folder, "held"))
        return inner

    with Workflow() as wf:
        double(waits(str(tmp_path)))
    found = start(wf, on=cluster)
    wait_until(lambda: found.states.get("waits/hold") == "ASSIGNED", what="the inner step")
    assert found.states["waits"] == "EXPANDED"
    assert next(worker["held"] for worker in cluster.workers()) == 1
    found.cancel("enough")
    assert found.wait(20)
    assert found.states == {
        "waits": "CANCELLED", "double": "CANCELLED", "waits/hold": "CANCELLED", "waits/double": "CANCELLED",
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_inner_steps_inherit_parameters(cluster: LocalCluster, mode: str) -> None:
    @step
    def read() -> Any:
        return dict(current().params)

    @step
    def outer(own: Any) -> Workflow:
        with Workflow(params=own) as inner:
            read()
        return inner

    with Workflow(params={"a": 1}) as wf:
        give([outer(None), outer({"b": 2})])
    assert run(wf, mode=mode, on=cluster).value == [{"a": 1}, {"b": 2}]


def test_metrics_count_each_piece_of_work_once(cluster: LocalCluster) -> None:
    found = run(structure(), on=cluster)
    metrics = found.metrics
    assert metrics.total_steps == len(found.states)
    assert metrics.steps["spread"].attempts == 1
    assert [attempt.status for attempt in metrics.steps["spread"].history] == ["EXPANDED"]
    assert sum(metrics.run_time.values()) == pytest.approx(sum(s.run_time for s in metrics.steps.values()))
    assert [len(wave.steps) for wave in metrics.waves] == [14, 1]
