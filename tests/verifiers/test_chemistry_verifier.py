"""The chemistry verifier: references pass, wrong answers fail, hostile answers get a verdict with a reason."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.contracts import Verifier
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.chemistry import ChemistryVerifier
from flywheel.verifiers.chemistry_answer import RULES as ANSWER_RULES
from flywheel.verifiers.chemistry_formula import parse_formula
from flywheel.verifiers.chemistry_plausible import RULES as PLAUSIBILITY
from flywheel.verifiers.chemistry_pool import WorkerPool
from flywheel.verifiers.chemistry_reaction import REFUSALS

VALID = {"kind": "valid"}
PLAUSIBLE = {"kind": "plausible"}
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
CAFFEINE = "Cn1c(=O)c2c(ncn2C)n(C)c1=O"


def formula(value: str) -> dict[str, Any]:
    return {"kind": "formula", "value": value}


def group(name: str, **rest: Any) -> dict[str, Any]:
    return {"kind": "functional_group", "name": name, **rest}


def prop(name: str, low: float | None, high: float | None) -> dict[str, Any]:
    return {"kind": "property", "name": name, "min": low, "max": high}


@pytest.fixture(scope="module")
def verifier() -> Iterator[ChemistryVerifier]:
    judge = ChemistryVerifier()
    yield judge
    judge.close()


def attempt(answer: str | None) -> Trajectory:
    return Trajectory(task_id="t", turns=(), stop_reason="terminated", answer=answer)


def task_of(constraints: list[dict[str, Any]], **payload: Any) -> Task:
    return Task.create(env="chemistry", family="test", prompt="", payload={"constraints": constraints, **payload})


def verdict_on(verifier: ChemistryVerifier, constraints: list[dict[str, Any]], answer: str | None, **payload: Any) -> Verdict:
    return verifier.verify(task_of(constraints, **payload), attempt(answer))


SOLVED: list[tuple[list[dict[str, Any]], str]] = [
    ([VALID], "C"),
    ([formula("C3H8")], "CCC"),
    ([formula("H8C3")], "CCC"),
    ([formula("C9H8O4")], ASPIRIN),
    ([formula("C2H3O2-")], "CC(=O)[O-]"),
    ([formula("CH6N+")], "C[NH3+]"),
    ([{"kind": "smiles", "value": "OCC"}], "CCO"),
    ([{"kind": "smiles", "value": "C[C@H](N)C(=O)O"}], "N[C@@H](C)C(=O)O"),
    ([{"kind": "smiles", "value": "C[C@H](N)C(=O)O", "stereo": False}], "C[C@@H](N)C(=O)O"),
    ([{"kind": "smiles", "value": "CC(=O)[O-].[Na+]"}], "[Na+].CC(=O)[O-]"),
    ([{"kind": "smiles", "value": "CC(=O)O", "salts": True}], "[Na+].CC(=O)[O-]"),
    ([{"kind": "smiles", "value": "CC(=O)CC(C)=O", "tautomers": True}], "CC(O)=CC(C)=O"),
    ([{"kind": "smiles", "value": "[13CH4]"}], "[13CH4]"),
    ([{"kind": "smiles", "value": "[13CH3]/C=C/C", "stereo": False}], "[13CH3]/C=C\\C"),
    ([{"kind": "substructure", "smarts": "c1ccccc1"}], ASPIRIN),
    ([{"kind": "substructure", "smarts": "[OX2H]", "min_count": 3, "max_count": 3}], "OCC(O)CO"),
    ([{"kind": "substructure", "smarts": "[F,Cl,Br,I]", "min_count": 0, "max_count": 0}], "CCO"),
    ([group("nitro", max_count=0)], "CCO"),
    ([group("ester")], ASPIRIN),
    ([group("alcohol", min_count=2)], "OCCO"),
    ([group("quaternary ammonium")], "C[N+](C)(C)C"),
    ([prop("mw", 180.1, 180.2)], ASPIRIN),
    ([prop("logp", None, 0.0)], "OCC(O)CO"),
    ([prop("tpsa", 63.5, 63.7)], ASPIRIN),
    ([prop("qed", 0.5, 1.0)], ASPIRIN),
    ([prop("sa", 1.0, 3.0)], ASPIRIN),
    ([prop("hbd", 1, 1), prop("hba", 3, 3), prop("rings", 1, 1), prop("heavy_atoms", 13, 13)], ASPIRIN),
    ([prop("rotatable_bonds", 1, 1)], "CCCC"),
    ([prop("charge", -1, -1)], "CC(=O)[O-]"),
    ([{"kind": "similarity", "to": ASPIRIN, "min": 1.0}], ASPIRIN),
    ([{"kind": "similarity", "to": "CCO", "max": 0.2}], CAFFEINE),
    ([{"kind": "scaffold", "value": "c1ccccc1"}], ASPIRIN),
    ([{"kind": "scaffold", "value": "c1ccncc1", "generic": True}], ASPIRIN),
    ([{"kind": "completes", "prefix": "CC(=O)Oc1ccccc1"}, formula("C9H8O4")], "C(=O)O"),
    ([{"kind": "completes", "prefix": "CC(=O"}], ")C"),
    ([PLAUSIBLE], CAFFEINE),
    ([formula("C4H10O"), group("alcohol"), PLAUSIBLE], " CCCCO\n"),
]


@pytest.mark.parametrize(("constraints", "answer"), SOLVED)
def test_reference_solves(verifier: ChemistryVerifier, constraints: list[dict[str, Any]], answer: str) -> None:
    verdict = verdict_on(verifier, constraints, answer)
    assert (verdict.outcome, verdict.reward) == ("solved", 1.0), verdict.evidence
    assert all(check.passed for check in verdict.checks)


FAILED: list[tuple[list[dict[str, Any]], str, str]] = [
    ([formula("C3H8")], "CCCC", "formula"),
    ([formula("C3H8")], "CCO", "formula"),
    ([formula("C2H4O2")], "CC(=O)[O-]", "charge"),
    ([formula("C2H3O2-")], "CC(=O)O", "formula"),
    ([{"kind": "smiles", "value": "CCO"}], "COC", "smiles"),
    ([{"kind": "smiles", "value": "C[C@H](N)C(=O)O"}], "C[C@@H](N)C(=O)O", "smiles"),
    ([{"kind": "smiles", "value": "C[C@H](N)C(=O)O"}], "CC(N)C(=O)O", "smiles"),
    ([{"kind": "smiles", "value": "CC(=O)CC(C)=O"}], "CC(O)=CC(C)=O", "smiles"),
    ([{"kind": "smiles", "value": "CCO"}], "CCO.[Na+].[Cl-]", "fragments"),
    ([{"kind": "smiles", "value": "[13CH3]C=CC", "stereo": False}], "CC=CC", "smiles"),
    ([group("nitro", max_count=0)], "C[N+](=O)[O-]", "functional_group:nitro"),
    ([{"kind": "substructure", "smarts": "c1ccccc1"}], "C1CCCCC1", "substructure"),
    ([{"kind": "substructure", "smarts": "[OX2H]", "max_count": 1}], "OCCO", "substructure"),
    ([group("alcohol")], "CC(=O)O", "functional_group:alcohol"),
    ([group("alcohol", min_count=2)], "CCO", "functional_group:alcohol"),
    ([prop("mw", 100, 120)], ASPIRIN, "property:mw"),
    ([prop("logp", 3, None)], "OCC(O)CO", "property:logp"),
    ([prop("rings", 2, 2)], "C1CC1", "property:rings"),
    ([{"kind": "similarity", "to": ASPIRIN, "min": 0.5}], "CCO", "similarity"),
    ([{"kind": "similarity", "to": ASPIRIN, "max": 0.9}], ASPIRIN, "similarity"),
    ([{"kind": "scaffold", "value": "c1ccncc1"}], ASPIRIN, "scaffold"),
    ([{"kind": "scaffold", "value": "c1ccncc1"}], "CCO", "scaffold"),
    ([{"kind": "completes", "prefix": "CC("}], "=O", "valid"),
    ([PLAUSIBLE], "C1=CC1", "plausible"),
]


@pytest.mark.parametrize(("constraints", "answer", "check"), FAILED)
def test_wrong_answer_fails(verifier: ChemistryVerifier, constraints: list[dict[str, Any]], answer: str, check: str) -> None:
    verdict = verdict_on(verifier, constraints, answer)
    assert (verdict.outcome, verdict.reward) == ("failed", 0.0)
    assert check in [c.name for c in verdict.checks if not c.passed]


# Odd and hostile answers, each with the rule that must catch it: a check's name, or, behind a slash, the name that its detail gives.
HACKS = [json.loads(line) for line in Path(__file__).with_name("chemistry_hacks.jsonl").read_text("ascii").splitlines()]


def test_every_hack_fails_by_its_rule(verifier: ChemistryVerifier) -> None:
    tasks = [task_of(hack["constraints"], **({"allow": hack["allow"]} if "allow" in hack else {})) for hack in HACKS]
    verdicts = verifier.verify_many([(task, attempt(hack["answer"])) for task, hack in zip(tasks, HACKS, strict=True)])
    slipped = []
    for hack, verdict in zip(HACKS, verdicts, strict=True):
        check, _, rule = hack["rule"].partition("/")
        failing = {c.name: c.detail for c in verdict.checks if not c.passed}
        verdict.evidence.encode()
        if (
            verdict.outcome != "failed"
            or verdict.reward
            or not failing.get(check, "").startswith(rule and f"{rule}: ")
            or not failing.get(check)
        ):
            slipped.append((hack["why"], hack["answer"], hack["rule"], failing))
    assert slipped == []


def test_the_table_of_hacks_is_long_and_tries_every_rule() -> None:
    assert len(HACKS) >= 150
    tried = {hack["rule"] for hack in HACKS}
    answers = {rule for rule in ANSWER_RULES if rule not in {"limit", "kills_grader"}}  # those have tests of their own
    assert answers <= tried
    assert {f"plausible/{rule.name}" for rule in PLAUSIBILITY} <= tried
    assert {f"reaction/{name}" for name in REFUSALS if name != "not_selective"} <= tried


BROKEN_RULES = [
    ("ring_strain", "C12C3C1C23"),
    ("ring_strain", "C1=CC1"),
    ("ring_strain", "C1=CC=C1"),
    ("ring_unsaturation", "C1CCC#C1"),
    ("ring_unsaturation", "C1CCC=C=C1"),
    ("ring_size", "C1" + "C" * 29 + "1"),
    ("bredt", "C1CC2CC1=C2"),
    ("nitrogen_chain", "CNNNNC"),
    ("nitrogen_chain", "CN(C)N(C)N(C)C"),
    ("oxygen_chain", "COOOC"),
    ("peroxide", "COOC"),
    ("sulfur_chain", "CSSSSC"),
    ("heteroatom_chain", "CN(C)ON(C)C"),
    ("heteroatom_halide", "COCl"),
    ("heteroatom_halide", "CN(C)Cl"),
    ("gem_diol", "CC(O)O"),
    ("hemiacetal", "CC(O)OC"),
    ("hemiaminal", "CC(O)N"),
    ("alpha_halo_heteroatom", "CC(O)Cl"),
    ("carbonic_acid", "OC(=O)O"),
    ("carbonic_acid", "NC(=O)O"),
    ("enol", "C=CO"),
    ("enol", "CC#CO"),
    ("imidic_acid", "CC(O)=NC"),
    ("nh_imine", "CC=N"),
    ("thioaldehyde", "CC=S"),
    ("cumulene", "C=C=C=C"),
    ("valence", "[CH3-]"),
    ("charge_separation", "C[O+]=CC[O-]"),
    ("elements", "[Xe]"),
]


@pytest.mark.parametrize(("rule", "smiles"), BROKEN_RULES)
def test_implausible_molecule_breaks_its_rule(verifier: ChemistryVerifier, rule: str, smiles: str) -> None:
    verdict = verdict_on(verifier, [PLAUSIBLE], smiles, allow=["charge"])
    check = verdict.checks[-1]
    assert (check.name, check.passed) == ("plausible", False)
    assert check.detail.startswith(f"{rule}: ")


REAL_MOLECULES = {
    "aspirin": ASPIRIN,
    "caffeine": CAFFEINE,
    "penicillin G": "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "glucose": "OCC1OC(O)C(O)C(O)C1O",
    "sucrose": "OCC1OC(OC2(CO)OC(CO)C(O)C2O)C(O)C(O)C1O",
    "vitamin C": "O=C1OC(C(O)CO)C(O)=C1O",
    "cholesterol": "CC(C)CCCC(C)C1CCC2C3CC=C4CC(O)CCC4(C)C3CCC12C",
    "morphine": "CN1CCC23c4c5ccc(O)c4OC2C(O)C=CC3C1C5",
    "camphor": "CC1(C)C2CCC1(C)C(=O)C2",
    "adamantane": "C1C2CC3CC1CC(C2)C3",
    "alpha-pinene": "CC1=CCC2CC1C2(C)C",
    "norbornene": "C1CC2C=CC1C2",
    "nitrobenzene": "O=[N+]([O-])c1ccccc1",
    "azidothymidine": "Cc1cn(C2CC(N=[N+]=[N-])C(CO)O2)c(=O)[nH]c1=O",
    "tetrazole": "c1nnn[nH]1",
    "losartan": "CCCCc1nc(Cl)c(CO)n1Cc1ccc(cc1)-c1ccccc1-c1nnn[nH]1",
    "sildenafil": "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1",
    "dmso": "CS(C)=O",
    "glycine": "NCC(=O)O",
    "zwitterion": "[NH3+]CC(=O)[O-]",
    "urea": "NC(N)=O",
    "chloral hydrate": "OC(O)C(Cl)(Cl)Cl",
    "acetonitrile": "CC#N",
    "methyl isocyanide": "C[N+]#[C-]",
    "cystine": "NC(CSSCC(N)C(=O)O)C(=O)O",
    "tetracycline": "CN(C)C1C2CC3C(=C(O)C2(O)C(=O)C(C(N)=O)=C1O)C(=O)c1c(O)cccc1C3(C)O",
    "artificial sweetener": "O=C1NS(=O)(=O)c2ccccc12",
    "warfarin": "CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O",
    "erythromycin": "CCC1OC(=O)C(C)C(OC2CC(C)(OC)C(O)C(C)O2)C(C)C(OC2OC(C)CC(C2O)N(C)C)C(C)(O)CC(C)C(=O)C(C)C(O)C1(C)O",
    "atp": "Nc1ncnc2c1ncn2C1OC(COP(=O)(O)OP(=O)(O)OP(=O)(O)O)C(O)C1O",
    "cyclooctyne": "C1CCCC#CCC1",
    "allene": "C=C=C",
    "naphthalene": "c1ccc2ccccc2c1",
    "cubane-free steroid": "CC12CCC3c4ccc(O)cc4CCC3C1CCC2O",
    "acyl halide": "CC(=O)Cl",
    "pyridine n-oxide": "[O-][n+]1ccccc1",
    "borneol": "CC1(C)C2CCC1(C)C(O)C2",
}


def test_real_molecules_are_plausible(verifier: ChemistryVerifier) -> None:
    refused = {name: verdict_on(verifier, [PLAUSIBLE], smiles).evidence for name, smiles in REAL_MOLECULES.items()}
    assert {name: why for name, why in refused.items() if why} == {}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "constraints is None"),
        ({"constraints": []}, "at least one"),
        ({"constraints": [{"kind": "colour"}]}, "no known kind"),
        ({"constraints": ["valid"]}, "no known kind"),
        ({"constraints": [{"kind": "formula"}]}, "lacks the field 'value'"),
        ({"constraints": [{"kind": "formula", "value": "C3H8!"}]}, "expected elements"),
        ({"constraints": [{"kind": "formula", "value": "Qq3"}]}, "no element"),
        ({"constraints": [{"kind": "formula", "value": "CH4O0"}]}, "expected elements"),
        ({"constraints": [{"kind": "formula", "value": "C3H8", "vaule": 1}]}, "no field 'vaule'"),
        ({"constraints": [{"kind": "smiles", "value": "nonsense"}]}, "not a molecule"),
        ({"constraints": [{"kind": "smiles", "value": "CC", "stereo": "yes"}]}, "expected bool"),
        ({"constraints": [{"kind": "substructure", "smarts": "((("}]}, "not SMARTS"),
        ({"constraints": [{"kind": "substructure", "smarts": "C", "min_count": 0}]}, "constrains nothing"),
        ({"constraints": [{"kind": "substructure", "smarts": "C.C", "max_count": 2000}]}, "expected less than 1000"),
        ({"constraints": [{"kind": ["valid"]}]}, "no known kind"),
        ({"constraints": [VALID], "allow": [["charge"]]}, "allow is"),
        ({"constraints": [{"kind": "reaction", "product": "CCO", "templates": [["esterification"]]}]}, "templates is"),
        ({"constraints": [prop("chemistry_saboteurs_absent:x", 0, None)]}, "can't import it"),
        ({"constraints": [{"kind": "functional_group", "name": "alcohole"}]}, "unknown group"),
        ({"constraints": [{"kind": "property", "name": "beauty", "min": 1}]}, "is unknown"),
        ({"constraints": [{"kind": "property", "name": "mw"}]}, "needs min, max"),
        ({"constraints": [{"kind": "property", "name": "mw", "min": 2, "max": 1}]}, "above max"),
        ({"constraints": [{"kind": "property", "name": "mw", "min": True}]}, "expected int"),
        ({"constraints": [{"kind": "property", "name": "mw", "min": float("nan")}]}, "expected finite numbers"),
        ({"constraints": [{"kind": "property", "name": "mw", "max": 10**400}]}, "expected finite numbers"),
        ({"constraints": [{"kind": "property", "name": "math:pi", "min": 1}]}, "property 'math:pi' is float, expected a function"),
        ({"constraints": [{"kind": "property", "name": "os:getpid", "min": 1}]}, "can't be computed on CCO: TypeError"),
        ({"constraints": [{"kind": "similarity", "to": "CCO", "min": 60}]}, "expected numbers from 0 to 1"),
        ({"constraints": [{"kind": "similarity", "to": "CCO", "max": 60}]}, "expected numbers from 0 to 1"),
        ({"constraints": [{"kind": "completes", "prefix": ""}]}, "prefix is empty"),
        ({"constraints": [{"kind": "completes", "prefix": "CC*"}]}, "no answer completes the prefix"),
        ({"constraints": [{"kind": "completes", "prefix": "[13CH3]C"}]}, "no answer completes the prefix"),
        ({"constraints": [{"kind": "completes", "prefix": "hello"}]}, "no answer completes the prefix"),
        ({"constraints": [{"kind": "scaffold", "value": "CCO"}]}, "has no ring"),
        ({"constraints": [VALID], "allow": ["everything"]}, "allow is"),
        ({"constraints": [VALID], "allows": ["charge"]}, "unknown field 'allows'; did you mean 'allow'"),
    ],
)
def test_malformed_task_is_an_error_and_never_a_pass(verifier: ChemistryVerifier, payload: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verifier.verify(Task.create(env="chemistry", family="test", prompt="", payload=payload), attempt("CCO"))


def test_partial_credit_is_half_the_share_that_holds(verifier: ChemistryVerifier) -> None:
    lenient = ChemistryVerifier(partial_credit=True)
    three_of_four = [formula("C4H10O"), group("alcohol"), prop("rings", 0, 0), prop("mw", 1, 2)]
    assert verdict_on(lenient, three_of_four, "CCCCO").reward == pytest.approx(0.375)
    assert verdict_on(lenient, three_of_four, "not a molecule").reward == 0.0
    assert verdict_on(lenient, three_of_four[:3], "CCCCO").reward == 1.0
    lenient.close()


def test_solubility_is_delaneys_equation(verifier: ChemistryVerifier) -> None:
    # butane: Crippen logP 1.8064, MW 58.124, one rotatable bond, nothing aromatic
    expected = 0.16 - 0.63 * 1.8064 - 0.0062 * 58.124 + 0.066 * 1
    assert verdict_on(verifier, [prop("logs", expected - 1e-3, expected + 1e-3)], "CCCC").outcome == "solved"


def test_formula_parsing() -> None:
    assert parse_formula("C2H3O2-") == ({"C": 2, "H": 3, "O": 2}, -1)
    assert parse_formula("Ca+2") == ({"Ca": 1}, 2)
    assert parse_formula("CH3CH2OH") == ({"C": 2, "H": 6, "O": 1}, 0)


def test_many_threads_get_their_own_verdicts(verifier: ChemistryVerifier) -> None:
    results: dict[int, Verdict] = {}

    def work(length: int) -> None:
        results[length] = verdict_on(verifier, [formula(f"C{length}H{2 * length + 2}")], "C" * length)

    threads = [threading.Thread(target=work, args=(length,)) for length in range(2, 42)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[length].outcome for length in range(2, 42)] == ["solved"] * 40


def test_verify_many_keeps_the_order(verifier: ChemistryVerifier) -> None:
    task = task_of([formula("C3H8")])
    verdicts = verifier.verify_many([(task, attempt(answer)) for answer in ("CCC", "CC", "CCC", None)])
    assert [verdict.outcome for verdict in verdicts] == ["solved", "failed", "solved", "failed"]


def test_a_verifier_works_again_after_close() -> None:
    judge = ChemistryVerifier()
    assert verdict_on(judge, [VALID], "C").outcome == "solved"
    judge.close()
    assert verdict_on(judge, [VALID], "C").outcome == "solved"
    judge.close()


def test_it_is_a_verifier() -> None:
    assert isinstance(ChemistryVerifier(), Verifier)


# A plug-in property runs in the worker: here it stands for RDKit code that stalls, crashes or eats memory on one answer.
STALLS = {"kind": "property", "name": "chemistry_saboteurs:searches_forever_on_fluorine", "max": 1}
CRASHES = {"kind": "property", "name": "chemistry_saboteurs:crashes_on_fluorine", "max": 1}
GREEDY = {"kind": "property", "name": "chemistry_saboteurs:allocates_on_fluorine", "max": 1}
RAISES = {"kind": "property", "name": "chemistry_saboteurs:raises_on_fluorine", "max": 1}


@pytest.mark.parametrize(
    ("constraint", "check"), [(STALLS, "limit"), (CRASHES, "kills_grader"), (GREEDY, "limit"), (RAISES, f"property:{RAISES['name']}")]
)
def test_an_answer_that_breaks_the_worker_fails_alone(constraint: dict[str, Any], check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    judge = ChemistryVerifier(pool=WorkerPool(cpu_s=0.3, memory_mb=2048))
    task = task_of([constraint])
    answers = ["CCO", "CF", "CC", "CCN"]
    verdicts = judge.verify_many([(task, attempt(answer)) for answer in answers])
    judge.close()
    assert [verdict.outcome for verdict in verdicts] == ["solved", "failed", "solved", "solved"]
    assert [c.name for c in verdicts[1].checks if not c.passed] == [check]


def test_worker_sees_neither_the_environment_nor_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("SECRET_TOKEN", "canary")
    pool = WorkerPool()
    constraint = {"kind": "property", "name": "chemistry_saboteurs:count_secrets", "max": 0}
    reply = pool.ask(["judge", json.dumps({"constraints": [constraint]}), "C"])
    pool.close()
    assert reply.value[-1][1] is True
