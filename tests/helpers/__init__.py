"""What tests share: `from helpers import wait_until, ROOT`."""

from __future__ import annotations

from helpers.places import INSTANCES, ROOT, SOURCE_ROOTS
from helpers.waiting import wait_until

__all__ = ["INSTANCES", "ROOT", "SOURCE_ROOTS", "wait_until"]
