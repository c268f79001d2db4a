"""Model-written molecule tasks, with a scripted model: what holds is kept, what does not is refused with its reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from rdkit import Chem

from flywheel.config import TasksConfig
from flywheel.envs.chemistry import ChemistryEnv
from flywheel.envs.chemistry.authoring import mutants
from flywheel.tasks.admission import Admission
from flywheel.tasks.chat_model import Reply
from flywheel.tasks.writer import TaskWriter, Written
from flywheel.tasks.writing_prompts import self_instruct

Fields = dict[str, Any]
ESTER: Fields = {
    "statement": "A fruity ester with five carbons, two oxygens and a branched acid part, not too greasy.",
    "reference": "COC(=O)C(C)C",
    "constraints": [
        {"kind": "formula", "value": "C5H10O2"},
        {"kind": "functional_group", "name": "ester", "min_count": 1, "max_count": None},
        {"kind": "substructure", "smarts": "[CH3][CH]([CH3])C(=O)"},
        {"kind": "property", "name": "logp", "min": 0.2, "max": 1.5},
    ],
}


def changed(**fields: Any) -> Fields:
    return {**ESTER, **fields}


def only(*constraints: Fields, **fields: Any) -> Fields:
    return changed(constraints=list(constraints), **fields)


REFUSED: dict[str, tuple[Any, str]] = {
    "no statement": (changed(statement=3), "statement is 3"),
    "no reference": (changed(reference=""), "reference is ''"),
    "a reference that is no molecule": (changed(reference="C(("), "the reference does not solve it"),
    "a reference that does not fit": (changed(reference="CCOC(=O)CC"), "the reference does not solve it"),
    "no constraints": (changed(constraints=[]), "expected a list of 1 to 8"),
    "an answer as a constraint": (only({"kind": "smiles", "value": "COC(=O)C(C)C"}), "a kind of formula"),
    "a module as a property": (only({"kind": "property", "name": "os:getpid", "min": 1}), "property 'os:getpid' is unknown"),
    "an unknown group": (only({"kind": "functional_group", "name": "fruity"}), "unknown group 'fruity'"),
    "bad SMARTS": (only({"kind": "substructure", "smarts": "[["}), "is not SMARTS"),
    "long SMARTS": (only({"kind": "substructure", "smarts": "C" * 300}), "a text of 300 characters"),
    "a field too many": (only({"kind": "formula", "value": "C5H10O2", "code": "x"}), "has no field 'code'"),
    "an empty window": (only({"kind": "property", "name": "logp", "min": 2, "max": 1}), "is above max"),
    "a statement that tells": (
        changed(statement="Say COC(=O)C(C)C, which smells of apples."),
        "the statement holds the answer: 'COC(=O)C(C)C'",
    ),
    "the target itself": (only({"kind": "similarity", "to": "COC(=O)C(C)C", "min": 0.5}), "the statement holds the answer"),
    "what methane solves": (only({"kind": "property", "name": "mw", "max": 500}), "a trivial answer solves it: 'C'"),
    "vacuous constraints": (only({"kind": "property", "name": "mw", "min": 90, "max": 500}), "the constraints are vacuous"),
}


class ScriptedModel:
    """Says the given replies in turn."""

    def __init__(self, replies: Sequence[Any]) -> None:
        self.replies, self.asked = [json.dumps(reply) for reply in replies], list[str]()

    async def reply(self, message: str, *, seed: int) -> Reply:
        self.asked.append(message)
        return Reply(text=self.replies[len(self.asked) - 1], num_tokens=10)


def written(replies: Sequence[Any]) -> tuple[list[Written], ScriptedModel]:
    model = ScriptedModel(replies)

    async def collect() -> list[Written]:
        writer = TaskWriter(
            model,
            ChemistryEnv.author(),
            task_key=ChemistryEnv.task_key,
            admission=Admission(TasksConfig(avoid_repeats=True), lambda task: f"chemistry\0{ChemistryEnv.task_key(task)}"),
            methods=[self_instruct],
            seed=0,
            concurrency=1,
        )
        return [one async for one in writer.write(len(replies))]

    return asyncio.run(collect()), model


def test_a_sound_task_is_kept_and_a_repeat_is_not() -> None:
    again = changed(statement="Quite another wording of what is the same molecule all the same.", constraints=ESTER["constraints"][::-1])
    found, model = written([ESTER, again])
    assert [one.reason for one in found] == [None, "repeat"]
    task = found[0].task
    assert task is not None
    assert task.prompt == (
        f"{ESTER['statement']}\nThe answer is the SMILES of a molecule with: formula C5H10O2; ester at least 1; "
        "substructure [CH3][CH]([CH3])C(=O) at least 1; logp at least 0.2, at most 1.5."
    )
    assert task.payload["constraints"][-1] == {"kind": "plausible"}
    assert (task.env, task.family, task.operator) == ("chemistry", "written", "write:self_instruct")
    assert ESTER["reference"] not in task.prompt
    assert all(name in model.asked[0] for name in ("carboxylic acid", "rotatable_bonds", "scaffold"))


def test_what_does_not_hold_is_refused_with_its_reason() -> None:
    found, _ = written([reply for reply, _ in REFUSED.values()])
    for (name, (_, why)), one in zip(REFUSED.items(), found, strict=True):
        assert one.task is None, name
        assert one.reason is not None, name
        assert why in one.reason, (name, one.reason)


def test_examples_are_replies_that_build_sound_tasks() -> None:
    author = ChemistryEnv.author()
    replies = author.examples(0, 4)
    assert replies == author.examples(0, 4)
    for reply in replies:
        task = author.build(json.loads(reply))
        assert task.payload["reference"] not in task.prompt.split()
    author.check(task)


def test_mutants_are_other_molecules() -> None:
    found = mutants("COC(=O)C(C)C", 0)
    assert len(found) >= 8
    assert len({Chem.MolToInchiKey(Chem.MolFromSmiles(smiles)) for smiles in [*found, "COC(=O)C(C)C"]}) == len(found) + 1  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="not a molecule"):
        mutants("C((", 0)
