"""Ctrl-C: once the run is cancelled, twice what runs is killed."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from helpers import wait_until
from helpers.scripts import HOLD, Script, new_script


@pytest.fixture
def script() -> Iterator[Script]:
    with new_script() as found:
        yield found


def test_ctrl_c_ends_a_script_and_its_cluster(script: Script) -> None:
    process = script.begin(HOLD + "\n    run(wf, cpu=1, io=1)\n", str(script.folder))
    wait_until((script.folder / "began").exists, 20, what="the step runs")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert "cancelling the run" in errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    script.check_nothing_is_left()
    assert script.folders() == []


def test_an_interrupted_run_is_there_to_be_looked_at(script: Script) -> None:
    text = (
        HOLD
        + """
    try:
        run(wf, cpu=1, io=1)
    except KeyboardInterrupt as interrupt:
        print(interrupt.run.status, interrupt.run.states)
    """
    )
    process = script.begin(text, str(script.folder))
    wait_until((script.folder / "began").exists, 20, what="the step runs")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "CANCELLED {'hold': 'CANCELLED'}\n"), errors
    script.check_nothing_is_left()


IGNORE = """
    import sys, time
    from pathlib import Path
    from pfw import Client, LocalCluster, Workflow, run, step

    @step(grace=3600)
    def ignore(folder):
        (Path(folder) / "began").touch()
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass

    @step
    def other():
        return "usable"

    with Workflow() as wf:
        ignore(sys.argv[1])
    with Workflow() as another:
        other()
"""


def press_twice(script: Script, process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ctrl-C until the run says that it is being cancelled, and once more; what the script has printed then."""
    wait_until((script.folder / "began").exists, 20, what="the step runs")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    return output, first + errors


def test_the_second_ctrl_c_kills_what_runs(script: Script) -> None:
    text = """
    with LocalCluster(cpu=1) as cluster:
        try:
            run(wf, on=cluster)
        except KeyboardInterrupt as interrupt:
            found = interrupt.run
            print(found.status, found.cancel().counts())
        print(run(another, on=cluster).value)
    """
    output, errors = press_twice(script, script.begin(IGNORE + text, str(script.folder)))
    assert output == "CANCELLED {'killed': 1}\nusable\n", errors
    assert errors.count("pfw: interrupted") == 1
    script.check_nothing_is_left()


def test_two_ctrl_c_end_a_script_and_its_cluster(script: Script) -> None:
    process = script.begin(IGNORE + "\n    run(wf, cpu=1, io=1)\n", str(script.folder))
    _, errors = press_twice(script, process)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    script.check_nothing_is_left()
    assert script.folders() == []


def test_ctrl_c_while_a_run_is_handed_over_finds_the_run(script: Script) -> None:
    # Pressed when the run is on its way and nobody waits for it yet.
    text = (
        HOLD
        + """
    import signal
    from pfw import LocalCluster

    class Pressed(LocalCluster):
        def submit_run(self, *args, **options):
            found = super().submit_run(*args, **options)
            signal.raise_signal(signal.SIGINT)
            return found

    with Pressed(cpu=1, io=1) as cluster:
        try:
            run(wf, on=cluster)
        except KeyboardInterrupt as interrupt:
            print(interrupt.run.status, interrupt.run.states)
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    )
    assert script.run(text, str(script.folder)) == "CANCELLED {'hold': 'CANCELLED'}\nTrue\n"
    assert "cancelling the run" in script.errors
    script.check_nothing_is_left()


def test_a_second_ctrl_c_does_not_wait_for_the_hand_over(script: Script) -> None:
    text = (
        HOLD
        + """
    import signal
    from pfw import LocalCluster

    class Stuck(LocalCluster):
        def submit_run(self, *args, **options):
            signal.raise_signal(signal.SIGINT)
            print("kept")
            signal.raise_signal(signal.SIGINT)
            print("not reached")

    with Stuck(cpu=1, io=1) as cluster:
        try:
            run(wf, on=cluster)
        except KeyboardInterrupt as interrupt:
            print(hasattr(interrupt, "run"), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    )
    assert script.run(text, str(script.folder)) == "kept\nFalse True\n"
    script.check_nothing_is_left()


def test_who_takes_ctrl_c_over_while_it_is_kept_keeps_it(script: Script) -> None:
    text = (
        HOLD
        + """
    import signal
    from pfw import LocalCluster

    class Taken(LocalCluster):
        def submit_run(self, *args, **options):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise ValueError("no run")

    with Taken(cpu=1, io=1) as cluster:
        try:
            run(wf, on=cluster)
        except ValueError:
            print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
    """
    )
    assert script.run(text, str(script.folder)) == "True\n"
    script.check_nothing_is_left()


def test_what_goes_wrong_while_ctrl_c_is_kept_is_told_with_it(script: Script) -> None:
    text = (
        HOLD
        + """
    import signal
    from pfw import LocalCluster

    class Broken(LocalCluster):
        def submit_run(self, *args, **options):
            signal.raise_signal(signal.SIGINT)
            raise ValueError("broken")

    with Broken(cpu=1, io=1) as cluster:
        try:
            run(wf, on=cluster)
        except KeyboardInterrupt as interrupt:
            print(repr(interrupt.__context__))
    """
    )
    assert script.run(text, str(script.folder)) == "ValueError('broken')\n"
    script.check_nothing_is_left()
