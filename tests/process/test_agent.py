"""The worker's shell, turned by hand."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from helpers import wait_until
from helpers.worker_rig import REGISTER
from pfw import host
from pfw_worker.agent import Agent
from pfw_worker.spawner import Spawner


@pytest.fixture
def agent() -> Iterator[Agent]:
    """One without a coordinator, with two slots."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    found = Agent("tcp://127.0.0.1:1", REGISTER._replace(cpu=2, io=0), Spawner.start())
    try:
        yield found
    finally:
        for slot in found._slots.values():
            slot.close()
        found._spawner.close()
        found._context.destroy(linger=0)
        signal.set_wakeup_fd(-1)
        for end in found._signal_ends:
            end.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_slot_that_ends_while_another_is_started_is_replaced_at_once(agent: Agent) -> None:
    def turn_until_ready() -> bool:
        agent._turn()
        return len(agent._slots) == 2 and all(slot.is_ready for slot in agent._core.slots.values())

    wait_until(turn_until_ready, what="two slots")
    doomed = min(agent._slots)
    agent._slots[doomed].kill()
    assert host.wait_readable(agent._spawner.fileno(), 20.0)
    agent._spawner.spawn("sync").close()  # as for a step that comes now
    agent._turn()
    assert doomed not in agent._slots
    assert len(agent._slots) == 2
