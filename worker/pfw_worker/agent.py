"""The worker's shell: slot processes and clocks around the pure core. It runs no user code, unpickles nothing.

One turn: hand what is there to the core, drain once, do what the outbox says. Who holds the line to the coordinator
says when, and carries the messages: the daemon `pfw-worker`, or the coordinator itself if both are one process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

from pfw import host
from pfw import messages as m
from pfw.columns import unpack_outcomes
from pfw.errors import ClusterError, ProtocolError
from pfw.folders import remove_folder
from pfw.graph import LANE_ASYNC
from pfw_worker.channel import are_notes
from pfw_worker.core import Core, Outbox
from pfw_worker.output import Outputs

if TYPE_CHECKING:
    import psutil

    from pfw_worker.spawner import SlotHandle, Spawner

logger = logging.getLogger(__name__)


class Agent:
    """One worker: its core, its slots, and what the operating system has to say of them."""

    def __init__(self, registration: m.Register, spawner: Spawner, *, is_embedded: bool = False) -> None:
        """Makes one, not yet at work.

        Args:
            registration: What this worker offers.
            spawner: Started before ZeroMQ was imported.
            is_embedded: The process is a coordinator too, whose memory is not the steps'.
        """
        self._spawner = spawner
        self.core = Core(registration, time.monotonic())
        #: When the next turn is due, on the monotonic clock, if nothing becomes readable before.
        self.wake_at = 0.0
        self._slots: dict[int, SlotHandle] = {}
        self._number_of_pid, self._slot_of_fd = dict[int, int](), dict[int, int]()
        self._outputs = Outputs()
        self._memory_fd = -1 if is_embedded else host.open_memory(os.getpid())
        #: Not in the first moments: psutil takes a while to load, and somebody may wait for a first step.
        self._stats_at, self._measured_at = time.monotonic() + m.HEARTBEAT_S, 0.0
        self._cpu_seconds = 0.0
        self._processes: dict[int, psutil.Process] = {}
        self._poller = select.epoll()
        self._spawner_fd = spawner.fileno()
        self._poller.register(self._spawner_fd, select.EPOLLIN)

    def fileno(self) -> int:
        """A descriptor that is readable while a slot or the spawner has something to tell."""
        return self._poller.fileno()

    def close(self) -> None:
        """Ends all slots."""
        self._spawner.close()
        for slot in self._slots.values():
            slot.close()
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
        self._poller.close()

    # -- one turn --------------------------------------------------------------------------------------------------

    def deliver(self, message: m.Message, now: float) -> None:
        """Takes a message of the coordinator.

        Raises:
            ProtocolError: It is not one for workers.
        """
        core = self.core
        match message:
            case m.Assign():
                core.on_assign(message, now)
            case m.Reply():
                core.on_reply(message, now)
            case m.Cancels():
                core.on_cancels(message, now)
            case m.Forget():
                core.on_forget(message, now)
            case m.GiveBack():
                core.on_give_back(message, now)
            case m.Welcome():
                core.on_welcome(message, now)
            case m.Refused():
                core.on_refused(message, now)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not for a worker")

    def turn(self, now: float) -> list[m.Message]:
        """Hears all that there is and does what is to be done now; returns what the coordinator has to hear."""
        self.hear(now)
        return self.act(now)

    def hear(self, now: float) -> None:
        """Takes what slots and the spawner have to tell; `act` has to follow."""
        has_ended = self._spawner.has_ended_slots
        for fd, _ in self._poller.poll(0):
            number = self._slot_of_fd.get(fd)
            if number is not None:
                self._read_slot(number, now)
            else:
                has_ended = has_ended or fd == self._spawner_fd
        if has_ended:
            self._reap(now)

    def tell(self, now: float) -> list[m.Message]:
        """What the coordinator may hear before `act`, if anything."""
        messages = self.core.tell(now)
        if messages:
            self.wake_at = now
        return messages

    def act(self, now: float) -> list[m.Message]:
        """Does what is to be done now; returns what the coordinator has to hear."""
        self._look(now)
        if now >= self._stats_at:
            self._measure(now)
        self.core.on_time(now)
        box = self.core.drain(now)
        self.wake_at = box.wake_at
        self._perform(box)
        if self._spawner.has_ended_slots:
            self.wake_at = 0.0
        elif self._outputs.due < self.wake_at:
            self.wake_at = self._outputs.due
        return box.messages

    def _look(self, now: float) -> None:
        """At what the slots print and execute."""
        is_due = self.core.is_look_due(now)
        if is_due or now >= self._outputs.due:
            for attempt, text in self._outputs.read(self._slots.values(), now):
                self.core.on_printed(attempt, text, now)
        if is_due:
            for slot in self._slots.values():
                self.core.on_progress(slot.page.progress(), now)
            self.core.on_look({number: slot.page.executing() for number, slot in self._slots.items()}, now)
            held = {number: host.private_bytes(slot.memory_fd) for number, slot in self._slots.items()}
            self.core.on_memory(held, 0 if self._memory_fd < 0 else host.private_bytes(self._memory_fd), now)

    def _read_slot(self, number: int, now: float) -> None:
        slot = self._slots[number]
        channel = slot.channel
        try:
            for message in channel.recv():
                self._hear(number, slot, message, now)
        except ProtocolError as error:  # its death is reported by the spawner, and blamed on the step that executes
            logger.warning("a step has written into its slot's socket, the slot is killed: %s", error)
            slot.kill()
            return
        if channel.wants_write:
            channel.flush()
            self._watch_slot(slot)

    def _hear(self, number: int, slot: SlotHandle, message: tuple[Any, ...], now: float) -> None:
        if not message:
            self.core.on_slot_ready(number, now)
        elif (columns := unpack_outcomes(message)) is not None:
            self.core.on_slot_outcomes(number, columns, now)
        elif not are_notes(message):
            raise ProtocolError("neither notes nor outcomes")
        else:
            for attempt, what in message:
                if type(what) is tuple:
                    self.core.on_progress((attempt, *what), now)
                else:
                    text = what if type(what) is bytes else slot.output.take_until(attempt, what, now)
                    self.core.on_printed(attempt, text, now)

    def _reap(self, now: float) -> None:
        for pid, status, peak_bytes in self._spawner.poll():
            number = self._number_of_pid.pop(pid, None)
            if number is None:
                continue
            self._read_slot(number, now)
            slot = self._slots.pop(number)
            self._ignore(slot.channel.fileno())
            executing, start_us = slot.page.executing()
            if slot.kind == "sync":
                self.core.on_printed(executing, slot.output.take_rest(slot.page, now), now)
            last_output = slot.output.last(slot.page)
            slot.close()
            if number in self.core.slots:
                if not self.core.slots[number].is_ready:
                    logger.warning("a slot has ended before it was ready: %s", last_output or "it has printed nothing")
                ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                code = 0 if ended_by else os.WEXITSTATUS(status)
                self.core.on_slot_died(number, executing, start_us, ended_by, code, now, last_output, peak_bytes)
        if self._spawner.at_end:
            raise ClusterError("the process that starts slots has ended, was it killed?")

    # -- doing what the core decided -------------------------------------------------------------------------------

    def _perform(self, box: Outbox) -> None:
        for number, lane in box.starts:
            self._start(number, "async" if lane == LANE_ASYNC else "sync")
        if box.has_new_numbers or box.cancelled:
            self._write_pages(box)
        for number, message in box.to_slots:
            slot = self._slots[number]
            channel = slot.channel
            was_stuck = channel.wants_write
            channel.try_send(message)
            if channel.wants_write is not was_stuck:
                self._watch_slot(slot)
        if box.stops or box.kills or box.ends:
            self._end_steps(box)
        for number in box.recalls:
            messages = self._slots[number].channel.recall()
            if messages:
                self.core.on_recalled(number, messages, time.monotonic())
                self.wake_at = 0.0
        for run_id in box.clears:
            self._clear(run_id)
        for run_id in box.forgotten:
            with contextlib.suppress(OSError):  # something is in it: that stays as long as the worker
                (self._spawner.folder / run_id).rmdir()

    def _write_pages(self, box: Outbox) -> None:
        """What a slot has to know before it begins anything else."""
        for slot in self._slots.values():
            if box.has_new_numbers:
                slot.page.forget_runs()
            for run in box.cancelled:
                slot.page.cancel_run(run)

    def _end_steps(self, box: Outbox) -> None:
        for number, attempt, level in box.stops:
            self._slots[number].stop(attempt, level)
        for number in box.kills:
            if number in self._slots:
                self._slots[number].kill()
        for number in box.ends:
            self._ignore(self._slots[number].channel.fileno())
            self._slots[number].kill()

    def _clear(self, run_id: str) -> None:
        """Removes the temporary files of a run: from their place at once, and on a thread, for there may be many."""
        doomed = self._spawner.folder / f"{run_id}-gone"
        with contextlib.suppress(OSError):  # there is none: its steps were async, or none has begun
            (self._spawner.folder / run_id).rename(doomed)
            threading.Thread(target=remove_folder, args=(doomed,), daemon=True).start()

    def _start(self, number: int, kind: str) -> None:
        try:
            slot = self._spawner.spawn(kind, self.core.slots[number].outfit)  # type: ignore[arg-type]
        except OSError as error:  # no process or descriptor left on this machine: steps wait, nothing is lost
            logger.warning("a slot cannot be started: %s", error)
            self.core.on_start_refused(number, time.monotonic())
            return
        self._slots[number] = slot
        self._number_of_pid[slot.pid] = number
        self._slot_of_fd[slot.channel.fileno()] = number
        self._poller.register(slot.channel.fileno(), select.EPOLLIN)

    def _watch_slot(self, slot: SlotHandle) -> None:
        """Wakes for the slot's outcomes, and while something waits to be sent for room as well."""
        events = select.EPOLLIN | (select.EPOLLOUT if slot.channel.wants_write else 0)
        self._poller.modify(slot.channel.fileno(), events)

    def _ignore(self, fd: int) -> None:
        if self._slot_of_fd.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def _measure(self, now: float) -> None:
        """RSS and CPU of the supervisor and its slots together, load of the machine; once a heartbeat."""
        import psutil

        rss, cpu = 0, 0.0
        known, self._processes = self._processes, {}
        for pid in (os.getpid(), *self._number_of_pid):
            try:
                process = self._processes[pid] = known.get(pid) or psutil.Process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    rss += process.memory_info().rss
                    cpu += times.user + times.system
            except psutil.NoSuchProcess:
                continue
        percent = max(0.0, 100 * (cpu - self._cpu_seconds) / (now - self._measured_at)) if self._measured_at else 0.0
        self._cpu_seconds, self._measured_at, self._stats_at = cpu, now, now + m.HEARTBEAT_S
        self.core.on_stats(rss, round(percent, 1), os.getloadavg()[0], now)
