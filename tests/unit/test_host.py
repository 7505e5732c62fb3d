"""What is Linux's own."""

from __future__ import annotations

import os
import subprocess
import sys

from pfw import host


def test_private_memory_is_what_a_process_holds_alone() -> None:
    fd = host.open_memory(os.getpid())
    before = host.private_bytes(fd)
    held = b"x" * 50_000_000
    assert 45_000_000 < host.private_bytes(fd) - before < 80_000_000
    assert len(held) == 50_000_000
    os.close(fd)


def test_a_process_that_has_ended_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        fd = host.open_memory(process.pid)
        assert host.private_bytes(fd) > 0
    assert host.private_bytes(fd) == 0
    os.close(fd)
    fd = host.open_memory(process.pid)
    assert host.private_bytes(fd) == 0
    os.close(fd)
