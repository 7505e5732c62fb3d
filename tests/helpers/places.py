"""Where things are, computed from this file's own place."""

from __future__ import annotations

from pathlib import Path

#: The root of the repository.
ROOT = Path(__file__).resolve().parents[2]

#: The folders that hold one import package each.
SOURCE_ROOTS = (ROOT / "common", ROOT / "coordinator", ROOT / "worker")

#: Recorded scientific workflows (WfFormat 1.5), kept beside the repository; may be missing.
INSTANCES = ROOT.parent / "shared" / "data" / "wfinstances"
