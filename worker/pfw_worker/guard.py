"""The guard: the spawner's parent, which does nothing but wait for it.

If supervisor and spawner are killed at the same moment, what steps have started comes to the guard, and it ends that.
"""

from __future__ import annotations

import os
from pathlib import Path

from pfw import host
from pfw.folders import remove_folder
from pfw_worker.strays import end_strays


def become_guard() -> int:
    """Make the calling process the guard, and fork the process that it watches: 0 in that, its id in the guard."""
    os.setsid()  # a signal for the supervisor's group or terminal is not for those who see to what it leaves
    host.set_subreaper()
    return os.fork()


def watch(pid: int, folder: Path) -> None:
    """Wait for the end of the spawner; if it has not ended by itself, end what it has left and remove its folder."""
    _, status = os.waitpid(pid, 0)
    if status:
        end_strays()
        remove_folder(folder)
