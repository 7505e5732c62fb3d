"""Seeded worlds of real daemons; see the package. A failure tells the story of its seed.

One short world runs with the suite, `scripts/test --chaos` runs PFW_CHAOS_SEEDS long ones, from PFW_CHAOS_FIRST on.
"""

from __future__ import annotations

import os

import pytest

from chaos.oracle import check_cluster, check_ends, check_lost, check_runs
from chaos.world import World

SEEDS = int(os.environ.get("PFW_CHAOS_SEEDS", "20"))
FIRST = int(os.environ.get("PFW_CHAOS_FIRST", "0"))


def live(seed: int, *, is_long: bool) -> None:
    world = World(seed, is_long=is_long)
    try:
        world.begin()
        world.live()
        check_runs(world)
        check_cluster(world)
        check_ends(world)
    finally:
        world.close()


def test_a_short_world_keeps_its_promises() -> None:
    live(0, is_long=False)


@pytest.mark.chaos
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + max(1, SEEDS // 4)))
def test_runs_that_are_lost_with_their_coordinator_say_so(seed: int) -> None:
    world = World(seed, is_long=False)
    try:
        world.begin()
        world.lose_coordinator()
        check_lost(world)
        check_ends(world)
    finally:
        world.close()


@pytest.mark.chaos
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_a_long_world_keeps_its_promises(seed: int) -> None:
    live(seed, is_long=True)
