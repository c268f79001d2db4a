"""Family ``groups``: a plausible molecule that has given functional groups and no more heavy atoms than asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import GROWTH_KNOBS, ChemistryFamily, Made, grow_reference
from flywheel.envs.chemistry.formula_groups import choose_features


class GroupsFamily(ChemistryFamily):
    """Asks ``Give the SMILES of a molecule with alcohol and nitrile, at most 8 heavy atoms``.

    Without the bound on heavy atoms one molecule that has every group would solve every task.
    """

    family = "groups"
    knobs: Mapping[str, Knob] = {
        **GROWTH_KNOBS,
        "heavy_atoms": replace(GROWTH_KNOBS["heavy_atoms"], low=4, default=(5, 12)),
        "num_hetero": replace(GROWTH_KNOBS["num_hetero"], low=1, default=(2, 5)),
        "hetero_kinds": replace(GROWTH_KNOBS["hetero_kinds"], default=(3, 5)),
        "num_groups": Knob(low=1, high=4, default=(2, 3), help="groups or ring counts asked for, at most"),
        "tightness": Knob(low=1, high=3, default=(1, 3), help="3 allows no heavy atom more than the reference has, 1 allows two more"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Grow a molecule and ask for some of its groups."""
        return self.about(grow_reference(params, seed), params, seed)

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for some of the molecule's groups."""
        chosen = choose_features(reference, params["num_groups"], seed)
        most = Chem.MolFromSmiles(reference).GetNumHeavyAtoms() + 3 - params["tightness"]
        constraints = [
            *chosen.values(),
            {"kind": "property", "name": "heavy_atoms", "max": most},
            {"kind": "plausible"},
        ]
        names = list(chosen)
        wanted = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        return Made(f"Give the SMILES of a molecule with {wanted}, at most {most} heavy atoms.", constraints, reference)
