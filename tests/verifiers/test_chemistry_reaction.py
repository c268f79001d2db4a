"""Reactions: every template does what its example says, and routes are refused by name."""

from __future__ import annotations

from collections import Counter

import pytest
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from flywheel.verifiers.chemistry_formula import parse_formula
from flywheel.verifiers.chemistry_groups import GROUPS
from flywheel.verifiers.chemistry_judge import compile_task, judge
from flywheel.verifiers.chemistry_stock import is_available, stock
from flywheel.verifiers.chemistry_templates import BY_NAME, TEMPLATES, canonical_smiles, orders, outcomes, reaction

BENZYL_ACETAMIDE = "CC(=O)NCc1ccccc1"
BIARYL = "c1ccc(-c2ccncc2)cc1"
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
ALANINE_AMIDE = "C[C@H](NC(C)=O)C(=O)OC"


def findings(product: str, answer: str, **options: object) -> list[tuple[str, bool, str]]:
    task = compile_task({"constraints": [{"kind": "reaction", "product": product, **options}, {"kind": "plausible"}]})
    return [(finding.name, finding.passed, finding.detail) for finding in judge(task, answer)]


@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_template_makes_its_example(name: str) -> None:
    template = BY_NAME[name]
    reactants = [Chem.MolFromSmiles(smiles) for smiles in template.reactants.split(".")]
    assert len(reactants) == template.num_reactants
    assert reaction(name).Validate(silent=True)[1] == 0, "RDKit finds an error in it"
    made = {smiles for order in orders(template, reactants) for products in outcomes(template, order) for smiles in products}
    assert canonical_smiles(template.product) in made
    for products in (products for order in orders(template, reactants) for products in outcomes(template, order)):
        before, after = Counter(parse_formula(template.supplied)[0] if template.supplied else {}), Counter[str]()
        for mol in reactants:
            before.update(parse_formula(rdMolDescriptors.CalcMolFormula(mol).rstrip("+-"))[0])
        for smiles in products:
            after.update(parse_formula(rdMolDescriptors.CalcMolFormula(Chem.MolFromSmiles(smiles)))[0])
        assert not after - before, "atoms from nowhere"


def test_names_are_unique_and_spoilers_known() -> None:
    assert {group for template in TEMPLATES for group in template.spoilt_by} <= set(GROUPS)
    assert len(BY_NAME) == len(TEMPLATES) >= 60


