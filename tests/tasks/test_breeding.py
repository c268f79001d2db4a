import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest

from flywheel.config import Recipe
from flywheel.contracts import Mutator, Operator, TaskGenerator, draw_params
from flywheel.envs.chemistry import ChemistryEnv
from flywheel.envs.code import CodeEnv
from flywheel.envs.code.mutations import input_kind, renamed
from flywheel.tasks.breeding import Breeder
from flywheel.tasks.family import Family
from flywheel.tasks.mutation import mutated, operators_of
from flywheel.tasks.outcomes import Outcome, outcomes_of
from flywheel.tasks.source import TaskSource
from flywheel.types import Check, Experience, Group, Knobs, Task, Trajectory, Verdict
from tests.tasks.levels import Levels

FAMILIES: Mapping[str, TaskGenerator] = {**CodeEnv.generators(), **ChemistryEnv.generators()}


def outcome(task: Task, num_solved: int, failure: Verdict | None = None) -> Outcome:
    return Outcome(task=task, num_solved=num_solved, num_judged=8, failure=failure)


def failed(*passed: bool) -> Verdict:
    checks = tuple(Check(name=f"c{at}", passed=p) for at, p in enumerate(passed))
    return Verdict(outcome="failed", reward=0.0, checks=checks, evidence="", verifier="v", verifier_version="1")


def one_test_failed(task: Task, at: int) -> Verdict:
    """Return the verdict on code that fails one of the task's tests, public ones first."""
    return failed(*(n != at for n in range(len(task.payload["public_tests"]) + len(task.payload["hidden_tests"]))))


@pytest.mark.parametrize("name", FAMILIES)
def test_children_of_real_families_are_sound_and_name_their_parent(name: str) -> None:
    generator = FAMILIES[name]
    made: Counter[str] = Counter()
    for seed in range(15):
        try:
            parent = generator.generate(draw_params(generator.knobs, {}, seed), seed)
        except ValueError:
            continue
        for operator in operators_of(generator):
            failure = one_test_failed(parent, 1 + seed % 8) if operator == "failing_case" else None
            try:
                child = mutated(generator, parent, failure, operator=operator, seed=seed)
            except ValueError:
                continue
            made[operator] += 1
            assert (child.parent_id, child.operator, child.env, child.family) == (
                parent.id,
                f"mutate:{operator}",
                parent.env,
                parent.family,
            )
            assert child == mutated(generator, parent, failure, operator=operator, seed=seed)
            assert child.id != parent.id
            assert json.loads(generator.demonstrate(child)[-1])["name"] == "submit"
            assert all(generator.knobs[n].low <= int(v) <= generator.knobs[n].high for n, v in child.params.items())
            if child.env == "chemistry":  # those judge without a sandbox, which takes a moment
                generator.validate(child)
            if operator in ("drop_step", "first_half"):
                assert len(child.payload["steps"]) < len(parent.payload["steps"])
                assert generator.key(child) != generator.key(parent)
            if operator == "add_step":
                assert len(child.payload["steps"]) == len(parent.payload["steps"]) + 1
    assert set(made) == set(operators_of(generator))


@pytest.mark.parametrize("name", [name for name, generator in CodeEnv.generators().items() if isinstance(generator, Mutator)])
def test_references_of_code_variants_pass_and_trivial_answers_fail(name: str) -> None:
    generator = FAMILIES[name]
    assert isinstance(generator, Mutator)
    parent = generator.generate(draw_params(generator.knobs, {}, 3), 3)
    for operator in generator.operators:
        for seed in range(20):
            try:
                child = generator.mutate(parent, one_test_failed(parent, 1 + seed % 8), operator=operator, seed=seed)
            except ValueError:
                continue
            generator.validate(child)
            break


def test_the_constraint_that_failed_is_the_one_that_is_dropped() -> None:
    generator = FAMILIES["formula_groups"]
    params = {**draw_params(generator.knobs, {}, 1), "num_groups": 3, "heavy_atoms": 12, "num_hetero": 4}
    parent = next(
        t for seed in range(50) if len((t := generator.generate(params, seed)).payload["constraints"]) == 5
    )  # formula, three groups, plausible
    for wish in range(3):
        failure = failed(True, True, *(at != wish for at in range(3)), True)
        child = mutated(generator, parent, failure, operator="drop_constraint", seed=0)
        kept = [c for at, c in enumerate(parent.payload["constraints"]) if at != wish + 1]
        assert child.payload["constraints"] == kept
        words = parent.prompt.removesuffix(".").split(" with ")[1].split(" and ")
        assert all(word in child.prompt for at, word in enumerate(words) if at != wish)
        assert words[wish] not in child.prompt.split(" with ")[1].removesuffix(".").split(" and ")


