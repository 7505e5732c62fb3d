"""The process `pfw-worker`: the line to the coordinator, signals, and the end, around the agent.

One turn: receive all that is there, let the agent do its turn, send what it says, sleep until something arrives or the
agent's next turn is due.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import time

import zmq

from pfw import host, sockets
from pfw import messages as m
from pfw.errors import ProtocolError
from pfw.packets import FRAMES_PER_TURN
from pfw.wire import Assembler, encode
from pfw_worker.agent import Agent

logger = logging.getLogger(__name__)

#: A worker without a coordinator says so this often.
WARN_EVERY_S = 60.0
#: A turn comes at least so often.
MAX_SLEEP_S = 1.0


class _Ear:
    """A ZeroMQ socket that is listened to, and what is needed for that."""

    __slots__ = ("assembler", "fd", "is_touched", "socket")

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.assembler = Assembler()
        self.fd = sockets.descriptor(socket)
        #: The socket was used since it was last asked whether something has come.
        self.is_touched = True


class Daemon:
    """One worker daemon."""

    def __init__(self, address: str, agent: Agent, *, drain_s: float = 20.0) -> None:
        """Makes one, not yet at work.

        Args:
            address: Of the coordinator.
            agent: The worker.
            drain_s: How long running steps may go on after SIGTERM.
        """
        self._agent = agent
        self._address, self._pub, self._number = address, "", 0
        self._warn_at = time.monotonic() + 5.0
        self._drain_s = drain_s
        self._stop_at: float | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = sockets.make_dealer(self._context, address, os.urandom(8))
        self._ears, self._oddities = [_Ear(self._dealer)], 0
        self._poller = select.epoll()
        self._poller.register(self._ears[0].fd, select.EPOLLIN)
        self._poller.register(agent.fileno(), select.EPOLLIN)
        self._signals = host.hear_signals([signal.SIGTERM, signal.SIGINT])
        self._poller.register(self._signals.fileno(), select.EPOLLIN)

    def run(self) -> int:
        """Turns until the worker has drained or is not wanted; returns the exit code."""
        gc.freeze()
        gc.set_threshold(200_000, 20, 100)
        try:
            while (code := self._turn()) is None:
                pass
            return code
        finally:
            self._agent.close()
            self._context.destroy(linger=200 if self._stop_at is not None else 0)

    # -- one turn --------------------------------------------------------------------------------------------------

    def _turn(self) -> int | None:
        fds = [fd for fd, _ in self._poller.poll(self._sleep_s())]
        now = time.monotonic()
        if self._signals.fileno() in fds and self._on_signal(now):
            return 0
        for ear in self._ears:
            if ear.is_touched or ear.fd in fds:
                self._receive(ear, now)
        messages = self._agent.turn(now)
        if messages:
            if not sockets.send(self._dealer, encode(messages)):
                self._agent.core.on_unsent()
            self._ears[0].is_touched = True
        return self._review(now)

    def _sleep_s(self) -> float:
        # A socket's descriptor tells of a change once: what came while we used the socket is found by asking.
        for ear in self._ears:
            if ear.is_touched:
                ear.is_touched = sockets.has_input(ear.socket)
                if ear.is_touched:
                    return 0.0
        return max(0.0, min(MAX_SLEEP_S, self._agent.wake_at - time.monotonic()))

    def _receive(self, ear: _Ear, now: float) -> None:
        frames = sockets.receive(ear.socket)
        ear.is_touched = len(frames) == FRAMES_PER_TURN  # else it has asked, and there was no more
        for parts in frames:
            try:
                if len(parts) != 1:
                    raise ProtocolError(f"{len(parts)} parts")
                for message in ear.assembler.feed(parts[0]):
                    self._agent.deliver(message, now)
            except ProtocolError as error:
                self._oddities += 1
                if self._oddities == 1:
                    logger.warning("dropped a message that is none of ours (further ones are only counted): %s", error)

    def _review(self, now: float) -> int | None:
        """What has changed between worker and coordinator; the exit code if the worker is to end, or None."""
        core = self._agent.core
        if core.number != self._number:
            self._number = core.number
            if core.number:
                logger.info("registered as worker %d", core.number)
        if core.pub != self._pub:
            self._subscribe(core.pub)
        if not core.number and now > self._warn_at:
            logger.warning("no coordinator answers at %s; still trying", self._address)
            self._warn_at = now + WARN_EVERY_S
        if core.refusal:
            logger.error("the coordinator refuses this worker: %s", core.refusal)
            return 3
        return self._end_of_drain(now)

    def _subscribe(self, address: str) -> None:
        if self._pub:  # the coordinator was started anew and publishes elsewhere
            ear = self._ears.pop()
            self._poller.unregister(ear.fd)
            ear.socket.close()
        self._pub = address
        self._ears.append(_Ear(sockets.make_subscriber(self._context, address)))
        self._poller.register(self._ears[1].fd, select.EPOLLIN)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _on_signal(self, now: float) -> bool:
        """SIGTERM drains (the second one ends at once); True if the worker is to end now."""
        self._signals.recv(4096)
        if self._stop_at is not None:
            return True
        logger.info("draining: steps that run have %.0f s", self._drain_s)
        self._stop_at = now + self._drain_s
        self._agent.core.on_drain(now)
        return False

    def _end_of_drain(self, now: float) -> int | None:
        core = self._agent.core
        if self._stop_at is None or not (core.is_drained or now >= self._stop_at):
            return None
        sockets.send(self._dealer, encode([m.Leaving(1)]))
        logger.info("drained" if core.is_drained else "the drain took too long: what still runs goes elsewhere")
        return 0
