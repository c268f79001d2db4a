"""Proof search: what it finds, what it spends, and that it never takes tactic mode's word for a proof."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from flywheel.envs.lean import LeanEnv, prove
from flywheel.envs.lean.family import task_of
from flywheel.envs.lean.guides import BasicGuide, PolicyGuide, basic_tactics
from flywheel.envs.lean.relabel import SearchRelabeller
from flywheel.envs.lean.search import Budget, Candidate, Method, ProofSearch, actions
from flywheel.errors import NotRelabelledError
from flywheel.types import Outcome, Task, Trajectory, Verdict
from flywheel.verifiers.lean import LeanVerifier
from flywheel.verifiers.lean_protocol import ProofState, Step, Theorem
from flywheel.verify import parse_line
from tests.envs.lean_oracle import Oracle, learn, learning
from tests.scripted import ScriptedPolicy, call, make_chat

METHODS: tuple[Method, ...] = ("best_first", "mcts")
STATEMENT = "theorem target (p q r : Prop) (h : p ∧ q ∧ r) : r ∧ q ∧ p"
PROOF = ("constructor", "exact h.2.2", "constructor", "exact h.2.1", "exact h.1")
THEOREM = Theorem(header="", statement=STATEMENT)


class States(Oracle):
    """The oracle with goals that tell states apart, as Lean's do, and a tactic that closes every goal without proving it."""

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        if tactic == "cheat":
            return Step(state=ProofState(theorem=state.theorem, tactics=(*state.tactics, tactic), goals=()))
        step = super().run_tactic(state, tactic)
        if step.state is None or not step.state.goals:
            return step
        goals = tuple(f"{len(step.state.tactics)} done\n{goal}" for goal in step.state.goals)
        return Step(state=ProofState(theorem=state.theorem, tactics=step.state.tactics, goals=goals))


class Table:
    """A guide with a logprob for each tactic, the same everywhere."""

    def __init__(self, tactics: Mapping[str, float]) -> None:
        self.tactics = tactics
        self.asked: list[ProofState] = []

    async def propose(self, state: ProofState, count: int, seed: int) -> Sequence[Candidate]:
        self.asked.append(state)
        return [Candidate(tactic=tactic, logprob=logprob) for tactic, logprob in self.tactics.items()]


@pytest.fixture(autouse=True)
def _oracle() -> Iterator[None]:
    learn(STATEMENT, "by\n" + "\n".join(f"  {tactic}" for tactic in PROOF), "by\n  skip\n  skip\n  skip\n  exact h.1")
    with learning():
        yield


@pytest.mark.parametrize("method", METHODS)
def test_a_proof_is_found_step_by_step(method: Method) -> None:
    guide = Table({"exact h.1": -1.0, "nonsense": -0.1, "exact h.2.1": -2.0, "constructor": -1.5, "exact h.2.2": -3.0})
    found = asyncio.run(ProofSearch(States(), guide, method=method).prove(THEOREM))
    assert found.tactics == PROOF
    assert found.num_expansions == 5
    assert found.proof == "by\n  constructor\n  exact h.2.2\n  constructor\n  exact h.2.1\n  exact h.1"


@pytest.mark.parametrize("method", METHODS)
def test_tactic_modes_word_is_not_taken_for_a_proof(method: Method) -> None:
    found = asyncio.run(ProofSearch(States(), Table({"cheat": -0.1}), method=method).prove(THEOREM))
    assert found.tactics is None
    assert found.num_tactics == 1
    guide = Table({"cheat": -0.1, **dict.fromkeys(PROOF, -1.0)})
    assert asyncio.run(ProofSearch(States(), guide, method=method).prove(THEOREM)).tactics == PROOF


