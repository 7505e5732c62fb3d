"""A step that takes ten times the memory it may: how much it holds when it is killed, beside steps that do as they say.

Also what it costs the worker to look at its slots' memory.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from pathlib import Path

from benches._common import Bench, Figures, Line, expect, main

from pfw import Hint, LocalCluster, Workflow, host, run, step

LIMIT_BYTES = 200_000_000
CHUNK_BYTES = 1 << 20
NEIGHBOURS = 20
#: Kills in a round, of which the worst counts.
KILLS = 3
LOOKS = 2_000


@step(hint=Hint.memory(LIMIT_BYTES))
def grow(path: str) -> int:
    """Fills memory as fast as it can; the file says how much, also when this process has been killed."""
    with open(path, "r+b") as file:
        told = mmap.mmap(file.fileno(), 8)
    held, before = [], host.private_bytes(host.open_memory(os.getpid()))
    for number in range(10 * LIMIT_BYTES // CHUNK_BYTES):
        held.append(b"x" * CHUNK_BYTES)
        told[:] = struct.pack("q", before + (number + 1) * CHUNK_BYTES)
    return len(held)


@step(hint="light_io")
def neighbour(number: int) -> int:
    """Goes on in another slot meanwhile."""
    time.sleep(0.02)
    return number


def kill_round(cluster: LocalCluster) -> Figures:
    """Some kills: by how many MB the worst was over its limit."""
    worst = 0
    for _ in range(KILLS):
        with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder:
            path = Path(folder, "held")
            path.write_bytes(bytes(8))
            with Workflow("memory") as workflow:
                grow(str(path))
                neighbours = neighbour.map(range(NEIGHBOURS))
            found = run(workflow, on=cluster, check=False, on_failure="continue")
            worst = max(worst, struct.unpack("q", path.read_bytes())[0] - LIMIT_BYTES)
        expect([type(error).__name__ for error in found.errors.values()], ["MemoryLimitError"], "the step that grows")
        expect(found.outputs[neighbours], list(range(NEIGHBOURS)), "its neighbours")
        expect({found.metrics.steps[node.id].attempts for node in neighbours.nodes}, {1}, "their attempts")
    return {"over": worst / 1e6}


def look_round() -> Figures:
    """How long a look at one process takes."""
    memory_fd = host.open_memory(os.getpid())
    began = time.perf_counter()
    for _ in range(LOOKS):
        host.private_bytes(memory_fd)
    took_s = time.perf_counter() - began
    os.close(memory_fd)
    return {"look": took_s / LOOKS * 1e6}


def measure(bench: Bench) -> None:
    """Both, in turns."""
    with LocalCluster(cpu=1, io=2) as cluster:
        kill_round(cluster)
        found = bench.play(lambda: kill_round(cluster), look_round)
    what = (
        f"a step that takes 10 times its memory of {LIMIT_BYTES / 1e6:.0f} MB: by how much it is over when it is killed"
    )
    bench.add(
        Line(what, "MB", found["over"], target=100, note=f"worst of {KILLS}; {NEIGHBOURS} neighbours unharmed"),
        Line("    a look at the memory of one slot", "µs", found["look"]),
    )


if __name__ == "__main__":
    main(measure)
