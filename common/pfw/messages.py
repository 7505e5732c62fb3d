"""What the processes of a cluster say to each other, as plain records. How they travel is wire.py's business.

    client --Hello, Submit, Extend, ExtendLike, CancelCalls, CancelRun, CloseRun, Attach, Cursors, Query> coordinator
    client <--Welcome, Refused, Accepted, Rejected, Attached, Facts, Answer------- coordinator
    worker --Register, Heartbeat, Outcomes, Notes, Printed, Progress, CancelsAsked, Leaving> coordinator
    worker <--Welcome, Refused, Assign, GiveBack, Reply, Forget, Cancels---------- coordinator
    every worker <==Cancels== coordinator (PUB)

Every message may be lost, doubled or late. What is stated by edge (an assignment, an outcome, a cancel) is stated
again by level: heartbeats list what is held, cursors say what was read, numbers show gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

#: Raised whenever a message changes its form; peers of another version are refused.
PROTOCOL = 5

HEARTBEAT_S = 1.0

#: What is on its way counts as lost only after as many seconds more as it has this many bytes.
BYTES_PER_S = 16 << 20

#: The exit code of a local cluster's process that can start no slots any more.
EXIT_STALLED = 3

#: Why a peer or a submission is not accepted.
REFUSED_VERSION, REFUSED_PROTOCOL, REFUSED_GRAPH, REFUSED_UNKNOWN_RUN, REFUSED_KEY = range(5)


Inputs: TypeAlias = tuple[bytes | None, ...]
AssignBlock: TypeAlias = tuple[
    int, int, int, int, int, int, int, int, int, tuple[int, ...], tuple[bytes, ...], tuple[Inputs, ...]
]
FactRow: TypeAlias = tuple[int, int, float, int, int, float, float, float, bytes, int, int]
ProgressRow: TypeAlias = tuple[int, float, float, str]
OutcomeRow: TypeAlias = tuple[int, int, int, int, bytes, int, int]
OutcomeColumns: TypeAlias = tuple[
    Sequence[int], bytes, Sequence[int], Sequence[int], Sequence[bytes], Sequence[int], Sequence[int]
]


class Register(NamedTuple):
    """A worker offers itself. Repeated after every Refused(again) or new connection."""

    protocol: int
    python: str
    pfw: str
    name: str
    pid: int
    #: host_identity(): equal for processes that can see each other's process ids.
    host: str
    cpu: int
    io: int
    permits: int
    #: The worker's monotonic clock, µs: times in its outcomes are on it.
    clock_us: int
    #: (name, number) of what it has beside slots
    resources: tuple[tuple[str, int], ...] = ()


class Heartbeat(NamedTuple):
    """Every second, from the supervisor: what the worker holds, as payload, so that loss shows as a difference."""

    last_batch: int
    last_cancel: int
    #: Attempts that are queued, executing, or ended with an outcome not yet acknowledged.
    held: tuple[int, ...]
    rss_bytes: int
    cpu_percent: float
    load: float
    slots: int


class Outcomes(NamedTuple):
    """How attempts ended; numbered, and repeated until acknowledged."""

    number: int
    #: Seven of one length: attempts, codes, starts_us, runs_us, payloads, cpus_us, peaks_bytes, the last two 0 where
    #: nothing was measured. Columns, because most are alike and are looked at, sent and read together.
    columns: OutcomeColumns


class Notes(NamedTuple):
    """Attempts that have executed for a while: (attempt, start_us). May be lost without harm."""

    rows: tuple[tuple[int, int], ...]


class Printed(NamedTuple):
    """What attempts have printed since it was last told: (attempt, text). May be lost without harm.

    Numbered in the order of what was printed: one that is not newer than the last is not told again.
    """

    number: int
    rows: tuple[tuple[int, bytes], ...]


class Progress(NamedTuple):
    """How far attempts say that they are: (attempt, done, total or 0, message). May be lost without harm."""

    rows: tuple[ProgressRow, ...]


class CancelsAsked(NamedTuple):
    """A worker has seen a gap: what was cancelled after this number?"""

    after: int


class Leaving(NamedTuple):
    """The worker drains: nothing new for it. `is_gone` with the last message: it holds nothing any more."""

    is_gone: int


class Welcome(NamedTuple):
    """The peer may take part."""

    #: The peer's number at this coordinator.
    number: int
    heartbeat_s: float
    #: Where cancels are published; "" for clients.
    pub: str
    last_cancel: int


class Refused(NamedTuple):
    """The peer may not take part (kind REFUSED_*), or, with `again`, has to introduce itself anew."""

    kind: int
    text: str
    again: int


class Assign(NamedTuple):
    """A batch of attempts for a worker."""

    #: Numbered per connection from 1.
    batch: int
    #: The last cancel decided before this batch; on a gap the worker asks before it starts anything of it.
    last_cancel: int
    #: Outcomes up to this number are committed.
    acked: int
    #: (function, pickle), those this worker has not got yet
    functions: tuple[tuple[int, bytes], ...]
    #: (run, run id), those new to this worker
    runs: tuple[tuple[int, str], ...]
    #: Attempts that are alike, with consecutive numbers: (first, run, try, function, lane, estimate_us, grace_ms,
    #: timeout_ms, is_once, need, calls, inputs). Estimate 0: not known; timeout 0: none; is_once 1: begin them only
    #: once; need: (slots, GPUs, bytes of memory or 0) of each if it takes more than one slot, else (). One call for
    #: each attempt; inputs: for each the tuple of its inputs, or () if none has any; an input that is None is the
    #: output of the attempt with the number before.
    blocks: tuple[AssignBlock, ...]


class GiveBack(NamedTuple):
    """Attempts wanted elsewhere, or no more at all: those not yet given to a slot come back as NOT_STARTED."""

    attempts: tuple[int, ...]
    #: Nobody wants them: the others are stopped.
    is_final: int = 0


class Reply(NamedTuple):
    """Answer to a heartbeat or to outcomes."""

    acked: int
    last_cancel: int
    #: Attempts held by the worker that are not its own (any more): stop and drop them.
    stop: tuple[int, ...]


class Forget(NamedTuple):
    """Runs that have ended and functions that nobody uses any more."""

    runs: tuple[int, ...]
    functions: tuple[int, ...]


class Cancels(NamedTuple):
    """What was cancelled after one number and up to another. A gap before `after` is asked for (CancelsAsked)."""

    after: int
    last: int
    runs: tuple[int, ...]
    #: Those of them whose steps are to be killed at once.
    urgent: tuple[int, ...] = ()


class Hello(NamedTuple):
    """A client introduces itself."""

    protocol: int
    python: str
    pfw: str
    #: Random, the same over reconnects: whose runs these are.
    session: bytes


class Submit(NamedTuple):
    """A client asks for a run; repeated until Accepted or Rejected."""

    #: Random unless given; the same key twice is one run.
    key: bytes
    name: str
    mode: str
    on_failure: str
    keep_all: int
    keep: tuple[int, ...]
    #: More steps will come by Extend.
    is_open: int
    #: The run goes on without its client.
    is_detached: int
    priority: int
    #: The client's own, opaque: how `.value` is put together, for clients that attach later.
    meta: bytes
    graph: bytes
    #: Of the workflow, in its author's words; "" for none.
    version: str = ""
    #: The run ends after so many seconds; 0: whenever it is complete.
    timeout: float = 0.0
    #: So many of its steps are assigned at once at most; 0: as many as there is room for.
    max_parallel: int = 0


class Extend(NamedTuple):
    """More steps for an open run; repeated until Facts count them."""

    run: int
    #: Index of the fragment's first step; a fragment that does not fit is a repetition or comes too early.
    first: int
    graph: bytes


class ExtendLike(NamedTuple):
    """As Extend, for steps with the function and spec of one that the run has, which depend on inputs alone.

    A single call whose function was called before is this: as a graph it costs 5 % more.
    """

    run: int
    #: As in Extend.
    first: int
    #: The index of the step that they are like.
    like: int
    ids: tuple[str, ...]
    calls: tuple[bytes, ...]
    inputs: tuple[tuple[int, ...], ...]


class CancelRun(NamedTuple):
    """The run is to end; repeated until it has."""

    run: int
    reason: str
    #: Nobody waits for it any more: what runs is killed at once.
    is_urgent: int = 0


class CancelCalls(NamedTuple):
    """What these steps of an open run return is not wanted any more; repeated until they have ended."""

    run: int
    steps: tuple[int, ...]


class CloseRun(NamedTuple):
    """No more steps will come to this open run; repeated until it has ended."""

    run: int


class Attach(NamedTuple):
    """A client wants to follow a run from its start."""

    request: int
    run_id: str


class Cursors(NamedTuple):
    """The client's heartbeat: (run, position of the first fact it has not got, position up to which outputs may go)."""

    rows: tuple[tuple[int, int, int], ...]


