"""Messages and graphs for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pfw import messages as m
from pfw.columns import pack_facts
from pfw.graph import LANE_CPU, Graph, Spec


def spec(
    lane: int = LANE_CPU, *, heavy: int = 0, retries: int = 0, backoff: float = 0.1, jitter: int = 0,
    grace: float = 2.0, timeout: float = 0.0, retries_timeouts: int = 0, reruns: int = 1,
) -> Spec:  # fmt: skip
    """How a step is to be run."""
    return Spec(
        lane, heavy, retries, backoff, 2.0, 30.0, jitter, grace, timeout=timeout, retries_timeouts=retries_timeouts,
        reruns=reruns,
    )  # fmt: skip


def graph_of(
    inputs: Sequence[tuple[int, ...]],
    *,
    after: Sequence[tuple[int, ...]] | None = None,
    specs: Sequence[Spec] | None = None,
    functions: Iterable[bytes] = (b"fn",),
    first: int = 0,
) -> Graph:
    """A graph of steps with these inputs; one spec each, or one for all; the functions in turn."""
    count, functions = len(inputs), list(functions)
    specs = list(specs or [spec()])
    return Graph(
        [f"s{step}" for step in range(first, first + count)],
        functions,
        specs,
        [step % len(functions) for step in range(count)],
        [step if len(specs) > 1 else 0 for step in range(count)],
        [b"call %d" % step for step in range(first, first + count)],
        list(inputs),
        list(after or [()] * count),
    )


#: One of each message.
SAMPLES: tuple[m.Message, ...] = (
    m.Register(1, "3.11", "0.1", "worker", 99, "host", 4, 16, 100, 123_456, (("gpu", 2),)),
    m.Heartbeat(3, 2, (5, 6), 1 << 30, 12.5, 0.7, 4),
    m.Outcomes(7, ((5, 6), bytes([0, 1]), (10, 11), (20, 21), (b"out", b""), (15, 0), (1 << 30, 0))),
    m.Notes(((5, 1_000),)),
    m.Progress(((5, 3.0, 0.0, "it"), (6, 0.5, 1e12, ""))),
    m.CancelsAsked(4),
    m.Leaving(1),
    m.Welcome(2, 1.0, "tcp://127.0.0.1:1", 3),
    m.Refused(1, "why", 0),
    m.Assign(
        8,
        1,
        7,
        ((0, b"fn"),),
        ((1, "run"),),
        (
            (5, 1, 1, 0, 2, 50, 2_000, 250, 1, (2, 1, 9), (b"call", b"call 2"), ((b"in", b""), (b"in", None))),
            (7, 1, 1, 0, 2, 50, 2_000, 0, 0, (), (b"call",), ()),
        ),
    ),
    m.GiveBack((5, 6), 1),
    m.Reply(7, 3, (4,)),
    m.Forget((1,), (0, 2)),
    m.Cancels(2, 3, (1,)),
    m.Hello(1, "3.11", "0.1", b"session"),
    m.Submit(b"key", "name", "parallel", "stop", 0, (0, 1), 0, 1, 5, b"meta", b"graph", "1.2", 1.5, 7),
    m.Extend(1, 3, b"graph"),
    m.ExtendLike(1, 5, 3, ("a", "b"), (b"call", b"call 2"), ((), (0, 4))),
    m.CancelRun(1, "reason"),
    m.CloseRun(1),
    m.CancelCalls(1, (2, 3)),
    m.Attach(9, "id"),
    m.Cursors(((1, 3, 2),)),
    m.Query(9, "status", 1, 2),
    m.Accepted(b"key", 1, "id"),
    m.Rejected(b"key", 0, 2, "why"),
    m.Attached(9, 1, "id", "name", "waves", b"meta", b"graph", "1.2", 4),
    m.Facts(1, 4, 3, 1.7e9, ((1, "worker"),), *pack_facts([(2, 0, 1.5, 1, 1, 1.0, 1.25, 0.25, b"out", 15, 1 << 30)])),
    m.Answer(9, b"body"),
    m.Printed(7, ((5, b"text"), (6, b"\xff"))),
)
