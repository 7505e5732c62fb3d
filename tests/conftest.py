"""For all tests: daemons that a test starts with `python -m` find the sources of this tree."""

from __future__ import annotations

import os

from helpers import SOURCE_ROOTS

os.environ["PYTHONPATH"] = os.pathsep.join(
    [*map(str, SOURCE_ROOTS), *filter(None, [os.environ.get("PYTHONPATH")])],
)
