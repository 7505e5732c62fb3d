"""For all tests: what a test starts with `python -m` finds this tree's sources, nobody's config, and heeds Ctrl-C."""

from __future__ import annotations

import os
import signal

from helpers import SOURCE_ROOTS

os.environ["PYTHONPATH"] = os.pathsep.join(
    [*map(str, SOURCE_ROOTS), *filter(None, [os.environ.get("PYTHONPATH")])],
)
for name in [
    name for name in os.environ if name.startswith("PFW_") and not name.startswith(("PFW_SIM_", "PFW_CHAOS_"))
]:
    del os.environ[name]

# What a shell starts in the background ignores SIGINT, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
