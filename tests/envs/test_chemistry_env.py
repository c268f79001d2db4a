"""The chemistry environment and its task families."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from gymnasium.utils.env_checker import check_env

from flywheel.contracts import TaskGenerator, draw_params
from flywheel.envs.chemistry import ChemistryEnv
from flywheel.envs.chemistry.growth import formula_of, grow, is_plausible
from flywheel.types import Task, derive_seed
from flywheel.verifiers.chemistry_judge import compile_task, judge

FAMILIES = sorted(ChemistryEnv.generators())


@pytest.fixture(scope="module")
def env() -> Iterator[ChemistryEnv]:
    environment = ChemistryEnv()
    yield environment
    environment.close()


def action(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def tasks_of(generator: TaskGenerator, count: int, *, whole_range: bool) -> list[Task]:
    ranges = {name: (knob.low, knob.high) for name, knob in generator.knobs.items()} if whole_range else {}
    return [generator.generate(draw_params(generator.knobs, ranges, derive_seed("test", i)), i) for i in range(count)]


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes.*")
def test_gymnasium_accepts_it(env: ChemistryEnv) -> None:
    check_env(env)


@pytest.mark.parametrize("family", FAMILIES)
def test_references_solve_tasks_of_the_whole_knob_range(family: str) -> None:
    generator = ChemistryEnv.generators()[family]
    for task in tasks_of(generator, 200, whole_range=True):
        generator.validate(task)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_demonstration_played_through_the_environment_solves_its_task(env: ChemistryEnv, family: str) -> None:
    generator = ChemistryEnv.generators()[family]
    for task in tasks_of(generator, 10, whole_range=False):
        observation, _ = env.reset(options={"task": task})
        assert observation == task.prompt
        (submission,) = generator.demonstrate(task)
        assert env.step(submission)[1:] == (1.0, True, False, {"outcome": "solved"})


@pytest.mark.parametrize("family", FAMILIES)
def test_same_arguments_same_task(family: str) -> None:
    generator, fresh = ChemistryEnv.generators()[family], type(ChemistryEnv.generators()[family])()
    for task in tasks_of(generator, 20, whole_range=True):
        again = fresh.generate(task.params, task.seed)
        assert again == task
        assert fresh.key(again) == generator.key(task)
        assert fresh.demonstrate(again) == generator.demonstrate(task)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_short_and_hide_the_reference(family: str) -> None:
    generator = ChemistryEnv.generators()[family]
    for task in tasks_of(generator, 100, whole_range=False):
        smiles = json.loads(generator.demonstrate(task)[0])["arguments"]["smiles"]
        assert len(task.prompt) <= 160
        if len(smiles) > 3:
            assert smiles not in task.prompt
            assert f'"{smiles}"' not in json.dumps(task.payload)


def test_a_trivial_answer_does_not_pass() -> None:
    for generator in ChemistryEnv.generators().values():
        for task in tasks_of(generator, 50, whole_range=False):
            assert not all(finding.passed for finding in judge(compile_task(task.payload), "C"))


def test_default_knobs_give_enough_different_tasks() -> None:
    keys = {
        (family, generator.key(task))
        for family, generator in ChemistryEnv.generators().items()
        for task in tasks_of(generator, 1500, whole_range=False)
    }
    assert len(keys) >= 2400


def test_a_task_that_nobody_generated_has_no_demonstration() -> None:
    generator = ChemistryEnv.generators()["formula"]
    by_hand = Task.create(env="chemistry", family="formula", prompt="", payload={"constraints": [{"kind": "formula", "value": "C3H8"}]})
    with pytest.raises(ValueError, match="no known reference"):
        generator.demonstrate(by_hand)
    generated = tasks_of(generator, 1, whole_range=False)[0]
    with pytest.raises(ValueError, match="other constraints"):
        generator.demonstrate(replace(generated, payload={"constraints": [{"kind": "valid"}]}))


def test_knobs_are_checked() -> None:
    generator = ChemistryEnv.generators()["formula"]
    with pytest.raises(ValueError, match="has no knob 'atoms'"):
        generator.generate({"atoms": 3}, 0)
    with pytest.raises(ValueError, match="expected 3 to 20"):
        generator.generate({"heavy_atoms": 2}, 0)


def test_key_ignores_the_order_of_constraints() -> None:
    generator = ChemistryEnv.generators()["formula_groups"]
    task = tasks_of(generator, 1, whole_range=False)[0]
    turned = replace(task, payload={"constraints": task.payload["constraints"][::-1]})
    assert generator.key(turned) == generator.key(task)


@pytest.mark.parametrize(("num_atoms", "hetero", "unsaturation"), [(3, (), 0), (5, ("O",), 1), (9, ("N", "O"), 2), (12, ("S", "F"), 4)])
def test_grown_molecules_are_plausible_and_of_the_right_size(num_atoms: int, hetero: tuple[str, ...], unsaturation: int) -> None:
    for seed in range(20):
        smiles = grow(num_atoms, hetero, unsaturation, seed)
        assert is_plausible(smiles)
        assert smiles == grow(num_atoms, hetero, unsaturation, seed)
        assert formula_of(smiles).unsaturation <= unsaturation
    assert formula_of(grow(4, (), 0, 1)).text == "C4H10"


def test_formula_and_unsaturation() -> None:
    # benzonitrile: one ring, three double bonds, a triple bond that counts twice
    assert formula_of("N#Cc1ccccc1") == ("C7H5N", 6)
    assert formula_of("CCCC") == ("C4H10", 0)
    assert formula_of("FC(Cl)=S") == ("CClFS", 1)


def test_describe_tells_formula_descriptors_and_groups(env: ChemistryEnv) -> None:
    env.reset(seed=0)
    observation, reward, terminated, _, _ = env.step(action("describe", smiles="CCO"))
    assert observation.startswith("formula=C2H6O mw=46.07 ")
    assert observation.endswith("groups: methyl, alcohol, primary alcohol")
    assert (reward, terminated) == (0.0, False)


@pytest.mark.parametrize("smiles", ["", "nonsense", "C" * 50_000, "CC\x00", "[#6]", "C.C.C", "*", "\ud800", "(" * 2000, "c1ccccc1" * 30])
def test_tools_take_hostile_molecules(env: ChemistryEnv, smiles: str) -> None:
    env.reset(seed=0)
    observation, _, terminated, _, _ = env.step(action("describe", smiles=smiles))
    assert 0 < len(observation) <= 300
    assert not terminated
    assert env.step(action("submit", smiles=smiles))[1:3] == (0.0, True)
