"""Model-written theorems and autoformalised problems, with a scripted model and judge: what holds is kept, the rest refused."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from flywheel.config import TasksConfig
from flywheel.envs.lean import LeanEnv
from flywheel.envs.lean.authoring import MAX_EXAMPLES, LeanAuthor, counterexamples, refuted
from flywheel.tasks.admission import Admission
from flywheel.tasks.chat_model import Reply
from flywheel.tasks.round_trip import RoundTrip
from flywheel.tasks.writer import Judge, TaskWriter, Written
from flywheel.tasks.writing_prompts import Method, from_problems, self_instruct
from flywheel.verifiers.lean import LeanPayload
from flywheel.verifiers.lean_file import FileBackend
from flywheel.verifiers.lean_protocol import Theorem
from tests.envs.lean_oracle import Oracle, learn, learning

PROBLEM = "Let p and q be propositions, and let p give q. Show q, given p."
FAITHFUL = {"statement": "theorem mine (p q : Prop) (h : p → q) (hp : p) : q :=", "proof": None}


@pytest.fixture(autouse=True)
def _oracle() -> Iterator[None]:
    with learning():
        yield


class ScriptedModel:
    """Says the given replies in turn, and keeps what it was asked."""

    def __init__(self, *replies: Any) -> None:
        self.replies = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]
        self.asked: list[str] = []

    async def reply(self, message: str, *, seed: int) -> Reply:
        self.asked.append(message)
        return Reply(text=self.replies[len(self.asked) - 1], num_tokens=10)


def written(model: ScriptedModel, method: Method, judge: Judge | None = None) -> list[Written]:
    async def collect() -> list[Written]:
        admission = Admission(TasksConfig(avoid_repeats=True), LeanEnv.task_key)
        made = TaskWriter(
            model, LeanEnv.author(), task_key=LeanEnv.task_key, admission=admission, methods=[method], seed=0, concurrency=1, judge=judge
        )
        return [one async for one in made.write(len(model.replies))]

    return asyncio.run(collect())


def refusal(reply: Any) -> str | None:
    (one,) = written(ScriptedModel(reply), self_instruct)
    return one.reason


def statements(found: Sequence[Written]) -> list[str]:
    return [str(one.task.payload["statement"]) for one in found if one.task is not None]


def test_a_problem_becomes_a_task_by_the_models_statement() -> None:
    model = ScriptedModel(FAITHFUL)
    (one,) = written(model, from_problems([PROBLEM]))
    assert one.task is not None, one.reason
    assert (one.task.operator, one.task.env, one.task.family) == ("write:formalise", "lean", "written")
    assert one.task.payload["statement"] == "theorem target (p q : Prop) (h : p → q) (hp : p) : q"
    assert one.task.payload["problem"] == PROBLEM
    assert "reference" not in one.task.payload
    assert "propositions" not in one.task.prompt
    assert PROBLEM in model.asked[0]


def test_problems_are_asked_one_after_another_and_the_same_theorem_is_kept_once() -> None:
    again = {"statement": "theorem other (a b : Prop) (k : a → b) (ha : a) : b"}
    model = ScriptedModel(FAITHFUL, again, FAITHFUL)
    found = written(model, from_problems([PROBLEM, "Another."]))
    assert [("Another." in asked, PROBLEM in asked) for asked in model.asked] == [(False, True), (True, False), (False, True)]
    assert len(statements(found)) == 1
    assert found[1].reason is not None


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ({"statement": "theorem mine (p : Prop) (h : p) : p"}, "trivially true"),
        ({"statement": "theorem mine (p : Prop) : p"}, "trivially false: the basic tactics"),
        ({"statement": "theorem mine (n : Nat) : n = n + 1"}, "trivially false: fun all => absurd (all 0)"),
        ({"statement": "theorem mine (p : Prop) : p +"}, "does not elaborate"),
        ({"statement": "theorem mine : sorry"}, "statement refused"),
        ({"statement": "axiom mine : False"}, "statement refused"),
        ({"statement": "theorem mine : True := trivial"}, "statement refused"),
        ({"statement": "theorem mine (p q : Prop) (h : p ∧ q) : q ∧ p", "proof": "by sorry"}, "proof refused"),
        ({"statement": "theorem mine (p q : Prop) (h : p ∧ q) : q ∧ p", "proof": "h"}, "the proof does not hold, tried once"),
        ({"statement": 5}, "statement is 5"),
        ({"statement": "theorem mine : True", "proof": 5}, "proof is 5"),
        ("theorem mine : True", "no JSON object"),
    ],
)
def test_what_is_no_fit_theorem_is_refused(reply: Any, why: str) -> None:
    learn("theorem target (p : Prop) (h : p) : p", "by\n  assumption")
    learn("theorem refuted : ¬ (∀ (p : Prop), p)", "by\n  simp")
    learn("theorem refuted : ¬ (∀ (n : Nat), n = n + 1)", "fun all => absurd (all 0) (by first | decide | simp)")
    assert why in str(refusal(reply))


def test_counterexamples_are_small_values_under_which_the_hypotheses_hold() -> None:
    decided = "(by first | decide | simp)"
    found = counterexamples(Theorem(header="", statement="theorem t (p : Prop) (m : Nat) (h : 0 < m) : m = 1"))
    assert found[:2] == [f"fun all => absurd (all True {m} {decided}) {decided}" for m in (0, 1)]
    assert len(found) == 6
    assert len(counterexamples(Theorem(header="", statement="theorem t (a b c : Int) : a = b"))) == MAX_EXAMPLES
    for nothing in ("theorem t : 1 = 2", "theorem t (f : Nat → Nat) (n : Nat) : f n = n", "theorem t (n : Nat) [Fact (0 < n)] : n = 1"):
        assert counterexamples(Theorem(header="", statement=nothing)) == []


@pytest.mark.lean
def test_a_real_lean_filters_statements() -> None:
    author = LeanAuthor(backend=FileBackend())
    author.check(author.build({"statement": "theorem t (p q r : Prop) (h : (p → q) ∧ (q → r)) (k : p) : r", "proof": "h.2 (h.1 k)"}))
    for statement, why in (
        ("theorem t (p q : Prop) (h : p → q) (k : p) : q", "trivially true"),
        ("theorem t : 1 = 2", "trivially false"),
        ("theorem t (p : Prop) (n : Nat) (h : p) (k : n = 0 ∨ p) : n = n + 1", "trivially false: fun all => absurd (all True 0"),
        ("theorem t (n : Nat) : nowhere n", "does not elaborate"),
    ):
        with pytest.raises(ValueError, match=re.escape(why)):
            author.check(author.build({"statement": statement}))


def test_a_theorem_with_its_proof_is_kept_with_it() -> None:
    learn("theorem target (p q : Prop) (h : p ∧ q) : q ∧ p", "⟨h.2, h.1⟩")
    (one,) = written(ScriptedModel({"statement": "theorem mine (p q : Prop) (h : p ∧ q) : q ∧ p", "proof": "⟨h.2, h.1⟩"}), self_instruct)
    assert one.task is not None, one.reason
    assert one.task.payload["reference"] == "⟨h.2, h.1⟩"
    assert "problem" not in one.task.payload
    assert "h.2" not in one.task.prompt


def test_the_judge_has_the_last_word_and_does_not_see_the_problem_when_it_reads() -> None:
    for said, kept in (({"same": True}, 1), ({"same": False, "why": "q is assumed"}, 0), ({"same": "true"}, 0), ("same!", 0)):
        judge = ScriptedModel("If p gives q and p holds, q holds.", said)
        found = written(ScriptedModel(FAITHFUL), from_problems([PROBLEM]), RoundTrip(judge))
        assert len(statements(found)) == kept
        assert PROBLEM not in judge.asked[0]
        assert "(h : p → q)" in judge.asked[0]
        assert PROBLEM in judge.asked[1]
        assert "If p gives q" in judge.asked[1]
        assert "(h : p → q)" not in judge.asked[1]
    assert found[0].reason == "the judge reads something else in it: its reply can't be read"


def test_a_header_and_a_project_are_the_tasks_own() -> None:
    author = LeanEnv.author(header="import Mathlib\nopen Nat", project="/lean/mathlib")
    assert "import Mathlib" in author.instructions
    task = author.build(FAITHFUL)
    theorem = LeanPayload.read(task.payload).theorem
    assert (theorem.header, theorem.project) == ("import Mathlib\nopen Nat", "/lean/mathlib")
    assert refuted(theorem) == Theorem(
        header=theorem.header, project=theorem.project, statement="theorem refuted : ¬ (∀ (p q : Prop) (h : p → q) (hp : p), q)"
    )


def test_examples_are_replies_that_hold() -> None:
    author = LeanAuthor(backend=Oracle())
    for example in author.examples(0, 6):
        task = author.build(json.loads(example))
        learn(str(task.payload["statement"]), str(task.payload["reference"]))
        author.check(task)
