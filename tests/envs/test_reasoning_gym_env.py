"""reasoning-gym's data sets as families, and their scorers against answers that they would evaluate."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flywheel.contracts import draw_params, level_of
from flywheel.envs.reasoning_gym import ReasoningGymEnv
from flywheel.envs.reasoning_gym.family import LEFT_OUT, ReasoningGymFamily, dataset_names, make_family
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.reasoning_gym import ReasoningGymVerifier
from flywheel.verifiers.reasoning_gym_answer import FORMULAS, LITERALS, refusal

pytest.importorskip("reasoning_gym")

QUICK = ("chain_sum", "isomorphic_strings", "n_queens", "simple_integration", "string_insertion", "puzzle24")
NO_ANSWERS = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


def drawn(family: ReasoningGymFamily, seed: int = 0, tries: int = 20) -> Task:
    for at in range(tries):
        try:
            return family.generate(draw_params(family.knobs, {}, seed + at), seed + at)
        except ValueError:
            continue
    raise AssertionError(f"{family.family}: no task in {tries} draws")


def judged(task: Task, answer: str | None, *, partial_credit: bool = False) -> Verdict:
    attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
    return ReasoningGymVerifier(partial_credit=partial_credit).verify(task, attempt)


def reference(task: Task) -> str:
    return str(json.loads(make_family(task.family).demonstrate(task)[0])["arguments"]["answer"])


@pytest.mark.parametrize("name", QUICK)
def test_references_pass_and_wrong_answers_fail(name: str) -> None:
    family = make_family(name)
    task = drawn(family)
    assert task == family.generate(task.params, task.seed)
    family.validate(task)
    assert reference(task) not in json.dumps(dict(task.payload))


@pytest.mark.slow
def test_references_pass_in_every_data_set() -> None:
    for name in sorted(set(dataset_names()) - NO_ANSWERS - {"sokoban"}):  # sokoban takes minutes to make a puzzle
        make_family(name).validate(drawn(make_family(name)))


def test_every_data_set_is_a_family_and_its_attributes_are_knobs() -> None:
    from reasoning_gym.factory import CURRICULA, DATASETS

    families = ReasoningGymEnv.generators()
    assert set(families) == set(DATASETS) - set(LEFT_OUT)
    assert len(families) > 100
    for name, family in families.items():
        attributes = CURRICULA[name]().attributes if name in CURRICULA else {}
        assert {knob: k.high + 1 for knob, k in family.knobs.items()} == {a.name: len(a.levels) for a in attributes.values()}


def test_levels_make_tasks_harder() -> None:
    family = make_family("chain_sum")
    easy, hard = (family.generate(dict.fromkeys(family.knobs, level), 1) for level in (0, 9))
    assert len(hard.prompt) > 2 * len(easy.prompt)
    assert (level_of(family.knobs, easy.params), level_of(family.knobs, hard.params)) == (1, 5)


def test_the_same_arguments_make_the_same_task_in_another_process() -> None:
    # Its questions depend on the order of a set of strings, hence on a hash seed.
    task = make_family("isomorphic_strings").generate({"string_length": 0}, 5)
    code = (
        "from flywheel.envs.reasoning_gym.family import make_family; "
        "print(make_family('isomorphic_strings').generate({'string_length': 0}, 5).id)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == task.id


CALLS = (
    "__import__('os').system('touch /tmp/flywheel-evaluated')",
    "[__import__('os').system('touch /tmp/flywheel-evaluated')]",
    "[].__class__.__base__.__subclasses__()",
    "open('/tmp/flywheel-evaluated', 'w')",
    "exec('x')",
    "(lambda: 1)()",
    "x.func",
    "1 .real",
    "f'{1}'",
    "S('1')",
    "sin.__class__",
    "exit()",
)


@pytest.mark.parametrize("answer", CALLS)
def test_no_answer_is_evaluated_that_could_do_anything(answer: str) -> None:
    assert all(refusal(name, answer) is not None for name in FORMULAS | (LITERALS if answer not in ("x.func", "1 .real") else set()))


@pytest.mark.parametrize("name", ["string_insertion", "simple_integration", "puzzle24"])
def test_hostile_answers_fail_and_run_nothing(name: str) -> None:
    mark = Path("/tmp/flywheel-evaluated")
    mark.unlink(missing_ok=True)
    task = drawn(make_family(name))
    for answer in CALLS[:4]:
        verdict = judged(task, answer)
        assert (verdict.outcome, verdict.checks[0].name) == ("failed", "refused")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("simple_integration", "2*x**3/3 - 4.5*x + C"),
        ("intermediate_integration", "exp(2*x)*sin(x)/5 + log(Abs(x)) + C"),
        ("countdown", "(25 + 3) * 4 - 1"),
        ("n_queens", "_ Q _ _\n_ _ _ Q"),
        ("binary_matrix", "[[0, 1], [1, 2]]"),
        ("string_insertion", "['A', 'B']"),
        ("spiral_matrix", "1 2 3 -4"),
        ("chain_sum", "what(ever) it.is"),
    ],
)
def test_honest_forms_are_scored(name: str, answer: str) -> None:
    assert refusal(name, answer) is None


def test_a_refusal_takes_no_time() -> None:
    assert refusal("puzzle24", "1" * 499 + "!") is not None
    assert refusal("string_insertion", "a" * 10_000 + "!") is not None


@pytest.mark.slow
def test_a_tower_of_powers_costs_its_limit_and_the_next_answer_is_judged() -> None:
    task = drawn(make_family("puzzle24"))
    tower = judged(task, "9**9**9")
    assert tower.outcome == "failed"
    assert tower.checks[0].name in ("score", "limit")
    assert judged(task, reference(task)).outcome == "solved"


def test_every_scorer_that_evaluates_its_answer_is_on_a_list() -> None:
    from reasoning_gym.factory import DATASETS

    evaluates = re.compile(r"(?:\beval|\bexec|\bcompile|\.parse_expr|\(parse_expr|sympify)\(\s*(?:user_)?answer\b")
    sources = {name: inspect.getsource(inspect.getmodule(cls) or cls) for name, (cls, _) in DATASETS.items()}
    assert {name for name, source in sources.items() if evaluates.search(source)} == LITERALS | FORMULAS


def test_no_answer_partial_credit_and_another_version() -> None:
    task = drawn(make_family("chain_sum"))
    assert judged(task, None).checks[0].name == "no_answer"
    assert judged(task, "  ").outcome == "failed"
    wrong = judged(task, "-1", partial_credit=True)
    assert (wrong.outcome, 0 <= wrong.reward <= 0.5) == ("failed", True)
    moved = Task.create(env=task.env, family=task.family, prompt=task.prompt, payload={**task.payload, "question_id": "0"})
    with pytest.raises(ValueError, match="another question"):
        judged(moved, reference(task))
    with pytest.raises(ValueError, match="known dataset"):
        judged(Task.create(env="reasoning_gym", family="x", prompt="?", payload={"dataset": "nope"}), "1")
