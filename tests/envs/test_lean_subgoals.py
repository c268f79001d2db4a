"""What failed attempts at theorems teach: what they proved becomes theorems, what they left open becomes tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from flywheel.envs.lean import LeanEnv
from flywheel.envs.lean.families import FAMILIES
from flywheel.envs.lean.family import task_of
from flywheel.envs.lean.relabel import SubgoalRelabeller, open_goals
from flywheel.envs.lean.subgoals import Proved, Walk, closed_goals, new_hypotheses, proved_instead, scripts_of, split_proof
from flywheel.envs.lean.variants import lemma
from flywheel.errors import NotRelabelledError
from flywheel.types import Outcome, Task, Trajectory, Verdict
from flywheel.verifiers.lean import LeanVerifier
from flywheel.verifiers.lean_process import ReplProcess, Watch
from flywheel.verifiers.lean_protocol import ProofState, Step, Theorem
from flywheel.verifiers.lean_scripts import script
from tests.envs.lean_oracle import Oracle, learn, learning
from tests.hindsight.attempts import collected, harvested, recipe_of
from tests.scripted import call
from tests.verifiers.lean_helpers import HERE
from tests.verifiers.lean_replay import requests

CONTEXT = "p q r : Prop\nh1 : p ∧ q\nh2 : q → r"
SIGNATURE = "(p q r : Prop) (h1 : p ∧ q) (h2 : q → r) : p ∧ r"


@pytest.fixture(autouse=True)
def _oracle() -> Iterator[None]:
    with learning():
        yield


def verdict(outcome: Outcome = "failed") -> Verdict:
    return Verdict(outcome=outcome, reward=float(outcome == "solved"), checks=(), evidence="", verifier="lean", verifier_version="1")


def path(*states: tuple[str, Sequence[str]], refused: str = "") -> Walk:
    """Return a walk; the first state has no tactic before it."""
    theorem = Theorem(header="", statement="theorem target : True")
    return Walk(
        tactics=tuple(tactic for tactic, _ in states[1:]),
        states=tuple(ProofState(theorem=theorem, goals=tuple(goals)) for _, goals in states),
        refused=refused,
    )


def recorded(name: str) -> Walk:
    """Return the walk of a recorded session of the real REPL, each of whose tactics goes on from the state before it."""
    recording = HERE / "lean_repl" / f"{name}.in"
    process = ReplProcess(
        [sys.executable, "-I", "-S", str(HERE / "lean_replay.py"), str(recording)], backend="unsafe", show=[], env={}, memory_bytes=1 << 30
    )
    try:
        asked = requests(recording)
        answers = [process.ask(request, Watch()) for request in asked]
    finally:
        process.kill()
    steps = [(request["tactic"], answer["goals"]) for request, answer in zip(asked[1:], answers[1:], strict=True)]
    return path(("", [answers[0]["sorries"][0]["goal"]]), *steps)


# ---------------------------------------------------------------- what was proved


def test_a_recorded_session_closed_these_goals() -> None:
    found = closed_goals(recorded("proof_branching"))
    assert [(one.goal, one.tactics) for one in found] == [
        (f"{CONTEXT}\n⊢ p ∧ r", ("apply And.intro", "exact h1.left", "apply h2", "exact h1.right")),
        (f"case left\n{CONTEXT}\n⊢ p", ("exact h1.left",)),
        (f"case right\n{CONTEXT}\n⊢ r", ("apply h2", "exact h1.right")),
        (f"case right\n{CONTEXT}\n⊢ q", ("exact h1.right",)),
    ]
    made = lemma(task_of(SIGNATURE, "hand"), found[2].goal, operator="hindsight:sub_goal")
    assert made is not None
    assert made.payload["statement"] == "theorem target (p q r : Prop) (h1 : p ∧ q) (h2 : q → r) : r"
    assert made.operator == "hindsight:sub_goal"


def test_goals_behind_a_closed_one_stay_as_they_were() -> None:
    """Nothing is closed where the goals behind it change too: the tactic may have proved them and not it."""
    assert closed_goals(path(("", ["⊢ a", "⊢ b"]), ("swap", ["⊢ b", "⊢ a"]), ("exact hb", ["⊢ a"]))) == [
        Proved(rule="sub_goal", goal="⊢ b", tactics=("exact hb",))
    ]
    assert closed_goals(path(("", ["⊢ ?x = 1", "⊢ Nat"]), ("rfl", []))) == []
    twice = closed_goals(path(("", ["⊢ a ∧ a"]), ("constructor", ["⊢ a", "⊢ a"]), ("exact ha", ["⊢ a"])))
    assert [(one.goal, one.tactics) for one in twice] == [("⊢ a", ("exact ha",))]


def test_a_fact_that_was_brought_in_was_proved() -> None:
    before = "p q : Prop\nh : p ∧ q\n⊢ q ∧ p"
    after = "p q : Prop\nh : p ∧ q\nk : q\n⊢ q ∧ p"
    assert new_hypotheses(path(("", [before, "⊢ z"]), ("have k : q := h.2", [after, "⊢ z"]))) == [
        Proved(rule="have", goal="p q : Prop\nh : p ∧ q\n⊢ q", tactics=("have k : q := h.2", "exact k"))
    ]
    assert new_hypotheses(path(("", ["p : Prop\n⊢ p → p"]), ("intro h", ["p : Prop\nh : p\n⊢ p"]))) == []
    assert new_hypotheses(path(("", [before]), ("cases h", ["p q : Prop\nl : p\nr : q\n⊢ q ∧ p"]))) == []
    (fact,) = new_hypotheses(recorded_have())
    assert (fact.goal, fact.tactics) == ("⊢ Nat", ("have t : Nat := 42", "exact t"))


def recorded_have() -> Walk:
    whole = recorded("proof_step")
    return Walk(tactics=whole.tactics[1:2], states=(whole.states[0], whole.states[2]))


@pytest.mark.parametrize("head", ["Type mismatch", "type mismatch", "type mismatch, term"])
def test_a_refused_term_proves_what_lean_says(head: str) -> None:
    said = f"{head}\n  h1.left\nhas type\n  p : Prop\nbut is expected to have type\n  q : Prop"
    assert proved_instead(path(("", [f"{CONTEXT}\n⊢ q"]), refused=said)) == [
        Proved(rule="instead", goal=f"{CONTEXT}\n⊢ p", tactics=("exact h1.left",))
    ]
    argument = (
        "Application type mismatch: The argument\n  h1\nhas type\n  p ∧ q\nbut is expected to have type\n  q\nin the application\n  h2 h1"
    )
    assert proved_instead(path(("", [f"{CONTEXT}\n⊢ r"]), refused=argument)) == []
    assert proved_instead(path(("", ["⊢ q"]), refused="unknown identifier 'h'")) == []


def test_what_can_be_no_theorem_is_none() -> None:
    task = task_of(SIGNATURE, "hand")
    for unsayable in ("x : ?m\n⊢ p", "⊢ ?x = 1", "a✝ : Nat\n⊢ a✝ = 0", "p : Prop\n⊢ p\n⊢ p"):
        assert lemma(task, unsayable) is None, unsayable
    made = lemma(task, "α : Type\ninst✝¹ inst✝ : Ord α\nxs : List α\n⊢ xs.head? = xs[0]?")
    assert made is not None
    assert made.payload["statement"] == "theorem target (α : Type) [Ord α] [Ord α] (xs : List α) : xs.head? = xs[0]?"


def test_a_theorem_of_a_part_keeps_the_whole_ones_place() -> None:
    payload = {"statement": "theorem Nat.whole (n : Nat) : n = n", "header": "open List", "allowed_axioms": [], "project": "/p"}
    made = lemma(Task.create(env="lean", family="f", prompt="", payload=payload), "n : Nat\n⊢ succ n = succ n")
    assert made is not None
    assert made.payload == {**payload, "statement": "theorem Nat.target (n : Nat) : succ n = succ n"}


# ---------------------------------------------------------------- attempts


def attempt(task: Task, *calls: tuple[str, str], backend: Oracle | None = None) -> Trajectory:
    """Play calls of one argument each."""
    env = LeanEnv(judge=False, backend=backend or Oracle())
    env.reset(options={"task": task})
    for name, argument in calls:
        key = "text" if name == "tactic" else "proof"
        env.step(json.dumps({"name": name, "arguments": {key: argument} if argument else {}}))
    return Trajectory(task_id=task.id, turns=env.played, stop_reason="max_turns", answer=None)


def test_proofs_are_taken_apart() -> None:
    assert split_proof("⟨h.1, h.2⟩") == ["exact (⟨h.1, h.2⟩)"]
    assert split_proof("by\n  intro h\n  cases h with\n  | inl a => exact a\n  | inr b =>\n    exact b\n  done") == [
        "intro h",
        "cases h with\n| inl a => exact a\n| inr b =>\n  exact b",
        "done",
    ]
    assert split_proof("by constructor\n   · intro a\n     -- why\n     exact a\n\n   · exact b") == [
        "constructor",
        "intro a",
        "exact a",
        "exact b",
    ]
    assert split_proof("by rfl") == ["rfl"]


def test_every_run_of_tactics_counts_once() -> None:
    task = task_of(SIGNATURE, "hand")
    learn(task.payload["statement"], "by\n  constructor\n  skip\n  skip\n  skip\n  exact h")
    made = attempt(
        task,
        ("tactic", "constructor"),
        ("tactic", "nonsense"),
        ("tactic", "skip"),
        ("undo", ""),
        ("tactic", "skip"),
        ("submit", "by\n  constructor\n  exact wrong"),
    )
    assert scripts_of(made) == [("constructor", "nonsense"), ("constructor", "skip"), ("constructor", "exact wrong")]


class Branching(Oracle):
    """The recorded session as a backend for its own theorem; other theorems are the oracle's."""

    def __init__(self, goals: Sequence[Sequence[str]], tactics: Sequence[str]) -> None:
        self.goals, self.script = [tuple(each) for each in goals], tuple(tactics)

    def open_goal(self, theorem: Theorem) -> ProofState:
        return ProofState(theorem=theorem, goals=self.goals[0]) if theorem.statement.endswith(SIGNATURE) else super().open_goal(theorem)

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        if not state.theorem.statement.endswith(SIGNATURE):
            return super().run_tactic(state, tactic)
        at = len(state.tactics)
        if self.script[at] != tactic:
            return Step(error="unknown tactic")
        return Step(state=ProofState(theorem=state.theorem, tactics=(*state.tactics, tactic), goals=self.goals[at + 1]))