# template: reactants that it must leave alone
UNTOUCHED = {
    "amide coupling": ["CC(=O)O.CC(N)=O", "CC(=O)O.CN(C)C", "CC(=O)O.CS(N)(=O)=O", "OC(=O)O.NCC", "COC(C)=O.NCC"],
    "esterification": ["CC(=O)O.Oc1ccccc1", "CC(=O)O.CC(=O)O", "CC(=O)OC.CO"],
    "reductive amination": ["CC(=O)OC.NCC", "CC(=O)N.NCC", "O=CC.CN(C)C"],
    "amine alkylation": ["Clc1ccccc1.NCC", "CC(C)(C)Br.NCC", "ClCCl.NCC"],
    "suzuki coupling": ["Fc1ccccc1.OB(O)c1ccccc1", "BrCC.OB(O)c1ccccc1", "Brc1ccccc1.OB(O)CC"],
    "nucleophilic aromatic substitution": ["Fc1ccccc1.NCC", "O=[N+]([O-])c1cccc(F)c1.NCC"],
    "buchwald-hartwig amination": ["BrCc1ccccc1.NCC"],
    "grignard addition": ["CC(=O)OC.C[Mg]Br", "CC(N)=O.C[Mg]Br"],
    "oxidation of an alcohol": ["CC(C)(C)O", "Oc1ccccc1", "CC(=O)O"],
    "oxidation of an aldehyde": ["CC(C)=O", "NC=O"],
    "ester hydrolysis": ["CC(=O)NC", "COC(=O)N", "CC(=O)O"],
    "friedel-crafts acylation": ["CC(=O)Cl.O=[N+]([O-])c1ccccc1", "CC(=O)Cl.c1ccncc1"],
    "nitration": ["C1CCCCC1", "c1ccncc1"],
    "diels-alder reaction": ["C=CC=C.C=C", "c1ccccc1.C=CC(=O)OC"],
    "epoxidation": ["c1ccccc1", "C#C", "C=CC(C)=O"],
    "alkene hydrogenation": ["c1ccccc1", "CC=O", "C#C"],
    "boc deprotection": ["CC(=O)OC(C)(C)C", "COC(=O)NC"],
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_a_template_leaves_alone_what_does_not_react(name: str) -> None:
    for text in UNTOUCHED[name]:
        mols = [Chem.MolFromSmiles(smiles) for smiles in text.split(".")]
        assert [made for order in orders(BY_NAME[name], mols) for made in outcomes(BY_NAME[name], order)] == [], text


def test_configuration_is_kept_where_the_template_does_not_touch_it_and_lost_where_it_inverts() -> None:
    esters = outcomes(BY_NAME["amine acylation"], [Chem.MolFromSmiles("CC(=O)Cl"), Chem.MolFromSmiles("C[C@H](N)C(=O)OC")])
    assert esters == [(canonical_smiles(ALANINE_AMIDE),)]
    assert outcomes(BY_NAME["bromide from alcohol"], [Chem.MolFromSmiles("C[C@H](O)c1ccccc1")]) == [("CC(Br)c1ccccc1",)]


ROUTES = [
    (BENZYL_ACETAMIDE, f"CC(=O)O.NCc1ccccc1>>{BENZYL_ACETAMIDE}"),
    (BENZYL_ACETAMIDE, f"NCc1ccccc1.CC(=O)Cl>CCN(CC)CC.ClCCl>{BENZYL_ACETAMIDE}"),
    (BENZYL_ACETAMIDE, f"CC(=O)Cl.NCc1ccccc1>>{BENZYL_ACETAMIDE}.Cl"),
    (BENZYL_ACETAMIDE, f"CC(=O)Cl.NCc1ccccc1.NCc1ccccc1.ClCCl.CCN(CC)CC.O>>{BENZYL_ACETAMIDE}"),
    (BIARYL, "Brc1ccccc1.OB(O)c1ccncc1>[Pd].[Na+].[Na+].O=C([O-])[O-]>c1cc(ccn1)-c1ccccc1"),
    (ASPIRIN, f"CC(=O)OC(C)=O.O=C(O)c1ccccc1O>>{ASPIRIN}.CC(=O)O"),
    ("NCc1ccccc1", "N#Cc1ccccc1>[AlH4-].[Li+]>NCc1ccccc1"),
    ("[N-]=[N+]=NCc1ccccc1", "BrCc1ccccc1.[N-]=[N+]=[N-].[Na+]>>[N-]=[N+]=NCc1ccccc1"),
    (ALANINE_AMIDE, f"CC(=O)Cl.COC(=O)[C@H](C)N>>{ALANINE_AMIDE}"),
]


@pytest.mark.parametrize(("product", "answer"), ROUTES)
def test_a_route_holds(product: str, answer: str) -> None:
    assert [finding for finding in findings(product, answer) if not finding[1]] == []


REFUSED = [
    ("other_product", BENZYL_ACETAMIDE, "CC(=O)O.NCCc1ccccc1>>CC(=O)NCCc1ccccc1"),
    ("no_reactant", BENZYL_ACETAMIDE, f">CC(=O)O>{BENZYL_ACETAMIDE}"),
    ("product_among_reactants", BENZYL_ACETAMIDE, f"{BENZYL_ACETAMIDE}>>{BENZYL_ACETAMIDE}"),
    ("product_among_reactants", BENZYL_ACETAMIDE, f"CC(=O)O.NCc1ccccc1>{BENZYL_ACETAMIDE}>{BENZYL_ACETAMIDE}"),
    ("product_among_reactants", BENZYL_ACETAMIDE, f"CC(O)=NCc1ccccc1>>{BENZYL_ACETAMIDE}"),
    ("product_among_reactants", "CC(=O)O", "CC(=O)[O-].[Na+]>>CC(=O)O"),
    ("product_among_reactants", ALANINE_AMIDE, f"C[C@@H](NC(C)=O)C(=O)OC>>{ALANINE_AMIDE}"),
    ("unavailable", BENZYL_ACETAMIDE, f"CC(=O)N(C(=O)OC(C)(C)C)Cc1ccccc1>>{BENZYL_ACETAMIDE}"),
    ("unavailable", BENZYL_ACETAMIDE, f"CC(=O)[I].NCc1ccccc1>>{BENZYL_ACETAMIDE}"),
    ("no_template", BENZYL_ACETAMIDE, f"CC(N)=O.BrCc1ccccc1>>{BENZYL_ACETAMIDE}"),
    ("no_template", BENZYL_ACETAMIDE, f"NCc1ccccc1>CC(=O)Cl>{BENZYL_ACETAMIDE}"),
    ("no_template", BENZYL_ACETAMIDE, f"C.N.c1ccccc1>>{BENZYL_ACETAMIDE}"),
    ("no_template", BIARYL, f"c1ccccc1.c1ccncc1>>{BIARYL}"),
    ("no_template", "C[C@H](NC(C)=O)c1ccccc1", "CC(=O)Cl.CC(N)c1ccccc1>>C[C@H](NC(C)=O)c1ccccc1"),
    ("balance", BENZYL_ACETAMIDE, f"CC(=O)O.NCc1ccccc1>>{BENZYL_ACETAMIDE}.Cl"),
    ("balance", BENZYL_ACETAMIDE, f"CC(=O)O.NCc1ccccc1>>{BENZYL_ACETAMIDE}.O.O"),
]


@pytest.mark.parametrize(("name", "product", "answer"), REFUSED)
def test_what_is_no_route_is_refused_by_name(name: str, product: str, answer: str) -> None:
    check = findings(product, answer)[1]
    assert check[:2] == ("reaction", False)
    assert check[2].startswith(f"{name}: "), check[2]


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("no_answer", ""),
        ("reaction_text", BENZYL_ACETAMIDE),
        ("reaction_text", "CC>CC"),
        ("reaction_text", "CC>>CC>>CC"),
        ("reaction_text", "CC(=O)O.NCc1ccccc1>>"),
        ("no_answer", "CC(=O)O..NCc1ccccc1>>CC"),
        ("size", f"{'.'.join(['C'] * 20)}>>C"),
        ("valid", f"C1.C1>>{BENZYL_ACETAMIDE}"),
        ("atom_map", f"[CH3:1]C(=O)O.NCc1ccccc1>>{BENZYL_ACETAMIDE}"),
        ("isotope", f"[13CH3]C(=O)O.NCc1ccccc1>>{BENZYL_ACETAMIDE}"),
        ("wildcard", f"CC(=O)*.NCc1ccccc1>>{BENZYL_ACETAMIDE}"),
        ("query", f"[C,N]C(=O)O.NCc1ccccc1>>{BENZYL_ACETAMIDE}"),
        ("trailing_text", f"CC(=O)O.NCc1ccccc1>>{BENZYL_ACETAMIDE} |f:0.1|"),
        ("length", f"{'C' * 2001}>>C"),
    ],
)
def test_hostile_reactions_fail_by_their_rule(rule: str, answer: str) -> None:
    assert [name for name, *_ in findings(BENZYL_ACETAMIDE, answer)] == [rule]


