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
TRIES = 8
_NAMES = sorted(EDITS)


class Property(NamedTuple):
    """A property to improve: the least step that counts, the decimals that prompts show, and whether it may be lowered."""

    step: float
    decimals: int
    both_ways: bool


IMPROVED: Mapping[str, Property] = {
    "qed": Property(0.03, 3, False),
    "logs": Property(0.3, 2, True),
    "logp": Property(0.3, 2, True),
    "tpsa": Property(8.0, 1, True),
}


class _Goal(NamedTuple):
    name: str
    start: float
    gain: float


class _Edit(NamedTuple):
    name: str
    before: str
    after: str


class _Improvement(NamedTuple):
    edits: list[_Edit]
    goals: list[_Goal]
    similarity: float


class OptimiseFamily(ChemistryFamily):
    """Asks ``Change Cc1ccccc1 to a molecule with qed at least 0.5 and similarity (ECFP4) at least 0.3 to it``."""

    family = "optimise"
    knobs: Mapping[str, Knob] = {
        **SHAPE_KNOBS,
        "num_edits": Knob(low=1, high=3, default=(1, 2), help="changes that the reference takes, at most"),
        "tightness": Knob(low=1, high=4, default=(1, 3), help="how much of the reference's gain and similarity is asked for"),
        "num_goals": Knob(low=1, high=2, default=(1, 1), help="properties to improve, at most"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Edit a molecule and ask for a share of what the edits gained."""
        edits, goals, similarity = self._improvement(params, seed)
        return self._asked(edits[0].before, edits[-1].after, goals, similarity, params)

    def instead(self, task: Task, answer: str, smiles: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for what the answer gained over the same start."""
        constraints = task.payload["constraints"]
        start = next(spec["to"] for spec in constraints if spec["kind"] == "similarity")
        before, after = Chem.MolFromSmiles(start), Chem.MolFromSmiles(smiles)
        similarity = DataStructs.TanimotoSimilarity(fingerprint(before), fingerprint(after))
        if similarity < MIN_SIMILARITY or similarity == 1.0:
            raise NoSuchTaskError("it is the start, or nothing of it is left")
        asked = {spec["name"] for spec in constraints if spec["kind"] == "property"}
        names = sorted(IMPROVED, key=lambda name: (name not in asked, name))  # what was asked for comes first
        return self._asked(start, answer, _gains(before, after, names, params["num_goals"]), similarity, params)

    def _asked(self, start: str, reference: str, goals: list[_Goal], similarity: float, params: Mapping[str, int]) -> Made:
        floor = math.floor(100 * similarity * (0.8 + 0.05 * params["tightness"])) / 100
        constraints: list[dict[str, Any]] = [_bound(goal, params["tightness"]) for goal in goals]
        said = [f"{c['name']} at {'least' if 'min' in c else 'most'} {c['min'] if 'min' in c else c['max']:g}" for c in constraints]
        prompt = f"Change {start} to a molecule with {' and '.join(said)} and similarity (ECFP4) at least {floor:g} to it."
        near = {"kind": "similarity", "to": start, "min": floor}
        return Made(prompt, [*constraints, near, {"kind": "plausible"}], reference)

    def _improvement(self, params: Mapping[str, int], seed: int) -> _Improvement:
        rng = random.Random(seed)
        before = assemble(params, seed)
        edits: list[_Edit] = []
        wanted, at = rng.randint(1, params["num_edits"]), Chem.MolToSmiles(before)
        for _ in range(TRIES):
            name = rng.choice(_NAMES)
            found = edited(Chem.MolFromSmiles(at), name, max_sites=1, rng=rng)
            if found:
                edits.append(_Edit(name, at, found[0]))
                at = found[0]
            if len(edits) == wanted:
                break
        if not edits or at == edits[0].before:
            raise NoSuchTaskError("no edit fits")
        after = Chem.MolFromSmiles(at)
        similarity = DataStructs.TanimotoSimilarity(fingerprint(before), fingerprint(after))
        if similarity < MIN_SIMILARITY:
            raise NoSuchTaskError("the edits leave nothing of the start")
        goals = _gains(before, after, rng.sample(sorted(IMPROVED), len(IMPROVED)), params["num_goals"])
        return _Improvement(edits, goals, similarity)

    def demonstrate(self, task: Task) -> list[str]:
        """Make the edits with the tool, then submit."""
        edits = self.replay(task, self._improvement).edits
        tried = [json.dumps({"name": "edit", "arguments": {"smiles": edit.before, "change": edit.name}}) for edit in edits]
        return [*tried, *super().demonstrate(task)]


def _gains(before: Chem.Mol, after: Chem.Mol, names: Sequence[str], count: int) -> list[_Goal]:
    """Return up to `count` properties, the first of `names`, that one molecule has more of than another, or less.

    Raises:
        NoSuchTaskError: there is none.
    """
    goals: list[_Goal] = []
    # QED takes longer than all else here: a quarter of the tasks have it, and no other looks at it.
    for name in (name for name in names if name != "qed" or name == names[0]):
        start = float(PROPERTIES[name](before))
        gain = float(PROPERTIES[name](after)) - start
        if (abs(gain) if IMPROVED[name].both_ways else gain) >= IMPROVED[name].step:
            goals.append(_Goal(name, start, gain))
            if len(goals) == count:
                break
    if not goals:
        raise NoSuchTaskError("nothing is improved")
    return goals


def _bound(goal: _Goal, tightness: int) -> dict[str, Any]:
    """Return the constraint that asks for a share of the gain, rounded towards the start."""
    unit = 10.0 ** IMPROVED[goal.name].decimals
    at = goal.start + goal.gain * (0.15 + 0.2 * tightness)
    value = (math.floor(at * unit) if goal.gain > 0 else math.ceil(at * unit)) / unit
    return {"kind": "property", "name": goal.name, "min" if goal.gain > 0 else "max": value}
