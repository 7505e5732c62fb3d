"""What clients are told of runs: facts by position, paced, within a window, and again where they were lost. Pure."""

from __future__ import annotations

from collections.abc import Callable

from pfw import messages as m
from pfw.columns import PackedFacts
from pfw.messages import Message
from pfw.wire import BATCH_BYTES
from pfw_coordinator.ledger import Client, Run, Subscription

#: Facts go to a client at once, and then at most so often until the run ends: a chain would send one message a step.
FACTS_EVERY_S = 0.100
#: In a turn that is taken anyway they may go so much sooner.
SLACK_S = 0.020
#: Bytes of facts on their way to one client before it must confirm some.
WINDOW_BYTES = 8 << 20
#: How long facts may be on their way before they count as lost.
REWIND_S = 2.0
FACTS_PER_MESSAGE = 8_192


class Feed:
    """All subscriptions of a coordinator. Messages leave through the function it is given."""

    __slots__ = ("_epoch_s", "_send", "_unsent", "worker_names")

    def __init__(self, send: Callable[[bytes, Message], None], epoch_s: float) -> None:
        self._send = send
        self._epoch_s = epoch_s
        self._unsent: dict[Subscription, None] = {}
        #: Names of all workers there have been, by number.
        self.worker_names: dict[int, str] = {}

    def follow(self, client: Client, run: Run) -> None:
        """The client gets the run's facts, from the first one that is still there."""
        if run.number not in client.subscriptions:
            subscription = client.subscriptions[run.number] = Subscription(client, run)
            subscription.sent = subscription.cursor = run.life.facts.first
            run.subscriptions.append(subscription)
            self._unsent[subscription] = None

    def unfollow(self, client: Client, run: Run) -> None:
        """The client gets nothing more of the run."""
        subscription = client.subscriptions.pop(run.number, None)
        if subscription is not None:
            run.subscriptions.remove(subscription)
            self._unsent.pop(subscription, None)

    def touch(self, run: Run) -> None:
        """The run may have new facts."""
        end = run.life.facts.end
        for subscription in run.subscriptions:
            if subscription.sent < end:
                self._unsent[subscription] = None

    def confirm(self, subscription: Subscription, cursor: int, now: float) -> None:
        """The client has everything before `cursor`. What was sent long ago and is not there is sent again."""
        subscription.cursor = max(cursor, subscription.run.life.facts.first)
        subscription.sent = max(subscription.sent, subscription.cursor)
        while subscription.in_flight and subscription.in_flight[0][0] <= cursor:
            subscription.sent_bytes -= subscription.in_flight.popleft()[1]
        if now - subscription.marked_at >= REWIND_S + subscription.sent_bytes // m.BYTES_PER_S:
            if cursor < subscription.mark:
                subscription.sent = subscription.cursor
                subscription.in_flight.clear()
                subscription.sent_bytes = 0
                subscription.told = {0}
            subscription.mark, subscription.marked_at = subscription.sent, now
        self._unsent[subscription] = None

    def acknowledge(self, subscription: Subscription) -> None:
        """Tells the client how many steps of its open run are here."""
        self._send(subscription.client.peer, self._message(subscription, PackedFacts(b"", ())))

    def drain(self, now: float) -> float:
        """Sends clients what they have not got; returns when to look again."""
        wake_at = now + m.HEARTBEAT_S
        for subscription in list(self._unsent):
            due = subscription.last_sent_at + FACTS_EVERY_S
            life = subscription.run.life
            if now < due - SLACK_S and not life.is_finished and not life.is_open:
                wake_at = min(wake_at, due)
                continue
            while self._send_some(subscription, now):
                pass
            if subscription.sent_bytes < WINDOW_BYTES:
                del self._unsent[subscription]
        return wake_at

    def _send_some(self, subscription: Subscription, now: float) -> bool:
        """One message of facts; True if more may follow."""
        facts = subscription.run.life.facts
        if subscription.sent >= facts.end or subscription.sent_bytes >= WINDOW_BYTES:
            return False
        packed, size = facts.read(subscription.sent, FACTS_PER_MESSAGE, BATCH_BYTES)
        self._send(subscription.client.peer, self._message(subscription, packed))
        subscription.sent += len(packed)
        subscription.last_sent_at = now
        subscription.in_flight.append((subscription.sent, size))
        subscription.sent_bytes += size
        return subscription.sent < facts.end

    def _message(self, subscription: Subscription, facts: PackedFacts) -> m.Facts:
        run = subscription.run
        workers: tuple[tuple[int, str], ...] = ()
        if news := facts.workers() - subscription.told:
            workers = tuple([(number, self.worker_names[number]) for number in news])
            subscription.told |= news
        return m.Facts(
            run.number, subscription.sent, len(run.life.states), self._epoch_s, workers, facts.numbers, facts.payloads
        )
