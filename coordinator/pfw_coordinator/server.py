"""The coordinator's shell: sockets and clocks around the pure core.

One turn: receive all that is there, hand it to the core, drain once, send, sleep until something arrives or `wake_at`.
The worker of a client's own cluster lives in the same process: it has its turns here, and is handed its messages.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import zmq

from pfw import host, sockets
from pfw import messages as m
from pfw.errors import ConfigError, ProtocolError
from pfw.packets import FRAMES_PER_TURN, Packets
from pfw.patience import Patience
from pfw.version import __version__
from pfw.wire import Assembler, encode
from pfw_coordinator.core import Core, Outbox

logger = logging.getLogger(__name__)


#: So many peers that never introduced themselves are remembered.
STRANGERS = 1_000


class EmbeddedWorker(Protocol):
    """A worker in the coordinator's process."""

    #: When it is to act next, on the monotonic clock, if its descriptor does not become readable before.
    wake_at: float

    def fileno(self) -> int:
        """A descriptor that is readable when it has something to do."""

    def deliver(self, message: m.Message, now: float) -> None:
        """Hands it a message."""

    def hear(self, now: float) -> None:
        """Has it take what there is on its descriptor; `act` has to follow."""

    def tell(self, now: float) -> list[m.Message]:
        """What may be heard of it before `act`, which is due at once if that is anything."""

    def act(self, now: float) -> list[m.Message]:
        """Has it do what is to be done; returns what it says."""

    def close(self) -> None:
        """Ends it."""


class Owner(NamedTuple):
    """The client that a coordinator belongs to."""

    pid: int
    #: Between it and the coordinator.
    line: Packets