@pytest.mark.parametrize("method", METHODS)
def test_a_search_ends_where_its_budget_or_its_paths_do(method: Method) -> None:
    guide = Table(dict.fromkeys(PROOF, -1.0))
    spent = asyncio.run(ProofSearch(States(), guide, method=method, budget=Budget(expansions=3)).prove(THEOREM))
    assert (spent.tactics, spent.num_expansions) == (None, 3)
    shallow = asyncio.run(ProofSearch(States(), guide, method=method, budget=Budget(max_depth=2)).prove(THEOREM))
    assert shallow.tactics is None
    assert shallow.num_expansions < 10
    closed = asyncio.run(ProofSearch(States(), Table({"nonsense": -1.0}), method=method).prove(THEOREM))
    assert (closed.tactics, closed.num_expansions) == (None, 1)


def test_best_first_expands_the_likeliest_path() -> None:
    guide = Table({"constructor": -3.0, "skip": -0.5})
    asyncio.run(ProofSearch(States(), guide, budget=Budget(expansions=4), length_power=0.0).prove(THEOREM))
    assert [state.tactics for state in guide.asked] == [(), ("skip",), ("skip", "skip"), ("skip", "skip", "skip")]
    guide = Table({"constructor": -0.5, "skip": -0.6})
    asyncio.run(ProofSearch(States(), guide, budget=Budget(expansions=3), length_power=0.0).prove(THEOREM))
    assert [state.tactics for state in guide.asked] == [(), ("constructor",), ("skip",)]


def test_the_tree_search_visits_by_prior_and_by_value() -> None:
    """After the root both children have one choice each; the prior sends the first visit, the visit count the second."""
    guide = Table({"constructor": -0.2, "skip": -1.0})
    asyncio.run(ProofSearch(States(), guide, method="mcts", budget=Budget(expansions=3)).prove(THEOREM))
    assert [state.tactics for state in guide.asked] == [(), ("constructor",), ("skip",)]
    guide = Table({"constructor": -0.2, "skip": -1.0})
    prefers: dict[tuple[str, ...], float] = {("skip",): 0.9}
    search = ProofSearch(States(), guide, method="mcts", budget=Budget(expansions=2), value=lambda state: prefers.get(state.tactics, 0.0))
    asyncio.run(search.prove(THEOREM))
    assert [state.tactics for state in guide.asked] == [(), ("skip",)]


def test_the_gate_stands_before_what_a_guide_proposes() -> None:
    found = asyncio.run(ProofSearch(States(), Table({"sorry": -0.1, "run_tac x": -0.2})).prove(THEOREM))
    assert (found.tactics, found.num_tactics) == (None, 0)


def test_the_policy_guides_with_its_own_logprobs() -> None:
    chat = make_chat()
    seen: list[str] = []
    said = iter([call("tactic", text="exact h.1"), call("goals"), "words", call("tactic", text="exact h.1"), call("tactic", text="skip")])

    def script(context: str) -> str:
        seen.append(context)
        return next(said)

    policy = ScriptedPolicy(chat, script)
    guide = PolicyGuide(policy, chat, LeanEnv(backend=Oracle()).tools, "Prove in Lean 4:\n" + STATEMENT)
    state = ProofState(theorem=THEOREM, goals=("p : Prop\n⊢ p",))
    made = asyncio.run(guide.propose(state, 5, 0))
    assert [candidate.tactic for candidate in made] == ["exact h.1", "skip"]
    first = next(asked for asked in policy.asked if "exact h.1" in chat.tokenizer.decode(list(asked.completion_ids)))
    assert made[0].logprob == pytest.approx(sum(-(1 + token % 13) / 8 for token in first.completion_ids))
    assert all("⊢ p" in context and STATEMENT in context for context in seen)
    assert len({asked.sampling.seed for asked in policy.asked}) == 5


def test_a_find_plays_through_the_environment_and_is_verified_again() -> None:
    found = asyncio.run(ProofSearch(States(), Table(dict.fromkeys(PROOF, -1.0))).prove(THEOREM))
    assert found.tactics is not None
    env = LeanEnv(backend=Oracle())
    env.reset(options={"task": task_of(STATEMENT.removeprefix("theorem target "), "hand")})
    *_, last = (env.step(action) for action in actions(found.tactics))
    assert last[1:3] == (1.0, True)
    env.close()


