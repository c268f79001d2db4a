"""Named rules that a molecule must pass to be called plausible: would a chemist believe that it can sit in a bottle?

The rules aim at what a reward is hacked with (hetero-atom chains, strained cages, odd valences), and let known drugs,
solvents and reagents through (a table in the tests). A few real molecules pay for it: cubane, artemisinin (a peroxide) and free
metals are refused, because what looks like them is nearly always a trick. Sources: Clayden, Organic Chemistry, 2nd ed. (carbonyl hydrates,
enols, Bredt's rule, ring strain); the lists of reactive motifs that screening collections filter out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogEntry, SmartsMatcher

MAX_RING = 24


class Rule(NamedTuple):
    """A rule's name and what it demands or forbids."""

    name: str
    help: str


_VALENCES = {
    1: {1}, 5: {3}, 6: {4}, 7: {3}, 8: {2}, 9: {1}, 14: {4}, 15: {3, 5}, 16: {2, 4, 6}, 17: {1}, 34: {2, 4, 6}, 35: {1}, 53: {1, 3, 5},
}  # fmt: skip
_CHARGED_VALENCES = {(7, 1): {4}, (7, -1): {2}, (8, -1): {1}, (8, 1): {3}, (16, 1): {3}, (16, -1): {1}, (15, 1): {4}, (5, -1): {4}}
_IONS = {(z, c) for z, c in [(11, 1), (19, 1), (3, 1), (12, 2), (20, 2), (30, 2), (9, -1), (17, -1), (35, -1), (53, -1)]}


def _elements(mol: Chem.Mol) -> str | None:
    for atom in mol.GetAtoms():
        number, charge = atom.GetAtomicNum(), atom.GetFormalCharge()
        if number not in _VALENCES and (number, charge) not in _IONS:
            return f"element {atom.GetSymbol()} is outside organic chemistry"
    return None


def _valences(mol: Chem.Mol) -> str | None:
    for atom in mol.GetAtoms():
        number, charge = atom.GetAtomicNum(), atom.GetFormalCharge()
        if (number, charge) in _IONS and atom.GetDegree() == 0:
            continue
        usual = _VALENCES.get(number, set()) if charge == 0 else _CHARGED_VALENCES.get((number, charge), set())
        if atom.GetTotalValence() not in usual and not _is_isonitrile_carbon(atom):
            return f"{atom.GetSymbol()} with charge {charge:+d} and valence {atom.GetTotalValence()}"
    return None


def _is_isonitrile_carbon(atom: Chem.Atom) -> bool:
    return bool(atom.GetAtomicNum() == 6 and atom.GetFormalCharge() == -1 and atom.GetTotalNumHs() == 0 and atom.GetDegree() == 1)


_CHARGED_MOTIFS = [
    Chem.MolFromSmarts(smarts)
    for smarts in (
        "[N+](=O)[O-]",
        "[#7+][O-]",
        "[N]=[N+]=[N-]",
        "[#6]=[N+]=[N-]",
        "[C-]#[N+,O+]",
        "[C-]#N",
        "[S+,P+][O-]",
        "[#7+;!$([#7+]~[#7,#8])]",
        "[O-][C,S,P]=O",
        "[O-]c",
        "[S-][#6]",
        "[N-](S(=O)=O)",
        "[P+]([#6])([#6])([#6])[#6]",
        "[S+]([#6])([#6])[#6]",
        "[B-]",
        "[#7]~[#7+]",
        "[o+,s+]",
    )
]


def _charges(mol: Chem.Mol) -> str | None:
    charged = {a.GetIdx() for a in mol.GetAtoms() if a.GetFormalCharge() and a.GetDegree()}
    if not charged:
        return None
    for motif in _CHARGED_MOTIFS:
        for match in mol.GetSubstructMatches(motif, maxMatches=200):
            charged.difference_update(match)
    if charged:
        atom = mol.GetAtomWithIdx(min(charged))
        return f"{atom.GetSymbol()} with charge {atom.GetFormalCharge():+d} outside the usual charged groups"
    return None


def _ring_size(mol: Chem.Mol) -> str | None:
    largest = max((len(ring) for ring in mol.GetRingInfo().AtomRings()), default=0)
    return f"a ring of {largest} atoms, expected at most {MAX_RING}" if largest > MAX_RING else None


