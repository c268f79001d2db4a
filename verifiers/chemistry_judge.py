"""Puts a task's constraints and an answer together: `compile_task`, then `judge`.

Pure RDKit with no limits of its own: hostile text belongs in `flywheel.verifiers.chemistry_pool`, which runs this in a worker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rdkit import Chem, rdBase

from flywheel.verifiers.chemistry_answer import ALLOWANCES, RejectedAnswerError, check_prefix, read_molecule
from flywheel.verifiers.chemistry_constraints import KINDS, Answer, Constraint, Finding
from flywheel.verifiers.chemistry_reaction import Reaction, read_reaction

rdBase.DisableLog("rdApp.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledTask:
    """A payload's constraints, ready to check answers."""

    constraints: tuple[Constraint, ...]
    allow: frozenset[str]
    prefix: str
    product_of: Callable[[Reaction], Chem.Mol] | None


def compile_task(payload: Mapping[str, Any]) -> CompiledTask:
    """Return a chemistry payload's constraints, compiled.

    Raises:
        ValueError: it is malformed; the message says where.
    """
    specs, allow = payload.get("constraints"), payload.get("allow", [])
    if not isinstance(specs, list | tuple) or not specs:
        raise ValueError(f"chemistry payload: constraints is {specs!r}, expected a list with at least one constraint")
    if not isinstance(allow, list | tuple) or not all(isinstance(name, str) and name in ALLOWANCES for name in allow):
        raise ValueError(f"chemistry payload: allow is {allow!r}, expected some of {sorted(ALLOWANCES)}")
    constraints = []
    for spec in specs:
        kind = spec.get("kind") if isinstance(spec, Mapping) else None
        if not isinstance(spec, Mapping) or not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"chemistry payload: constraint {spec!r} has no known kind; known: {', '.join(KINDS)}")
        constraints.append(KINDS[kind](spec))
    prefixes = [c.prefix for c in constraints if c.prefix]
    products = [c.product_of for c in constraints if c.product_of]
    if len(prefixes) + len(products) > 1:
        raise ValueError("chemistry payload: more than one of the constraints 'completes' and 'reaction', expected at most one")
    lifted = frozenset(allow).union(*(c.allows for c in constraints))
    for prefix in prefixes:
        try:
            check_prefix(prefix, lifted)
        except RejectedAnswerError as error:
            raise ValueError(f"constraint 'completes': no answer completes the prefix {prefix!r} ({error})") from error
    return CompiledTask(
        constraints=tuple(constraints), allow=lifted, prefix="".join(prefixes), product_of=products[0] if products else None
    )


@lru_cache(maxsize=512)
def compile_json(payload_json: str) -> CompiledTask:
    """Return `compile_task` of a payload as JSON, remembered."""
    return compile_task(json.loads(payload_json))


def judge(task: CompiledTask, answer: str) -> list[Finding]:
    """Return one finding for the rules of every answer, then one a constraint; a refused answer has only the refusal."""
    try:
        read = read_answer(task, answer)
    except RejectedAnswerError as error:
        return [Finding(error.rule, False, error.detail)]
    return [Finding("valid", True, ""), *(_check(c, read) for c in task.constraints if c.name != "valid")]


def read_answer(task: CompiledTask, answer: str) -> Answer:
    """Return the answer as the constraints see it.

    Raises:
        RejectedAnswerError: it breaks a rule.
    """
    reaction = None
    if task.product_of is not None:
        reaction = read_reaction(answer, task.allow)
        mol = task.product_of(reaction)
    else:
        mol = read_molecule(answer, task.allow, task.prefix)
    main = mol
    if "fragments" in task.allow:
        main = max(Chem.GetMolFrags(mol, asMols=True), key=lambda fragment: (fragment.GetNumHeavyAtoms(), fragment.GetNumAtoms()))
    return Answer(mol, main, reaction)


def _check(constraint: Constraint, answer: Answer) -> Finding:
    try:
        passed, detail = constraint.check(answer)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - RDKit can't compute on the molecule, or a plug-in's property has a bug
        return Finding(constraint.name, False, f"can't be computed: {type(error).__name__}")
    return Finding(constraint.name, passed, detail[:200])
