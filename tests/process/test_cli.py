"""The command `pfw` as a process of its own, on local processes."""

from __future__ import annotations

import json
import os
import signal
import uuid
from pathlib import Path

import pytest

from helpers import INSTANCES, ROOT, wait_until
from helpers.command import MARK, Start, check_nothing_is_left, expect, flow, pfw, result, start
from helpers.order import check_order
from pfw.lifecycle import MODES
from pfw.wfformat import load

__all__ = ["flow", "start"]


def test_a_function_of_a_file_is_run_with_its_parameters(flow: str) -> None:
    done = expect(0, "run", flow, "-p", "count=4", "-p", "double=yes", "--cpu", 1, "--io", 1)
    assert "Sum(total=12)" in done.stdout
    assert "sums: SUCCEEDED" in done.stdout
    assert "utilisation  cpu " in done.stdout


@pytest.mark.parametrize("mode", MODES)
def test_a_named_workflow_is_run_in_each_mode(flow: str, mode: str) -> None:
    found = result("run", f"{flow}:tripled", "-p", "count=5", "--mode", mode)
    assert (found["status"], found["repr"], found["errors"]) == ("SUCCEEDED", "Sum(total=30)", {})
    assert found["steps"] == {"SUCCEEDED": 6}


def test_the_commands_own_cluster_has_what_steps_ask_for(flow: str) -> None:
    offer = ("--cpu", 1, "--io", 1, "--memory", "300MB", "--gpu", 2, "--resource", "licence=1", "--resource", "seat=3")
    found = result("run", f"{flow}:demanding", *offer, "--heavy-io", 1)
    assert found["value"] == [["0,1", "seats"], 1]
    done = expect(2, "run", f"{flow}:demanding", *offer, "--heavy-io", 0)
    assert "can never run on this cluster: it needs 1 'heavy_io' of one worker" in done.stderr
    assert "bug" not in done.stderr


def test_a_workflow_without_one_value_says_so(flow: str) -> None:
    done = expect(0, "run", f"{flow}:several", "--mode", "sequential")
    assert "add#2" in done.stdout
    assert "returns" in done.stdout


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_failed_step_is_exit_code_1_with_its_traceback(flow: str, mode: str) -> None:
    done = expect(1, "run", f"{flow}:failing", "--mode", mode, "--progress", "none")
    assert "ValueError: no good: x" in done.stderr
    assert "flow.py" in done.stderr
    assert "1 failed" in done.stdout


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_run_that_takes_too_long_is_exit_code_4(flow: str, mode: str, tmp_path: Path) -> None:
    found = result("run", f"{flow}:holding", "-p", f"folder={tmp_path}", "--timeout", 0.5, "--mode", mode, code=4)
    assert (found["status"], found["steps"]) == ("TIMED_OUT", {"CANCELLED": 1})
    assert "timeout is greater than 0" in expect(2, "run", flow, "--timeout", 0, "--mode", mode).stderr


def test_a_failure_in_json(flow: str) -> None:
    found = result("run", f"{flow}:failing", "--mode", "sequential", code=1)
    assert found["status"] == "FAILED"
    assert "no good: x" in found["errors"]["fail"]


def test_console_progress_has_a_line_for_each_event(flow: str) -> None:
    done = expect(1, "run", f"{flow}:failing", "--progress", "console", "--mode", "sequential")
    assert "[WORKFLOW] Started: fail\n[WORKFLOW] Failed: fail - ValueError: no good: x\n" in done.stderr


def test_an_argument_that_cannot_be_sent_is_said_before_anything_runs(flow: str) -> None:
    assert "lock" in expect(2, "run", f"{flow}:unpicklable").stderr


