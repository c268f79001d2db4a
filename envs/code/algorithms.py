"""Small algorithms (sorting, graphs, dynamic programming, number theory) between steps that change what goes in and what comes out."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.code.algorithm_table import GRAPHS, LISTS, NUMBERS, TEXTS, Core
from flywheel.envs.code.arithmetic import Arithmetic
from flywheel.envs.code.drafts import Args, Draft, DraftFamily, distinct, equation
from flywheel.envs.code.lists import Lists
from flywheel.envs.code.steps import Placed, Step, number
from flywheel.envs.code.strings import LETTERS, Strings
from flywheel.types import Knobs

NUM_INPUTS = 40
NODES = 7
EDGE_STEPS = (
    Step(name="turn", phrase="turn every edge round", line="edges = [(b, a) for a, b in edges]"),
    Step(name="drop_loops", phrase="drop edges from a node to itself", line="edges = [(a, b) for a, b in edges if a != b]"),
    Step(
        name="shift",
        phrase="move every edge's second node on by {k}, modulo n",
        line="edges = [(a, (b + {k}) % n) for a, b in edges]",
        draw=number(),
    ),
    Step(
        name="every",
        phrase="keep edges whose nodes' sum is no multiple of {k}",
        line="edges = [(a, b) for a, b in edges if (a + b) % {k}]",
        draw=number(2),
    ),
    Step(name="add", phrase="add an edge from node 0 to node {k} modulo n", line="edges = [*edges, (0, {k} % n)]", draw=number()),
    Step(
        name="close",
        phrase="keep edges whose nodes differ by {k} at most",
        line="edges = [(a, b) for a, b in edges if abs(a - b) <= {k}]",
        draw=number(),
    ),
    Step(name="drop_first", phrase="drop the first {k} edges", line="edges = edges[{k}:]", draw=number(1, 4)),
)
_CALM = ("add", "multiply", "subtract", "remainder", "divide", "negate", "at_least", "at_most", "absolute", "digit_sum", "xor")
NUMBER_STEPS = tuple(step for step in Arithmetic.steps if step.name in _CALM)
TEXT_STEPS = tuple(step for step in Strings.steps if step.name not in ("repeat", "double", "join"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """Arguments of one shape: what algorithms there are for them, and the steps that may come before."""

    name: str
    arguments: str
    about: str
    cores: tuple[Core, ...]
    before: tuple[Step, ...]


DOMAINS = (
    Domain(name="list", arguments="xs", about="", cores=LISTS, before=Lists.steps),
    Domain(name="text", arguments="s, t", about="Steps change s.", cores=TEXTS, before=TEXT_STEPS),
    Domain(name="number", arguments="n", about="", cores=NUMBERS, before=NUMBER_STEPS),
    Domain(
        name="graph",
        arguments="n, edges",
        about="A graph: nodes 0 to n - 1, edges as pairs; they join both ways unless a step names their direction.",
        cores=GRAPHS,
        before=EDGE_STEPS,
    ),
)


@cache
def inputs(domain: str) -> tuple[Args, ...]:
    """Return a domain's fixed inputs."""
    rng = random.Random(f"algorithms {domain}")
    return distinct(_draw(domain, rng) for _ in range(NUM_INPUTS))


def _draw(domain: str, rng: random.Random) -> Args:
    if domain == "list":
        return ([rng.randint(-4, 9) for _ in range(rng.randint(0, 8))],)
    if domain == "text":
        return tuple("".join(rng.choices(LETTERS[:4], k=rng.randint(0, 7))) for _ in range(2))
    if domain == "number":
        return (rng.randint(-40, 300),)
    nodes = rng.randint(2, NODES)
    return nodes, [[rng.randrange(nodes), rng.randrange(nodes)] for _ in range(rng.randint(0, nodes + 2))]


class Algorithms(DraftFamily):
    """``f`` of a list, two texts, a number or a graph: steps, one algorithm, more steps."""

    family = "algorithms"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "num_before": Knob(low=0, high=4, default=(1, 2), help="Steps before the algorithm."),
        "num_after": Knob(low=0, high=4, default=(1, 2), help="Steps after the algorithm."),
        "num_kinds": Knob(low=2, high=15, default=(6, 15), help="Algorithms to draw from, for each shape of arguments."),
        "max_constant": Knob(low=4, high=30, default=(8, 15), help="Largest constant."),
    }

    def draft(self, params: Knobs, rng: random.Random) -> Draft | None:
        """Return steps around an algorithm; near misses leave a step out, slip in the algorithm, or are one off in a constant."""
        top = int(params["max_constant"])
        domain = rng.choice(DOMAINS)
        core = rng.choice(domain.cores[: int(params["num_kinds"])])
        k = core.draw(rng, top) if core.draw else None
        after = Lists.steps if core.gives == "list" else Arithmetic.steps
        parts: list[Placed] = _place(domain.before, int(params["num_before"]), rng, top)
        at = len(parts)
        parts.append(Placed(step=Step(name=core.name, phrase=core.phrase, line=core.code), constant=k))
        parts += _place(after, int(params["num_after"]), rng, top)

        def source(placed: Sequence[Placed]) -> str:
            body = "".join(textwrap.indent(p.line, "    ") + "\n" for p in placed)
            return f"def f({domain.arguments}):\n{body}    return {'xs' if core.gives == 'list' else 'n'}\n"

        def replaced(where: int, *others: Placed) -> str:
            return source([*parts[:where], *others, *parts[where + 1 :]])

        slips = [core.code.replace(old, new) for old, new in core.slips]
        near = [replaced(at, Placed(step=Step(name="slip", phrase="", line=code), constant=k)) for code in slips]
        for where, part in enumerate(parts):
            least = 2 if where == at else 1  # an algorithm may not end where its constant is 1
            offsets = (-1, 1) if isinstance(part.constant, int) else ()
            near += [replaced(where, replace(part, constant=part.constant + off)) for off in offsets if part.constant + off >= least]
        return Draft(
            domain=f"{domain.name}/{core.gives}",
            source=source(parts),
            inputs=inputs(domain.name),
            near_misses=near,
            different=[replaced(where) for where in range(len(parts)) if where != at],
            extra={"about": domain.about, "steps": [[p.step.name, p.constant] for p in parts], "phrases": [p.phrase for p in parts]},
        )

    def describe(self, draft: Draft, shown: Sequence[tuple[Args, Any]]) -> str:
        """Return the steps and two examples."""
        header = draft.source[len("def ") : draft.source.index(":")]
        numbered = [f"{at}. {phrase}" for at, phrase in enumerate(draft.extra["phrases"], 1)]
        about = [draft.extra["about"]] if draft.extra["about"] else []
        return "\n".join([f"Write {header}.", *about, *numbered, *(equation(args, value) for args, value in shown)])


def _place(steps: Sequence[Step], count: int, rng: random.Random, top: int) -> list[Placed]:
    placed: list[Placed] = []
    for _ in range(count):
        step = rng.choice([step for step in steps if not placed or step is not placed[-1].step])
        placed.append(Placed(step=step, constant=step.draw(rng, top) if step.draw else None))
    return placed
