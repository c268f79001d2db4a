"""Which molecules of the stock react where: the index that reaction tasks and the search table are made with."""

from __future__ import annotations

import re
from functools import cache

from rdkit import Chem
from rdkit.Chem import rdSubstructLibrary

from flywheel.verifiers.chemistry_plausible import broken_rule
from flywheel.verifiers.chemistry_stock import stock
from flywheel.verifiers.chemistry_templates import BY_NAME


@cache
def reagents() -> tuple[Chem.Mol, ...]:
    """Return the plausible molecules of the stock."""
    return tuple(mol for mol in map(Chem.MolFromSmiles, stock()) if broken_rule(mol) is None or mol.HasSubstructMatch(_organometallic()))


@cache
def fitting(template: str) -> tuple[tuple[int, ...], ...]:
    """Return, for each place of a template, the numbers of the `reagents` that fit it."""
    return tuple(_matching(re.sub(r":\d+\]", "]", smarts)) for smarts in BY_NAME[template].smarts.partition(">>")[0].split("."))


@cache
def _organometallic() -> Chem.Mol:
    return Chem.MolFromSmarts("[#6]-[Mg]-[Cl,Br,I]")


@cache
def _matching(smarts: str) -> tuple[int, ...]:
    # One pattern a kind of reactant, however many templates take it.
    return tuple(sorted(_library().GetMatches(Chem.MolFromSmarts(smarts), maxResults=-1, numThreads=1)))


@cache
def _library() -> rdSubstructLibrary.SubstructLibrary:
    library = rdSubstructLibrary.SubstructLibrary(rdSubstructLibrary.MolHolder(), rdSubstructLibrary.PatternHolder())
    for mol in reagents():
        library.AddMol(mol)
    return library