@pytest.fixture
def branching() -> Branching:
    whole = recorded("proof_branching")
    return Branching([state.goals for state in whole.states], whole.tactics)


def test_a_failed_attempt_gives_the_theorems_that_it_proved(branching: Branching) -> None:
    task = task_of(SIGNATURE, "hand")
    proof = {"p": "by\n  exact h1.left", "q": "by\n  exact h1.right", "r": "by\n  apply h2\n  exact h1.right"}
    for target, reference in proof.items():
        learn(f"theorem target {SIGNATURE.removesuffix('p ∧ r')}{target}", reference)
    failed = attempt(task, *(("tactic", tactic) for tactic in branching.script[:2]), ("tactic", "nonsense"), backend=branching)
    relabeller = SubgoalRelabeller(branching)
    ((made, played),) = relabeller.relabel(task, failed, verdict())
    assert made.payload["statement"] == f"theorem target {SIGNATURE.removesuffix('p ∧ r')}p"
    assert (made.parent_id, made.operator, made.family) == (task.id, "hindsight:lean_subgoals", "hand")
    assert [json.loads(turn.text) for turn in played.turns] == [{"name": "submit", "arguments": {"proof": proof["p"]}}]
    assert (played.task_id, played.answer) == (made.id, proof["p"])
    assert LeanVerifier(backend=branching).verify(made, played).outcome == "solved"
    assert relabeller.relabel(task, failed, verdict("solved")) == []
    assert relabeller.relabel(task, failed, verdict("infra_error")) == []

    longer = attempt(task, ("submit", script(branching.script)), backend=branching)
    assert [pair[1].answer for pair in relabeller.relabel(task, longer, verdict())] == [proof["r"], proof["q"], proof["p"]]
    few = SubgoalRelabeller(branching, max_pairs=1)
    assert [pair[1].answer for pair in few.relabel(task, longer, verdict())] == [proof["r"]]


