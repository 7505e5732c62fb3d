"""Step functions for tests with real processes; files are their signals, so nobody has to guess a time."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from pfw import StepInterrupt, current

#: How often a waiting step looks for its file.
LOOK_S = 0.002


class TwoArguments(Exception):
    """Does not unpickle: its `args` are not what its constructor takes."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first}/{second}")


class HoldsLock(Exception):
    """Does not pickle."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def give(value: Any) -> Any:
    return value


def double(x: Any) -> Any:
    return 2 * x


def add(*values: Any, plus: Any = 0) -> Any:
    return sum(values) + plus


def total(values: Any) -> Any:
    return sum(values)


async def double_async(x: Any) -> Any:
    await asyncio.sleep(0)
    return 2 * x


def fail(text: str = "no good", *ignored: Any) -> NoReturn:
    raise ValueError(text)


def raise_odd(name: str) -> NoReturn:
    raise TwoArguments("left", "right") if name == "two" else HoldsLock("locked")


def fail_until(attempt: int, value: Any = None) -> Any:
    """Succeeds with this attempt, and not before."""
    if current().attempt < attempt:
        raise ConnectionError(f"attempt {current().attempt}")
    return value


def who_until(folder: str, attempt: int) -> str:
    """Notes its process, and fails before this attempt."""
    mark(folder, "tried")
    return str(fail_until(attempt, "done"))


def leave(code: Any) -> NoReturn:
    raise SystemExit(code)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


async def leave_async(code: Any) -> NoReturn:
    raise SystemExit(code)


async def interrupt_async() -> NoReturn:
    raise KeyboardInterrupt


def generate() -> Any:
    return (x for x in range(3))


def give_lock() -> Any:
    return threading.Lock()


def crash(how: str) -> NoReturn:
    """Ends its own process."""
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(int(how))


async def crash_async(how: str) -> None:
    crash(how)


def mark(folder: str, name: str, value: Any = None) -> Any:
    """Leaves a file that says it has run; one line for each time."""
    with (Path(folder) / name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return value


def hold(folder: str, name: str, value: Any = None) -> Any:
    """Leaves the file `name`, then waits for the file `go`."""
    mark(folder, name)
    while not (Path(folder) / "go").exists():
        time.sleep(LOOK_S)
    return value


async def hold_async(folder: str, name: str, value: Any = None) -> Any:
    mark(folder, name)
    while not (Path(folder) / "go").exists():
        await asyncio.sleep(LOOK_S)
    return value


def meet(folder: str, name: str, count: int) -> str:
    """Returns when so many files are there: all of them were running at once."""
    mark(folder, name)
    while len(list(Path(folder).glob(f"{name[:4]}*"))) < count:
        time.sleep(LOOK_S)
    return name


async def meet_async(folder: str, name: str, count: int) -> str:
    mark(folder, name)
    while len(list(Path(folder).glob(f"{name[:4]}*"))) < count:
        await asyncio.sleep(LOOK_S)
    return name


def obey_token(folder: str, name: str) -> None:
    """Runs until its token says stop."""
    mark(folder, name)
    while not current().token.cancelled:
        time.sleep(LOOK_S)
    mark(folder, f"{name}-stopped")


def obey_check(folder: str, name: str) -> None:
    """Runs until `check` raises."""
    mark(folder, name)
    try:
        while True:
            time.sleep(LOOK_S)
            current().check()
    finally:
        mark(folder, f"{name}-stopped")


def sleep_long(folder: str, name: str) -> None:
    """Sleeps until it is interrupted."""
    mark(folder, name)
    try:
        time.sleep(600)
    except StepInterrupt:
        mark(folder, f"{name}-stopped")
        raise


async def sleep_long_async(folder: str, name: str) -> None:
    mark(folder, name)
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        mark(folder, f"{name}-stopped")
        raise


def ignore_all(folder: str, name: str) -> None:
    """Cannot be stopped but by force."""
    mark(folder, name)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


def speak(folder: str) -> None:
    """Prints, waits for the file `go`, and prints again."""
    print("speaking")
    hold(folder, "waiting")
    print("done")


async def speak_async(folder: str) -> None:
    print("speaking")
    await hold_async(folder, "waiting")
    print("done")


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


async def nap_async(seconds: float, value: Any = None) -> Any:
    await asyncio.sleep(seconds)
    return value


def spin() -> NoReturn:
    """A loop of Python instructions."""
    while True:
        pass


def hold_gil() -> None:
    """A loop in native code, which no signal reaches."""
    sum(range(10**13))


def swallow(kind: type[BaseException]) -> NoReturn:
    """Sleeps, and goes on whatever is raised of this kind."""
    while True:
        try:
            time.sleep(600)
        except kind:
            continue


def hang_until(attempt: int, value: Any = None) -> Any:
    """Hangs in all attempts before this one."""
    if current().attempt < attempt:
        time.sleep(600)
    return value


def return_when_interrupted() -> str:
    try:
        time.sleep(600)
    except StepInterrupt:
        return "a result that comes too late"


def who() -> int:
    return os.getpid()


def shout(text: str) -> str:
    print(text, flush=True)
    return text


def read_environ(names: Any) -> tuple[int, list[str | None]]:
    """This process and what its environment says."""
    return os.getpid(), [os.environ.get(name) for name in names]


def crowd(folder: str, variable: str = "") -> int:
    """How many of these steps execute at once (with the same value of the variable), seen while one executes."""
    mine = Path(folder, f"{os.environ.get(variable, '')}~{os.getpid()}")
    mine.touch()
    seen = 0
    for _ in range(10):
        seen = max(seen, len(list(Path(folder).glob(f"{mine.name.partition('~')[0]}~*"))))
        time.sleep(LOOK_S)
    mine.unlink()
    return seen


async def crowd_async(folder: str) -> int:
    """As `crowd`, for steps that share a process."""
    mine = Path(folder, f"~{current().step_id}")
    mine.touch()
    seen = 0
    for _ in range(10):
        seen = max(seen, len(list(Path(folder).iterdir())))
        await asyncio.sleep(LOOK_S)
    mine.unlink()
    return seen


def fill(size: int, folder: str = "") -> int:
    """Holds so many bytes of memory, touched page by page."""
    held = []
    for _ in range(size >> 22):
        held.append(b"x" * (1 << 22))
    if folder:
        hold(folder, "filled")
    return sum(map(len, held))


def wait_for(folder: str, name: str) -> None:
    """Returns when the file is there."""
    while not (Path(folder) / name).exists():
        time.sleep(LOOK_S)
