"""For all tests: daemons that a test starts with `python -m` find the sources of this tree, and nobody's own config."""

from __future__ import annotations

import os

from helpers import SOURCE_ROOTS

os.environ["PYTHONPATH"] = os.pathsep.join(
    [*map(str, SOURCE_ROOTS), *filter(None, [os.environ.get("PYTHONPATH")])],
)
for name in [
    name for name in os.environ if name.startswith("PFW_") and not name.startswith(("PFW_SIM_", "PFW_CHAOS_"))
]:
    del os.environ[name]
