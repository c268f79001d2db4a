"""Writes verifiers/chemistry_stock.smi, the building blocks that count as available everywhere.

Cores are combined with functional handles, and a combination stays where molbloom's filter of ZINC's in-stock compounds knows it.
That filter leaves reactive compounds out (acyl chlorides, boronic acids), though every supplier has them: a core with a reactive
handle stays where the filter knows its acid or its amine, and so does any handle on phenyl and the simple alkyls. Everyday reagents
are listed by hand. Run it from the repository:

    python tools/make_chemistry_stock.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import molbloom
from rdkit import Chem

from flywheel.verifiers.chemistry_templates import canonical_smiles

TARGET = Path(__file__).resolve().parent.parent / "verifiers" / "chemistry_stock.smi"


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


# $ is where the handle goes.
ARYL = (
    *("c1ccc($)cc1", "c1cc($)ncc1", "c1cc($)cnc1", "c1cc($)ccn1", "c1csc($)c1", "c1cc($)cs1", "c1coc($)c1", "c1ncc($)cn1"),
    *("c1cnc($)cn1", "Cn1cc($)cn1", "c1ccc2cc($)ccc2c1", "c1ccc2c($)cccc2c1", "c1ccc2ncc($)cc2c1", "c1ccc2[nH]cc($)c2c1"),
    *("c1cnc($)s1", "c1ccc2oc($)cc2c1", "c1ccc2sc($)cc2c1", "c1cc2OCOc2cc1$", "c1cc2OCCOc2cc1$", "Cc1noc(C)c1$"),
    *(f"{x}c1ccc($)cc1" for x in ("F", "Cl", "Br", "C", "CO", "FC(F)(F)", "N#C", "CC(C)", "CC(C)(C)", "CN(C)", "FC(F)(F)O", "CCO")),
    *(f"{x}c1cccc($)c1" for x in ("F", "Cl", "C", "CO", "FC(F)(F)", "N#C")),
    *(f"{x}c1ccccc1$" for x in ("F", "Cl", "C", "CO", "FC(F)(F)")),
    *("Fc1ccc($)cc1F", "Clc1ccc($)cc1Cl", "COc1ccc($)cc1OC", "Cc1cc(C)cc($)c1", "Fc1cc(F)cc($)c1", "Cc1ccc($)cn1", "COc1ccc($)cn1"),
    *("Clc1ccc($)cn1", "FC(F)(F)c1ccc($)cn1", "O=[N+]([O-])c1ccc($)cc1", "O=[N+]([O-])c1cccc($)c1", "c1ccc(-c2ccc($)cc2)cc1"),
)
ARYL_HANDLES = (
    *("C(=O)O", "N", "CN", "Br", "I", "Cl", "F", "B(O)O", "B9OC(C)(C)C(C)(C)O9", "C=O", "C(C)=O", "O", "CO", "CCl", "CBr", "C#C", "C=C"),
    *("S(=O)(=O)Cl", "C(=O)Cl", "N=C=O", "N=C=S", "C#N", "[N+](=O)[O-]", "S", "CC(=O)O", "C(=O)OC", "CCN", "CCO", "C(N)=S", "NN"),
    *("C(N)=O", "C(=O)CBr", "NC", "CNC", "C(=O)OCC", "OC", "SC", "C(C)O", "C(C)N", "CN=[N+]=[N-]", "C(=O)CC(C)=O", "", "OCC(=O)O"),
)
ALKYL = (
    *("C$", "CC$", "CCC$", "CC(C)$", "CCCC$", "CC(C)C$", "CC(C)(C)$", "CCCCC$", "CCCCCC$", "C1CC1$", "C1CCC1$", "C1CCCC1$"),
    *("C1CCCCC1$", "C1CC1C$", "C1CCCC1C$", "C1CCCCC1C$", "C1COCCC1$", "C1CCOC1$", "C1CCOC1C$", "COCC$", "CN(C)CC$", "FC(F)(F)C$"),
    *("C1CCN(C)CC1$", "CC(C)(C)OC(=O)N1CCC($)CC1", "CC(C)CC$", "CCC(C)$", "CC(C)(C)C$", "CSCC$", "C1CCN(C1)CC$", "C1COCCN1CC$"),
)
# Every handle on these is a commodity.
COMMON = ("c1ccc($)cc1", *ALKYL[:13])
ALKYL_HANDLES = (
    *("O", "N", "C(=O)O", "C(=O)Cl", "Br", "I", "C=O", "C(C)=O", "N=C=O", "S(=O)(=O)Cl", "C#C", "C=C", "C#N", "S", "NC", "CO", "CN"),
    *("C(=O)OC", "C(=O)OCC", "CBr", "C(=O)N", "OC(=O)Cl"),
)
REACTIVE = words("""
B(O)O B9OC(C)(C)C(C)(C)O9 CCl CBr S(=O)(=O)Cl C(=O)Cl N=C=O N=C=S Br I C(=O)CBr NN S CN=[N+]=[N-] OC(=O)Cl C(=O)CC(C)=O C(N)=S
""")
OTHERS = words("""
C1CCNCC1 C1CCNC1 C1COCCN1 CN1CCNCC1 CC(C)(C)OC(=O)N1CCNCC1 C1CNC1 CCNCC CNC C1CCCNCC1 C1CSCCN1 CC1CCNCC1 OC1CCNCC1 OCC1CCNCC1
C1CCc2ccccc2N1 C1NCCc2ccccc12 C1CNCc2ccccc21 O=C1CCNCC1 COC(=O)C1CCNCC1 CCOC(=O)C1CCNCC1 CS(=O)(=O)N1CCNCC1 O=C(c1ccco1)N1CCNCC1 CC(C)=O
O=C1CCCC1 O=C1CCCCC1 O=C1CCC1 O=C1CCOCC1 CN1CCC(=O)CC1 CC(C)(C)OC(=O)N1CCC(=O)CC1 O=C1CCCCCC1 O=C1CCc2ccccc21 CCC(=O)CC O=C1CCCc2ccccc21
CC(=O)C1CC1 CC1CCC(=O)CC1 C=O CC=O OCCO OCCCO OCC(O)CO NCCN NCCO NCCCO NCCCN COCCN OCC#C NCC#C CC#CCO BrCC#C C#Cc1ccccc1 C#CCCC
C#CC(C)(C)O C#C[Si](C)(C)C C#CC1CC1 C#CC(=O)OCC C#CCOC C=CC=C CC(=C)C=C CC(=C)C(C)=C C1=CCC=C1 C1=CCCC=C1 CC=CC=C C=CC(=O)OC C=CC(=O)OCC
C=CC#N C=CC(C)=O C=CC(=O)O C=CC(N)=O CC(=C)C(=O)OC C=CC=O C=CS(C)(=O)=O C=CC(=O)N(C)C O=C1C=CC(=O)O1 O=C1C=CC(=O)N1 CN1C(=O)C=CC1=O
COC(=O)/C=C/C(=O)OC COC(=O)C#CC(=O)OC C=CCO C=CCBr C=CCN C=CCCl CC=CC(=O)OCC C1CCC=CC1 C1CC=CC1 C=CCCCC C=CC1CCCCC1 CC(=O)OC(C)=O
CCC(=O)OC(=O)CC CC(C)(C)OC(=O)OC(=O)OC(C)(C)C O=C1CCC(=O)O1 O=C1CCCC(=O)O1 O=C1OC(=O)c2ccccc21 O=C(OC(=O)C(F)(F)F)C(F)(F)F NC(C)=S
NC(N)=S CNC(N)=S NC(=S)c1ccccc1 CC(=O)CCl CC(=O)CBr CCOC(=O)C(=O)CBr O=C(CCl)CCl ClCC(=O)N ClCC(=O)OC BrCC(=O)OCC O=C(CCl)Nc1ccccc1
CC(=O)CC(C)=O CCOC(=O)CC(C)=O CC(=O)CC(=O)c1ccccc1 CC(=O)CC(=O)C(F)(F)F CCOC(=O)CC(=O)OCC N#CCC(=O)OCC N#CCC#N CC(=O)CC(=O)OC
O=C(CC(=O)c1ccccc1)c1ccccc1 Nc1ccccc1N Nc1ccc(F)cc1N Nc1ccc(Cl)cc1N Cc1ccc(N)c(N)c1 COc1ccc(N)c(N)c1 Cc1cc(N)c(N)cc1C Clc1cc(N)c(N)cc1Cl
Nc1cccnc1N OC(=O)c1ccc(N)c(N)c1 NO CON NOCc1ccccc1 CNN NN NNc1ccccc1 CNNC NNC(=O)OC(C)(C)C NNC(N)=O CC(=O)NN NNC(=O)c1ccccc1 NCC(F)(F)F
OCC(F)(F)F CCOC(=O)N NCC(=O)O CC(N)C(=O)O CC(C)C(N)C(=O)O NC(Cc1ccccc1)C(=O)O C[C@H](N)C(=O)O COC(=O)[C@H](C)N COC(=O)[C@@H](N)Cc1ccccc1
COC(=O)[C@@H](N)C(C)C COC(=O)CN CCOC(=O)CN COC(=O)[C@@H]1CCCN1 C[C@@H](N)c1ccccc1 C[C@H](N)c1ccccc1 C[C@H](O)c1ccccc1 C[C@@H](O)c1ccccc1
C[C@H](O)C(=O)OCC O=C(O)[C@@H]1CCCN1C(=O)OC(C)(C)C C[C@H](NC(=O)OC(C)(C)C)C(=O)O CC(C)(C)OC(=O)NCC(=O)O
CC(C)(C)OC(=O)N[C@@H](Cc1ccccc1)C(=O)O CC(C)[C@H](NC(=O)OC(C)(C)C)C(=O)O CC(C)(C)OC(=O)NCCN CC(C)(C)OC(=O)NCCO C1CO1 CC1CO1 ClCC1CO1
C1OC1c1ccccc1 C1OC1COc1ccccc1 CC1(C)CO1 CCC1CO1 C1OC1COCc1ccccc1 OCC1CO1 CCCCC1CO1 c1ccccc1 Cc1ccccc1 COc1ccccc1 Clc1ccccc1 Fc1ccccc1
Brc1ccccc1 c1ccc2ccccc2c1 Cc1ccc(C)cc1 COc1ccc(OC)cc1 CCc1ccccc1 CC(C)c1ccccc1 Cc1cccc(C)c1 COc1ccc(C)cc1 OC(=O)c1ccccc1O
COC(=O)c1ccccc1O COC(=O)c1ccc(CBr)cc1 COC(=O)c1ccc(B(O)O)cc1 COC(=O)c1ccc(Br)cc1 COC(=O)c1ccc(N)cc1 COC(=O)c1ccc(C=O)cc1
COC(=O)c1ccc(O)cc1 O=C(O)c1ccc(Br)cc1 O=C(O)c1ccc(I)cc1 Nc1ccc(Br)cc1 Nc1ccc(I)cc1 O=Cc1ccc(Br)cc1 O=Cc1ccc(O)cc1 OCc1ccc(Br)cc1
CC(=O)c1ccc(Br)cc1 Oc1ccc(Br)cc1 Oc1ccc(F)cc1 CC(=O)Nc1ccc(N)cc1 CC(=O)Nc1ccc(O)cc1 CC(=O)Nc1ccc(Br)cc1 Nc1ccc(O)cc1 NCc1ccc(O)cc1
Nc1ncccn1 Clc1ncccn1 Clc1ccncn1 Clc1ncnc2ccccc12 Clc1ccnc2ccccc12 Clc1nccnc1 O=[N+]([O-])c1ccc(F)cc1 O=[N+]([O-])c1ccccc1F
O=[N+]([O-])c1ccc(Cl)nc1 N#Cc1ccc(F)cc1 N#Cc1ccccc1F Fc1ccccn1 Clc1ccccn1 Clc1cccc(Cl)n1 Clc1ncc(Br)cn1 O=[N+]([O-])c1cc(F)ccc1F
O=C=Nc1ccc(F)cc1 CCN=C=O O=C=NC1CCCCC1 CC(C)N=C=O CCOC(=O)Cl COC(=O)Cl CC(C)COC(=O)Cl O=C(Cl)OCc1ccccc1 O=C(Cl)Oc1ccccc1 CN(C)C(=O)Cl
CN(C)S(=O)(=O)Cl OB(O)C=Cc1ccccc1 OB(O)C1=CCCCC1 CC1(C)OB(C=C)OC1(C)C COC(=O)C=CBr BrC=Cc1ccccc1 CB(O)O OB(O)C1CC1
CC1(C)OB(c2ccncc2)OC1(C)C Cn1cc(B2OC(C)(C)C(C)(C)O2)cn1
""")
BY_HAND = words("""
C C=C C#C O CO CCO N CN S CS Cl Br I F O=C=O OO O=O BrBr ClCl II O=[N+]([O-])O OS(=O)(=O)O CS(=O)(=O)O OC(=O)C(F)(F)F OP(=O)(O)O CC(=O)O
[N-]=[N+]=[N-] OC=O [C-]#N C#N [Na+] [K+] [Li+] [Cs+] [Mg+2] [Zn+2] [NH4+] [Cl-] [Br-] [I-] [F-] [OH-] [BH4-] [AlH4-] O=C([O-])[O-]
O=C([O-])O CC(=O)[O-] [N-]=[N+]=NCC1CC1 O=S(Cl)Cl O=C(Cl)C(=O)Cl BrP(Br)Br ClP(Cl)(Cl)(Cl)Cl BrB(Br)Br Cl[Al](Cl)Cl Br[Fe](Br)Br
BrN1C(=O)CCC1=O CCN=C=NCCCN(C)C C(=NC1CCCCC1)=NC1CCCCC1 CCN(CC)CC CCN(C(C)C)C(C)C c1ccncc1 CN(C)c1ccncc1 OO OC(=O)c1cccc(Cl)c1
O=C(OO)c1cccc(Cl)c1 c1ccc(cc1)P(c1ccccc1)c1ccccc1 CC(C)OC(=O)N=NC(=O)OC(C)C ClCCl C1CCOC1 CCOCC CN(C)C=O CS(C)=O CC#N Cc1ccccc1 CCCCCC
C1COCCO1 CC(C)=O CCOC(C)=O C[Mg]Br C[Mg]I C[Mg]Cl CC[Mg]Br CCC[Mg]Br CC(C)[Mg]Br CCCC[Mg]Br C=C[Mg]Br C=CC[Mg]Br Br[Mg]c1ccccc1
Br[Mg]Cc1ccccc1 Br[Mg]C1CC1 Br[Mg]C1CCCC1 Br[Mg]C1CCCCC1 Fc1ccc([Mg]Br)cc1 COc1ccc([Mg]Br)cc1 Cc1ccc([Mg]Br)cc1 Clc1ccc([Mg]Br)cc1
Br[Mg]c1cccs1 Br[Mg]c1ccccc1C CC(C)(C)[Mg]Cl CC(C)C[Mg]Br Br[Mg]CCc1ccccc1 Br[Mg]C#C C=P(c1ccccc1)(c1ccccc1)c1ccccc1
CC=P(c1ccccc1)(c1ccccc1)c1ccccc1 COC(=O)C=P(c1ccccc1)(c1ccccc1)c1ccccc1 CCOC(=O)C=P(c1ccccc1)(c1ccccc1)c1ccccc1
O=CC=P(c1ccccc1)(c1ccccc1)c1ccccc1 CC(=O)C=P(c1ccccc1)(c1ccccc1)c1ccccc1 COC=P(c1ccccc1)(c1ccccc1)c1ccccc1
N#CC=P(c1ccccc1)(c1ccccc1)c1ccccc1 C(=P(c1ccccc1)(c1ccccc1)c1ccccc1)c1ccccc1 [N-]=[N+]=NCc1ccccc1 [N-]=[N+]=Nc1ccccc1 CCCCN=[N+]=[N-]
[N-]=[N+]=NCCO [N-]=[N+]=NCC(=O)OCC [N-]=[N+]=NCCc1ccccc1 Cc1ccc(N=[N+]=[N-])cc1 COc1ccc(N=[N+]=[N-])cc1 Fc1ccc(CN=[N+]=[N-])cc1
OB(O)c1ccccc1 OB(O)c1ccncc1 OB(O)c1cccnc1 OB(O)c1ccc(F)cc1 COc1ccc(B(O)O)cc1 Cc1ccc(B(O)O)cc1 OB(O)c1ccc(Cl)cc1 OB(O)c1cccs1
OB(O)c1ccco1 OB(O)c1ccc(C(F)(F)F)cc1 OB(O)c1cccc2ccccc12 CC(=O)Cl CC(=O)Br O=C(Cl)c1ccccc1 CS(=O)(=O)Cl Cc1ccc(S(=O)(=O)Cl)cc1
O=C=Nc1ccccc1 S=C=Nc1ccccc1 CCI CI CCBr C=CC CC=C(C)C
""")


def combinations() -> Iterator[str]:
    """Yield every core with every handle that makes a compound in stock."""
    for cores, handles in ((ARYL, ARYL_HANDLES), (ALKYL, ALKYL_HANDLES)):
        for core in cores:
            is_common = core in COMMON
            has_kin = any(in_stock(joined(core, handle)) for handle in ("C(=O)O", "N"))
            for handle in handles:
                smiles = joined(core, handle)
                if is_common or in_stock(smiles) or (has_kin and handle in REACTIVE):
                    yield smiles


def joined(core: str, handle: str) -> str:
    """Return a core with a handle where its $ is."""
    return core.replace("($)", f"({handle})" if handle else "").replace("$", handle)


def in_stock(smiles: str) -> bool:
    """Whether molbloom's bundled filter knows the compound."""
    return bool(molbloom.buy(smiles, catalog="zinc-instock-mini"))


def main() -> None:
    """Write the file."""
    kept = {canonical_smiles(smiles) for smiles in (*BY_HAND, *combinations(), *filter(in_stock, OTHERS))}
    ordered = sorted(kept, key=lambda smiles: (Chem.MolFromSmiles(smiles).GetNumHeavyAtoms(), smiles))
    TARGET.write_text("".join(f"{smiles}\n" for smiles in ordered), "ascii")
    print(f"{len(ordered)} building blocks in {TARGET}")


if __name__ == "__main__":
    main()
