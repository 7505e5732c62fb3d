"""What a step was called with, its call made again, how it stands, and outputs as they come: alike in every mode."""

from __future__ import annotations

import asyncio
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT, steps, wait_until
from helpers.command import COMMAND, expect, result
from helpers.daemons import Daemons, daemons
from pfw import (
    Client,
    LocalCluster,
    OutputNotKeptError,
    Retry,
    Run,
    RunCancelledError,
    Step,
    StepFailedError,
    UnknownDependencyError,
    Workflow,
    current,
    run,
    start,
    step,
)
from pfw.facts import FACT_SUCCEEDED

__all__ = ["daemons"]

MODES = ("sequential", "parallel", "waves")

double, give, total = map(step, (steps.double, steps.give, steps.total))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


@pytest.fixture(params=MODES)
def options(request: pytest.FixtureRequest, cluster: LocalCluster) -> dict[str, Any]:
    return {"mode": request.param, "on": None if request.param == "sequential" else cluster}


def broken(rows: list[Any], *, scale: Any) -> None:
    local = f"{current().step_id} {current().attempt} {current().run_id != ''}"
    raise ValueError(f"{local}: {rows} {scale}")


async def broken_async(x: int) -> None:
    await asyncio.sleep(0)
    raise TypeError(f"{current().step_id} {x}")


class Broken(Step):
    dependencies = ("source",)

    def execute(self, ctx: Any) -> None:
        raise KeyError(ctx["source"])


def failing() -> Workflow:
    with Workflow("failing") as wf:
        source = give.options(id="source")({"deep": [1, 2]})
        numbers = double.map([1, 2])
        bad = step(broken, retry=Retry(retries=1, backoff=0.001))(
            [source["deep"], numbers], scale=(numbers.nodes[0], 3)
        )
        step(broken_async)(numbers.nodes[1])
        wf.add(Broken())
        double.options(id="after")(bad)
        double.options(id="apart")(5)
    return wf


@pytest.fixture
def failed(options: dict[str, Any]) -> Run:
    return run(failing(), check=False, on_failure="continue", **options)


def test_what_a_failed_step_was_called_with_is_there(failed: Run) -> None:
    args, kwargs = failed.inputs("broken")
    assert (args, kwargs) == (([[1, 2], [2, 4]],), {"scale": (2, 3)})
    args[0].clear()
    assert failed.inputs("broken")[0] == ([[1, 2], [2, 4]],), "unpickled anew"
    assert failed.inputs("broken_async") == ((4,), {})
    assert failed.inputs("apart") == ((5,), {})
    assert "double[0]" not in failed.outputs, "inputs are no outputs"


def test_what_is_not_there_is_said(failed: Run, options: dict[str, Any]) -> None:
    with pytest.raises(OutputNotKeptError, match="no output of 'broken' for 'after': its state is FAILED"):
        failed.inputs("after")
    with pytest.raises(UnknownDependencyError, match='did you mean "broken"'):
        failed.inputs("brocken")
    with Workflow() as wf:
        total([give.options(id="one")(1), give.options(id="two")(2)])
    found = run(wf, **options)
    with pytest.raises(OutputNotKeptError, match=r"run with keep=\['one', 'two'\] or keep='all'"):
        found.inputs("total")
    assert run(wf, keep="all", **options).inputs("total") == (([1, 2],), {})


def test_a_failed_call_is_made_again_with_live_frames(failed: Run) -> None:
    with pytest.raises(ValueError, match=r"broken 2 True: \[\[1, 2\], \[2, 4\]\] \(2, 3\)") as caught:
        failed.replay("broken")
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert frames[-1].f_code.co_name == "broken"
    assert frames[-1].f_locals["local"] == "broken 2 True"
    with pytest.raises(TypeError, match="broken_async 4"):
        failed.replay("broken_async")
    with pytest.raises(KeyError, match="deep"):
        failed.replay("Broken")
    assert failed.replay("apart") == 10
    assert current().run_id == ""


def broken_inside(x: int, y: int) -> None:
    raise ValueError(f"{current().step_id} {x} {y}")


def gives_way(n: int) -> Workflow:
    with Workflow() as wf:
        step(broken_inside)(double(n), y=n)
    return wf


def refuse(x: int) -> int:
    if x > 2:
        raise KeyError(x)
    return x