def test_what_teaches_nothing_is_dropped(branching: Branching) -> None:
    task = task_of(SIGNATURE, "hand")
    failed = attempt(task, ("submit", script(branching.script)), backend=branching)
    relabeller = SubgoalRelabeller(branching)

    def kept() -> list[str]:
        """Return the goals of the theorems that the attempt gives; the theorem itself is none of them."""
        return [str(made.payload["statement"])[-1] for made, _ in relabeller.relabel(task, failed, verdict())]

    assert kept() == ["r", "q", "p"]
    learn(f"theorem target {SIGNATURE.removesuffix('p ∧ r')}q", "by\n  assumption")
    assert kept() == ["r", "p"]
    branching.goals[1] = ("case left\na✝ : Nat\n⊢ p", *branching.goals[1][1:])
    assert kept() == ["r"]
    learn(f"theorem target {SIGNATURE.removesuffix('p ∧ r')}r", "by\n  rfl")
    with pytest.raises(NotRelabelledError, match="trivial"):
        kept()


def test_what_was_left_open_becomes_tasks(branching: Branching) -> None:
    task = task_of(SIGNATURE, "hand")
    failed = attempt(task, *(("tactic", tactic) for tactic in branching.script[:1]), backend=branching)
    learn(f"theorem target {SIGNATURE.removesuffix('p ∧ r')}p", "by\n  assumption")
    (left,) = open_goals(task, failed, branching)
    assert left.payload["statement"] == f"theorem target {SIGNATURE.removesuffix('p ∧ r')}r"
    assert (left.parent_id, left.operator) == (task.id, "hindsight:open_goal")
    assert "reference" not in left.payload


