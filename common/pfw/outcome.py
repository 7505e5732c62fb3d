"""The codes with which an attempt can end, shared by slots, workers, the coordinator and sequential mode."""

from __future__ import annotations

from typing import Final

#: The step returned; the payload is its pickled output. Where nothing else is said, payloads of others are packed
#: `failure.Failure`s, or empty.
OK: Final = 0
#: The step raised, and its `Retry` says that another attempt would not help.
ERROR: Final = 1
#: The step raised, and its `Retry` says that another attempt may help.
RETRYABLE: Final = 2
#: The step ended with `StepInterrupt` after it had been asked to stop, by looking at its token.
STOPPED: Final = 3
#: The process that executed the step died (reported by the supervisor).
CRASHED: Final = 4
#: The step was not started: its run had been cancelled, or its slot died before it; the payload is empty.
NOT_STARTED: Final = 5
#: The step's timeout was over and it was told so (decided by the supervisor, whatever the slot returned).
TIMED_OUT: Final = 6
#: As STOPPED, after `StepInterrupt` was raised in it (reported by the supervisor); the payload is empty.
INTERRUPTED: Final = 7
#: The step was asked to stop and did not until its process was killed (reported by the supervisor).
KILLED: Final = 8
#: The step returned a Workflow; the payload is the packed fragment that takes the step's place.
EXPANDED: Final = 9
#: The process that executed the step was ended because it held too much memory (decided by the supervisor).
OVER_MEMORY: Final = 10
