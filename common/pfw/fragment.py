"""Makes a fragment of the Workflow that a step returned, where that step ran. What it means: `pfw.expansion`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pfw import codec
from pfw.call import Input, Inputs, Numbering, place_all, replace_sources
from pfw.errors import GraphError
from pfw.expansion import Fragment, ids_within
from pfw.graphs import pack_fragment
from pfw.workflow import Workflow

if TYPE_CHECKING:
    from pfw.compile import Compiled
    from pfw.graph import Graph
    from pfw.node import Node
    from pfw.stepfunction import Inherited

#: Largest fragment, in bytes and in steps: the coordinator holds it, and every client of the run gets it.
FRAGMENT_BYTES = 256 << 20
FRAGMENT_STEPS = 1_000_000

#: Id of the step that puts a value together.
RETURNS = "returns"

T = TypeVar("T")


class Replacement(Workflow):
    """What steps of our own return: a workflow that may do more than give their value."""

    def __init__(self, name: str) -> None:
        """Makes an empty one."""
        super().__init__(name)
        #: {id of a step: the Node whose output is its value}
        self.taken: dict[str, Node] = {}
        self.skipped: list[Node] = []

    def take_place_of(self, step_id: str, node: Node) -> None:
        """Another step, beside the one that returns this, gets its value from `node`; it is one of those behind it."""
        self.taken[step_id] = node

    def skip(self, node: Node) -> None:
        """This step is the side of a branch that is not taken."""
        self.skipped.append(node)

    @property
    def apart(self) -> frozenset[int]:
        """Places of the steps that the value does not wait for."""
        return frozenset(node.index for node in (*self.taken.values(), *self.skipped))


def make_fragment(workflow: Workflow, step_id: str, inherited: Inherited) -> bytes:
    """Returns the packed fragment that takes the place of a step.

    Args:
        workflow: What the step returned.
        step_id: The step.
        inherited: What the workflow has of the one around it, where it says nothing itself.

    Raises:
        GraphError: The workflow is not valid, has no one value, or too many steps.
        UnpicklableError: A function or an argument in it cannot be sent.
    """
    mine = workflow if isinstance(workflow, Replacement) else None
    compiled = workflow.compile_within(step_id, inherited, mine.apart if mine else frozenset())
    fragment = Fragment(_with_tail(compiled, workflow.name, step_id))
    if mine:
        step_of = compiled.index
        index = {node: step_of[ids_within(step_id, [node.id], has_tail=False)[0]] for node in mine.nodes}
        siblings = step_id.rpartition("/")[0]
        fragment = fragment._replace(
            skipped=tuple([index[node] for node in mine.skipped]),
            taken=tuple([(f"{siblings}/{name}" if siblings else name, index[n]) for name, n in mine.taken.items()]),
        )
    packed = pack_fragment(fragment)
    if len(compiled.graph.ids) > FRAGMENT_STEPS or len(packed) > FRAGMENT_BYTES:
        raise GraphError(
            f'workflow "{workflow.name}", which was returned by a step, has {len(compiled.graph.ids):,} steps in '
            f"{len(packed):,} bytes; it can have {FRAGMENT_STEPS:,} in {FRAGMENT_BYTES:,}: "
            f"pass paths instead of data, or fewer and larger items"
        )
    return packed


def _with_tail(compiled: Compiled, name: str, step_id: str) -> Graph:
    """The graph, whose last step gives the workflow's value once all others have ended."""
    graph, value, leaves = compiled.graph, compiled.value, compiled.leaves
    if value is None:
        names = ", ".join(repr(graph.ids[leaf]) for leaf in leaves[:10])
        raise GraphError(
            f'workflow "{name}", which was returned by a step, has {len(leaves)} leaves ({names}): '
            f"say with wf.returns(...) what its value is"
        )
    if compiled.has_tail:
        return graph
    numbering: Numbering[int] = Numbering()
    structure = replace_sources(value, (Input, Inputs), _place, numbering)
    used = set(numbering.sources)
    taken = {step.rpartition("/")[2] for step in graph.ids}
    free = next(name for number in range(1, len(taken) + 2) if (name := _numbered(number)) not in taken)
    step = ids_within(step_id, [free], has_tail=False)[0]
    return _added(
        graph, step, codec.dump_call(step, (structure,), None), numbering.sources,
        tuple([leaf for leaf in leaves if leaf not in used]),
    )  # fmt: skip


def _numbered(number: int) -> str:
    return RETURNS if number == 1 else f"{RETURNS}#{number}"


def _place(source: Input | Inputs, numbering: Numbering[int]) -> Any:
    if isinstance(source, Inputs):
        return place_all(numbering.positions(range(source.start, source.start + source.count)))
    return Input(numbering.position(source.position), source.path)


def _added(graph: Graph, step: str, call: bytes, inputs: tuple[int, ...], after: tuple[int, ...]) -> Graph:
    from pfw.stepfunction import StepFunction

    function = StepFunction(give, name=RETURNS)
    return graph._replace(
        ids=[*graph.ids, step],
        functions=[*graph.functions, codec.dump_function(function)],
        specs=[*graph.specs, function.spec],
        function_of=[*graph.function_of, len(graph.functions)],
        spec_of=[*graph.spec_of, len(graph.specs)],
        calls=[*graph.calls, call],
        inputs=[*graph.inputs, inputs],
        after=[*graph.after, after],
    )


def give(value: T) -> T:
    """Is the function of a step that puts a value together: what it gets is that value."""
    return value
