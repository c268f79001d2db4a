"""What the Lean families share: a statement and a proof of it that are made together, so that the proof is right by construction.

Proofs use nothing but Lean's own library and basic tactics, one a line, none of which needs another's name hints or automation.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flywheel.contracts import Knob, Operator
from flywheel.envs.lean.rename import renamed
from flywheel.envs.lean.search import actions, submission
from flywheel.types import Knobs, Task, Trajectory, Verdict, content_id, derive_seed
from flywheel.verifiers.lean import LeanVerifier
from flywheel.verifiers.lean_gate import read_statement
from flywheel.verifiers.lean_scripts import script

TRIVIAL = "True.intro"
MAX_REDRAWS = 40
OPERATORS: Mapping[str, Operator] = {"rename": Operator(direction="same", help="the same theorem and proof in other letters")}
_NAME = re.compile(r"[A-Za-z_α-ωΑ-Ω][\w'.]*")


class NoSuchTheoremError(ValueError):
    """The knobs and the seed lead to no theorem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A theorem's signature (binders and type) and the tactics that prove it."""

    signature: str
    tactics: tuple[str, ...]


def canonical(signature: str) -> str:
    """Return a signature as a solver sees it: bound names numbered, hypotheses in an order of their own, their names left out.

    Names are numbered from the goal outwards: after it come the hypotheses one by one, always the first in the alphabet of those left,
    with names that have no number yet written alike.
    """
    groups, goal = split_signature(signature)
    kinds: dict[str, str] = {}
    hypotheses: list[str] = []
    for names, kind in groups:
        listed = names.split()
        kinds.update(dict.fromkeys(listed, kind))
        if any(mark in kind for mark in "=<≤∀∃∧∨¬") or any(kinds.get(name, "").endswith("Prop") for name in _NAME.findall(kind)):
            hypotheses += [kind] * len(listed)
    numbers: dict[str, str] = {}

    def written(text: str, fixed: bool) -> str:
        inner = [name for group in re.findall(r"[∀∃λ] *([^,:∀∃]+)[,:]", text) for name in group.split()]

        def one(match: re.Match[str]) -> str:
            head, dot, rest = match[0].partition(".")
            if head in inner:
                return f"y{inner.index(head)}" + dot + rest
            if head not in kinds:
                return match[0]
            number = numbers.setdefault(head, f"x{len(numbers)}") if fixed else numbers.get(head, "?")
            return number + dot + rest

        return " ".join(_NAME.sub(one, text).split())

    lines = [written(goal, True)]
    while hypotheses:
        chosen = min(hypotheses, key=lambda text: written(text, False))
        hypotheses.remove(chosen)
        lines.append(written(chosen, True))
    lines += sorted(f"{numbers[name]} : {written(kind, True)}" for name, kind in kinds.items() if name in numbers)
    return " | ".join(lines)


def split_signature(signature: str) -> tuple[list[tuple[str, str]], str]:
    """Return a signature's binder groups, names and type, and its goal."""
    groups: list[tuple[str, str]] = []
    depth, start = 0, 0
    for at, char in enumerate(signature):
        if char in "([{":
            start = at + 1 if depth == 0 else start
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                names, _, kind = signature[start:at].partition(":")
                groups.append((names.strip(), kind.strip()) if kind else ("", names.strip()))
        elif char == ":" and depth == 0:
            return groups, signature[at + 1 :].strip()
    return groups, ""


