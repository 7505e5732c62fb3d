"""The functions of all runs: each pickle once for the whole cluster, by number, and how long it takes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b


class Catalogue:
    """Pickled functions by number. The same bytes have the same number in every run."""

    __slots__ = ("_number_of", "estimates_us", "pickles", "users")

    def __init__(self) -> None:
        self._number_of: dict[bytes, int] = {}
        #: By number: the pickle (empty while nobody uses it), how many runs use it, expected µs (0: not known).
        self.pickles: list[bytes] = []
        self.users: list[int] = []
        self.estimates_us: list[float] = []

    def use(self, pickled: bytes) -> int:
        """The number of a function that a run is going to use."""
        digest = blake2b(pickled, digest_size=16).digest()
        number = self._number_of.get(digest)
        if number is None:
            number = self._number_of[digest] = len(self.pickles)
            self.pickles.append(pickled)
            self.users.append(0)
            self.estimates_us.append(0.0)
        self.users[number] += 1
        self.pickles[number] = pickled
        return number

    def learn(self, number: int, runs_us: Sequence[int]) -> None:
        """What steps of this function took, that have ended together.

        Their mean counts, the more of them the more: one that had to wait for its core must not make all seem long.
        """
        mean, known = sum(runs_us) / len(runs_us) + 1.0, self.estimates_us[number]
        self.estimates_us[number] = known + (mean - known) * len(runs_us) / (len(runs_us) + 3) if known else mean

    def stop_using(self, number: int) -> bool:
        """A run has ended; True if nobody uses the function any more. What is known of its duration stays."""
        self.users[number] -= 1
        if not self.users[number]:
            self.pickles[number] = b""
        return not self.users[number]
