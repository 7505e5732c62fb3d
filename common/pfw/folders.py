"""Private folders that go with their owner: locked while it lives, and swept by the next start if it was killed.

Processes of an owner carry its folder's path in their environment. Those that have outlived it go with the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from pfw import host
from pfw.errors import ConfigError

#: In the environment of every process that belongs to a cluster or a worker: its private folder.
FOLDER_VARIABLE: Final = "PFW_FOLDER"

#: How the folders' names begin, and what comes next.
PREFIX: Final = "pfw-"
KINDS: Final = ("local", "worker")
#: A folder so new may not have been locked yet.
NEW_S: Final = 5.0


def make_folder(kind: str) -> tuple[Path, int]:
    """Makes a private folder (0700) of one of KINDS beside other temporary files; first sweeps what others have left.

    Returns:
        The folder and its lock, a descriptor: the folder is in use as long as any process has it open.

    Raises:
        ConfigError: There is no directory for temporary files, or nothing can be written there.
    """
    try:
        _sweep()
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-"))
        return folder, _lock(folder)
    except OSError as error:
        raise ConfigError(f"no folder can be made for temporary files, see TMPDIR: {error}") from error


def remove_folder(folder: Path) -> None:
    """Removes it with all that is in it, as far as that is possible."""
    shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> int:
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _sweep() -> None:
    """Removes folders whose owner was killed, and ends what it has left running."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            status = folder.stat()
            is_kind = folder.name.removeprefix(PREFIX).partition("-")[0] in KINDS
            if not is_kind or status.st_uid != os.getuid() or time.time() - status.st_mtime < NEW_S:
                continue
            fd = _lock(folder)
        except OSError:
            continue
        _end_marked(os.fsencode(f"{FOLDER_VARIABLE}={folder}"))
        remove_folder(folder)
        os.close(fd)


def _end_marked(entry: bytes) -> None:
    """Kills the processes that have this entry in their environment."""
    for pid in host.process_ids():
        with suppress(OSError):  # it has ended meanwhile, or is somebody else's
            pidfd = host.pidfd_open(pid)
            if pid != os.getpid() and entry in host.environment_of(pid):
                host.pidfd_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
