"""The spawner: a small process, forked before anything heavy is loaded, that forks slots and reaps them.

It must be started before ZeroMQ is imported and while the worker has one thread: a process that holds either cannot be
forked safely. It ends as soon as the supervisor is gone, with all slots, whatever their steps have started, and the
worker's folder of temporary files. If it is killed its parent, the guard, does that in its place.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple, NoReturn

from pfw import host
from pfw.errors import ClusterError
from pfw.folders import FOLDER_VARIABLE, make_folder, remove_folder
from pfw_worker.channel import Channel, connect_pair
from pfw_worker.guard import become_guard, watch
from pfw_worker.outfit import Outfit, environment_of
from pfw_worker.output import Output, open_output
from pfw_worker.page import PAGE_BYTES, STOP_SIGNAL, StatusPage
from pfw_worker.strays import end_strays, kill_group, kill_strays, make_group, mark

#: "sync" executes one step at a time, CPU or IO; "async" is the process of all `async def` steps.
SlotKind = Literal["sync", "async"]

#: Names a JSON list of folders that the spawner puts at the front of sys.path: those of an embedded client.
SYS_PATH_VARIABLE: Final = "PFW_SYS_PATH"

_REPLY_TIMEOUT_S: Final = 30.0
_CLOSE_TIMEOUT_S: Final = 10.0
#: Longest request: the kind of a slot and its environment.
_REQUEST_BYTES: Final = 64 << 10

#: What the spawner says: (_SPAWNED, pid, 0, 0) with a pidfd, (_REFUSED, errno, 0, 0) or
#: (_REAPED, pid, wait status, peak of its memory in KiB).
_REPLY: Final = struct.Struct("=iiiq")
_SPAWNED: Final = 1
_REFUSED: Final = 2
_REAPED: Final = 3


class SlotHandle(NamedTuple):
    """A slot process as the supervisor sees it."""

    pid: int
    kind: SlotKind
    #: Its messages; a poller watches `channel.fileno()`.
    channel: Channel
    page: StatusPage
    #: Names the process for good, also when its pid means another one.
    pidfd: int
    #: What it prints.
    output: Output
    #: For `host.private_bytes`.
    memory_fd: int

    def stop(self, attempt: int, level: int) -> None:
        """Ask the step of this attempt to stop (one of the page's STOP_ levels), if it is the one executing."""
        self.page.stop(attempt, level)
        host.pidfd_signal(self.pidfd, STOP_SIGNAL)

    def kill(self) -> None:
        """End the process at once; the spawner ends the rest of its process group and reports its status."""
        host.pidfd_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Give channel, page, output and descriptors back; a slot that idles ends by that."""
        self.channel.close()
        self.page.close()
        self.output.close()
        os.close(self.pidfd)
        os.close(self.memory_fd)


class Ended(NamedTuple):
    """A slot process that has ended."""

    pid: int
    #: As `os.waitpid` gives it.
    status: int
    #: The peak of its resident memory, since it was last measured there (`host.take_peak_memory`).
    peak_bytes: int


class Spawner:
    """The supervisor's side: starts slots, hears of their ends."""

    __slots__ = ("_control", "_lock_fd", "_reaped", "at_end", "folder", "pid")

    def __init__(self, control: socket.socket, pid: int, folder: Path, lock_fd: int) -> None:
        self._control = control
        #: The worker's own: for each run a folder of temporary files, named by the run's id.
        self.folder = folder
        self._lock_fd = lock_fd
        self._reaped: list[Ended] = []
        #: The guard: ends after the spawner process and all slots.
        self.pid = pid
        #: True when the spawner process is gone, and with it all slots.
        self.at_end = False

    @classmethod
    def start(cls) -> Spawner:
        """Fork the spawner process; the caller must have one thread and must not have imported zmq."""
        ours, theirs = host.seqpacket_pair()
        folder, lock_fd = make_folder("worker")
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _run_and_exit(lambda: _serve(theirs, folder))
        theirs.close()
        return cls(ours, pid, folder, lock_fd)

    def fileno(self) -> int:
        """Return a file descriptor that is readable when `poll` has something to tell; see also `has_ended_slots`."""
        return self._control.fileno()

    def spawn(self, kind: SlotKind, outfit: Outfit | None = None) -> SlotHandle:
        """Start a slot and return when its process exists; its first message, `()`, says that it is ready.

        Args:
            kind: What it is for.
            outfit: Its threads and GPUs; None: one thread, and whatever GPUs there are.

        Raises:
            OSError: The machine cannot start another process.
            ClusterError: The spawner is gone.
        """
        channel, their_socket = connect_pair()
        page_fd, output_fd = host.shared_memory("pfw-page", PAGE_BYTES), open_output()
        try:
            page = StatusPage(page_fd)
            environment = environment_of(outfit, host.gpu_names()) if outfit is not None else {}
            request = json.dumps([kind, environment]).encode()
            pid, pidfd = self._request(request, [their_socket.fileno(), page_fd, output_fd])
        except BaseException:
            channel.close()
            os.close(output_fd)
            raise
        finally:
            their_socket.close()
            os.close(page_fd)
        return SlotHandle(pid, kind, channel, page, pidfd, Output(output_fd), host.open_memory(pid))

    @property
    def has_ended_slots(self) -> bool:
        """Whether `poll` has something to tell that came while `spawn` waited: the descriptor says it no more."""
        return bool(self._reaped)

    def poll(self) -> list[Ended]:
        """Return the slots that have ended since the last call, without blocking."""
        while not self.at_end and host.wait_readable(self.fileno(), 0.0):
            self._receive()
        reaped, self._reaped = self._reaped, []
        return reaped

    def close(self) -> None:
        """End the spawner and every slot, and wait until the spawner has done it."""
        self._control.close()
        self.at_end = True
        pidfd = host.pidfd_open(self.pid)
        if not host.wait_readable(pidfd, _CLOSE_TIMEOUT_S):
            host.pidfd_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(self.pid, 0)
        remove_folder(self.folder)
        os.close(self._lock_fd)

    def _request(self, request: bytes, fds: list[int]) -> tuple[int, int]:
        try:
            socket.send_fds(self._control, [request], fds)
            while not self.at_end and host.wait_readable(self.fileno(), _REPLY_TIMEOUT_S):
                reply = self._receive()
                if reply is not None:
                    return reply
        except (BrokenPipeError, ConnectionResetError):
            self.at_end = True
        raise ClusterError("the process that starts slots has ended or does not answer, was it killed or stopped?")

    def _receive(self) -> tuple[int, int] | None:
        """Receive one message; return (pid, pidfd) if it is the reply to a request."""
        data, fds, _, _ = socket.recv_fds(self._control, _REPLY.size, 1)
        if not data:
            self.at_end = True
            return None
        what, number, status, peak_kib = _REPLY.unpack(data)
        if what == _REFUSED:
            raise OSError(number, f"cannot start a slot: {os.strerror(number)}")
        if what == _REAPED:
            self._reaped.append(Ended(number, status, peak_kib << 10))
            return None
        return number, fds[0]


class _Nursery:
    """The spawner process's side: its children and the socket to the supervisor."""

    __slots__ = ("_control", "_doomed", "_folder", "_slots")

    def __init__(self, control: socket.socket, folder: Path) -> None:
        self._control = control
        self._folder = folder
        self._slots: set[int] = set()
        #: Strays that were killed and not reaped yet.
        self._doomed: set[int] = set()

    def serve(self, child_ended: int) -> None:
        """Fork and reap until the supervisor is gone; `child_ended` is readable after a SIGCHLD."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(child_ended, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if child_ended in ready:
                os.read(child_ended, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._answer():
                return

    def end_all(self) -> None:
        """Kill every slot with its process group, then all strays, and wait for them."""
        for pid in self._slots:
            kill_group(pid)
        for pid in self._slots:
            os.waitpid(pid, 0)
        end_strays()

    def _answer(self) -> bool:
        """Fork the slot of one request; return False when the supervisor is gone."""
        data, fds, _, _ = socket.recv_fds(self._control, _REQUEST_BYTES, 3)
        if not data:
            return False
        try:
            kind, environment = json.loads(data)
            pid = self._fork(kind, environment, fds)
        except OSError as error:
            self._control.sendall(_REPLY.pack(_REFUSED, error.errno or errno.EAGAIN, 0, 0))
            return True
        finally:
            for fd in fds:
                os.close(fd)
        pidfd = host.pidfd_open(pid)  # before anything is reaped, so that it cannot name another process
        socket.send_fds(self._control, [_REPLY.pack(_SPAWNED, pid, 0, 0)], [pidfd])
        os.close(pidfd)
        return True

    def _fork(self, kind: str, environment: dict[str, str], fds: list[int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.environ.update(environment)
            _run_and_exit(lambda: _become_slot(kind, parent, self._folder, *fds))
        make_group(pid)
        self._slots.add(pid)
        return pid

    def _reap(self) -> None:
        """Report each slot that has ended, after killing what it left behind; strays are only reaped."""
        while True:
            try:
                # WNOWAIT: until the slot is reaped, nothing else can have its number and be killed in its place.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            self._bury(ended.si_pid)

    def _bury(self, pid: int) -> None:
        is_slot = pid in self._slots
        if is_slot or pid in self._doomed:
            self._slots.discard(pid)
            kill_group(pid)
            # What it had for children are this process's now.
            self._doomed = (self._doomed | kill_strays(self._slots)) - {pid}
        _, status, usage = os.wait4(pid, 0)
        if is_slot:
            self._control.sendall(_REPLY.pack(_REAPED, pid, status, usage.ru_maxrss))


def _serve(control: socket.socket, folder: Path) -> None:
    """Be the guard, and in its child the spawner process."""
    os.environ[FOLDER_VARIABLE] = str(folder)
    _close_other_fds(control.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the supervisor drains and then closes the socket
    pid = become_guard()
    if pid == 0:
        _run_and_exit(lambda: _spawn_and_reap(control, folder))
    control.close()
    watch(pid, folder)


def _spawn_and_reap(control: socket.socket, folder: Path) -> None:
    """Be the spawner process."""
    host.set_subreaper()  # its parent's being one is not inherited
    host.set_pdeathsig(signal.SIGKILL)  # without the guard nobody would see to what it leaves
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _on_child_signal)
    signal.set_wakeup_fd(writer)
    _prepend_sys_path()
    os.environ.update(environment_of(Outfit(1, ())))
    _preload()
    nursery = _Nursery(control, folder)
    try:
        nursery.serve(reader)
    except (BrokenPipeError, ConnectionResetError):  # the supervisor went away while it was being told something
        pass
    finally:
        nursery.end_all()
        remove_folder(folder)


def _become_slot(kind: str, parent: int, folder: Path, socket_fd: int, page_fd: int, output_fd: int) -> None:
    """Turn this new child of the spawner into a slot."""
    make_group(0)
    host.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:  # the spawner ended before it could be noticed
        return
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    mark()
    page = StatusPage(page_fd)
    for fd in (1, 2):
        os.dup2(output_fd, fd)
    _close_other_fds(socket_fd)
    # Python itself gives `random` a new seed in every forked child.
    channel = Channel(socket.socket(fileno=socket_fd))
    if kind == "async":
        from pfw_worker import async_slot

        async_slot.main(channel, page, folder)
    else:
        from pfw_worker import slot

        slot.main(channel, page, folder)


def _run_and_exit(function: Callable[[], None]) -> NoReturn:
    """Run what a forked child is for and end it, without the parent's exit handlers."""
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _preload() -> None:
    """Import what every slot needs once, so that a fork is all it takes to have another.

    Not asyncio, which the process of async steps loads: the first slots of a cluster wait for this.
    """
    import cloudpickle  # noqa: F401

    import pfw.stepfunction  # noqa: F401
    from pfw import codec
    from pfw_worker import slot  # noqa: F401

    codec.look_at_modules()
    logging.root.handlers.clear()  # the worker's own: what steps log is theirs
    logging.root.setLevel(logging.WARNING)
    gc.collect()
    gc.freeze()  # collections in slots leave these pages shared


def _prepend_sys_path() -> None:
    folders = json.loads(os.environ.pop(SYS_PATH_VARIABLE, "[]"))
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]


def _close_other_fds(kept: int) -> None:
    """Close every descriptor but this one and the standard three; stdin reads as empty."""
    os.closerange(3, kept)
    os.closerange(kept + 1, 1 << 20)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _on_child_signal(number: int, frame: object) -> None:
    """Nothing: the wakeup descriptor says it, and a signal without a handler would not write to it."""
