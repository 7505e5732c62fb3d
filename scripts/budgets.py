"""Holds the tree to its budgets: short files, short functions, no leftovers, no machine's paths.

Run by scripts/check. Prints one line per finding, `path:line: what`, and exits with 1 if there is one. A budget may be
exceeded only by what is named below with its reason; a name that is no longer needed is a finding too.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Lines of a file, everything counted.
FILE_LINES = 400
#: Lines of a function, decorators and docstring not counted.
FUNCTION_LINES = 50

#: {path: reason} of the files that may be longer.
LONG_FILES: dict[str, str] = {
    "common/pfw/lifecycle.py": "one state machine: its transitions are read and checked together",
    "coordinator/pfw_coordinator/core.py": "one state machine: every message's effect on the same state",
    "worker/pfw_worker/core.py": "one state machine: every message's effect on the same state",
    "tests/process/test_slot.py": "one program under test, with its own driver",
    "tests/unit/test_workflow.py": "one class under test",
}
#: {"path::Class.function": reason} of the functions that may be longer.
LONG_FUNCTIONS: dict[str, str] = {}

#: Folders whose Python files have budgets.
BUDGETED = ("common", "coordinator", "worker", "scripts", "examples", "benches", "tests")
#: Hidden folders that belong to the project; all others are tools' caches and environments.
HIDDEN = frozenset({".ci", ".github"})
#: Folders that are made, not written.
MADE = frozenset({"__pycache__", "build", "dist", "site"})

#: Paths that exist on one person's machine only. Not matched: the same name inside a relative path.
_MACHINE_PATH = re.compile(r"(?<![\w.})\]])/(?:home|root|work|Users)/\w")
_LEFTOVER = re.compile(r"\b(?:TO(?:DO)|FIX(?:ME)|X(?:XX))\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree_files(root: Path) -> Iterator[Path]:
    """Yields every file of the project in order, without caches, environments and what builds leave behind."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in MADE and (name[0] != "." or name in HIDDEN))
        # In a second work tree `.git` is a file that says where the first one is.
        yield from (Path(folder, name) for name in sorted(files) if name != ".git")


def functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Yields (qualified name, definition) of every function and method below `body`, nested ones too."""
    for statement in body:
        if isinstance(statement, Function | ast.ClassDef):
            name = prefix + statement.name
            if not isinstance(statement, ast.ClassDef):
                yield name, statement
            yield from functions(statement.body, name + ".")


def code_lines(function: Function) -> int:
    """Returns how many lines a function has from its `def`, its docstring not counted."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def check_budgets(path: str, text: str) -> Iterator[str]:
    """Yields a finding for the file and for each of its functions that is longer than its budget."""
    length = text.count("\n")
    if (length > FILE_LINES) != (path in LONG_FILES):
        yield f"{path}:1: {length} lines, the budget is {FILE_LINES} (exceptions: LONG_FILES in scripts/budgets.py)"
    for name, function in functions(ast.parse(text).body):
        lines = code_lines(function)
        if (lines > FUNCTION_LINES) != (f"{path}::{name}" in LONG_FUNCTIONS):
            yield (
                f"{path}:{function.lineno}: {name} has {lines} lines, the budget is {FUNCTION_LINES} "
                "(exceptions: LONG_FUNCTIONS in scripts/budgets.py)"
            )


def check_text(path: str, text: str) -> Iterator[str]:
    """Yields a finding for each line with a note to be done later or a path of somebody's machine."""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _LEFTOVER.search(line):
            yield f"{path}:{number}: {match[0]}: do it, or file it"
        if match := _MACHINE_PATH.search(line):
            yield f"{path}:{number}: a path of one machine: {match[0]}..."


def check_names(root: Path) -> Iterator[str]:
    """Yields a finding for each exception that names a file or function which is not there."""
    for path in sorted({*LONG_FILES, *(name.partition("::")[0] for name in LONG_FUNCTIONS)}):
        if not (root / path).is_file():
            yield f"scripts/budgets.py:1: names {path}, which is not there"
            continue
        known = {f"{path}::{name}" for name, _ in functions(ast.parse((root / path).read_text("utf-8")).body)}
        for name in sorted(name for name in LONG_FUNCTIONS if name.startswith(path + "::") and name not in known):
            yield f"scripts/budgets.py:1: names {name}, which is not there"


def check_tree(root: Path) -> Iterator[str]:
    """Yields every finding in the tree below `root`."""
    yield from check_names(root)
    for file in tree_files(root):
        path = file.relative_to(root).as_posix()
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        yield from check_text(path, text)
        if file.suffix == ".py" and path.startswith(tuple(f"{folder}/" for folder in BUDGETED)):
            yield from check_budgets(path, text)


def main() -> int:
    """Prints the findings; returns the exit code."""
    findings = list(check_tree(ROOT))
    print(*findings, sep="\n", end="\n" if findings else "")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
