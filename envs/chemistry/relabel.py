"""Hindsight for molecules: a failed answer becomes the reference of a task that its family makes round it, with the failed task's knobs.

The answer is hostile text, so RDKit reads it in the killable worker, which calls `about_answer` and `inchikey` by their names.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.families import families
from flywheel.envs.chemistry.family import ChemistryFamily, NoSuchTaskError, inchikey_of
from flywheel.envs.chemistry.growth import formula_of
from flywheel.errors import NotRelabelledError
from flywheel.types import Task, Trajectory, Verdict, derive_seed
from flywheel.verifiers.chemistry_answer import RejectedAnswerError, read_molecule
from flywheel.verifiers.chemistry_plausible import broken_rule
from flywheel.verifiers.chemistry_pool import WorkerPool, acquire_shared, release_shared

MAX_SENT_CHARS = 3_000
MIN_SHARE = 0.5  # of the heavy atoms that the failed task's reference had


class ChemistryRelabeller:
    """Asks for what the molecule is. See `flywheel.contracts.Relabeller`."""

    name = "molecule"

    def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> list[tuple[Task, Trajectory]]:
        """Return the task that the family makes round the answer: as many constraints, as tight, as the failed one has."""
        family = families().get(task.family)
        if not isinstance(family, ChemistryFamily) or set(task.params) != set(family.knobs):
            raise NotRelabelledError("no_family")
        if not trajectory.answer:
            raise NotRelabelledError("no_answer")
        params = {name: int(value) for name, value in task.params.items()}
        answer = trajectory.answer[:MAX_SENT_CHARS]
        with _workers() as pool:
            asked = list(task.payload["constraints"])
            reply = pool.call(f"{__name__}:about_answer", task.family, asked, params, derive_seed("about", task.id), answer)
        if reply.status != "ok":
            raise NotRelabelledError("unusual" if reply.status == "task_error" else "limit")
        if "refused" in reply.value:
            raise NotRelabelledError(reply.value["refused"])
        if len(reply.value["constraints"]) < len(task.payload["constraints"]):
            raise NotRelabelledError("fewer_constraints")
        made = Task.create(
            env=task.env,
            family=task.family,
            prompt=reply.value["prompt"],
            payload={**task.payload, "constraints": reply.value["constraints"]},
            params=reply.value["params"],
            seed=task.seed,
        )
        child = made.derived(task, f"hindsight:{self.name}")
        return [(child, dataclasses.replace(trajectory, task_id=child.id))]

    def trivial(self, task: Task) -> Sequence[str]:
        """Return what the family says costs nothing to think of."""
        family = families()[task.family]
        assert isinstance(family, ChemistryFamily)
        return family.trivial(task)


def answer_keys(answers: Sequence[str]) -> list[str | None]:
    """Return the InChIKeys of hostile SMILES; None for what is no molecule."""
    with _workers() as pool:
        replies = [pool.call(f"{__name__}:inchikey", answer[:MAX_SENT_CHARS]) for answer in answers]
    return [reply.value if reply.status == "ok" else None for reply in replies]


@contextlib.contextmanager
def _workers() -> Iterator[WorkerPool]:
    pool = acquire_shared()
    try:
        yield pool
    finally:
        release_shared()


# ------------------------------------------------------------ in the worker


def about_answer(family: str, asked: list[dict[str, Any]], params: Mapping[str, int], seed: int, answer: str) -> dict[str, Any]:
    """Return prompt, constraints and knobs of the task round an answer, or ``refused`` with a reason."""
    made_by = families()[family]
    assert isinstance(made_by, ChemistryFamily)
    try:
        mol = read_molecule(answer, prefix=next((spec["prefix"] for spec in asked if spec["kind"] == "completes"), ""))
    except RejectedAnswerError:
        return {"refused": "invalid"}
    if broken_rule(mol) is not None:
        return {"refused": "implausible"}
    smiles = Chem.MolToSmiles(mol)
    own = measured(made_by.knobs, params, smiles)
    if own["heavy_atoms"] < MIN_SHARE * params["heavy_atoms"]:
        return {"refused": "too_small"}
    if any(not made_by.knobs[name].low <= value <= made_by.knobs[name].high for name, value in own.items()):
        return {"refused": "out_of_range"}
    try:
        made = made_by.instead(asked, answer, smiles, own, seed)
    except NoSuchTaskError:
        return {"refused": "no_task"}
    return {"prompt": made.prompt, "constraints": made.constraints, "params": own}


def measured(knobs: Mapping[str, Knob], params: Mapping[str, int], smiles: str) -> dict[str, int]:
    """Return the failed task's knobs with those that describe the reference read off the molecule: they predict how hard it is."""
    mol = Chem.MolFromSmiles(smiles)
    hetero = [atom.GetSymbol() for atom in mol.GetAtoms() if atom.GetAtomicNum() not in (1, 6)]
    own = {"heavy_atoms": mol.GetNumHeavyAtoms(), "num_hetero": len(hetero)}
    if "unsaturation" in knobs:
        own["unsaturation"] = formula_of(smiles).unsaturation
    least = {name: max(value, knobs[name].low) for name, value in own.items() if name in knobs and name != "heavy_atoms"}
    return {**params, "heavy_atoms": own["heavy_atoms"], **least}


def inchikey(smiles: str) -> str | None:
    """Return the InChIKey of an answer; None where it is no molecule."""
    try:
        return inchikey_of(Chem.MolToSmiles(read_molecule(smiles)))
    except RejectedAnswerError:
        return None