def test_the_environment_names_its_relabellers() -> None:
    assert [relabeller.name for relabeller in LeanEnv.relabellers()] == ["lean_subgoals"]


@pytest.mark.lean
def test_a_real_lean_proves_what_attempts_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLYWHEEL_LEAN_BACKEND")
    task = task_of("(p q r : Prop) (hp : p) (h1 : p → q ∧ p) (h2 : q → r) : r ∧ p ∧ False", "hand")
    verifier = LeanVerifier()
    env = LeanEnv(judge=False)
    try:
        env.reset(options={"task": task})
        for tactic in ("constructor", "apply h2", "exact (h1 hp).1", "have k : q := (h1 hp).1", "constructor", "exact (h1 hp).1"):
            env.step(json.dumps({"name": "tactic", "arguments": {"text": tactic}}))
        failed = Trajectory(task_id=task.id, turns=env.played, stop_reason="max_turns", answer=None)
        relabeller = SubgoalRelabeller()
        pairs = relabeller.relabel(task, failed, verdict("truncated"))
        made = {pair[0].payload["statement"].rpartition(" : ")[2]: verifier.verify(*pair).outcome for pair in pairs}
        assert made == {"r": "solved", "q": "solved"}
        left = [one.payload["statement"].rpartition(" : ")[2] for one in open_goals(task, failed, env._backend)]
        assert left == ["False"], "p is an assumption"
    finally:
        env.close()
        verifier.close()


@pytest.mark.lean
def test_a_harvest_keeps_what_a_real_kernel_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLYWHEEL_LEAN_BACKEND")
    task = FAMILIES["first_order"].generate({"chain": 2, "num_spare": 0, "shape": 2}, 0)
    *worked, _ = split_proof(task.payload["reference"])  # of the goal's two sides only the first one is proved
    says = [*(call("tactic", text=tactic) for tactic in worked), call("submit", proof="by\n  exact hx")]
    recipe = recipe_of("lean")
    (harvest,) = harvested(recipe, [collected(recipe, task, says)], tmp_path)
    (lesson,) = harvest.lessons
    made = lesson.experience
    assert made.origin == "hindsight"
    assert (made.task.parent_id, made.task.operator) == (task.id, "hindsight:lean_subgoals")
    assert (made.trajectory.answer, made.verdict.outcome) == (script(worked[2:]), "solved")
    assert made.verdict.evidence == "Lean's kernel accepts the proof"
