"""Model-written code tasks: a statement, a function that solves it, and tests, all of which have to hold together."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.contracts import draw_params
from flywheel.envs.code.families import FAMILIES
from flywheel.envs.code.mutants import mutants
from flywheel.errors import VerifierError
from flywheel.types import Task, Trajectory, Verdict, derive_seed
from flywheel.verifiers.code import CodeVerifier
from flywheel.verifiers.code_payload import CodePayload

LIMITS = {"wall_s": 2.0, "memory_mb": 256}
MIN_TESTS, MAX_TESTS = 4, 40
MIN_STATEMENT, MAX_STATEMENT = 20, 4000
MAX_MUTANTS = 16
MIN_KILLED = 0.7  # some mutants do the same as the original
_TELLING = 8  # a line of the reference that is shorter than this, spaces aside, gives nothing away


class CodeAuthor:
    """See `flywheel.contracts.TaskAuthor`."""

    instructions = (
        'Reply with one JSON object and nothing else: {"statement": what to write, in plain words, with the name of the function and of '
        'its parameters; "entry_point": the name of the function; "reference": Python source that solves it, standard library only; '
        f'"tests": a list of {MIN_TESTS} to {MAX_TESTS} objects {{"args": [arguments], "expected": what the function returns}}, plain JSON '
        "values, edge cases among them}. The function must be deterministic and must not print or read anything. The statement must not "
        "hold the solution."
    )

    def examples(self, seed: int, count: int) -> list[str]:
        """Return tasks of the environment's own families as replies."""
        families = sorted(FAMILIES)
        found: list[str] = []
        attempt = 0
        while len(found) < count:
            at = derive_seed("example", seed, attempt)
            generator = FAMILIES[families[at % len(families)]]
            attempt += 1
            try:
                task = generator.generate(draw_params(generator.knobs, {}, at), at)
            except ValueError:
                continue
            payload = task.payload
            tests = [*payload["public_tests"], *payload["hidden_tests"]]
            if any(test["kind"] != "call" or test.get("kwargs") for test in tests):
                continue  # a program, or a function that is tested in another way than a reply can say
            fields = {
                "statement": task.prompt.rsplit("\n", 1)[0],
                "entry_point": payload["entry_point"],
                "reference": payload["reference"],
                "tests": [{"args": test["args"], "expected": test["expected"]} for test in tests],
            }
            found.append(json.dumps(fields, ensure_ascii=False))
        return found

    def build(self, reply: Mapping[str, Any]) -> Task:
        """Return the task of a reply; its first test is shown as an example, the others are hidden.

        Raises:
            ValueError: the reply is malformed.
        """
        statement, name, reference = (_text(reply, field) for field in ("statement", "entry_point", "reference"))
        tests = [_test(test) for test in _listed(reply.get("tests"))]
        if not MIN_STATEMENT <= len(statement) <= MAX_STATEMENT:
            raise ValueError(f"the statement has {len(statement)} characters, expected {MIN_STATEMENT} to {MAX_STATEMENT}")
        if not says(statement, name):
            raise ValueError(f"the entry point {name!r} is not a name that the statement says")
        if not MIN_TESTS <= len(tests) <= MAX_TESTS or len({json.dumps(test["args"]) for test in tests}) < MIN_TESTS:
            raise ValueError(f"{len(tests)} tests, expected {MIN_TESTS} to {MAX_TESTS}, as many of them with different arguments")
        shown = ", ".join(repr(arg) for arg in tests[0]["args"])
        payload = {
            "entry_point": name,
            "public_tests": tests[:1],
            "hidden_tests": tests[1:],
            "limits": LIMITS,
            "reference": reference.strip() + "\n",
        }
        CodePayload.read(payload)
        prompt = f"{statement.strip()}\n{name}({shown}) == {tests[0]['expected']!r}"
        return Task.create(env="code", family="written", prompt=prompt, payload=payload)

    def check(self, task: Task) -> None:
        """Raise a `ValueError` that says why, unless the task is sound (see `flywheel.contracts.TaskAuthor`)."""
        reference, name = str(task.payload["reference"]), str(task.payload["entry_point"])
        statement = task.prompt.rsplit("\n", 1)[0]
        if (line := leaked(reference, statement)) is not None:
            raise ValueError(f"the statement holds the answer: {line!r}")
        for attempt in ("once", "twice"):
            verdict = _verdict(task, reference)
            if verdict.outcome != "solved":
                raise ValueError(f"the reference does not solve it, tried {attempt}: {verdict.evidence}")
        tests = [*task.payload["public_tests"], *task.payload["hidden_tests"]]
        for trivial in _trivial(name, tests):
            if _verdict(task, trivial).outcome == "solved":
                raise ValueError(f"a trivial answer solves it: {trivial!r}")
        wrong = mutants(reference)
        chosen = wrong[:: max(1, len(wrong) // MAX_MUTANTS)][:MAX_MUTANTS]
        killed = sum(_verdict(task, mutant).outcome != "solved" for mutant in chosen)
        if not chosen or killed < MIN_KILLED * len(chosen):
            raise ValueError(f"the tests are vacuous: {killed} of {len(chosen)} mutated references fail, expected {MIN_KILLED:.0%}")


def _verdict(task: Task, answer: str) -> Verdict:
    attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
    verdict = CodeVerifier().verify(task, attempt)
    if verdict.outcome == "infra_error":
        raise VerifierError(verdict.evidence)
    return verdict


def _text(reply: Mapping[str, Any], field: str) -> str:
    value = reply.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} is {value!r:.80}, expected text")
    return value


def _listed(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"tests is {value!r:.80}, expected a list")
    return value


def _test(test: Any) -> dict[str, Any]:
    if not isinstance(test, Mapping) or not isinstance(test.get("args"), list) or "expected" not in test:
        raise ValueError(f'a test is {test!r:.80}, expected {{"args": [...], "expected": ...}}')
    return {"kind": "call", "args": test["args"], "kwargs": {}, "expected": test["expected"]}


def _trivial(name: str, tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return answers that do nothing: each expected value as a constant, and the first argument as it came."""
    constants = {repr(test["expected"]) for test in tests} | {"None"}
    lines = [f"return {constant}" for constant in sorted(constants)] + ["return args[0] if args else None"]
    return [f"def {name}(*args):\n    {line}\n" for line in lines]


def says(statement: str, name: str) -> bool:
    """Whether a statement has a function's name."""
    return name.isidentifier() and re.search(rf"\b{name}\b", statement) is not None


def leaked(reference: str, statement: str) -> str | None:
    """Return a line of the reference's body that the statement holds, spaces aside; None where there is none. Docstrings tell nothing."""
    told = re.sub(r"\s+", "", statement).lower()
    try:
        tree = ast.parse(reference)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        lines = ast.unparse(tree).splitlines()
    except (SyntaxError, ValueError, RecursionError):
        lines = reference.splitlines()
    for line in lines:
        said = re.sub(r"^\s*return\b", "", line)
        bare = re.sub(r"\s+", "", said).lower()
        if not re.match(r"\s*(def|class|import|from)\b", line) and len(bare) >= _TELLING and bare in told:
            return line.strip()
    return None
