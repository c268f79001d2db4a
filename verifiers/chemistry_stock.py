"""Which molecules count as available: a shipped list, and molbloom's filter of ZINC's in-stock compounds where it is installed.

The list (chemistry_stock.smi, written by tools/make_chemistry_stock.py) holds some 2,400 building blocks and everyday reagents.
The filter is the one that molbloom carries: nothing is ever downloaded, so that verdicts don't depend on the machine's network. It
takes about 7 % of made-up molecules for known ones, so what only the filter knows has to be plausible, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

from rdkit import Chem
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers

from flywheel.verifiers.chemistry_plausible import broken_rule

STOCK_FILE = Path(__file__).with_name("chemistry_stock.smi")
CATALOG = "zinc-instock-mini"
MAX_HEAVY_ATOMS = 40


@cache
def stock() -> tuple[str, ...]:
    """Return the shipped list as canonical SMILES, the smallest first."""
    return tuple(STOCK_FILE.read_text("ascii").split())


@cache
def _known() -> frozenset[str]:
    # The file's spelling is that of the RDKit that wrote it; another version may spell a molecule otherwise.
    mols = [Chem.MolFromSmiles(smiles) for smiles in stock()]
    return frozenset(str(Chem.MolToSmiles(mol, isomericSmiles=stereo)) for mol in mols for stereo in (True, False))


@cache
def _filter() -> Callable[[str], bool]:
    try:
        import molbloom

        molbloom.buy("CCO", catalog=CATALOG)
    except (ImportError, OSError):
        return lambda smiles: False
    return lambda smiles: bool(molbloom.buy(smiles, catalog=CATALOG))


@lru_cache(maxsize=4096)
def _in_stock(smiles: str) -> bool:
    if smiles in _known():
        return True
    mol = Chem.MolFromSmiles(smiles)
    if mol.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS or broken_rule(mol) is not None:
        return False
    # A catalogue lists a racemate by its enantiomers.
    centres = [info for info in Chem.FindPotentialStereo(mol) if info.type == Chem.StereoType.Atom_Tetrahedral]
    is_racemic = [info.specified for info in centres] == [Chem.StereoSpecified.Unspecified]
    forms = EnumerateStereoisomers(mol) if is_racemic else [mol]  # type: ignore[no-untyped-call]
    return any(_filter()(str(Chem.MolToSmiles(form))) for form in forms)


def is_available(mol: Chem.Mol) -> bool:
    """Whether a molecule can be bought: one with a configuration as that isomer, one without as a mixture or as either isomer."""
    return _in_stock(str(Chem.MolToSmiles(mol)))
