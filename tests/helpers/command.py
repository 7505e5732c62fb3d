"""The command `pfw` as a process, and a file of workflows for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from helpers.daemons import processes_with
from helpers.waiting import wait_until

#: Marks a command and every process that it starts, by their environment.
MARK = "MARK_OF_A_TEST"

COMMAND = (sys.executable, "-m", "pfw")

FLOW = """
from dataclasses import dataclass
from pathlib import Path

from pfw import Hint, Workflow, step
from beside import triple

if __name__ == "__main__":
    raise AssertionError("imported, not run")
assert __name__ == "__pfw__"


@dataclass
class Sum:
    total: int


@step
def add(values) -> Sum:
    return Sum(sum(values))


@step(hint="light_io")
def fail(text):
    raise ValueError(f"no good: {text}")


@step(hint="light_io")
def hold(folder, seconds):
    import time
    (Path(folder) / "started").touch()
    time.sleep(seconds)


@step(hint="light_io", grace=60.0)
def ignore(folder):
    import time
    from pfw import current
    (Path(folder) / "started").touch()
    while True:
        time.sleep(0.01)
        if current().token.cancelled:
            (Path(folder) / "ignored").touch()


def main(count: "int | None" = None, *, double: bool = False) -> Workflow:
    with Workflow("sums") as wf:
        add([x * (2 if double else 1) for x in range(count or 3)] + [triple(0)])
    return wf


def tripled(count: int) -> Workflow:
    with Workflow("triples") as wf:
        add(step(triple).map(range(count)))
    return wf


def failing(text: str = "x") -> Workflow:
    with Workflow("failing") as wf:
        fail(text)
    return wf


def holding(folder: Path, seconds: float = 60) -> Workflow:
    with Workflow("holding") as wf:
        hold(str(folder), seconds)
    return wf


def ignoring(folder: Path) -> Workflow:
    with Workflow("ignoring") as wf:
        ignore(str(folder))
    return wf


@step(hint=Hint.memory("300MB") + Hint.gpu(2) + Hint.resource("licence") + Hint.resource("seat", 3))
def render():
    import os
    return os.environ["CUDA_VISIBLE_DEVICES"], "seats"


@step(hint="heavy_io")
def write():
    return 1


def demanding() -> Workflow:
    with Workflow("demanding") as wf:
        wf.returns([render(), write()])
    return wf


def unpicklable() -> Workflow:
    import threading
    with Workflow("unpicklable") as wf:
        add([threading.Lock()])
    return wf


several = Workflow("several")
several.add(add, [1])
several.add(add, [2])
"""


@pytest.fixture
def flow(tmp_path: Path) -> str:
    """A file of workflows, with a module beside it that workers cannot import."""
    folder = tmp_path / "flows"
    folder.mkdir()
    (folder / "beside.py").write_text("def triple(x):\n    return 3 * x\n")
    (folder / "flow.py").write_text(FLOW)
    return str(folder / "flow.py")


def pfw(
    *arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True, text=True, timeout=50, check=False, env=env, cwd=cwd, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def expect(code: int, *arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = pfw(*arguments, env=env)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr or code == 1, done.stderr
    return done


def result(*arguments: object, env: dict[str, str] | None = None, code: int = 0) -> Any:
    return json.loads(expect(code, *arguments, "--json", env=env).stdout)


Start = Callable[[Sequence[object], dict[str, str]], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts commands; whatever of them is left at the end of the test is killed."""
    with ExitStack() as stack:

        def begin(arguments: Sequence[object], env: dict[str, str]) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [*COMMAND, *map(str, arguments)],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, stdin=subprocess.DEVNULL,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            return process

        yield begin


def check_nothing_is_left(mark: str) -> None:
    wait_until(
        lambda: not processes_with(MARK, mark), what="no process is left", detail=lambda: processes_with(MARK, mark)
    )


__all__ = ["MARK", "Start", "check_nothing_is_left", "expect", "flow", "pfw", "result", "start"]
