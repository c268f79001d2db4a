"""Plug-in properties that stand for RDKit code which one molecule breaks."""

import os

from rdkit import Chem


def _has_fluorine(mol: Chem.Mol) -> bool:
    return any(atom.GetSymbol() == "F" for atom in mol.GetAtoms())


def stalls_on_fluorine(mol: Chem.Mol) -> float:
    while _has_fluorine(mol):
        pass
    return 0.0


def crashes_on_fluorine(mol: Chem.Mol) -> float:
    if _has_fluorine(mol):
        os.abort()
    return 0.0


def allocates_on_fluorine(mol: Chem.Mol) -> float:
    return float(len(bytearray(1 << 40))) if _has_fluorine(mol) else 0.0


def count_secrets(mol: Chem.Mol) -> float:
    return float(sum("SECRET" in name for name in os.environ))
