"""Real daemons for tests: a coordinator on an ephemeral port and workers, ended by their ids at the end of the test.

from helpers.daemons import Daemons, daemons  # noqa: F401  (a fixture is used by its name)

def test_something(daemons: Daemons) -> None:
    address = daemons.start_coordinator()
    daemons.start_worker(cpu=2, io=1)
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from helpers.places import SOURCE_ROOTS
from helpers.waiting import wait_until

#: How long a daemon may take to be ready, and to end after SIGTERM.
READY_S = 20.0
#: How much of a log a failure shows, in characters.
TAIL = 4_000


class Daemon:
    """One daemon process with its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def tail(self) -> str:
        """The end of what it has printed."""
        text = self.log.read_text("utf-8", "replace")[-TAIL:]
        return f"--- {self.name} (pid {self.pid}, exit code {self.process.poll()}) ---\n{text}"

    def signal(self, number: int) -> None:
        if self.is_alive():
            self.process.send_signal(number)

    def wait(self, timeout: float = READY_S) -> int:
        """Waits for its end; returns the exit code."""
        wait_until(lambda: not self.is_alive(), timeout, what=f"end of {self.name}", detail=self.tail)
        return self.process.returncode

    def stop(self, timeout: float = READY_S) -> int:
        """SIGTERM, then waits for its end."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)


class Daemons:
    """A coordinator and its workers, with a runtime folder of their own."""

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: For logs and the runtime folder; short, since it holds sockets.
        """
        self.folder = folder
        self.runtime_dir = folder / "run"
        self.runtime_dir.mkdir(mode=0o700)
        self.all: list[Daemon] = []
        self._address = ""

    @property
    def env(self) -> dict[str, str]:
        """The environment in which daemons and commands of this test find each other, and no other coordinator."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("PFW_")}
        paths = [*map(str, SOURCE_ROOTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **env, "XDG_RUNTIME_DIR": str(self.runtime_dir), "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    @property
    def address(self) -> str:
        """Of the coordinator that was started last."""
        assert self._address, "start_coordinator first"
        return self._address

    def spawn(self, name: str, arguments: Sequence[str], env: dict[str, str] | None = None) -> Daemon:
        """Starts `python ARGUMENTS` with its output in a log."""
        log = self.folder / f"{name}-{len(self.all)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self.env, **(env or {})},
                cwd=self.folder,
            )
        daemon = Daemon(name, process, log)
        self.all.append(daemon)
        return daemon

    def start_coordinator(
        self, *options: str, bind: str = "tcp://127.0.0.1:*", env: dict[str, str] | None = None
    ) -> str:
        """Starts a coordinator and waits until it listens; returns its address."""
        daemon = self.spawn("coordinator", ["-m", "pfw_coordinator", "--bind", bind, *options], env)
        found = wait_until(
            lambda: self._said(daemon, r"listens at (\S+)"), READY_S, what="coordinator's address", detail=daemon.tail
        )
        self._address = found
        return found

    def start_worker(
        self,
        cpu: int = 1,
        io: int = 1,
        *,
        name: str | None = None,
        address: str | None = None,
        options: Sequence[str] = (),
    ) -> Daemon:
        """Starts a worker and waits until the coordinator has it."""
        name = name or f"w{len(self.all)}"
        arguments = ["-m", "pfw_worker", address or self.address, "--cpu", str(cpu), "--io", str(io), "--name", name]
        daemon = self.spawn(name, [*arguments, *options])
        wait_until(lambda: self._is_registered(daemon), READY_S, what=f"{name} registered", detail=self.tails)
        return daemon

    def _is_registered(self, daemon: Daemon) -> bool:
        from pfw.client import Client

        assert daemon.is_alive(), daemon.tail()
        with Client(self.address, timeout=READY_S) as client:
            return any(worker["pid"] == daemon.pid for worker in client.workers())

    def _said(self, daemon: Daemon, pattern: str) -> str:
        assert daemon.is_alive(), daemon.tail()
        found = re.search(pattern, daemon.log.read_text("utf-8", "replace"))
        return found[1] if found else ""

    @property
    def coordinator(self) -> Daemon:
        """The coordinator that was started last."""
        return [daemon for daemon in self.all if daemon.name == "coordinator"][-1]

    def tails(self) -> str:
        """The ends of all logs, for the message of a failure."""
        return "\n".join(daemon.tail() for daemon in self.all)

    def close(self) -> None:
        """Ends every daemon of this test, by its id: workers first, in the order of their start reversed."""
        family = [child for daemon in self.all for child in descendants(daemon.pid)]
        for number, grace_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            for daemon in reversed(self.all):
                daemon.signal(number)
                daemon.signal(signal.SIGCONT)
            for daemon in reversed(self.all):
                try:
                    daemon.process.wait(grace_s)
                except subprocess.TimeoutExpired:
                    continue
        for child in psutil.wait_procs(family, timeout=5.0)[1]:
            child.kill()


def descendants(pid: int) -> list[psutil.Process]:
    """The processes that this one has started, and those that they have."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def processes_with(name: str, value: str) -> list[int]:
    """Ids of the processes in whose environment the variable has this value: a family, whoever its parents are now."""
    mark = f"{name}={value}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:  # it has ended, or is not ours to look at
                continue
    return found


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    """Nothing is started yet; the test asks for what it needs, and at its end all of it is ended."""
    folder = Path(tempfile.mkdtemp(prefix="pfw-test-"))
    found = Daemons(folder)
    try:
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["READY_S", "Daemon", "Daemons", "daemons", "descendants", "processes_with"]