def _ring_strain(mol: Chem.Mol) -> str | None:
    info = mol.GetRingInfo()
    small = [set(ring) for ring in info.AtomRings() if len(ring) <= 4]
    for i, ring in enumerate(small):
        for other in small[:i]:
            # Three shared atoms of two four-rings are bicyclo[1.1.1]pentane, which drugs have.
            if len(ring & other) == 2 or (len(ring & other) > 2 and len(ring) + len(other) < 8):
                return "two rings of three or four atoms share a bond"
    for ring in info.BondRings():
        if len(ring) <= 3 and any(mol.GetBondWithIdx(b).GetBondTypeAsDouble() > 1 for b in ring):
            return "a double bond in a three-membered ring"
        if len(ring) == 4 and sum(mol.GetBondWithIdx(b).GetBondType() == Chem.BondType.DOUBLE for b in ring) > 1:
            return "two double bonds in a four-membered ring"
    return None


def _ring_unsaturation(mol: Chem.Mol) -> str | None:
    info = mol.GetRingInfo()
    for ring in info.BondRings():
        doubles: dict[int, int] = {}
        for index in ring:
            bond = mol.GetBondWithIdx(index)
            if bond.GetBondType() == Chem.BondType.TRIPLE and len(ring) < 8:
                return f"a triple bond in a ring of {len(ring)}"
            if bond.GetBondType() == Chem.BondType.DOUBLE:
                for end in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()):
                    doubles[end] = doubles.get(end, 0) + 1
        allenic = any(count > 1 and mol.GetAtomWithIdx(atom).GetAtomicNum() in (6, 7) for atom, count in doubles.items())
        if allenic and len(ring) < 9:
            return f"cumulated double bonds in a ring of {len(ring)}"
    return None


def _bredt(mol: Chem.Mol) -> str | None:
    rings = [set(ring) for ring in mol.GetRingInfo().AtomRings() if len(ring) <= 7]
    bridgeheads: set[int] = set()
    for i, ring in enumerate(rings):
        for other in rings[:i]:
            bridge = ring & other
            if len(bridge) > 2:
                # The bridge's ends; an atom inside it may well have a double bond, in a further ring that is fused there.
                bridgeheads |= {a for a in bridge if sum(n.GetIdx() in bridge for n in mol.GetAtomWithIdx(a).GetNeighbors()) == 1}
    for index in bridgeheads:
        ring_bonds = [bond for bond in mol.GetAtomWithIdx(index).GetBonds() if bond.IsInRing()]
        if len(ring_bonds) > 2 and any(bond.GetBondType() == Chem.BondType.DOUBLE for bond in ring_bonds):
            return "a double bond at a bridgehead (Bredt's rule)"
    return None


