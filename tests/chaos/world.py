"""One world: real daemons and clients over loopback, hurt as the plan says, until all runs are over and all is gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future as Later
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from chaos import work
from chaos.plan import LONG_S, Harm, RunPlan, StepPlan, draw
from chaos.proxy import Proxy
from helpers.command import MARK
from helpers.daemons import READY_S, Daemon, Daemons
from helpers.places import ROOT
from helpers.waiting import wait_until
from pfw import CancelReceipt, Client, Run, start
from pfw.futures import Future
from pfw.host import is_alive, name_of

#: How long a world may take until all its runs are over, s, beside the time for which somebody is hurt.
LIMIT_S = 40.0
#: How often is looked whether somebody is to be hurt, s.
TURN_S = 0.002
#: A client whose link is hurt for longer has lost its coordinator, as it should.
MOST_FOR_CLIENTS_S = 5.0


@dataclass(eq=False)
class Worker:
    """One worker daemon, and what was done to it."""

    daemon: Daemon
    link: Proxy
    slots: tuple[int, int]
    #: What it held may be, or have been, executed elsewhere too.
    is_lost: bool = False
    #: Nobody may find it alive any more.
    is_over: bool = False


@dataclass
class World:
    """State of one world; `live` brings it to its end."""

    seed: int
    is_long: bool
    #: What was done, for people.
    story: list[str] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    journal: list[work.Line] = field(default_factory=list)
    runs: dict[int, Run] = field(default_factory=dict)
    calls: dict[int, list[Future]] = field(default_factory=dict)
    #: {run: its cancel, which gives the receipt and the time at which it was there}
    cancels: dict[int, Later[tuple[CancelReceipt, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = draw(self.seed, is_long=self.is_long)
        self.folder = Path(tempfile.mkdtemp(prefix="pfw-chaos-"))
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self.mark = uuid.uuid4().hex
        self.daemons = Daemons(self.folder)
        self._journal_file = (self.folder / work.JOURNAL).open("a+")
        self._unread = ""
        self._undos: list[tuple[float, Callable[[], object]]] = []
        self._links: list[Proxy] = []
        self._pool = ThreadPoolExecutor(4)
        self._started_at = time.monotonic()

    # -- life ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Starts the daemons, and submits all runs."""
        self.tell(f"seed {self.seed}{' long' * self.is_long}")
        self.daemons.start_coordinator(env=self._env())
        self._elsewhere_link = self._new_link()
        self._start_elsewhere()
        for slots in self.plan.workers:
            self._start_worker(slots)
        self.observer = Client(self.daemons.address, timeout=READY_S)
        self._own_link = self._new_link()
        self.client = Client(self._own_link.address, timeout=READY_S)
        for plan in self.plan.runs:
            if plan.kind == "calls":
                self.calls[plan.number] = self._call(plan)
            elif not plan.is_elsewhere:
                self.runs[plan.number] = start(
                    plan.build(self.folder), on=self.client, mode=plan.mode, keep="all", on_failure="continue"
                )

    def live(self) -> None:
        """Hurts who is to be hurt, until everything is over."""
        pending, pause = list(self.plan.harms), threading.Event()
        until = self._started_at + LIMIT_S + sum(harm.seconds for harm in pending)
        while not (self._are_over() and not self._undos):
            assert time.monotonic() < until, f"the runs do not end\n{self._tell_open()}"
            self.read_journal()
            for due in [undo for undo in self._undos if undo[0] <= time.monotonic()]:
                self._undos.remove(due)
                due[1]()
            self._cancel_what_holds()
            if pending and self.begun >= pending[0].after and not (pending[0].seconds > LONG_S and self._undos):
                self._hurt(pending.pop(0))
            pause.wait(TURN_S)
        self.read_journal()
        self.tell(f"all runs are over, {len(pending)} were not hurt any more")

    def lose_coordinator(self) -> None:
        """Lives until some attempts have begun, then kills the coordinator and starts another in its place."""
        after = Random(self.seed).randint(1, 30)
        wait_until(lambda: self._have_begun(after), 20.0, what=f"{after} begun", detail=self.tell_all)
        self.tell(f"the coordinator is killed (after {after})")
        self.daemons.coordinator.signal(signal.SIGKILL)
        self.daemons.coordinator.wait()
        self.observer.close()
        self.daemons.start_coordinator(bind=self.daemons.address, env=self._env())
        self.observer = Client(self.daemons.address, timeout=READY_S)

    def _have_begun(self, count: int) -> bool:
        self.read_journal()
        self._cancel_what_holds()
        return self.begun >= count

    @property
    def begun(self) -> int:
        """How many attempts of workflows have begun."""
        return sum(line.what == work.BEGUN and line.run not in self.calls for line in self.journal)

    def end(self) -> list[Daemon]:
        """Ends the daemons as a person would; returns them."""
        self.client.close()
        self.observer.close()
        daemons = [*(worker.daemon for worker in self.workers if not worker.is_over), self.daemons.coordinator]
        for daemon in daemons:
            daemon.stop()
        return daemons

    def close(self) -> None:
        """Whatever is left goes."""
        for link in self._links:
            link.close()
        self._pool.shutdown(cancel_futures=True, wait=False)
        self.daemons.close()
        self._journal_file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tell(self, text: str) -> None:
        """Writes the story on."""
        self.story.append(f"{time.monotonic() - self._started_at:7.3f} {text}")

    def tell_all(self) -> str:
        """The story, and the ends of all logs."""
        return "\n".join([*self.story, self.daemons.tails()])

    def _tell_open(self) -> str:
        """What has not ended, and where it is."""
        known = {
            "workers": self.observer.workers(), "runs": self.observer.runs(),
            "here": {number: run.explain() for number, run in self.runs.items() if not run.done()},
            "calls": {number: [future.done() for future in futures] for number, futures in self.calls.items()},
            "cancels": {number: cancel.done() for number, cancel in self.cancels.items()},
        }  # fmt: skip
        return "\n".join([f"{name}: {what}" for name, what in known.items()] + [self.tell_all()])

    # -- who takes part --------------------------------------------------------------------------------------------

    def _env(self, name: str = "") -> dict[str, str]:
        path = os.pathsep.join([self.daemons.env["PYTHONPATH"], str(ROOT / "tests")])
        return {MARK: self.mark, "TMPDIR": str(self.temporary), "PYTHONPATH": path, work.WORKER_VARIABLE: name}

    def _new_link(self) -> Proxy:
        self._links.append(Proxy(self.daemons.address))
        return self._links[-1]

    def _start_worker(self, slots: tuple[int, int]) -> None:
        name, link = f"w{len(self.workers)}", self._new_link()
        arguments = ["-m", "pfw_worker", link.address, "--cpu", str(slots[0]), "--io", str(slots[1]), "--name", name]
        daemon = self.daemons.spawn(name, arguments, env=self._env(name))
        self.workers.append(Worker(daemon, link, slots))

    def _start_elsewhere(self) -> None:
        """The client that is a process of its own."""
        arguments = [
            self._elsewhere_link.address,
            str(self.folder),
            str(self.seed),
            "long" if self.is_long else "short",
        ]
        self.elsewhere = self.daemons.spawn("client", ["-m", "chaos.client", *arguments], env=self._env())

    def _call(self, plan: RunPlan) -> list[Future]:
        futures: list[Future] = []
        for number, each in enumerate(plan.steps):
            inputs = [futures[needed] for needed in each.needs]
            futures.append(self.client.submit(work.call, str(self.folder), plan.number, number, *inputs))
        return futures

    def told_elsewhere(self, what: str) -> list[dict[str, str]]:
        """What the client that is a process of its own, each time, has written: "ids" or "ends" of its runs."""
        path = self.folder / what
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _are_over(self) -> bool:
        assert self.elsewhere.process.poll() in (None, 0), self.tell_all()
        return (
            self.elsewhere.process.poll() == 0
            and all(run.done() for run in self.runs.values())
            and all(future.done() for futures in self.calls.values() for future in futures)
            and all(cancel.done() for cancel in self.cancels.values())
        )

    def read_journal(self) -> None:
        self._unread += self._journal_file.read()
        *lines, self._unread = self._unread.split("\n")
        self.journal += map(work.read_line, lines)

    def _step_of(self, line: work.Line) -> StepPlan:
        """The step of a line; for one that has taken the place of another, that."""
        number = line.step.removeprefix("s").partition("/")[0]
        return self.plan.runs[line.run].steps[int(number)]

    def _cancel_what_holds(self) -> None:
        """Cancels each run that is to be cancelled as soon as it holds."""
        holding = {line.run for line in self.journal if self._step_of(line).does in ("obeys", "ignores")}
        for plan in self.plan.runs:
            if plan.kind == "is cancelled" and plan.number in holding and plan.number not in self.cancels:
                self.tell(f"run {plan.number} is cancelled")
                self.cancels[plan.number] = self._pool.submit(self._cancel, self.runs[plan.number])

    def _cancel(self, run: Run) -> tuple[CancelReceipt, float]:
        receipt = run.cancel("chaos", timeout=60.0)
        return receipt, time.monotonic()

    # -- harm ------------------------------------------------------------------------------------------------------

    def _hurt(self, harm: Harm) -> None:
        who = getattr(self, "_" + harm.kind.replace(" ", "_"))(harm)
        self.tell(f"{harm.kind}: {who} (after {harm.after}, for {harm.seconds:g} s)")

    def _undo(self, seconds: float, action: Callable[[], object]) -> None:
        self._undos.append((time.monotonic() + seconds, action))

    def _chosen_worker(self, harm: Harm) -> Worker:
        living = [worker for worker in self.workers if not worker.is_over]
        worker = living[int(harm.chance * len(living))]
        worker.is_lost = worker.is_lost or harm.is_loss
        return worker

    def _replace(self, worker: Worker) -> None:
        worker.is_over = worker.is_lost = True
        self._start_worker(worker.slots)

    def _kill_executing(self, harm: Harm, *, is_async: bool) -> str:
        """Kills a process in which an attempt has begun and is not through, if there is one."""
        through = {line.nonce for line in self.journal if line.what == work.THROUGH}
        found = [
            line for line in self.journal
            if line.nonce not in through and (self._step_of(line).lane == "async") == is_async
            and name_of(line.pid) == f"pfw-{line.pid}" and is_alive(line.pid)
        ]  # fmt: skip
        if not found:
            return "nobody"
        line = found[int(harm.chance * len(found))]
        os.kill(line.pid, signal.SIGKILL)
        return f"{line.pid} of {line.worker} in step {line.step} of run {line.run}"

    def _slot_killed(self, harm: Harm) -> str:
        return self._kill_executing(harm, is_async=False)

    def _async_process_killed(self, harm: Harm) -> str:
        return self._kill_executing(harm, is_async=True)

    def _spawner_killed(self, harm: Harm) -> str:
        worker = self._chosen_worker(harm)
        if not (spawner := self._spawner(worker)):
            return "nobody"
        os.kill(spawner[0], signal.SIGKILL)
        self._replace(worker)
        return worker.daemon.name

    def _worker_killed(self, harm: Harm) -> str:
        worker = self._chosen_worker(harm)
        worker.daemon.signal(signal.SIGKILL)
        self._replace(worker)
        return worker.daemon.name

    def _worker_and_spawner_killed(self, harm: Harm) -> str:
        """Both are stopped before, so that neither sees to anything."""
        worker = self._chosen_worker(harm)
        pids = [worker.daemon.pid, *self._spawner(worker)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                os.kill(pid, number)
        self._replace(worker)
        return worker.daemon.name

    def _spawner(self, worker: Worker) -> list[int]:
        """The one process, none yet in a worker that has just been started."""
        return [spawner.pid for guard in psutil.Process(worker.daemon.pid).children() for spawner in guard.children()]

    def _worker_drained(self, harm: Harm) -> str:
        worker = self._chosen_worker(harm)
        worker.daemon.signal(signal.SIGTERM)
        self._replace(worker)
        return worker.daemon.name

    def _worker_stopped(self, harm: Harm) -> str:
        worker = self._chosen_worker(harm)
        worker.daemon.signal(signal.SIGSTOP)
        self._undo(harm.seconds, lambda: worker.daemon.signal(signal.SIGCONT))
        return worker.daemon.name

    def _coordinator_stopped(self, harm: Harm) -> str:
        self.daemons.coordinator.signal(signal.SIGSTOP)
        self._undo(harm.seconds, lambda: self.daemons.coordinator.signal(signal.SIGCONT))
        return "it"

    def _client_killed(self, harm: Harm) -> str:
        if not self.elsewhere.is_alive():
            return "it had ended"
        self.elsewhere.process.kill()
        self.elsewhere.wait()
        self._start_elsewhere()
        return "another one goes on"

    def _chosen_link(self, harm: Harm) -> tuple[Proxy, str]:
        links = [(worker.link, worker.daemon.name) for worker in self.workers if not worker.is_over]
        if harm.seconds < MOST_FOR_CLIENTS_S:
            links += [(self._own_link, "the client here"), (self._elsewhere_link, "the client elsewhere")]
        link, name = links[int(harm.chance * len(links))]
        for worker in self.workers:
            worker.is_lost = worker.is_lost or (worker.link is link and harm.is_loss)
        return link, name

    def _link_cut(self, harm: Harm) -> str:
        link, name = self._chosen_link(harm)
        link.cut()
        return name

    def _hurt_link(self, harm: Harm, how: Callable[[Proxy], None]) -> str:
        link, name = self._chosen_link(harm)
        how(link)
        self._undo(harm.seconds, link.heal)
        return name

    def _link_frozen(self, harm: Harm) -> str:
        return self._hurt_link(harm, Proxy.freeze)

    def _link_shut(self, harm: Harm) -> str:
        return self._hurt_link(harm, Proxy.shut)

    def _link_slow(self, harm: Harm) -> str:
        return self._hurt_link(harm, lambda link: link.slow(0.05))


__all__ = ["Worker", "World"]
