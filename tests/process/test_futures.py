"""Single calls: submit, map, gather, and futures as arguments of further calls."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers import steps, wait_until
from pfw import (
    Client,
    ClusterError,
    Config,
    ConfigError,
    CoordinatorLostError,
    GraphError,
    Hint,
    LocalCluster,
    PfwError,
    Retry,
    StepCrashedError,
    StepTimeoutError,
    UnpicklableError,
    UnschedulableError,
    Workflow,
    current,
    host,
    run,
    step,
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


def test_a_call_returns_its_result(cluster: LocalCluster) -> None:
    future = cluster.submit(steps.add, 1, 2, plus=3)
    assert isinstance(future, concurrent.futures.Future)
    assert (future.result(20), future.done(), future.exception(), future.cancelled()) == (6, True, None, False)


def test_steps_are_called_with_their_options(cluster: LocalCluster) -> None:
    flaky = step(steps.fail_until, retry=Retry(retries=3, backoff=0.001), hint="light_io")
    assert cluster.submit(flaky, 3, "third time").result(20) == "third time"
    assert cluster.submit(step(steps.double_async), 4).result(20) == 8
    assert cluster.submit(lambda x: x + 1, 1).result(20) == 2
    assert cluster.submit(int, "7").result(20) == 7


def test_calls_have_what_the_config_says(cluster: LocalCluster) -> None:
    def flow(attempt: int) -> Workflow:
        with Workflow() as wf:
            step(steps.fail_until)(attempt, "inner")
        return wf

    def give_up() -> None:
        raise KeyError(current().attempt)

    patient = Config(retry=Retry(retries=2, backoff=0.001, give_up=KeyError), step_timeout=1, grace=0.1)
    with Client(cluster.address, config=patient) as client:
        assert client.submit(steps.fail_until, 3, "third time").result(20) == "third time"
        assert client.gather(client.map(step(steps.fail_until), [2, 3], "ab")) == ["a", "b"]
        with pytest.raises(ConnectionError, match="attempt 1"):  # the step says so itself
            client.submit(step(steps.fail_until, retry=0), 2).result(20)
        with pytest.raises(KeyError, match="1"):
            client.submit(give_up).result(20)
        with pytest.raises(StepTimeoutError):
            client.submit(step(steps.nap, retry=0), 60).result(20)
        assert client.submit(flow, 3).result(20) == "inner"  # and so does what a call returns
        # Its runs have them too, unless they have others.
        assert client.run(flow(3)).value == "inner"
        assert run(flow(3), on=client, config=Config(), check=False).errors["fail_until"].attempts == 1
    with pytest.raises(ConnectionError, match="attempt 1"):
        cluster.submit(steps.fail_until, 2).result(20)


def test_calls_have_options_of_their_own(cluster: LocalCluster) -> None:
    patient = cluster.options(retry=Retry(retries=2, backoff=0.001), hint="light_io")
    assert patient.submit(steps.fail_until, 3, "third time").result(20) == "third time"
    assert cluster.gather(patient.map(step(steps.fail_until, retry=0), [2, 3], "ab")) == ["a", "b"]
    with pytest.raises(UnschedulableError, match="99 CPU slots"):
        cluster.options(hint=Hint.cpu(99)).submit(steps.double, 1).result(20)
    for call in (patient.submit, patient.map):
        with pytest.raises(ConfigError, match="`async def`"):
            call(steps.double_async, [4])


def test_calls_have_what_the_variables_say(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFW_RETRY", "1")
    with Client(cluster.address) as client:
        assert client.submit(steps.fail_until, 2, "again").result(20) == "again"


def test_map_keeps_the_order(cluster: LocalCluster) -> None:
    futures = cluster.map(steps.double, range(1_000))
    assert cluster.gather(futures) == [2 * x for x in range(1_000)]
    assert cluster.gather(cluster.map(steps.add, [1, 2, 3], [10, 20])) == [11, 22]
    assert cluster.map(steps.double, []) == []


def test_the_standard_library_waits_for_them(cluster: LocalCluster) -> None:
    futures = cluster.map(steps.double, range(20))
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures, timeout=20)) == [
        2 * x for x in range(20)
    ]
    assert concurrent.futures.wait(futures, timeout=20).not_done == set()


# ---------------------------------------------------------------- futures as arguments


def test_a_future_that_is_done_is_an_argument(cluster: LocalCluster) -> None:
    first = cluster.submit(steps.double, 1)
    assert first.result(20) == 2
    assert cluster.submit(steps.double, first).result(20) == 4


def test_a_future_that_is_pending_is_an_argument(cluster: LocalCluster, tmp_path: Path) -> None:
    first = cluster.submit(steps.hold, str(tmp_path), "it", 5)
    wait_until((tmp_path / "it").exists, what="the first runs")
    second = cluster.submit(steps.double, first)
    third = cluster.submit(steps.total, [first, second, 1])
    fourth = cluster.submit(steps.add, first, plus=third)
    fifth = cluster.submit(steps.give, {"a": [first, (second,)], "b": third})
    assert not first.done()
    (tmp_path / "go").touch()
    assert cluster.gather([first, second, third, fourth, fifth]) == [5, 10, 16, 21, {"a": [5, (10,)], "b": 16}]


def test_a_long_chain_of_calls(cluster: LocalCluster) -> None:
    future = cluster.submit(steps.give, 0)
    for _ in range(300):
        future = cluster.submit(steps.add, future, 1)
    assert future.result(30) == 300


def test_a_failed_future_fails_what_depends_on_it(cluster: LocalCluster, tmp_path: Path) -> None:
    held = cluster.submit(steps.hold, str(tmp_path), "it")
    wait_until((tmp_path / "it").exists, what="the first runs")
    bad = cluster.submit(steps.fail, "early", held)
    after = cluster.submit(steps.mark, str(tmp_path), "never", bad)
    last = cluster.submit(steps.give, after)
    (tmp_path / "go").touch()
    with pytest.raises(ValueError, match="early"):
        bad.result(20)
    for future in (after, last):
        with pytest.raises(PfwError, match="one of its arguments failed"):
            future.result(20)
    with pytest.raises(PfwError, match="one of its arguments failed") as found:
        cluster.submit(steps.give, bad).result(20)  # it is known by now
    assert isinstance(found.value.__cause__, ValueError)
    assert not (tmp_path / "never").exists()


def test_a_future_of_another_cluster_is_no_argument(cluster: LocalCluster) -> None:
    with LocalCluster(cpu=1, io=1) as other:
        foreign = other.submit(steps.double, 1)
        with pytest.raises(ClusterError, match=r"future\.result\(\)"):
            cluster.submit(steps.double, foreign)
        assert foreign.result(20) == 2


def test_a_future_is_no_argument_of_a_workflow(cluster: LocalCluster) -> None:
    future = cluster.submit(steps.double, 1)
    with Workflow() as wf:
        step(steps.give)(future)
    with pytest.raises(UnpicklableError):
        run(wf, on=cluster)


# ---------------------------------------------------------------- calls that return a Workflow


@step
def fibonacci(n: int) -> Any:
    if n < 2:
        return n
    with Workflow() as wf:
        step(steps.add)(fibonacci(n - 1), fibonacci(n - 2))
    return wf


def count_down(n: int) -> Any:
    if not n:
        return current().step_id
    with Workflow() as wf:
        step(count_down)(n - 1)
    return wf


async def square_all(numbers: list[int]) -> Workflow:
    with Workflow() as wf:
        squares = step(steps.give)(numbers).map(lambda x: x * x).map(steps.double)
        small = step(steps.total)(squares).when(lambda x: x < 100).then(lambda x: -x)
        grown = step(steps.double).loop(1, until=lambda x: x > 100)
        wf.returns({"squares": squares, "small": small, "grown": grown})
    return wf


def hold_inside(folder: str, name: str, *failing: Any) -> Workflow:
    with Workflow() as wf:
        held = step(steps.hold, hint="light_io")(folder, name, 5)
        wf.returns([held, *(step(steps.fail)(text, held) for text in failing)])
    return wf


def sleep_inside(folder: str, name: str) -> Workflow:
    with Workflow() as wf:
        step(steps.sleep_long, grace=0.5, hint="light_io")(folder, name)
    return wf


def test_a_call_that_returns_a_workflow_has_its_value(cluster: LocalCluster, tmp_path: Path) -> None:
    held = cluster.submit(hold_inside, str(tmp_path), "it")
    wait_until((tmp_path / "it").exists, what="the step inside runs")
    after = cluster.submit(steps.give, {"held": held})
    assert cluster.gather(cluster.map(fibonacci, range(8))) == [0, 1, 1, 2, 3, 5, 8, 13]
    found = cluster.submit(square_all, [1, 2, 3]).result(20)
    assert found == {"squares": [2, 8, 18], "small": -28, "grown": 128}
    assert cluster.submit(count_down, 30).result(20).endswith("/#30/count_down")
    assert not held.done()
    (tmp_path / "go").touch()
    assert after.result(20) == {"held": [5]}


def test_a_failure_inside_is_raised_as_it_was(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    future = cluster.submit(hold_inside, str(tmp_path), "it", "inside")
    after = cluster.submit(steps.give, future)
    with pytest.raises(ValueError, match="inside") as caught:
        future.result(20)
    assert "in fail" in "".join(caught.value.__notes__)
    assert after.exception(20)
    assert isinstance(cluster.submit(Workflow, "nothing").exception(20), GraphError)


# ---------------------------------------------------------------- calls that nobody wants any more


def test_a_cancel_stops_a_call_and_what_needs_it(cluster: LocalCluster, tmp_path: Path) -> None:
    sleeping = cluster.submit(step(steps.sleep_long, grace=0.5), str(tmp_path), "sleeping")
    async_one = cluster.submit(steps.sleep_long_async, str(tmp_path), "async")
    inside = cluster.submit(sleep_inside, str(tmp_path), "inside")
    after = cluster.submit(steps.mark, str(tmp_path), "never", [sleeping, inside])
    for name in ("sleeping", "async", "inside"):
        wait_until((tmp_path / name).exists, what=f"{name} runs")
    waiting = [cluster.submit(steps.hold, str(tmp_path), "hold", 1) for _ in range(2)]
    assert all(future.cancel() for future in (sleeping, async_one, inside, waiting[1]))
    for name in ("sleeping", "async", "inside"):
        wait_until((tmp_path / f"{name}-stopped").exists, what=f"{name} was stopped")
    with pytest.raises(PfwError, match="one of its arguments failed") as caught:
        after.result(20)
    assert isinstance(caught.value.__cause__, CancelledError)
    for future in (sleeping, async_one, inside):
        with pytest.raises(CancelledError):
            future.result(0)
    (tmp_path / "go").touch()
    assert waiting[0].result(20) == 1
    assert not waiting[0].cancel()
    assert waiting[0].result(0) == 1
    assert cluster.submit(steps.double, 4).result(20) == 8
    wait_until(lambda: sum(worker["held"] for worker in cluster.workers()) == 0, what="nothing runs any more")
    assert not (tmp_path / "never").exists()


# ---------------------------------------------------------------- failures


def test_the_original_exception_is_raised(cluster: LocalCluster) -> None:
    future = cluster.submit(steps.fail, "as it was")
    with pytest.raises(ValueError, match="as it was") as caught:
        future.result(20)
    assert caught.value.args == ("as it was",)
    assert "in fail" in "".join(caught.value.__notes__)
    assert future.exception(20) is caught.value


@pytest.mark.parametrize("name", ["two", "lock"])
def test_an_exception_that_does_not_travel_is_told_in_text(cluster: LocalCluster, name: str) -> None:
    assert "raise_odd" in str(cluster.submit(steps.raise_odd, name).exception(20))


def test_a_crash_is_that_calls_alone(cluster: LocalCluster) -> None:
    futures = cluster.map(steps.double, range(100))
    error = cluster.submit(steps.crash, "kill").exception(20)
    assert isinstance(error, StepCrashedError)
    assert error.signal == signal.SIGKILL
    assert cluster.gather(futures) == [2 * x for x in range(100)]


def test_what_cannot_be_sent_is_said_at_once(cluster: LocalCluster) -> None:
    with pytest.raises(UnpicklableError, match="lock"):
        cluster.submit(steps.give, threading.Lock())
    assert isinstance(cluster.submit(steps.generate).exception(20), UnpicklableError)
    assert cluster.submit(steps.double, 1).result(20) == 2


class Ambush:
    def __reduce__(self) -> Any:
        return steps.fail, ("broken when read here",)


def ambush() -> Ambush:
    return Ambush()


def test_a_result_that_cannot_be_read_is_that_calls_error(cluster: LocalCluster) -> None:
    with pytest.raises(ValueError, match="broken when read here"):
        cluster.submit(ambush).result(20)
    assert cluster.submit(steps.double, 1).result(20) == 2


def test_a_wait_that_is_too_short_says_so(cluster: LocalCluster, tmp_path: Path) -> None:
    future = cluster.submit(steps.hold, str(tmp_path), "it", 1)
    with pytest.raises(TimeoutError):
        future.result(0)
    with pytest.raises(TimeoutError):
        future.exception(0.01)
    (tmp_path / "go").touch()
    assert future.result(20) == 1


# ---------------------------------------------------------------- callbacks and threads


def test_callbacks_are_called_and_may_call_again(cluster: LocalCluster) -> None:
    answers: list[Any] = []
    called = threading.Event()

    def on_done(future: concurrent.futures.Future[Any]) -> None:
        answers.append(future.result())
        if len(answers) < 5:
            cluster.submit(steps.double, future.result()).add_done_callback(on_done)
        else:
            called.set()

    cluster.submit(steps.give, 1).add_done_callback(on_done)
    assert called.wait(20)
    assert answers == [1, 2, 4, 8, 16]


def test_threads_share_a_client(cluster: LocalCluster) -> None:
    def work(number: int) -> list[int]:
        chained = [cluster.submit(steps.add, cluster.submit(steps.double, n), number) for n in range(50)]
        return [future.result(30) for future in chained]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[2 * n + number for n in range(50)] for number in range(8)]


def test_calls_and_runs_share_a_cluster(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        step(steps.total)(step(steps.double).map(range(200)))
    futures = cluster.map(steps.double, range(200))
    assert run(wf, on=cluster).value == sum(cluster.gather(futures))


# ---------------------------------------------------------------- the end


def test_what_is_not_done_is_cancelled_when_the_client_closes(tmp_path: Path) -> None:
    cluster = LocalCluster(cpu=1, io=1)
    with cluster:
        done = cluster.submit(steps.give, 1)
        assert done.result(20) == 1
        running = cluster.submit(steps.hold, str(tmp_path), "it")
        pid = int(wait_until(lambda: (tmp_path / "it").exists() and (tmp_path / "it").read_text(), what="it runs"))
        waiting = cluster.submit(steps.mark, str(tmp_path), "never", running)
    assert done.result(0) == 1
    for future in (running, waiting):
        wait_until(future.done, what="the future knows its end")
        with pytest.raises((CancelledError, ClusterError)):
            future.result(0)
    assert not (tmp_path / "never").exists()
    assert not host.is_alive(pid)
    with pytest.raises(ClusterError, match="closed"):
        cluster.submit(steps.give, 1)


def test_the_loss_of_the_cluster_ends_every_future_at_once(tmp_path: Path) -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        running = cluster.submit(steps.hold, str(tmp_path), "it")
        waiting = cluster.submit(steps.double, running)
        wait_until((tmp_path / "it").exists, what="it runs")
        (worker,) = cluster.workers()
        os.kill(worker["pid"], signal.SIGKILL)
        for future in (running, waiting):
            assert isinstance(future.exception(20), CoordinatorLostError)
        with pytest.raises(CoordinatorLostError):
            cluster.submit(steps.give, 1)
