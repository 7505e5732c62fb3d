"""What steps leave behind: temporary files and processes go with the run or the slot they belong to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers import steps, wait_until
from pfw import LocalCluster, Workflow, host, run, start, step
from pfw.folders import FOLDER_VARIABLE, make_folder, remove_folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=2) as found:
        yield found


def told(path: Path) -> str:
    """What a step has written into this file, when it has."""
    return wait_until(lambda: path.exists() and path.read_text(), what=f"{path.name} is there")


def worker_folder(cluster: LocalCluster) -> Path:
    """Of the cluster's worker."""
    with Workflow() as wf:
        step(tempfile.gettempdir)()
    return Path(run(wf, on=cluster).value).parent


# -- temporary files ---------------------------------------------------------------------------------------------------


def keep_files(folder: str, name: str, how: str) -> None:
    """Makes temporary files in all the ways there are, then goes on until it is stopped."""
    made = [tempfile.mkdtemp(), tempfile.mkstemp()[1], write_temporary("partial")]
    command = [sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"]
    made.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    Path(made[0], "partial").write_text("output")
    steps.mark(folder, name, None)
    Path(folder, f"{name}-files").write_text("\n".join(made))
    (steps.obey_check if how == "stops" else steps.ignore_all)(folder, name)


@pytest.mark.parametrize("how", ["stops", "is killed"])
@pytest.mark.parametrize("hint", ["light_cpu", "light_io"])
def test_the_temporary_files_of_a_cancelled_run_are_gone_with_it(
    cluster: LocalCluster, tmp_path: Path, how: str, hint: str
) -> None:
    with Workflow() as wf:
        step(keep_files, grace=0.3 if how == "is killed" else 20.0, hint=hint)(str(tmp_path), "it", how)
    found = start(wf, on=cluster)
    files = [Path(name) for name in told(tmp_path / "it-files").splitlines()]
    assert all(path.exists() for path in files)
    assert len({path.parent for path in files}) == 1
    found.cancel("enough")
    assert not any(path.exists() for path in files)
    assert not files[0].parent.exists()
    wait_until(lambda: not list(files[0].parent.parent.glob("*-gone")), what="nothing is left of them")


def write_temporary(text: str) -> str:
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    return file.name


def read(path: str) -> str:
    return Path(path).read_text()


def test_steps_of_a_run_share_a_folder_that_other_runs_do_not_touch(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        path = step(write_temporary, hint="light_io")("from one slot to another")
        wf.returns([step(read)(path), path])
    text, path = run(wf, on=cluster).value
    assert text == "from one slot to another"
    with Workflow() as other:
        step(keep_files, grace=20.0)(str(tmp_path), "it", "stops")
    found = start(other, on=cluster)
    told(tmp_path / "it-files")
    found.cancel()
    assert read(path) == text, "its run succeeded"


def use_multiprocessing() -> bool:
    """It notes down its folder when it first needs one."""
    from multiprocessing.util import get_temp_dir

    return Path(get_temp_dir()).exists()


def test_a_slot_forgets_the_folder_of_a_cancelled_run(tmp_path: Path) -> None:
    def use_and_wait(folder: str) -> None:
        use_multiprocessing()
        steps.obey_check(folder, "it")

    with LocalCluster(cpu=1) as own:
        with Workflow() as wf:
            step(use_and_wait, grace=20.0)(str(tmp_path))
        found = start(wf, on=own)
        told(tmp_path / "it")
        found.cancel()
        with Workflow() as wf:
            step(use_multiprocessing)()
        assert run(wf, on=own).value


def test_a_worker_leaves_no_folder(tmp_path: Path) -> None:
    with LocalCluster(cpu=1) as own:
        folder = worker_folder(own)
        with Workflow() as wf:
            step(write_temporary).map(["a", "b"])
        run(wf, on=own)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


# -- processes ---------------------------------------------------------------------------------------------------------

#: Ends its parent and starts a session of its own, as daemons do; then says who it is.
_DAEMON = "import os, sys, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); {}; time.sleep(600)"
_TELL = "open(sys.argv[1] + '.new', 'w').write(str(os.getpid())); os.rename(sys.argv[1] + '.new', sys.argv[1])"


def start_strays(folder: str, how: str) -> None:
    """Starts processes that leave the group, the session or the parent, and then does as it is told."""
    sessions = {"child": {}, "session": {"start_new_session": True}, "bare": {"start_new_session": True, "env": {}}}
    for name, options in sessions.items():
        command = [sys.executable, "-c", f"import os, sys, time; {_TELL}; time.sleep(600)", f"{folder}/{name}"]
        subprocess.Popen(command, **options)  # type: ignore[call-overload]
    subprocess.run([sys.executable, "-c", _DAEMON.format(_TELL), f"{folder}/daemon"], check=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            Path(folder, "forked.new").write_text(str(os.getpid()))
            os.rename(f"{folder}/forked.new", f"{folder}/forked")
            time.sleep(600)
        os._exit(0)
    os.wait()
    if how == "is killed":
        steps.ignore_all(folder, "it")
    elif how == "crashes":
        for name in STRAYS:
            told(Path(folder, name))
        steps.crash("kill")


STRAYS = ("child", "session", "bare", "daemon", "forked")


def strays(folder: Path) -> dict[str, int]:
    return {name: int(told(folder / name)) for name in STRAYS}


def living(found: dict[str, int]) -> list[str]:
    return [name for name, pid in found.items() if host.is_alive(pid)]


def test_what_a_killed_step_has_started_dies_with_it(cluster: LocalCluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with Workflow() as wf:
        step(start_strays)(str(other), "ends")
    run(wf, on=cluster)
    innocent = strays(other)
    with Workflow() as wf:
        step(start_strays, grace=0.2, hint="light_io")(str(tmp_path), "is killed")
    found = start(wf, on=cluster)
    guilty = strays(tmp_path)
    told(tmp_path / "it")
    assert len(living(guilty)) == len(STRAYS)
    assert found.cancel().counts() == {"killed": 1}
    wait_until(lambda: not living(guilty), what="all that it has started is gone", detail=lambda: str(living(guilty)))
    assert living(innocent) == list(STRAYS), "what a step of another slot has left"


def test_what_a_crashed_step_has_started_dies_with_it(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(start_strays)(str(tmp_path), "crashes")
    found = start(wf, on=cluster)
    guilty = strays(tmp_path)
    assert found.wait(20)
    wait_until(lambda: not living(guilty), what="all that it has started is gone", detail=lambda: str(living(guilty)))


def test_with_its_cluster_everything_goes(tmp_path: Path) -> None:
    with LocalCluster(cpu=1) as own:
        with Workflow() as wf:
            step(start_strays)(str(tmp_path), "ends")
        run(wf, on=own)
        left = strays(tmp_path)
        assert living(left) == list(STRAYS), "the step has ended, its slot has not"
    assert living(left) == []


def test_orphans_of_a_living_slot_are_reaped(cluster: LocalCluster, tmp_path: Path) -> None:
    def orphan(folder: str) -> int:
        script = f"{_TELL}; import sys"
        daemon = "import os, sys; os.fork() and os._exit(0); os.setsid(); " + script
        subprocess.run([sys.executable, "-c", daemon, f"{folder}/orphan"], check=True)
        return os.getpid()

    with Workflow() as wf:
        step(orphan)(str(tmp_path))
    run(wf, on=cluster)
    pid = int(told(tmp_path / "orphan"))
    wait_until(lambda: not psutil.pid_exists(pid), what="it has ended and was reaped")


def is_swept(folder: Path) -> bool:
    """What a start does; a lock goes with the last thread of its owner, which may be a moment later than the first."""
    made, lock_fd = make_folder("worker")
    os.close(lock_fd)
    remove_folder(made)
    return not folder.exists()


def kill_together(pids: list[int]) -> None:
    """At one moment: none of them sees to what another one leaves."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
    wait_until(lambda: not any(map(host.is_alive, pids)), what="all are dead")


def seeing_to_it(cluster: LocalCluster) -> list[int]:
    """The cluster's worker, the spawner's guard, and the spawner."""
    worker = psutil.Process(cluster.workers()[0]["pid"])
    (guard,) = worker.children()
    (spawner,) = guard.children()
    return [worker.pid, guard.pid, spawner.pid]


def test_what_steps_have_started_goes_with_a_worker_that_is_killed_with_its_spawner(tmp_path: Path) -> None:
    own = LocalCluster(cpu=1)
    try:
        folder = worker_folder(own)
        with Workflow() as wf:
            step(start_strays)(str(tmp_path), "ends")
        run(wf, on=own)
        left = strays(tmp_path)
        worker, guard, spawner = seeing_to_it(own)
        kill_together([worker, spawner])
        wait_until(lambda: not living(left), what="all that it has started is gone", detail=lambda: str(living(left)))
        wait_until(lambda: not host.is_alive(guard) and not folder.exists(), what="guard and folder are gone")
    finally:
        own.close()


def test_the_next_start_ends_what_a_killed_worker_has_left(tmp_path: Path) -> None:
    own = LocalCluster(cpu=1)
    try:
        folder = worker_folder(own)
        with Workflow() as wf:
            step(start_strays)(str(tmp_path), "ends")
        run(wf, on=own)
        left = strays(tmp_path)
        kill_together(seeing_to_it(own))
        # What was only forked has the environment of the worker, which names its cluster.
        marked = [name for name in living(left) if name in ("child", "session", "daemon")]
        assert marked
        os.utime(folder, (1, 1))
        wait_until(lambda: is_swept(folder), what="the next start removes its folder")
        wait_until(
            lambda: not set(marked) & set(living(left)),
            what="what it has started is gone",
            detail=lambda: str(living(left)),
        )
    finally:
        own.close()
        for name in STRAYS:
            pid = int(told(tmp_path / name))
            if host.is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_processes_are_marked_with_their_cluster() -> None:
    with LocalCluster(cpu=1) as own:
        worker_folder(own)  # the worker is there
        entry = os.fsencode(f"{FOLDER_VARIABLE}={own._folder}")
        (worker,) = own.workers()
        for process in (psutil.Process(worker["pid"]), *psutil.Process(worker["pid"]).children(recursive=True)):
            assert entry in host.environment_of(process.pid)