def test_steps_that_came_while_the_run_went_on_are_called_again(options: dict[str, Any]) -> None:
    with Workflow() as wf:
        step(gives_way)(give(5))
        numbers = give.options(id="numbers")([1, 2])
        numbers.map(double).map(step(refuse))
        numbers.when(len).then(total).otherwise(double)
    found = run(wf, check=False, on_failure="continue", **options)
    assert found.inputs("gives_way/broken_inside") == ((10,), {"y": 5})
    assert found.replay("gives_way/double") == 10
    for name in ("gives_way/broken_inside", "gives_way"):
        with pytest.raises(ValueError, match="gives_way/broken_inside 10 5"):
            found.replay(name)
    assert (found.blamed("gives_way"), found.blamed("refuse")) == ("gives_way/broken_inside", "double/refuse[1]")
    assert found.explain("refuse").endswith("It gave way to a workflow, in which 'double/refuse[1]' failed.")
    with pytest.raises(OutputNotKeptError, match=r"keep='all', or make 'double/double\[0\]' of a step with keep=True"):
        found.inputs("double/refuse[0]")
    with pytest.raises(OutputNotKeptError, match=r"keep='all', or make 'double/double\[0\]' of a step with keep=True"):
        found.outputs["double/double[0]"]
    with pytest.raises(OutputNotKeptError, match="'total/double' was not called: it is the side of a branch"):
        found.replay("total/double")


def test_a_step_that_tolerates_failures_is_called_with_what_it_got(options: dict[str, Any]) -> None:
    with Workflow() as wf:
        bad = step(steps.fail)("no good")
        step(steps.fail, run_if="any").options(id="any")("x", [bad, give(1)], bad)
        step(steps.fail, run_if="always").options(id="always")("x", bad)
    found = run(wf, check=False, on_failure="continue", **options)
    assert found.inputs("any") == (("x", [1], None), {})
    (_, stands_for), _ = found.inputs("always")
    assert stands_for.step_id == "fail"


def test_what_a_step_was_called_with_that_took_too_long(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.hold, timeout=0.2, grace=0.1)(str(tmp_path), give.options(id="name")("held"))
    found = run(wf, on=cluster, check=False)
    assert found.inputs("hold") == ((str(tmp_path), "held"), {})
    assert "'hold' is TIMED_OUT at attempt 1" in found.explain()
    (tmp_path / "go").touch()
    assert found.replay("hold") is None


# -- how it stands -----------------------------------------------------------------------------------------------------


def test_an_ended_run_is_explained(failed: Run) -> None:
    assert "'broken' is FAILED at attempt 2 on worker" in failed.explain("broken")
    assert failed.explain("after") == "'after' is SKIPPED: broken failed."
    lines = failed.explain().splitlines()
    assert lines[0] == f"Run {failed.id} of 'failing' is FAILED."
    assert {line.split("'")[1] for line in lines[1:]} == {"broken", "broken_async", "Broken"}


def test_a_running_run_is_explained(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow("long") as wf:
        held = step(steps.hold).map([str(tmp_path)] * 3, ["a", "b", "c"])
        last = double.options(id="last")(total(held))
        step(steps.fail, retry=Retry(retries=1, backoff=60, jitter="none")).options(id="again", after=[])("not now")
    found = start(wf, on=cluster, on_failure="continue")
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, 20, what="two steps run")
    wait_until(lambda: "executes on worker" in found.explain("hold[0]"), 20, what="it is known to run")
    assert "could start and waits for one of the 2 cpu slots: 2 are taken" in found.explain("hold[2]")
    assert found.explain(last).splitlines()[:2] == [
        "'last' waits for 1 of the 1 steps it depends on: 'total'.",
        "'total' waits for 3 of the 3 steps it depends on: 'hold[0]', 'hold[1]', 'hold[2]'.",
    ]
    (tmp_path / "go").touch()
    wait_until(lambda: "ValueError: not now. The next one may start in" in found.explain("again"), 20, what="a backoff")
    found.cancel("enough")
    assert found.wait(20)
    assert found.explain("again") == "'again' is CANCELLED at attempt 1: enough: not started again."


def test_a_run_whose_cluster_has_gone_is_explained_as_far_as_it_is_known(tmp_path: Path) -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        wf = Workflow("gone")
        wf.add(steps.hold, str(tmp_path), "held")
        found = start(wf, on=cluster)
        wait_until((tmp_path / "held").exists, 20, what="it runs")
    assert found.explain("hold") == "'hold' has not ended, and its cluster cannot be asked (any more)."


# -- outputs as they come ----------------------------------------------------------------------------------------------


