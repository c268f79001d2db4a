"""How different solved answers are, the guard, and which of them are distilled."""

from __future__ import annotations

import pytest

from flywheel.config import LearningConfig
from flywheel.envs.chemistry.environment import ChemistryEnv
from flywheel.envs.code.environment import CodeEnv
from flywheel.hindsight.distil import distilled
from flywheel.hindsight.diversity import AnswerKeys, diversity_of, most_diverse, plain_key
from flywheel.types import Task
from tests.hindsight.lessons import make_group
from tests.store.attempts import make_task


def test_distinct_solved_answers_are_counted_by_key_in_groups_of_two_and_more() -> None:
    """Groups with 4 solved, 2 distinct, and 4 solved, 3 distinct: 5 / 8 and 2.5 a group; a single one says nothing."""
    groups = [
        make_group(1, "solved", "solved", "solved", "solved", "failed", answers=("a b", "a  b", "c", "c", "d")),
        make_group(2, "solved", "solved", "solved", "solved", answers=("a", "b", "c", "c")),
        make_group(3, "solved", "failed", answers=("z", "z")),
    ]
    found = diversity_of(groups, plain_key)
    assert (found.distinct, found.per_group) == (5 / 8, 2.5)
    assert found.figures() == {"diversity/distinct": 5 / 8, "diversity/per_group": 2.5}
    assert diversity_of(groups[:1], plain_key).distinct is None  # four answers are too few to say


def test_similarity_is_between_solved_answers_to_different_tasks() -> None:
    """Eight tasks of one answer: every pair has Jaccard 1; half of them another one: 12 of 28 pairs."""
    same = [make_group(n, "solved", "failed", answers=("one two three four", "")) for n in range(8)]
    assert diversity_of(same, plain_key).similarity == 1.0
    half = same[:4] + [make_group(n, "solved", "failed", answers=("five six seven eight", "")) for n in range(10, 14)]
    assert diversity_of(half, plain_key).similarity == pytest.approx(12 / 28)


def test_the_guard_says_what_fell() -> None:
    config = LearningConfig(distill_share=0.1, min_distinct=0.7, max_similarity=0.9, min_entropy=0.2)
    groups = [make_group(n, "solved", "solved", answers=("one two three four",) * 2) for n in range(8)]
    said = diversity_of(groups, plain_key, entropy=0.1).fallen(config)
    assert [line.partition(" ")[0] for line in said] == ["distinct", "similarity", "entropy"]
    assert "distinct solved answers 0.50 < learning.min_distinct = 0.7" in said
    assert diversity_of(groups, plain_key, entropy=0.1).fallen(LearningConfig(distill_share=0.1)) == []
    assert diversity_of([], plain_key).fallen(config) == []


def test_the_most_different_answers_are_taken() -> None:
    group = make_group(1, *["solved"] * 4, answers=("a b c d", "a b c e", "x y z w", "a b c d e"))  # type: ignore[arg-type]
    assert [e.trajectory.answer for e in most_diverse(group.experiences, 2)] == ["a b c d", "x y z w"]
    assert len(most_diverse(group.experiences, 9)) == 4


def test_a_task_gives_two_lessons_at_most_each_another_answer_and_the_ids_as_sampled() -> None:
    group = make_group(1, "solved", "solved", "solved", "failed", answers=("a b c d", "a b c d", "x y z w", "q"))
    lessons = distilled([group], [e.id for e in group.experiences], plain_key)
    first, _, third, _ = group.experiences
    assert [lesson.experience.id for lesson in lessons] == [first.id, third.id]
    assert {lesson.predicted for lesson in lessons} == {0.75}
    sampled = [token for turn in first.trajectory.turns for token in turn.completion_ids]
    row = lessons[0].row
    assert [token for token, mask in zip(row.completion_ids, row.loss_mask, strict=True) if mask] == sampled
    assert distilled([group], [], plain_key) == []


def test_environments_say_which_answers_are_the_same() -> None:
    key = AnswerKeys({"code": CodeEnv, "chemistry": ChemistryEnv})
    code = Task.create(env="code", family="f", prompt="", payload={})
    assert key(code, "def f(xs):\n    return xs  # as it is") == key(code, "def f( y ): return y")
    assert key(code, "def f(xs): return xs") != key(code, "def f(xs): return xs[::-1]")
    assert key(code, "-" * 100_000 + "1")  # too deep to walk
    chemistry = Task.create(env="chemistry", family="f", prompt="", payload={})
    assert key(chemistry, "OCC") == key(chemistry, "CCO") != key(chemistry, "CCN")
    assert key(chemistry, "no molecule") == "no molecule"
    assert key(make_task(1), " a  b ") == "a b"
