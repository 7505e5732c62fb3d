"""Hints on real processes: threads, GPUs, permits, resources, limits, and what can never be met."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import ROOT, steps, wait_until
from helpers.daemons import Daemons, daemons  # noqa: F401  (a fixture is used by its name)
from pfw import (
    Client,
    Config,
    ConfigError,
    Hint,
    LocalCluster,
    MemoryLimitError,
    Retry,
    UnschedulableError,
    Workflow,
    run,
    start,
    step,
)
from pfw_worker.outfit import GPU_VARIABLE, THREAD_VARIABLES

MB = 10**6

read_environ, crowd, meet = step(steps.read_environ), step(steps.crowd), step(steps.meet)
hold, give = step(steps.hold), step(steps.give)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=4, io=8, gpu=2, resources={"licence": 2}) as found:
        yield found


@pytest.fixture
def slots_import_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of their own import `helpers.steps` like any installed package."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)


@pytest.mark.parametrize("mode", ["parallel", "waves"])
def test_a_step_with_threads_has_them_in_its_environment(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        wide = read_environ.options(hint=Hint.cpu(3)).map([THREAD_VARIABLES] * 2)
        plain = read_environ(THREAD_VARIABLES)
        wf.returns([wide, plain])
    wides, plain_one = run(wf, on=cluster, mode=mode).value
    assert [found for _, found in wides] == [["3"] * len(THREAD_VARIABLES)] * 2
    assert plain_one[1] == ["1"] * len(THREAD_VARIABLES)
    assert {pid for pid, _ in wides} != {plain_one[0]}


def test_steps_with_gpus_have_different_ones(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        pair = [meet.options(hint=Hint.gpu(1))(str(tmp_path), name, 2) for name in ("pair-a", "pair-b")]
        both = read_environ.options(hint=Hint.gpu(2))([GPU_VARIABLE]).after(*pair)
        alone = crowd.options(hint=Hint.gpu()).map([str(tmp_path)] * 8, variable=GPU_VARIABLE)
        wf.returns([both, alone])
    (_, seen), crowds = run(wf, on=cluster).value
    assert seen == ["0,1"]
    assert set(crowds) == {1}, "no GPU had two steps at once"


@pytest.mark.parametrize(
    ("hint", "most"),
    [
        ("heavy_io", 4),
        ("light_io" + Hint.limit("api", 3), 3),
        (Hint.resource("licence"), 2),
        (Hint.resource("licence", 2), 1),
        (Hint.cpu(2), 2),
    ],
)
def test_so_many_run_at_once_and_no_more(cluster: LocalCluster, hint: str | Hint, most: int, tmp_path: Path) -> None:
    with Workflow() as wf:
        together = [meet.options(hint=hint)(str(tmp_path / "meet"), f"meet-{n}", most) for n in range(most)]
        crowds = crowd.options(hint=hint, after=together).map([str(tmp_path / "crowd")] * 4 * most)
        wf.returns(crowds)
    (tmp_path / "meet").mkdir()
    (tmp_path / "crowd").mkdir()
    assert max(run(wf, on=cluster).value) <= most


def test_a_step_that_holds_more_than_its_memory_is_killed_and_its_neighbours_go_on(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    limit, calm = 200 * MB, step(steps.fill, hint=Hint.memory("200MB"))
    with Workflow() as wf:
        calm.options(id="calm")(100 * MB)
        # No more than that: how much a step takes until it is looked at is a matter of speed (`scripts/bench memory`).
        calm.options(id="greedy")(limit + 20 * MB, str(tmp_path))
        hold.options(hint="light_io", id="neighbour")(str(tmp_path), "held")
    found = start(wf, on=cluster, on_failure="continue")
    wait_until(lambda: "greedy" in found.errors, what="the end of the greedy step")
    (tmp_path / "go").touch()
    assert found.wait(20)
    assert found.states == {"calm": "SUCCEEDED", "greedy": "FAILED", "neighbour": "SUCCEEDED"}
    error = found.errors["greedy"]
    assert isinstance(error, MemoryLimitError)
    assert (error.limit, error.attempts) == (limit, 1)
    assert limit < error.peak < limit + 100 * MB
    assert "its limit is 200.0 MB" in str(error)


def test_a_step_over_its_memory_is_tried_again_as_its_retry_says(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        for name, on in (("again", MemoryError), ("once", ValueError)):
            greedy = step(steps.fill, hint=Hint.memory("64MB"), retry=Retry(retries=2, backoff=0.001, on=on))
            greedy.options(id=name)(640 * MB)
    found = run(wf, on=cluster, on_failure="continue", check=False)
    assert {name: error.attempts for name, error in found.errors.items()} == {"again": 3, "once": 1}


def test_when_the_worker_is_full_its_largest_step_is_killed(tmp_path: Path) -> None:
    with LocalCluster(cpu=2, memory="500MB") as small:
        with Workflow() as wf:
            step(steps.fill, name="small")(100 * MB, str(tmp_path))
            wait_for = step(steps.wait_for, name="wait")(str(tmp_path), "filled")
            step(steps.fill, name="large").options(after=wait_for)(900 * MB)
        found = start(wf, on=small, on_failure="continue")
        wait_until(lambda: "large" in found.errors, what="the end of the large step")
        (tmp_path / "go").touch()
        assert found.wait(20)
        assert found.states["small"] == "SUCCEEDED"
        error = found.errors["large"]
        assert isinstance(error, MemoryLimitError)
        assert error.limit == 450 * MB
        assert "and this was the largest" in str(error)


def test_async_steps_have_limits_too(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        wf.returns(step(steps.crowd_async, hint=Hint.limit("site", 3)).map([str(tmp_path)] * 12))
    assert max(run(wf, on=cluster).value) <= 3


@pytest.mark.parametrize("mode", ["parallel", "waves", "sequential"])
def test_a_run_has_a_cap_of_its_own(cluster: LocalCluster, mode: str, tmp_path: Path) -> None:
    with Workflow() as wf:
        wf.returns([crowd.map([str(tmp_path)] * 6), crowd.options(hint="light_io").map([str(tmp_path)] * 6)])
    cpu, io = run(wf, on=cluster, mode=mode, config=Config(max_parallel_steps=2)).value
    assert max(cpu + io) <= 2


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Hint.cpu(5), "5 CPU slots of one worker, and the most that a worker has is 4"),
        (Hint.gpu(3), "3 'gpu' of one worker"),
        (Hint.resource("unheard"), "1 'unheard' of one worker"),
        (Hint.memory("900TB"), "900,000,000.0 MB of memory of one worker"),
    ],
)
def test_what_a_local_cluster_can_never_run_is_refused_at_once(cluster: LocalCluster, hint: Hint, text: str) -> None:
    with Workflow() as wf:
        give.options(hint=hint, id="too much")(give(1))
    for begin in (run, start):
        with pytest.raises(UnschedulableError, match=f"step 'too much' can never run on this cluster: it needs {text}"):
            begin(wf, on=cluster)
    assert run(wf, mode="sequential").value == 1, "this process is what it is"
    with pytest.raises(UnschedulableError, match=text):
        cluster.submit(give.options(hint=hint), 1).result()


@pytest.mark.usefixtures("slots_import_helpers")
def test_an_open_cluster_waits_and_says_why(daemons: Daemons) -> None:  # noqa: F811
    daemons.start_coordinator()
    daemons.start_worker(cpu=1, options=["--resource", "licence=1"])
    with Workflow() as wf:
        give.options(hint=Hint.cpu(2) + Hint.resource("licence"), id="wide")(give(5))
    with Client(daemons.address) as client:
        found = client.start(wf)
        reasons = (event.message for event in found.events() if event.type == "Waiting")
        assert next(reasons) == "it needs 2 CPU slots of one worker, and the most that a worker has is 1"
        wait_until(lambda: client.status()["waiting"], what="the run among those that wait")
        assert client.runs()[0]["waits_for"].startswith("it needs 2 CPU slots")
        daemons.start_worker(cpu=2, name="big", options=["--resource", "licence=2", "--gpu", "1", "--heavy-io", "3"])
        assert found.value == 5
        assert client.runs()[0]["waits_for"] == ""
        offered = {worker["name"]: worker["resources"] for worker in client.workers()}
        assert offered["big"].pop("memory") > 100 * MB
        assert offered["big"] == {"gpu": 1, "heavy_io": 3, "licence": 2}
    shown = command(daemons, "workers").stdout
    assert "1 of 1 gpu, 3 of 3 heavy_io, 2 of 2 licence" in shown
    assert "0 runs for what no worker offers" in command(daemons, "status").stdout


@pytest.mark.usefixtures("slots_import_helpers")
def test_a_limit_holds_over_all_workers(daemons: Daemons, tmp_path: Path) -> None:  # noqa: F811
    daemons.start_coordinator()
    for _ in range(2):
        daemons.start_worker(cpu=3)
    with Workflow() as wf:
        wf.returns(crowd.options(hint=Hint.limit("api", 2)).map([str(tmp_path)] * 12))
    with Client(daemons.address) as client:
        assert max(client.run(wf).value) <= 2
        free = [worker["free"] for worker in json.loads(command(daemons, "workers", "--json").stdout)]
        assert all(known["heavy_io"] == 4 for known in free)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("licence", "--resource is NAME=N"),
        ("licence=-1", "--resource is NAME=N"),
        ("licence=1.5", "--resource is NAME=N"),
        ("=3", "without / and ="),
        ("gpu=2", "'gpu' is no name for a resource"),
    ],
)
def test_a_worker_refuses_odd_resources(daemons: Daemons, option: str, text: str) -> None:  # noqa: F811
    arguments = [sys.executable, "-m", "pfw_worker", "tcp://127.0.0.1:1", "--resource", option]
    found = subprocess.run(arguments, env=daemons.env, capture_output=True, text=True, timeout=30)
    assert (found.returncode, text in found.stderr) == (2, True), found.stderr


@pytest.mark.parametrize(
    "sizes",
    [
        {"gpu": -1},
        {"gpu": True},
        {"resources": {"a": 1.5}},
        {"resources": {"gpu": 1}},
        {"resources": 3},
        {"memory": "2"},
    ],
)
def test_a_local_cluster_refuses_odd_sizes(sizes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        LocalCluster(cpu=1, **sizes)  # type: ignore[arg-type]


def command(daemons: Daemons, *arguments: str) -> subprocess.CompletedProcess[str]:  # noqa: F811
    return subprocess.run(
        [sys.executable, "-m", "pfw", *arguments, "--on", daemons.address],
        env=daemons.env, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