def test_outputs_are_given_as_they_come_and_freed(options: dict[str, Any]) -> None:
    with Workflow() as wf:
        numbers = double.map(range(200))
        total(numbers)
    found = start(wf, keep=[numbers], **options)
    given = dict(found.as_completed())
    assert given == {**{f"double[{n}]": 2 * n for n in range(200)}, "total": 39_800}
    assert dict(found.outputs) == {}
    assert not any(row[8] for row in found._record.rows if row[0] == FACT_SUCCEEDED), "nothing holds them any more"
    with pytest.raises(OutputNotKeptError, match="given by as_completed"):
        found.outputs["double[7]"]
    assert list(found.as_completed()) == []
    assert found.metrics.successful_steps == 201


def test_after_the_last_output_comes_the_error(options: dict[str, Any]) -> None:
    with Workflow() as wf:
        double.map(range(3))
        step(steps.fail)("no good")
    found = start(wf, on_failure="continue", **options)
    given, outputs = {}, found.as_completed()
    with pytest.raises(StepFailedError, match="no good"):  # noqa: PT012  the loop is what raises
        for step_id, value in outputs:
            given[step_id] = value
    assert given == {"double[0]": 0, "double[1]": 2, "double[2]": 4}


def test_an_output_is_given_while_others_run(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.hold)(str(tmp_path), "held", 7)
        double.options(id="quick")(4)
    found = start(wf, on=cluster)
    outputs = found.as_completed()
    assert next(outputs) == ("quick", 8)
    assert not found.done()
    (tmp_path / "go").touch()
    assert next(outputs) == ("hold", 7)
    assert list(outputs) == []


def test_a_cancelled_run_ends_the_outputs(cluster: LocalCluster, tmp_path: Path) -> None:
    wf = Workflow()
    wf.add(steps.hold, str(tmp_path), "held")
    found = start(wf, on=cluster)
    found.cancel("enough")
    with pytest.raises(RunCancelledError, match="enough"):
        list(found.as_completed())


# -- from the command line ---------------------------------------------------------------------------------------------

BY_VALUE = """
from pfw import Workflow, step

def helper(x):
    wanted = x + 1
    raise ValueError(f"bad {wanted}")

@step
def source():
    print("looking")
    return 41

@step
def bad(x):
    return helper(x)

def main() -> Workflow:
    with Workflow("by value") as wf:
        bad(source())
    return wf
"""


@pytest.fixture
def run_id(daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that has failed, of a file that only its client had."""
    daemons.start_coordinator()
    daemons.start_worker(cpu=1, io=1)
    file = tmp_path / "flow.py"
    file.write_text(BY_VALUE)
    started = result("run", file, "--detach", env=daemons.env)
    expect(1, "attach", started["run"], env=daemons.env)
    file.unlink()
    return str(started["run"])


def test_pfw_replay_shows_how_a_step_fails(daemons: Daemons, run_id: str) -> None:
    done = expect(1, "replay", run_id, "bad", env=daemons.env)
    assert "ValueError: bad 42" in done.stderr
    assert expect(0, "replay", run_id, "source", env=daemons.env).stdout == "looking\n41\n"
    assert result("replay", run_id, "source", env=daemons.env) == 41
    assert "no step 'bat'" in expect(2, "replay", run_id, "bat", env=daemons.env).stderr


def test_pfw_replay_goes_into_the_debugger(daemons: Daemons, run_id: str) -> None:
    done = subprocess.run(
        [*COMMAND, "replay", run_id, "bad", "--pdb"], input="p wanted\nup\np x\nq\n", env=daemons.env,
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "(Pdb) 42" in done.stdout
    assert "(Pdb) 41" in done.stdout


def test_pfw_explain_says_how_steps_stand(daemons: Daemons, run_id: str) -> None:
    assert "'bad' is FAILED at attempt 1" in expect(0, "explain", run_id, env=daemons.env).stdout
    found = result("explain", run_id, "source", env=daemons.env)
    assert (found["run"], found["step"]) == (run_id, "source")
    assert found["text"].startswith("'source' is SUCCEEDED")


def test_those_who_attach_can_replay_and_ask(daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}")
    daemons.start_coordinator()
    with Client(daemons.address) as client:
        wf = Workflow()
        wf.add(double, 4)
        run_id = client.start(wf).id
    with Client(daemons.address) as other:
        found = other.attach(run_id)
        reasons = (event.message for event in found.events() if event.type == "Waiting")
        assert next(reasons) == "it needs 1 CPU slot, and there is no worker"
        assert found.explain().splitlines() == [
            f"Run {run_id} of 'workflow' is RUNNING.",
            "'double' could start, but no worker is registered.",
        ]
        assert found.replay("double") == 8
