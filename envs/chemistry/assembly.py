"""Puts ring systems and substituents together: the hidden references of the families that want drug-like molecules.

Rarity 1 takes what every textbook has, 2 adds the common heterocycles and groups, 3 the rest.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import NoSuchTaskError
from flywheel.verifiers.chemistry_groups import CHARGED_GROUPS, GROUPS, pattern
from flywheel.verifiers.chemistry_plausible import broken_rule

SCAFFOLDS: tuple[tuple[str, ...], ...] = (
    (
        *("c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CCCC1", "C1CC1", "c1ccoc1", "c1ccsc1", "c1cc[nH]c1", "C1CCNCC1", "C1CCOC1"),
        *("c1ccc2ccccc2c1", "C1COCCN1", "C1CNCCN1", "C1CCOCC1", "C1CCNC1", "c1ccc(-c2ccccc2)cc1", "c1ccc(Cc2ccccc2)cc1"),
    ),
    (
        *("c1cncnc1", "c1cnccn1", "c1c[nH]cn1", "c1cn[nH]c1", "c1cscn1", "c1cocn1", "C1CCC1", "C1CNC1", "C1COC1", "C1CCCCCC1"),
        *("c1ccc2[nH]ccc2c1", "c1ccc2ncccc2c1", "c1ccc2cnccc2c1", "c1ccc2occc2c1", "c1ccc2sccc2c1", "c1ccc2[nH]cnc2c1", "O=C1CCCN1"),
        *("O=C1CCCCC1", "O=C1CCCC1", "O=C1CCCO1", "c1ccc(Oc2ccccc2)cc1", "c1ccc(-c2ccccn2)cc1", "c1ccc2c(c1)CCCC2", "c1ccc2c(c1)OCO2"),
        *("O=C(Nc1ccccc1)c1ccccc1", "c1ccc(CNc2ccccc2)cc1", "c1ccc(N2CCOCC2)cc1", "c1ccc(N2CCNCC2)cc1", "c1ccc(CN2CCCCC2)cc1"),
    ),
    (
        *("c1nnc[nH]1", "c1nnn[nH]1", "c1cnno1", "c1cnns1", "c1ccnnc1", "c1ncncn1", "c1ccc2ncncc2c1", "c1ccc2nccnc2c1", "c1ccc2[nH]ncc2c1"),
        *(
            "c1ccc2scnc2c1",
            "c1ccc2ocnc2c1",
            "c1ccc2c(c1)[nH]c1ccccc12",
            "c1ccc2cc3ccccc3cc2c1",
            "C1CC2CCC1C2",
            "C1CC2CCC1CC2",
            "C1CC2CC1CN2",
        ),
        *(
            "O=c1ccc2ccccc2o1",
            "O=C1Nc2ccccc2C1",
            "O=C1NC(=O)c2ccccc21",
            "C1CC12CCNCC2",
            "C1CCC2(CC1)OCCO2",
            "c1cnc2[nH]ccc2c1",
            "c1ncc2[nH]cnc2n1",
        ),
        *(
            "O=C1CCNC(=O)N1",
            "C1CSCCN1",
            "C1CCSC1",
            "c1ccc(-c2ncccn2)cc1",
            "c1ccc(-c2nc3ccccc3[nH]2)cc1",
            "c1ccc(Cn2ccnc2)cc1",
            "c1ccc(-n2cccn2)cc1",
        ),
        *("O=C(NCc1ccccc1)c1ccncc1", "O=S(=O)(Nc1ccccc1)c1ccccc1", "c1ccc(OCc2ccccn2)cc1", "c1csc(-c2ccncc2)n1", "c1ccc(C2CCNCC2)cc1"),
    ),
)
SUBSTITUENTS: tuple[tuple[str, ...], ...] = (
    ("C", "CC", "O", "OC", "F", "Cl", "N", "C(=O)O", "C(=O)OC", "C(C)=O", "C=O", "C#N", "CO", "C(C)C", "CCC", "CCO"),
    (
        "Br",
        "C(F)(F)F",
        "C(N)=O",
        "NC",
        "N(C)C",
        "[N+](=O)[O-]",
        "C(=O)NC",
        "NC(C)=O",
        "OCC",
        "C(C)(C)C",
        "CN",
        "C=C",
        "C#C",
        "S",
        "SC",
        "CC(=O)O",
    ),
    (
        "OC(F)(F)F",
        "S(C)(=O)=O",
        "S(N)(=O)=O",
        "C(=O)N(C)C",
        "OC(C)=O",
        "CC#N",
        "CC(N)=O",
        "OCCO",
        "CN(C)C",
        "CCl",
        "N=C=S",
        "C=NO",
        "B(O)O",
        "I",
    ),
)
SHAPE_KNOBS: Mapping[str, Knob] = {
    "heavy_atoms": Knob(low=6, high=32, default=(8, 16), help="heavy atoms of the reference, about"),
    "rarity": Knob(low=1, high=3, default=(1, 2), help="how unusual its ring systems and substituents may be"),
}
"""What every family that assembles its references has."""
ATTEMPTS = 12
_GROUP_NAMES = sorted(set(GROUPS) - CHARGED_GROUPS)


@cache
def _site() -> Chem.Mol:
    return Chem.MolFromSmarts("[c,$([CX4;!$(C~[!#6])]);!H0]")


@cache
def _scaffolds(rarity: int) -> tuple[Chem.Mol, ...]:
    return tuple(Chem.MolFromSmiles(smiles) for tier in SCAFFOLDS[:rarity] for smiles in tier)


@cache
def _substituents(rarity: int) -> tuple[Chem.Mol, ...]:
    return tuple(Chem.MolFromSmiles(smiles) for tier in SUBSTITUENTS[:rarity] for smiles in tier)


def assemble(params: Mapping[str, int], seed: int) -> Chem.Mol:
    """Return a plausible molecule: a ring system with substituents on its carbons, up to about ``heavy_atoms``.

    Raises:
        NoSuchTaskError: the draws lead to none.
    """
    rng = random.Random(seed)
    wanted = params["heavy_atoms"]
    for _ in range(ATTEMPTS):
        scaffold = rng.choice(_scaffolds(params["rarity"]))
        if scaffold.GetNumHeavyAtoms() >= wanted:
            continue
        mol = _decorated(scaffold, wanted, _substituents(params["rarity"]), rng)
        if mol is not None and broken_rule(mol) is None:
            return mol
    raise NoSuchTaskError(f"no molecule of {wanted} heavy atoms")


def _decorated(scaffold: Chem.Mol, wanted: int, substituents: tuple[Chem.Mol, ...], rng: random.Random) -> Chem.Mol | None:
    sites = [site for (site,) in scaffold.GetSubstructMatches(_site())]
    rng.shuffle(sites)
    draft, missing = Chem.RWMol(scaffold), wanted - scaffold.GetNumHeavyAtoms()
    for site in sites[:4]:
        substituent = rng.choice(substituents)
        if missing < substituent.GetNumAtoms():
            continue
        first = draft.GetNumAtoms()
        draft.InsertMol(substituent)
        draft.AddBond(site, first, Chem.BondType.SINGLE)
        missing -= substituent.GetNumAtoms()
    mol = draft.GetMol()
    try:
        Chem.SanitizeMol(mol)
        # Read again: hydrogens are as RDKit reads them, which is what a verifier will see.
        made: Chem.Mol | None = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
    except ValueError:
        return None
    return made


def some_groups(mol: Chem.Mol, count: int, rng: random.Random, without: Chem.Mol | None = None) -> list[str]:
    """Return up to `count` functional groups of `mol`, drawn at random among those that `without` lacks."""
    found: list[str] = []
    for name in rng.sample(_GROUP_NAMES, len(_GROUP_NAMES)) if count else ():
        query = pattern(name)
        if mol.HasSubstructMatch(query) and not (without is not None and without.HasSubstructMatch(query)):
            found.append(name)
            if len(found) == count:
                break
    return found
