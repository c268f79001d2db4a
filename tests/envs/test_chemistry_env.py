"""The chemistry environment and its task families."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image
from rdkit import Chem

from flywheel.config import Recipe
from flywheel.contracts import TaskGenerator, draw_params
from flywheel.envs.chemistry import ChemistryEnv, growth
from flywheel.envs.chemistry.edits import EDITS, edited
from flywheel.envs.chemistry.family import ChemistryFamily
from flywheel.envs.chemistry.growth import formula_of, grow
from flywheel.envs.chemistry.library import Library, build, library_path
from flywheel.tasks.source import TaskSource
from flywheel.types import Task, ToolCall, Trajectory, Turn, derive_seed
from flywheel.verifiers.chemistry_answer import read_molecule
from flywheel.verifiers.chemistry_judge import compile_task, judge
from flywheel.verifiers.chemistry_plausible import broken_rule

FAMILIES = sorted(ChemistryEnv.generators())


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Build the search table anew rather than leave one in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def env() -> Iterator[ChemistryEnv]:
    environment = ChemistryEnv()
    yield environment
    environment.close()


def action(name: str, **arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def tasks_of(generator: TaskGenerator, count: int, *, whole_range: bool) -> list[Task]:
    ranges = {name: (knob.low, knob.high) for name, knob in generator.knobs.items()} if whole_range else {}
    tasks = []
    for i in itertools.count():
        try:
            tasks.append(generator.generate(draw_params(generator.knobs, ranges, derive_seed("test", i)), i))
        except ValueError:  # these knobs have no task together
            assert i < 2 * count
        if len(tasks) == count:
            return tasks
    raise AssertionError


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
        *steps, submission = generator.demonstrate(task)
        for step in steps:
            observation, reward, terminated, _, _ = env.step(step)
            assert (reward, terminated) == (0.0, False)
            assert " found: " in observation
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
        smiles = json.loads(generator.demonstrate(task)[-1])["arguments"]["smiles"]
        assert len(task.prompt) <= 200
        if len(smiles) > 3:
            assert smiles not in task.prompt.replace(",", " ").replace(".", " ").split()
            if family not in {"stereo", "forward"}:  # there the answer is the constraint
                assert f'"{smiles}"' not in json.dumps(task.payload)


def test_a_trivial_answer_does_not_pass() -> None:
    for generator in ChemistryEnv.generators().values():
        for task in tasks_of(generator, 50, whole_range=False):
            assert not all(finding.passed for finding in judge(compile_task(task.payload), "C"))


@pytest.mark.parametrize("family", FAMILIES)
def test_default_knobs_give_enough_different_tasks(family: str) -> None:
    generator = ChemistryEnv.generators()[family]
    keys = {generator.key(task) for task in tasks_of(generator, 300, whole_range=False)}
    assert len(keys) >= (150 if family in {"formula", "formula_groups"} else 250)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_difficulty_knobs(family: str) -> None:
    knobs = ChemistryEnv.generators()[family].knobs
    assert len(knobs) >= 3
    for knob in knobs.values():
        assert knob.low <= knob.default[0] <= knob.default[1] <= knob.high


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
        assert broken_rule(read_molecule(smiles)) is None
        assert smiles == grow(num_atoms, hetero, unsaturation, seed)
        assert formula_of(smiles).unsaturation <= unsaturation
    assert formula_of(grow(4, (), 0, 1)).text == "C4H10"


def test_a_draft_breaks_no_rule_but_those_that_growth_looks_at() -> None:
    implausible = 0
    for seed in range(2000):
        rng = random.Random(seed)
        hetero = [rng.choice(("O", "N", "F", "S", "Cl", "Br")) for _ in range(rng.randint(0, 6))]
        draft = growth._skeleton(rng, max(rng.randint(3, 16), len(hetero) + 1), hetero, 0.3)
        if draft is not None and all(growth._unsaturate(rng, draft, 0.5) for _ in range(rng.randint(0, 5))):
            smiles = draft.spell()
            broken = broken_rule(read_molecule(smiles))
            implausible += broken is not None
            assert growth._is_plausible(smiles, draft.crowds()) == (broken is None), (smiles, broken)
    assert implausible > 400


def test_formula_and_unsaturation() -> None:
    # benzonitrile: one ring, three double bonds, a triple bond that counts twice
    assert formula_of("N#Cc1ccccc1") == ("C7H5N", 6)
    assert formula_of("CCCC") == ("C4H10", 0)
    assert formula_of("FC(Cl)=S") == ("CClFS", 1)


@pytest.mark.parametrize("family", list(ChemistryEnv.generators()))
def test_held_out_tasks_share_no_scaffold_with_training(family: str) -> None:
    recipe = Recipe.model_validate({"environments": {"chemistry": {"families": {family: {}}}}, "tasks": {"heldout_share": 0.3}})
    source, generator = TaskSource(recipe), ChemistryEnv.generators()[family]
    assert isinstance(generator, ChemistryFamily)
    train, heldout = [source.train(i) for i in range(60)], source.heldout("chemistry", 20)
    assert {generator.key(task) for task in train}.isdisjoint({generator.key(task) for task in heldout})

    def frame(task: Task) -> str:
        """Return the Murcko scaffold without what hangs on it by a double bond, which tautomers have and have not."""
        named = {"scaffold": "value", "similarity": "to", "smiles": "value", "reaction": "product"}
        molecules = [spec[named[spec["kind"]]] for spec in task.payload["constraints"] if spec["kind"] in named]
        molecule = molecules[0] if molecules else generator.molecule(task)
        murcko = Chem.MurckoDecompose(Chem.MolFromSmiles(molecule))
        bare = Chem.DeleteSubstructs(murcko, Chem.MolFromSmarts("[D1]"))
        return str(Chem.MolToSmiles(bare, isomericSmiles=False) or Chem.MolToSmiles(Chem.MolFromSmiles(molecule), isomericSmiles=False))

    assert {frame(task) for task in train}.isdisjoint({frame(task) for task in heldout})
    assert len({frame(task) for task in heldout}) > 2


def test_one_molecule_in_two_spellings_is_one_task() -> None:
    generator = ChemistryEnv.generators()["forward"]
    spellings = ["Oc1ccccn1", "O=c1cccc[nH]1", "c1ccnc(O)c1"]
    tasks = [
        Task.create(env="chemistry", family="forward", prompt="", payload={"constraints": [{"kind": "smiles", "value": smiles}]})
        for smiles in spellings
    ]
    assert len({generator.key(task) for task in tasks}) == 1
    assert isinstance(generator, ChemistryFamily)
    assert len({generator.split_keys(task) for task in tasks}) == 1


def test_describe_tells_formula_descriptors_and_groups(env: ChemistryEnv) -> None:
    env.reset(seed=0)
    observation, reward, terminated, _, _ = env.step(action("describe", smiles="CCO"))
    assert observation.startswith("formula=C2H6O mw=46.07 ")
    assert observation.endswith("groups: methyl, alcohol, primary alcohol")
    assert (reward, terminated) == (0.0, False)


CALLS = [
    ("edit", {"smiles": "CCO", "change": "add methyl"}, "2 found: CCCO CC(C)O"),
    ("edit", {"smiles": "CC(=O)O", "change": "acid to amide"}, "1 found: CC(N)=O"),
    ("edit", {"smiles": "CCO", "change": "remove halogen"}, "nothing to remove halogen."),
    ("react", {"reactants": "CC(=O)O.NCC", "template": "amide coupling"}, "1 found: CCNC(C)=O"),
    ("react", {"reactants": "NCC.CC(=O)O", "template": "amide coupling"}, "1 found: CCNC(C)=O"),
    ("react", {"reactants": "CCO", "template": "oxidation of an alcohol"}, "1 found: CC=O"),
    ("react", {"reactants": "CC.CC", "template": "amide coupling"}, "no reaction: amide coupling works as CC(=O)O.NCc1ccccc1>>"),
    ("react", {"reactants": "CCO", "template": "?"}, "Error: no template '?'. Here fit: "),
    ("edit", {"smiles": "CCO", "change": "add metyl"}, "Error: no change 'add metyl'. Did you mean add methyl"),
    ("search", {"query": "formula=C7H8O"}, "4 found: COc1ccccc1 "),
    ("search", {"query": "carboxylic acid and mw<47"}, "1 found: O=CO"),
    ("search", {"query": "c1ccc2ncccc2c1 and rings=2 and mw<130"}, "1 found: c1ccc2ncccc2c1"),
    ("search", {"query": "mw<2"}, "nothing found."),
    ("search", {"query": "beauty>3"}, "Error: no descriptor 'beauty'; there are heavy_atoms, mw"),
    ("search", {"query": "'; DROP TABLE molecules; --"}, "Error: can't read "),
]


@pytest.mark.parametrize(("tool", "arguments", "beginning"), CALLS)
def test_tools_answer_shortly(env: ChemistryEnv, tool: str, arguments: dict[str, str], beginning: str) -> None:
    env.reset(seed=0)
    observation, reward, terminated, _, _ = env.step(action(tool, **arguments))
    assert observation.startswith(beginning)
    assert len(observation) <= 300
    assert (reward, terminated) == (0.0, False)


def test_every_edit_does_something_and_nothing_implausible() -> None:
    molecules = [Chem.MolFromSmiles(s) for s in ("COC(=O)c1ccc(Cl)nc1", "CC(O)CC(N)C(=O)O", "C=CC(C)=O", "C1CCOC1", "CCCCF")]
    for name in EDITS:
        made = {smiles for mol in molecules for smiles in edited(mol, name)}
        assert made, name
        assert all(broken_rule(read_molecule(smiles)) is None for smiles in made), name


def test_the_search_table_is_the_same_whenever_it_is_built(tmp_path: Path) -> None:
    found = Library(str(library_path())).search("amide and rings>0")
    build(tmp_path / "again.sqlite")
    assert Library(str(tmp_path / "again.sqlite")).search("amide and rings>0") == found
    assert Library(str(tmp_path / "again.sqlite")).search("heavy_atoms>0").total > 3000


HOSTILE = [
    "",
    "nonsense",
    "C" * 50_000,
    "CC\x00",
    "[#6]",
    "C.C.C",
    "*",
    "\ud800",
    "(" * 2000,
    "c1ccccc1" * 30,
    "[" * 500,
    "mw<" + "9" * 290,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_tools_take_hostile_text(env: ChemistryEnv, text: str) -> None:
    env.reset(seed=0)
    calls = [
        action("describe", smiles=text),
        action("edit", smiles=text, change="add methyl"),
        action("edit", smiles="CCO", change=text),
        action("react", reactants=text, template="amide coupling"),
        action("react", reactants="CCO", template=text),
        action("search", query=text),
    ]
    for call in calls:
        observation, _, terminated, _, _ = env.step(call)
        assert 0 < len(observation) <= 300
        assert not terminated
    assert env.step(action("submit", smiles=text))[1:3] == (0.0, True)


@pytest.mark.parametrize(
    ("constraints", "answer", "drawn"),
    [
        ([{"kind": "valid"}], "CC(=O)Oc1ccccc1C(=O)O", True),
        ([{"kind": "completes", "prefix": "CC(=O)Oc1ccccc1"}], "C(=O)O", True),
        ([{"kind": "reaction", "product": "CC(=O)NCC"}], "CC(=O)O.NCC>>CC(=O)NCC", True),
        ([{"kind": "valid"}], "C((", False),
        ([{"kind": "valid"}], None, False),
    ],
)
def test_a_picture_of_the_answer(env: ChemistryEnv, constraints: list[dict[str, str]], answer: str | None, drawn: bool) -> None:
    task = Task.create(env="chemistry", family="by hand", prompt="", payload={"constraints": constraints})
    calls = () if answer is None else (ToolCall(name="submit", arguments={"smiles": answer}),)
    turn = Turn(prompt_ids=(), completion_ids=(), behavior_logprobs=None, policy_version="", text="", tool_calls=calls)
    picture = env.picture(task, Trajectory(task_id=task.id, turns=(turn,), stop_reason="terminated", answer=answer))
    if not drawn:
        assert picture is None
        return
    assert picture is not None
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    assert len(image.convert("L").getcolors() or []) > 1, "not a blank"
