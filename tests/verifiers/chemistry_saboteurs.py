"""Plug-in properties that stand for RDKit code which one molecule breaks."""

import os

from rdkit import Chem


def _has_fluorine(mol: Chem.Mol) -> bool:
    return any(atom.GetSymbol() == "F" for atom in mol.GetAtoms())


def searches_forever_on_fluorine(mol: Chem.Mol) -> float:
    """One call into RDKit's C++ that would take longer than anybody waits: all walks through a sheet of graphite."""
    if _has_fluorine(mol):
        sheet = Chem.RWMol()
        for number in range(144):
            sheet.AddAtom(Chem.Atom(6))
            for before in (1, 12):
                if number >= before and (before == 12 or number % 12):
                    sheet.AddBond(number - before, number, Chem.BondType.SINGLE)
        sheet.HasSubstructMatch(Chem.MolFromSmarts("~".join(["*"] * 60) + "~[#9]"))
    return 0.0


def crashes_on_fluorine(mol: Chem.Mol) -> float:
    if _has_fluorine(mol):
        os.abort()
    return 0.0


def allocates_on_fluorine(mol: Chem.Mol) -> float:
    return float(len(bytearray(1 << 40))) if _has_fluorine(mol) else 0.0


def count_secrets(mol: Chem.Mol) -> float:
    return float(sum("SECRET" in name for name in os.environ))


def raises_on_fluorine(mol: Chem.Mol) -> float:
    return 0.0 / (not _has_fluorine(mol))
