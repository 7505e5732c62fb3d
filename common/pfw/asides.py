"""Facts beside a run's history: what steps have printed, and what those that failed were called with; bounded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pfw.factlog import FactLog
from pfw.facts import Fact
from pfw.printed import LOG_BYTES, Window

#: Inputs of failed steps that a run's client is given, so that the calls can be made again there.
INPUTS_BYTES: Final = 16 << 20


class Asides:
    """What one run has of them."""

    __slots__ = ("_given", "_given_bytes", "_printed")

    def __init__(self) -> None:
        #: Positions of the facts that hold what was printed.
        self._printed: Window[int] = Window(LOG_BYTES)
        self._given: set[int] = set()
        self._given_bytes = 0

    def add_printed(self, fact: Fact, facts: FactLog) -> None:
        """Adds a fact of what was printed; the oldest ones that are too much lose their text.

        Args:
            fact: The new one.
            facts: Those of the run.
        """
        facts.append(fact)
        for position in self._printed.add(facts.end - 1, len(fact.payload)):
            if position >= facts.first:
                facts.blank(position)

    def choose_inputs(self, outputs: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
        """Returns (step, output) of those that are to be told now: all that were not told before, or none if too much.

        Args:
            outputs: {step: output} that a failed step was called with and the caller has not got.
        """
        chosen = [(step, output) for step, output in outputs.items() if step not in self._given]
        size = sum([len(output) for _, output in chosen])
        if self._given_bytes + size > INPUTS_BYTES:
            return []
        self._given_bytes += size
        self._given.update([step for step, _ in chosen])
        return chosen
