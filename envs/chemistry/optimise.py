"""Family ``optimise``: better than a start molecule in some property, and still like it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rdkit import Chem, DataStructs

from flywheel.contracts import Knob
from flywheel.envs.chemistry.assembly import SHAPE_KNOBS, assemble
from flywheel.envs.chemistry.edits import EDITS, edited
from flywheel.envs.chemistry.family import ChemistryFamily, Made, NoSuchTaskError
from flywheel.types import Task
from flywheel.verifiers.chemistry_constraints import fingerprint
from flywheel.verifiers.chemistry_properties import PROPERTIES

MIN_SIMILARITY = 0.15
TRIES = 6


class Goal(NamedTuple):
    """A property, the way that it should go, and the least step that counts."""

    name: str
    sign: int
    step: float


GOALS = (
    Goal("qed", 1, 0.03),
    Goal("logs", -1, 0.3),
    Goal("logs", 1, 0.3),
    Goal("logp", 1, 0.3),
    Goal("logp", -1, 0.3),
    Goal("tpsa", 1, 8.0),
    Goal("tpsa", -1, 8.0),
)
DECIMALS = {"qed": 3, "logs": 2, "logp": 2, "tpsa": 1}


class _Edit(NamedTuple):
    name: str
    before: str
    after: str


class _Improvement(NamedTuple):
    start: str
    edits: list[_Edit]
    goals: list[Goal]


class OptimiseFamily(ChemistryFamily):
    """Asks ``Change Cc1ccccc1 to a molecule with qed at least 0.5 and similarity (ECFP4) at least 0.3 to it``."""

    family = "optimise"
    knobs: Mapping[str, Knob] = {
        **SHAPE_KNOBS,
        "num_edits": Knob(low=1, high=3, default=(1, 2), help="changes that the reference takes, at most"),
        "tightness": Knob(low=1, high=4, default=(1, 3), help="quarters of the reference's gain that are asked for"),
        "num_goals": Knob(low=1, high=2, default=(1, 1), help="properties to improve, at most"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Edit a molecule and ask for a share of what the edits gained."""
        start, edits, goals = self._improvement(params, seed)
        reference = edits[-1].after
        before, after = Chem.MolFromSmiles(start), Chem.MolFromSmiles(reference)
        similarity = DataStructs.TanimotoSimilarity(fingerprint(before), fingerprint(after))
        floor = math.floor(100 * similarity * (0.8 + 0.05 * params["tightness"])) / 100
        constraints: list[dict[str, Any]] = [_bound(goal, before, after, params["tightness"]) for goal in goals]
        said = [f"{c['name']} at {'least' if 'min' in c else 'most'} {c['min'] if 'min' in c else c['max']:g}" for c in constraints]
        prompt = f"Change {start} to a molecule with {' and '.join(said)} and similarity (ECFP4) at least {floor:g} to it."
        near = {"kind": "similarity", "to": start, "min": floor}
        return Made(prompt, [*constraints, near, {"kind": "plausible"}], reference)

    def _improvement(self, params: Mapping[str, int], seed: int) -> _Improvement:
        rng = random.Random(seed)
        mol = assemble(params, seed)
        start = Chem.MolToSmiles(mol)
        edits: list[_Edit] = []
        for _ in range(rng.randint(1, params["num_edits"])):
            name, before = rng.choice(sorted(EDITS)), edits[-1].after if edits else start
            found = edited(Chem.MolFromSmiles(before), name, max_sites=3, rng=rng)
            if found:
                edits.append(_Edit(name, before, rng.choice(found)))
        if not edits or edits[-1].after == start:
            raise NoSuchTaskError("no edit fits")
        after = Chem.MolFromSmiles(edits[-1].after)
        if DataStructs.TanimotoSimilarity(fingerprint(mol), fingerprint(after)) < MIN_SIMILARITY:
            raise NoSuchTaskError("the edits leave nothing of the start")
        goals: list[Goal] = []
        for goal in rng.sample(GOALS, len(GOALS)):
            if goal.name not in {known.name for known in goals} and _gain(goal, mol, after) >= goal.step:
                goals.append(goal)
                if len(goals) == params["num_goals"]:
                    break
        if not goals:
            raise NoSuchTaskError("the edits improve nothing")
        return _Improvement(start, edits, goals)

    def trivial(self, task: Task) -> Sequence[str]:
        """Return the start molecule."""
        return super().trivial(task)

    def demonstrate(self, task: Task) -> list[str]:
        """Make the edits with the tool, then submit."""
        edits = self.replay(task, self._improvement).edits
        tried = [json.dumps({"name": "edit", "arguments": {"smiles": edit.before, "change": edit.name}}) for edit in edits]
        return [*tried, *super().demonstrate(task)]


def _gain(goal: Goal, before: Chem.Mol, after: Chem.Mol) -> float:
    return goal.sign * (float(PROPERTIES[goal.name](after)) - float(PROPERTIES[goal.name](before)))


def _bound(goal: Goal, before: Chem.Mol, after: Chem.Mol, tightness: int) -> dict[str, Any]:
    """Return the constraint that asks for `tightness` quarters of the gain, rounded towards the start."""
    at = float(PROPERTIES[goal.name](before)) + goal.sign * _gain(goal, before, after) * (0.15 + 0.2 * tightness)
    unit = 10.0 ** DECIMALS[goal.name]
    value = (math.floor(at * unit) if goal.sign > 0 else math.ceil(at * unit)) / unit
    return {"kind": "property", "name": goal.name, "min" if goal.sign > 0 else "max": value}