def task_of(
    signature: str,
    family: str,
    *,
    theorem: str = "target",
    reference: str | None = None,
    header: str = "",
    kept: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Task:
    """Return the task of proving a theorem; `kept` are further fields of its payload, ``rest`` of the task."""
    statement = f"theorem {theorem} {signature}"
    payload: dict[str, Any] = {"header": header, "statement": statement, "project": None, **(kept or {})}
    if reference is not None:
        payload["reference"] = reference
    shown = f"{header}\n{statement}" if header else statement
    return Task.create(env="lean", family=family, prompt=f"Prove in Lean 4:\n{shown}", payload=payload, **rest)


class LeanFamily(ABC):
    """A `TaskGenerator` of theorems; a family gives its knobs and `make`."""

    family: str
    knobs: Mapping[str, Knob]
    operators = OPERATORS
    whole: bool = False  # demonstrate by one submission instead of tactic by tactic

    @abstractmethod
    def make(self, params: Mapping[str, int], rng: random.Random) -> Made:
        """Return a theorem of these knobs.

        Raises:
            NoSuchTheoremError: this draw leads nowhere; another is made.
        """

    def generate(self, params: Knobs, seed: int) -> Task:
        """Return the task that these arguments name.

        Raises:
            ValueError: a knob is unknown or out of its range.
        """
        if unknown := sorted(set(params) - set(self.knobs)):
            raise ValueError(f"family {self.family!r} has no knob {unknown[0]!r}; it has {', '.join(self.knobs)}")
        chosen = {}
        for name, knob in self.knobs.items():
            value = params.get(name, knob.default[0])
            if not isinstance(value, int) or not knob.low <= value <= knob.high:
                raise ValueError(f"{self.family}: knob {name} is {value!r}, expected an integer from {knob.low} to {knob.high}")
            chosen[name] = value
        for attempt in range(MAX_REDRAWS):
            try:
                made = self.make(chosen, random.Random(derive_seed("lean", self.family, chosen, seed, attempt)))
            except NoSuchTheoremError:
                continue
            return task_of(made.signature, self.family, reference=script(made.tactics), params=chosen, seed=seed)
        raise ValueError(f"{self.family}: found no theorem for {chosen!r}; widen the knobs")

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        """Return the theorem, and its proof, in other letters.

        Raises:
            ValueError: no such operator, or too many names.
        """
        if operator not in self.operators:
            raise ValueError(f"{self.family}: no operator {operator!r}; known: {', '.join(self.operators)}")
        signature, reference = read_statement(task.payload["statement"]).signature, str(task.payload["reference"])
        names = [name for listed, _ in split_signature(signature)[0] for name in listed.split()]
        rng = random.Random(derive_seed(operator, task.id, seed))
        signature, reference = renamed(names, [signature, reference], rng)
        header = str(task.payload.get("header", ""))
        made = task_of(signature, self.family, reference=reference, header=header, params=task.params, seed=seed)
        return made.derived(task, f"mutate:{operator}")

    def demonstrate(self, task: Task) -> list[str]:
        """Return the reference, as its tactics and a submission of what they come to, or whole."""
        reference = str(task.payload["reference"])
        if self.whole:
            return [submission(reference)]
        return actions(split_script(reference))

    def key(self, task: Task) -> str:
        """Return the statement with its bound names numbered."""
        return f"lean:{content_id(task.payload.get('header', ''), canonical(read_statement(task.payload['statement']).signature))}"

    def validate(self, task: Task) -> None:
        """Check that the reference is a proof and that a trivial answer is none.

        Raises:
            ValueError: the task is not fit for training.
            InfraError: there is no Lean to ask.
        """
        verifier = LeanVerifier()
        try:
            for answer, wanted in ((str(task.payload["reference"]), "solved"), (TRIVIAL, "failed")):
                attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
                verdict = verifier.verify(task, attempt)
                if verdict.outcome != wanted:
                    raise ValueError(f"task {task.id}: {answer!r} is {verdict.outcome}, expected {wanted}: {verdict.evidence}")
        finally:
            verifier.close()


def split_script(proof: str) -> list[str]:
    """Return the tactics of a proof that `script` wrote; lines that are further in belong to the tactic before them."""
    tactics: list[str] = []
    for line in proof.split("\n")[1:]:
        if line.startswith(("    ", "  |")) and tactics:
            tactics[-1] += "\n" + line[2:]
        else:
            tactics.append(line[2:])
    return tactics