def test_the_case_that_failed_comes_back_with_inputs_of_its_kind() -> None:
    generator = FAMILIES["lists"]
    parent = generator.generate({"num_ops": 3, "num_kinds": 12, "max_constant": 9, "example_size": 3}, 5)
    tests = [*parent.payload["public_tests"], *parent.payload["hidden_tests"]]
    kinds, children = {at: input_kind(test["args"]) for at, test in enumerate(tests)}, {}
    for at in kinds:
        with contextlib.suppress(ValueError):
            children[at] = mutated(generator, parent, one_test_failed(parent, at), operator="failing_case", seed=0)
    assert len({kinds[at] for at in children}) >= 3
    for at, child in children.items():
        new = [*child.payload["public_tests"], *child.payload["hidden_tests"]]
        assert {input_kind(test["args"]) for test in new} == {kinds[at]}
        assert len(child.payload["public_tests"]) == 2
        unseen = {repr(test["args"]) for test in tests}
        assert unseen.isdisjoint(repr(test["args"]) for test in new)  # no hidden test of the parent's is shown, nor judged again
        assert child.prompt.split("\n")[:-2] == parent.prompt.split("\n")[:-1]
        assert all(f"== {test['expected']!r}" in child.prompt for test in new[:2])
        assert generator.key(child) == generator.key(parent)  # the same function: on the same side of the split
    for verdict in (None, failed(True, False), failed(*[True] * len(tests))):
        with pytest.raises(ValueError, match="a verdict that names the test"):
            mutated(generator, parent, verdict, operator="failing_case", seed=0)


def test_the_failure_of_a_group_is_its_nearest_miss() -> None:
    task = Levels().generate({"x": 1, "y": 1}, 0)
    solved = Verdict(
        outcome="solved", reward=1.0, checks=(Check(name="c", passed=True),) * 3, evidence="", verifier="v", verifier_version="1"
    )
    verdicts = [solved, failed(False, False, False), failed(True, True, False), failed(True, False, False)]
    attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=None)
    made = [
        Experience(id=f"e{at}", group_id="g", task=task, trajectory=attempt, verdict=verdict, origin="on_policy")
        for at, verdict in enumerate(verdicts)
    ]
    assert outcomes_of([Group(id="g", task=task, experiences=tuple(made))])[0].failure == verdicts[2]
    assert outcomes_of([Group(id="g", task=task, experiences=tuple(made[:1]))])[0].failure is None


def test_kinds_of_input() -> None:
    assert input_kind([[]]) == input_kind([[3]]) == (("tiny", "plain", "distinct"),)
    assert input_kind([[1, -2, 1]]) == (("short", "marked", "repeats"),)
    assert input_kind(["abCde"]) == (("long", "marked", "distinct"),)
    assert input_kind([0, 12]) == (("not positive", "small"), ("positive", "large"))


def test_other_words_mean_the_same() -> None:
    generator = FAMILIES["strings"]
    parent = generator.generate({"num_ops": 3, "num_kinds": 17, "max_constant": 20, "example_size": 4}, 2)
    child = mutated(generator, parent, None, operator="reword", seed=1)
    assert generator.key(child) == generator.key(parent)
    assert child.payload["hidden_tests"] == parent.payload["hidden_tests"]
    assert child.prompt.split("\n")[-1] == parent.prompt.split("\n")[-1]
    steps = [line.partition(". ")[2] for line in parent.prompt.split("\n")[1:-1]]
    assert ", then ".join(steps) in child.prompt
    assert "f(s)" not in child.prompt
    assert renamed("def f(s):\n    # remove s\n    s = s.replace('s', \"s\")\n    return s\n", "s", "it") == (
        "def f(it):\n    # remove s\n    it = it.replace('s', \"s\")\n    return it\n"
    )


@pytest.mark.parametrize("name", ["formula_groups", "groups", "descriptors", "scaffold"])
def test_a_solved_molecule_task_gets_one_constraint_more(name: str) -> None:
    generator = FAMILIES[name]
    found = 0
    for seed in range(12):
        parent = generator.generate(draw_params(generator.knobs, {}, seed), seed)
        try:
            child = mutated(generator, parent, None, operator="add_constraint", seed=seed)
        except ValueError:
            continue
        found += 1
        old, new = parent.payload["constraints"], child.payload["constraints"]
        assert [spec for spec in new if spec in old] == old
        assert len(new) == len(old) + 1
        assert generator.key(child) != generator.key(parent)
        grown = mutated(generator, child, failed(True, *(spec in old for spec in new)), operator="drop_constraint", seed=0)
        assert grown.payload["constraints"] == old  # what was added is what failed, and so what is dropped
        assert grown.prompt == parent.prompt
    assert found >= 3


