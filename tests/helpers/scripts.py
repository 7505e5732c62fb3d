"""Users' scripts, each run in a process of its own in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from helpers.command import MARK, check_nothing_is_left

#: A script with a workflow whose one step goes on for ever, and says so in the folder it is given.
HOLD = """
    import sys, time
    from pathlib import Path
    from pfw import Workflow, run, step

    @step
    def hold(folder):
        (Path(folder) / "began").touch()
        while True:
            time.sleep(0.01)

    with Workflow() as wf:
        hold(sys.argv[1])
"""


class Script:
    """A user's script, run in a process of its own in a folder of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        #: Every process of this test has it in its environment.
        self.mark = uuid.uuid4().hex
        (folder / "tmp").mkdir()

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, MARK: self.mark, "TMPDIR": str(self.folder / "tmp")}

    def begin(self, text: str, *arguments: str) -> subprocess.Popen[str]:
        (self.folder / "script.py").write_text(textwrap.dedent(text))
        process = subprocess.Popen(
            [sys.executable, "script.py", *arguments], cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def run(self, text: str, *arguments: str, code: int = 0) -> str:
        """Returns what it has printed."""
        process = self.begin(text, *arguments)
        output, errors = process.communicate(timeout=50)
        assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{errors}"
        self.errors = errors
        return output

    def check_nothing_is_left(self) -> None:
        check_nothing_is_left(self.mark)

    def folders(self) -> list[Path]:
        return list((self.folder / "tmp").glob("pfw-*"))


@contextmanager
def new_script() -> Iterator[Script]:
    """A script in a new folder; its process goes with the block."""
    # Sockets lie in its folder for temporary files, so its path must be short.
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="pfwt-") as folder:
        yield Script(Path(folder), stack)
