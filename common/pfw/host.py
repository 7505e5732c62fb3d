"""Everything that is Linux's own, in one place: process descriptors, shared memory, sockets, limits of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pfw.errors import ConfigError

_PR_SET_PDEATHSIG: Final = 1
#: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_FALLOC_PUNCH_HOLE: Final = 0x01 | 0x02
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_SOCKET_BUFFER_BYTES: Final = 1 << 20
_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def pidfd_open(pid: int) -> int:
    """Return a descriptor that names this process for good and becomes readable when it ends.

    Raises:
        ProcessLookupError: There is no such process.
    """
    return os.pidfd_open(pid)


def pidfd_signal(pidfd: int, number: int) -> bool:
    """Send a signal to the process of this descriptor; return whether there still is one."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def end_of(pidfd: int) -> tuple[int, str]:
    """Return the exit code (-1: none) of a child of this process that has ended, and how; it can still be reaped."""
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        found = None
    if found is None:
        return -1, "nobody knows how"
    if found.si_code == os.CLD_EXITED:
        return found.si_status, f"exit code {found.si_status}"
    try:
        name = signal.Signals(found.si_status).name
    except ValueError:  # most real-time signals have none
        name = f"signal {found.si_status}"
    return -1, f"killed by {name}"


def hear_signals(numbers: Iterable[int]) -> socket.socket:
    """Have these signals do nothing but make the socket readable that this returns; once in a process."""
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reader


def wait_readable(fd: int, timeout_s: float) -> bool:
    """Wait until this descriptor is readable or at its end; return whether it is. Takes any number, unlike select."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def set_pdeathsig(number: int) -> None:
    """Have this signal sent to the calling process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def set_subreaper() -> None:
    """Make the calling process the parent of its descendants whose own parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """Name the calling thread, in at most 15 bytes; what it forks has the same name, what it executes has not."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def _prctl(option: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def process_ids() -> list[int]:
    """Return the processes that can be seen, those that have ended and were not reaped included."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent this is; about 20 µs for each process of the machine."""
    found = []
    for child in process_ids():
        try:
            text = Path(f"/proc/{child}/stat").read_text("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(child)
    return found


def name_of(pid: int) -> str:
    """Return the name of a process's first thread, "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def environment_of(pid: int) -> list[bytes]:
    """Return the environment that a process was executed with, `NAME=value` each; empty where nobody may know it."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """Return whether this process runs; one that has ended and only waits to be reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def host_identity() -> str:
    """Return a text that is equal in two processes exactly if they can see each other's process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def seqpacket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that keep the borders of packets and notice the other's end."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
    return pair


def shared_memory(name: str, size: int) -> int:
    """Return a descriptor of new anonymous memory, filled with zeros, that can be mapped by several processes."""
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    return fd


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Give the memory of a part of this file back; the file keeps its size, and the part reads as zeros."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, _FALLOC_PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(size)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate(FALLOC_FL_PUNCH_HOLE) failed")


def append_file(name: str) -> int:
    """Return a descriptor of a new file in memory, which every writer adds to the end of; gone with its last user."""
    fd = os.memfd_create(name)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd


def allow_descriptors() -> None:
    """Raise this process's limit of open descriptors as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


#: A descriptor of /proc/self/clear_refs, the process that opened it, and which file that is. Opening takes 30 µs.
_clear_refs: tuple[int, ...] = (-1, 0)


def take_peak_memory() -> int:
    """Return the peak of this process's resident memory since the last call, in bytes, and start anew; 3 µs.

    Where the system cannot start anew it is the peak since the process began.
    """
    global _clear_refs
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with contextlib.suppress(OSError):
        fd, pid, *identity = _clear_refs
        # A step may have closed every descriptor, and opened its own in their place.
        if pid != os.getpid() or _identify(fd) != identity:
            fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            _clear_refs = fd, os.getpid(), *_identify(fd)
        os.write(fd, b"5")  # proc(5): resets the peak resident set size
    return peak_bytes


def _identify(fd: int) -> list[int]:
    """Return what tells a descriptor's file from others."""
    try:
        found = os.fstat(fd)
    except OSError:
        return []
    return [found.st_dev, found.st_ino]


def cpu_capacity() -> int:
    """Return how many cores this process may use: the least of host, affinity and cgroup quota, at least 1."""
    cores = min(os.cpu_count() or 1, len(os.sched_getaffinity(0)))
    return max(1, math.ceil(min(cores, _cgroup_quota())))


def memory_capacity() -> int:
    """Return how many bytes of memory this process may use: the least of the machine's and its cgroups' limits."""
    limits: list[float] = [_PAGE_BYTES * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError):
        for entry in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = entry.split(":", 2)
            if controllers == "":
                limits += _quotas_above(_CGROUP_ROOT, path, _read_memory_v2)
            elif "memory" in controllers.split(","):
                limits += _quotas_above(_CGROUP_ROOT / "memory", path, _read_memory_v1)
    return int(min(limits))


def open_memory(pid: int) -> int:
    """Return a descriptor for `private_bytes` of this process."""
    try:
        return os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):  # it has ended: it holds nothing, as this file
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def private_bytes(memory_fd: int) -> int:
    """Return the memory that a process holds alone: resident minus shared; 0 if it has ended. 2 µs, opened anew 13."""
    try:
        fields = os.pread(memory_fd, 128, 0).split()
    except ProcessLookupError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES if fields else 0


def gpu_names() -> list[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return sorted((path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def gpu_capacity(wanted: int | None) -> int:
    """Return how many GPUs to offer: those that are wanted, or by default those that this process may use.

    Raises:
        ConfigError: More are wanted than there are. On a machine without any they are taken to be there.
    """
    found = len(gpu_names())
    if wanted is not None and 0 < found < wanted:
        raise ConfigError(f"{wanted} GPUs are to be offered, and this process may use {found}")
    return found if wanted is None else wanted


def _cgroup_quota() -> float:
    """Return the quota of this process's cgroup and those above it, in cores; infinity without one."""
    try:
        entries = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        if controllers == "":
            quotas += _quotas_above(_CGROUP_ROOT, path, _read_quota_v2)
        elif "cpu" in controllers.split(","):
            quotas += _quotas_above(_CGROUP_ROOT / "cpu", path, _read_quota_v1)
    return min(quotas)


def _quotas_above(root: Path, path: str, read: Callable[[Path], float]) -> list[float]:
    folder = root / path.lstrip("/")
    found = []
    for place in [folder, *folder.parents]:
        if place.is_relative_to(root):
            try:
                found.append(read(place))
            except (OSError, ValueError):  # no such file at this level
                continue
    return found


def _read_quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _read_memory_v2(folder: Path) -> float:
    text = (folder / "memory.max").read_text().strip()
    return math.inf if text == "max" else int(text)


def _read_memory_v1(folder: Path) -> float:
    return int((folder / "memory.limit_in_bytes").read_text())


def _read_quota_v1(folder: Path) -> float:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    return math.inf if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
