"""What it costs a running step to look whether it is to stop."""

from __future__ import annotations

import time

from benches._common import Bench, Figures, Line, main

from pfw import CancellationToken, LocalCluster, current

LOOKS = 1_000_000
#: Loops of each kind in a round; the fastest counts, because whatever disturbs a loop makes it slower.
TRIES = 7


def empty_s() -> float:
    """Seconds of a loop that does nothing."""
    began = time.perf_counter()
    for _ in range(LOOKS):
        pass
    return time.perf_counter() - began


def looking_s(token: CancellationToken) -> float:
    """Seconds of the same loop when it looks at a token each time."""
    began = time.perf_counter()
    for _ in range(LOOKS):
        if token.cancelled:
            break
    return time.perf_counter() - began


def look_ns() -> float:
    """The step: what one look at its own run's token adds to the loop."""
    token = current().token
    pairs = [(empty_s(), looking_s(token)) for _ in range(TRIES)]
    empty, looking = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    return (looking - empty) / LOOKS * 1e9


def look_round(cluster: LocalCluster) -> Figures:
    """One step on a worker."""
    look: float = cluster.submit(look_ns).result()
    return {"look": look}


def measure(bench: Bench) -> None:
    """In a process of a slot, as steps have it."""
    with LocalCluster(cpu=1) as cluster:
        found = bench.play(lambda: look_round(cluster))
    bench.add(Line("a look at the token in a running step, over an empty loop", "ns", found["look"], target=10))


if __name__ == "__main__":
    main(measure)
