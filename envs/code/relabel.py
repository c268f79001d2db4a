"""Hindsight for programs: one that failed becomes the reference of a task that asks for what it does.

Where every line of it is a step that its family knows, the task says these steps in the family's own words (`flywheel.envs.code.reading`).
Tests are then the family's: fresh inputs that the prompt does not show, chosen so that near misses fail. Any other program is told by
examples of what it gives (`flywheel.envs.code.observed`), or by a model that ``learning.instructions`` names, with the examples.

No honest task is made, and the reason counted, of what has no inputs to be asked about: a whole program that does not read as a family's
(``unread``), an answer in JavaScript or beside a prelude or files, a record without public calls (``no_family``).
"""

from __future__ import annotations

import ast
import dataclasses
import random
import re
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flywheel.envs.code.authoring import MAX_STATEMENT, MIN_STATEMENT, leaked, says
from flywheel.envs.code.drafts import equation, results
from flywheel.envs.code.examples import step_draft
from flywheel.envs.code.families import FAMILIES, STEPS
from flywheel.envs.code.mutants import mutants
from flywheel.envs.code.observed import MIN_KILLED, observed
from flywheel.envs.code.programs import LISTS, READERS, WRITERS, Programs
from flywheel.envs.code.reading import ProgramReading, Reading, knobs_of, read, read_program
from flywheel.envs.code.steps import MAX_EXAMPLES
from flywheel.errors import NotRelabelledError
from flywheel.sandbox import shared_pool
from flywheel.sandbox.judging import run_io
from flywheel.types import Knobs, Task, ToolCall, Trajectory, Turn, Verdict, derive_seed
from flywheel.verifiers.code_payload import CodePayload

MAX_MUTANTS = 24
_PARSING = threading.Lock()  # Python's parser counts its depth for all threads together and now and then trips over that


class ProgramRelabeller:
    """Asks for what the program does. See `flywheel.contracts.Relabeller`."""

    name = "program"

    def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> list[tuple[Task, Trajectory]]:
        """Return the task that the program written last solves."""
        source = last_program(trajectory)
        if source is None:
            raise NotRelabelledError("no_answer")
        payload = CodePayload.read(task.payload)
        if payload.setting.language != "python" or payload.setting.prelude or payload.setting.files:
            raise NotRelabelledError("no_family")
        made: Task | None
        with _PARSING:
            made, answer = self._as_steps(task, source) if payload.entry_point is not None else (_as_program(task, source), source)
        if made is None:
            made = observed(source, task, random.Random(derive_seed("observed", task.id, source)))
            answer = without_steps(source, task.prompt)
        child = made.derived(task, f"hindsight:{self.name}")
        return [(child, _answering(trajectory, child, source, answer))]

    def trivial(self, task: Task) -> Sequence[str]:
        """Return what gives back its argument, and what always gives the commonest result."""
        tests: list[dict[str, Any]] = [*task.payload["public_tests"], *task.payload["hidden_tests"]]
        if task.payload["entry_point"] is None:
            printed, _ = Counter(test["stdout"] for test in tests).most_common(1)[0]
            return ("import sys\nprint(sys.stdin.read())\n", f"print({printed!r})\n")
        commonest, _ = Counter(repr(test["expected"]) for test in tests).most_common(1)[0]
        header = f"def {task.payload['entry_point']}(*args):"
        return (f"{header}\n    return args[0]\n", f"{header}\n    return {commonest}\n")

    def ask(self, task: Task, answer: str) -> str | None:
        """Return what to ask a model that is to word a task told by examples; steps are told in the family's own words, which are exact."""
        if "reference" in task.payload or task.payload["entry_point"] is None:
            return None
        with _PARSING:
            source = ast.unparse(ast.parse(answer))  # without its comments, which may say anything
        return (
            f"Here is a Python program:\n\n{source}\n\nSome calls:\n{_calls(task)}\n\nWrite the task that it is the solution of, for "
            f"somebody who sees neither the program nor these words: say in plain English, in one to five sentences, what "
            f"{task.payload['entry_point']} is given and what it has to return for any input. Name the function. No code, and no line of "
            'the program. Reply with one JSON object and nothing else: {"statement": the task}.'
        )

    def worded(self, task: Task, answer: str, statement: str) -> str:
        """Return a model's statement and the task's examples."""
        if not MIN_STATEMENT <= len(statement) <= MAX_STATEMENT:
            raise NotRelabelledError("statement_length")
        if not says(statement, str(task.payload["entry_point"])):
            raise NotRelabelledError("function_unnamed")
        with _PARSING:
            if leaked(answer, statement) is not None:
                raise NotRelabelledError("holds_answer")
        return f"{statement}\n{_calls(task)}"

    def _as_steps(self, task: Task, source: str) -> tuple[Task | None, str]:
        """Return the task in the family's own words, None where it has none for it, and the answer to it.

        Comments that belie their lines are written anew. They don't run, so it is still the policy's program; left as they are they
        would name what the new prompt does not ask for.
        """
        family = STEPS.get(task.family)
        reading = None if family is None or set(family.knobs) != set(task.params) else read(family, source)
        if family is None or reading is None:
            return None, source
        rng = random.Random(derive_seed("about", task.id, source))
        made = family.about(reading.placed, knobs_of(family, reading, task.params, family.knobs), task.seed, rng)
        if made is None:
            raise NotRelabelledError("unsound")
        reference = str(made.payload["reference"])
        hidden = made.payload["hidden_tests"]
        inputs, meant = [tuple(test["args"]) for test in hidden], [test["expected"] for test in hidden]
        if sum(results(mutant, inputs) != meant for mutant in mutants(reference)[:MAX_MUTANTS]) < MIN_KILLED:
            raise NotRelabelledError("weak_tests")
        return made, reference if reading.belied else source


