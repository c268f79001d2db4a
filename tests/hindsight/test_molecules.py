"""Molecules that failed, relabelled as what they are; and those that give nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.envs.chemistry import relabel
from flywheel.envs.chemistry.families import families
from flywheel.envs.chemistry.family import scaffold_of
from flywheel.envs.chemistry.relabel import ChemistryRelabeller
from flywheel.errors import NotRelabelledError
from flywheel.tasks.source import TaskSource
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.chemistry import ChemistryVerifier
from flywheel.verifiers.chemistry_pool import acquire_shared, release_shared
from flywheel.verifiers.chemistry_templates import BY_NAME
from tests.hindsight.attempts import collected, harvested, recipe_of, said
from tests.scripted import call

MAKER = ChemistryRelabeller()
FAILED = Verdict(outcome="failed", reward=0.0, checks=(), evidence="", verifier="chemistry", verifier_version="2")
GROUPS = {
    "heavy_atoms": 7,
    "num_hetero": 3,
    "hetero_kinds": 4,
    "unsaturation": 1,
    "irregularity": 0,
    "num_groups": 2,
    "tightness": 2,
}
TASK = families()["groups"].generate(GROUPS, 3)
L_ALANINE, D_ALANINE = [{"kind": "smiles", "value": "C[C@H](N)C(=O)O"}], "C[C@@H](N)C(=O)O"
ABOUT = {
    "formula": "CCOC(C)CN",
    "formula_groups": "CCOC(C)CN",
    "groups": "CCOC(C)CN",
    "descriptors": "CCCCCCO",
    "scaffold": "Cc1ccc(OC)cc1C(=O)O",
    "elucidation": "Cc1ccc(OC)cc1C(=O)O",
}


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    acquire_shared()
    yield
    release_shared()


def task_of(family: str) -> Task:
    generator = families()[family]
    return generator.generate({name: knob.default[0] for name, knob in generator.knobs.items()}, 5)


def of(family: str, prompt: str, constraints: list[dict[str, Any]], **params: int) -> Task:
    knobs = {name: knob.default[0] for name, knob in families()[family].knobs.items()} | params
    return Task.create(env="chemistry", family=family, prompt=prompt, payload={"constraints": constraints}, params=knobs, seed=1)


def relabelled(answer: str | None, task: Task = TASK) -> Task:
    attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
    ((child, path),) = MAKER.relabel(task, attempt, FAILED)
    assert path.task_id == child.id
    return child


def outcome(task: Task, answer: str) -> str:
    return ChemistryVerifier().verify(task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)).outcome


@pytest.mark.parametrize("family", ABOUT)
def test_each_family_asks_for_what_the_molecule_is(family: str) -> None:
    task = task_of(family)
    child = relabelled(ABOUT[family], task)
    assert (child.family, child.parent_id, child.operator, child.split) == (family, task.id, "hindsight:molecule", "train")
    assert outcome(child, ABOUT[family]) == "solved"
    assert [c["kind"] for c in child.payload["constraints"]][-1] == "plausible"
    assert len(child.payload["constraints"]) >= len(task.payload["constraints"])
    assert MAKER.trivial(child)
    for trivial in MAKER.trivial(child):
        assert outcome(child, trivial) == "failed"


def test_a_completion_asks_for_what_the_same_prefix_became() -> None:
    task = task_of("completion")
    prefix = task.payload["constraints"][0]["prefix"]
    rest = families()["completion"].reference(task)  # type: ignore[attr-defined]
    child = relabelled(f"{rest}O" if outcome(task, f"{rest}O") == "failed" else f"{rest}CO", task)
    assert child.payload["constraints"][0] == {"kind": "completes", "prefix": prefix}
    assert child.payload["constraints"][1]["kind"] == "formula"
    assert child.payload["constraints"][1] != task.payload["constraints"][1]


def test_an_improvement_asks_for_what_was_gained_over_the_same_start() -> None:
    task = task_of("optimise")
    near = next(spec for spec in task.payload["constraints"] if spec["kind"] == "similarity")
    child = relabelled("OC" + near["to"], task)
    assert [spec["to"] for spec in child.payload["constraints"] if spec["kind"] == "similarity"] == [near["to"]]
    assert outcome(child, "OC" + near["to"]) == "solved"
    assert outcome(child, near["to"]) == "failed"
    with pytest.raises(NotRelabelledError, match="no_task"):
        relabelled(near["to"], task)


def test_it_is_as_tight_as_the_failed_task_and_knows_its_own_size() -> None:
    child = relabelled("CCOC(C)CN")
    constraints = child.payload["constraints"]
    assert {"kind": "property", "name": "heavy_atoms", "max": 8} in constraints  # 7 heavy atoms, tightness 2 leaves one more
    assert sum(c["kind"] == "functional_group" for c in constraints) == 2
    assert child.params == {**GROUPS, "heavy_atoms": 7, "num_hetero": 2, "unsaturation": 0}
    assert outcome(child, "CCOC(C)CCCN") == "failed"


def test_it_lies_on_the_side_of_its_own_scaffold() -> None:
    child = relabelled("Cc1ccc(OC)cc1C(=O)O", task_of("elucidation"))
    family = families()["elucidation"]
    assert family.split_keys(child)[1]() == f"scaffold {scaffold_of('c1ccccc1')}"  # type: ignore[attr-defined]


def test_same_answer_same_task() -> None:
    assert relabelled("CCOC(C)CN").id == relabelled("CCOC(C)CN").id


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no_answer"),
        ("", "no_answer"),
        ("not a molecule", "invalid"),
        ("C1CC", "invalid"),
        ("[CH3]", "invalid"),
        ("CC.OO", "invalid"),
        ("CCO |$_AV:x$|", "invalid"),
        ("C" * 100_000, "invalid"),
        ("CCOCO", "implausible"),
        ("OOOOOO", "implausible"),
        ("CN", "too_small"),
        ("C" * 60, "out_of_range"),
        ("CCCCCCC", "no_task"),
        ("CCCCCCO", "fewer_constraints"),
    ],
)
def test_molecules_that_make_no_task_are_dropped(answer: str | None, reason: str) -> None:
    with pytest.raises(NotRelabelledError, match=reason):
        relabelled(answer)


def test_an_isomer_asks_for_itself_by_its_labels() -> None:
    task = of("stereo", "Give the SMILES of the isomer of CC(N)C(=O)O in which atom 2 is S; atoms count from 1 as written.", L_ALANINE)
    assert outcome(task, D_ALANINE) == "failed"
    child = relabelled(D_ALANINE, task)
    assert child.prompt == "Give the SMILES of the isomer of CC(N)C(=O)O in which atom 2 is R; atoms count from 1 as written."
    assert (outcome(child, D_ALANINE), outcome(child, L_ALANINE[0]["value"]), outcome(child, "CC(N)C(=O)O")) == (
        "solved",
        "failed",
        "failed",
    )


def test_isomers_are_told_as_their_family_tells_them() -> None:
    family = families()["stereo"]
    for seed in range(12):
        task = family.generate({name: knob.default[1] for name, knob in family.knobs.items()}, seed)
        about = family.about(family.reference(task), {"max_elements": 6}, seed)  # type: ignore[attr-defined]
        assert (about.prompt, about.constraints) == (task.prompt, task.payload["constraints"])


def test_a_wrong_product_asks_for_the_reaction_that_gives_it() -> None:
    asked = "Give the SMILES of the product of {} of {}."
    coupling, reduction = (f"{name} ({BY_NAME[name].conditions})" for name in ("amide coupling", "carbonyl reduction"))
    # Another reaction of the same molecule.
    task = of("forward", asked.format(f"oxidation of an aldehyde ({BY_NAME['oxidation of an aldehyde'].conditions})", "O=Cc1ccccc1"), [])
    child = relabelled("OCc1ccccc1", task)
    assert child.prompt == asked.format(reduction, "O=Cc1ccccc1")
    assert [outcome(child, answer) for answer in ("OCc1ccccc1", "O=Cc1ccccc1")] == ["solved", "failed"]
    # The same reaction with another partner.
    task = of("forward", asked.format(coupling, "CC(=O)O and NCc1ccccc1"), [{"kind": "smiles", "value": "CC(=O)NCc1ccccc1"}])
    child = relabelled("CCC(=O)NCc1ccccc1", task)
    assert child.prompt == asked.format(coupling, "NCc1ccccc1 and CCC(=O)O")
    assert [outcome(child, answer) for answer in ("CCC(=O)NCc1ccccc1", "NCc1ccccc1")] == ["solved", "failed"]


def test_reactants_of_another_product_ask_for_that_one() -> None:
    product = {"kind": "reaction", "product": "CC(=O)NCc1ccccc1", "templates": ["amide coupling"]}
    task = of("retrosynthesis", "…", [product], unnamed=0)
    answer = "CCC(=O)O.NCc1ccccc1>>CC(=O)NCc1ccccc1"
    attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
    ((child, path),) = MAKER.relabel(task, attempt, FAILED)
    assert child.prompt == (
        "Give a one-step synthesis of CCC(=O)NCc1ccccc1 by amide coupling from compounds for sale, as reactants>reagents>product."
    )
    assert path.answer == "CCC(=O)O.NCc1ccccc1>>CCC(=O)NCc1ccccc1"
    assert path.turns[-1].tool_calls[0].arguments == {"smiles": path.answer}
    assert (outcome(child, path.answer), outcome(child, answer)) == ("solved", "failed")
    for trivial in MAKER.trivial(child):
        assert outcome(child, trivial) == "failed"
    right = "CCC(=O)O.NCc1ccccc1>>CCC(=O)NCc1ccccc1"
    ((_, as_said),) = MAKER.relabel(task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=right), FAILED)
    assert as_said.answer == right
    assert as_said.turns == ()  # the attempt's own


@pytest.mark.parametrize(
    ("family", "answer", "reason"),
    [
        ("stereo", "CCOC(C)CN", "no_task"),  # no configuration is said
        ("stereo", "CCCCCCCCCO", "no_task"),  # nor is there any
        ("forward", "CCOC(C)CNCC", "no_task"),  # nothing gives it
        ("forward", "not a molecule", "invalid"),
        ("retrosynthesis", "CCOC(C)CN", "invalid"),
        ("retrosynthesis", "CCCCCC>>CCCCCO", "no_reaction"),
        ("retrosynthesis", "[Na+].CC(=O)O.OCC>>CC(=O)OCC", "no_reaction"),
    ],
)
def test_what_is_right_of_no_task_is_dropped_by_name(family: str, answer: str, reason: str) -> None:
    with pytest.raises(NotRelabelledError, match=reason):
        relabelled(answer, task_of(family))


def test_answers_are_the_same_however_they_are_spelt() -> None:
    keys = relabel.answer_keys(["OCC", "CCO", "CCN", "nonsense", "C" * 5000])
    assert keys[0] == keys[1] == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    assert keys[2] not in (None, keys[0])
    assert keys[3:] == [None, None]


def test_a_failed_attempt_becomes_a_row(tmp_path: Path) -> None:
    recipe = recipe_of("chemistry", section={"families": {"groups": {}}})
    source = TaskSource(recipe)
    wrong = [smiles for smiles in ("CCOC(C)CN", "OCCCC#N", "CNCC(C)O", "COCCC#N", "NCCCOC") if outcome(TASK, smiles) == "failed"]
    fit = next(smiles for smiles in wrong if source.objection(relabelled(smiles), smiles) is None)
    group = collected(recipe, TASK, [call("submit", smiles=fit)], [call("submit", smiles="OOOOOO")])
    (found,) = harvested(recipe, [group], tmp_path)
    (lesson,) = found.lessons
    assert found.dropped == {"implausible": 1}
    assert lesson.row.completion_ids == group.experiences[0].trajectory.turns[0].completion_ids
    assert said(lesson.row.prompt_ids).count(lesson.experience.task.prompt) == 1
    assert lesson.experience.verdict.outcome == "solved"
