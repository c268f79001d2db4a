"""Family ``stereo``: which of a molecule's stereoisomers has the given descriptors?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from rdkit import Chem
from rdkit.Chem import rdCIPLabeler

from flywheel.contracts import Knob
from flywheel.envs.chemistry.assembly import SHAPE_KNOBS, assemble
from flywheel.envs.chemistry.family import ChemistryFamily, Made, NoSuchTaskError
from flywheel.types import Task

LABELS = ("R", "S", "E", "Z")


class StereoFamily(ChemistryFamily):
    """Asks ``Give the SMILES of the isomer of CC(N)C(=O)O in which atom 2 is S; atoms count from 1 as written``."""

    family = "stereo"
    knobs: Mapping[str, Knob] = {
        **SHAPE_KNOBS,
        "max_elements": Knob(low=1, high=6, default=(1, 3), help="stereocentres and double bonds, at most"),
        "chain": Knob(low=1, high=4, default=(1, 2), help="links of a chain with stereocentres that an aromatic ring gets"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Assemble a molecule, choose an isomer and read its labels."""
        rng = random.Random(seed)
        flat = _flat(_lengthened(assemble(params, seed), min(params["chain"], params["max_elements"]), rng))
        mol = Chem.MolFromSmiles(flat)
        elements = [info for info in Chem.FindPotentialStereo(mol) if info.specified != Chem.StereoSpecified.Specified]
        if not 0 < len(elements) <= params["max_elements"]:
            raise NoSuchTaskError(f"{len(elements)} stereo elements")
        for info in elements:
            if info.type == Chem.StereoType.Atom_Tetrahedral:
                tags = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
                mol.GetAtomWithIdx(info.centeredOn).SetChiralTag(rng.choice(tags))
            elif info.type == Chem.StereoType.Bond_Double:
                _set_double_bond(mol.GetBondWithIdx(info.centeredOn), rng)
        return _asked(mol, elements, flat)

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for the isomer by its labels; every element of it has to have one."""
        mol = Chem.MolFromSmiles(reference)
        flat = _flat(mol)
        mol = Chem.RenumberAtoms(mol, list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]))
        elements = list(Chem.FindPotentialStereo(mol))
        if not 0 < len(elements) <= params["max_elements"]:
            raise NoSuchTaskError(f"{len(elements)} stereo elements")
        return _asked(mol, elements, flat)

    def trivial(self, task: Task) -> Sequence[str]:
        """Return the molecule without configuration, too."""
        return (*super().trivial(task), _flat(Chem.MolFromSmiles(task.payload["constraints"][0]["value"])))


def _asked(mol: Chem.Mol, elements: Sequence[Chem.StereoInfo], flat: str) -> Made:
    """Return the task that tells an isomer by its labels.

    Args:
        mol: The isomer, its atoms in the order in which `flat` writes them.
        elements: Its stereo elements.
        flat: Its SMILES without configuration.

    Raises:
        NoSuchTaskError: an element has no label.
    """
    smiles = Chem.MolToSmiles(mol)
    rdCIPLabeler.AssignCIPLabels(mol)
    said = [_said(mol, info) for info in elements]
    # An element that lost its meaning (its neighbours turned out the same) has no label: other isomers would read alike.
    left = Chem.FindPotentialStereo(Chem.MolFromSmiles(smiles))
    if not all(said) or sum(info.specified == Chem.StereoSpecified.Specified for info in left) != len(elements):
        raise NoSuchTaskError("not every element has a label of its own")
    prompt = f"Give the SMILES of the isomer of {flat} in which {', '.join(said)}; atoms count from 1 as written."
    return Made(prompt, [{"kind": "smiles", "value": smiles}], smiles)


def _flat(mol: Chem.Mol) -> str:
    return str(Chem.MolToSmiles(mol, isomericSmiles=False))


def _lengthened(mol: Chem.Mol, num_links: int, rng: random.Random) -> Chem.Mol:
    """Return the molecule with a chain on one of its aromatic carbons."""
    sites = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetIsAromatic() and atom.GetAtomicNum() == 6 and atom.GetTotalNumHs()]
    if not sites:
        return mol
    links = [rng.choice(("C(O)", "C(C)", "C(Cl)", "C(N)", "C=C")) for _ in range(num_links)]
    chain = Chem.MolFromSmiles("".join(links) + "C")
    draft = Chem.RWMol(mol)
    first = draft.GetNumAtoms()
    draft.InsertMol(chain)
    draft.AddBond(rng.choice(sites), first, Chem.BondType.SINGLE)
    made = Chem.MolFromSmiles(Chem.MolToSmiles(draft.GetMol()))
    if made is None:
        raise NoSuchTaskError("the chain does not fit")
    return made


def _set_double_bond(bond: Chem.Bond, rng: random.Random) -> None:
    ends = []
    for atom, other in ((bond.GetBeginAtom(), bond.GetEndAtomIdx()), (bond.GetEndAtom(), bond.GetBeginAtomIdx())):
        ends.append(min(neighbour.GetIdx() for neighbour in atom.GetNeighbors() if neighbour.GetIdx() != other))
    bond.SetStereoAtoms(*ends)
    bond.SetStereo(rng.choice((Chem.BondStereo.STEREOCIS, Chem.BondStereo.STEREOTRANS)))


def _said(mol: Chem.Mol, info: Chem.StereoInfo) -> str:
    """Return what the prompt says of one stereo element; empty where it has no label."""
    is_atom = info.type == Chem.StereoType.Atom_Tetrahedral
    element = mol.GetAtomWithIdx(info.centeredOn) if is_atom else mol.GetBondWithIdx(info.centeredOn)
    label = element.GetProp("_CIPCode") if element.HasProp("_CIPCode") else ""
    if label not in LABELS:
        return ""
    if is_atom:
        return f"atom {info.centeredOn + 1} is {label}"
    return f"bond {element.GetBeginAtomIdx() + 1}-{element.GetEndAtomIdx() + 1} is {label}"
