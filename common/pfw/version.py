"""The version of pfw: of the distribution, the commands and what peers tell each other."""

from __future__ import annotations

__version__ = "0.1.0"
