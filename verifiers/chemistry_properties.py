"""Descriptors by the names that tasks use, and the place where a learned predictor plugs in.

``logs`` is ESOL (Delaney, J. Chem. Inf. Comput. Sci. 2004, 44, 1000): log10 of the aqueous solubility in mol/L at 25 °C,
``0.16 - 0.63 cLogP - 0.0062 MW + 0.066 RB - 0.74 AP`` (RB rotatable bonds, AP share of heavy atoms that are aromatic). Our
deviation: cLogP is Crippen's, not Daylight's. ``sa`` is Ertl and Schuffenhauer's score (J. Cheminform. 2009, 1, 8; 1 easy, 10
hard), ``qed`` Bickerton's (Nat. Chem. 2012, 4, 90), ``logp`` Wildman and Crippen's, ``tpsa`` Ertl's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import QED, RDConfig, rdMolDescriptors
from rdkit.Chem.Descriptors import MolWt  # type: ignore[attr-defined]

Property = Callable[[Chem.Mol], float]


def crippen_logp(mol: Chem.Mol) -> float:
    """Return Wildman and Crippen's logP."""
    return float(rdMolDescriptors.CalcCrippenDescriptors(mol)[0])


def esol(mol: Chem.Mol) -> float:
    """Return Delaney's log10 solubility."""
    aromatic = sum(atom.GetIsAromatic() for atom in mol.GetAtoms()) / max(1, mol.GetNumHeavyAtoms())
    return float(
        0.16 - 0.63 * crippen_logp(mol) - 0.0062 * MolWt(mol) + 0.066 * rdMolDescriptors.CalcNumRotatableBonds(mol) - 0.74 * aromatic
    )


def synthetic_accessibility(mol: Chem.Mol) -> float:
    """Return the SA score of RDKit's contributed implementation (its fragment table is read once, about a second)."""
    folder = str(Path(RDConfig.RDContribDir) / "SA_Score")
    if folder not in sys.path:
        sys.path.append(folder)
    return float(importlib.import_module("sascorer").calculateScore(mol))


def _stereocenters(mol: Chem.Mol) -> list[Chem.StereoInfo]:
    return [info for info in Chem.FindPotentialStereo(mol) if info.type == Chem.StereoType.Atom_Tetrahedral]


PROPERTIES: dict[str, Property] = {
    "logp": crippen_logp,
    "mr": lambda mol: float(rdMolDescriptors.CalcCrippenDescriptors(mol)[1]),
    "mw": MolWt,
    "exact_mw": rdMolDescriptors.CalcExactMolWt,
    "tpsa": rdMolDescriptors.CalcTPSA,
    "qed": QED.qed,
    "sa": synthetic_accessibility,
    "logs": esol,
    "hbd": rdMolDescriptors.CalcNumHBD,
    "hba": rdMolDescriptors.CalcNumHBA,
    "rings": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "saturated_rings": rdMolDescriptors.CalcNumSaturatedRings,
    "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "fraction_csp3": rdMolDescriptors.CalcFractionCSP3,
    "heteroatoms": rdMolDescriptors.CalcNumHeteroatoms,
    "heavy_atoms": Chem.Mol.GetNumHeavyAtoms,
    "charge": Chem.GetFormalCharge,
    "stereocenters": lambda mol: len(_stereocenters(mol)),
    "unspecified_stereocenters": lambda mol: sum(info.specified == Chem.StereoSpecified.Unspecified for info in _stereocenters(mol)),
}


def find_property(name: str) -> Property:
    """Return the property called `name`, or the plugged-in one at a raw ``module:function``.

    A plug-in takes an RDKit molecule and returns a float; it runs in the verifier's worker, under its limits.

    Raises:
        ValueError: no such property.
    """
    if name in PROPERTIES:
        return PROPERTIES[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"property {name!r} is unknown; known: {', '.join(PROPERTIES)} (or give 'module:function')")
    try:
        found: Property = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"property {name!r}: can't import it ({error})") from error
    return found
