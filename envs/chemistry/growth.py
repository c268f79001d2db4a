"""Grows plausible molecules atom by atom from a seed: the hidden references of the task families.

The spelling is regular rather than canonical: it starts at a carbon end of the longest chain, writes side branches before the
longer rest, and closes rings where they were made, which a small model learns sooner than RDKit's canonical order.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from flywheel.types import derive_seed
from flywheel.verifiers.chemistry_formula import parse_formula
from flywheel.verifiers.chemistry_plausible import broken_rule

VALENCE = {"C": 4, "N": 3, "O": 2, "S": 2, "F": 1, "Cl": 1, "Br": 1}
RING_SIZES = (3, 5, 6)
CROWDED_RULES = {
    "OO": {"gem_diol", "hemiacetal", "carbonic_acid"},
    "OS": {"hemiacetal"},
    "NO": {"hemiaminal", "imidic_acid"},
    "NN": {"gem_diamine"},
    **{"".join(sorted(pair)): {"alpha_halo_heteroatom"} for pair in itertools.product(("F", "Cl", "Br"), "ONS")},
}
"""What a draft may break by two hetero-atoms on one carbon. This and the following is all: its atoms have their usual valences, and
what is no carbon is bonded to carbons only."""
MULTIPLE_BOND_RULES = {"=C": {"enol", "cumulene"}, "#C": {"enol"}, "=N": {"nh_imine"}, "=S": {"thioaldehyde"}}
"""By what its SMILES has, which begins at a carbon."""
RING_RULES = {"ring_strain", "ring_unsaturation", "bredt", "small_ring_carbonyl"}
BOND = {1: "", 2: "=", 3: "#"}
ATTEMPTS_BEFORE_RELAXING = 8
MAX_REMEMBERED = 16_384


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A molecule in the making: elements, free valences, and bond orders by atom pair, the earlier atom first.

    Its atoms are a tree, in which `parent` comes before its children, and what closes rings.
    """

    elements: list[str] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    bonds: dict[tuple[int, int], int] = field(default_factory=dict)
    parent: list[int] = field(default_factory=list)

    def add(self, element: str, parent: int) -> None:
        index = len(self.elements)
        self.elements.append(element)
        self.free.append(VALENCE[element])
        self.parent.append(parent)
        if index:
            self.bond(parent, index)

    def takes(self, element: str, parent: int) -> bool:
        return self.free[parent] > 0 and (element == "C" or self.elements[parent] == "C")

    def bond(self, first: int, second: int) -> None:
        self.bonds[first, second] = self.bonds.get((first, second), 0) + 1
        self.free[first] -= 1
        self.free[second] -= 1

    def crowds(self) -> frozenset[str]:
        """Return the pairs of hetero-atoms that some carbon holds together, each in order of the alphabet."""
        held: dict[int, list[str]] = {}
        for ends in self.bonds:
            for carbon, other in (ends, ends[::-1]):
                if self.elements[carbon] == "C" != self.elements[other]:
                    held.setdefault(carbon, []).append(self.elements[other])
        return frozenset("".join(sorted(pair)) for elements in held.values() for pair in itertools.combinations(elements, 2))

    def spell(self) -> str:
        elements, parent, num_atoms = self.elements, self.parent, len(self.elements)
        children: list[list[int]] = [[] for _ in elements]
        below = [1] * num_atoms  # atoms of the longest path from here away from the first atom
        for index in range(num_atoms - 1, 0, -1):
            children[parent[index]].append(index)
            below[parent[index]] = max(below[parent[index]], 1 + below[index])
        above = [0] * num_atoms  # those of the longest path that begins with the parent
        for index in range(1, num_atoms):
            beside = [below[other] for other in children[parent[index]] if other != index]
            above[index] = 1 + max(above[parent[index]], *beside, 0)
        digits = [""] * num_atoms
        for number, pair in enumerate((pair for pair in self.bonds if parent[pair[1]] != pair[0]), start=1):
            for end in pair:
                digits[end] += str(number)
        start = max((max(below[at], 1 + above[at]), -at) for at, element in enumerate(elements) if element == "C")
        text = ""
        left: list[str | tuple[int, int]] = [(-start[1], -1)]  # to be written, from the end: atoms with where they are come to from
        while left:
            one = left.pop()
            if isinstance(one, str):
                text += one
                continue
            index, before = one
            if before >= 0:
                text += BOND[self.bonds[(before, index) if before < index else (index, before)]]
            text += elements[index] + digits[index]
            branches = [(below[child], child) for child in children[index] if child != before]
            if index and parent[index] != before:
                branches.append((above[index], parent[index]))
            branches.sort()
            if branches:
                left.append((branches.pop()[1], index))
            for _, branch in reversed(branches):
                left += (")", (branch, index), "(")
        return text


def grow(num_atoms: int, hetero: Sequence[str], unsaturation: int, seed: int, irregularity: float = 0.3) -> str:
    """Return the SMILES of a plausible molecule with these heavy atoms; the rest are carbons.

    Where that many unsaturations or hetero-atoms lead nowhere in a few attempts, one fewer is tried, down to an alkane.

    Args:
        num_atoms: Heavy atoms, hetero-atoms among them.
        hetero: Hetero-atoms by element.
        unsaturation: Double bonds plus rings (a triple bond is two).
        seed: Same arguments, same molecule.
        irregularity: Share of the choices that are made at random: 0 gives straight chains with the hetero-atoms towards the end.
    """
    rng = random.Random(derive_seed("grow", num_atoms, tuple(hetero), unsaturation, irregularity, seed))
    elements = list(hetero)
    while True:
        for _ in range(ATTEMPTS_BEFORE_RELAXING):
            draft = _skeleton(rng, num_atoms, elements, irregularity)
            if draft is not None and all(_unsaturate(rng, draft, irregularity) for _ in range(unsaturation)):
                smiles = draft.spell()
                if _is_plausible(smiles, draft.crowds()):
                    return smiles
        if unsaturation:
            unsaturation -= 1
        else:
            elements.pop(rng.randrange(len(elements)))


