"""What steps have from outside: of the Config of their run, and of the workflow that they belong to. Plain records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pfw.retry import Retry


class StepDefaults(NamedTuple):
    """What steps get that do not set an option; the Config of a run says it."""

    retry: Retry = Retry(retries=0)
    #: Time between the request to stop and the end by force, s.
    grace: float = 2.0
    #: Longest run time of an attempt, s; None: no limit.
    timeout: float | None = None


STEP_DEFAULTS = StepDefaults()


class Inherited(NamedTuple):
    """What steps have of their workflow and its run, and a workflow that one of them returns in its turn."""

    params: Mapping[str, Any]
    #: For options that steps do not set.
    defaults: StepDefaults
