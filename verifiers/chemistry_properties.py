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


def carbon_signals(mol: Chem.Mol) -> int:
    """Return the number of kinds of carbon: the lines of a proton-decoupled 13C spectrum that no accident merges."""
    kinds = Chem.CanonicalRankAtoms(mol, breakTies=False, includeChirality=False)
    return len({kinds[atom.GetIdx()] for atom in mol.GetAtoms() if atom.GetAtomicNum() == 6})


def _carbons_with(num_hydrogens: int) -> Property:
    """Return the count of carbons with that many hydrogens: what DEPT tells."""
    return lambda mol: sum(atom.GetAtomicNum() == 6 and atom.GetTotalNumHs(True) == num_hydrogens for atom in mol.GetAtoms())


_VALENCE_OVER_TWO = {1: -1, 5: 1, 6: 2, 7: 1, 9: -1, 14: 2, 15: 1, 17: -1, 35: -1, 53: -1}


def unsaturation(mol: Chem.Mol) -> float:
    """Return the degree of unsaturation that the formula gives: rings plus double bonds, a triple bond counting as two."""
    excess = sum(_VALENCE_OVER_TWO.get(atom.GetAtomicNum(), 0) - atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return 1 + (excess + Chem.GetFormalCharge(mol)) / 2


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
    "unsaturation": unsaturation,
    "carbon_signals": carbon_signals,
    "carbons_h3": _carbons_with(3),
    "carbons_h2": _carbons_with(2),
    "carbons_h1": _carbons_with(1),
    "carbons_h0": _carbons_with(0),
    "stereocenters": lambda mol: len(_stereocenters(mol)),
    "unspecified_stereocenters": lambda mol: sum(info.specified == Chem.StereoSpecified.Unspecified for info in _stereocenters(mol)),
}


def find_property(name: str) -> Property:
    """Return the property called `name`, or the plugged-in one at a raw ``module:function``.

    A plug-in takes an RDKit molecule and returns a float, for ethanol at the least; it runs in the verifier's worker, under its limits.

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
    if not callable(found):
        raise ValueError(f"property {name!r} is {type(found).__name__}, expected a function")
    return found
