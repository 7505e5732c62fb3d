"""Which kinds of faults there are in a world, and how much of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.network import CALM, Weather
from sim.plan import NO_TROUBLE, Trouble


@dataclass(frozen=True, slots=True)
class Climate:
    """Which kinds of faults a world has."""

    trouble: Trouble = NO_TROUBLE
    weather: Weather = CALM
    #: Numbers of faults, each at a random time.
    cuts: int = 0
    crashes: int = 0
    pauses: int = 0
    stalls: int = 0
    drains: int = 0
    vanishes: int = 0
    restarts: int = 0
    #: Longest cut and pause, s.
    cut_s: float = 1.0
    pause_s: float = 5.0
    piece_bytes: int = 0


_PLANNED = Trouble(failure=0.12, crash=0.06, cancel=0.3, timeout=0.3)
_STOPPED = Trouble(failure=0.1, crash=0.05, cancel=0.9, timeout=0.5)
_BAD = Weather(0.03, 0.03, 0.3, (0.0001, 0.001, 0.03))
_SLOW = Weather(0.0, 0.0, 0.5, (0.0001, 0.01, 0.2))

#: Drawn in turn: seed modulo their number.
CLIMATES = (
    Climate(),
    Climate(trouble=Trouble(failure=0.2, cancel=0.3), weather=replace(_SLOW, publisher_loss=0.0)),
    Climate(trouble=_PLANNED, weather=_SLOW),
    Climate(trouble=_PLANNED, weather=_BAD),
    Climate(weather=_BAD, cuts=3),
    Climate(trouble=_PLANNED, crashes=3, stalls=1),
    Climate(trouble=_PLANNED, weather=_BAD, cuts=2, crashes=1, pauses=2, drains=1, cut_s=4.0),
    Climate(trouble=_PLANNED, cuts=3, pauses=2, cut_s=14.0, pause_s=14.0),
    Climate(trouble=_PLANNED, weather=_BAD, vanishes=1, stalls=2, pauses=1, pause_s=40.0),
    Climate(trouble=_PLANNED, weather=_BAD, restarts=1, cuts=1, piece_bytes=500),
    Climate(trouble=_STOPPED, weather=_SLOW, crashes=1, cuts=1),
    Climate(
        trouble=_PLANNED, weather=_BAD, cuts=4, crashes=2, pauses=2, stalls=1, drains=1, vanishes=1, restarts=1,
        cut_s=14.0,
    ),
)  # fmt: skip
