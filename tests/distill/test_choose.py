"""Which attempts are kept: solved, different by key, the shortest first, then the least alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from flywheel.distill.choose import best_and_most_diverse
from flywheel.distill.sets import parse_set
from flywheel.errors import ConfigError
from flywheel.hindsight.diversity import AnswerKeys
from flywheel.types import Experience, Group, Outcome
from tests.store.attempts import make_experience, make_task

TASK = make_task(1)


def attempt(sibling: int, answer: str | None, *, tokens: int = 12, outcome: Outcome = "solved") -> Experience:
    made = make_experience(TASK, sibling, num_tokens=tokens, outcome=outcome)
    return replace(made, trajectory=replace(made.trajectory, answer=answer))


def kept(attempts: list[Experience], keep: int, keys: AnswerKeys | None = None) -> list[str | None]:
    group = Group(id="g", task=TASK, experiences=tuple(attempts))
    return [e.trajectory.answer for e in best_and_most_diverse(group, keep, keys or AnswerKeys({}))]


def test_the_shortest_comes_first_and_then_the_least_alike() -> None:
    attempts = [
        attempt(0, "a b c d e f", tokens=20),
        attempt(1, "a b c d e g", tokens=10),  # the shortest; shares three of five 3-grams with the first
        attempt(2, "x y z", tokens=30),  # shares none
        attempt(3, "a b c d", tokens=14),  # shares two of four
    ]
    assert kept(attempts, 1) == ["a b c d e g"]
    assert kept(attempts, 2) == ["a b c d e g", "x y z"]
    assert kept(attempts, 3) == ["a b c d e g", "x y z", "a b c d"]
    assert len(kept(attempts, 9)) == 4


def test_only_solved_answers_count_and_each_comes_once() -> None:
    attempts = [
        attempt(0, "right", outcome="failed", tokens=2),
        attempt(1, "hack", outcome="tampered", tokens=2),
        attempt(2, None, tokens=2),
        attempt(3, "x  =\n1", tokens=30),
        attempt(4, "x = 1", tokens=20),
    ]
    assert kept(attempts, 4) == ["x = 1"]  # layout aside, the same answer: the shorter attempt stands for it


def test_an_environment_says_which_answers_are_the_same() -> None:
    class Sorted:
        @classmethod
        def answer_keys(cls, answers: Sequence[str]) -> list[str | None]:
            if "unreadable" in answers:
                raise ValueError("not a sequence")
            return ["".join(sorted(answer)) for answer in answers]

    keys = AnswerKeys({"toy": Sorted})
    assert kept([attempt(0, "ab"), attempt(1, "ba"), attempt(2, "unreadable")], 4, keys) == ["ab", "unreadable"]
    assert len(kept([attempt(0, "ab"), attempt(1, "ba")], 4)) == 2


def test_a_sets_name_says_what_is_in_it() -> None:
    assert parse_set("sft-tokens.jsonl") == ("sft", "tokens")
    assert parse_set("dpo-messages") == ("dpo", "messages")
    for bad in ("sft", "sft-messages.csv", "../sft-tokens"):
        with pytest.raises(ConfigError, match=r"distill\.sets: got"):
            parse_set(bad)
