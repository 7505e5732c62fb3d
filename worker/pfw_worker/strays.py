"""Strays: processes that steps have started and that have outlived their slot, or the parent they had there.

The spawner is the parent of them all (a "subreaper"): a process group is left with setsid, a parent by its end, this
parent only with the spawner itself. A mark says from which slot a stray comes: the slot's name, which goes to what is
forked, and a variable in its environment, which goes to what is executed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Container
from contextlib import suppress
from typing import Final

from pfw import host

#: In the environment of a slot and of what its steps execute: the slot's process.
SLOT_VARIABLE: Final = "PFW_SLOT"
_NAME: Final = "pfw-"
_ENTRY: Final = os.fsencode(f"{SLOT_VARIABLE}=")


def mark() -> None:
    """Mark the calling process, a slot, and so all that its steps will start."""
    os.environ[SLOT_VARIABLE] = str(os.getpid())
    host.set_name(f"{_NAME}{os.getpid()}")


def slot_of(pid: int) -> int:
    """Return the slot whose mark a process bears, 0 for none."""
    for entry in host.environment_of(pid):
        if entry.startswith(_ENTRY):
            return _number(os.fsdecode(entry.removeprefix(_ENTRY)))
    name = host.name_of(pid)
    return _number(name.removeprefix(_NAME)) if name.startswith(_NAME) else 0


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def make_group(pid: int) -> None:
    """Give a child (0: this process) a process group of its own; parent and child both do, whoever comes first."""
    with suppress(ProcessLookupError, PermissionError):
        os.setpgid(pid, pid)


def kill_group(pid: int) -> None:
    """Kill the process group that this process leads, if there is one."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_strays() -> None:
    """Kill every child of the calling process, and those who become its children by that, and wait for them."""
    while strays := kill_strays(()):
        for pid in strays:
            os.waitpid(pid, 0)


def kill_strays(slots: Container[int]) -> set[int]:
    """Kill the children of the calling process that are no slots, and that no living slot has left.

    Args:
        slots: The slots that live; what they have left belongs to them until they end.

    Returns:
        What was killed. Their own children come to this process next: they are strays too, and bear the same mark.
    """
    killed = set()
    for pid in host.children_of(os.getpid()):
        if pid not in slots and slot_of(pid) not in slots:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
    return killed