class Server:
    """One coordinator daemon."""

    def __init__(
        self, bind: str, pub: str, *, worker: EmbeddedWorker | None = None, owner: Owner | None = None
    ) -> None:
        """Makes one, not yet at work.

        Args:
            bind: Where clients and workers connect, tcp://HOST:PORT (port 0 or *: any free one) or ipc://PATH.
            pub: Where cancels are published, in the same form.
            worker: The one of a client's own cluster.
            owner: That client, the parent of this process, with which the coordinator ends.

        Raises:
            ConfigError: An address is in use or not one.
        """
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = sockets.make_router(self._context, bind)
        self._publisher = sockets.make_publisher(self._context, pub)
        self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        now = time.monotonic()
        self.core = Core(
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            version=__version__,
            pub=self._publisher.getsockopt_string(zmq.LAST_ENDPOINT),
            host=host.host_identity(),
            seed=os.urandom(32),
            epoch_s=time.time() - now,
            now=now,
            is_embedded=worker is not None,
        )
        self._assemblers: dict[bytes, Assembler] = {}
        self._oddities: dict[bytes, int] = {}
        self._peer_of_fd: dict[int, bytes] = {}
        self._wake_at = now
        self._poller = select.epoll()
        self._patience = Patience(self._poller)
        self._router_fd = sockets.descriptor(self._router)
        self._poller.register(self._router_fd, select.EPOLLIN)
        #: The router was used since it was last asked whether something has come.
        self._is_router_touched = True
        self._line, self._line_peer = (owner.line if owner else None), os.urandom(8)
        self._line_fd = self._register_line(self._line)
        #: The embedded worker, its name as a peer, and what it has still to be handed.
        self._worker, self._worker_peer, self._worker_mail = worker, os.urandom(8), list[m.Message]()
        self._worker_fd = -1 if worker is None else worker.fileno()
        if worker is not None:
            self._poller.register(self._worker_fd, select.EPOLLIN)
        self._parent_fd = self._watch_parent(owner.pid if owner else 0)
        self._signal_fd = self._watch_signals(is_embedded=worker is not None)
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[type, Callable[[bytes, Any, float], None]]:
        core = self.core
        return {
            m.Outcomes: core.on_outcomes,
            m.Heartbeat: core.on_heartbeat,
            m.Cursors: core.on_cursors,
            m.Submit: core.on_submit,
            m.Extend: core.on_extend,
            m.ExtendLike: core.on_extend_like,
            m.Notes: core.on_notes,
            m.Printed: core.on_printed,
            m.Progress: core.on_progress,
            m.Register: core.on_register,
            m.Hello: core.on_hello,
            m.CancelRun: core.on_cancel_run,
            m.CloseRun: core.on_close_run,
            m.CancelCalls: core.on_cancel_calls,
            m.Attach: core.on_attach,
            m.Query: core.on_query,
            m.CancelsAsked: core.on_cancels_asked,
            m.Leaving: core.on_leaving,
        }

    def run(self) -> int:
        """Turns until a signal or the end of the client it belongs to; returns the exit code."""
        # What a run leaves is freed by reference counts; looking for cycles among a million steps costs 0.3 µs a step.
        gc.freeze()
        gc.set_threshold(200_000, 20, 100)
        try:
            while self._turn():
                pass
            return 0
        finally:
            if self._worker is not None:
                self._worker.close()
            self._context.destroy(linger=0)

    def _watch_parent(self, pid: int) -> int:
        if not pid:
            return -1
        if os.getppid() != pid:
            raise ConfigError(f"process {pid} is not the parent of this coordinator, or has ended")
        fd = host.pidfd_open(pid)
        self._poller.register(fd, select.EPOLLIN)
        return fd

    def _watch_signals(self, *, is_embedded: bool) -> int:
        if is_embedded:  # Ctrl-C is for the client
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._signals = host.hear_signals([signal.SIGTERM] if is_embedded else [signal.SIGTERM, signal.SIGINT])
        self._poller.register(self._signals.fileno(), select.EPOLLIN)
        return self._signals.fileno()

    def _turn(self) -> bool:
        """One turn; False when the daemon is to end."""
        asked = self._ask_router() if self._is_router_touched else []
        ready = self._wait(0.0 if asked else 1.0)
        now = time.monotonic()
        is_worker_due = False
        said: list[list[bytes]] = []
        for fd, _ in ready:
            if fd == self._worker_fd:
                is_worker_due = True
            elif fd == self._line_fd:
                said = self._hear_owner()
            elif fd == self._router_fd:
                asked = asked or self._ask_router()
            elif not self._goes_on(fd, now):
                return False
        frames = asked + said
        for parts in frames:
            self._receive(parts, now)
        if self._worker is not None and (is_worker_due or now >= self._worker.wake_at):
            self._attend(self._worker, now)
        if len(frames) < FRAMES_PER_TURN:
            # A peer's deadline may pass only when nothing of it waits to be read.
            self.core.on_time(now)
        self._perform(self.core.drain(now))
        if self._worker is not None:
            self._pass_mail(self._worker, now)
        return True

    def _pass_mail(self, worker: EmbeddedWorker, now: float) -> None:
        """Hands the embedded worker what the core has for it, and has it do what it left for later."""
        if (self._worker_mail or worker.wake_at <= now) and self._let_act(worker, now):
            self._wake_at = 0.0
        if worker.wake_at < self._wake_at:
            self._wake_at = worker.wake_at

    def _wait(self, most_s: float) -> list[tuple[int, int]]:
        """What is ready, when something is or the next turn is due, after `most_s` at the latest."""
        # Compared by hand: `min` and `max` take 0.3 µs each.
        timeout_s = self._wake_at - time.monotonic()
        if timeout_s > most_s:
            timeout_s = most_s
        return self._patience.wait(timeout_s, may_stay_awake=self.core.is_embedded and self.core.has_free_core)

    def _goes_on(self, fd: int, now: float) -> bool:
        """Whether the daemon does, now that a process has ended or a signal has come."""
        if fd in self._peer_of_fd:
            self._on_process_end(fd, now)
        return fd not in (self._parent_fd, self._signal_fd)

    def _ask_router(self) -> list[list[bytes]]:
        # The socket's descriptor tells of a change once: what came while we used the socket is found by asking.
        frames = sockets.receive(self._router)
        self._is_router_touched = len(frames) == FRAMES_PER_TURN  # else it has said that there is no more
        return frames

    def _register_line(self, line: Packets | None) -> int:
        if line is None:
            return -1
        self._poller.register(line.fileno(), select.EPOLLIN)
        return line.fileno()

    def _hear_owner(self) -> list[list[bytes]]:
        """What the owner says; once it says nothing sensible, or has closed its end, nothing more is heard of it."""
        line = self._line
        assert line is not None
        try:
            found = [[self._line_peer, frame] for frame in line.receive_frames()]
        except ProtocolError as error:
            logger.warning("nothing more is heard of the client: %s", error)
            line.at_end, found = True, []
        if line.wants_write and line.flush():
            self._poller.modify(self._line_fd, select.EPOLLIN)
        if line.at_end:
            self._poller.unregister(self._line_fd)
            line.close()
            self._line, self._line_fd = None, -1
        return found

    def _tell_owner(self, frames: list[bytes]) -> None:
        line = self._line
        if line is not None:
            was_stuck = line.wants_write
            line.send_frames(frames)
            if line.wants_write is not was_stuck:
                self._poller.modify(self._line_fd, select.EPOLLIN | (0 if was_stuck else select.EPOLLOUT))

    def _attend(self, worker: EmbeddedWorker, now: float) -> None:
        """Hears the embedded worker. Who waits for an outcome hears of it before the worker sees to its slots."""
        worker.hear(now)
        if not self._handle(worker.tell(now), now):
            self._let_act(worker, now)

    def _let_act(self, worker: EmbeddedWorker, now: float) -> bool:
        """Has the embedded worker do what it has to; whether it has said something."""
        mail, self._worker_mail = self._worker_mail, []
        for message in mail:
            worker.deliver(message, now)
        return self._handle(worker.act(now), now)

    def _handle(self, said: list[m.Message], now: float) -> bool:
        for message in said:
            self._handlers[type(message)](self._worker_peer, message, now)
        return bool(said)

    def _receive(self, parts: list[bytes], now: float) -> None:
        peer = parts[0]
        try:
            if len(parts) != 2:
                raise ProtocolError(f"{len(parts) - 1} parts")
            assembler = self._assemblers.get(peer)
            if assembler is None:
                if len(self._assemblers) > STRANGERS + len(self.core.workers) + len(self.core.clients):
                    self._forget_strangers()
                assembler = self._assemblers[peer] = Assembler()
            for message in assembler.feed(parts[1]):
                handler = self._handlers.get(type(message))
                if handler is None:
                    raise ProtocolError(f"{type(message).__name__} is not for a coordinator")
                handler(peer, message, now)
        except ProtocolError as error:
            self._oddities[peer] = self._oddities.get(peer, 0) + 1
            self.core.oddities += 1
            if self._oddities[peer] == 1:
                logger.warning(
                    "dropped a message of peer %s (further ones of it are only counted): %s", peer.hex(), error
                )

    def _forget_strangers(self) -> None:
        """Drops what is kept of peers that have never introduced themselves."""
        known = self.core.workers.keys() | self.core.clients.keys()
        self._assemblers = {peer: found for peer, found in self._assemblers.items() if peer in known}
        self._oddities = {peer: count for peer, count in self._oddities.items() if peer in known}

    def _on_process_end(self, fd: int, now: float) -> None:
        peer = self._ignore(fd)
        logger.info("the process of worker %s has ended", peer.hex())
        self.core.on_peer_died(peer, now)

    def _ignore(self, fd: int) -> bytes:
        self._poller.unregister(fd)
        os.close(fd)
        return self._peer_of_fd.pop(fd)

    def _perform(self, box: Outbox) -> None:
        self._wake_at = box.wake_at
        for message in box.broadcasts:
            sockets.send(self._publisher, encode([message]))
            if self._worker is not None:
                self._worker_mail.append(message)
        for peer, messages in box.messages.items():
            if peer == self._worker_peer:
                self._worker_mail += messages
            elif peer == self._line_peer:
                self._tell_owner(encode(messages))
            else:
                sockets.send(self._router, encode(messages), peer)
                self._is_router_touched = True
        for peer, pid in box.watch:
            self._watch(peer, pid)
        for peer in box.gone:
            self._assemblers.pop(peer, None)
            self._oddities.pop(peer, None)
        if len(self._peer_of_fd) > len(self.core.workers):
            for fd in [fd for fd, peer in self._peer_of_fd.items() if peer not in self.core.workers]:
                self._ignore(fd)

    def _watch(self, peer: bytes, pid: int) -> None:
        if peer == self._worker_peer:  # it ends with us
            return
        try:
            fd = host.pidfd_open(pid)
        except ProcessLookupError:
            self.core.on_peer_died(peer, time.monotonic())
            self._wake_at = 0.0
            return
        except (OSError, OverflowError) as error:  # no process id, or no descriptor left: heartbeats have to do
            logger.warning("cannot watch process %d of worker %s: %s", pid, peer.hex(), error)
            return
        self._peer_of_fd[fd] = peer
        self._poller.register(fd, select.EPOLLIN)
