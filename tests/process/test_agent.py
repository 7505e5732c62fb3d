"""The worker's shell, turned by hand."""

from __future__ import annotations

import time
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
    found = Agent(REGISTER._replace(cpu=2, io=0), Spawner.start())
    try:
        yield found
    finally:
        found.close()


def test_a_slot_that_ends_while_another_is_started_is_replaced_at_once(agent: Agent) -> None:
    def turn_until_ready() -> bool:
        agent.turn(time.monotonic())
        return len(agent._slots) == 2 and all(slot.is_ready for slot in agent.core.slots.values())

    wait_until(turn_until_ready, what="two slots")
    doomed = min(agent._slots)
    agent._slots[doomed].kill()
    assert host.wait_readable(agent._spawner.fileno(), 20.0)
    agent._spawner.spawn("sync").close()  # as for a step that comes now
    agent.turn(time.monotonic())
    assert doomed not in agent._slots
    assert len(agent._slots) == 2
