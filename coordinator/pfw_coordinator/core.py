"""The coordinator, as a pure machine.

Theory of operation. `on_*` takes one thing that happened and changes state; `drain` is the one way out: it places what
is ready, states what is new, and returns everything to be sent. Between the two nothing leaves. The shell calls `on_*`
for all that has arrived, then `drain` once, then sends.

* A run's steps live in its RunLife. An *attempt* lives in the ledger of the worker that holds it, from the assignment
  until an outcome, or until a heartbeat or the loss of the worker shows that it is gone. The first accepted outcome
  ends the attempt; anything else about it is acknowledged and dropped.
* Assign batches are numbered. A heartbeat names the last batch received and lists what is held: mine, in a batch it
  has, not held = lost, and sent again under the same attempt; held, not mine = stop it.
* Outcomes are numbered. They are acknowledged up to a number; the worker repeats what is not.
* A cancel is state first: the run's life changes, it gets a number, then it is broadcast. Every assign batch carries
  the last number; a worker that sees a gap asks before it starts anything.
* Clients read the facts of a run by position. What a client was sent and has not confirmed two heartbeats later is
  sent again from where it stands.
* A worker that is silent for SUSPECT_S gets nothing new; after LOST_S its attempts go elsewhere. A turn that starts
  late moves the deadlines: silence counts only while somebody listened.

It must not know of sockets, clocks, processes or pickles.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain, repeat
from typing import Any

from pfw import messages as m
from pfw import outcome as oc
from pfw.demand import Demand, own_needs
from pfw.errors import ProtocolError
from pfw.facts import ENDED_INTERRUPTED, ENDED_ITSELF, ENDED_KILLED, Cost, pack_capacity, pack_progress
from pfw.failure import FAIL_ERROR, FAIL_LOST, FAIL_UNPICKLABLE, FAIL_UNSCHEDULABLE, Failure
from pfw.graph import LANE_CPU, Spec
from pfw.graphs import check_likes, unpack_fragment, unpack_graph
from pfw.lifecycle import ON_FAILURE, ReadyQueue, RunLife
from pfw.messages import Message
from pfw.wire import MESSAGE_BYTES, PIECE_BYTES, pack, parts
from pfw_coordinator.catalogue import Catalogue
from pfw_coordinator.demands import plan_demands, plan_reservations, release
from pfw_coordinator.feed import Feed
from pfw_coordinator.inner import CALL, make_inner, relay
from pfw_coordinator.ledger import (
    AHEAD_BYTES,
    DEEP_TARGET_US,
    LANES,
    MAX_HELD,
    TARGET_US,
    Attempt,
    Booking,
    Client,
    Run,
    Subscription,
    Worker,
    bookings_of,
    new_attempt,
    size_of,
    step_of,
)
from pfw_coordinator.outlook import CAP, review
from pfw_coordinator.placement import (
    Placement,
    counted_us,
    has_chains,
    plan_chain,
    plan_recall,
    plan_return,
    plan_round,
    waits_for_slots,
)
from pfw_coordinator.report import report_runs, report_status, report_step, report_workers

#: What was sent to a worker so long ago should have arrived.
REWIND_S = 2.0
SUSPECT_S = 3.0
LOST_S = 10.0
#: Outcomes are acknowledged with the next assignment or after so long, unless their worker keeps so much until then.
#: Waking a worker for that alone, just when the client is told of them, costs a call 0.1 ms.
ACKNOWLEDGE_S = 0.250
ACKNOWLEDGE_BYTES = 256 << 10
#: Runs and futures that wait for their client end when it has been silent for so long.
CLIENT_GONE_S = 30.0
#: A turn that starts so much later than planned moves every deadline.
LATE_S = 1.0
#: A step's inputs and arguments together.
INPUT_BYTES = MESSAGE_BYTES - (1 << 20)
#: Facts of ended runs that are kept for clients that attach later; the oldest run goes first.
KEPT_FACTS = 1_000_000
KEPT_BYTES = 1 << 30
#: What `own_needs` says of an attempt that any slot of its lane can execute.
PLAIN_NEED = (1, 0, 0)
#: How an attempt that was told to stop did so.
ENDED_OF_CODE = {oc.STOPPED: ENDED_ITSELF, oc.INTERRUPTED: ENDED_INTERRUPTED, oc.KILLED: ENDED_KILLED}


class Outbox:
    """What the shell has to do after a turn. No tuple, whose fields take three times as long to read."""

    __slots__ = ("broadcasts", "gone", "messages", "wake_at", "watch")

    def __init__(self) -> None:
        #: {peer: messages}, one frame for each peer.
        self.messages: dict[bytes, list[Message]] = {}
        #: To every worker, on PUB.
        self.broadcasts: list[Message] = []
        #: (peer, pid): a worker on this host whose process is to be watched; its end is `on_peer_died`.
        self.watch: list[tuple[bytes, int]] = []
        #: Peers that are gone: nothing of them is worth keeping.
        self.gone: list[bytes] = []
        #: The next turn starts at the latest then.
        self.wake_at = 0.0


class Core:
    """State of one coordinator. Times are monotonic seconds."""

    __slots__ = (
        "_backoffs",
        "_box",
        "_cancels",
        "_cluster_seen",
        "_credit",
        "_deadline_at",
        "_deep",
        "_demanding",
        "_ended",
        "_ended_bytes",
        "_ended_facts",
        "_feed",
        "_filled",
        "_functions",
        "_in_use",
        "_inner_runs",
        "_is_turn_of_demands",
        "_lanes",
        "_numbers",
        "_run_of_id",
        "_run_of_key",
        "_seed",
        "_to_acknowledge",
        "_touched",
        "_waiting",
        "_wake_at",
        "clients",
        "epoch_s",
        "host",
        "is_embedded",
        "oddities",
        "pub",
        "python",
        "runs",
        "version",
        "workers",
    )

    def __init__(
        self,
        *,
        python: str,
        version: str,
        pub: str,
        host: str,
        seed: bytes,
        epoch_s: float,
        now: float,
        is_embedded: bool = False,
    ) -> None:
        """Starts with nothing known.

        Args:
            python: "3.11", what peers must run too.
            version: Of pfw, for messages only.
            pub: Where the shell publishes cancels.
            host: host_identity() of this machine.
            seed: Random, new at every start: run ids and jitter come from it.
            epoch_s: Wall clock minus monotonic clock.
            now: The time.
            is_embedded: A client's own cluster: ended runs go as soon as their client has read them.
        """
        self.python, self.version, self.pub, self.host = python, version, pub, host
        self.epoch_s, self.is_embedded = epoch_s, is_embedded
        self.workers, self.clients = dict[bytes, Worker](), dict[bytes, Client]()
        self.runs: dict[int, Run] = {}
        #: Messages that broke the rules of the state, not of the form (those are the shell's to count).
        self.oddities = 0
        self._seed = seed
        #: When the next turn is due; and before which no peer's deadline passes.
        self._wake_at = self._deadline_at = now
        self._run_of_key: dict[bytes, Run] = {}
        self._run_of_id: dict[str, Run] = {}
        #: The last number of each kind; "cluster" counts the changes of what workers offer.
        self._numbers = {"worker": 0, "client": 0, "run": 0, "attempt": 0, "cancel": 0, "cluster": 0}
        #: The last of these that was looked at, and the lanes in which there are slots.
        self._cluster_seen, self._lanes = -1, set[int]()
        self._functions = Catalogue()
        self._cancels: dict[int, int] = {}
        self._ended: deque[Run] = deque()
        self._ended_facts = self._ended_bytes = self._inner_runs = 0
        #: Of this turn, and the runs that it touched.
        self._box = Outbox()
        self._touched: dict[Run, None] = {}
        #: {worker: (when it is to hear that its outcomes are here, their bytes)}
        self._to_acknowledge: dict[Worker, tuple[float, int]] = {}
        self._feed = Feed(self._send, epoch_s)
        self._waiting: tuple[dict[Run, None], ...] = tuple({} for _ in LANES)
        self._credit: tuple[dict[Worker, None], ...] = tuple({} for _ in LANES)
        #: Workers that were sent more than usual ahead; and the run, by number, of which one alone was sent still more.
        self._deep: tuple[dict[Worker, None], ...] = tuple({} for _ in LANES)
        self._filled: tuple[dict[Worker, int], ...] = tuple({} for _ in LANES)
        self._backoffs: list[tuple[float, int]] = []
        #: Runs with ready steps that take more than one slot, and whether those are next where both wait.
        self._demanding: dict[Run, None] = {}
        self._is_turn_of_demands = True
        #: Steps assigned that count for a limit.
        self._in_use: Counter[str] = Counter()

    @property
    def has_free_core(self) -> bool:
        """Whether steps leave a CPU slot free now."""
        for worker in self.workers.values():  # noqa: SIM110  asked in each turn, and `any` takes 1 µs more
            if worker.out[LANE_CPU] < worker.slots[LANE_CPU]:
                return True
        return False

    # -- workers ---------------------------------------------------------------------------------------------------

    def on_register(self, peer: bytes, msg: m.Register, now: float) -> None:
        """A worker offers itself, for the first time or again."""
        if not self._is_same_version(peer, msg.protocol, msg.python, msg.pfw, "worker"):
            return
        worker = self.workers.get(peer)
        if worker is None:
            worker = Worker(self._next("worker"), peer, msg.name, (msg.cpu, msg.io, msg.permits), now)
            worker.pid, worker.host = msg.pid, msg.host
            worker.resources, worker.left = dict(msg.resources), dict(msg.resources)
            worker.in_use = self._in_use
            self._next("cluster")
            self.workers[peer] = worker
            self._feed.worker_names[worker.number] = worker.name
            if msg.host == self.host:
                self._box.watch.append((peer, msg.pid))
            self._tell_capacity(now)
        worker.last_seen, worker.is_suspect, self._deadline_at = now, False, now
        # On one machine the clocks are one; elsewhere the offset is off by the way of this message.
        worker.clock_offset_us = 0 if msg.host == self.host else int(now * 1e6) - msg.clock_us
        self._settle(worker)
        self._send(peer, m.Welcome(worker.number, m.HEARTBEAT_S, self.pub, self._numbers["cancel"]))

    def on_heartbeat(self, peer: bytes, msg: m.Heartbeat, now: float) -> None:
        """What a worker holds: the difference to its ledger is sent again or stopped."""
        worker = self._worker(peer, now)
        if worker is None:
            return
        worker.stats = (msg.rss_bytes, msg.cpu_percent, msg.load, msg.slots)
        held = set(msg.held)
        upto = msg.last_batch
        if now - worker.marked_at >= REWIND_S + worker.out_bytes // m.BYTES_PER_S:
            upto = max(upto, worker.mark)
            worker.mark, worker.marked_at = worker.batch, now
        lost = [(n, a) for n, a in worker.attempts.items() if a.batch <= upto and n not in held]
        if lost:
            for _, attempt in lost:
                # What went along with the lost batch may be lost too.
                worker.known_functions.discard(attempt.function)
                attempt.run.workers.pop(worker, None)
            self._assign_parts(worker, bookings_of(lost))
        stop = tuple(number for number in msg.held if number not in worker.attempts)
        self._send(peer, m.Reply(worker.last_outcomes, self._numbers["cancel"], stop))
        self._to_acknowledge.pop(worker, None)

    def on_outcomes(self, peer: bytes, msg: m.Outcomes, now: float) -> None:
        """Commits what attempts returned."""
        worker = self._worker(peer, now)
        if worker is None:
            return
        message_number, columns = msg
        if message_number == worker.last_outcomes + 1:
            worker.last_outcomes = message_number
        numbers, codes, *others = columns
        due, size = self._to_acknowledge.get(worker, (now + ACKNOWLEDGE_S, 0))
        size += sum(map(len, columns[4]))
        self._to_acknowledge[worker] = (now if size > ACKNOWLEDGE_BYTES or worker.is_leaving else due), size
        if any(codes) or not self._follow_all(worker, numbers):
            for row in zip(*columns, strict=True):
                self._on_outcome(worker, row, now)
        elif len(numbers) == 1:
            self._on_one_ok(worker, numbers[0], others, now)
        else:
            alike = worker.free_alike(numbers, now)
            if alike is not None:
                self._on_alike_ok(worker, *alike, others, now)
            else:
                freed = [worker.free(number, now) for number in numbers]
                self._on_all_ok(worker, zip(freed, *others, strict=True), now)
        self._settle(worker)

    def _follow_all(self, worker: Worker, numbers: Iterable[int]) -> bool:
        """Whether these attempts, which have returned, do so in order: `_is_in_order` for each; 0.1 µs."""
        ahead = worker.ahead
        for number in numbers if ahead else ():
            if number in ahead:
                return False
            if number + 1 in ahead:
                worker.follow(number + 1)
        return True

    def _on_one_ok(self, worker: Worker, number: int, columns: Sequence[Any], now: float) -> None:
        """Commits one attempt that has returned."""
        attempt = worker.free(number, now)
        if attempt is None:
            return
        (start_us,), (run_us,), (payload,), (cpu_us,), (peak_bytes,) = columns
        run, step, function = attempt[0], attempt[1], attempt[2]
        self._functions.learn(function, (run_us,))
        self._touched[run] = None
        started = (start_us + worker.clock_offset_us) * 1e-6
        if started > now:
            started = now
        run.life.on_succeeded(step, worker.number, started, run_us * 1e-6, payload, now, (cpu_us, peak_bytes))

    def _on_alike_ok(
        self, worker: Worker, run: Run, function: int, steps: Sequence[int], columns: Sequence[Any], now: float
    ) -> None:
        """Commits attempts of one run and function that have returned."""
        starts_us, runs_us, payloads, cpus_us, peaks_bytes = columns
        offset_us, latest_us = worker.clock_offset_us, int(now * 1e6)
        self._functions.learn(function, runs_us)
        if max(starts_us) + offset_us > latest_us:
            starts_us = [min(latest_us - offset_us, start_us) for start_us in starts_us]
        started_at = [(start_us + offset_us) * 1e-6 for start_us in starts_us]
        runs_s = [run_us * 1e-6 for run_us in runs_us]
        self._touched[run] = None
        run.life.on_all_succeeded(worker.number, (steps, started_at, runs_s, payloads, cpus_us, peaks_bytes), now)

    def _on_all_ok(
        self, worker: Worker, rows: Iterable[tuple[Attempt | None, int, int, bytes, int, int]], now: float
    ) -> None:
        """Commits attempts that have returned."""
        offset_us, latest_us = worker.clock_offset_us, int(now * 1e6)
        ended: dict[Run, list[tuple[int, float, float, bytes, int, int]]] = {}
        runs_us: dict[int, list[int]] = {}
        run_before = function_before = None
        for attempt, start_us, run_us, payload, cpu_us, peak_bytes in rows:
            if attempt is None:
                continue
            run, step, function = attempt[0], attempt[1], attempt[2]
            if run is not run_before:
                run_before, add = run, ended.setdefault(run, []).append
            if function != function_before:
                function_before, note = function, runs_us.setdefault(function, []).append
            note(run_us)
            started = min(latest_us, start_us + offset_us) * 1e-6
            add((step, started, run_us * 1e-6, payload, cpu_us, peak_bytes))
        for function, found in runs_us.items():
            self._functions.learn(function, found)
        for run, successes in ended.items():
            self._touched[run] = None
            steps, started_at, runs_s, payloads, cpus_us, peaks_bytes = zip(*successes, strict=True)
            columns = steps, started_at, runs_s, payloads, cpus_us, peaks_bytes
            run.life.on_all_succeeded(worker.number, columns, now)

    def _on_outcome(self, worker: Worker, row: m.OutcomeRow, now: float) -> None:
        """Commits how one attempt ended."""
        number, code, start_us, run_us, payload, cpu_us, peak_bytes = row
        if worker.ahead and not self._is_in_order(worker, number, code, now):
            return
        if code == oc.OK:
            self._on_one_ok(worker, number, ((start_us,), (run_us,), (payload,), (cpu_us,), (peak_bytes,)), now)
            return
        attempt = worker.free(number, now)
        if attempt is not None:
            self._touched[attempt.run] = None
            started = min(now, (start_us + worker.clock_offset_us) * 1e-6)
            cost = cpu_us, peak_bytes
            self._on_other_outcome(worker, attempt, code, started, run_us * 1e-6, payload, now, cost)

    def _is_in_order(self, worker: Worker, number: int, code: int, now: float) -> bool:
        """Whether an outcome counts: what came of an input counts only if that input does.

        Exceptions are the end of a process, which is charged to its step, since that would else go on ending processes;
        and a run that was told to stop, of which every attempt says how it did.
        """
        attempt = worker.attempts.get(number)
        is_stopped = attempt is not None and attempt.run.is_cancel_sent
        if number in worker.ahead and code != oc.CRASHED and not is_stopped:
            self._withdraw(worker, number, now)
            return False
        if number + 1 in worker.ahead:
            if code == oc.OK or is_stopped:
                worker.follow(number + 1)
            else:
                self._withdraw(worker, number + 1, now)
        return True

    def _withdraw(self, worker: Worker, number: int, now: float) -> None:
        """Takes back this attempt and those behind it, if it was sent ahead: its input is not what it will get."""
        while number in worker.ahead:
            attempt = worker.attempts[number]
            worker.free(number, now)
            attempt.run.life.on_not_started(attempt.step, worker.number, now)
            self._touched[attempt.run] = None
            number += 1

    def _on_other_outcome(
        self,
        worker: Worker,
        attempt: Attempt,
        code: int,
        started: float,
        run_s: float,
        payload: bytes,
        now: float,
        cost: Cost,
    ) -> None:
        life, step = attempt.run.life, attempt.step
        if code in (oc.ERROR, oc.RETRYABLE):
            is_retryable = code == oc.RETRYABLE
            life.on_failed(step, worker.number, started, run_s, payload, is_retryable, now, cost)
        elif code == oc.OVER_MEMORY:
            is_retryable = bool(life.spec(step).retries_memory)
            life.on_failed(step, worker.number, started, run_s, payload, is_retryable, now, cost)
        elif code == oc.TIMED_OUT:
            life.on_timed_out(step, worker.number, started, run_s, payload, now, cost)
        elif code == oc.EXPANDED:
            self._on_expanded(worker, attempt, started, run_s, payload, now, cost)
        elif code == oc.CRASHED:
            life.on_crashed(step, worker.number, started, run_s, payload, now, cost)
        elif code in ENDED_OF_CODE and (attempt.run.is_cancel_sent or not life.counts(step)):
            life.on_stopped(step, worker.number, ENDED_OF_CODE[code], now, started, run_s, cost)
        elif code == oc.STOPPED and payload:
            # The step has cancelled its own token: nobody else wanted it to end.
            life.on_failed(step, worker.number, started, run_s, payload, False, now, cost)
        else:
            life.on_not_started(step, worker.number, now)

    def _on_expanded(
        self, worker: Worker, attempt: Attempt, started: float, run_s: float, payload: bytes, now: float, cost: Cost
    ) -> None:
        """The step returned a Workflow; that of a call goes to a run of its own."""
        run, step = attempt.run, attempt.step
        try:
            fragment = unpack_fragment(payload)
        except ProtocolError as error:
            failure = Failure(FAIL_ERROR, "GraphError", str(error)).pack()
            run.life.on_failed(step, worker.number, started, run_s, failure, False, now, cost)
            return
        graph = fragment.graph
        if run.life.may_expand(step):
            if run.has_calls:
                run.life.on_expanded_apart(step, worker.number, started, run_s, now, cost)
                run, step = self._add_inner(run, step, now), CALL
            run.functions.extend([self._functions.use(pickled) for pickled in graph.functions])
        fragment = fragment._replace(graph=graph._replace(functions=[b""] * len(graph.functions)))
        run.life.on_expanded(step, worker.number, started, run_s, fragment, payload, now, cost)

    def _add_inner(self, outer: Run, step: int, now: float) -> Run:
        inner = make_inner(outer, step, self._next("run"), now)
        self.runs[inner.number] = outer.inner[step] = inner
        self._inner_runs += 1
        self._touched[inner] = None
        return inner

    def on_notes(self, peer: bytes, msg: m.Notes, now: float) -> None:
        """Attempts that have executed for a while."""
        worker = self._worker(peer, now)
        if worker is None:
            return
        for number, start_us in msg.rows:
            attempt = worker.attempts.get(number)
            if attempt is not None and number not in worker.ahead:  # else told before what it was given
                started = min(now, (start_us + worker.clock_offset_us) * 1e-6)
                attempt.run.life.on_started(attempt.step, worker.number, started, now)
                self._touched[attempt.run] = None

    def on_printed(self, peer: bytes, msg: m.Printed, now: float) -> None:
        """What attempts have printed."""
        worker = self._worker(peer, now)
        if worker is None or msg.number <= worker.last_printed:
            return
        worker.last_printed = msg.number
        for number, text in msg.rows:
            attempt = worker.attempts.get(number)
            if attempt is not None:
                attempt.run.life.on_printed(attempt.step, worker.number, text, now)
                self._touched[attempt.run] = None

    def on_progress(self, peer: bytes, msg: m.Progress, now: float) -> None:
        """How far attempts say that they are."""
        worker = self._worker(peer, now)
        if worker is None:
            return
        for number, done, total, message in msg.rows:
            attempt = worker.attempts.get(number)
            if attempt is not None:
                progress = pack_progress(done, total, message)
                attempt.run.life.on_progressed(attempt.step, worker.number, progress, now)
                self._touched[attempt.run] = None

    def on_cancels_asked(self, peer: bytes, msg: m.CancelsAsked, now: float) -> None:
        """A worker has seen a gap in the cancels."""
        if self._worker(peer, now) is not None:
            runs = tuple(run for run, number in self._cancels.items() if number > msg.after)
            self._send(peer, m.Cancels(msg.after, self._numbers["cancel"], runs, self._urgent(runs)))

    def on_leaving(self, peer: bytes, msg: m.Leaving, now: float) -> None:
        """A worker drains, or has drained."""
        worker = self._worker(peer, now)
        if worker is not None:
            worker.is_leaving = True
            self._next("cluster")
            self._settle(worker)
            if worker in self._to_acknowledge:
                self._to_acknowledge[worker] = now, 0
            if msg.is_gone:
                self._lose(worker, "it left", now)

    def on_peer_died(self, peer: bytes, now: float) -> None:
        """The process behind this peer is known to have ended."""
        worker = self.workers.get(peer)
        if worker is not None:
            self._lose(worker, "its process ended", now)

    def _worker(self, peer: bytes, now: float) -> Worker | None:
        worker = self.workers.get(peer)
        if worker is None:
            self._send(peer, m.Refused(m.REFUSED_VERSION, "not registered here", 1))
            return None
        worker.last_seen = now
        if worker.is_suspect:
            worker.is_suspect, self._deadline_at = False, now
            self._settle(worker)
        return worker

    def _lose(self, worker: Worker, why: str, now: float) -> None:
        """The worker is gone: its attempts go elsewhere, each charged to its step's budget of losses."""
        del self.workers[worker.peer]
        self._box.gone.append(worker.peer)
        self._to_acknowledge.pop(worker, None)
        for credit in self._credit:
            credit.pop(worker, None)
        if worker.reservation is not None:
            release(*worker.reservation)
        self._next("cluster")
        text = f"worker {worker.name} (pid {worker.pid}) was lost while it held this step: {why}"
        failure = Failure(FAIL_LOST, "WorkerLostError", text, "", b"", 0, 0).pack()
        for number in sorted(worker.ahead):
            if number in worker.ahead and not worker.attempts[number].run.is_cancel_sent:
                self._withdraw(worker, number, now)
        for number in list(worker.attempts):
            attempt = worker.attempts[number]
            worker.free(number, now)
            self._touched[attempt.run] = None
            if worker.is_leaving and attempt.run.life.spec(attempt.step).reruns:
                attempt.run.life.on_not_started(attempt.step, worker.number, now)
            else:
                attempt.run.life.on_lost(attempt.step, worker.number, failure, now)
        for run in self.runs.values():
            run.workers.pop(worker, None)
        self._tell_capacity(now)

    def _capacity(self) -> bytes:
        return pack_capacity([sum(worker.slots[lane] for worker in self.workers.values()) for lane in LANES])

    def _tell_capacity(self, now: float) -> None:
        """The cluster has other slots than before: said in each run that goes on, for its utilisation."""
        capacity = self._capacity()
        for run in self.runs.values():
            if not (run.life.is_finished or run.life.is_open):
                run.life.on_capacity(capacity, now)
                self._touched[run] = None

    def _settle(self, worker: Worker, lanes: Iterable[int] = LANES) -> None:
        """Puts the worker among those with credit, lane by lane, or takes it out."""
        if worker.out_bytes > AHEAD_BYTES or len(worker.attempts) >= MAX_HELD:
            lanes = LANES  # so much counts in all of them
        for lane in lanes:
            if worker.has_credit(lane):
                self._credit[lane][worker] = None
            else:
                self._credit[lane].pop(worker, None)

    # -- clients ---------------------------------------------------------------------------------------------------

    def on_hello(self, peer: bytes, msg: m.Hello, now: float) -> None:
        """A client introduces itself."""
        if not self._is_same_version(peer, msg.protocol, msg.python, msg.pfw, "client"):
            return
        if peer not in self.clients:
            self.clients[peer], self._deadline_at = Client(peer, msg.session, now), now
        self._send(peer, m.Welcome(self._next("client"), m.HEARTBEAT_S, "", self._numbers["cancel"]))

    def on_submit(self, peer: bytes, msg: m.Submit, now: float) -> None:
        """A client asks for a run. The same key is the same run."""
        client = self._client(peer, now)
        if client is None:
            return
        digest = blake2b(msg.graph, digest_size=16).digest()
        run = self._run_of_key.get(msg.key)
        if run is not None and run.blob_digest != digest:
            self._reject(peer, msg.key, 0, m.REFUSED_KEY, "this key was used before with another workflow")
            return
        if run is None:
            try:
                run = self._load(client, msg, digest, now)
            except ProtocolError as error:
                self.oddities += 1
                self._reject(peer, msg.key, 0, m.REFUSED_GRAPH, str(error))
                return
        self._send(peer, m.Accepted(msg.key, run.number, run.id))
        self._feed.follow(client, run)

    def _load(self, client: Client, msg: m.Submit, digest: bytes, now: float) -> Run:
        graph = unpack_graph(msg.graph)
        if msg.mode not in ("parallel", "waves") or msg.on_failure not in ON_FAILURE:
            raise ProtocolError(f"no such mode {msg.mode!r} or on_failure {msg.on_failure!r}")
        if not graph.ids and not msg.is_open:
            raise ProtocolError("a run without steps")
        if msg.is_open and (msg.is_detached or msg.mode == "waves"):
            raise ProtocolError("an open run needs its client, so it cannot be detached, and has no waves")
        number = self._next("run")
        run_id = blake2b(b"%d" % number, key=self._seed, digest_size=5).hexdigest()
        life = RunLife(
            mode=msg.mode, on_failure=msg.on_failure, keep=msg.keep, keep_all=bool(msg.keep_all),
            is_open=bool(msg.is_open), seed=run_id.encode(), timeout_s=msg.timeout,
            limits=((f"{CAP}{number}", msg.max_parallel),) if msg.max_parallel else (),
        )  # fmt: skip
        run = Run(number, run_id, msg.name, client.session, msg.key, life)
        run.priority, run.is_detached, run.meta = msg.priority, bool(msg.is_detached), msg.meta
        run.version, run.has_calls = msg.version, bool(msg.is_open)
        run.blob_digest, run.graph_blob = digest, b"" if self.is_embedded else msg.graph
        run.functions = [self._functions.use(pickled) for pickled in graph.functions]
        self.runs[number] = self._run_of_key[msg.key] = self._run_of_id[run_id] = run
        run.started_at = now
        # The functions are the cluster's now; the life of the run only counts them.
        life.start(graph._replace(functions=[b""] * len(graph.functions)), now, self._capacity())
        self._touched[run] = None
        return run

    def on_extend(self, peer: bytes, msg: m.Extend, now: float) -> None:
        """More steps for an open run."""
        run = self._run_to_extend(peer, msg, now)
        if run is None:
            return
        try:
            graph = unpack_graph(msg.graph, msg.first)
        except ProtocolError:
            self.oddities += 1
            return
        if self._needs_released(run, graph.inputs, msg.first):
            self.oddities += 1
            return
        run.functions.extend([self._functions.use(pickled) for pickled in graph.functions])
        graph.functions[:] = [b""] * len(graph.functions)
        run.life.extend(graph, now)
        self._touched[run] = None

    def on_extend_like(self, peer: bytes, msg: m.ExtendLike, now: float) -> None:
        """As `on_extend`, for steps like an earlier one."""
        _, first, like, ids, calls, inputs = msg
        run = self._run_to_extend(peer, msg, now)
        if run is None:
            return
        try:
            check_likes(msg)
        except ProtocolError:
            self.oddities += 1
            return
        if self._needs_released(run, inputs, first):
            self.oddities += 1
            return
        run.life.extend_like(like, ids, calls, inputs, now)
        self._touched[run] = None

    def _run_to_extend(self, peer: bytes, msg: m.Extend | m.ExtendLike, now: float) -> Run | None:
        """The run; None if these steps do not fit: they are a repetition, or come too early."""
        run = self._own_run(peer, msg.run, now)
        return run if run is not None and run.life.is_open and msg.first == len(run.life.states) else None

    def _needs_released(self, run: Run, inputs: Sequence[tuple[int, ...]], first: int) -> bool:
        """Whether steps from `first` on get an output of an earlier one that is not here any more."""
        if not any(inputs):
            return False
        return any(run.life.is_released(step) for step in chain.from_iterable(inputs) if step < first)

    def on_cancel_run(self, peer: bytes, msg: m.CancelRun, now: float) -> None:
        """A run is to end; any client may ask."""
        if self._client(peer, now) is not None and (run := self.runs.get(msg.run)) is not None:
            self._cancel(run, msg.reason, now)
            if msg.is_urgent:
                self._hasten(run)

    def on_cancel_calls(self, peer: bytes, msg: m.CancelCalls, now: float) -> None:
        """What these calls return is not wanted any more; workers are told again as often as the client says it."""
        run = self._own_run(peer, msg.run, now)
        if run is None or not run.has_calls:
            return
        steps = [step for step in msg.steps if step < len(run.life.states)]
        running = set(run.life.cancel_calls(steps, now))
        for worker in self.workers.values() if running else ():
            doomed = [number for number, a in worker.attempts.items() if a.run is run and a.step in running]
            if doomed:
                self._send(worker.peer, m.GiveBack(tuple(doomed), 1))
        for step in run.inner.keys() & steps:
            self._cancel(run.inner[step], "its call was cancelled", now)
        self._touched[run] = None

    def on_close_run(self, peer: bytes, msg: m.CloseRun, now: float) -> None:
        """No more steps will come to this open run."""
        run = self._own_run(peer, msg.run, now)
        if run is not None:
            run.life.close(now)
            self._touched[run] = None

    def on_attach(self, peer: bytes, msg: m.Attach, now: float) -> None:
        """A client wants a run's facts from the start."""
        client = self._client(peer, now)
        if client is None:
            return
        run = self._run_of_id.get(msg.run_id)
        if run is None or (run.life.is_open and run.session != client.session):
            self._reject(peer, b"", msg.request, m.REFUSED_UNKNOWN_RUN, f"no run {msg.run_id!r} here")
            return
        position = run.life.facts.end
        self._send(
            peer,
            m.Attached(
                msg.request,
                run.number,
                run.id,
                run.name,
                run.life.mode,
                run.meta,
                run.graph_blob,
                run.version,
                position,
            ),
        )
        # Who attaches wants the facts from the start, also once more.
        self._feed.unfollow(client, run)
        self._feed.follow(client, run)

    def on_cursors(self, peer: bytes, msg: m.Cursors, now: float) -> None:
        """The client's heartbeat, or its confirmation after much was sent."""
        client = self._client(peer, now)
        if client is None:
            return
        for number, cursor, released in msg.rows:
            subscription = client.subscriptions.get(number)
            if subscription is not None:
                life = subscription.run.life
                if cursor <= life.facts.end:
                    self._confirm(subscription, cursor, released, now)
        if peer not in self._box.messages:
            self._send(peer, m.Reply(0, self._numbers["cancel"], ()))

    def _confirm(self, subscription: Subscription, cursor: int, released: int, now: float) -> None:
        run, life = subscription.run, subscription.run.life
        self._feed.confirm(subscription, cursor, now)
        if life.is_open:
            life.release(min(released, cursor))
            self._feed.acknowledge(subscription)
        elif self.is_embedded and run.is_over and cursor == life.facts.end:
            self._forget_run(run)

    def on_query(self, peer: bytes, msg: m.Query, now: float) -> None:
        """A question for people and scripts."""
        if self._client(peer, now) is None:
            return
        body: Any
        if msg.what == "workers":
            body = report_workers(self.workers.values(), now)
        elif msg.what == "runs":
            body = report_runs(self.runs.values(), self.epoch_s, now)
        elif msg.what == "status":
            counts = report_status(self.workers.values(), self.runs.values())
            body = {
                "pfw": self.version,
                "python": self.python,
                **counts,
                "clients": len(self.clients),
                "oddities": self.oddities,
            }
        elif msg.what == "step" and (run := self.runs.get(msg.run)) is not None and msg.step < len(run.life.states):
            body = report_step(run, msg.step, self.workers.values(), self._in_use, now)
        else:
            self._reject(peer, b"", msg.request, m.REFUSED_UNKNOWN_RUN, f"nothing is known of {msg.what!r}")
            return
        self._send(peer, m.Answer(msg.request, pack(body)))

    def _client(self, peer: bytes, now: float) -> Client | None:
        client = self.clients.get(peer)
        if client is None:
            self._send(peer, m.Refused(m.REFUSED_VERSION, "say Hello first", 1))
            return None
        client.last_seen = now
        return client

    def _own_run(self, peer: bytes, number: int, now: float) -> Run | None:
        client = self._client(peer, now)
        run = self.runs.get(number)
        return run if client is not None and run is not None and run.session == client.session else None

    def _is_same_version(self, peer: bytes, protocol: int, python: str, version: str, role: str) -> bool:
        if protocol == m.PROTOCOL and python == self.python:
            return True
        text = (
            f"this {role} runs pfw {version} (protocol {protocol}) on Python {python}, "
            f"the coordinator pfw {self.version} (protocol {m.PROTOCOL}) on Python {self.python}: "
            f"both must have the same protocol and Python minor version"
        )
        self._send(peer, m.Refused(m.REFUSED_PROTOCOL, text, 0))
        return False

    def _reject(self, peer: bytes, key: bytes, request: int, kind: int, text: str) -> None:
        self._send(peer, m.Rejected(key, request, kind, text))

    # -- runs ------------------------------------------------------------------------------------------------------

    def _cancel(self, run: Run, reason: str, now: float) -> None:
        if run.life.cancel(reason, now):
            self._touched[run] = None

    def _hasten(self, run: Run) -> None:
        """What still runs of a cancelled run is killed at once."""
        if not run.is_urgent and not run.life.is_finished:
            run.is_urgent = True
            self._broadcast_cancel(run)
            self._touched[run] = None

    def _broadcast_cancel(self, run: Run) -> None:
        run.life.to_stop.clear()
        run.is_cancel_sent = True
        before = self._numbers["cancel"]
        number = self._cancels[run.number] = self._next("cancel")
        self._box.broadcasts.append(m.Cancels(before, number, (run.number,), self._urgent((run.number,))))

    def _urgent(self, runs: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(run for run in runs if self.runs[run].is_urgent)

    def _end_run(self, run: Run) -> None:
        """The run has ended: workers may forget it, functions nobody uses any more go."""
        run.is_over = True
        self._cancels.pop(run.number, None)
        unused = tuple(number for number in run.functions if self._functions.stop_using(number))
        for worker in run.workers:
            gone = tuple(number for number in unused if number in worker.known_functions)
            worker.known_functions.difference_update(gone)
            self._send(worker.peer, m.Forget((run.number,), gone))
        run.workers.clear()
        run.functions = []
        if run.outer is not None:
            del self.runs[run.number], run.outer.inner[run.outer_step]
            self._inner_runs -= 1
            return
        self._ended.append(run)
        self._ended_facts += len(run.life.facts)
        run.kept_bytes = len(run.graph_blob) + run.life.facts.payload_bytes
        self._ended_bytes += run.kept_bytes
        if self._keeps_too_much():
            self._forget_old_runs()

    def _keeps_too_much(self) -> bool:
        return self._ended_facts > KEPT_FACTS or self._ended_bytes > KEPT_BYTES

    def _forget_old_runs(self) -> None:
        for run in [run for run in self._ended if run.is_read]:
            self._forget_run(run)
            if not self._keeps_too_much():
                return

    def _forget_run(self, run: Run) -> None:
        if self.runs.pop(run.number, None) is None:
            return
        del self._run_of_key[run.key], self._run_of_id[run.id]
        self._ended.remove(run)
        self._ended_facts -= len(run.life.facts)
        self._ended_bytes -= run.kept_bytes
        for subscription in list(run.subscriptions):
            self._feed.unfollow(subscription.client, run)

    # -- time ------------------------------------------------------------------------------------------------------

    def on_time(self, now: float) -> None:
        """Deadlines. To be called in each turn after everything that had arrived was handed in."""
        late = now - self._wake_at
        if late > LATE_S:
            for worker in self.workers.values():
                worker.last_seen += late
            for client in self.clients.values():
                client.last_seen += late
            for late_run in self.runs.values():
                late_run.life.on_late(late)
        if now >= self._deadline_at:
            self._look_at_workers(now)
            self._look_at_clients(now)
            self._deadline_at = min([
                *(worker.last_seen + (LOST_S if worker.is_suspect else SUSPECT_S) for worker in self.workers.values()),
                *(client.last_seen + CLIENT_GONE_S for client in self.clients.values()),
            ], default=math.inf)  # fmt: skip
        while self._backoffs and self._backoffs[0][0] <= now:
            _, number = heapq.heappop(self._backoffs)
            if (run := self.runs.get(number)) is not None:
                run.backoff_at = float("-inf")  # another one may end at the same instant
                run.life.on_time(now)
                self._touched[run] = None

    def _look_at_workers(self, now: float) -> None:
        for worker in list(self.workers.values()):
            silent = now - worker.last_seen
            if silent > LOST_S:
                self._lose(worker, f"nothing was heard of it for {silent:.0f} s", now)
            elif silent > SUSPECT_S and not worker.is_suspect:
                worker.is_suspect = True
                self._settle(worker)

    def _look_at_clients(self, now: float) -> None:
        for client in list(self.clients.values()):
            if now - client.last_seen > CLIENT_GONE_S:
                self._lose_client(client, now)

    def _lose_client(self, client: Client, now: float) -> None:
        del self.clients[client.peer]
        self._box.gone.append(client.peer)
        for subscription in list(client.subscriptions.values()):
            self._feed.unfollow(client, subscription.run)
        if any(other.session == client.session for other in self.clients.values()):
            return
        for run in list(self.runs.values()):
            if run.session == client.session and not run.is_detached:
                self._cancel(run, f"its client was silent for {CLIENT_GONE_S:.0f} s", now)

    # -- the way out -----------------------------------------------------------------------------------------------

    def drain(self, now: float) -> Outbox:
        """Places what is ready and returns everything that is to be sent."""
        if self._cluster_seen != self._numbers["cluster"]:
            self._review_cluster(now)
        self._review_runs(now)
        if self._demanding:
            reserve_at = self._place_all(now)
        else:
            reserve_at = None
            if any(self._waiting):
                self._place_plain(now)
        recall_at = self._recall(now) if len(self.workers) > 1 else None
        wake_at = self._feed.drain(now)
        if self._to_acknowledge:
            wake_at = min(wake_at, self._acknowledge(now))
        if self._touched:  # a step was refused just now
            wake_at = now
        if recall_at is not None or reserve_at is not None:
            wake_at = min(due for due in (wake_at, recall_at, reserve_at) if due is not None)
        if self._backoffs:
            wake_at = min(wake_at, self._backoffs[0][0])
        box, self._box = self._box, Outbox()
        box.wake_at = self._wake_at = wake_at
        return box

    def _review_cluster(self, now: float) -> None:
        """Workers have come or gone: what was said of their lack may no longer be so."""
        self._cluster_seen = self._numbers["cluster"]
        able = [worker for worker in self.workers.values() if not worker.is_leaving]
        self._lanes = {lane for lane in LANES if any(worker.slots[lane] for worker in able)}
        for run in self.runs.values():
            if run.outlook and not run.is_over:
                self._explain(run, now)

    def _review_runs(self, now: float) -> None:
        """What this turn's changes mean for each run they touched."""
        if self._inner_runs:
            self._review_inner(now)
        touched, self._touched = self._touched, {}
        for run in touched:
            life = run.life
            for lane in LANES:
                if life.ready[lane].count:
                    self._waiting[lane][run] = None
            if life.demanding:
                self._demanding[run] = None
            if life.to_stop:
                self._broadcast_cancel(run)
            wake_at = life.wake_at()
            if wake_at is not None and wake_at != run.backoff_at:
                self._note_wake(run, wake_at)
            self._feed.touch(run)
            if life.is_finished and not run.is_over:
                self._end_run(run)

    def _review_inner(self, now: float) -> None:
        """The end of an open run is that of its inner runs, and of theirs it is told first."""
        for outer in [run for run in self._touched if run.inner and run.life.cancel_reason]:
            for inner in outer.inner.values():
                self._cancel(inner, outer.life.cancel_reason.decode(), now)
                if outer.is_urgent:
                    self._hasten(inner)
        for inner in list(self._touched):
            if inner.outer is not None:
                relay(inner, inner.outer, now)
                self._touched[inner.outer] = None

    def _note_wake(self, run: Run, wake_at: float) -> None:
        """Looks at the run again at that time."""
        run.backoff_at = wake_at
        heapq.heappush(self._backoffs, (wake_at, run.number))
        if len(self._backoffs) > 2 * len(self.runs) + 64:  # most are of runs that have ended before their deadline
            going = [run for run in self.runs.values() if not run.is_over]
            self._backoffs = [(at, run.number) for run in going if (at := run.life.wake_at()) is not None]
            heapq.heapify(self._backoffs)

    def _place_all(self, now: float) -> float | None:
        """Places plain steps and those with demands; where both wait they take turns, unless priorities differ.

        Returns:
            When a worker may have to be kept free for a step that waits; None for never.
        """
        floor = max((run.priority for waiting in self._waiting for run in waiting), default=-1)
        before = self._numbers["attempt"]
        self._place_demands(floor + (not self._is_turn_of_demands), now)
        between = self._numbers["attempt"]
        self._place_plain(now)
        if self._numbers["attempt"] > before:
            self._is_turn_of_demands = between == before
        self._place_demands(0, now)
        for run in self._demanding:
            self._explain(run, now)
        outlook = plan_reservations(self._demanding, self.workers.values(), self._in_use, floor, now)
        for worker in outlook.changed:
            self._settle(worker)
        self._demanding = {
            run: None for run in self._demanding if any(queue.count for queue in run.life.demanding.values())
        }
        return outlook.again_at

    def _place_plain(self, now: float) -> None:
        for lane in LANES:
            if self._waiting[lane]:
                if self._filled[lane]:
                    self._share(lane)
                if self._credit[lane]:
                    self._place(lane, now)
                elif lane not in self._lanes:
                    for run in self._waiting[lane]:
                        self._explain(run, now)

    def _share(self, lane: int) -> None:
        """Another run has steps ready: a worker that was alone with one run gives back what is in their way.

        The other run has its turn first.
        """
        waiting, filled = self._waiting[lane], self._filled[lane]
        for worker, number in tuple(filled.items()):
            if {run.number for run in waiting} != {number}:
                del filled[worker]
                self._ask_back(lane, [worker])
                for run in [run for run in waiting if run.number == number]:
                    waiting[run] = waiting.pop(run)

    def _ask_back(self, lane: int, workers: Iterable[Worker]) -> None:
        for worker, attempts in plan_return(lane, [worker for worker in workers if worker.peer in self.workers]):
            self._send(worker.peer, m.GiveBack(tuple(attempts)))

    def _place_demands(self, floor: int, now: float) -> None:
        """Places steps that take more than one slot, of runs with this priority or a higher one."""
        batches: dict[Worker, list[Booking]] = {}
        for demand, placement in plan_demands(
            self._demanding, self._credit, self._in_use, self._functions.estimates_us, floor
        ):
            self._book(demand.lane, (placement,), demand, batches, now)
        self._assign_all(batches, LANES)

    def _explain(self, run: Run, now: float) -> None:
        """What no worker there is can ever run: an error where no other worker can come, else its client is told."""
        if self.is_embedded and not self.workers:
            return  # its one worker is on its way, or lost, which ends the run
        for queue, text, is_news in review(run, self.workers.values(), self._numbers["cluster"]):
            if self.is_embedded:
                self._refuse_all(run, queue, text, now)
            elif is_news:
                run.life.on_waiting(queue.heads()[0], text, now)
                self._feed.touch(run)

    def _refuse_all(self, run: Run, queue: ReadyQueue, text: str, now: float) -> None:
        failure = Failure(FAIL_UNSCHEDULABLE, "UnschedulableError", text).pack()
        while queue.count:
            (step,) = queue.take()
            run.life.on_assigned(step)
            run.life.on_failed(step, 0, now, 0.0, failure, False, now)
        self._touched[run] = None

    def _place(self, lane: int, now: float) -> None:
        waiting, workers = self._waiting[lane], self._credit[lane]
        if len(waiting) == len(workers) == 1 and self._place_one(lane, next(iter(waiting)), next(iter(workers))):
            return
        batches: dict[Worker, list[Booking]] = {}
        estimates_us = self._functions.estimates_us
        plan = plan_round(lane, waiting, workers, estimates_us, is_alone=len(self.workers) == 1)
        self._book(lane, plan, None, batches, now)
        self._assign_all(batches, (lane,))
        for worker in tuple(workers):
            if worker not in batches:  # the plan may have set another target
                self._settle(worker, (lane,))
        self._note_deep(lane, batches)
        for run in tuple(waiting):
            if not run.life.ready[lane].count:
                del waiting[run]
        if batches and len(waiting) > 1:
            first = next(iter(waiting))
            del waiting[first]
            waiting[first] = None

    def _place_one(self, lane: int, run: Run, worker: Worker) -> bool:
        """Places a step that finds an idle slot, if there is nothing else to place, as in a single call.

        There is nothing to plan then: a call takes 2 % less.
        """
        life, queue = run.life, run.life.ready[lane]
        if queue.count != 1 or worker.out[lane] >= worker.slots[lane]:
            return False
        step = queue.heads()[0]
        function = run.functions[life.graph.function_of[step]]
        size, expected_us = life.input_bytes(step), counted_us(self._functions.estimates_us[function])
        if size > INPUT_BYTES or has_chains(run, step, expected_us):
            return False
        queue.take()
        del self._waiting[lane][run]
        life.on_assigned(step)
        number = self._next("attempt")
        attempts = [new_attempt((run, step, function, lane, expected_us, size, worker.batch + 1, None))]
        worker.add(number, attempts, lane)
        self._assign(worker, [(number, attempts)])
        self._settle(worker, (lane,))
        return True

    def _note_deep(self, lane: int, batches: Iterable[Worker]) -> None:
        """Notes who was sent more than usual ahead, and asks for it back where steps wait for an idle slot."""
        waiting, deep = self._waiting[lane], self._deep[lane]
        for worker in batches:
            if worker.target_us[lane] > TARGET_US:
                deep[worker] = None
                if worker.target_us[lane] > DEEP_TARGET_US and len(waiting) == 1:
                    self._filled[lane][worker] = next(iter(waiting)).number
        if deep and waits_for_slots(lane, waiting, self._functions.estimates_us):
            self._ask_back(lane, deep)
            deep.clear()

    def _book(
        self,
        lane: int,
        placements: Iterable[Placement],
        demand: Demand | None,
        batches: dict[Worker, list[Booking]],
        now: float,
    ) -> None:
        """Books placements in the ledgers as they are made. 0.4 µs a step where many are alike."""
        number = self._numbers["attempt"] + 1
        for worker, run, placed, all_sizes, expected_us in placements:
            life, function = run.life, run.functions[run.life.graph.function_of[placed[0]]]
            life.on_all_assigned(placed)
            steps, sizes, batch = placed, all_sizes, worker.batch + 1
            if max(sizes) > INPUT_BYTES:
                steps, sizes = self._sendable(run, placed, all_sizes, now)
                if not steps:
                    continue
            if len(steps) == 1:
                attempts = [new_attempt((run, steps[0], function, lane, expected_us, sizes[0], batch, demand))]
            else:
                shared = map(repeat, (function, lane, expected_us))
                rows = zip(repeat(run), steps, *shared, sizes, repeat(batch), repeat(demand))
                attempts = list(map(new_attempt, rows))
            followers: list[int] = []
            has_chain = demand is None and has_chains(run, placed[0], expected_us)
            if has_chain and life.has_follower(steps):
                bookings, followers = self._book_chains(attempts, number, worker.room_of_chain(lane))
            elif len(steps) > 1 and len(set(map(life.attempts.__getitem__, steps))) > 1:
                bookings = bookings_of(list(enumerate(attempts, number)))
            else:
                bookings = [(number, attempts)]
            for first, booked in bookings:
                worker.add(first, booked, lane, demand)
                number = first + len(booked)
            if followers:
                worker.add_ahead(followers)
            batches.setdefault(worker, []).extend(bookings)
        self._numbers["attempt"] = number - 1

    def _sendable(
        self, run: Run, steps: Sequence[int], sizes: Sequence[int], now: float
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Those of the steps whose inputs fit into a message, and their sizes; the others have failed."""
        for step, size in zip(steps, sizes, strict=True):
            if size > INPUT_BYTES:
                self._refuse_inputs(run, step, size, now)
        steps = [step for step, size in zip(steps, sizes, strict=True) if size <= INPUT_BYTES]
        return steps, [size for size in sizes if size <= INPUT_BYTES]

    def _book_chains(self, heads: Sequence[Attempt], number: int, most: int) -> tuple[list[Booking], list[int]]:
        """Each attempt, numbered from `number`, with those sent along with it behind it; and the numbers of these.

        They are `most` together, if there are not more heads.
        """
        numbered, followers = list[tuple[int, Attempt]](), list[int]()
        estimates_us = self._functions.estimates_us
        for head in heads:
            run, life = head.run, head.run.life
            numbered.append((number, head))
            room = most - len(heads) - len(followers)
            for other, other_us in plan_chain(run, head.step, head.estimate_us, estimates_us, room):
                life.on_assigned(other)
                number += 1
                function = run.functions[life.graph.function_of[other]]
                attempt = Attempt(run, other, function, head.lane, other_us, life.input_bytes(other), head.batch)
                numbered.append((number, attempt))
                followers.append(number)
            number += 1
        return bookings_of(numbered), followers

    def _assign_all(self, batches: dict[Worker, list[Booking]], lanes: Iterable[int]) -> None:
        for worker, bookings in batches.items():
            self._assign_parts(worker, bookings)
            self._settle(worker, lanes)

    def _assign_parts(self, worker: Worker, bookings: Sequence[Booking]) -> None:
        if len(bookings) == len(bookings[0][1]) == 1:
            self._assign(worker, bookings)
            return
        if worker.out_bytes <= PIECE_BYTES or sum([sum(map(size_of, group)) for _, group in bookings]) <= PIECE_BYTES:
            self._assign(worker, bookings)
            return
        bookings = [(first + place, [a]) for first, attempts in bookings for place, a in enumerate(attempts)]
        sizes = [attempts[0].size for _, attempts in bookings]
        for part in parts(bookings, sizes):
            self._assign(worker, part)

    def _refuse_inputs(self, run: Run, step: int, size: int, now: float) -> None:
        text = f"its inputs have {size:,} bytes together, and a step can be sent {INPUT_BYTES:,}: pass paths instead"
        failure = Failure(FAIL_UNPICKLABLE, "UnpicklableError", text)
        run.life.on_failed(step, 0, now, 0.0, failure.pack(), False, now)
        self._touched[run] = None

    def _assign(self, worker: Worker, bookings: Sequence[Booking]) -> None:
        """One numbered batch; functions and runs go along the first time this worker meets them."""
        worker.batch += 1
        functions: dict[int, bytes] = {}
        runs: dict[int, str] = {}
        blocks: list[m.AssignBlock] = []
        for first, attempts in bookings:
            run, _, function, *_, batch, demand = attempts[0]
            if worker not in run.workers:
                run.workers[worker] = None
                runs[run.number] = run.id
            if function not in worker.known_functions:
                worker.known_functions.add(function)
                functions[function] = self._functions.pickles[function]
            need = own_needs(demand) if demand is not None else PLAIN_NEED
            blocks.append(self._block(first, attempts, () if need == PLAIN_NEED else need))
            if batch != worker.batch:
                again = [attempt._replace(batch=worker.batch) for attempt in attempts]
                worker.attempts.update(zip(range(first, first + len(again)), again, strict=True))
        self._to_acknowledge.pop(worker, None)
        message = m.Assign(
            worker.batch, self._numbers["cancel"], worker.last_outcomes,
            tuple(functions.items()), tuple(runs.items()), tuple(blocks),
        )  # fmt: skip
        self._send(worker.peer, message)

    def _block(self, first: int, attempts: Sequence[Attempt], need: tuple[int, ...]) -> m.AssignBlock:
        """Attempts that are alike as they travel. 0.1 µs each without inputs."""
        run, step, function, lane = attempts[0][:4]
        life = run.life
        _, _, specs, _, spec_of, calls, inputs, _ = life.graph
        terms = run.terms.get(spec_of[step])
        if terms is None:
            terms = run.terms[spec_of[step]] = _terms_of(specs[spec_of[step]])
        may_go_ahead, grace_ms, timeout_ms, is_once = terms
        estimate_us = int(self._functions.estimates_us[function]) if may_go_ahead else 0
        steps = (step,) if len(attempts) == 1 else tuple(map(step_of, attempts))
        given: tuple[m.Inputs, ...] = ()
        if life.has_inputs and any(map(inputs.__getitem__, steps)):
            output_of = life.outputs.__getitem__
            given = tuple([tuple(map(output_of, inputs[other])) for other in steps])
        return (
            first, run.number, life.attempts[step], function, lane, estimate_us, grace_ms, timeout_ms, is_once, need,
            tuple(map(calls.__getitem__, steps)), given,
        )  # fmt: skip

    def _recall(self, now: float) -> float | None:
        """Asks for work back where another worker idles; returns when there may be a reason to, None for never."""
        recall_at = None
        for lane in LANES:
            if self._waiting[lane]:
                continue
            plan = plan_recall(lane, self.workers.values(), now)
            for worker, attempts in plan.requests:
                self._send(worker.peer, m.GiveBack(tuple(attempts)))
            if plan.again_at is not None:
                recall_at = plan.again_at if recall_at is None else min(recall_at, plan.again_at)
        return recall_at

    def _acknowledge(self, now: float) -> float:
        """Acknowledges outcomes where it is time to, or where a message goes anyway; returns when it is next."""
        next_at = math.inf
        for worker, (due, _) in list(self._to_acknowledge.items()):
            if now >= due or worker.peer in self._box.messages:
                del self._to_acknowledge[worker]
                self._send(worker.peer, m.Reply(worker.last_outcomes, self._numbers["cancel"], ()))
            else:
                next_at = min(next_at, due)
        return next_at

    def _send(self, peer: bytes, message: Message) -> None:
        messages = self._box.messages
        mail = messages.get(peer)
        if mail is None:
            messages[peer] = [message]
        else:
            mail.append(message)

    def _next(self, what: str) -> int:
        self._numbers[what] += 1
        return self._numbers[what]


def _terms_of(spec: Spec) -> tuple[bool, int, int, int]:
    """What `Run.terms` has of a spec; a timeout is rounded up, for none is 0."""
    return spec.may_go_ahead, int(spec.grace * 1000), math.ceil(spec.timeout * 1000), 1 - spec.reruns
