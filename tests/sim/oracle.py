"""What must be true of every world, watched from outside while it goes on."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pfw import outcome as oc
from pfw.absence import is_absence, unpack_absence
from pfw.facts import (
    ENDED_LOST,
    ENDED_NEVER_STARTED,
    ENDED_NOT_AGAIN,
    FACT_CANCELLED,
    FACT_EXPANDED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_INPUT,
    FACT_PRINTED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    RUN_CANCELLED,
    RUN_RUNNING,
    RUN_STATE_NAMES,
    RUN_SUCCEEDED,
    RUN_TIMED_OUT,
    STATE_NAMES,
    SUCCEEDED,
    unpack_end,
)
from pfw.failure import FAIL_CRASHED, FAIL_LOST, FAIL_TIMEOUT, Failure
from pfw.graph import LANE_ASYNC, Spec
from pfw.messages import FactRow
from pfw.record import RunRecord
from pfw_coordinator.inner import CALL
from sim.plan import may_time_out
from sim.slots import failure_of

if TYPE_CHECKING:
    from pfw.graph import Spec
    from pfw_coordinator.core import Core
    from pfw_coordinator.ledger import Run
    from sim.actors import SimWorker
    from sim.plan import RunPlan, StepPlan
    from sim.slots import Row, SimSlot
    from sim.world import World

_ENDS = frozenset({FACT_SUCCEEDED, FACT_FAILED, FACT_CANCELLED, FACT_SKIPPED, FACT_TIMED_OUT})

#: A step may run for so much longer than its timeout before that is noticed.
_NOTICED_S = 0.06
#: A run may go on for so much longer than its timeout: the longest grace of a step, and the way of the news.
_STOPPED_S = 3.0

#: Stands for the run itself where others stand for its steps.
_RUN = -1


class Violation(AssertionError):
    """Something happened that must not."""


def require(is_so: object, *what: object) -> None:
    """Raises Violation unless `is_so`."""
    if not is_so:
        raise Violation(" ".join(map(str, what)))


class Oracle:
    """Sees every step begin and end, every attempt that is handed out, and every fact that a client hears."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: {run id: run} of every coordinator there was.
        self.runs: dict[str, Run] = {}
        #: {(run id, step): how often it was begun}, and every output it returned.
        self.begun: Counter[tuple[str, int]] = Counter()
        self.outputs: dict[tuple[str, int], set[bytes]] = {}
        #: {(run id, step): how often an attempt of it printed}
        self.printed: Counter[tuple[str, int]] = Counter()
        #: {(run id, step): the output that its dependants got}
        self.given: dict[tuple[str, int], bytes] = {}
        #: {(worker, attempt): {step: its output, which the attempt got}}, and the same of each output.
        self._inputs_of: dict[tuple[str, int], dict[int, bytes | None]] = {}
        self._made_from: dict[tuple[str, bytes], dict[int, bytes | None]] = {}
        #: How many attempts were begun before what they get was committed.
        self.ahead = 0
        #: {record: {step: number of final facts}}, the run itself as _RUN.
        self.heard: dict[RunRecord, Counter[int]] = {}
        #: {record: when its run began, on the coordinator's clock}
        self._began: dict[RunRecord, float] = {}
        self._depths: dict[int, list[int]] = {}
        self._last_attempt: dict[Any, int] = {}
        #: {(run id, call): its step}, of all that was ever handed out.
        self._index_of: dict[tuple[str, bytes], int] = {}
        self._count = 0

    # -- at the coordinator ----------------------------------------------------------------------------------------

    def on_coordinator_turn(self, core: Core) -> None:
        """New attempts belong to runs that may still start something."""
        for run in core.runs.values():
            self.runs.setdefault(run.id, run)
        last = self._last_attempt.get(core, 0)
        newest = last
        for worker in core.workers.values():
            for number in reversed(worker.attempts):
                if number <= last:
                    break
                run, step = worker.attempts[number].run, worker.attempts[number].step
                self._index_of[run.id, run.life.graph.calls[step]] = step
                may = run.life.status == RUN_RUNNING or (run.life.spec(step).run_if and not run.is_cancel_sent)
                require(may, "run", run.id, "starts a step in status", run.life.status)
                require(run.life.counts(step), "run", run.id, "starts step", step, "again after its cancel")
                newest = max(newest, number)
        self._last_attempt = {core: newest}

    # -- in the slots ----------------------------------------------------------------------------------------------

    def on_begun(self, worker: SimWorker, slot: SimSlot, row: Row, before: bytes | None = None) -> None:
        """A slot begins a step; `before` is what the step before it in the same message returned."""
        _, number, run_id, _, function, _, call, inputs = row
        world, index = self._world, self._index_of[run_id, call]
        plan, step = world.plan_of(call), world.step_of(row)
        world.note(worker.name, "begins", (row[0], plan.number, index))
        require(run_id in self.runs, worker.name, "begins a step of a run without a name:", run_id)
        life = self.runs[run_id].life
        found, spec = plan.find(life.graph.ids[index])[0]
        require(found is step, "call and index differ")
        is_inner = "/" in life.graph.ids[index]
        needs = life.graph.inputs[index] if is_inner else step.inputs
        after = life.graph.after[index] if is_inner else step.after
        require(function in slot.functions, worker.name, "slot", slot.number, "has not got function", function)
        require(number not in worker.cancelled, worker.name, "begins a step of run", number, "after its cancel")
        require(len(inputs) == len(needs), "inputs of step", index, "are", inputs)
        ahead = [dependency for dependency, given in zip(needs, inputs, strict=True) if given is None]
        for dependency in {*needs, *after}.difference(ahead):
            state = life.states[dependency]
            may = state >= SUCCEEDED if spec.run_if else state == SUCCEEDED
            require(may, f"run {run_id} step {index} begins, but {dependency} is {STATE_NAMES[state]}")
        if plan.mode == "waves" and not is_inner:
            self._require_wave(plan, index, life.states)
        for dependency, given in zip(needs, inputs, strict=True):
            key = (run_id, dependency)
            if dependency in ahead:
                require(before in self.outputs.get(key, ()), f"step {index} gets {before!r}, no output of {dependency}")
                self.ahead += 1
                continue
            if life.states[dependency] != SUCCEEDED:
                require(unpack_absence(given).state == life.states[dependency], f"step {index} gets {given!r}")
                continue
            require(given in self.outputs.get(key, ()), f"step {index} gets {given!r}, no output of {dependency}")
            require(self.given.setdefault(key, given) == given, f"two outputs of step {dependency} are in use")
        require(spec.reruns or not self.begun[run_id, index], f"step {index} of {run_id} begins again")
        self._require_outfit(worker, slot, life.spec(index))
        self.begun[run_id, index] += 1
        self._inputs_of[worker.name, row[0]] = {
            dependency: before if given is None else given for dependency, given in zip(needs, inputs, strict=True)
        }

    def _require_outfit(self, worker: SimWorker, slot: SimSlot, spec: Spec) -> None:
        """A step with threads or GPUs of its own is in a slot that has them, every other one in a plain slot."""
        gpus = dict(spec.needs).get("gpu", 0)
        if slot.number in worker.core.slots:  # not one that was killed just now
            outfit = worker.core.slots[slot.number].outfit
            wanted = (spec.slots, gpus) if gpus or spec.slots > 1 else None
            found = outfit and (outfit.slots, len(outfit.gpus))
            require(found == wanted, f"a step that needs {wanted} begins in a slot with {found}")

    def _require_wave(self, plan: RunPlan, index: int, states: bytearray) -> None:
        depths = self._depths.get(plan.number)
        if depths is None:
            depths = self._depths[plan.number] = []
            for step in plan.steps:
                depths.append(1 + max((depths[other] for other in (*step.inputs, *step.after)), default=-1))
        early = [other for other, depth in enumerate(depths) if depth < depths[index] and states[other] < SUCCEEDED]
        require(not early, f"step {index} begins before its wave: {early} have not ended")

    def on_ended(self, worker: SimWorker, row: Row, code: int) -> bytes:
        """A slot has executed a step; returns the payload of the outcome."""
        plan, index = self._world.plan_of(row[6]), self._index_of[row[2], row[6]]
        if code == oc.EXPANDED:
            return plan.fragment(index)
        if code != oc.OK:
            return failure_of(code)
        self._count += 1
        size = self._world.step_of(row).output_bytes
        output = (b"out %d/%d #%d " % (plan.number, index, self._count)).ljust(size, b".")
        self.outputs.setdefault((row[2], index), set()).add(output)
        self._made_from[row[2], output] = self._inputs_of[worker.name, row[0]]
        _, _, place = row[6].partition(b"/")
        outer, _, inner = place.partition(b".")
        if inner and int(inner) == len(plan.steps[int(outer)].inner) - 1:
            self.outputs.setdefault((row[2].partition("-")[0], int(outer)), set()).add(output)
        return output

    def on_prints(self, row: Row) -> bytes:
        """An attempt prints; returns what."""
        index = self._index_of[row[2], row[6]]
        self.printed[row[2], index] += 1
        return _printed_by(row[2], index)

    # -- at the clients --------------------------------------------------------------------------------------------

    def on_facts(self, record: RunRecord, rows: tuple[FactRow, ...]) -> None:
        """A client hears what is new in a run."""
        heard = self.heard.setdefault(record, Counter())
        plan = self._world.plan_of_key(self.runs[record.run_id].key)
        for kind, step, at, _, _, queued_at, started_at, run_s, payload, _, _ in rows:
            require(queued_at <= at and started_at <= at, f"step {step} of {record.run_id} starts after its end")
            if kind == FACT_SUCCEEDED and not self._world.has_faults:
                require(started_at >= queued_at - 0.5, f"step {step} of {record.run_id} starts before it may")
            require(not heard[_RUN], record.run_id, "goes on after its end")
            if kind == FACT_INPUT and not is_absence(payload):
                require(payload in self.outputs[record.run_id, step], f"step {step} did not return {payload!r}")
            if kind == FACT_PRINTED:
                whose = (f"<{record.run_id}/{step}>", f"<{record.run_id}-{step}/")  # the step's own, or an inner one's
                require(payload.decode().startswith(whose), f"step {step} did not print {payload!r}")
            if kind in (FACT_RETRYING, FACT_FAILED, FACT_TIMED_OUT):
                self._check_blame(record, plan, kind, step, payload)
            if not self._world.has_faults:
                self._check_times(record, plan, kind, step, at, run_s)
            if kind in _ENDS or kind == FACT_FINISHED:
                whose = _RUN if kind == FACT_FINISHED else step
                heard[whose] += 1
                require(heard[whose] == 1, f"the end of step {whose} of {record.run_id} was announced twice")

    def _check_times(self, record: RunRecord, plan: RunPlan, kind: int, step: int, at: float, run_s: float) -> None:
        """Nothing goes on for longer than it may."""
        if kind == FACT_RUN_STARTED:
            self._began[record] = at
        elif kind == FACT_FINISHED and plan.timeout_s:
            lasted = at - self._began[record]
            require(lasted <= plan.timeout_s + _STOPPED_S, record.run_id, "ends after", lasted, "s")
        elif kind == FACT_SUCCEEDED and self._planned(record, plan, step)[0][1].timeout:
            longest = self._planned(record, plan, step)[0][1].timeout + _NOTICED_S
            require(run_s <= longest, f"step {step} of {record.run_id} has run for {run_s} s and succeeded")

    def _planned(self, record: RunRecord, plan: RunPlan, step: int) -> list[tuple[StepPlan, Spec]]:
        return plan.find(self.runs[record.run_id].life.graph.ids[step])

    def _check_blame(self, record: RunRecord, plan: RunPlan, kind: int, step: int, payload: bytes) -> None:
        """A crash is charged only to a step that crashes, a loss only where workers get lost."""
        code = Failure.unpack(payload).code
        known = self._planned(record, plan, step)
        planned = {code for planned, _ in known for code in planned.codes}
        if code == FAIL_TIMEOUT:
            require(
                any(may_time_out(*one) for one in known), f"step {step} of {record.run_id} has timed out, and was quick"
            )
        require(kind != FACT_TIMED_OUT or code == FAIL_TIMEOUT, f"step {step} of {record.run_id} has not timed out")
        if code == FAIL_CRASHED:
            # One that may not be begun again goes down with the process that it shares.
            may_share = any(spec.lane == LANE_ASYNC and not spec.reruns for _, spec in known)
            require(
                may_share or oc.CRASHED in planned,
                f"step {step} of {record.run_id} is blamed for a crash that was not its own",
            )
        elif code == FAIL_LOST:
            require(self._world.has_faults, "a worker was lost without a fault")

    # -- at the end ------------------------------------------------------------------------------------------------

    def check_record(self, name: str, plan: RunPlan, record: RunRecord) -> None:
        """What a client knows in the end is what the coordinator decided, told once."""
        where = f"{name}, run {record.run_id} (plan {plan.number})"
        if record.error is not None:
            require(self._world.may_lose_cluster, where, "has an error:", record.error)
            return
        run = self.runs[record.run_id]
        known = len(run.life.states)
        require(record.status == run.life.status, where, RUN_STATE_NAMES[record.status], "is not what was decided")
        require(record.states[:known] == run.life.states, where, "has other states than were decided")
        require(all(self.heard[record][step] == 1 for step in (_RUN, *range(known))), where, "did not hear of each end")
        is_told = not plan.is_open  # what stands in the place of a call is not
        grown = sum(
            len(plan.steps[fact.step].inner) for fact in run.life.facts if is_told and fact.kind == FACT_EXPANDED
        )
        require(record.status == RUN_CANCELLED or known == len(plan.steps) + grown, where, "has lost steps")
        require(record.status != RUN_TIMED_OUT or plan.timeout_s, where, "has timed out without a timeout")
        if plan.is_clean and not self._world.has_faults:
            require(record.status == RUN_SUCCEEDED, where, "is", RUN_STATE_NAMES[record.status])
        self._check_log(where, record)
        for step, output in record.outputs.items():
            key = (record.run_id, step)
            require(output in self.outputs[key], where, "has an output that step", step, "did not return")
            require(self.given.get(key, output) == output, where, "has another output of step", step)
            made_from = self._made_from.get((record.run_id, output), {})  # empty: in the place of a call
            for dependency, given in made_from.items():
                kept = record.outputs.get(dependency, given)
                require(kept == given, where, f"has an output of step {step} made from {given!r}, not from {kept!r}")
        self._check_kept(where, plan, record)
        self._check_ends(where, record)

    def _check_log(self, where: str, record: RunRecord) -> None:
        """What was printed is told once; with faults it may be lost, and never does it come twice."""
        for step in range(0 if record.is_open else len(record.states)):
            text = _printed_by(record.run_id, step).decode()
            printed, told = self.printed[record.run_id, step], record.log.text(step).count(text)
            require(told <= printed, where, f"step {step} printed {printed} times, told {told} times")
            if record.status == RUN_SUCCEEDED and not self._world.has_faults:
                require(told == printed, where, f"step {step} printed {printed} times, told {told} times")

    def _check_kept(self, where: str, plan: RunPlan, record: RunRecord) -> None:
        wanted = range(len(plan.steps)) if plan.keep_all or plan.is_open else plan.keep
        for step in wanted:
            if step < len(record.states) and record.states[step] == SUCCEEDED:
                require(step in record.outputs, where, "has not got the output of step", step)

    def _check_ends(self, where: str, record: RunRecord) -> None:
        """What is said of how cancelled steps ended is what has happened in the slots."""
        for row in record.rows:
            if row[0] == FACT_CANCELLED:
                how, after_ms, reason = unpack_end(row[8])
                begun = self.begun[record.run_id, row[1]]
                require(after_ms < 60_000 and reason in ("", record.cancel_reason), where, "has an odd end:", row)
                if how not in (ENDED_NEVER_STARTED, ENDED_NOT_AGAIN, ENDED_LOST):
                    require(begun, where, "step", row[1], "is said to have run and did not")
                elif how == ENDED_NEVER_STARTED:
                    require(not begun or self._world.has_faults, where, "step", row[1], "is said not to have run")

    def check_attempts(self) -> None:
        """Without faults a step is executed as often as its facts say: once, and once more for each retry."""
        for run in self.runs.values():
            own = range(len(run.life.attempts)) if run.outer is None else range(CALL + 1, len(run.life.attempts))
            for step, attempts in zip(own, run.life.attempts[own.start :], strict=True):
                begun = self.begun[run.id, step]
                if run.life.states[step] == SUCCEEDED:
                    require(begun == attempts, f"run {run.id} step {step}: {attempts} attempts, begun {begun} times")
                else:
                    require(begun <= attempts, f"run {run.id} step {step}: {attempts} attempts, begun {begun} times")


def _printed_by(run_id: str, step: int) -> bytes:
    return f"<{run_id}/{step}>".encode()
