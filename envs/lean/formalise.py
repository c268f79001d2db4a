"""Autoformalisation as an operator: a policy's Lean statement of a text problem becomes a task if it says something.

It must pass the lexical gate, elaborate, and be neither provable by the basic tactics (it would say too little) nor refutable by them (it
would say something false). Where a judge is configured the statement must also come back: the judge reads it beside the problem.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from flywheel.envs.lean.family import split_signature, task_of
from flywheel.envs.lean.guides import BasicGuide
from flywheel.envs.lean.search import Budget, ProofSearch
from flywheel.envs.lean.variants import join_signature
from flywheel.types import Task
from flywheel.verifiers.lean import STANDARD_AXIOMS
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_gate import normalized, read_statement, refuse_statement
from flywheel.verifiers.lean_protocol import LeanBackend, Theorem

TRIVIAL = Budget(expansions=2, width=8)
# Given a problem and a statement, whether the statement says the same: a model's reading of it, a person's, or a table in a test.
Judge = Callable[[str, str], Awaitable[bool]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Formalised:
    """A task, or the reason why the statement is none."""

    task: Task | None = None
    reason: str = ""


async def formalise(problem: str, statement: str, backend: LeanBackend, *, header: str = "", judge: Judge | None = None) -> Formalised:
    """Return the task that a proposed statement of a problem makes.

    Raises:
        VerifierError: Lean can't be reached.
    """
    refusal = refuse_statement(statement)
    if refusal is not None:
        return Formalised(reason=f"refused: {refusal}")
    parts = read_statement(statement)
    theorem = Theorem(header=header, statement=normalized(statement).strip())
    try:
        ProofChecker(backend).asked(theorem)
    except ValueError as error:
        return Formalised(reason=f"does not elaborate: {error}")
    if await _proved(backend, theorem):
        return Formalised(reason="trivially true: the basic tactics prove it")
    groups, goal = split_signature(parts.signature)
    refuted = Theorem(header=header, statement=f"theorem refuted : ¬ ({_closed(groups, goal)})")
    try:
        if await _proved(backend, refuted):
            return Formalised(reason="trivially false: the basic tactics refute it")
    except ValueError:  # binders that no ∀ can say: what can't be refuted is not refuted
        pass
    if judge is not None and not await judge(problem, statement):
        return Formalised(reason="the judge reads something else in it")
    task = task_of(parts.signature, "formalised", header=header, operator="formalise")
    payload = {**task.payload, "problem": problem}
    return Formalised(task=Task.create(env=task.env, family=task.family, prompt=task.prompt, payload=payload, operator=task.operator))


async def _proved(backend: LeanBackend, theorem: Theorem) -> bool:
    search = ProofSearch(backend, BasicGuide(), allowed_axioms=STANDARD_AXIOMS, budget=TRIVIAL)
    return (await search.prove(theorem)).tactics is not None


def _closed(groups: list[tuple[str, str]], goal: str) -> str:
    return f"∀ {join_signature(groups, goal).removesuffix(f' : {goal}')}, {goal}" if groups else goal