@lru_cache(maxsize=256)  # a few look at the same one in turn
def molecule_of(smiles: str) -> Chem.Mol:
    """Return the molecule of a SMILES of our own making; several hold it, so nobody may change it."""
    return Chem.MolFromSmiles(smiles)


@cache
def _rules(crowds: frozenset[str], ring: bool, bonds: tuple[str, ...]) -> frozenset[str]:
    """Return the rules that a draft may break."""
    crowded = (CROWDED_RULES.get(pair, set()) for pair in crowds)
    return frozenset(RING_RULES if ring else ()).union(*crowded, *(MULTIPLE_BOND_RULES[bond] for bond in bonds))


@lru_cache(maxsize=MAX_REMEMBERED)  # small molecules come again and again
def _is_plausible(smiles: str, crowds: frozenset[str]) -> bool:
    """Whether the SMILES of a draft, whose `crowds` these are, is read and breaks no rule."""
    mol = molecule_of(smiles)
    rules = _rules(crowds, "1" in smiles, tuple(bond for bond in MULTIPLE_BOND_RULES if bond in smiles))
    return mol is not None and broken_rule(mol, rules) is None


@lru_cache(maxsize=MAX_REMEMBERED)
def num_heavy_atoms(smiles: str) -> int:
    """Return the number of heavy atoms of a SMILES of our own making."""
    return int(molecule_of(smiles).GetNumHeavyAtoms())


class Formula(NamedTuple):
    """A formula and its degree of unsaturation: rings plus double bonds, a triple bond counting as two."""

    text: str
    unsaturation: int

    @property
    def words(self) -> str:
        """The way prompts say it."""
        return f"{self.text} unsaturation {self.unsaturation}"


@lru_cache(maxsize=MAX_REMEMBERED)
def formula_of(smiles: str) -> Formula:
    """Return the formula of a SMILES of our own making."""
    text = str(CalcMolFormula(molecule_of(smiles)))
    counts, _ = parse_formula(text)
    missing = 2 + sum((VALENCE[element] - 2) * count for element, count in counts.items() if element != "H") - counts.get("H", 0)
    return Formula(text, missing // 2)


def _skeleton(rng: random.Random, num_atoms: int, hetero: Sequence[str], irregularity: float) -> _Draft | None:
    """Return a saturated tree, hetero-atoms on carbons only: a straight chain but for the irregular atoms."""
    draft = _Draft()
    draft.add("C", -1)
    last = 0
    for element in _chain(rng, num_atoms, hetero)[1:]:
        parent = last
        if rng.random() < irregularity or not draft.takes(element, last):
            fits = [index for index in range(len(draft.elements)) if draft.takes(element, index)]
            if not fits:
                return None
            parent = rng.choice(fits)
        draft.add(element, parent)
        if VALENCE[element] > 1:
            last = len(draft.elements) - 1
    return draft


def _chain(rng: random.Random, num_atoms: int, hetero: Sequence[str]) -> list[str]:
    """Return the elements of a chain: carbons first, then the hetero-atoms with one or two carbons between them."""
    order = rng.sample(list(hetero), len(hetero))
    carbons = num_atoms - len(order)
    chain: list[str] = []
    for element in order:
        spacers = 0 if not chain and rng.random() < 0.5 else min(rng.choice((1, 2)), carbons - 1)
        chain += ["C"] * spacers + [element]
        carbons -= spacers
    return (chain + ["C"] * carbons)[::-1]


def _unsaturate(rng: random.Random, draft: _Draft, irregularity: float) -> bool:
    """Raise a bond's order or close a ring; False where neither fits."""
    bonds = [pair for pair, order in draft.bonds.items() if order < 3 and draft.free[pair[0]] and draft.free[pair[1]]]
    rings = _ring_pairs(draft)
    if not bonds and not rings:
        return False
    if rng.random() < irregularity:
        draft.bond(*rng.choice([*bonds, *rings]))
        return True
    carbonyls = [pair for pair in bonds if "O" in (draft.elements[pair[0]], draft.elements[pair[1]])]
    first_ring = max((pair for pair in rings if pair[0] == 0), key=lambda pair: pair[1], default=None)
    regular = [pair for pair in (bonds[0] if bonds else None, carbonyls[-1] if carbonyls else None, first_ring) if pair]
    draft.bond(*rng.choice(regular or [*bonds, *rings]))
    return True


def _ring_pairs(draft: _Draft) -> list[tuple[int, int]]:
    """Return the pairs of atoms whose bond would close a ring of a usual size."""
    pairs = []
    for start in range(len(draft.elements)):
        at, size = start, 1
        while at and size < RING_SIZES[-1] and draft.free[start]:
            at, size = draft.parent[at], size + 1
            if size in RING_SIZES and draft.takes(draft.elements[start], at) and (at, start) not in draft.bonds:
                pairs.append((at, start))
    return pairs
