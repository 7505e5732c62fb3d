"""What the command line refuses before anything is started, and its help."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

import pytest

from helpers.command import flow
from pfw import Config, StalledError, UnschedulableError, Workflow, run
from pfw.cli import cli, code_of, main
from pfw.launch import replay_step
from pfw.script import MODULE

__all__ = ["flow"]


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in (MODULE, "beside"):
        sys.modules.pop(name, None)


USAGE = {
    "no command of that name": ["rnu"],
    "no such option": ["run", "x.py", "--modes", "parallel"],
    "no such file": ["run", "nowhere.py"],
    "no such recorded file": ["run", "nowhere.json"],
    "neither kind of file": ["run", "flow.txt"],
    "a parameter that is none": ["run", "flow.py", "-p", "count"],
    "a parameter twice": ["run", "flow.py", "-p", "count=1", "-p", "count=2"],
    "sizes of somebody else's cluster": ["run", "flow.py", "--on", "tcp://127.0.0.1:9", "--cpu", "2"],
    "memory of somebody else's cluster": ["run", "flow.py", "--detach", "--memory", "1GB"],
    "no GPUs of somebody else's cluster": ["run", "flow.py", "--on", "tcp://127.0.0.1:9", "--gpu", "0"],
    "resources of no cluster": ["run", "flow.py", "--mode", "sequential", "--resource", "licence=1"],
    "permits of no cluster": ["run", "flow.py", "--mode", "sequential", "--heavy-io", "1"],
    "sequential elsewhere": ["run", "flow.py", "--mode", "sequential", "--detach"],
    "a scale without a recording": ["run", "flow.py", "--time-scale", "1"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str], flow: str) -> None:
    assert main([flow if argument == "flow.py" else argument for argument in arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "cuont=3"], "did you mean \"count\""),
        (["-p", "count=three"], "parameter 'count': 'three' is no whole number"),
        (["-p", "double=maybe"], "parameter 'double': 'maybe' is neither true nor false"),
        (["--memory", "2"], "memory is a number of bytes, or a text with its unit such as"),
        (["--resource", "licence"], "--resource is NAME=N with a whole number, not 'licence'"),
        (["--resource", "gpu=1"], "'gpu' is no name for a resource"),
        (["--gpu", "-1"], "--gpu"),
        (["--retry", "-1"], "retry is a number of attempts"),
        (["--step-timeout", "0"], "step_timeout is greater than 0"),
        (["--grace", "nan"], "grace is a number"),
        (["--max-parallel-steps", "0"], "max_parallel_steps is a whole number"),
        (["--priority", "-1"], "priority is a whole number"),
        (["--keep", "ad"], "did you mean \"add\""),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_was_meant(
    flow: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", flow, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(UnschedulableError("no GPU"), 2), (StalledError("its worker was lost"), 3), (KeyError("ours"), 70)],
)
def test_only_what_is_a_bug_is_called_one(error: Exception, code: int) -> None:
    assert code_of(error) == code


def test_every_field_of_a_config_has_its_option() -> None:
    assert {field.name for field in dataclasses.fields(Config)} <= {
        option.name for option in cli.commands["run"].params
    }


def test_options_reach_the_steps(flow: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", f"{flow}:failing", "--retry", "1", "--mode", "sequential", "--progress", "none"]) == 1
    assert "step 'fail' failed after 2 attempts" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], *([name] for name in cli.commands)])
def test_each_command_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert "Example:" in capsys.readouterr().out


def inner(x: int) -> int:
    return 12 // x


def outer(x: int) -> Workflow:
    workflow = Workflow()
    workflow.add(inner, x)
    return workflow


def test_of_a_step_that_gave_way_the_call_that_failed_is_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    workflow = Workflow()
    workflow.add(outer, 0)
    found = run(workflow, mode="sequential", check=False)
    assert replay_step(found, "outer", debug=False, as_json=False) == 1
    said = capsys.readouterr().err
    assert said.startswith("outer gave way to a workflow, in which outer/inner failed: that is called.\n")
    assert "ZeroDivisionError" in said
