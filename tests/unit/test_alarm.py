"""Deadlines by signal."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

import pytest

from helpers import wait_until
from pfw.alarm import RING_EVERY_S, alarm, can_alarm


class Rung(BaseException):
    """What an alarm raises here."""


def ring() -> None:
    raise Rung


def test_an_alarm_interrupts_what_waits() -> None:
    with pytest.raises(Rung), alarm(time.monotonic() + 0.01, ring):
        time.sleep(50)


def test_it_is_repeated_until_the_block_is_left() -> None:
    rings: list[float] = []
    with alarm(time.monotonic(), lambda: rings.append(time.monotonic())):
        wait_until(lambda: len(rings) >= 3, what="three rings")
    assert rings[2] - rings[0] >= 1.5 * RING_EVERY_S
    assert signal.getitimer(signal.ITIMER_REAL)[1] != RING_EVERY_S


def test_the_handler_and_the_timer_of_others_come_back() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.2, 7.0)
    try:
        with alarm(time.monotonic() + 30.0, ring):
            assert 29.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 30.0
        assert heard == []
        wait_until(lambda: heard, what="the others' alarm")
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 7.0
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_there_is_none_on_other_threads() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(can_alarm()))
    thread.start()
    thread.join()
    assert (can_alarm(), found) == (sys.gettrace() is None, [False])


def test_nothing_rings_once_a_debugger_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rings: list[Any] = []
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    assert not can_alarm()
    with alarm(time.monotonic(), lambda: rings.append(1)):
        wait_until(lambda: signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0), what="the alarm is off")
    assert rings == []
