"""For the unit tests: every run that one has driven by hand is looked at afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers import invariants
from helpers.lives import LIVES


@pytest.fixture(autouse=True)
def _check_lives() -> Iterator[None]:
    LIVES.clear()
    yield
    for life in LIVES:
        invariants.check_life(life)
