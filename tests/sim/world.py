"""A world: everything drawn from one seed, run until all is quiet, watched by the oracle."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any

from helpers import invariants
from pfw import graphs, wire
from pfw import messages as m
from pfw.errors import ProtocolError
from pfw.facts import STATE_NAMES, SUCCEEDED
from pfw.record import RunRecord
from pfw.session import Session
from pfw_coordinator import feed
from sim.actors import SimClient, SimCoordinator, SimWorker
from sim.climate import CLIMATES
from sim.network import Network
from sim.oracle import Oracle, Violation, require
from sim.plan import RunPlan, StepPlan, draw_run
from sim.timeline import START_S, Timeline

if TYPE_CHECKING:
    import pytest

#: Faults happen within so many seconds; then everything is repaired and must come to an end.
FAULTS_S = 6.0
#: Virtual seconds after which a world that has not ended hangs.
HORIZON_S = 300.0
#: After the last run's end: time for the last heartbeats.
SETTLE_S = 8.0
MOST_TURNS = 40_000
TAIL = 80


class World:
    """One seed's world."""

    def __init__(self, seed: int, *, tail: int | None = TAIL) -> None:
        """Args:
        seed: What everything is drawn from.
        tail: How much of the story is kept; None for all.
        """
        self.seed = seed
        self.random = Random(seed)
        self.climate = CLIMATES[seed % len(CLIMATES)]
        self.timeline = Timeline()
        self.network = Network(self.random, self.timeline)
        self.oracle = Oracle(self)
        #: The story: (time, who, what, detail).
        self.story: deque[tuple[float, str, str, Any]] = deque(maxlen=tail)
        self._digest: Any = None
        self.may_lose_cluster = False
        #: When the last fault is over.
        self._calm_at = START_S + FAULTS_S
        self.is_embedded = self.random.random() < 0.4
        self._plans: list[RunPlan] = []
        self._step_of_call: dict[bytes, tuple[RunPlan, StepPlan]] = {}
        self._draw_plans()
        self.coordinator = SimCoordinator(self)
        self.workers: dict[int, SimWorker] = {}
        self._worker_of_peer: dict[bytes, SimWorker] = {}
        self._incarnation = 0
        for number in range(self.random.randint(1, 3)):
            self._start_worker(number)
        self.clients = [SimClient(self, number) for number in range(self.random.randint(1, 3))]
        self.records: list[tuple[SimClient, RunPlan, RunRecord]] = []
        self._schedule_plans()
        self._schedule_faults()

    @property
    def has_faults(self) -> bool:
        """Whether anything but the steps themselves may fail."""
        climate = self.climate
        counts = (climate.cuts, climate.crashes, climate.pauses, climate.stalls, climate.drains, climate.vanishes)
        return any(counts) or climate.weather.loss > 0.0 or climate.restarts > 0

    # -- what is planned -------------------------------------------------------------------------------------------

    def _draw_plans(self) -> None:
        for number in range(self.random.randint(1, 4)):
            plan = draw_run(self.random, number, self.climate.trouble, most_steps=self.random.choice((4, 12, 30)))
            self._plans.append(plan)
            for index, step in enumerate(plan.steps):
                self._step_of_call[b"%d/%d" % (number, index)] = (plan, step)
                for place, inner in enumerate(step.inner):
                    self._step_of_call[b"%d/%d.%d" % (number, index, place)] = (plan, inner)

    def plan_of(self, call: bytes) -> RunPlan:
        return self._step_of_call[call][0]

    def step_of(self, row: Any) -> StepPlan:
        return self._step_of_call[row[6]][1]

    def plan_of_key(self, key: bytes) -> RunPlan:
        return self._plans[int(key)]

    def _schedule_plans(self) -> None:
        for plan in self._plans:
            client = self.random.choice(self.clients)
            self.timeline.at(START_S + plan.submit_at, self._submit, client, plan)

    def _submit(self, client: SimClient, plan: RunPlan) -> None:
        first = 0 if plan.is_open else len(plan.steps)
        graph = plan.graph(0, first)
        record = RunRecord(f"run-{plan.number}", plan.mode, graph, None, is_open=plan.is_open)
        message = m.Submit(
            b"%d" % plan.number, record.name, plan.mode, plan.on_failure, int(plan.keep_all), plan.keep,
            int(plan.is_open), int(plan.is_detached), plan.priority, b"", graphs.pack_graph(graph),
            timeout=plan.timeout_s, max_parallel=plan.max_parallel,
        )  # fmt: skip
        self.records.append((client, plan, record))
        client.call(lambda session, now: session.submit(message, record))
        at = self.timeline.now
        for delay_s, size in plan.fragments:
            self.timeline.at(at + delay_s, self._extend, client, plan, record, first, first + size)
            first += size
        if plan.closes_early:
            self.timeline.at(at + plan.fragments[-1][0], self._close, client, record)
        elif plan.is_open:
            self.timeline.at(at + plan.fragments[-1][0] + 0.1, self._close_when_done, client, plan, record)
        for cancel_at, step in plan.cancelled_calls:
            self.timeline.at(START_S + cancel_at, self._cancel_call, client, record, step)
        if plan.cancel_at is not None:
            self.timeline.at(START_S + plan.cancel_at, self._cancel, client, record, False)
            if plan.urgent_after is not None:
                at = START_S + plan.cancel_at + plan.urgent_after
                self.timeline.at(at, self._cancel, client, record, True)
        if plan.attach_at is not None and not self.is_embedded and not plan.is_open:
            self.timeline.at(START_S + plan.attach_at, self._attach, plan, record)

    def _extend(self, client: SimClient, plan: RunPlan, record: RunRecord, first: int, last: int) -> None:
        """As futures do: what the client has got already is no input any more."""

        def extend(session: Session, now: float) -> None:
            if record.is_finished:
                return
            for step in plan.steps[first:last]:
                step.inputs = tuple(d for d in step.inputs if d >= first or record.states[d] != SUCCEEDED)
            graph, like = plan.graph(first, last), plan.earlier_like(first, last)
            if like is None:
                session.extend(record, graph, now)
            else:
                session.extend_like(record, like, tuple(graph.ids), tuple(graph.calls), tuple(graph.inputs), now)

        client.call(extend)

    def _close_when_done(self, client: SimClient, plan: RunPlan, record: RunRecord) -> None:
        if client.is_dead or record.is_finished:
            return
        if len(record.states) == len(plan.steps) and min(record.states, default=SUCCEEDED) >= SUCCEEDED:
            self._close(client, record)
        else:
            self.timeline.after(0.5, self._close_when_done, client, plan, record)

    def _close(self, client: SimClient, record: RunRecord) -> None:
        client.call(lambda session, now: None if record.is_finished else session.close_run(record))

    def _cancel(self, client: SimClient, record: RunRecord, is_urgent: bool) -> None:
        client.call(lambda session, now: session.cancel(record, "as planned", is_urgent=is_urgent))

    def _cancel_call(self, client: SimClient, record: RunRecord, step: int) -> None:
        """As a future does, which is there as soon as its call was sent."""
        client.call(lambda session, now: session.cancel_call(record, step) if step < len(record.states) else None)

    def _attach(self, plan: RunPlan, record: RunRecord) -> None:
        client = self.random.choice(self.clients)
        if not record.run_id or client.is_dead or record.number in client.session.records:
            return
        asked: list[int] = []
        client.call(lambda session, now: asked.append(session.ask(lambda number: m.Attach(number, record.run_id))))
        self.timeline.after(0.05, self._look_for_answer, client, plan, asked)

    def _look_for_answer(self, client: SimClient, plan: RunPlan, asked: list[int]) -> None:
        if client.is_dead or client.session.error is not None:
            return
        answer = client.session.answers.pop(asked[0], None) if asked else None
        if answer is None:
            self.timeline.after(0.3, self._look_for_answer, client, plan, asked)
        elif isinstance(answer, m.Attached):
            self.records.append((client, plan, client.session.attached.pop(answer.request)))

    # -- what goes wrong -------------------------------------------------------------------------------------------

    def _schedule_faults(self) -> None:
        climate, random, timeline = self.climate, self.random, self.timeline
        self.network.weather = climate.weather
        timeline.at(START_S + FAULTS_S, self._clear_up)
        for count, fault in (
            (climate.cuts, self._cut), (climate.crashes, self._crash), (climate.pauses, self._pause),
            (climate.stalls, self._stall), (climate.drains, self._drain), (climate.vanishes, self._vanish),
            (climate.restarts, self._restart),
        ):  # fmt: skip
            for _ in range(count):
                timeline.at(START_S + random.uniform(0.02, random.choice((0.5, FAULTS_S))), fault)

    def _clear_up(self) -> None:
        self.network.weather = replace(self.climate.weather, loss=0.0, duplication=0.0)

    def _cut(self) -> None:
        if not self.network.peers:
            return
        seconds = self.random.uniform(0.001, self.random.choice((0.1, self.climate.cut_s)))
        peer = self.random.choice(self.network.peers)
        self._expect_trouble(seconds)
        self.note("network", "cut", (peer, seconds))
        self.network.cut(peer, seconds)

    def _crash(self) -> None:
        self._end_worker(lambda worker: worker.die())

    def _drain(self) -> None:
        self._end_worker(lambda worker: worker.drain())

    def _end_worker(self, end: Any) -> None:
        number = self.random.choice(sorted(self.workers))
        worker = self.workers[number]
        self.note(worker.name, "ends", None)
        end(worker)
        if worker.is_dead and worker.pid in self._watched and self.random.random() < 0.7:
            self.timeline.after(0.001, self.coordinator.receive, "died", worker.peer)
        self.timeline.after(self.random.uniform(0.05, 3.0), self._start_worker, number)

    def _expect_trouble(self, seconds: float) -> None:
        self.may_lose_cluster |= seconds > 6.0
        self._calm_at = max(self._calm_at, self.timeline.now + seconds + 2.0)

    def _pause(self) -> None:
        actor = self.random.choice([*self.workers.values(), *self.clients])
        seconds = self.random.uniform(0.5, self.climate.pause_s)
        self._calm_at = max(self._calm_at, self.timeline.now + seconds + 2.0)
        self.note(actor.name, "sleeps", seconds)
        actor.pause(seconds)

    def _stall(self) -> None:
        seconds = self.random.choice((0.5, 1.5, 4.0, 11.0))
        self._expect_trouble(seconds)
        self.note("coordinator", "sleeps", seconds)
        self.coordinator.pause(seconds)

    def _vanish(self) -> None:
        client = self.random.choice(self.clients)
        self.note(client.name, "vanishes", None)
        client.die()

    def _restart(self) -> None:
        self.may_lose_cluster = True
        self.note("coordinator", "is killed", None)
        self.coordinator.restart()

    # -- between the actors ----------------------------------------------------------------------------------------

    def may_fail_to_start(self, worker: SimWorker) -> bool:
        """Whether a new slot dies before it is ready; never so often that the worker gives up."""
        is_bad = bool(self.climate.crashes) and worker.core._failed_starts < 3
        return is_bad and self.timeline.now < START_S + FAULTS_S and self.random.random() < 0.1

    _watched: frozenset[int] = frozenset()

    def _start_worker(self, number: int) -> None:
        self._incarnation += 1
        slots = (self.random.choice((1, 1, 2, 4)), self.random.choice((1, 3)), self.random.choice((1, 8)))
        resources = {"gpu": self.random.randint(0, 2), "heavy_io": self.random.choice((1, 4))}
        if number == 0 or self.is_embedded:  # one worker can run everything; on a fixed cluster no other may come
            slots = (max(slots[0], 2), *slots[1:])
            resources = {"gpu": self.random.randint(1, 3), "heavy_io": 2, "licence": self.random.choice((2, 5))}
        worker = SimWorker(self, number, self._incarnation, slots, resources)
        self.workers[number] = self._worker_of_peer[worker.peer] = worker

    def to_coordinator(self, peer: bytes, frame: bytes) -> None:
        self.coordinator.receive("frame", peer, frame)

    def watch(self, peer: bytes, pid: int) -> None:
        """The coordinator watches a process on its host."""
        if self._worker_of_peer[peer].is_dead:
            self.coordinator.receive("died", peer)
        else:
            self._watched |= {pid}

    def on_odd_frame(self, name: str, error: ProtocolError) -> None:
        """Only where pieces get lost may a frame be odd."""
        require(self.climate.piece_bytes, name, "got an odd frame:", error)

    def note(self, who: str, what: str, detail: Any) -> None:
        entry = (self.timeline.now, who, what, detail)
        self.story.append(entry)
        if self._digest is not None:
            self._digest.update(repr(entry).encode())

    # -- the run of the world --------------------------------------------------------------------------------------

    def run(self, patch: pytest.MonkeyPatch) -> World:
        """Runs until everything has ended, and checks what is left.

        Raises:
            Violation: Something is not as it must be; the message has the seed and the end of the story.
        """
        if self.climate.piece_bytes:
            patch.setattr(wire, "PIECE_BYTES", self.climate.piece_bytes)
        if self.seed % 3 == 0:
            patch.setattr(feed, "WINDOW_BYTES", 3_000)
            patch.setattr(feed, "FACTS_PER_MESSAGE", 3)
        try:
            self._run()
        except Exception as error:
            tail = "\n".join(f"{at - START_S:10.6f} {who:12} {what} {detail}" for at, who, what, detail in self.story)
            raise Violation(f"seed {self.seed}: {type(error).__name__}: {error}\n{self.describe()}\n{tail}") from error
        return self

    def digest(self, patch: pytest.MonkeyPatch) -> str:
        """A hash of all that happens in this world."""
        self._digest = blake2b(digest_size=16)
        self.run(patch)
        return str(self._digest.hexdigest())

    def _run(self) -> None:
        timeline, end = self.timeline, START_S + HORIZON_S
        quiet_at = float("inf")
        checked = 0
        while timeline.now < min(end, quiet_at) and timeline.step():
            checked += 1
            if checked % 50 == 0 and quiet_at == float("inf") and self._is_over():
                quiet_at = timeline.now + SETTLE_S
            require(checked < 10 * MOST_TURNS, "too much happens: something turns in circles")
        require(timeline.now < end, f"not over after {HORIZON_S:.0f} s")
        self._check_end()

    def _is_over(self) -> bool:
        if (self.timeline.now < self._calm_at and self.has_faults) or len(self.records) < len(self._plans):
            return False
        live = all(record.is_finished for client, _, record in self.records if not client.is_dead)
        return live and all(run.life.is_finished for run in self.coordinator.core.runs.values())

    def _check_end(self) -> None:
        core = self.coordinator.core
        invariants.check(core)
        for client, plan, record in self.records:
            if not client.is_dead:
                self.oracle.check_record(client.name, plan, record)
        for worker in self.workers.values():
            if not worker.is_dead:
                invariants.check_worker(worker.core)
                require(not worker.core.attempts, worker.name, "still holds", list(worker.core.attempts))
        left = [run.id for run in core.runs.values() if run.outer is not None or run.inner]
        require(not left, "not forgotten:", left)
        for known in core.workers.values():
            require(not known.attempts, known.name, "still has in its ledger", list(known.attempts))
        trouble = self.climate.trouble
        if not self.has_faults and not trouble.crash and not trouble.timeout:
            self.oracle.check_attempts()

    def describe(self) -> str:
        """What is not over, for the report of a failure."""
        lines = [f"climate {self.seed % len(CLIMATES)}: {self.climate}", f"embedded {self.is_embedded}"]
        for client, plan, record in self.records:
            states = " ".join(STATE_NAMES[state][:4] for state in record.states)
            lines.append(
                f"{client.name} plan {plan.number} run {record.run_id} finished {record.is_finished}: {states}"
            )
        for run in self.coordinator.core.runs.values():
            states = " ".join(STATE_NAMES[state][:4] for state in run.life.states)
            lines.append(f"coordinator run {run.id} status {run.life.status} open {run.life.is_open}: {states}")
        for worker in self.coordinator.core.workers.values():
            lines.append(f"ledger of {worker.name}: {dict.fromkeys(worker.attempts)} suspect {worker.is_suspect}")
        for sim in self.workers.values():
            lines.append(f"{sim.name} dead {sim.is_dead} holds {list(sim.core.attempts)} slots {list(sim.core.slots)}")
        return "\n".join(lines)