def test_a_file_that_raises_shows_where(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import os\n\nos.nothing\n")
    done = pfw("run", file)
    assert done.returncode == 2
    assert "broken.py\", line 3" in done.stderr  # fmt: skip
    assert "importlib" not in done.stderr
    assert "bug" not in done.stderr


def test_what_is_no_address_is_said_so() -> None:
    assert "'nonsense' is no address" in expect(2, "status", "--on", "nonsense").stderr


def test_version() -> None:
    assert expect(0, "version").stdout.startswith("pfw ")
    assert set(result("version")) == {"pfw", "protocol", "python", "zmq"}
    assert "pfw, version" in expect(0, "--version").stdout


# ---------------------------------------------------------------- recorded workflows


@pytest.mark.skipif(not INSTANCES.is_dir(), reason="the recorded workflows are not there")
@pytest.mark.parametrize("mode", MODES)
def test_a_recorded_workflow_is_replayed(mode: str) -> None:
    file = INSTANCES / "1000genome-chameleon-8ch-250k-001.json"
    sizes: list[object] = [] if mode == "sequential" else ["--cpu", 2, "--io", 4]
    arguments = [
        "run",
        file,
        "--time-scale",
        "0.00001",
        "--bytes-scale",
        "0.001",
        "--lane",
        "io",
        "--mode",
        mode,
        *sizes,
    ]
    done = expect(0, *arguments, "--progress", "console", "--json")
    summary = json.loads(done.stdout)
    assert summary["steps"] == {"SUCCEEDED": 328}
    assert summary["ratio"] == pytest.approx(summary["makespan_s"] / summary["lower_bound_s"])
    assert summary["ratio"] >= 1
    assert all(0 <= share <= 1 for share in summary["utilisation"].values())
    check_order(load(file), events_of(done.stderr))


def events_of(text: str) -> list[tuple[str, str | None]]:
    """Reads what `--progress console` has written; it leaves out what was queued, which is put where it is due."""
    found: list[tuple[str, str | None]] = []
    for line in text.splitlines():
        kind, _, subject = line.removeprefix("[WORKFLOW] ").partition(": ")
        found += [("Queued", subject), (kind, subject)] if kind == "Started" else [(kind, subject)]
    return found


def test_a_broken_recording_names_the_place(tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    task = {"name": "a", "id": "a", "parents": ["b"], "children": []}
    specification = {"tasks": [task], "files": []}
    execution = {"tasks": [{"id": "a", "runtimeInSeconds": 1}]}
    workflow = {"specification": specification, "execution": execution}
    file.write_text(json.dumps({"name": "x", "schemaVersion": "1.5", "workflow": workflow}))
    assert 'workflow.specification.tasks[0].parents[0]: unknown task "b"' in expect(2, "run", file).stderr
    file.write_text('{"name": "x",\n "schemaVersion" 1}')
    assert "line 2" in expect(2, "run", file).stderr


# ---------------------------------------------------------------- interrupts


@pytest.mark.parametrize("options", [[], ["--mode", "sequential"]], ids=["parallel", "sequential"])
def test_ctrl_c_cancels_and_leaves_no_process(start: Start, flow: str, tmp_path: Path, options: list[str]) -> None:
    mark = uuid.uuid4().hex
    arguments = ["run", f"{flow}:holding", "-p", f"folder={tmp_path}", *options]
    process = start(arguments, {**os.environ, MARK: mark})
    wait_until((tmp_path / "started").exists, 20, what="the step runs")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "holding: CANCELLED" in output
    check_nothing_is_left(mark)


def test_a_second_ctrl_c_does_not_wait_for_the_step(start: Start, flow: str, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    process = start(["run", f"{flow}:ignoring", "-p", f"folder={tmp_path}"], {**os.environ, MARK: mark})
    wait_until((tmp_path / "started").exists, 20, what="the step runs")
    process.send_signal(signal.SIGINT)
    wait_until((tmp_path / "ignored").exists, 20, what="the step has ignored the stop")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    check_nothing_is_left(mark)


def test_the_command_works_from_any_folder(tmp_path: Path) -> None:
    file = os.path.relpath(ROOT / "examples" / "code_census.py", tmp_path)
    done = pfw("run", file, "-p", "limit=5", "--mode", "sequential", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "code census: SUCCEEDED" in done.stdout
