"""The command `pfw` with real daemons."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from helpers import wait_until
from helpers.command import Start, expect, flow, result, start
from helpers.daemons import Daemons, daemons

__all__ = ["daemons", "flow", "start"]


def test_no_coordinator_is_exit_code_3_and_names_the_address(flow: str, daemons: Daemons) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        assert address in expect(3, "run", flow, "--on", address).stderr
    assert "pfw-coordinator" in expect(3, "runs", env=daemons.env).stderr


@pytest.fixture
def cluster(daemons: Daemons) -> Daemons:
    daemons.start_coordinator()
    daemons.start_worker(cpu=2, io=2, name="alpha")
    return daemons


def test_the_coordinator_is_found_and_reports(cluster: Daemons) -> None:
    env = cluster.env
    assert result("status", env=env)["address"] == cluster.address
    named = {**env, "XDG_RUNTIME_DIR": str(cluster.folder), "PFW_ADDRESS": cluster.address}
    assert result("status", env=named)["workers"] == 1
    (worker,) = result("workers", "--on", cluster.address)
    assert (worker["name"], worker["cpu"], worker["io"]) == ("alpha", 2, 2)
    assert "1 with 2 cpu and 2 io slots" in expect(0, "status", env=env).stdout
    assert "alpha" in expect(0, "workers", env=env).stdout
    assert expect(0, "runs", env=env).stdout == "no runs\n"


def test_a_workflow_runs_on_daemons(cluster: Daemons, flow: str) -> None:
    found = result("run", f"{flow}:tripled", "-p", "count=5", "--on", cluster.address)
    assert (found["repr"], found["slots"]) == ("Sum(total=30)", {"cpu": 2, "io": 2})
    (listed,) = result("runs", env=cluster.env)
    assert (listed["id"], listed["status"]) == (found["run"], "SUCCEEDED")
    assert found["run"] in expect(0, "runs", env=cluster.env).stdout


def test_a_detached_run_is_followed_and_its_outputs_are_there(cluster: Daemons, flow: str) -> None:
    env = cluster.env
    started = expect(0, "run", f"{flow}:tripled", "-p", "count=3", "--detach", "--keep", "all", env=env)
    run_id = started.stdout.strip()
    found = result("attach", run_id, env=env)
    assert (found["run"], found["status"], found["steps"]) == (run_id, "SUCCEEDED", {"SUCCEEDED": 4})
    assert found["repr"] == "Sum(total=9)"
    assert "Completed: triple[2]" in expect(0, "attach", run_id, "--progress", "console", env=env).stderr
    assert expect(0, "output", run_id, "triple[2]", env=env).stdout == "6\n"
    assert result("output", run_id, "triple[1]", env=env) == 3
    assert result("output", run_id, "triple", env=env) == [0, 3, 6]
    assert "did you mean" in expect(2, "output", run_id, "triple[9]", env=env).stderr


def test_a_run_that_failed_is_exit_code_1_for_those_who_attach(cluster: Daemons, flow: str) -> None:
    started = result("run", f"{flow}:failing", "--detach", env=cluster.env)
    assert started["address"] == cluster.address
    assert "no good: x" in expect(1, "attach", started["run"], env=cluster.env).stderr


def test_a_run_cancelled_by_another_is_exit_code_4(cluster: Daemons, start: Start, flow: str, tmp_path: Path) -> None:
    env = cluster.env
    process = start(["run", f"{flow}:holding", "-p", f"folder={tmp_path}", "--on", cluster.address], env)
    wait_until((tmp_path / "started").exists, 20, what="the step runs", detail=cluster.tails)
    (listed,) = result("runs", env=env)
    assert listed["status"] == "RUNNING"
    assert listed["id"] in expect(0, "cancel", listed["id"], env=env).stdout
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 4, errors
    assert "holding: CANCELLED" in output


def test_ctrl_c_cancels_the_run_on_daemons(cluster: Daemons, start: Start, flow: str, tmp_path: Path) -> None:
    process = start(["run", f"{flow}:holding", "-p", f"folder={tmp_path}", "--on", cluster.address], cluster.env)
    wait_until((tmp_path / "started").exists, 20, what="the step runs", detail=cluster.tails)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert [run["status"] for run in result("runs", env=cluster.env)] == ["CANCELLED"]


def test_an_unknown_run_is_wrong_usage(cluster: Daemons) -> None:
    for command in (["attach", "feed"], ["cancel", "feed"], ["output", "feed", "x"]):
        assert "feed" in expect(2, *command, env=cluster.env).stderr
