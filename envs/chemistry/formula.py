"""Family ``formula``: any plausible molecule of a given formula."""

from __future__ import annotations

from collections.abc import Mapping

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import GROWTH_KNOBS, ChemistryFamily, Made, grow_reference
from flywheel.envs.chemistry.growth import formula_of


class FormulaFamily(ChemistryFamily):
    """Asks ``Give the SMILES of a molecule C4H9NO unsaturation 1``."""

    family = "formula"
    knobs: Mapping[str, Knob] = GROWTH_KNOBS

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Grow a molecule and ask for its formula."""
        return self.about(grow_reference(params, seed), params, seed)

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for the molecule's formula."""
        formula = formula_of(reference)
        constraints = [{"kind": "formula", "value": formula.text}, {"kind": "plausible"}]
        return Made(f"Give the SMILES of a molecule {formula.words}.", constraints, reference)
