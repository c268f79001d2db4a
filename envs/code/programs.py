"""Programs: read standard input of one of a few shapes, change a list step by step, print it in one of a few ways."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.code.drafts import NUM_HIDDEN, Args, Draft, results, tell
from flywheel.envs.code.examples import MutableDraftFamily, step_draft
from flywheel.envs.code.lists import Lists
from flywheel.envs.code.reference import LIMITS
from flywheel.envs.code.steps import StepFamily
from flywheel.types import Knobs, Task, content_id

LISTS = Lists()
MAX_SHOWN_CHARS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A shape of standard input or output: what the prompt says, the code that reads or prints `xs`, and the text for some `xs`."""

    phrase: str
    code: str
    text: Callable[[list[int]], str]


def _words(xs: Sequence[int]) -> str:
    return " ".join(map(str, xs))


# Easier ones first: a knob says how many of them to draw from.
READERS = (
    Shape(phrase="Read a line of integers.", code="xs = list(map(int, input().split()))", text=lambda xs: f"{_words(xs)}\n"),
    Shape(
        phrase="Read a line with a count, then that many lines with an integer each.",
        code="xs = [int(input()) for _ in range(int(input()))]",
        text=lambda xs: "".join(f"{x}\n" for x in [len(xs), *xs]),
    ),
    Shape(
        phrase="Read a line with a count, then a line with that many integers.",
        code="input()\nxs = list(map(int, input().split()))",
        text=lambda xs: f"{len(xs)}\n{_words(xs)}\n",
    ),
    Shape(
        phrase="Read integers separated by commas, on one line that may be empty.",
        code="xs = [int(word) for word in input().split(',') if word]",
        text=lambda xs: ",".join(map(str, xs)) + "\n",
    ),
    Shape(
        phrase="Read integers from all lines, several on a line, until the end.",
        code="import sys\nxs = list(map(int, sys.stdin.read().split()))",
        text=lambda xs: "\n".join(_words(xs[at : at + 3]) for at in range(0, len(xs), 3)) + "\n",
    ),
    Shape(
        phrase="Read integers, one a line, until a line that says end.",
        code="xs = []\nwhile (line := input()) != 'end':\n    xs.append(int(line))",
        text=lambda xs: "".join(f"{x}\n" for x in [*xs, "end"]),
    ),
)
WRITERS = (
    Shape(phrase="Print them on one line.", code="print(*xs)", text=_words),
    Shape(phrase="Print one a line.", code="for x in xs:\n    print(x)", text=lambda xs: "\n".join(map(str, xs))),
    Shape(phrase="Print their sum.", code="print(sum(xs))", text=lambda xs: str(sum(xs))),
    Shape(
        phrase="Print how many there are, then on the next line all of them.",
        code="print(len(xs))\nprint(*xs)",
        text=lambda xs: f"{len(xs)}\n{_words(xs)}",
    ),
    Shape(
        phrase="Print the largest, or none where there is none.",
        code="print(max(xs) if xs else 'none')",
        text=lambda xs: str(max(xs)) if xs else "none",
    ),
    Shape(
        phrase="Print each with its position from 1, as position:item, one a line.",
        code="for at, x in enumerate(xs, 1):\n    print(f'{at}:{x}')",
        text=lambda xs: "\n".join(f"{at}:{x}" for at, x in enumerate(xs, 1)),
    ),
)


class Programs(MutableDraftFamily):
    """A program that reads integers, does the steps of the lists family and prints."""

    family = "programs"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "num_ops": Knob(low=1, high=6, default=(2, 4), help="Steps in a row."),
        "num_kinds": Knob(low=4, high=18, default=(12, 18), help="Kinds of step to draw from."),
        "max_constant": Knob(low=2, high=20, default=(9, 18), help="Largest constant in a step."),
        "num_readers": Knob(low=1, high=len(READERS), default=(3, 6), help="Shapes of standard input to draw from."),
        "num_writers": Knob(low=1, high=len(WRITERS), default=(3, 6), help="Ways to print to draw from."),
    }

    def draft(self, params: Knobs, rng: random.Random) -> Draft:
        """Return a function of the lists family; `from_draft` reads its arguments and prints its results."""
        return step_draft(LISTS, ("xs",), LISTS.draw_steps(params, rng))

    def base_of(self, task: Task) -> tuple[StepFamily, tuple[str, ...]]:
        """Return the lists family and its variable."""
        return LISTS, ("xs",)

    def from_draft(self, draft: Draft, params: Knobs, seed: int, rng: random.Random, parent: Task | None = None) -> Task | None:
        """Return the program that reads the draft's arguments and prints its results, in the parent's shapes."""
        reader, writer = (rng.choice(kinds[: int(params[knob])]) for kinds, knob in ((READERS, "num_readers"), (WRITERS, "num_writers")))
        if parent is not None:
            lines = parent.prompt.split("\n")
            reader = next(shape for shape in READERS if lines[0].endswith(shape.phrase))
            writer = next(shape for shape in WRITERS if shape.phrase in lines)
        return self.about(draft, reader, writer, params, seed, rng)

    def about(self, draft: Draft, reader: Shape, writer: Shape, params: Knobs, seed: int, rng: random.Random) -> Task | None:
        """Return the task that asks for a given program, drawing its tests; None where it would not be a sound one."""
        told = tell(draft)
        if told is None or len({writer.text(value) for value in told.meant}) < NUM_HIDDEN // 2:
            return None
        short = [at for at, args in enumerate(draft.inputs) if args[0] and told.meant[at] and len(repr(args)) <= MAX_SHOWN_CHARS]
        shown = told.choose(short, 1, rng)
        places = told.choose_others(shown, NUM_HIDDEN - len(draft.edges), rng) if shown else None
        if places is None or shown is None:
            return None
        inputs: list[Args] = [draft.inputs[at] for at in [*shown, *places]] + list(draft.edges)
        tests = [
            {"kind": "io", "stdin": reader.text(xs), "stdout": writer.text(value)}
            for (xs,), value in zip(inputs, results(draft.source, inputs), strict=True)
        ]
        steps: list[str] = [str(line).strip() for line in draft.source.splitlines()[1:-1]]
        phrases: list[str] = draft.extra["phrases"]
        prompt = [f"Write a program. {reader.phrase}", *(f"{at}. {phrase}" for at, phrase in enumerate(phrases, 1)), writer.phrase]
        example = ["Input:", tests[0]["stdin"].rstrip("\n"), "Output:", tests[0]["stdout"]]
        payload: dict[str, Any] = {
            "entry_point": None,
            "public_tests": tests[:1],
            "hidden_tests": tests[1:],
            "limits": LIMITS,
            "reference": "\n".join([reader.code, *steps, writer.code]) + "\n",
            "key": content_id(reader.phrase, writer.phrase, told.meant),
            "steps": draft.extra["steps"],
        }
        text = "\n".join([*prompt, *example])
        return Task.create(env="code", family=self.family, prompt=text, payload=payload, params=dict(params), seed=seed)

    def trivial(self, task: Task) -> str:
        """Return a program that prints what it reads."""
        return "import sys\nprint(sys.stdin.read())\n"
