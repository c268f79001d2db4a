"""Every functional group against molecules that have it and molecules that look like it."""

import pytest
from rdkit import Chem

from flywheel.verifiers.chemistry_groups import GROUPS, count_group, pattern

# name: molecules that have it | molecules that do not
KNOWN: dict[str, tuple[list[str], list[str]]] = {
    "alkene": (["C=C", "CC=CC"], ["C#C", "c1ccccc1", "C=O"]),
    "alkyne": (["C#C", "CC#CC"], ["C#N", "C=C"]),
    "allene": (["C=C=C"], ["C=CC=C", "O=C=O"]),
    "conjugated diene": (["C=CC=C"], ["C=CCC=C", "c1ccccc1"]),
    "terminal alkene": (["C=CC"], ["CC=CC"]),
    "terminal alkyne": (["C#CC"], ["CC#CC"]),
    "methyl": (["CC"], ["C1CC1"]),
    "isopropyl": (["CC(C)O"], ["CCCO", "CC(C)(C)O"]),
    "tert-butyl": (["CC(C)(C)O"], ["CC(C)O"]),
    "arene": (["c1ccccc1", "c1ccncc1"], ["C1CCCCC1", "c1ccoc1"]),
    "phenyl": (["Cc1ccccc1"], ["c1ccccc1", "Cc1ccc(C)cc1", "c1ccncc1"]),
    "alcohol": (["CCO", "OC1CCCC1"], ["CC(=O)O", "Oc1ccccc1", "COC", "C=CO"]),
    "primary alcohol": (["CCO", "CO"], ["CC(C)O"]),
    "secondary alcohol": (["CC(C)O"], ["CCO", "CC(C)(C)O"]),
    "tertiary alcohol": (["CC(C)(C)O"], ["CC(C)O"]),
    "phenol": (["Oc1ccccc1"], ["OCc1ccccc1"]),
    "enol": (["C=CO"], ["C=CCO", "Oc1ccccc1"]),
    "ether": (["COC", "C1CCOC1"], ["CCO", "CC(=O)OC", "COCOC"]),
    "acetal": (["COCOC", "C1OCCO1"], ["COC", "OCOC"]),
    "hemiacetal": (["COCO", "OC1CCCO1"], ["COCOC", "OCCO"]),
    "epoxide": (["C1CO1"], ["C1COC1", "C1CN1"]),
    "peroxide": (["COOC"], ["COC"]),
    "aldehyde": (["CC=O", "C=O", "O=Cc1ccccc1"], ["O=CO", "NC=O", "COC=O", "CC(C)=O", "CC(=O)O"]),
    "ketone": (["CC(C)=O", "O=C1CCCC1"], ["CC=O", "CC(=O)N", "CC(=O)OC"]),
    "carboxylic acid": (["CC(=O)O", "O=CO"], ["OC(=O)O", "NC(=O)O", "CC(=O)OC", "CC(=O)[O-]"]),
    "carboxylate": (["CC(=O)[O-]"], ["O=C([O-])O", "CC(=O)O"]),
    "ester": (["CC(=O)OC", "COC=O", "O=C1CCCO1"], ["CC(=O)O", "CC(=O)OC(C)=O", "COC(=O)N", "COC(=O)OC"]),
    "lactone": (["O=C1CCCO1", "O=c1ccc2ccccc2o1"], ["O=C(OC1CC1)C1CC1", "CC(=O)OC", "C1CCC1C(=O)OC"]),
    "anhydride": (["CC(=O)OC(C)=O", "O=C1CCC(=O)O1"], ["CC(C)(C)OC(=O)OC(=O)OC(C)(C)C", "CC(=O)OC"]),
    "carbonate": (["COC(=O)OC"], ["CC(=O)OC"]),
    "acyl halide": (["CC(=O)Cl"], ["COC(=O)Cl", "O=C(Cl)Cl", "CC(=O)CCl"]),
    "amine": (["CN", "CN(C)C", "Nc1ccccc1"], ["CC(=O)N", "CC#N", "C[N+](=O)[O-]", "c1ccncc1", "CNS(C)(=O)=O"]),
    "primary amine": (["CCN"], ["CNC", "CC(=O)N"]),
    "secondary amine": (["CNC", "C1CCNC1"], ["CN", "CN(C)C"]),
    "tertiary amine": (["CN(C)C"], ["CNC", "CN(C)C=O"]),
    "aniline": (["Nc1ccccc1", "CNc1ccccc1"], ["NCc1ccccc1", "CC(=O)Nc1ccccc1"]),
    "quaternary ammonium": (["C[N+](C)(C)C"], ["CN(C)C", "C[NH+](C)C"]),
    "amide": (["CC(=O)N", "CN(C)C=O", "O=C1CCCN1"], ["CN(C)C(=O)Cl", "CN", "NC(=O)N", "COC(=O)N"]),
    "primary amide": (["CC(=O)N"], ["CC(=O)NC"]),
    "secondary amide": (["CC(=O)NC"], ["CC(=O)N", "CC(=O)N(C)C"]),
    "tertiary amide": (["CC(=O)N(C)C"], ["CC(=O)NC"]),
    "lactam": (["O=C1CCCN1"], ["CC(=O)NC", "O=C1CCCO1"]),
    "imide": (["O=C1CCC(=O)N1"], ["O=C1CCCN1"]),
    "urea": (["NC(=O)N"], ["CC(=O)N"]),
    "carbamate": (["COC(=O)N"], ["CC(=O)N", "COC(=O)OC"]),
    "guanidine": (["NC(=N)N"], ["CC(=N)N"]),
    "amidine": (["CC(=N)N"], ["NC(=N)N", "CC(=O)N"]),
    "imine": (["CC=NC", "C=N"], ["CC#N", "CC=NO", "CC(N)=N"]),
    "oxime": (["CC=NO"], ["CC=NC"]),
    "hydrazine": (["NN", "CNN"], ["CN[N+](=O)[O-]", "CC=NN"]),
    "hydrazone": (["CC=NN"], ["CC=NO"]),
    "azo": (["CN=NC"], ["CNNC"]),
    "nitrile": (["CC#N"], ["C#C", "[C-]#[N+]C"]),
    "isonitrile": (["[C-]#[N+]C"], ["CC#N"]),
    "isocyanate": (["CN=C=O"], ["CN=C"]),
    "azide": (["CN=[N+]=[N-]"], ["CN=NC"]),
    "nitro": (["C[N+](=O)[O-]"], ["CN=O", "CON=O"]),
    "n-oxide": (["C[N+](C)(C)[O-]", "[O-][n+]1ccccc1"], ["C[N+](=O)[O-]", "CN(C)O"]),
    "aziridine": (["C1CN1"], ["C1CO1"]),
    "hydroxylamine": (["CNO", "NOC"], ["CC=NO", "CC(=O)NO"]),
    "enamine": (["C=CN(C)C"], ["C=CCN", "Nc1ccccc1"]),
    "hydrazide": (["CC(=O)NN"], ["CNN", "CC(=O)N"]),
    "hydroxamic acid": (["CC(=O)NO"], ["CC(=O)N", "CNO"]),
    "enone": (["C=CC(C)=O", "O=C1C=CCCC1", "C=CC=O"], ["C=CCC(C)=O", "C=CC(=O)OC"]),
    "thiourea": (["NC(N)=S"], ["NC(N)=O", "CC(N)=S"]),
    "isothiocyanate": (["CN=C=S"], ["CN=C=O"]),
    "sulfonyl chloride": (["CS(=O)(=O)Cl"], ["CS(=O)(=O)N"]),
    "pyrimidine": (["c1cncnc1"], ["c1ccncc1"]),
    "thiazole": (["c1cscn1"], ["c1ccsc1"]),
    "oxazole": (["c1cocn1"], ["c1ccoc1"]),
    "quinoline": (["c1ccc2ncccc2c1"], ["c1ccncc1", "c1ccc2cnccc2c1"]),
    "pyrrolidine": (["C1CCNC1"], ["C1CCNCC1", "c1cc[nH]c1"]),
    "tetrahydrofuran": (["C1CCOC1"], ["c1ccoc1", "O=C1CCCO1"]),
    "thiol": (["CS", "Sc1ccccc1"], ["CSC", "CC(=O)S"]),
    "sulfide": (["CSC"], ["CS", "CSSC", "CS(C)=O"]),
    "disulfide": (["CSSC"], ["CSC"]),
    "sulfoxide": (["CS(C)=O", "C[S+](C)[O-]"], ["CS(C)(=O)=O"]),
    "sulfone": (["CS(C)(=O)=O"], ["CS(C)=O", "CS(=O)(=O)N"]),
    "sulfonamide": (["CS(=O)(=O)N"], ["CS(C)(=O)=O"]),
    "sulfonic acid": (["CS(=O)(=O)O"], ["CS(=O)(=O)OC"]),
    "sulfonate ester": (["CS(=O)(=O)OC"], ["CS(=O)(=O)O"]),
    "thioester": (["CC(=O)SC"], ["CC(=O)OC"]),
    "thioamide": (["CC(=S)N"], ["NC(N)=S", "CC(=O)N"]),
    "thioketone": (["CC(C)=S"], ["CC(C)=O"]),
    "halide": (["CCl", "CF", "CBr", "CI"], ["CO"]),
    "fluoride": (["CF"], ["CCl"]),
    "chloride": (["CCl"], ["CF"]),
    "bromide": (["CBr"], ["CCl"]),
    "iodide": (["CI"], ["CCl"]),
    "aryl halide": (["Clc1ccccc1"], ["ClCc1ccccc1"]),
    "trifluoromethyl": (["CC(F)(F)F"], ["CC(F)F"]),
    "phosphine": (["CP(C)C"], ["CP(C)(C)=O"]),
    "phosphate": (["COP(=O)(O)O"], ["CP(=O)(O)O"]),
    "phosphonic acid": (["CP(=O)(O)O"], ["COP(=O)(O)O"]),
    "boronic acid": (["OB(O)c1ccccc1"], ["COB(OC)OC"]),
    "silane": (["C[Si](C)(C)C"], ["C[Si](C)(C)Cl"]),
    "cyclopropane": (["C1CC1", "CC1CC1"], ["C1CO1", "C1CCC1"]),
    "pyridine": (["c1ccncc1"], ["c1ccccc1", "c1cncnc1"]),
    "pyrrole": (["c1cc[nH]c1"], ["c1ccoc1"]),
    "furan": (["c1ccoc1"], ["c1ccsc1", "C1CCOC1"]),
    "thiophene": (["c1ccsc1"], ["c1ccoc1"]),
    "imidazole": (["c1c[nH]cn1"], ["c1cc[nH]n1"]),
    "pyrazole": (["c1cc[nH]n1"], ["c1c[nH]cn1"]),
    "indole": (["c1ccc2[nH]ccc2c1"], ["c1cc[nH]c1"]),
    "piperidine": (["C1CCNCC1"], ["C1CCOCC1", "c1ccncc1"]),
    "piperazine": (["C1CNCCN1"], ["C1CCNCC1"]),
    "morpholine": (["C1COCCN1"], ["C1CNCCN1"]),
}


def test_every_group_is_in_the_table() -> None:
    assert set(KNOWN) == set(GROUPS)
    assert len(GROUPS) >= 60


@pytest.mark.parametrize("name", KNOWN)
def test_group(name: str) -> None:
    have, lack = KNOWN[name]
    assert have
    assert lack
    assert [s for s in have if not Chem.MolFromSmiles(s).HasSubstructMatch(pattern(name))] == []
    assert [s for s in lack if Chem.MolFromSmiles(s).HasSubstructMatch(pattern(name))] == []


@pytest.mark.parametrize(
    ("smiles", "name", "count"),
    [
        ("OCC(O)CO", "alcohol", 3),
        ("OCC(O)CO", "primary alcohol", 2),
        ("ClC(Cl)Cl", "chloride", 3),
        ("CC(=O)OC", "alcohol", 0),
        ("NCCN", "amine", 2),
    ],
)
def test_counts(smiles: str, name: str, count: int) -> None:
    assert count_group(Chem.MolFromSmiles(smiles), name) == count
