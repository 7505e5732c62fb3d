"""What can be compared of two runs."""

from __future__ import annotations

from collections import Counter

from pfw import Run


def picture(found: Run) -> dict[str, object]:
    """All that the modes have in common."""
    return {
        "status": found.status,
        "states": found.states,
        "outputs": dict(found.outputs),
        "errors": {name: (type(error), str(error.__cause__)) for name, error in found.errors.items()},
        "events": Counter((event.type, event.step_id, event.attempt) for event in found.events()),
        "attempts": {name: known.attempts for name, known in found.metrics.steps.items()},
        "counts": (found.metrics.successful_steps, found.metrics.failed_steps, found.metrics.retries),
    }