def _calls(task: Task) -> str:
    """Return a task's public calls and their results, a line each."""
    name = str(task.payload["entry_point"])
    return "\n".join(equation(test["args"], test["expected"], name) for test in task.payload["public_tests"])


def _as_program(task: Task, source: str) -> Task:
    """Return the task of the programs family that asks for a program."""
    family = FAMILIES["programs"]
    assert isinstance(family, Programs)
    found = read_program(source) if task.family == family.family and set(family.knobs) == set(task.params) else None
    if found is None:
        raise NotRelabelledError("unread")
    reading = Reading(names=("xs",), placed=found.placed, belied=False)
    params = knobs_of(LISTS, reading, {**task.params, **_shapes(task.params, found)}, family.knobs)
    rng = random.Random(derive_seed("about", task.id, source))
    draft = step_draft(LISTS, reading.names, found.placed)
    tries = (family.about(draft, found.reader, found.writer, params, task.seed, rng) for _ in range(MAX_EXAMPLES))
    made = next(filter(None, tries), None)
    if made is None:
        raise NotRelabelledError("unsound")
    payload = CodePayload.read(made.payload)
    pool = shared_pool()
    limits = pool.limits(cpu_s=payload.wall_s, memory_mb=payload.memory_mb)
    killed = 0
    lines = [placed.line for placed in found.placed]
    shorter = ["\n".join([found.reader.code, *lines[:at], *lines[at + 1 :], found.writer.code]) for at in range(len(lines))]
    for mutant in [*shorter, *mutants(str(made.payload["reference"]))][:MAX_MUTANTS]:
        killed += any(not run_io(pool, mutant, test, limits).passed for test in payload.hidden_tests)
        if killed == MIN_KILLED:
            return made
    raise NotRelabelledError("weak_tests")


def _shapes(params: Knobs, found: ProgramReading) -> dict[str, int]:
    """Return the knobs that say how a program reads and prints."""
    places = {"num_readers": READERS.index(found.reader), "num_writers": WRITERS.index(found.writer)}
    return {name: max(int(params[name]), place + 1) for name, place in places.items()}


def without_steps(source: str, prompt: str) -> str:
    """Return a program without the comments that repeat what a prompt says: it is not what the program does."""
    said = {re.sub(r"^\d+\. ", "", line).strip() for line in prompt.splitlines()}
    lines = [line for line in source.splitlines() if not (line.strip().startswith("#") and line.strip("# \t") in said)]
    kept = "\n".join(lines) + "\n"
    try:
        return kept if ast.dump(ast.parse(kept)) == ast.dump(ast.parse(source)) else source
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source


def last_program(trajectory: Trajectory) -> str | None:
    """Return the answer, or where none was submitted the program that was last run or tested."""
    if trajectory.answer is not None:
        return trajectory.answer
    at = _last_call(trajectory)
    return None if at is None else str(at[1].arguments["code"])


def _last_call(trajectory: Trajectory) -> tuple[int, ToolCall] | None:
    """Return the number of the last turn that holds a program, and the call that does."""
    for number in reversed(range(len(trajectory.turns))):
        for call in reversed(trajectory.turns[number].tool_calls):
            code = call.arguments.get("code")
            if call.name in ("run_code", "run_tests", "submit") and isinstance(code, str) and code.strip():
                return number, call
    return None


def _answering(trajectory: Trajectory, child: Task, source: str, answer: str) -> Trajectory:
    """Return the attempt as an answer to the new task, in the manner in which it was given: tested and submitted, or submitted."""
    at = _last_call(trajectory)
    if at is None:
        raise NotRelabelledError("no_answer")
    number, call = at
    turns = trajectory.turns if trajectory.answer is not None else trajectory.turns[: number + 1]
    if answer != source:
        turns = (Turn.in_hindsight(call.name, code=answer),)
    if call.name != "submit" and (answer != source or trajectory.answer is None):
        turns = (*turns, Turn.in_hindsight("submit"))
    return dataclasses.replace(trajectory, task_id=child.id, turns=turns, stop_reason="terminated", answer=answer)
