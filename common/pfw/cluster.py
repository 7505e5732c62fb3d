"""Clusters on this machine: one child process, and its slots, gone when their client is gone."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pfw import host
from pfw.checks import SLOTS_LIMIT, check_count
from pfw.client import Client
from pfw.config import Config, checked_config, settle
from pfw.demand import GPU, HEAVY_IO, HEAVY_IO_PERMITS, MEMORY, Offer, demand_of, shortage
from pfw.echo import Echo
from pfw.errors import ConfigError, UnschedulableError
from pfw.folders import FOLDER_VARIABLE, make_folder, remove_folder
from pfw.graph import Graph
from pfw.hint import COUNT_LIMIT, checked_resource

#: The shared cluster of `run(wf)` ends when it has not been used for so long.
IDLE_S = 30.0
#: A shared cluster whose place another has taken ends when it has had nothing to do for so long.
HANDED_OUT_S = 5.0
#: How long a cluster may take to start, and to end before it is killed.
START_S = 20.0
END_S = 5.0
#: How long the end of a run waits for a terminal that is slow.
SHOW_S = 5.0


class LocalCluster(Client):
    """A coordinator and a worker of this process's own, in one child process, on `ipc://` in a private folder.

    It ends with `close`, with the `with` block, and when this process ends, however it ends.
    """

    def __init__(
        self,
        cpu: int | None = None,
        io: int | None = None,
        memory: int | str | None = None,
        gpu: int | None = None,
        resources: Mapping[str, int] | None = None,
        *,
        heavy_io: int | None = None,
        config: Config | None = None,
    ) -> None:
        """Starts it, and waits until it is there.

        What is not given, or None, is as `config` says: `cpu`, `io`, `memory`.

        Args:
            cpu: CPU slots; None: the cores this process may use.
            io: IO slots, started on demand; None: 4 for each CPU slot.
            memory: Memory of all its steps together, in bytes or as "8GB"; None: what this process may use.
            gpu: GPUs; None: those this process may use.
            resources: `{name: number}` of what else steps may ask for with `Hint.resource`.
            heavy_io: "heavy_io" steps at a time; None: 4.
            config: Also for its runs and single calls, as with a Client; None: `Config.load()`.

        Raises:
            ConfigError: A size is not a whole number from 1 to 10,000, a name none for a resource, or there is no place
                for temporary files.
            ClusterError: It does not start.
            StalledError: Its slots do not start.
        """
        self.config = checked_config(config)
        sizes = settle(config, cpu=cpu, io=io, memory=memory)
        self.cpu = host.cpu_capacity() if sizes.cpu is None else sizes.cpu
        self.io = 4 * self.cpu if sizes.io is None else sizes.io
        self.memory = host.memory_capacity() if sizes.memory_bytes is None else sizes.memory_bytes
        check_count("gpu", gpu or 0, SLOTS_LIMIT, least=0)
        self.heavy_io = HEAVY_IO_PERMITS if heavy_io is None else heavy_io
        check_count("heavy_io", self.heavy_io, SLOTS_LIMIT, least=0)
        self.gpu = host.gpu_capacity(gpu)
        self.resources = _checked_resources(resources or {})
        self._calls = None
        self._owner = os.getpid()
        self._closing = threading.Lock()
        #: Shows what steps print; `echo.write` may be replaced.
        self.echo = Echo(_show)
        #: When the shared cluster was last asked for or busy, on the monotonic clock.
        self.used_at = time.monotonic()
        self._folder, self._lock_fd = make_folder("local")
        self._daemon: subprocess.Popen[bytes] | None = None
        _alive.add(self)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        path = f"{self._folder}/c"
        resources = {MEMORY: self.memory, GPU: self.gpu, HEAVY_IO: self.heavy_io, **self.resources}
        ours, theirs = host.seqpacket_pair()
        with theirs:
            sizes = {"cpu": self.cpu, "io": self.io, "resources": resources}
            self._daemon = self._spawn(path, theirs.fileno(), sizes)
        from pfw.link import Link  # its dependencies take as long to load as the process to start: not before it
        from pfw.packets import Packets

        self._link = Link(f"ipc://{path}", Packets(ours), daemon_fd=host.pidfd_open(self._daemon.pid))
        self._link.session.on_printed = self.echo.put
        self._connect(START_S)

    def _spawn(self, path: str, line_fd: int, sizes: dict[str, Any]) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            FOLDER_VARIABLE: str(self._folder),
            "PFW_SYS_PATH": json.dumps([entry for entry in sys.path if isinstance(entry, str)]),
        }
        code = _BOOT.format(roots=_roots(), path=path, line_fd=line_fd, parent_pid=os.getpid(), sizes=sizes)
        command = [sys.executable, "-P", "-c", code]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[line_fd]
        )

    def close(self) -> None:
        """Ends the cluster; what runs on it is stopped."""
        if self._owner != os.getpid():
            return
        with self._closing:
            self._end()

    def wait(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until `predicate()` is true and what was printed before is shown; False if the time is over before."""
        found = super().wait(predicate, timeout)
        if found:
            self.echo.flush(SHOW_S)
        return found

    def _end(self) -> None:
        try:
            if hasattr(self, "_link"):
                super().close()
            self.echo.flush(SHOW_S)
        finally:
            self._end_process()

    def _end_process(self) -> None:
        if self._daemon is not None:
            _end(self._daemon)
            self._daemon = None
        if self._lock_fd >= 0:
            remove_folder(self._folder)
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> LocalCluster:
        return self

    def _check_demands(self, graph: Graph) -> None:
        # There will never be another worker, so what it cannot run is said before anything runs.
        resources = {**self.resources, MEMORY: self.memory, GPU: self.gpu, HEAVY_IO: self.heavy_io}
        offer = Offer((self.cpu, self.io, sys.maxsize), resources)
        for number, spec in enumerate(graph.specs):
            demand = demand_of(spec)
            text = shortage(demand, [offer]) if demand is not None else ""
            if text:
                step = graph.ids[graph.spec_of.index(number)]
                raise UnschedulableError(f"step {step!r} can never run on this cluster: {text}")

    @property
    def is_idle(self) -> bool:
        """Whether nothing of this process runs on it."""
        return self._link.session.is_idle

    @property
    def is_usable(self) -> bool:
        """Whether this process made it and it is up."""
        return self._owner == os.getpid() and self._daemon is not None and not self._link.is_closed


