"""Hindsight for molecules: a failed answer becomes the reference of a task that its family makes round it, with the failed task's knobs.

Where one answer alone is right, the family still says of which task the answer given is the right one (`ChemistryFamily.instead`): a
``stereo`` answer, of the isomer that it is; a ``forward`` one, of the reaction that does give it; a ``retrosynthesis`` one, of what its
reactants do give, which the answer is then made to say. No honest task is left, and ``no_task`` or ``no_reaction`` is counted, where a
molecule has no configuration to tell, and where no known reaction gives it or takes its reactants.

The answer is hostile text, so RDKit reads it in the killable worker, which calls `about_answer` and `inchikey` by their names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.families import families
from flywheel.envs.chemistry.family import ChemistryFamily, NoSuchTaskError, inchikey_of, scaffold_of
from flywheel.envs.chemistry.growth import formula_of
from flywheel.errors import NotRelabelledError
from flywheel.types import Task, Trajectory, Turn, Verdict, derive_seed, to_json
from flywheel.verifiers.chemistry_answer import RejectedAnswerError, read_molecule
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
        answer = trajectory.answer[:MAX_SENT_CHARS]
        with _workers() as pool:
            reply = pool.call(f"{__name__}:about_answer", json.loads(to_json(task)), derive_seed("about", task.id), answer)
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
            payload={**task.payload, "constraints": reply.value["constraints"], "scaffold": reply.value["scaffold"]},
            params=reply.value["params"],
            seed=task.seed,
        )
        child = made.derived(task, f"hindsight:{self.name}")
        answering = dataclasses.replace(trajectory, task_id=child.id)
        if reply.value["answer"] != answer:
            answering = dataclasses.replace(
                answering, turns=(Turn.in_hindsight("submit", smiles=reply.value["answer"]),), answer=reply.value["answer"]
            )
        return [(child, answering)]

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


def about_answer(failed: Mapping[str, Any], seed: int, answer: str) -> dict[str, Any]:
    """Return prompt, constraints and knobs of the task round an answer, and the answer to it; or ``refused`` with a reason."""
    task = Task.from_json(failed)
    made_by, params = families()[task.family], {name: int(value) for name, value in task.params.items()}
    assert isinstance(made_by, ChemistryFamily)
    try:
        smiles = Chem.MolToSmiles(made_by.read(task, answer))
    except RejectedAnswerError:
        return {"refused": "invalid"}
    except NotRelabelledError as error:
        return {"refused": str(error)}
    own = measured(made_by.knobs, params, smiles)
    if own["heavy_atoms"] < MIN_SHARE * params["heavy_atoms"]:
        return {"refused": "too_small"}
    if any(not made_by.knobs[name].low <= value <= made_by.knobs[name].high for name, value in own.items()):
        return {"refused": "out_of_range"}
    try:
        made = made_by.instead(task, answer, smiles, own, seed)
    except NoSuchTaskError:
        return {"refused": "no_task"}
    return {
        "prompt": made.prompt,
        "constraints": made.constraints,
        "params": own,
        "answer": made.reference,
        "scaffold": scaffold_of(smiles),
    }


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
