"""Steps and runs that take too long: ended while they run, in every mode."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import steps, wait_until
from pfw import (
    Client,
    Config,
    ConfigError,
    LocalCluster,
    Retry,
    RunCancelledError,
    RunTimeoutError,
    Step,
    StepFailedError,
    StepTimeoutError,
    Workflow,
    arun,
    host,
    run,
    start,
    step,
)

MODES = ("sequential", "parallel", "waves")
#: As many as the steps of a test that hang at the same time.
SLOTS = {"cpu": 2, "io": 6}
TIMEOUT_S, GRACE_S = 1.0, 0.5
#: Beyond what was promised: this machine has other things to do.
SLACK_S = 4.0

give = step(steps.give)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(**SLOTS) as found:
        yield found


@pytest.fixture(autouse=True)
def slots_are_usable_again(cluster: LocalCluster, tmp_path: Path) -> Iterator[None]:
    """After each test all slots work, and nothing of the test is held any more."""
    yield
    folder = tmp_path / "afterwards"
    folder.mkdir()
    with Workflow() as wf:
        step(steps.meet).map([str(folder)] * 2, ["cpus0", "cpus1"], count=2)
        step(steps.meet, hint="light_io").map([str(folder)] * 6, [f"ioio{n}" for n in range(6)], count=6)
        step(steps.meet_async).map([str(folder)] * 2, ["asyn0", "asyn1"], count=2)
    assert run(wf, on=cluster).status == "SUCCEEDED"
    assert cluster.status()["held"] == 0


def alone(fn: Any, *args: Any) -> Workflow:
    with Workflow() as wf:
        (fn if hasattr(fn, "options") else step(fn))(*args)
    return wf


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("mode", ["parallel", "waves"])
def test_a_step_that_hangs_ends_when_its_time_is_over(cluster: LocalCluster, mode: str) -> None:
    """What Python can stop ends at the timeout; what it cannot is killed after the grace."""
    hasty = {"timeout": TIMEOUT_S, "grace": GRACE_S}
    with Workflow() as wf:
        stoppable = (
            step(steps.spin, hint="light_io", **hasty)(),
            step(steps.nap, hint="light_io", **hasty)(600),
            step(steps.swallow, name="swallows errors", hint="light_io", **hasty)(Exception),
            step(steps.nap_async, **hasty)(600),
        )
        stubborn = (
            step(steps.swallow, name="swallows all", hint="light_io", **hasty)(BaseException),
            step(steps.hold_gil, hint="light_io", **hasty)(),
        )
    found = run(wf, mode=mode, on=cluster, on_failure="continue", check=False)
    assert found.status == "FAILED"
    assert set(found.states.values()) == {"TIMED_OUT"}
    assert found.metrics.failed_steps == 6
    least_s = dict.fromkeys([node.id for node in stoppable], TIMEOUT_S)
    least_s |= dict.fromkeys([node.id for node in stubborn], TIMEOUT_S + GRACE_S)
    for name, least in least_s.items():
        error, known = found.errors[name], found.metrics.steps[name]
        assert isinstance(error, StepTimeoutError)
        assert isinstance(error, TimeoutError)
        assert str(error).startswith(f"step {name!r} timed out: it ran for longer than its timeout of 1 s")
        assert least <= known.ended_at - known.queued_at <= least + SLACK_S
    assert "in spin" in found.errors["spin"].remote_traceback
    assert [event.type for event in found.events() if event.step_id == "spin"] == ["Queued", "Started", "TimedOut"]


def test_a_step_that_lets_itself_be_interrupted_keeps_its_process(cluster: LocalCluster, tmp_path: Path) -> None:
    found = run(alone(step(steps.sleep_long, timeout=1.0, grace=30.0), str(tmp_path), "it"), on=cluster, check=False)
    assert found.states == {"sleep_long": "TIMED_OUT"}
    assert (tmp_path / "it-stopped").exists()
    assert host.is_alive(int((tmp_path / "it").read_text()))


def test_an_async_step_that_blocks_its_process_is_killed_and_its_neighbours_run_again(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    neighbour = start(alone(steps.hold_async, str(tmp_path), "other", "fine"), on=cluster)
    wait_until(lambda: (tmp_path / "other").exists(), what="the neighbour has begun")
    found = run(alone(step(block_loop, timeout=0.2, grace=0.2)), on=cluster, check=False)
    assert found.states == {"block_loop": "TIMED_OUT"}
    assert found.metrics.steps["block_loop"].run_time < 60
    (tmp_path / "go").touch()
    assert neighbour.value == "fine"
    assert neighbour.metrics.steps["hold_async"].attempts == 1


async def block_loop() -> None:
    steps.swallow(BaseException)


@pytest.mark.parametrize("mode", MODES)
def test_what_returns_after_its_timeout_has_timed_out(cluster: LocalCluster, mode: str) -> None:
    wf = alone(step(steps.return_when_interrupted, timeout=0.1))
    with pytest.raises(StepTimeoutError) as caught:
        run(wf, mode=mode, on=cluster, keep="all")
    assert caught.value.run.outputs == {}


def speakers() -> list[Any]:
    """Steps that print and then take too long; by value, so that hardly any of their time goes into loading them."""

    def nap(text: str) -> None:
        print("beginning")
        print(text, end="")
        time.sleep(600)

    async def nap_async(text: str) -> None:
        print("beginning")
        print(text, end="")
        await asyncio.sleep(600)

    def hang(text: str) -> None:
        print("beginning")
        print(text, end="")
        steps.swallow(BaseException)

    late = {"timeout": 1.0, "grace": 0.2}
    return [step(nap, hint="light_io", **late), step(nap_async, **late), step(hang, hint="light_io", **late)]


@pytest.mark.parametrize("mode", MODES)
def test_the_last_that_it_printed_is_part_of_its_error(cluster: LocalCluster, mode: str) -> None:
    speaking = speakers()[: 2 if mode == "sequential" else 3]
    with Workflow() as wf:
        for speaker in speaking:
            speaker("words é")
        step(print, name="silent", timeout=60)("not theirs")
    found = run(wf, mode=mode, on=cluster, on_failure="continue", check=False)
    assert set(found.errors) == {speaker.name for speaker in speaking}
    for error in found.errors.values():
        assert isinstance(error, StepTimeoutError)
        assert error.last_output == "beginning\nwords é"
        assert str(error).endswith("The last it printed:\nbeginning\nwords é")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("rule", "attempts"),
    [
        (2, 3), (Retry(retries=2, on=TimeoutError), 3), (Retry(retries=2, on=ValueError), 1),
        (Retry(retries=2, give_up=StepTimeoutError), 1),
        (Retry(retries=2, on=lambda error: isinstance(error, StepFailedError)), 3),
    ],
)  # fmt: skip
def test_the_retry_rule_decides_about_timeouts(cluster: LocalCluster, mode: str, rule: Any, attempts: int) -> None:
    retry = Retry(retries=rule, backoff=0.0) if isinstance(rule, int) else rule
    found = run(alone(step(steps.nap, timeout=0.05, retry=retry), 600), mode=mode, on=cluster, check=False)
    assert found.errors["nap"].attempts == attempts
    assert found.states == {"nap": "TIMED_OUT"}


@pytest.mark.parametrize("mode", MODES)
def test_steps_without_a_timeout_get_that_of_the_config(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        step(steps.nap)(600)
        step(steps.nap, timeout=30, name="own")(0.5)
    config = Config(step_timeout=0.2, grace=0.2, on_failure="continue")
    found = run(wf, mode=mode, on=cluster, config=config, check=False)
    assert found.states == {"nap": "TIMED_OUT", "own": "SUCCEEDED"}


def test_a_step_in_class_form_has_a_timeout(cluster: LocalCluster) -> None:
    class Sleeper(Step):
        id = "sleeper"

        def timeout(self) -> float:
            return 0.1

        def execute(self, ctx: Any) -> None:
            steps.nap(600)

    wf = Workflow()
    wf.add(Sleeper())
    with pytest.raises(StepTimeoutError, match="'sleeper' timed out"):
        run(wf, on=cluster)


def test_a_call_that_takes_too_long_raises_in_its_future(cluster: LocalCluster) -> None:
    future = cluster.submit(step(steps.nap, timeout=0.1), 600)
    with pytest.raises(StepTimeoutError, match="timed out"):
        future.result()
    assert cluster.submit(step(steps.nap, timeout=30), 0.0, "quick").result() == "quick"


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_takes_too_long_is_ended(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        first = give(1)
        slow = step(steps.nap, grace=0.2)(600, first)
        give.options(id="last")(slow)
    with pytest.raises(RunTimeoutError, match=r"the run's timeout of 1\.5 s is over") as caught:
        run(wf, mode=mode, on=cluster, timeout=1.5, keep="all")
    found = caught.value.run
    assert isinstance(caught.value, RunCancelledError)
    assert isinstance(caught.value, TimeoutError)
    assert found.status == "TIMED_OUT"
    assert found.states == {"give": "SUCCEEDED", "nap": "CANCELLED", "last": "CANCELLED"}
    assert found.outputs[first] == 1
    assert 1.5 <= found.metrics.total_duration <= 1.5 + SLACK_S
    events = list(found.events())
    assert (events[-1].type, events[-1].message) == ("RunFinished", "TIMED_OUT")
    messages = [event.message or "" for event in events if event.type == "Cancelled"]
    assert len(messages) == 2
    assert all(message.startswith("the run's timeout of 1.5 s is over: ") for message in messages)
    assert sum("never started" in message for message in messages) == 1


def test_every_way_to_run_takes_a_timeout(cluster: LocalCluster) -> None:
    wf = alone(step(steps.nap, grace=0.2), 600)
    found = start(wf, on=cluster, timeout=0.2)
    assert found.wait(20)
    assert found.status == "TIMED_OUT"
    with pytest.raises(RunTimeoutError):
        asyncio.run(arun(wf, on=cluster, timeout=0.2))
    with pytest.raises(RunTimeoutError):
        cluster.run(wf, timeout=0.2)
    with pytest.raises(RunTimeoutError):
        run(wf, on=cluster, config=Config(timeout=0.2))


@pytest.mark.parametrize("mode", MODES)
def test_a_run_in_its_backoff_is_ended(cluster: LocalCluster, mode: str) -> None:
    retry = Retry(retries=1, backoff=600.0, max_delay=600.0, jitter="none")
    found = run(alone(step(steps.fail, retry=retry)), mode=mode, on=cluster, timeout=0.2, check=False)
    assert (found.status, found.states) == ("TIMED_OUT", {"fail": "CANCELLED"})


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_is_quick_enough_succeeds(cluster: LocalCluster, mode: str) -> None:
    assert run(alone(give, 1), mode=mode, on=cluster, timeout=30).value == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1", True])
def test_a_timeout_that_cannot_be_is_refused(mode: str, timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        run(alone(give, 1), mode=mode, timeout=timeout)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", True, None])
def test_a_client_needs_a_number_of_seconds_to_wait(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout is a number"):
        Client("tcp://127.0.0.1:1", timeout=timeout)


# ---------------------------------------------------------------- sequential mode


def test_sequential_mode_leaves_the_alarm_of_others_alone() -> None:
    def mine(number: int, frame: object) -> None:
        raise AssertionError("it is set to ring much later")

    before, timer = signal.signal(signal.SIGALRM, mine), signal.setitimer(signal.ITIMER_REAL, 50.0)
    try:
        found = run(alone(step(steps.spin, timeout=0.1)), mode="sequential", check=False)
        assert found.states == {"spin": "TIMED_OUT"}
        assert signal.getsignal(signal.SIGALRM) is mine
        assert 1.0 < signal.getitimer(signal.ITIMER_REAL)[0] < 50.0
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_on_another_thread_sequential_mode_interrupts_only_async_steps() -> None:
    found = start(alone(step(steps.nap, timeout=0.02), 0.1, "done"), mode="sequential")
    assert found.value == "done"
    found = start(alone(step(steps.nap_async, timeout=0.02), 600), mode="sequential")
    assert found.wait(20)
    assert found.states == {"nap_async": "TIMED_OUT"}


def test_under_a_debugger_sequential_mode_has_no_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    for fn in (steps.nap, steps.nap_async):
        assert run(alone(step(fn, timeout=0.02), 0.1, "done"), mode="sequential").value == "done"
