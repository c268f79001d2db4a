"""Model-written theorems: a model's own with its proof, or its Lean statement of a text problem (autoformalisation, `flywheel.write`).

A statement must pass the lexical gate, elaborate, and be neither provable by the basic tactics (it would say too little) nor refutable by
them or by small values for its variables (it would say something false). A proof that comes with it must be one; without, the theorem
stays open. Whether it says what the problem says is for the judge of `flywheel.write`, where one is configured.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from flywheel.contracts import draw_params
from flywheel.envs.lean.families import FAMILIES
from flywheel.envs.lean.family import split_signature, task_of
from flywheel.envs.lean.guides import BasicGuide
from flywheel.envs.lean.search import Budget, ProofSearch
from flywheel.envs.lean.variants import is_hypothesis, join_signature
from flywheel.types import Task, Trajectory, derive_seed
from flywheel.verifiers.lean import LeanPayload, LeanVerifier
from flywheel.verifiers.lean_backends import borrowed
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_gate import normalized, read_statement, refuse_answer, refuse_statement
from flywheel.verifiers.lean_protocol import LeanBackend, Theorem

FAMILY = "written"
TRIVIAL = Budget(expansions=2, width=8)
MAX_STATEMENT = 4000
MAX_EXAMPLES = 16
_DECIDED = "(by first | decide | simp)"
_NATURAL, _WHOLE = ("0", "1", "2"), ("0", "1", "(-1)")
_VALUES = {
    **dict.fromkeys(("Nat", "ℕ"), _NATURAL),
    **dict.fromkeys(("Int", "ℤ", "ℚ", "ℝ"), _WHOLE),
    "Prop": ("True", "False"),
    "Bool": ("true", "false"),
}


class LeanAuthor:
    """See `flywheel.contracts.TaskAuthor`.

    Args:
        header: The imports and opens that statements are written after.
        project: The Lake project that has what the header imports; None for Lean's own library.
        backend: How Lean is reached; the process's shared backend by default.
    """

    def __init__(self, header: str = "", project: str | None = None, *, backend: LeanBackend | None = None) -> None:
        self._header, self._project, self._backend = header, project, backend
        after = f"It is read after these lines:\n{header}\n" if header else "It may use nothing but Lean's own library, without imports. "
        self.instructions = (
            'Reply with one JSON object and nothing else: {"statement": a theorem in Lean 4, as in "theorem name (n : Nat) (h : 0 < n) : '
            '1 ≤ n", up to and without ":="; "proof": what follows ":=", a term, or "by" and tactics, or null where you have none}. '
            f"{after}The theorem must be true, and not so easy that one basic tactic proves it."
        )

    def examples(self, seed: int, count: int) -> list[str]:
        """Return theorems of the environment's own families as replies."""
        found = []
        for number in range(count):
            at = derive_seed("example", seed, number)
            generator = list(FAMILIES.values())[at % len(FAMILIES)]
            task = generator.generate(draw_params(generator.knobs, {}, at), at)
            reply = {"statement": task.payload["statement"], "proof": task.payload["reference"]}
            found.append(json.dumps(reply, ensure_ascii=False))
        return found

    def build(self, reply: Mapping[str, Any]) -> Task:
        """Return the task of a reply.

        Raises:
            ValueError: the reply is malformed, or the lexical gate refuses what it says.
        """
        statement, proof = reply.get("statement"), reply.get("proof")
        if not isinstance(statement, str) or not 0 < len(statement.strip()) <= MAX_STATEMENT:
            raise ValueError(f"statement is {statement!r:.80}, expected a theorem of at most {MAX_STATEMENT} characters")
        if proof is not None and not isinstance(proof, str):
            raise ValueError(f"proof is {proof!r:.80}, expected what follows ':=', or null")
        said = normalized(statement).strip().removesuffix(":=").strip()
        if (refusal := refuse_statement(said)) is not None:
            raise ValueError(f"statement refused: {refusal}")
        if proof is not None and (refusal := refuse_answer(proof)) is not None:
            raise ValueError(f"proof refused: {refusal}")
        signature = read_statement(said).signature
        return task_of(signature, FAMILY, header=self._header, reference=proof, kept={"project": self._project})

    def check(self, task: Task) -> None:
        """Raise a `ValueError` that says why, unless the theorem is fit (see `flywheel.contracts.TaskAuthor`)."""
        payload = LeanPayload.read(task.payload)
        theorem = payload.theorem
        with borrowed(self._backend) as backend:
            ProofChecker(backend).asked(theorem)
            search = ProofSearch(backend, BasicGuide(), allowed_axioms=payload.allowed_axioms, budget=TRIVIAL)
            if _proves(search, theorem):
                raise ValueError("trivially true: the basic tactics prove it")
            if _proves(search, refuted(theorem)):
                raise ValueError("trivially false: the basic tactics refute it")
            checker = ProofChecker(backend)
            for example in counterexamples(theorem):
                if checker.check(refuted(theorem), example, payload.allowed_axioms).passed:
                    raise ValueError(f"trivially false: {example}")
            if (proof := task.payload.get("reference")) is not None:
                attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=str(proof))
                for time in ("once", "twice"):
                    verdict = LeanVerifier(backend=backend).verify(task, attempt)
                    if verdict.outcome != "solved":
                        raise ValueError(f"the proof does not hold, tried {time}: {verdict.evidence}")


def refuted(theorem: Theorem) -> Theorem:
    """Return the theorem that says that another one is false."""
    groups, goal = split_signature(read_statement(theorem.statement).signature)
    closed = f"∀ {join_signature(groups, goal).removesuffix(f' : {goal}')}, {goal}" if groups else goal
    return Theorem(header=theorem.header, statement=f"theorem refuted : ¬ ({closed})", project=theorem.project)


def counterexamples(theorem: Theorem) -> list[str]:
    """Return what may prove a theorem false: small values for its variables, under which Lean decides its hypotheses and it."""
    groups, _ = split_signature(read_statement(theorem.statement).signature)
    arguments: list[tuple[str, ...]] = []
    for at, (names, kind) in enumerate(groups):
        choices = (_DECIDED,) if is_hypothesis(groups, at) else _VALUES.get(kind)
        if choices is None or not names:
            return []
        arguments += [choices] * len(names.split())
    chosen = itertools.islice(itertools.product(*arguments), MAX_EXAMPLES) if arguments else ()
    return [f"fun all => absurd (all {' '.join(values)}) {_DECIDED}" for values in chosen]


def _proves(search: ProofSearch, theorem: Theorem) -> bool:
    try:
        return search.prove_now(theorem).tactics is not None
    except ValueError:  # binders that no ∀ can say: what can't be refuted is not refuted
        return False
