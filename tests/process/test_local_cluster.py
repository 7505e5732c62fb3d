"""Local clusters as processes: scripts, code by value, and that nothing is left, however the end comes."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers import steps, wait_until
from helpers.scripts import HOLD, Script, new_script
from pfw import (
    Client,
    Config,
    ConfigError,
    CoordinatorLostError,
    Hint,
    LocalCluster,
    PfwError,
    StalledError,
    UnschedulableError,
    Workflow,
    run,
    start,
    step,
)

give = step(steps.give)


@pytest.fixture
def script() -> Iterator[Script]:
    with new_script() as found:
        yield found


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


# ---------------------------------------------------------------- scripts


def test_a_script_needs_no_main_guard(script: Script) -> None:
    output = script.run("""
        from dataclasses import dataclass
        from pfw import Workflow, run, step
        print("top level")

        @dataclass
        class Point:
            x: int

        FACTOR = 3

        def scale(x):
            return FACTOR * x

        @step
        def make(x):
            return Point(scale(x))

        @step
        async def later(point):
            return point

        @step
        def total(points):
            assert all(isinstance(point, Point) for point in points)
            return Point(sum(point.x for point in points))

        with Workflow("points") as wf:
            total(later.map(make.map(range(4))))
        found = run(wf)
        assert type(found.value) is Point
        print(found.value)
    """)
    assert output == "top level\nPoint(x=18)\n"
    assert script.errors == ""
    script.check_nothing_is_left()
    assert script.folders() == []


def test_a_module_beside_the_script_goes_by_value(script: Script, tmp_path: Path) -> None:
    (script.folder / "beside.py").write_text("import other\ndef f(x):\n    return other.g(x) + 1\n")
    (script.folder / "other.py").write_text("STATE = 10\nclass Odd(Exception): pass\ndef g(x):\n    return STATE * x\n")
    output = script.run(f"""
        import os
        import beside, other
        from pfw import LocalCluster, StepFailedError, Workflow, run, step

        def bad():
            raise other.Odd("mine")

        with LocalCluster(cpu=1, io=1) as cluster:
            os.chdir({str(tmp_path)!r})
            os.rename({str(script.folder / "other.py")!r}, {str(script.folder / "gone.txt")!r})
            print(cluster.submit(beside.f, 4).result(20))
            print([future.result(20) for future in cluster.map(other.g, [1, 2])])
            try:
                cluster.submit(bad).result(20)
            except other.Odd as error:
                print(repr(error))
    """)
    assert output == "41\n[10, 20]\nOdd('mine')\n"


def test_the_shared_cluster_is_kept_from_run_to_run(script: Script) -> None:
    output = script.run("""
        import os
        from pfw import Workflow, run, step

        def slot():
            return os.getppid()

        def once(**sizes):
            wf = Workflow()
            wf.add(slot)
            return run(wf, **sizes).value

        assert once(cpu=1, io=1) == once(cpu=1, io=1)
        assert once(cpu=1, io=1) != once(cpu=2, io=1)
        os.environ["NEWLY_SET"] = "x"
        wf = Workflow()
        wf.add(os.getenv, "NEWLY_SET")
        print(run(wf, cpu=1, io=1).value)
    """)
    assert output == "x\n"
    script.check_nothing_is_left()
    assert script.folders() == []


def test_what_a_step_prints_is_seen(script: Script) -> None:
    output = script.run("""
        import sys
        from pfw import Workflow, run, step

        def shout(text):
            print(text, flush=True)
            print(text + " error", file=sys.stderr, flush=True)

        wf = Workflow()
        wf.add(shout, "from a step")
        run(wf, cpu=1, io=1)
    """)
    assert output == "from a step\nfrom a step error\n"
    assert script.errors == ""


def test_a_script_that_ends_with_an_error_leaves_nothing(script: Script) -> None:
    script.run("""
        from pfw import Workflow, run, start, step
        import time
        wf = Workflow()
        wf.add(time.sleep, 600)
        found = start(wf, cpu=1, io=1)
        raise SystemExit(7)
    """, code=7)  # fmt: skip
    script.check_nothing_is_left()
    assert script.folders() == []


def test_a_client_that_is_killed_leaves_no_process_and_the_next_start_sweeps_its_folder(script: Script) -> None:
    process = script.begin(HOLD + "\n    run(wf, cpu=2, io=1)\n", str(script.folder))
    wait_until((script.folder / "began").exists, 20, what="the step runs")
    process.kill()
    process.wait()
    script.check_nothing_is_left()
    (left,) = script.folders()
    os.utime(left, (1, 1))  # a folder that is seconds old might be one that is being made
    script.run("from pfw import LocalCluster\nwith LocalCluster(cpu=1, io=1): pass\n")
    assert script.folders() == []


# ---------------------------------------------------------------- losing a daemon


DAEMON = "cluster.workers()[0]['pid']"
SPAWNER = f"psutil.Process({DAEMON}).children()[0].children()[0].pid"


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (DAEMON, "the local cluster has ended (killed by SIGKILL)"),
        (SPAWNER, "the local cluster can start no slots any more: nothing can run there"),
    ],
)
def test_a_daemon_that_is_killed_is_an_error_and_no_hang(script: Script, process: str, message: str) -> None:
    output = script.run(f"""
        import os, signal, sys, time
        from pathlib import Path
        import psutil
        from pfw import LocalCluster, PfwError, Workflow, start, step

        def hold(folder):
            (Path(folder) / "began").touch()
            time.sleep(600)

        wf = Workflow()
        wf.add(hold, {str(script.folder)!r})
        with LocalCluster(cpu=1, io=1) as cluster:
            found = start(wf, on=cluster)
            while not (Path({str(script.folder)!r}) / "began").exists():
                time.sleep(0.01)
            os.kill({process}, signal.SIGKILL)
            for action in (found.wait, found.check, lambda: found.value, cluster.status, lambda: start(wf, on=cluster)):
                try:
                    action()
                except PfwError as error:
                    print(error)
            assert found.done()
            list(found.events())
    """)
    assert output.splitlines() == [message] * 5
    script.check_nothing_is_left()
    assert script.folders() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGRTMIN + 1])
def test_a_cluster_whose_process_somebody_else_has_reaped_is_closed(number: int) -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        (worker,) = cluster.workers()
        os.kill(worker["pid"], number)
        os.waitpid(worker["pid"], 0)
        with pytest.raises(CoordinatorLostError, match="the local cluster has ended"):
            wait_until(lambda: cluster.status() is None, what="the end is heard of")
    assert not cluster._folder.exists()


def test_nobody_keeps_looking_at_a_line_that_has_ended() -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
        with pytest.raises(CoordinatorLostError):
            wait_until(lambda: cluster.status() is None, what="the end is heard of")
        link = cluster._link
        wait_until(lambda: link._line.at_end and not link._poller.poll(0), what="nothing is left to be heard")


def test_a_signal_without_a_name_is_named_by_its_number() -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        os.kill(cluster.workers()[0]["pid"], signal.SIGRTMIN + 1)
        with pytest.raises(CoordinatorLostError, match=f"killed by signal {signal.SIGRTMIN + 1}"):
            wait_until(lambda: cluster.status() is None, what="the end is heard of")


def test_a_lost_shared_cluster_is_replaced(script: Script) -> None:
    output = script.run("""
        import os, signal
        from pfw import Config, PfwError, Workflow, run, step
        from pfw.cluster import shared_cluster

        wf = Workflow()
        wf.add(abs, -1)
        print(run(wf, cpu=1, io=1).value)
        cluster = shared_cluster(Config(cpu=1, io=1))
        os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
        while cluster.is_usable:
            try:
                cluster.status()
            except PfwError:
                break
        print(run(wf, cpu=1, io=1).value)
    """)
    assert output == "1\n1\n"
    script.check_nothing_is_left()


# ---------------------------------------------------------------- where run may be called


def nest(mode: str) -> str:
    wf = Workflow()
    wf.add(steps.give, 1)
    try:
        run(wf, mode=mode)
    except PfwError as error:
        return str(error)
    return "it ran"


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_run_inside_a_step_is_refused(cluster: LocalCluster, mode: str) -> None:
    for outer in ("sequential", "parallel"):
        with Workflow() as wf:
            step(nest)(mode)
        assert "running step" in run(wf, on=cluster, mode=outer).value


@pytest.mark.parametrize("reason", ["r" * 70_000, "a\udcffb", ""], ids=["long", "surrogate", "empty"])
def test_a_cancel_needs_no_good_reason(tmp_path: Path, reason: str) -> None:
    with LocalCluster(cpu=1, io=1) as own, Workflow() as wf:
        step(steps.obey_check)(str(tmp_path), "it")
        found = start(wf, on=own)
        found.cancel(reason)
        assert found.wait(10)
        assert found.status == "CANCELLED"


def test_io_slots_are_started_when_they_are_wanted(tmp_path: Path) -> None:
    with LocalCluster(cpu=1, io=6) as cluster:
        (worker,) = wait_until(cluster.workers, what="the worker is there")
        before = len(psutil.Process(worker["pid"]).children(recursive=True))
        with Workflow() as wf:
            step(steps.meet, hint="light_io").map([str(tmp_path)] * 6, [f"meet{n}" for n in range(6)], count=6)
            step(steps.double).map(range(50))
        assert run(wf, on=cluster).status == "SUCCEEDED"
        assert len(psutil.Process(worker["pid"]).children(recursive=True)) == before + 6


@pytest.mark.parametrize("sizes", [{"cpu": 0}, {"cpu": -1}, {"io": 0}, {"cpu": 1.5}, {"cpu": True}, {"io": 10**6}])
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="number of slots"):
        LocalCluster(**sizes)


def test_the_line_to_an_own_cluster_is_no_zeromq(script: Script) -> None:
    output = script.run("""
        import sys
        from pfw import LocalCluster

        with LocalCluster(cpu=1) as cluster:
            large = b"x" * 5_000_000
            print(cluster.submit(len, large).result(), len(cluster.submit(bytes, 5_000_000).result()))
            print("zmq" in sys.modules)
    """)
    assert output.split() == ["5000000", "5000000", "False"]


def test_nonsense_on_the_line_harms_nobody() -> None:
    with LocalCluster(cpu=1) as cluster:
        before = cluster.status()["oddities"]
        cluster._link._line.send_frames([b"", b"nonsense", b"x" * 1_000_000])
        assert cluster.submit(steps.double, 4).result(20) == 8
        assert cluster.status()["oddities"] == before + 3


def test_sizes_come_from_variables_and_the_worker_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"CPU": "1", "IO": "7", "MEMORY": "300MB"}.items():
        monkeypatch.setenv(f"PFW_{name}", text)
    with LocalCluster(io=3, heavy_io=2) as own, Client(own.address) as other:
        (worker,) = other.workers()
        assert (worker["cpu"], worker["io"], worker["resources"]["memory"]) == (1, 3, 300_000_000)
        assert worker["resources"]["heavy_io"] == 2
        assert own.workers()[0]["pid"] == worker["pid"]


def python_with(tmp_path: Path, what: str) -> str:
    """A Python that does this before it is a daemon."""
    file = tmp_path / "python"
    file.write_text(f'#!/bin/sh\n{what}\nexec {shlex.quote(sys.executable)} "$@"\n')
    file.chmod(0o700)
    return str(file)


def test_a_cluster_that_is_slow_to_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", python_with(tmp_path, "sleep 0.5"))
    with LocalCluster(cpu=1, io=1) as own, Client(own.address) as other:
        assert [worker["cpu"] for worker in other.workers()] == [1]


def test_a_cluster_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", python_with(tmp_path, "exit 1"))
    with pytest.raises(CoordinatorLostError, match=r"the local cluster has ended \(exit code 1\)"):
        LocalCluster(cpu=1, io=1)


def test_slots_that_do_not_start_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the machine's own that is loaded by every Python, and goes wrong in slots."""
    ends = "import os, sys\nimport pfw_worker.slot\npfw_worker.slot.main = lambda *given: os._exit(1)\n"
    (tmp_path / "sitecustomize.py").write_text(ends)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    with pytest.raises(StalledError, match="can start no slots any more"), LocalCluster(cpu=1, io=1) as cluster:
        wait_until(lambda: cluster.status() is None, what="the end is heard of")


def test_what_the_coordinator_keeps_is_not_memory_of_steps() -> None:
    with Workflow() as wf:
        made = step(bytes).map([20_000_000] * 12)
        step(len).map(made)
    with LocalCluster(cpu=1, io=1, memory="250MB") as cluster:
        found = run(wf, on=cluster, keep="all")
    assert found.status == "SUCCEEDED"


def test_the_memory_of_a_run_is_that_of_its_local_cluster() -> None:
    with Workflow() as wf:
        give.options(hint=Hint.memory("200MB"))(1)
    assert run(wf, cpu=1, io=1, memory="200MB").value == 1
    with pytest.raises(UnschedulableError, match=r"200.0 MB of memory of one worker"):
        start(wf, cpu=1, io=1, config=Config(memory=199_000_000))
