"""What a model is asked when it is to write a task: one small function a method, seeded.

Self-Instruct (arXiv:2212.10560): new tasks from a few known ones. Evol-Instruct (arXiv:2304.12244): a known task made harder in one way
(in depth) or a new one of its kind on a rarer subject (in breadth). OSS-Instruct (arXiv:2312.02120): a task inspired by a piece of real
code. Document: a task made of a passage. Formalise: the task that a problem in words asks for (for Lean, arXiv:2205.12615). The wording
is ours.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flywheel.contracts import TaskAuthor
from flywheel.errors import ConfigError
from flywheel.tasks.documents import SUFFIXES, document_blocks

NUM_EXAMPLES = 3
SNIPPET_LINES = (8, 40)
MAX_SNIPPET_CHARS = 3000
IN_DEPTH: Mapping[str, str] = {
    "add_constraint": "Add one more requirement or constraint that a solution must meet.",
    "deepen": "Make it need one more idea: a case that the plain solution gets wrong must now be handled.",
    "concretise": "Replace a general notion in it by a more specific and less common one.",
    "more_steps": "Make it need at least one more step of reasoning or computing before the result is there.",
}
IN_BREADTH = "Write a quite different task of about the same difficulty, in the same field, on a subject that comes up much more rarely."


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to ask a model, by which operator, and the known task, or the problem in words, that it is about, if there is one."""

    text: str
    operator: str
    parent_id: str | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A known task as the reply that makes it; `task_id` where it was written in this run."""

    reply: str
    task_id: str | None = None


Method = Callable[[random.Random, Sequence[Known], TaskAuthor], Request]


def self_instruct(rng: random.Random, known: Sequence[Known], author: TaskAuthor) -> Request:
    """Ask for a new task after a few known ones."""
    chosen = rng.sample(list(known), min(NUM_EXAMPLES, len(known)))
    shown = "\n\n".join(f"Task {at}:\n{one.reply}" for at, one in enumerate(chosen, start=1))
    text = f"{shown}\n\nWrite task {len(chosen) + 1}. It must differ from these in what it asks for, not only in its wording."
    return Request(text=f"{text}\n{author.instructions}", operator="write:self_instruct")


def evol_instruct(rng: random.Random, known: Sequence[Known], author: TaskAuthor) -> Request:
    """Ask for a known task evolved, in depth or in breadth."""
    parent = rng.choice(list(known))
    way = rng.choice([*sorted(IN_DEPTH), "breadth"])
    wish = IN_DEPTH.get(way, IN_BREADTH)
    text = f"Here is a task:\n{parent.reply}\n\n{wish} The statement, the reference and what checks it must all fit the new task."
    return Request(text=f"{text}\n{author.instructions}", operator=f"write:evol:{way}", parent_id=parent.task_id)


def oss_instruct(files: Sequence[Path]) -> Method:
    """Return the method that asks for a task inspired by a piece of one of these source files.

    Raises:
        ConfigError: there are none.
    """
    if not files:
        raise ConfigError("no source files to be inspired by; give a folder that holds some (*.py)")

    def ask(rng: random.Random, known: Sequence[Known], author: TaskAuthor) -> Request:
        lines = rng.choice(list(files)).read_text("utf-8", errors="replace").splitlines()
        size = min(len(lines), rng.randint(*SNIPPET_LINES))
        start = rng.randint(0, len(lines) - size)
        snippet = "\n".join(lines[start : start + size])[:MAX_SNIPPET_CHARS]
        text = f"Here is a piece of code:\n\n{snippet}\n\nLet it inspire a task of your own that can be understood without it."
        return Request(text=f"{text}\n{author.instructions}", operator="write:oss_instruct")

    return ask


def from_documents(paths: Sequence[Path]) -> Method:
    """Return the method that asks for a task made of a passage of one of these documents.

    Raises:
        ConfigError: there are none, or one can't be read.
    """
    blocks = [block for path in paths for block in document_blocks(path)]
    if not blocks:
        raise ConfigError(f"no documents; give files or a folder of files that end in {', '.join(SUFFIXES)}")

    def ask(rng: random.Random, known: Sequence[Known], author: TaskAuthor) -> Request:
        text = f"Here is a passage:\n\n{rng.choice(blocks)}\n\nMake a task of what it says. Whoever solves it does not see the passage."
        return Request(text=f"{text}\n{author.instructions}", operator="write:document")

    return ask


def from_problems(problems: Sequence[str]) -> Method:
    """Return the method that asks for the task that each of these problems in words is, one after another and then from the first again.

    Raises:
        ConfigError: there are none.
    """
    if not problems:
        raise ConfigError("no problems; give a file of records with a 'problem' each")
    turns = itertools.cycle(problems)

    def ask(rng: random.Random, known: Sequence[Known], author: TaskAuthor) -> Request:
        problem = next(turns)
        wish = "Write the task that says exactly this: the same assumptions, the same conclusion, nothing added and nothing left out."
        text = f"Here is a problem in words:\n\n{problem}\n\n{wish}\n{author.instructions}"
        return Request(text=text, operator="write:formalise", problem=problem)

    return ask