# Unstable motifs: name, what it is, SMARTS. Several SMARTS may share a name.
_HETERO = "[$([N,O;!a;!+]),$([SX2;!a])]"
_PLAIN_VINYL = "[CX3;!a;!$(C-[#6]=[O,N,S]);!$(C-C#N);!$(C-[N+]);!$(C-[N,O,S]=*);!$(C=O)]"
_MOTIFS: tuple[tuple[str, str, str], ...] = (
    ("nitrogen_chain", "a chain of four nitrogens outside an aromatic ring", "[#7;!a;!+]~[#7;!a]~[#7;!a]~[#7;!a]"),
    ("nitrogen_chain", "three singly bonded nitrogens in a row", "[NX3;!a]-[NX3;!a]-[NX3;!a]"),
    ("nitrogen_chain", "five nitrogens in a row in an aromatic ring", "n:n:n:n:n"),
    ("nitrogen_chain", "a 1,2,3,4-tetrazine", "[nr6]:[nr6]:[nr6]:[nr6]"),
    ("oxygen_chain", "three oxygens in a row", "[#8]~[#8]~[#8]"),
    ("peroxide", "an O-O bond", "[OX2]-[OX2]"),
    ("peroxide", "molecular oxygen", "[OX1]=[OX1]"),
    ("sulfur_chain", "four sulfurs in a row", "[SX2]-[SX2]-[SX2]-[SX2]"),
    ("hypervalent", "sulfur with four or more single bonds that no halogens explain", "[SX4,SX5,SX6;!$(S=*);!$(S(F)(F)F)]"),
    ("hypervalent", "phosphorus with five single bonds that no halogens explain", "[PX5;!$(P([F,Cl,Br])([F,Cl,Br])[F,Cl,Br])]"),
    ("hypervalent", "a double bond from carbon to tri- or tetravalent sulfur", "[S;X3,X4]=[#6]"),
    ("hypervalent", "iodine of valence three on saturated carbon", "[IX2,IX3]-[CX4]"),
    ("multiple_bond", "a quadruple bond", "*$*"),
    ("multiple_bond", "a multiple bond to phosphorus, silicon or boron of low coordination", "[PX1,PX2,SiX1,SiX2,SiX3,BX1,BX2;!a]=,#*"),
    ("multiple_bond", "S=S on divalent sulfur", "[SX1]=[SX1,SX2]"),
    ("heteroatom_chain", "an SH on nitrogen", "[SX2H]-[#7]"),
    ("heteroatom_chain", "N-O-N or O-N-O with single bonds", "[$([NX3]-[OX2]-[NX3]),$([OX2]-[NX3]-[OX2])]"),
    ("heteroatom_chain", "O-S-O on divalent sulfur", "[SX2]([OX2])[OX2]"),
    ("heteroatom_chain", "four N, O or S in a row with single bonds", f"{_HETERO}-{_HETERO}-{_HETERO}-{_HETERO}"),
    ("heteroatom_halide", "a halogen on oxygen or divalent sulfur", "[OX2,SX2]-[F,Cl,Br,I;X1]"),
    ("heteroatom_halide", "a halogen on nitrogen that no acyl group holds", "[#7;!$(N-C=O);!$(N-S(=O)=O)]-[F,Cl,Br,I]"),
    ("heteroatom_halide", "a halogen-halogen bond", "[F,Cl,Br,I]-[F,Cl,Br,I;X1]"),
    ("sulfenic_acid", "S-OH on divalent sulfur", "[SX2][OX2H]"),
    ("gem_diol", "two OH on one saturated carbon", "[CX4;!$(C-C(F)(F)F);!$(C-[CX4](Cl)(Cl)Cl);!$(C(C=O)C=O)]([OX2H])[OX2H]"),
    ("hemiacetal", "an open-chain hemiacetal", "[CX4;!R]([OX2H])[OX2H0;!R]"),
    ("hemiacetal", "OH and S on one open-chain carbon", "[CX4;!R]([OX2H])[SX2]"),
    ("hemiacetal", "an orthoacid", "[CX4]([OX2H])([OX2])[OX2,NX3]"),
    ("hemiaminal", "OH and a plain amine on one saturated carbon", "[CX4]([OX2H])[NX3;!a;!$(N-C=[O,N,S]);!$(N-S(=O)=O)]"),
    ("gem_diamine", "an NH2 and another plain amine on one saturated carbon", "[CX4]([NX3H2])[NX3;!a;!$(N-C=[O,N,S])]"),
    ("hemiaminal", "an NH2 and an ether oxygen on one saturated carbon", "[CX4]([NX3H2])[OX2]"),
    ("small_ring_carbonyl", "C=O or C=N on a three-membered ring", "[C;r3]=[OX1,NX2]"),
    ("alpha_halo_heteroatom", "a halogen beside OH, SH or N-H", "[CX4]([F,Cl,Br,I])[OX2H,SX2H,$([NX3;H1,H2;!$(N-C=O)])]"),
    ("carbonic_acid", "a free carbonic or carbamic acid", "[OX2H][CX3](=[OX1])[OX2,NX3]"),
    ("carbonic_acid", "a haloformic acid", "[OX2H][CX3](=[OX1])[F,Cl,Br,I]"),
    ("enol", "an enol that nothing conjugates", f"[OX2H]{_PLAIN_VINYL}={_PLAIN_VINYL}"),
    ("enol", "a primary enamine that nothing conjugates", f"[NX3H2]{_PLAIN_VINYL}={_PLAIN_VINYL}"),
    ("enol", "OH, SH or N-H on a triple bond", "[OX2H,SX2H,$([NX3;H1,H2])][CX2]#[CX2]"),
    ("imidic_acid", "OH on C=N (it is the amide)", "[OX2H][CX3;!a]=[NX2]"),
    ("nh_imine", "an open-chain N-H imine of an aldehyde", "[CX3;H1,H2;!R;!$(C-[N,O,S])]=[NX2H]"),
    ("thioaldehyde", "a thioaldehyde", "[CX3;H1,H2;!$(C-[N,O,S])]=[SX1]"),
    ("diazene", "N=N-H", "[NX2;!a;H1]=[NX2;!a]"),
    ("nitroso", "a nitroso group beside a C-H (it is the oxime)", "[CX4;H1,H2,H3][NX2]=[OX1]"),
    ("nitroso", "a nitroso group on N-H", "[NX3;H1,H2][NX2]=[OX1]"),
    ("cumulene", "C=C=C=C", "[#6]=[#6]=[#6]=[#6]"),
)