def test_turning_a_knob() -> None:
    levels = Levels()
    parent = levels.generate({"x": 9, "y": 9}, 0)
    with pytest.raises(ValueError, match="no knob"):
        mutated(levels, parent, None, operator="raise_knob", seed=0)
    child = mutated(levels, parent, None, operator="lower_knob", seed=0)
    assert sum(int(v) for v in child.params.values()) == 17
    assert mutated(levels, parent, None, operator="redraw", seed=5).seed == 5
    with pytest.raises(ValueError, match="no operator"):
        mutated(levels, parent, None, operator="graft", seed=0)


class Grafts(Levels):
    """Has an operator of its own."""

    operators: Mapping[str, Operator] = {"graft": Operator(direction="easier", help="")}

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        return self.generate({"x": 0, "y": 0}, seed).derived(task, f"mutate:{operator}")


def bred(share: float = 1.0) -> Breeder:
    return Breeder([Family(env="toy", generator=Grafts(), share=1.0, ranges={})], share=share, discount=0.97, seed=0)


def children_of(breeder: Breeder, indices: Iterable[int]) -> list[Task]:
    return [found[1] for index in indices if (found := breeder.child(index)) is not None]


def test_failed_parents_get_easier_children_and_solved_ones_harder() -> None:
    for num_solved, wanted in ((0, {"lower_knob", "graft", "redraw"}), (8, {"raise_knob"}), (1, {"lower_knob", "graft", "redraw"})):
        breeder = bred()
        assert breeder.child(0) is None
        breeder.update([outcome(Grafts().generate({"x": 4, "y": 4}, 0), num_solved, failed(False) if not num_solved else None)])
        children = children_of(breeder, range(60))
        assert {child.operator.removeprefix("mutate:") for child in children} == wanted
    breeder = bred()
    breeder.update([outcome(Grafts().generate({"x": 4, "y": 4}, 0), 4)])
    assert breeder.child(0) is None  # it teaches as it is


def test_the_bandit_learns_which_operator_gives_groups_that_teach() -> None:
    breeder = bred()
    parent: Knobs = {"x": 8, "y": 8}
    for step in range(30):
        breeder.update([outcome(Grafts().generate(parent, step), 0)])
        children = children_of(breeder, range(step * 100, step * 100 + 8))
        breeder.update([outcome(child, 4 if child.operator == "mutate:graft" else 0) for child in children])
    chances = breeder.chances("toy/levels")
    assert chances["graft"] > 0.8 > 0.5 > max(chances["lower_knob"], chances["redraw"])
    drawn = Counter(child.operator for child in children_of(breeder, range(10**6, 10**6 + 100)))
    assert drawn["mutate:graft"] > 60
    again = bred()
    again.restore(json.loads(json.dumps(breeder.state())))
    assert again.state() == breeder.state()
    assert children_of(again, range(20)) == children_of(breeder, range(20))


def test_children_join_the_training_split_only() -> None:
    recipe = {
        "environments": {"n": {"use": "tests.tasks.levels:LevelsEnv"}},
        "curriculum": {"mutate_share": 0.5},
        "tasks": {"heldout_share": 0.5},
    }
    source = TaskSource(Recipe.model_validate(recipe))
    source.curriculum.update([outcome(source.train(i), 0) for i in range(10)])
    drawn = [source.train(100 + i) for i in range(200)]
    children = [task for task in drawn if task.parent_id is not None]
    assert 50 < len(children) < 150
    assert all(source._is_of("train", source.families[0], task) for task in drawn)
    assert source.curriculum.state()["families"]["toy/levels"]["ranges"] == {"x": [0, 9], "y": [0, 9]}


def test_a_knob_that_the_recipe_pins_is_not_turned() -> None:
    breeder = Breeder([Family(env="toy", generator=Levels(), share=1.0, ranges={"x": (4, 4)})], share=1.0, discount=0.97, seed=0)
    breeder.update([outcome(Levels().generate({"x": 4, "y": 4}, 0), 8)])
    children = children_of(breeder, range(30))
    assert {(child.params["x"], child.params["y"]) for child in children} == {(4, 5)}


def test_parents_of_a_family_that_the_run_has_no_more_are_let_go() -> None:
    old = bred()
    old.update([outcome(Grafts().generate({"x": 4, "y": 4}, 0), 0)])
    now = Breeder([Family(env="toy", generator=Levels("others"), share=1.0, ranges={})], share=1.0, discount=0.97, seed=0)
    now.restore(json.loads(json.dumps(old.state())))
    assert children_of(now, range(20)) == []