def test_a_failed_attempt_is_completed_from_its_own_tactics() -> None:
    task = task_of(STATEMENT.removeprefix("theorem target "), "hand")
    env = LeanEnv(backend=States())
    env.reset(options={"task": task})
    for tactic in (*PROOF[:2], "nonsense", "skip"):
        env.step(json.dumps({"name": "tactic", "arguments": {"text": tactic}}))
    failed = Trajectory(task_id=task.id, turns=env.played, stop_reason="max_turns", answer=None)
    assert LeanEnv.steps_of(failed) == PROOF[:2]
    guide = Table(dict.fromkeys(PROOF, -1.0))
    relabeller = SearchRelabeller(States(), guide=guide)
    proved = relabeller.complete(task, failed)
    assert proved is not None
    assert guide.asked[0].tactics == PROOF[:2]
    assert proved.answer == "by\n  " + "\n  ".join(PROOF)
    assert LeanVerifier(backend=Oracle()).verify(task, proved).outcome == "solved"
    nothing = SearchRelabeller(States(), guide=Table({"nonsense": -1.0}))
    assert nothing.complete(task, failed) is None
    with pytest.raises(NotRelabelledError, match="no_proof_found"):
        nothing.relabel(task, failed, verdict("failed"))
    assert relabeller.relabel(task, failed, verdict("solved")) == []
    env.close()


def test_what_was_left_to_prove_becomes_theorems() -> None:
    task = task_of("(p : Prop) (h : p) : p ∨ p", "hand")
    learn(str(task.payload["statement"]), "by\n  apply Or.inl\n  exact h")
    learn("theorem target (p : Prop) (h : p) : p", "by\n  exact h")
    failed = Trajectory(task_id=task.id, turns=(), stop_reason="max_turns", answer=None)
    (whole, proof), (made, played) = SearchRelabeller(Named()).relabel(task, failed, verdict("truncated"))
    assert (whole.prompt, whole.parent_id, whole.operator) == (task.prompt, task.id, "hindsight:lean_search")
    assert whole.payload["reference"] == proof.answer == "by\n  apply Or.inl\n  exact h"
    assert LeanVerifier(backend=Oracle()).verify(whole, proof).outcome == "solved"
    assert made.payload["statement"] == "theorem target (p : Prop) (h : p) : p"
    assert (made.parent_id, made.operator) == (task.id, "hindsight:lean_search")
    assert played.answer == "by\n  exact h"
    assert LeanVerifier(backend=Oracle()).verify(made, played).outcome == "solved"


def test_a_search_in_a_run_asks_the_policy_first() -> None:
    task = task_of(STATEMENT.removeprefix("theorem target "), "hand")
    failed = Trajectory(task_id=task.id, turns=(), stop_reason="max_turns", answer=None)
    chat = make_chat()

    def policy_that(says: Sequence[str]) -> ScriptedPolicy:
        said = itertools.cycle(says)
        return ScriptedPolicy(chat, lambda context: call("tactic", text=next(said)))

    knowing = policy_that(PROOF)
    nobody = Table({})
    guided = SearchRelabeller(States(), guide=nobody, policy_budget=Budget(expansions=16, width=5)).guided_by(knowing, chat)
    pairs = guided.relabel(task, failed, verdict("failed"))
    assert pairs[0][1].answer == "by\n  " + "\n  ".join(PROOF)
    assert len(knowing.asked) == 5 * len(PROOF)
    assert nobody.asked == []
    ignorant, basic = policy_that(["nonsense"]), Table(dict.fromkeys(PROOF, -1.0))
    pairs = SearchRelabeller(States(), guide=basic).guided_by(ignorant, chat).relabel(task, failed, verdict("failed"))
    assert pairs[0][1].answer == "by\n  " + "\n  ".join(PROOF)
    assert len(ignorant.asked) == 4
    assert len(basic.asked) == len(PROOF)


