"""The client's session when a run is to end early."""

from __future__ import annotations

import pytest

from helpers.session_rig import ENDED, GRAPH, STARTED, SessionRig, fact, facts, submission
from pfw import messages as m
from pfw.facts import FACT_FINISHED, RUN_CANCELLED
from pfw.record import RunRecord
from pfw.session import REPEAT_S


@pytest.fixture
def rig() -> SessionRig:
    return SessionRig().join()


def test_a_cancel_is_repeated_until_the_run_has_ended(rig: SessionRig) -> None:
    record = rig.start()
    rig.session.cancel(record, "enough")
    cancel = m.CancelRun(1, "enough")
    assert rig.turn() == [cancel]
    assert cancel in rig.sleep(REPEAT_S * 1.6)
    rig.hear(facts(0, STARTED, fact(FACT_FINISHED, attempt=RUN_CANCELLED)))
    assert cancel not in rig.sleep(REPEAT_S * 2)


def test_a_cancel_may_become_urgent_and_stays_so(rig: SessionRig) -> None:
    record = rig.start()
    rig.session.cancel(record, "enough")
    rig.session.cancel(record, "enough", is_urgent=True)
    rig.session.cancel(record, "enough")
    assert rig.turn() == [m.CancelRun(1, "enough", urgent) for urgent in (0, 1, 1)]
    assert m.CancelRun(1, "enough", 1) in rig.sleep(REPEAT_S * 1.6)


def test_a_run_that_has_ended_is_not_cancelled(rig: SessionRig) -> None:
    record = rig.start()
    rig.hear(facts(0, STARTED, ENDED))
    rig.turn()
    rig.session.cancel(record, "too late")
    assert (record.cancel_reason, rig.turn()) == ("", [])


def test_a_cancel_before_the_run_is_accepted_follows_it(rig: SessionRig) -> None:
    record = RunRecord("name", "parallel", GRAPH, None)
    rig.session.submit(submission(), record)
    rig.session.cancel(record, "")
    assert rig.turn() == [submission()]
    rig.hear(m.Accepted(b"key", 3, "id"))
    assert rig.turn() == [m.CancelRun(3, "cancelled")]
