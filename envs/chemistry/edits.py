"""Named transformations of a molecule: what the tool ``edit`` applies, and what optimisation tasks are made with."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdChemReactions

from flywheel.verifiers.chemistry_plausible import broken_rule

MAX_SITES = 60

EDITS: dict[str, str] = {
    "add methyl": "[#6,#7;!H0;+0:1]>>[*:1]-C",
    "add fluorine": "[#6;!H0:1]>>[*:1]-F",
    "add chlorine": "[#6;!H0:1]>>[*:1]-Cl",
    "add hydroxyl": "[#6;!H0;!$([#6]=O):1]>>[*:1]-O",
    "add amino": "[#6;!H0;!$([#6]=O):1]>>[*:1]-N",
    "add methoxy": "[#6;!H0;!$([#6]=O):1]>>[*:1]-OC",
    "add cyano": "[#6;!H0;!$([#6]=O):1]>>[*:1]-C#N",
    "add trifluoromethyl": "[#6;!H0:1]>>[*:1]-C(F)(F)F",
    "add carboxyl": "[#6;!H0;!$([#6]=O):1]>>[*:1]-C(=O)O",
    "remove methyl": "[#6,#7,#8,#16:1]-[CH3]>>[*:1]",
    "remove halogen": "[#6:1]-[F,Cl,Br,I]>>[*:1]",
    "remove hydroxyl": "[#6;!$([#6]=O):1]-[OX2H]>>[*:1]",
    "remove amino": "[#6;!$([#6]=O):1]-[NX3H2]>>[*:1]",
    "hydroxyl to fluorine": "[#6;!$([#6]=O):1]-[OX2H]>>[*:1]-F",
    "chlorine to fluorine": "[#6:1]-Cl>>[*:1]-F",
    "chlorine to methyl": "[#6:1]-Cl>>[*:1]-C",
    "methyl to chlorine": "[#6:1]-[CH3]>>[*:1]-Cl",
    "methyl to trifluoromethyl": "[#6:1]-[CH3]>>[*:1]-C(F)(F)F",
    "methoxy to hydroxyl": "[#6:1]-[OX2:2]-[CH3]>>[*:1]-[O:2]",
    "acid to methyl ester": "[CX3:1](=[O:2])-[OX2H]>>[C:1](=[O:2])-OC",
    "acid to amide": "[CX3:1](=[O:2])-[OX2H]>>[C:1](=[O:2])-N",
    "ester to amide": "[CX3:1](=[O:2])-[OX2H0;!R]-[#6]>>[C:1](=[O:2])-N",
    "alcohol to ketone": "[CX4;H1,H2;$(C[#6]):1]-[OX2H:2]>>[C:1]=[O:2]",
    "ketone to alcohol": "[CX3;H1,$(C([#6])[#6]):1]=[OX1:2]>>[C:1]-[O:2]",
    "alkene to alkane": "[CX3:1]=[CX3:2]>>[C:1]-[C:2]",
    "ring carbon to nitrogen": "[cH;r6:1]>>[n:1]",
    "ring nitrogen to carbon": "[n;r6;X2:1]>>[cH:1]",
    "methylene to oxygen": "[#6:1]-[CX4H2:2]-[#6:3]>>[*:1]-[O:2]-[*:3]",
    "methylene to nitrogen": "[#6:1]-[CX4H2:2]-[#6:3]>>[*:1]-[NH:2]-[*:3]",
    "ether to methylene": "[#6:1]-[OX2:2]-[#6:3]>>[*:1]-[CH2:2]-[*:3]",
    "lengthen chain": "[CX4;!R:1]-[*:2]>>[C:1]-C-[*:2]",
    "shorten chain": "[*:1]-[CX4H2;!R]-[*:2]>>[*:1]-[*:2]",
}


@cache
def _reaction(name: str) -> Any:
    compiled = rdChemReactions.ReactionFromSmarts(EDITS[name])
    compiled.Initialize()
    return compiled


def edited(mol: Chem.Mol, name: str, *, max_sites: int = MAX_SITES, rng: random.Random | None = None) -> list[str]:
    """Return the plausible molecules that a transformation makes of `mol`, one a site, as sorted canonical SMILES.

    Args:
        mol: The molecule.
        name: Of `EDITS`.
        max_sites: How many sites are tried.
        rng: Chooses them, where there are more; else the first.

    Raises:
        KeyError: no such transformation.
    """
    products = [product for (product,) in _reaction(name).RunReactants((mol,), MAX_SITES)]
    if rng is not None:
        rng.shuffle(products)
    found = set()
    for product in products[:max_sites]:
        try:
            Chem.SanitizeMol(product)
            # Read again: what RDKit spells and can't read is no molecule.
            made = Chem.MolFromSmiles(Chem.MolToSmiles(product))
        except ValueError:
            continue
        if made is not None and broken_rule(made) is None:
            found.add(str(Chem.MolToSmiles(made)))
    return sorted(found - {str(Chem.MolToSmiles(mol))}, key=lambda smiles: (len(smiles), smiles))
