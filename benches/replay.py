"""Recorded scientific workflows: how close a replay comes to the best that is possible, and that every one is right.

They are WfCommons' instances, in the folder `shared/data/wfinstances` beside this one, or $PFW_WFINSTANCES.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path

from benches._common import CPU, Bench, Figures, Line, expect, main, stopwatch
from benches._dag import Call, build, resubmit, serial, warm_pool

from pfw import LocalCluster, run
from pfw.replay import Replay, load_replay
from pfw.wfformat import Instance, load

ROOT = Path(__file__).resolve().parents[1]
INSTANCES = Path(os.environ.get("PFW_WFINSTANCES", ROOT.parent / "shared" / "data" / "wfinstances"))
NAME = "montage-chameleon-2mass-04d-001"
IO = 8
TIME_SCALE = 0.01

#: All waiting of one instance together, when every instance is run in every mode.
WAIT_S = 0.2
MODES = ("sequential", "parallel", "waves")


# ---------------------------------------------------------------------------------------------------- one, on time


def pfw_round(cluster: LocalCluster, replay: Replay, bound_s: float, mode: str) -> Figures:
    """Replays in one mode on a warm cluster: from the call of `run` to its end, the bound being 1."""
    workflow = replay.workflow()
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        done = run(workflow, on=cluster, mode=mode)
    expect(Counter(done.states.values()), Counter({"SUCCEEDED": len(replay.instance.tasks)}), NAME)
    return {mode: figures["s"] / bound_s}


def command_round(path: Path) -> Figures:
    """Replays with the command, on a cluster of its own; what its summary says."""
    options = ["--lane", "io", "--io", str(IO), "--time-scale", str(TIME_SCALE), "--progress", "none", "--json"]
    command = [sys.executable, "-m", "pfw", "run", str(path), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    summary = json.loads(done.stdout)
    expect(summary["status"], "SUCCEEDED", NAME)
    return {"command": float(summary["ratio"])}


def wait(seconds: float, *inputs: None) -> None:
    """A task on the executor."""
    time.sleep(seconds)


def executor_round(pool: ProcessPoolExecutor, instance: Instance, bound_s: float) -> Figures:
    """The same on an executor of as many processes as there are IO slots."""
    index = {task.id: number for number, task in enumerate(instance.tasks)}
    calls = [
        Call(wait, (task.runtime_s * TIME_SCALE,), tuple(index[parent] for parent in task.parents))
        for task in instance.tasks
    ]
    figures: dict[str, float] = {}
    with stopwatch(figures, "s"):
        outputs = resubmit(pool, calls)
    expect(outputs, [None] * len(calls), NAME)
    return {"executor": figures["s"] / bound_s}


def measure_replay(bench: Bench) -> None:
    """Both modes, the command, and the executor, in turns."""
    path = INSTANCES / f"{NAME}.json"
    replay = load_replay(path, TIME_SCALE, 0.0, "io")
    bound_s = replay.bound_s({"io": IO})
    assert bound_s is not None
    with warm_pool(IO) as pool, LocalCluster(cpu=CPU, io=IO) as cluster:
        run(build("warm-up", [Call(wait, (0.1,), ())] * IO, range(IO), "light_io"), on=cluster)
        found = bench.play(
            partial(pfw_round, cluster, replay, bound_s, "parallel"),
            partial(pfw_round, cluster, replay, bound_s, "waves"),
            partial(command_round, path),
            partial(executor_round, pool, replay.instance, bound_s),
        )
    reference = {"reference": f"ProcessPoolExecutor({IO}), resubmitting", "reference_figures": found["executor"]}
    tasks, options = len(replay.instance.tasks), f"--lane io --io {IO} --time-scale {TIME_SCALE}"
    bench.add(
        Line(
            f"replay of {NAME} ({tasks:,} tasks), {options}: makespan, parallel mode",
            "× bound",
            found["parallel"],
            target=1.10,
            note=f"lower bound {bound_s:.3f} s = max(critical path, total / slots)",
            **reference,  # type: ignore[arg-type]
        ),
        Line("    the same in waves mode (barriers)", "× bound", found["waves"]),
        Line("    the same by `pfw run` in a fresh process, on a fresh cluster", "× bound", found["command"]),
    )


# ---------------------------------------------------------------------------------------------------- all, rightly


def witness(journal: str, name: str, seconds: float, *inputs: bytes) -> bytes:
    """Says in the journal when it starts and ends; its output depends on all that was before it."""
    _note(journal, f"start {name}\n")
    time.sleep(seconds)
    _note(journal, f"end {name}\n")
    return blake2b(b"".join([name.encode(), *inputs]), digest_size=16).digest()


def _note(journal: str, line: str) -> None:
    # One write with O_APPEND: the lines of all processes stand in the order in which they were written.
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


def witnesses(instance: Instance, journal: Path, scale: float) -> list[Call]:
    """The instance's tasks as calls of `witness`."""
    index = {task.id: number for number, task in enumerate(instance.tasks)}
    return [
        Call(
            witness,
            (str(journal), task.id, task.runtime_s * scale),
            tuple(index[parent] for parent in task.parents),
        )
        for task in instance.tasks
    ]


def check_journal(instance: Instance, journal: Path, what: str) -> None:
    """Each task has started once and ended once, and none has started before all its parents had ended.

    Raises:
        WrongResultError: It is not so.
    """
    lines = journal.read_text("utf-8").splitlines()
    place = {line: number for number, line in enumerate(lines)}
    expect(len(lines), len(place), f"{what}: some task ran twice")
    expect(len(lines), 2 * len(instance.tasks), f"{what}: number of tasks run")
    for task in instance.tasks:
        start = place[f"start {task.id}"]
        expect(
            all(place[f"end {parent}"] < start for parent in task.parents), True, f"{what}: {task.id} came too early"
        )


def run_everywhere(cluster: LocalCluster, path: Path, folder: Path) -> int:
    """Runs one instance in all modes; returns how many runs were right."""
    instance = load(path)
    scale = WAIT_S / sum(task.runtime_s for task in instance.tasks)
    wanted = range(len(instance.tasks))
    right = serial(witnesses(instance, folder / "serial", 0.0))
    for mode in MODES:
        journal = folder / f"{path.stem}-{mode}"
        calls = witnesses(instance, journal, scale)
        value = run(build(path.stem, calls, wanted, "light_io"), on=cluster, mode=mode).value
        expect(value, right, f"{path.stem}, {mode}")
        check_journal(instance, journal, f"{path.stem}, {mode}")
    (folder / "serial").unlink()
    return len(MODES)


def measure_all(bench: Bench) -> None:
    """Once: these are checks, their times mean nothing."""
    paths = sorted(INSTANCES.glob("*.json"))
    with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder, LocalCluster(cpu=CPU, io=IO) as cluster:
        count = sum(run_everywhere(cluster, path, Path(folder)) for path in paths)
    bench.add(
        Line(
            f"all {len(paths)} recorded workflows in {len(MODES)} modes: right runs",
            "runs",
            [float(count)],
            target=len(paths) * len(MODES),
            is_rate=True,
            note="done once: each task ran once, after its parents, with their outputs; by a journal and digests",
        )
    )


def measure(bench: Bench) -> None:
    """Both questions."""
    if not (INSTANCES / f"{NAME}.json").is_file():
        print(f"no recorded workflows in {INSTANCES}: set PFW_WFINSTANCES; the replay is left out")
        return
    measure_replay(bench)
    measure_all(bench)


if __name__ == "__main__":
    main(measure)
