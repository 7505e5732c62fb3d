"""A census of Python's own standard library: read every file, parse and count it, rank what was found.

Run it with `python examples/code_census.py [LIMIT]` or `pfw run examples/code_census.py -p limit=200`. Reading a file
is a step of the io lane, counting it one of the cpu lane; one last step gets all counts. The script runs the workflow
on local processes and then once more in this process, to see what the processes are worth.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
import time
import warnings
from pathlib import Path
from typing import Any, TypedDict

from pfw import Run, Workflow, run, step

#: What adds a path through a function (T. J. McCabe, A Complexity Measure, 1976): complexity is one more than these.
BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.comprehension,
    ast.match_case,
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
#: Lines in each part of the ranking.
SHOWN = 10


class Count(TypedDict):
    """What was counted in one file."""

    path: str
    lines: int
    nodes: int
    #: [(complexity, name, line)] of its functions.
    functions: list[tuple[int, str, int]]


class Ranking(TypedDict):
    """What was found in all files."""

    files: int
    unparsed: int
    lines: int
    nodes: int
    functions: int
    #: [(complexity, name, path, line)], the most complex first.
    most_complex: list[tuple[int, str, str, int]]
    #: [(nodes, path)], the largest first.
    largest: list[tuple[int, str]]


@step(hint="light_io")
def read(path: str) -> bytes:
    """Reads one file."""
    return Path(path).read_bytes()


@step
def count(source: bytes, path: str) -> Count | None:
    """Parses one file and counts what is in it; None if it is not Python (the library has such files for its tests)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    functions: list[tuple[int, str, int]] = []
    nodes = 0
    # (node, index of the function it belongs to), without recursion; -1: outside of all functions.
    stack: list[tuple[ast.AST, int]] = [(tree, -1)]
    while stack:
        node, owner = stack.pop()
        nodes += 1
        if isinstance(node, FUNCTIONS):
            owner = len(functions)
            functions.append((1, node.name, node.lineno))
        elif owner >= 0 and (branches := branches_of(node)):
            complexity, name, line = functions[owner]
            functions[owner] = (complexity + branches, name, line)
        stack.extend((child, owner) for child in ast.iter_child_nodes(node))
    return {"path": path, "lines": source.count(b"\n"), "nodes": nodes, "functions": functions}


def branches_of(node: ast.AST) -> int:
    """Returns how many paths a node adds to its function."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return isinstance(node, BRANCHES)


@step
def rank(counts: list[Count | None]) -> Ranking:
    """Adds up all counts and picks the extremes."""
    parsed = [item for item in counts if item is not None]
    functions = [
        (complexity, name, item["path"], line) for item in parsed for complexity, name, line in item["functions"]
    ]
    return {
        "files": len(counts),
        "unparsed": len(counts) - len(parsed),
        "lines": sum(item["lines"] for item in parsed),
        "nodes": sum(item["nodes"] for item in parsed),
        "functions": len(functions),
        "most_complex": sorted(functions, reverse=True)[:SHOWN],
        "largest": sorted(((item["nodes"], item["path"]) for item in parsed), reverse=True)[:SHOWN],
    }


def library_files(root: Path) -> list[str]:
    """Returns the Python files below `root` in order, relative to it, without what others have installed there."""
    foreign = {"site-packages", "dist-packages", "__pycache__"}
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in foreign]
        found += [str(Path(folder, name).relative_to(root)) for name in files if name.endswith(".py")]
    return sorted(found)


def main(limit: int | None = None) -> Workflow:
    """Makes the workflow: read and count each file, then rank. `limit` takes only the first files."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = library_files(root)[:limit]
    with Workflow("code census") as workflow:
        sources = read.map(str(root / path) for path in paths)
        workflow.returns(rank(count.map(sources, paths)))
    return workflow


class Progress:
    """Counts completed steps and shows them: in place on a terminal, in tenths elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.shown_at = 0.0

    def __call__(self, event: Any) -> None:
        """Gets every event of the run."""
        if event.type != "Completed":
            return
        self.done += 1
        now = time.monotonic()
        if sys.stderr.isatty():
            if now - self.shown_at >= 0.05 or self.done == self.total:
                self.shown_at = now
                print(f"\r{self.line()}", end="\n" if self.done == self.total else "", file=sys.stderr, flush=True)
        elif self.done * 10 // self.total > (self.done - 1) * 10 // self.total:
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Returns what is shown."""
        bar = "#" * (self.done * 30 // self.total)
        return f"[{bar:30}] {self.done:,} of {self.total:,} steps"


def report(ranking: Ranking) -> str:
    """Returns the ranking as text."""
    lines = [
        f"{ranking['files']:,} files ({ranking['unparsed']} not parsed), {ranking['lines']:,} lines, "
        f"{ranking['nodes']:,} nodes, {ranking['functions']:,} functions",
        "",
        "Most complex functions",
        *(f"{complexity:8,}  {name}  ({path}:{line})" for complexity, name, path, line in ranking["most_complex"]),
        "",
        "Largest files, in nodes of their syntax trees",
        *(f"{nodes:8,}  {path}" for nodes, path in ranking["largest"]),
    ]
    return "\n".join(lines)


def summary(parallel: Run, sequential: Run) -> str:
    """Returns the times of both runs and what the processes were worth."""
    metrics, alone = parallel.metrics, sequential.metrics
    return "\n".join(
        [
            f"parallel    {metrics.total_duration:7.2f} s   {metrics.total_steps:,} steps, "
            f"parallelism factor {metrics.parallelism_factor:.2f}",
            f"sequential  {alone.total_duration:7.2f} s   in one process",
            f"speed-up    {alone.total_duration / metrics.total_duration:7.2f}     on {os.cpu_count()} cores",
        ]
    )


if __name__ == "__main__":
    census = main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    parallel = run(census, progress=Progress(len(census.nodes)))
    print(report(parallel.value))
    print("\nOnce more in this process, for comparison ...", flush=True)
    sequential = run(census, mode="sequential")
    assert sequential.value == parallel.value
    print(summary(parallel, sequential))