#: What the child process runs: only here the two daemons know each other. -P: nothing that lies in the working
#: directory takes the place of our modules, which are found where the client's are.
_BOOT = """
import sys
from functools import partial
sys.path += {roots!r}
from pfw_coordinator.embedded import serve
from pfw_worker.embedded import start
serve({path!r}, {line_fd}, {parent_pid}, partial(start, **{sizes!r}))
"""


def _roots() -> list[str]:
    """The folders of `sys.path` in which our packages are."""
    specs = [importlib.util.find_spec(name) for name in ("pfw", "pfw_coordinator", "pfw_worker")]
    roots = [str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin]
    return [root for root in roots if root in sys.path]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, by force if it does not end in time."""
    process.terminate()
    if process.poll() is not None:
        return
    try:
        pidfd = host.pidfd_open(process.pid)  # Popen.wait with a time limit looks only now and then
        host.wait_readable(pidfd, END_S)
        os.close(pidfd)
        process.wait(0)
    except (OSError, subprocess.TimeoutExpired):  # no descriptor is left, or it has not ended
        process.kill()
        process.wait()


def _show(text: str) -> None:
    """Where the steps would have printed it if they had run here."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _checked_resources(resources: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(resources, Mapping):
        raise ConfigError(f"resources is a dict {{name: number}}, not {resources!r}")
    for name, number in resources.items():
        check_count(f"the number of resource {checked_resource(name)!r}", number, COUNT_LIMIT, least=0)
    return dict(resources)


# -- the cluster of `run(wf)` --------------------------------------------------------------------------------------


class _Shared:
    """The cluster that runs without `on=` share: kept while its sizes and this process's surroundings are the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cluster: LocalCluster | None = None
        self._key: tuple[object, ...] = ()

    def renew_lock(self) -> None:
        """In a forked child."""
        self._lock = threading.Lock()

    def need(self, config: Config) -> LocalCluster:
        """The cluster with the sizes that a run's config says."""
        # Its slots have the folder, environment and sys.path that this process had when they were started.
        sizes = (config.cpu, config.io, config.memory)
        key = (sizes, os.getpid(), os.getcwd(), tuple(sys.path), tuple(os.environ.items()))
        with self._lock:
            if self._cluster is None or key != self._key or not self._cluster.is_usable:
                # Of the rest of its config each run brings its own.
                self._replace(LocalCluster(config=Config(cpu=config.cpu, io=config.io, memory=config.memory)))
                self._key = key
            assert self._cluster is not None
            self._cluster.used_at = time.monotonic()
            return self._cluster

    def _replace(self, cluster: LocalCluster) -> None:
        # Runs may still be on the old one; its own thread ends it when they have.
        self._cluster = cluster
        threading.Thread(target=self._watch, args=(cluster,), name="pfw-idle", daemon=True).start()

    def _watch(self, cluster: LocalCluster) -> None:
        """Ends a cluster that is not used any more, or whose process has ended."""
        while cluster.is_usable:
            time.sleep(1.0)
            with self._lock:
                now = time.monotonic()
                if not cluster.is_idle:
                    cluster.used_at = now
                is_current = cluster is self._cluster
                # One that was just given to somebody is not idle for long.
                is_over = now - cluster.used_at > (IDLE_S if is_current else HANDED_OUT_S)
                if is_over and is_current:
                    self._cluster = None
            if is_over:
                break
        cluster.close()


_shared = _Shared()
# The lock may be held by a thread that is not there in the child.
os.register_at_fork(after_in_child=_shared.renew_lock)
_alive: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


def shared_cluster(config: Config) -> LocalCluster:
    """The cluster that runs without `on=` share; started now if there is none of the sizes that their config says.

    Raises:
        ConfigError: As LocalCluster.
        ClusterError: As LocalCluster.
    """
    return _shared.need(config)


@atexit.register
def _close_all() -> None:
    for cluster in list(_alive):
        cluster.close()