class Query(NamedTuple):
    """A question for people and scripts: workers, runs, status or step."""

    request: int
    what: str
    #: Which step of which run is asked for.
    run: int = 0
    step: int = 0


class Accepted(NamedTuple):
    """The run with this submission's key."""

    key: bytes
    run: int
    run_id: str


class Rejected(NamedTuple):
    """Of a Submit (key) or an Attach (request)."""

    key: bytes
    request: int
    kind: int
    text: str


class Attached(NamedTuple):
    """The run that was asked for; its facts follow."""

    request: int
    run: int
    run_id: str
    name: str
    mode: str
    meta: bytes
    graph: bytes
    version: str = ""
    #: How many facts there are by now: what came before the client asked.
    position: int = 0


class Facts(NamedTuple):
    """A piece of a run's history."""

    run: int
    #: Position of the first row in the run's history.
    position: int
    #: Steps the coordinator knows of this run: acknowledges Extend.
    steps: int
    #: Wall-clock time minus the clock of the rows, s.
    epoch_s: float
    #: (worker, name) of workers that are named in the rows for the first time
    workers: tuple[tuple[int, str], ...]
    #: pfw.facts.Fact rows as `columns.pack_facts` makes them: their numbers, and their payloads.
    numbers: bytes
    payloads: tuple[bytes, ...]


class Answer(NamedTuple):
    """The answer to a Query."""

    request: int
    #: A msgpack map or list for people and scripts (`pfw status`).
    body: bytes


Message: TypeAlias = (
    Register | Heartbeat | Outcomes | Notes | CancelsAsked | Leaving | Welcome | Refused | Assign | GiveBack | Reply
    | Forget | Cancels | Hello | Submit | Extend | CancelRun | CloseRun | Attach | Cursors | Query | Accepted
    | Rejected | Attached | Facts | Answer | Printed | Progress | CancelCalls | ExtendLike
)  # fmt: skip

#: The number of a message on the wire is its place in this list.
MESSAGES: tuple[type[Message], ...] = (
    Register, Heartbeat, Outcomes, Notes, CancelsAsked, Leaving, Welcome, Refused, Assign, GiveBack, Reply,
    Forget, Cancels, Hello, Submit, Extend, CancelRun, CloseRun, Attach, Cursors, Query, Accepted,
    Rejected, Attached, Facts, Answer, Printed, Progress, CancelCalls, ExtendLike,
)  # fmt: skip
