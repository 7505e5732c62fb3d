"""What a supervisor takes from a slot, and what it does not."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from pfw_worker.channel import are_notes, are_outcomes

OUTCOME = (1, 0, 5, 6, b"x", 7, 8)


@pytest.mark.parametrize("message", [((1, 5),), ((1, b"text"), (2, (0.5, 0.0, "it"))), ((0, (0.0, 1e12, "")),)])
def test_notes(message: tuple[Any, ...]) -> None:
    assert are_notes(message)
    assert not are_outcomes(message)


@pytest.mark.parametrize(
    "what", ["text", None, (1.0, 2.0), (1, 2.0, "it"), (-1.0, 2.0, ""), (nan, 1.0, ""), (1.0, nan, ""), (inf, 1.0, ""),
             (1.0, 1.0, "x" * 201), (1.0, 1.0, b"it")],
)  # fmt: skip
def test_what_is_no_note(what: Any) -> None:
    assert not are_notes(((1, 5), (1, what)))
    assert not are_notes((("1", 5),))
    assert not are_notes(())


def test_outcomes() -> None:
    assert are_outcomes(())
    assert are_outcomes((OUTCOME, OUTCOME))
    for place in range(len(OUTCOME)):
        for bad in (None, -1, "x", 1.5):
            assert not are_outcomes((OUTCOME, (*OUTCOME[:place], bad, *OUTCOME[place + 1 :])))
    assert not are_outcomes((OUTCOME[:-1],))
