"""Runs one world and prints a hash of its story, or how it failed: `python -m sim SEED`."""

from __future__ import annotations

import sys

import pytest

from sim.world import World

with pytest.MonkeyPatch.context() as patch:
    print(World(int(sys.argv[1])).digest(patch))
