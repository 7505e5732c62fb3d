"""`python -m pfw` is the command `pfw`."""

from __future__ import annotations

import sys

from pfw.cli import main

sys.exit(main())
