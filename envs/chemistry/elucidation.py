"""Family ``elucidation``: a structure from its formula and what a chemist would measure; no name is given."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from flywheel.contracts import Knob
from flywheel.envs.chemistry.assembly import SHAPE_KNOBS, assemble, some_groups
from flywheel.envs.chemistry.family import ChemistryFamily, Made
from flywheel.types import Task
from flywheel.verifiers.chemistry_groups import CHARGED_GROUPS, GROUPS, pattern
from flywheel.verifiers.chemistry_properties import PROPERTIES

COUNTS: Mapping[str, str] = {
    "carbon_signals": "carbon signals {}",
    "carbons_h3": "CH3 {}",
    "carbons_h2": "CH2 {}",
    "carbons_h1": "CH {}",
    "carbons_h0": "C without H {}",
    "rings": "rings {}",
    "aromatic_rings": "aromatic rings {}",
    "hbd": "H-bond donors {}",
    "rotatable_bonds": "rotatable bonds {}",
}
"""What is counted, and how prompts say it."""


class ElucidationFamily(ChemistryFamily):
    """Asks ``Give the SMILES of a molecule C8H8O3: carbon signals 8, CH3 1, ester, no phenol``."""

    family = "elucidation"
    knobs: Mapping[str, Knob] = {
        **SHAPE_KNOBS,
        "num_counts": Knob(low=1, high=7, default=(1, 4), help="spectral and other counts given"),
        "num_groups": Knob(low=0, high=3, default=(0, 2), help="groups known to be there, at most"),
        "num_absent": Knob(low=0, high=2, default=(0, 1), help="groups known to be absent"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Assemble a molecule and measure it."""
        return self.about(Chem.MolToSmiles(assemble(params, seed)), params, seed)

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Measure the molecule and ask for it."""
        mol, rng = Chem.MolFromSmiles(reference), random.Random(seed)
        formula = CalcMolFormula(mol)
        constraints: list[dict[str, Any]] = [{"kind": "formula", "value": formula}]
        said = []
        for name in sorted(rng.sample(sorted(COUNTS), params["num_counts"]), key=list(COUNTS).index):
            value = int(PROPERTIES[name](mol))
            constraints.append({"kind": "property", "name": name, "min": value, "max": value})
            said.append(COUNTS[name].format(value))
        present = sorted(some_groups(mol, params["num_groups"], rng))
        absent = sorted(_absent(mol, params["num_absent"], rng))
        constraints += [{"kind": "functional_group", "name": name} for name in present]
        constraints += [{"kind": "functional_group", "name": name, "min_count": 0, "max_count": 0} for name in absent]
        said += [*present, *(f"no {name}" for name in absent)]
        return Made(f"Give the SMILES of a molecule {formula}: {', '.join(said)}.", [*constraints, {"kind": "plausible"}], reference)

    def asked(self, task: Task) -> str:
        """Return the formula: all that is known of one composition lies on one side."""
        return f"formula {task.payload['constraints'][0]['value']}"


def _absent(mol: Chem.Mol, count: int, rng: random.Random) -> list[str]:
    names = rng.sample(COMMON_GROUPS, len(COMMON_GROUPS))
    return [name for name in names if not mol.HasSubstructMatch(pattern(name))][:count]


COMMON_GROUPS = [name for name in list(GROUPS)[:40] if name not in CHARGED_GROUPS]
"""Groups whose absence says something."""
