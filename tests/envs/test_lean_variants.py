"""Variants of theorems, and test-time learning around one theorem."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import pytest

from flywheel.contracts import Mutator, draw_params
from flywheel.envs.lean.families import FAMILIES
from flywheel.envs.lean.family import split_signature, task_of
from flywheel.envs.lean.rename import renamed
from flywheel.envs.lean.search import Candidate, ProofSearch, actions
from flywheel.envs.lean.test_time import TARGET, VARIANT, TestTimeEnv
from flywheel.envs.lean.variants import (
    OPERATORS,
    add_hypothesis,
    converse,
    drop_hypothesis,
    elaborating,
    generalise,
    is_hypothesis,
    join_signature,
    lemma,
    make_variant,
    sort_variants,
    specialise,
    sub_goals,
    with_reference,
)
from flywheel.types import Trajectory
from flywheel.verifiers.lean import LeanVerifier
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_file import FileBackend
from flywheel.verifiers.lean_gate import refuse_statement
from flywheel.verifiers.lean_protocol import ProofState, Step, Theorem
from tests.envs.lean_oracle import Oracle, learn, learning

CHAIN = "(a b c : Nat) (h1 : a ≤ b) (h2 : b ≤ c + 2) : a ≤ c + 2"


@pytest.fixture(autouse=True)
def _oracle() -> Iterator[None]:
    with learning():
        yield


def outcomes(operator: str, signature: str) -> set[str]:
    """Return everything that an operator makes of a signature."""
    groups, goal = split_signature(signature)
    made = (OPERATORS[operator](groups, goal, random.Random(seed)) for seed in range(60))
    return {join_signature(*one) for one in made if one is not None}


def test_a_renamed_theorem_is_the_same_theorem_with_the_same_proof() -> None:
    texts = ["(α : Type) (f : α → α) (a h' : α) (h1 : f a = h') : ∀ x, f (f a) = f x.a", "by\n  intro x a1\n  exact (congrArg f h1.symm)"]
    signature, proof = renamed(["α", "f", "a", "h'", "h1"], texts, random.Random(0))
    binders = split_signature(signature)[0]
    names: dict[str, str] = {}
    for (old, _), (new, _) in zip(split_signature(texts[0])[0], binders, strict=True):
        names.update(zip(old.split(), new.split(), strict=True))
    assert names["α"] == "α"
    assert len(set(names.values())) == 5
    assert not set(names.values()) & {"f", "a", "h'", "h1", "x", "a1", "intro", "exact", "by"}
    f, a, prime, h1 = (names[name] for name in ("f", "a", "h'", "h1"))
    assert signature == f"(α : Type) ({f} : α → α) ({a} {prime} : α) ({h1} : {f} {a} = {prime}) : ∀ x, {f} ({f} {a}) = {f} x.a"
    assert proof == f"by\n  intro x a1\n  exact (congrArg {f} {h1}.symm)"
    for family, generator in FAMILIES.items():
        for seed in range(5):
            parent = generator.generate(draw_params(generator.knobs, {}, seed), seed)
            assert isinstance(generator, Mutator)
            child = generator.mutate(parent, None, operator="rename", seed=seed)
            assert generator.key(child) == generator.key(parent), family
            assert child.payload["statement"] != parent.payload["statement"]
            assert (child.parent_id, child.operator) == (parent.id, "mutate:rename")


def test_an_operator_makes_what_its_name_says() -> None:
    assert outcomes("drop_hypothesis", CHAIN) == {
        "(a b c : Nat) (h2 : b ≤ c + 2) : a ≤ c + 2",
        "(a b c : Nat) (h1 : a ≤ b) : a ≤ c + 2",
    }
    assert outcomes("generalise", CHAIN) == {"(n : Nat) (a b c : Nat) (h1 : a ≤ b) (h2 : b ≤ c + n) : a ≤ c + n"}
    assert outcomes("converse", CHAIN) == {
        "(a b c : Nat) (h1 : a ≤ c + 2) (h2 : b ≤ c + 2) : a ≤ b",
        "(a b c : Nat) (h1 : a ≤ b) (h2 : a ≤ c + 2) : b ≤ c + 2",
    }
    assert outcomes("converse", "(p q : Prop) : p → q") == {"(p q : Prop) : q → p"}
    assert "(a b c : Nat) (h1 : a ≤ b) (h2 : b ≤ c + 2) (e1 : a = b) : a ≤ c + 2" in outcomes("add_hypothesis", CHAIN)
    assert outcomes("add_hypothesis", "(p q : Prop) : p ∧ q") >= {"(p q : Prop) (e1 : p) : p ∧ q", "(p q : Prop) (e1 : q) : p ∧ q"}
    special = outcomes("specialise", CHAIN)
    assert "(a b : Nat) (h1 : a ≤ b) (h2 : b ≤ a + 2) : a ≤ a + 2" in special
    assert any("(h1 : 0 ≤ b)" in one for one in special)


def test_an_operator_that_finds_nothing_makes_nothing() -> None:
    groups, goal = split_signature("(p : Prop) : p")
    rng = random.Random(0)
    for operator in (specialise, generalise, drop_hypothesis, add_hypothesis, converse):
        assert operator(groups, goal, rng) is None
    assert make_variant(task_of("(p : Prop) : p", "hand"), "converse", 0) is None


def test_hypotheses_are_told_from_variables() -> None:
    groups, _ = split_signature(
        "(α : Type) (P : α → Prop) (f : α → α) (x : α) [Inhabited α] (h : P x) (n : Nat) (k : n = 2) (p : Prop) (hp : p) : p"
    )
    assert [groups[at][0] for at in range(len(groups)) if is_hypothesis(groups, at)] == ["h", "k", "hp"]


def test_variants_know_where_they_come_from() -> None:
    task = task_of(CHAIN, "hand", header="open Nat")
    made = [variant for operator in OPERATORS for seed in range(5) if (variant := make_variant(task, operator, seed))]
    assert len(made) >= 15
    for variant in made:
        assert variant.parent_id == task.id
        assert variant.operator.removeprefix("mutate:") in OPERATORS
        assert variant.payload["header"] == "open Nat"
        assert refuse_statement(str(variant.payload["statement"])) is None
    assert make_variant(task, "converse", 1) == make_variant(task, "converse", 1)


def test_an_open_goal_becomes_a_lemma() -> None:
    task = task_of(CHAIN, "hand")
    made = lemma(task, "case succ\na b : Nat\nh :\n  a ≤ b\n⊢ a ≤ b + 1")
    assert made is not None
    assert made.payload["statement"] == "theorem target (a b : Nat) (h : a ≤ b) : a ≤ b + 1"
    assert (made.parent_id, made.operator) == (task.id, "mutate:lemma")
    for unsayable in ("a✝ : Nat\n⊢ a✝ = 0", "x : Nat := 5\n⊢ x = 5", "⊢ p\n⊢ q", "n : Nat"):
        assert lemma(task, unsayable) is None


class Split(Oracle):
    """The oracle with goals as Lean shows them for an induction hypothesis behind an ``∧``: ``constructor`` leaves both sides."""

    def open_goal(self, theorem: Theorem) -> ProofState:
        return ProofState(theorem=theorem, goals=("p q : Prop\nh : p\n⊢ p ∧ (p → q)",))

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        if tactic != "constructor":
            return Step(error="no")
        goals = ("case left\np q : Prop\nh : p\n⊢ p", "case right\np q : Prop\nh : p\n⊢ p → q")
        return Step(state=ProofState(theorem=state.theorem, tactics=(tactic,), goals=goals))


SPLIT = "(p q : Prop) (h : p) : p ∧ (p → q)"


def test_sub_goals_become_lemmas() -> None:
    task = task_of(SPLIT, "hand")
    made = sub_goals(task, Split())
    assert [one.payload["statement"] for one in made] == [
        "theorem target (p q : Prop) (h : p) : p",
        "theorem target (p q : Prop) (h : p) : p → q",
    ]
    assert {(one.parent_id, one.operator) for one in made} == {(task.id, "mutate:lemma")}


def test_only_what_lean_can_read_is_kept() -> None:
    good, bad = task_of("(p : Prop) : p", "hand"), task_of("(p : Prop) : p +", "hand")
    assert elaborating([good, None, bad], ProofChecker(Oracle())) == [good]


class Exact:
    """A guide that knows one tactic."""

    async def propose(self, state: ProofState, count: int, seed: int) -> list[Candidate]:
        return [Candidate(tactic="exact h", logprob=-1.0)]


def test_provable_variants_get_a_reference_and_the_rest_stay_open() -> None:
    provable, other = task_of("(p : Prop) (h : p) : p", "hand"), task_of("(p q : Prop) (h : p) : q", "hand")
    learn(str(provable.payload["statement"]), "by\n  exact h")
    proved, still_open = asyncio.run(sort_variants([provable, other], ProofSearch(Oracle(), Exact())))
    assert [task.payload["reference"] for task in proved] == ["by\n  exact h"]
    heldout = dataclasses.replace(provable, split="heldout", source_id="mine", operator="mutate:lemma")
    kept = with_reference(heldout, "by\n  exact h")
    assert (kept.split, kept.source_id, kept.operator, kept.id) == ("heldout", "mine", "mutate:lemma", proved[0].id)
    assert still_open == [other]


# ---------------------------------------------------------------- test-time learning


def test_draws_are_the_theorem_and_its_neighbours() -> None:
    env = TestTimeEnv(statement=f"theorem hard {CHAIN}", share=0.3, expansions=0, backend=Oracle())
    tasks = [env.draw(seed) for seed in range(80)]
    assert [env.draw(seed) for seed in range(80)] == tasks
    targets = [task for task in tasks if task.family == TARGET]
    assert 10 < len(targets) < 50
    assert {str(task.payload["statement"]) for task in targets} == {f"theorem hard {CHAIN}"}
    assert len({task.prompt for task in targets}) == 1
    variants = [task for task in tasks if task.family == VARIANT]
    assert len({task.prompt for task in variants}) > 15
    assert all(task.parent_id for task in variants)
    env.close()


def test_drawn_variants_have_the_proofs_that_a_search_finds() -> None:
    learn("theorem target (p q : Prop) (h : p) : p", "by\n  assumption")
    options: dict[str, Any] = {"statement": f"theorem hard {SPLIT}", "operators": ("lemma",), "share": 0.0, "distance": 1}
    env = TestTimeEnv(**options, backend=Lemmas())
    drawn = {str(task.payload["statement"]): task for task in (env.draw(seed) for seed in range(5))}
    provable = drawn.pop("theorem target (p q : Prop) (h : p) : p")
    (still_open,) = drawn.values()
    assert (provable.family, provable.operator, provable.payload["reference"]) == (VARIANT, "mutate:lemma", "by\n  assumption")
    assert env.demonstrate(provable) == actions(["assumption"])
    assert "reference" not in still_open.payload
    with pytest.raises(NotImplementedError):
        env.demonstrate(still_open)
    unsearched = TestTimeEnv(**options, expansions=0, backend=Lemmas())
    assert not any("reference" in unsearched.draw(seed).payload for seed in range(5))


class Lemmas(Split):
    """`Split` for its own theorem, and the plain oracle for every other."""

    def open_goal(self, theorem: Theorem) -> ProofState:
        return super().open_goal(theorem) if theorem.statement.endswith("q)") else Oracle.open_goal(self, theorem)

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        return super().run_tactic(state, tactic) if state.theorem.statement.endswith("q)") else Oracle.run_tactic(self, state, tactic)


@pytest.mark.lean
def test_a_real_lean_draws_variants_and_proves_some() -> None:
    backend = FileBackend()
    signature = "(p q r : Prop) (h : p) (k : q → r) : r ∧ p"
    goals = [str(one.payload["statement"]) for one in sub_goals(task_of(signature, "hand"), backend)]
    assert {f"theorem target (p q r : Prop) (h : p) (k : q → r) : {goal}" for goal in ("r", "p")} <= set(goals)
    env = TestTimeEnv(statement=f"theorem hard {signature}", operators=("lemma",), share=0.0, distance=1, expansions=1, backend=backend)
    drawn = [env.draw(seed) for seed in range(5)]
    assert {task.family for task in drawn} == {VARIANT}
    proved = [task for task in drawn if "reference" in task.payload]
    assert 0 < len(proved) < len(drawn)
    for task in proved:
        answer = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=str(task.payload["reference"]))
        assert LeanVerifier(backend=backend).verify(task, answer).outcome == "solved"
    env.close()


def test_what_test_time_learning_is_given_is_checked() -> None:
    with pytest.raises(ValueError, match="operators"):
        TestTimeEnv(statement="theorem t : True", operators=("guess",))
    with pytest.raises(ValueError, match="statement"):
        TestTimeEnv(statement="True")
