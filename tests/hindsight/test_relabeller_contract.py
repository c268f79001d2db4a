"""Every shipped relabeller under the contract, and one that breaks it: it never drops anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from flywheel.contracts import Relabeller
from flywheel.envs.chemistry.families import families
from flywheel.envs.chemistry.relabel import ChemistryRelabeller
from flywheel.envs.code.families import FAMILIES
from flywheel.envs.code.relabel import ProgramRelabeller
from flywheel.hindsight.goals import GoalRelabeller
from flywheel.testing.relabeller import Attempt, check_relabeller
from flywheel.types import Task, Trajectory, Turn, Verdict
from flywheel.verifiers.chemistry_pool import acquire_shared, release_shared
from tests.hindsight.grid import Grid
from tests.hindsight.test_programs import FREE, STEPPED

FAILED = Verdict(outcome="failed", reward=0.0, checks=(), evidence="", verifier="any", verifier_version="1")


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    acquire_shared()
    yield
    release_shared()


def submitted(task: Task, argument: str, answer: str | None) -> Attempt:
    turns = () if answer is None else (Turn.in_hindsight("submit", **{argument: answer}),)
    return task, Trajectory(task_id=task.id, turns=turns, stop_reason="terminated", answer=answer), FAILED


def generated(generators: object, family: str) -> Task:
    generator = generators[family]  # type: ignore[index]
    task: Task = generator.generate({name: knob.default[0] for name, knob in generator.knobs.items()}, 3)
    return task


def walked(*places: tuple[int, int]) -> Attempt:
    task = Grid.task_of((4, 4), (0, 0))
    turns = tuple(dataclasses.replace(Turn.in_hindsight("walk", way="east"), observation=f"at {place}") for place in places)
    return task, Trajectory(task_id=task.id, turns=turns, stop_reason="max_turns", answer=None), FAILED


def cases(name: str) -> tuple[Relabeller, list[Attempt], list[Attempt]]:
    """Return a relabeller, attempts that it makes tasks of and attempts that it drops."""
    if name == "program":
        task = generated(FAMILIES, "lists")
        kept = [submitted(task, "code", FREE), submitted(task, "code", STEPPED)]
        return ProgramRelabeller(), kept, [submitted(task, "code", code) for code in ("x = 1", "def f(xs):\n    return xs\n")]
    if name == "molecule":
        task = generated(families(), "formula")
        return ChemistryRelabeller(), [submitted(task, "smiles", "CCOC")], [submitted(task, "smiles", smiles) for smiles in ("C1CC", "OOO")]
    return GoalRelabeller(Grid, strategy="final"), [walked((5, 4), (6, 4))], [walked((4, 4)), walked()]


@pytest.mark.parametrize("name", ["program", "molecule", "goals"])
def test_shipped_relabellers_keep_the_contract(name: str) -> None:
    maker, kept, dropped = cases(name)
    check_relabeller(maker, kept, dropped)
    assert maker.name == name


def test_a_relabeller_that_never_drops_anything_fails() -> None:
    class Greedy:
        """Makes a task of whatever was answered."""

        name = "greedy"

        def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> list[tuple[Task, Trajectory]]:
            child = dataclasses.replace(task, prompt=f"Say {trajectory.answer}.").derived(task, "hindsight:greedy")
            return [(child, dataclasses.replace(trajectory, task_id=child.id, turns=(Turn.in_hindsight("submit"),)))]

    task = generated(families(), "formula")
    kept, dropped = [submitted(task, "smiles", "CCOC")], [submitted(task, "smiles", "C1CC")]
    with pytest.raises(AssertionError, match="must be dropped"):
        check_relabeller(Greedy(), kept, dropped)
    with pytest.raises(AssertionError, match="no attempt is given that the relabeller drops"):
        check_relabeller(Greedy(), kept, [])