def test_options() -> None:
    acetyl = f"CC(=O)Cl.NCc1ccccc1>>{BENZYL_ACETAMIDE}"
    assert findings(BENZYL_ACETAMIDE, acetyl, templates=["amide coupling"])[1][2].startswith("no_template")
    assert findings(BENZYL_ACETAMIDE, acetyl, templates=["amine acylation"])[1][1]
    assert findings("CC(=O)NCCO", "CC(=O)Cl.NCCO>>CC(=O)NCCO", selective=True)[1][1]
    anisole = "CC(=O)Cl.COc1ccccc1>>COc1ccc(cc1)C(C)=O"
    assert findings("COc1ccc(cc1)C(C)=O", anisole)[1][1]
    assert findings("COc1ccc(cc1)C(C)=O", anisole, selective=True)[1][2].startswith("not_selective")
    ester = "COC(=O)c1ccc(C#N)cc1>>COC(=O)c1ccc(CN)cc1"
    assert "spare the ester" in findings("COC(=O)c1ccc(CN)cc1", ester, selective=True, available=False)[1][2]
    exotic = f"CC(=O)OC(=O)C(C)(C)CCCCl.NCc1ccccc1>>{BENZYL_ACETAMIDE}"
    assert findings(BENZYL_ACETAMIDE, exotic)[1][2].startswith("unavailable")
    assert findings(BENZYL_ACETAMIDE, exotic, available=False)[1][1]


def test_the_shipped_list_is_readable_and_available() -> None:
    assert len(stock()) > 2000
    assert len(set(stock())) == len(stock())
    for smiles in stock()[::50]:
        assert is_available(Chem.MolFromSmiles(smiles))
    assert not is_available(Chem.MolFromSmiles("CC(=O)N(C(=O)OC(C)(C)C)Cc1ccccc1"))