def _odd_atom() -> str:
    """Return SMARTS for an atom whose element, charge or valence is unusual (without recursion, which RDKit is slow at)."""
    usual: dict[tuple[int, int], set[int]] = {(number, 0): valences for number, valences in _VALENCES.items()} | _CHARGED_VALENCES
    cases = ["".join(f"&!#{number}" for number in _VALENCES)[1:]]
    for number in _VALENCES:
        charges = [charge for element, charge in usual if element == number]
        cases.append(f"#{number}" + "".join(f"&!{charge:+d}" for charge in charges))
        cases += [f"#{number}&{charge:+d}" + "".join(f"&!v{valence}" for valence in usual[number, charge]) for charge in charges]
    return f"[{','.join(cases)}]"


class _Structural(NamedTuple):
    """A rule that takes code: what breaks it (None: nothing), asked only of molecules that its gate, a SMARTS, matches."""

    rule: Rule
    gate: Chem.Mol
    broken_by: Callable[[Chem.Mol], str | None]


_STRUCTURAL = tuple(
    _Structural(Rule(name, text), Chem.MolFromSmarts(gate), broken_by)
    for name, text, gate, broken_by in (
        ("elements", "elements of organic chemistry only, and the usual ions", _odd_atom(), _elements),
        ("valence", "every atom has a usual valence for its charge", _odd_atom(), _valences),
        ("charge_separation", "charges only in the usual groups (nitro, N-oxide, azide, ammonium, carboxylate, …)", "[!+0]", _charges),
        ("ring_size", f"no ring of more than {MAX_RING} atoms", "[R]", _ring_size),
        ("ring_strain", "no fused small rings, no cyclopropenes, no cyclobutadienes", "[r3,r4]", _ring_strain),
        ("ring_unsaturation", "no triple bond in a ring under 8 and no allene in a ring under 9", "*=,#;@*", _ring_unsaturation),
        ("bredt", "no double bond at the bridgehead of a small bicycle", "[x3,x4]=;@*", _bredt),
    )
)
RULES: tuple[Rule, ...] = (*(check.rule for check in _STRUCTURAL), *(Rule(name, text) for name, text, _ in _MOTIFS))


ALL_RULES = frozenset(rule.name for rule in RULES)


@cache
def _structural(rules: frozenset[str]) -> tuple[_Structural, ...]:
    return tuple(check for check in _STRUCTURAL if check.rule.name in rules)


@cache
def _motifs(rules: frozenset[str]) -> FilterCatalog:
    # RDKit tries the whole list in one call.
    catalog = FilterCatalog()
    for name, text, smarts in _MOTIFS:
        if name in rules:
            catalog.AddEntry(FilterCatalogEntry(f"{name}\n{text}", SmartsMatcher(name, Chem.MolFromSmarts(smarts), 1)))
    return catalog


def broken_rule(mol: Chem.Mol, rules: frozenset[str] = ALL_RULES) -> tuple[str, str] | None:
    """Return a rule that `mol` breaks and what breaks it, or None for a plausible molecule.

    Args:
        mol: The molecule.
        rules: The names of those to look at: fewer for a molecule that can't break the others by the way in which it was made.
    """
    for check in _structural(rules):
        reason = check.broken_by(mol) if mol.HasSubstructMatch(check.gate) else None
        if reason is not None:
            return check.rule.name, reason
    motif = _motifs(rules).GetFirstMatch(mol)
    if motif is None:
        return None
    name, _, text = motif.GetDescription().partition("\n")
    return name, text
