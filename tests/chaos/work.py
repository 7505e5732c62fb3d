"""Steps that leave evidence: one line in the world's journal when an attempt begins, and one when it is through."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pfw import Retry, StepInterrupt, Workflow, current, step

#: Names the worker to what runs on it.
WORKER_VARIABLE = "CHAOS_WORKER"
BEGUN, THROUGH = "begun", "through"
JOURNAL = "journal"
#: How long the steps that hold sleep between two looks, s.
LOOK_S = 0.005


class Line(NamedTuple):
    """One line of the journal."""

    what: str
    run: int
    step: str
    worker: str
    pid: int
    nonce: str
    #: Monotonic, the same for all processes of a machine.
    at: float


def read_line(text: str) -> Line:
    what, run, name, worker, pid, nonce, at = text.split()
    return Line(what, int(run), name, worker, int(pid), nonce, float(at))


def _note(folder: str, what: str, run: int, name: str, nonce: str) -> None:
    line = f"{what} {run} {name} {os.environ.get(WORKER_VARIABLE)} {os.getpid()} {nonce} {time.monotonic():.6f}\n"
    fd = os.open(f"{folder}/{JOURNAL}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)


def combine(number: int, values: Sequence[int]) -> int:
    """What a step returns, whoever executes it and how often."""
    return (31 * (number + 1) + sum(values)) % 1_000_003


def _begin(folder: str, run: int, name: str) -> str:
    nonce = uuid.uuid4().hex
    _note(folder, BEGUN, run, name, nonce)
    return nonce


def _end(folder: str, run: int, name: str, nonce: str, number: int, inputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    _note(folder, THROUGH, run, name, nonce)
    value = combine(number, [each["value"] for each in inputs])
    return {"value": value, "nonce": nonce, "seen": [each["nonce"] for each in inputs]}


def _times(folder: str, mark: str) -> int:
    """How often this was called for the mark."""
    path = Path(folder, mark)
    with path.open("a") as file:
        file.write(".")
    return path.stat().st_size


def work(folder: str, run: int, number: int, does: str, seconds: float, inputs: list[dict[str, Any]]) -> Any:
    """A step as its plan says."""
    name = f"s{number}"
    nonce = _begin(folder, run, name)
    _DOES[does](folder, f"{run}-{name}", seconds)
    found = _end(folder, run, name, nonce, number, inputs)
    return grown(folder, run, number, found) if does == "grows" else found


async def work_async(folder: str, run: int, number: int, does: str, seconds: float, inputs: list[Any]) -> Any:
    """As `work`, in the async process."""
    name = f"s{number}"
    nonce = _begin(folder, run, name)
    await asyncio.sleep(600 if does == "hangs" else seconds)
    return _end(folder, run, name, nonce, number, inputs)


def grown(folder: str, run: int, number: int, found: dict[str, Any]) -> Workflow:
    """What takes the place of a step that grows: its output is of the last one."""
    with Workflow() as wf:
        inner = [step(work_inner, hint="light_io")(folder, run, number, part, [found]) for part in range(3)]
        step(work_inner)(folder, run, number, 3, inner)
    return wf


def work_inner(folder: str, run: int, number: int, part: int, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    name = f"s{number}/{part}"
    return _end(folder, run, name, _begin(folder, run, name), part, inputs)


def grown_value(value: int) -> int:
    """What comes out of `grown` for an input."""
    return combine(3, [combine(part, [value]) for part in range(3)])


def call(folder: str, run: int, number: int, *inputs: int) -> int:
    """A single call."""
    name = f"s{number}"
    _note(folder, THROUGH, run, name, _begin(folder, run, name))
    return combine(number, inputs)


# -- what steps do -----------------------------------------------------------------------------------------------------


def _sleep(folder: str, mark: str, seconds: float) -> None:
    time.sleep(seconds)


def _burn(folder: str, mark: str, seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        sum(range(1000))


def _raise(folder: str, mark: str, seconds: float) -> None:
    raise ValueError(f"{mark} always fails")


def _recover(folder: str, mark: str, seconds: float) -> None:
    if _times(folder, f"raised-{mark}") < 3:
        raise ConnectionError(f"{mark} fails now")


def _crash(folder: str, mark: str, seconds: float) -> None:
    if _times(folder, f"crashed-{mark}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def _hang(folder: str, mark: str, seconds: float) -> None:
    time.sleep(600)


def _leave(folder: str, mark: str, seconds: float) -> None:
    """Leaves processes: one of a session of its own, one that has lost its parent and was only forked."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()


def _obey(folder: str, mark: str, seconds: float) -> None:
    while True:
        current().check()
        time.sleep(LOOK_S)


def _ignore(folder: str, mark: str, seconds: float) -> None:
    while True:
        try:
            time.sleep(600)
        except StepInterrupt:
            continue


_DOES = {
    "sleeps": _sleep, "burns": _burn, "grows": _sleep, "raises": _raise, "recovers": _recover, "crashes": _crash,
    "hangs": _hang, "leaves": _leave, "obeys": _obey, "ignores": _ignore,
}  # fmt: skip

#: Options of the steps that do these.
OPTIONS: dict[str, dict[str, Any]] = {
    "recovers": {"retry": Retry(retries=4, backoff=0.01)},
    "hangs": {"timeout": 0.3, "grace": 0.2},
    "obeys": {"grace": 20.0},
    "ignores": {"grace": 0.3},
}
