"""Family ``formula_groups``: a plausible molecule of a given formula that has given functional groups or rings."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from rdkit.Chem import rdMolDescriptors

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import GROWTH_KNOBS, Made, NoSuchTaskError, grow_reference
from flywheel.envs.chemistry.growth import MAX_REMEMBERED, formula_of, molecule_of
from flywheel.envs.chemistry.mutations import Wish, WishListFamily
from flywheel.verifiers.chemistry_groups import pattern

ASKED: Mapping[str, Sequence[str]] = {
    "O": ("alcohol", "ether", "acetal"),
    "O1": ("epoxide",),
    "O=": ("aldehyde", "ketone", "carboxylic acid", "ester"),
    "O=1": ("lactone",),
    "N": ("primary amine", "secondary amine", "tertiary amine"),
    "N=": ("imine",),
    "N#": ("nitrile",),
    "NO=": ("amide",),
    "NO=1": ("lactam",),
    "=": ("alkene",),
    "#": ("alkyne",),
    "1": ("arene",),
    "(": ("isopropyl", "tert-butyl"),
    "S": ("thiol", "sulfide"),
    "F": ("fluoride",),
    "CL": ("chloride",),
}
"""Groups that small molecules have, by the characters that no SMILES of such a molecule is without; 1 is any digit."""
_ANY_DIGIT = str.maketrans("023456789", "1" * 9)


class FormulaGroupsFamily(WishListFamily):
    """Asks ``Give the SMILES of a molecule C4H9NO unsaturation 1 with amide``."""

    family = "formula_groups"
    first_wish = 1
    knobs: Mapping[str, Knob] = {
        **GROWTH_KNOBS,
        "num_hetero": replace(GROWTH_KNOBS["num_hetero"], low=1, default=(1, 3)),
        "num_groups": Knob(low=1, high=3, default=(1, 2), help="groups or ring counts asked for, at most"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Grow a molecule and ask for its formula and some of its features."""
        return self.about(grow_reference(params, seed), params, seed)

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for the molecule's formula and some of its features."""
        chosen = choose_features(reference, params["num_groups"], seed)
        formula = formula_of(reference)
        constraints = [{"kind": "formula", "value": formula.text}, *chosen.values(), {"kind": "plausible"}]
        return Made(f"Give the SMILES of a molecule {formula.words} with {' and '.join(chosen)}.", constraints, reference)

    def more_wishes(self, params: Mapping[str, int], reference: str, rng: random.Random) -> Sequence[Wish]:
        """Return a wish for each group of the reference."""
        return group_wishes(reference)


def group_wishes(reference: str) -> list[Wish]:
    """Return a wish for each group of a molecule that tasks ask for, and for its rings."""
    return [Wish(words, dict(spec)) for words, spec in sorted(_features(reference).items())]


def choose_features(reference: str, count: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return up to `count` constraints that the molecule meets, in order of the words that a prompt uses for them.

    Raises:
        NoSuchTaskError: it has nothing that tasks ask for.
    """
    found = _features(reference)
    if not found:
        raise NoSuchTaskError(f"{reference} has none of the groups that tasks ask for")
    return {name: dict(found[name]) for name in sorted(random.Random(seed).sample(sorted(found), min(count, len(found))))}


@lru_cache(maxsize=MAX_REMEMBERED)
def _features(smiles: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the constraints that the molecule meets, by the words that a prompt uses."""
    mol, characters = molecule_of(smiles), set(smiles.upper().translate(_ANY_DIGIT))
    possible = (name for needed, names in ASKED.items() if characters.issuperset(needed) for name in names)
    found: dict[str, dict[str, Any]] = {
        name: {"kind": "functional_group", "name": name} for name in possible if mol.HasSubstructMatch(pattern(name))
    }
    rings = rdMolDescriptors.CalcNumRings(mol)
    if rings:
        found["one ring" if rings == 1 else f"{rings} rings"] = {"kind": "property", "name": "rings", "min": rings, "max": rings}
    return found