def test_a_policy_is_evaluated_with_search(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    easy = "theorem target (p : Prop) (h : p) : p"
    learn(easy, "by\n  assumption")
    asked = (("a", easy, "train"), ("b", STATEMENT, "heldout"))
    records = [{"prompt": "?", "payload": {"statement": said}, "id": name, "split": split} for name, said, split in asked]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert prove.main(["basic", str(tmp_path / "tasks.jsonl"), "--expansions", "2"]) == 0
    printed = capsys.readouterr()
    assert "1 of 2 proved" in printed.err
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["answer"] for line in lines] == ["by\n  assumption", None]
    task, answer = parse_line(printed.out.splitlines()[0].encode())
    proof = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
    assert LeanVerifier(backend=Oracle()).verify(task, proof).outcome == "solved"
    out = tmp_path / "records.jsonl"
    assert prove.main(["basic", str(tmp_path / "tasks.jsonl"), "--expansions", "1", "--variants", "3", "--records", str(out)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kept = [Task.from_json(json.loads(line)) for line in out.read_text("utf-8").splitlines()]
    assert [task.payload.get("reference") for task in kept] == [line["answer"] for line in lines]
    assert Counter(line["answer"] for line in lines)["by\n  assumption"] >= 1
    first, second = (line["task"]["id"] for line in lines if line["task"]["parent_id"] is None)
    assert Counter(task.parent_id for task in kept)[second] == 3
    assert {task.parent_id for task in kept} <= {None, first, second}
    assert len({task.payload["statement"] for task in kept}) == len(kept)
    assert {task.split for task in kept if second in (task.parent_id, task.id)} == {"heldout"}, "variants of what is held out are, too"
    (tmp_path / "bad.jsonl").write_text('{"prompt": "?", "payload": {}}\n')
    assert prove.main(["basic", str(tmp_path / "bad.jsonl")]) == 1
    assert "bad.jsonl:1: lean payload" in capsys.readouterr().err


def verdict(outcome: Outcome) -> Verdict:
    return Verdict(outcome=outcome, reward=float(outcome == "solved"), checks=(), evidence="", verifier="lean", verifier_version="1")


def test_basic_tactics_fit_the_goal() -> None:
    tactics = basic_tactics("p q : Prop\nh : p ∧ q\nx✝ : Nat\ne : p = q\n⊢ p → q ∧ p")
    assert {"intro x0", "constructor", "exact h.1", "cases h", "rw [e]", "rw [← e]", "rfl"} <= set(tactics)
    assert not any("✝" in tactic for tactic in tactics)
    assert "apply Or.inl" in basic_tactics("⊢ p ∨ q")


def test_basic_tactics_search_without_a_policy() -> None:
    statement = "theorem target (p : Prop) (h : p) : p ∨ p"
    learn(statement, "by\n  apply Or.inl\n  exact h")
    found = asyncio.run(ProofSearch(States(), BasicGuide()).prove(Theorem(header="", statement=statement)))
    assert found.tactics is None, "the oracle's goals name no hypotheses"
    found = asyncio.run(ProofSearch(Named(), BasicGuide()).prove(Theorem(header="", statement=statement)))
    assert found.tactics == ("apply Or.inl", "exact h")


class Named(States):
    """States whose goals name the hypotheses, as Lean's do."""

    def open_goal(self, theorem: Theorem) -> ProofState:
        state = super().open_goal(theorem)
        return ProofState(theorem=theorem, goals=("p : Prop\nh : p\n⊢ p ∨ p",), tactics=state.tactics)

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        step = super().run_tactic(state, tactic)
        if step.state is None or not step.state.goals:
            return step
        return Step(state=ProofState(theorem=state.theorem, tactics=step.state.tactics, goals=("p : Prop\nh : p\n⊢ p",)))
