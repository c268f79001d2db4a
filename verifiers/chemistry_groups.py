"""The functional groups that tasks name: one SMARTS each, documented by an example in the tests.

Names are singular and mean the usual textbook group: an ``alcohol`` is not the OH of an acid, an ``amine`` is not an amide, an
``aldehyde`` is no formic ester. Wider groups hold narrower ones (an ``ester`` may be a ``lactone``), and ring names hold in fused rings.
"""

from __future__ import annotations

from functools import cache

from rdkit import Chem

MAX_MATCHES = 1000
_AMINE_N = "!$(N-C=[O,N,S,P])&!$(N-[!#6])&!$(N=*)&!$(N#*)&!$(N-C#N)"

_ACYL = "[CX3;$(C[#6]),H1]"

GROUPS: dict[str, str] = {
    # hydrocarbons
    "alkene": "[CX3;!a]=[CX3;!a]",
    "alkyne": "[CX2]#[CX2]",
    "allene": "[CX3]=[CX2]=[CX3]",
    "conjugated diene": "[CX3;!a]=[CX3;!a]-[CX3;!a]=[CX3;!a]",
    "terminal alkene": "[CX3H2]=[CX3;!a]",
    "terminal alkyne": "[CX2H]#[CX2]",
    "methyl": "[CX4H3]",
    "isopropyl": "[CX4H1]([CX4H3])[CX4H3]",
    "tert-butyl": "[CX4H0]([CX4H3])([CX4H3])[CX4H3]",
    "arene": "a1aaaaa1",
    "phenyl": "[cH0]1[cH][cH][cH][cH][cH]1",
    # oxygen
    "alcohol": "[OX2H][CX4;!$(C([OX2H])[O,N,S;!$(*~[!#6;!#1])])]",
    "primary alcohol": "[OX2H][CX4;H2,H3]",
    "secondary alcohol": "[OX2H][CX4H1]([#6])[#6]",
    "tertiary alcohol": "[OX2H][CX4H0]([#6])([#6])[#6]",
    "phenol": "[OX2H]c",
    "enol": "[OX2H][CX3;!a]=[CX3;!a]",
    "ether": "[OX2;!$(O-C=[O,N,S])]([#6;!$(C(O)O)])[#6;!$(C(O)O)]",
    "acetal": "[CX4;H2,H1,H0]([OX2H0;!$(O-C=O)][#6])[OX2H0;!$(O-C=O)][#6]",
    "hemiacetal": "[CX4;H2,H1,H0]([OX2H])[OX2H0;!$(O-C=O)][#6]",
    "epoxide": "[OX2r3]1[#6r3][#6r3]1",
    "peroxide": "[OX2][OX2]",
    "aldehyde": "[CX3;H2,$([*;H1][#6])]=[OX1]",
    "ketone": "[#6][CX3](=[OX1])[#6]",
    "carboxylic acid": f"{_ACYL}(=[OX1])[OX2H]",
    "carboxylate": f"{_ACYL}(=[OX1])[OX1-]",
    "ester": f"{_ACYL}(=[OX1])[OX2H0][#6;!$(C=[O,N,S])]",
    "lactone": "[#6][#6X3;R](=[OX1])@[#8X2H0;R]@[#6;!$(C=[O,N,S])]",
    "anhydride": f"{_ACYL}(=[OX1])[OX2]{_ACYL}(=[OX1])",
    "carbonate": "[#6][OX2][CX3](=[OX1])[OX2][#6]",
    "acyl halide": f"{_ACYL}(=[OX1])[F,Cl,Br,I]",
    # nitrogen
    "amine": f"[NX3;{_AMINE_N}]-[#6]",
    "primary amine": f"[NX3H2;{_AMINE_N}]-[#6]",
    "secondary amine": f"[NX3H1;{_AMINE_N}](-[#6])-[#6]",
    "tertiary amine": f"[NX3H0;{_AMINE_N}](-[#6])(-[#6])-[#6]",
    "aniline": f"[NX3;{_AMINE_N}]-c",
    "quaternary ammonium": "[NX4+]([#6])([#6])([#6])[#6]",
    "amide": "[NX3;!$(N(C=O)C=O)][CX3;!$(C(N)(=O)[N,O,S,F,Cl,Br,I])]=[OX1]",
    "primary amide": "[NX3H2][CX3;!$(C(N)(=O)[N,O,S,F,Cl,Br,I])]=[OX1]",
    "secondary amide": "[NX3H1;!$(N(C=O)C=O)]([#6])[CX3;!$(C(N)(=O)[N,O,S,F,Cl,Br,I])]=[OX1]",
    "tertiary amide": "[NX3H0;!$(N(C=O)C=O)]([#6])([#6])[CX3;!$(C(N)(=O)[N,O,S,F,Cl,Br,I])]=[OX1]",
    "lactam": "[NX3;R][CX3;R;!$(C(N)(=O)[N,O,S])]=[OX1]",
    "imide": "[CX3](=[OX1])[NX3][CX3]=[OX1]",
    "urea": "[NX3][CX3](=[OX1])[NX3]",
    "carbamate": "[NX3][CX3](=[OX1])[OX2H0][#6]",
    "guanidine": "[NX3][CX3](=[NX2])[NX3]",
    "amidine": "[NX3][CX3;!$(C(N)(N)=N);!$(C(N)([O,S])=N)]=[NX2]",
    "imine": "[CX3;!$(C-[N,O,S])]=[NX2;!$(N-[N,O,S])]",
    "oxime": "[CX3]=[NX2][OX2H]",
    "hydrazine": "[NX3;+0;!$(N-C=[O,N,S])][NX3;+0;!$(N-C=[O,N,S])]",
    "hydrazone": "[CX3]=[NX2][NX3]",
    "azo": "[#6][NX2]=[NX2][#6]",
    "nitrile": "[CX2]#[NX1]",
    "isonitrile": "[CX1-]#[NX2+]",
    "isocyanate": "[NX2]=[CX2]=[OX1]",
    "azide": "[NX2]=[N+]=[N-]",
    "nitro": "[NX3+](=[OX1])[OX1-]",
    "n-oxide": "[NX4+,$([nX3+]),$([NX3+]=[#6])]-[OX1-]",
    "aziridine": "[NX3r3]1[#6r3][#6r3]1",
    "hydroxylamine": "[NX3;!$(N-C=[O,N,S])][OX2]",
    "enamine": "[NX3;!$(N-C=[O,N,S]);!$(N-[!#6])]-[CX3;!a]=[CX3;!a]",
    "hydrazide": "[NX3][NX3;!$(N(C=O)C=O)][CX3;$(C[#6]),H1]=[OX1]",
    "hydroxamic acid": f"[OX2H][NX3]{_ACYL}=[OX1]",
    # conjugated carbonyls
    "enone": "[CX3;!a]=[CX3;!a]-[CX3;H1,$(C(=O)([#6])[#6])]=[OX1]",
    # sulfur
    "thiol": "[SX2H][#6;!$(C=[O,N,S])]",
    "sulfide": "[SX2;!$(S-C=[O,N,S])]([#6])[#6]",
    "disulfide": "[SX2][SX2]",
    "sulfoxide": "[$([SX3](=[OX1])([#6])[#6]),$([SX3+]([OX1-])([#6])[#6])]",
    "sulfone": "[SX4](=[OX1])(=[OX1])([#6])[#6]",
    "sulfonamide": "[SX4](=[OX1])(=[OX1])([#6])[NX3]",
    "sulfonic acid": "[SX4](=[OX1])(=[OX1])([#6])[OX2H]",
    "sulfonate ester": "[SX4](=[OX1])(=[OX1])([#6])[OX2H0][#6]",
    "thioester": "[#6][CX3](=[OX1])[SX2][#6]",
    "thioamide": "[NX3][CX3;!$(C(N)(=S)[N,O,S])]=[SX1]",
    "thiourea": "[NX3][CX3](=[SX1])[NX3]",
    "isothiocyanate": "[NX2]=[CX2]=[SX1]",
    "sulfonyl chloride": "[SX4](=[OX1])(=[OX1])([#6])Cl",
    "thioketone": "[#6][CX3](=[SX1])[#6]",
    # halogens, phosphorus, boron, silicon
    "halide": "[F,Cl,Br,I][#6]",
    "fluoride": "[FX1][#6]",
    "chloride": "[ClX1][#6]",
    "bromide": "[BrX1][#6]",
    "iodide": "[IX1][#6]",
    "aryl halide": "[F,Cl,Br,I]c",
    "trifluoromethyl": "[CX4](F)(F)F",
    "phosphine": "[PX3;!$(P~[!#6])]",
    "phosphate": "[PX4](=[OX1])([OX2,OX1-])([OX2,OX1-])[OX2,OX1-]",
    "phosphonic acid": "[PX4](=[OX1])([OX2H])([OX2H])[#6]",
    "boronic acid": "[BX3]([OX2H])([OX2H])[#6]",
    "silane": "[SiX4;!$([Si]-[!#6;!#1])]",
    # rings
    "cyclopropane": "[CX4r3]1[CX4r3][CX4r3]1",
    "pyridine": "[nX2r6]1[cr6][cr6][cr6][cr6][cr6]1",
    "pyrrole": "[nX3r5]1[cr5][cr5][cr5][cr5]1",
    "furan": "[oX2r5]1[cr5][cr5][cr5][cr5]1",
    "thiophene": "[sX2r5]1[cr5][cr5][cr5][cr5]1",
    "imidazole": "[nX3r5]1[cr5][nX2r5][cr5][cr5]1",
    "pyrazole": "[nX3r5]1[nX2r5][cr5][cr5][cr5]1",
    "indole": "[nX3r5]1[cr5][cr5]c2ccccc12",
    "pyrimidine": "[nX2r6]1[cr6][nX2r6][cr6][cr6][cr6]1",
    "thiazole": "[sX2r5]1[cr5][nX2r5][cr5][cr5]1",
    "oxazole": "[oX2r5]1[cr5][nX2r5][cr5][cr5]1",
    "quinoline": "[nX2r6]1[cr6][cr6][cr6]c2ccccc12",
    "pyrrolidine": "[NX3r5]1[CX4r5][CX4r5][CX4r5][CX4r5]1",
    "tetrahydrofuran": "[OX2r5]1[CX4r5][CX4r5][CX4r5][CX4r5]1",
    "piperidine": "[NX3r6]1[CX4r6][CX4r6][CX4r6][CX4r6][CX4r6]1",
    "piperazine": "[NX3r6]1[CX4r6][CX4r6][NX3r6][CX4r6][CX4r6]1",
    "morpholine": "[NX3r6]1[CX4r6][CX4r6][OX2r6][CX4r6][CX4r6]1",
}

CHARGED_GROUPS = frozenset({"quaternary ammonium", "carboxylate"})


@cache
def pattern(name: str) -> Chem.Mol:
    """Return the compiled SMARTS of a group.

    Raises:
        KeyError: no such group.
    """
    return Chem.MolFromSmarts(GROUPS[name])


def count_group(mol: Chem.Mol, name: str) -> int:
    """Return how many distinct places of `mol` match the group, at most `MAX_MATCHES`."""
    return len(mol.GetSubstructMatches(pattern(name), maxMatches=MAX_MATCHES))


def groups_of(mol: Chem.Mol) -> list[str]:
    """Return the names of the groups in `mol`, in the table's order."""
    return [name for name in GROUPS if mol.HasSubstructMatch(pattern(name))]
