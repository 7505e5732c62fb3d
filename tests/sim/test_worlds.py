"""Seeded worlds; see the package. A failure names its seed: `python -m sim SEED` tells the story again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from helpers import ROOT, SOURCE_ROOTS
from sim.climate import CLIMATES
from sim.sights import sights
from sim.world import World

#: How many worlds the suite runs; PFW_SIM_SEEDS runs more.
SEEDS = int(os.environ.get("PFW_SIM_SEEDS", "300"))
BATCH = 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_every_run_of_every_world_ends_as_it_should(first: int) -> None:
    for seed in range(first, first + BATCH):
        with pytest.MonkeyPatch.context() as patch:
            World(seed).run(patch)


@pytest.mark.parametrize("seed", range(len(CLIMATES)))
def test_the_same_seed_tells_the_same_story(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert World(seed).digest(monkeypatch) == World(seed).digest(monkeypatch)


def test_the_story_does_not_depend_on_how_strings_are_hashed() -> None:
    path = os.pathsep.join(map(str, [*SOURCE_ROOTS, ROOT / "tests"]))
    digests = {
        subprocess.run(
            [sys.executable, "-m", "sim", "6"],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_worlds_do_what_they_are_for() -> None:
    """Every kind of fault and of outcome comes up in the first seeds: where nothing fails nothing is found."""
    seen: set[str] = set()
    for seed in range(8 * len(CLIMATES)):
        with pytest.MonkeyPatch.context() as patch:
            seen |= sights(World(seed, tail=None).run(patch))
    expected = {
        "SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED", "run SUCCEEDED", "run FAILED", "run CANCELLED", "begun again",
        "TIMED_OUT", "run TIMED_OUT", "timed out", "expanded",
        "retried", "stopped", "kills", "crashed", "handed back", "sent again", "rewound", "GiveBack", "CancelsAsked",
        "Attached", "Refused", "Rejected", "Notes", "Leaving", "Forget", "Extend", "CloseRun", "cut", "vanishes",
        "takes more", "sent along", "CancelCalls", "inner SUCCEEDED", "inner FAILED", "inner CANCELLED",
    }  # fmt: skip
    assert not expected - seen
