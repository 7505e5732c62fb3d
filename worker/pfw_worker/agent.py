"""The worker's shell: sockets, slot processes and clocks around the pure core. It runs no user code, unpickles nothing.

One turn: receive all that is there, hand it to the core, drain once, do what the outbox says, sleep until something
arrives or `wake_at`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from pfw import host
from pfw import messages as m
from pfw.columns import are_outcomes
from pfw.errors import ClusterError, ConfigError, ProtocolError
from pfw.folders import remove_folder
from pfw.graph import LANE_ASYNC, LANE_CPU
from pfw.patience import Patience
from pfw.wire import Assembler, encode
from pfw_worker.channel import are_notes
from pfw_worker.core import Core, Outbox
from pfw_worker.output import Outputs

if TYPE_CHECKING:
    import psutil
    import zmq

    from pfw_worker.spawner import SlotHandle, Spawner

logger = logging.getLogger(__name__)

#: A worker without a coordinator says so this often.
WARN_EVERY_S = 60.0
#: A turn comes at least so often.
MAX_SLEEP_S = 1.0


class _Ear:
    """A ZeroMQ socket that is listened to, and what is needed for that."""

    __slots__ = ("assembler", "fd", "is_touched", "socket")

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        from pfw import sockets

        self.socket = socket
        self.assembler = Assembler()
        self.fd = sockets.descriptor(socket)
        #: The socket was used since it was last asked whether something has come.
        self.is_touched = True


class Agent:
    """One worker daemon."""

    def __init__(
        self, address: str, registration: m.Register, spawner: Spawner, *, parent_pid: int = 0, drain_s: float = 20.0
    ) -> None:
        """Makes one, not yet at work.

        Args:
            address: Of the coordinator.
            registration: What this worker offers.
            spawner: Started before ZeroMQ was imported.
            parent_pid: The client this worker belongs to (0: to nobody): it ends at once when that process has ended.
            drain_s: How long running steps may go on after SIGTERM.
        """
        import zmq

        from pfw import sockets

        self._sockets, self._spawner = sockets, spawner
        self._address, self._pub = address, ""
        self._warn_at = time.monotonic() + 5.0
        self._drain_s, self._is_embedded = drain_s, bool(parent_pid)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = sockets.make_dealer(self._context, address, os.urandom(8))
        self._ears, self._core = [_Ear(self._dealer)], Core(registration, time.monotonic())
        self._slots: dict[int, SlotHandle] = {}
        self._number_of_pid, self._slot_of_fd = dict[int, int](), dict[int, int]()
        self._outputs, self._oddities = Outputs(), 0
        self._memory_fd = host.open_memory(os.getpid())
        self._stop_at: float | None = None
        self._stats_at = self._wake_at = self._cpu_seconds = 0.0
        self._processes: dict[int, psutil.Process] = {}
        self._poller = select.epoll()
        self._patience = Patience(self._poller)
        self._poller.register(self._ears[0].fd, select.EPOLLIN)
        self._poller.register(spawner.fileno(), select.EPOLLIN)
        self._parent_fd = self._watch_parent(parent_pid)
        self._signal_fd = self._watch_signals()

    def run(self) -> int:
        """Turns until the worker has drained or is not wanted; returns the exit code."""
        gc.freeze()
        gc.set_threshold(200_000, 20, 100)
        try:
            while (code := self._turn()) is None:
                pass
            return code
        finally:
            self._spawner.close()
            self._context.destroy(linger=200 if self._stop_at is not None else 0)

    def _watch_parent(self, pid: int) -> int:
        if not pid:
            return -1
        fd = host.pidfd_open(pid)
        if os.getppid() != pid:
            raise ConfigError(f"process {pid} is not the parent of this worker")
        self._poller.register(fd, select.EPOLLIN)
        return fd

    def _watch_signals(self) -> int:
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN if self._is_embedded else lambda *_: None)
        self._signal_ends = (reader, writer)
        self._poller.register(reader.fileno(), select.EPOLLIN)
        return reader.fileno()

    # -- one turn --------------------------------------------------------------------------------------------------

    def _turn(self) -> int | None:
        core = self._core
        has_free_core = len(core.attempts) < core.limits[LANE_CPU]
        ready = self._patience.wait(self._sleep_s(), may_stay_awake=self._is_embedded and has_free_core)
        now = time.monotonic()
        fds = [fd for fd, _ in ready]
        if self._parent_fd in fds or (self._signal_fd in fds and self._on_signal(now)):
            return 0
        for fd in fds:
            if fd in self._slot_of_fd:
                self._read_slot(self._slot_of_fd[fd], now)
        for ear in self._ears:
            if ear.is_touched or ear.fd in fds:
                self._receive(ear, now)
        if self._spawner.fileno() in fds or self._spawner.has_ended_slots:
            self._reap(now)
        self._look(now)
        if now >= self._stats_at:
            self._measure(now)
        core.on_time(now)
        box = core.drain(now)
        self._wake_at = box.wake_at
        self._perform(box)
        return self._review(now)

    def _look(self, now: float) -> None:
        """At what the slots print and execute."""
        is_due = self._core.is_look_due(now)
        if is_due or now >= self._outputs.due:
            for attempt, text in self._outputs.read(self._slots.values(), now):
                self._core.on_printed(attempt, text, now)
        if is_due:
            for slot in self._slots.values():
                self._core.on_progress(slot.page.progress(), now)
            self._core.on_look({number: slot.page.executing() for number, slot in self._slots.items()}, now)
            held = {number: host.private_bytes(slot.memory_fd) for number, slot in self._slots.items()}
            self._core.on_memory(held, host.private_bytes(self._memory_fd), now)

    def _review(self, now: float) -> int | None:
        """Whether the worker is to end: the exit code, or None."""
        if not self._core.number and now > self._warn_at:
            logger.warning("no coordinator answers at %s; still trying", self._address)
            self._warn_at = now + WARN_EVERY_S
        if self._core.refusal:
            logger.error("the coordinator refuses this worker: %s", self._core.refusal)
            return 3
        return self._end_of_drain(now)

    def _sleep_s(self) -> float:
        # A socket's descriptor tells of a change once: what came while we used the socket is found by asking.
        for ear in self._ears:
            if ear.is_touched:
                ear.is_touched = self._sockets.has_input(ear.socket)
                if ear.is_touched:
                    return 0.0
        due = 0.0 if self._spawner.has_ended_slots else min(self._wake_at, self._outputs.due)
        return max(0.0, min(MAX_SLEEP_S, due - time.monotonic()))

    def _receive(self, ear: _Ear, now: float) -> None:
        frames = self._sockets.receive(ear.socket)
        ear.is_touched = len(frames) == self._sockets.FRAMES_PER_TURN  # else it has asked, and there was no more
        for parts in frames:
            try:
                if len(parts) != 1:
                    raise ProtocolError(f"{len(parts)} parts")
                for message in ear.assembler.feed(parts[0]):
                    self._deliver(message, now)
            except ProtocolError as error:
                self._oddities += 1
                if self._oddities == 1:
                    logger.warning("dropped a message that is none of ours (further ones are only counted): %s", error)

    def _deliver(self, message: m.Message, now: float) -> None:
        core = self._core
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
                self._subscribe(message.pub)
                logger.info("registered as worker %d", message.number)
            case m.Refused():
                core.on_refused(message, now)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not for a worker")

    def _subscribe(self, address: str) -> None:
        if self._pub == address:
            return
        if self._pub:  # the coordinator was started anew and publishes elsewhere
            ear = self._ears.pop()
            self._poller.unregister(ear.fd)
            ear.socket.close()
        self._pub = address
        self._ears.append(_Ear(self._sockets.make_subscriber(self._context, address)))
        self._poller.register(self._ears[1].fd, select.EPOLLIN)

    def _read_slot(self, number: int, now: float) -> None:
        slot = self._slots[number]
        try:
            for message in slot.channel.recv():
                self._hear(number, slot, message, now)
        except ProtocolError as error:  # its death is reported by the spawner, and blamed on the step that executes
            logger.warning("a step has written into its slot's socket, the slot is killed: %s", error)
            slot.kill()
            return
        if slot.channel.wants_write:
            slot.channel.flush()
            self._watch_slot(slot)

    def _hear(self, number: int, slot: SlotHandle, message: tuple[Any, ...], now: float) -> None:
        if not message:
            self._core.on_slot_ready(number, now)
        elif are_outcomes(message):
            self._core.on_slot_outcomes(number, message, now)
        elif not are_notes(message):
            raise ProtocolError("neither notes nor outcomes")
        else:
            for attempt, what in message:
                if type(what) is tuple:
                    self._core.on_progress((attempt, *what), now)
                else:
                    text = what if type(what) is bytes else slot.output.take_until(attempt, what, now)
                    self._core.on_printed(attempt, text, now)

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
                self._core.on_printed(executing, slot.output.take_rest(slot.page, now), now)
            last_output = slot.output.last(slot.page)
            slot.close()
            if number in self._core.slots:
                if not self._core.slots[number].is_ready:
                    logger.warning("a slot has ended before it was ready: %s", last_output or "it has printed nothing")
                ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                code = 0 if ended_by else os.WEXITSTATUS(status)
                self._core.on_slot_died(number, executing, start_us, ended_by, code, now, last_output, peak_bytes)
        if self._spawner.at_end:
            raise ClusterError("the process that starts slots has ended, was it killed?")

    # -- doing what the core decided -------------------------------------------------------------------------------

    def _perform(self, box: Outbox) -> None:
        for number, lane in box.starts:
            self._start(number, "async" if lane == LANE_ASYNC else "sync")
        self._write_pages(box)
        for number, message in box.to_slots:
            slot = self._slots[number]
            slot.channel.try_send(message)
            if slot.channel.wants_write:
                self._watch_slot(slot)
        self._end_steps(box)
        for number in box.recalls:
            messages = self._slots[number].channel.recall()
            if messages:
                self._core.on_recalled(number, messages, time.monotonic())
                self._wake_at = 0.0
        for run_id in box.clears:
            self._clear(run_id)
        for run_id in box.forgotten:
            with contextlib.suppress(OSError):  # something is in it: that stays as long as the worker
                (self._spawner.folder / run_id).rmdir()
        if box.messages:
            if not self._sockets.send(self._dealer, encode(box.messages)):
                self._core.on_unsent()
            self._ears[0].is_touched = True

    def _write_pages(self, box: Outbox) -> None:
        """What a slot has to know before it begins anything else."""
        for slot in self._slots.values() if box.has_new_numbers or box.cancelled else ():
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
            slot = self._spawner.spawn(kind, self._core.slots[number].outfit)  # type: ignore[arg-type]
        except OSError as error:  # no process or descriptor left on this machine: steps wait, nothing is lost
            logger.warning("a slot cannot be started: %s", error)
            self._core.on_start_refused(number, time.monotonic())
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
        elapsed = now - self._stats_at + m.HEARTBEAT_S if self._stats_at else 0.0
        percent = max(0.0, 100 * (cpu - self._cpu_seconds) / elapsed) if elapsed else 0.0
        self._cpu_seconds, self._stats_at = cpu, now + m.HEARTBEAT_S
        self._core.on_stats(rss, round(percent, 1), os.getloadavg()[0], now)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _on_signal(self, now: float) -> bool:
        """SIGTERM drains (the second one ends at once); True if the worker is to end now."""
        self._signal_ends[0].recv(4096)
        if self._is_embedded or self._stop_at is not None:
            return True
        logger.info("draining: steps that run have %.0f s", self._drain_s)
        self._stop_at = now + self._drain_s
        self._core.on_drain(now)
        return False

    def _end_of_drain(self, now: float) -> int | None:
        if self._stop_at is None or not (self._core.is_drained or now >= self._stop_at):
            return None
        self._sockets.send(self._dealer, encode([m.Leaving(1)]))
        logger.info("drained" if self._core.is_drained else "the drain took too long: what still runs goes elsewhere")
        return 0
