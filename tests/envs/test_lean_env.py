"""The Lean environment and its task families, on a backend that has read the answers; on a real Lean wherever one is found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from flywheel.config import EnvironmentConfig, Recipe
from flywheel.contracts import draw_params
from flywheel.envs.lean import LeanEnv, LeanProofEnv, family
from flywheel.envs.lean.families import FAMILIES, KINDS, WHOLE
from flywheel.envs.lean.family import LeanFamily, canonical, split_script, split_signature
from flywheel.envs.lean.goals import NOTHING_LEFT, normalize, show_error, show_goals
from flywheel.preflight import check
from flywheel.tasks.source import TaskSource
from flywheel.types import Task
from flywheel.verifiers.lean_file import FileBackend
from flywheel.verifiers.lean_gate import refuse_answer, refuse_statement
from flywheel.verifiers.lean_protocol import Elaborated, LeanMissingError
from flywheel.verifiers.lean_scripts import script
from tests.envs.lean_oracle import Oracle, learn, learning

SWAP = "(p q : Prop) (h : p ∧ q) : q ∧ p"


@pytest.fixture(autouse=True)
def _oracle() -> Iterator[None]:
    with learning():
        yield


@pytest.fixture
def env() -> Iterator[LeanEnv]:
    made = LeanEnv(backend=Oracle())
    yield made
    made.close()


def call(env: LeanEnv, name: str, **arguments: str) -> tuple[str, float, bool]:
    observation, reward, terminated, _, _ = env.step(json.dumps({"name": name, "arguments": arguments}))
    return observation, reward, terminated


def swap() -> Task:
    task = family.task_of(SWAP, "hand", reference="by\n  constructor\n  exact h.2\n  exact h.1")
    learn(str(task.payload["statement"]), "⟨h.2, h.1⟩")
    return task


# ---------------------------------------------------------------- tools


def test_a_proof_is_stepped_and_submitted(env: LeanEnv) -> None:
    assert [tool["function"]["name"] for tool in env.tools] == ["goals", "search", "submit", "tactic", "undo"]
    env.reset(options={"task": swap()})
    assert "q ∧ p" in call(env, "goals")[0]
    assert call(env, "tactic", text="constructor")[0].startswith("step : 0") or "⊢" in call(env, "goals")[0]
    assert call(env, "tactic", text="exact h.1")[0].startswith("Error: ")
    assert not call(env, "tactic", text="exact h.2")[0].startswith("Error")
    assert call(env, "tactic", text="exact h.1")[0] == NOTHING_LEFT
    assert call(env, "submit") == ("submitted", 1.0, True)


def test_a_tactic_is_taken_back(env: LeanEnv) -> None:
    env.reset(options={"task": swap()})
    assert call(env, "undo")[0].startswith("Error: ")
    before = call(env, "goals")[0]
    call(env, "tactic", text="constructor")
    assert call(env, "undo")[0] == before
    assert call(env, "undo")[0].startswith("Error: ")
    call(env, "tactic", text="constructor")
    call(env, "tactic", text="exact h.2")
    call(env, "tactic", text="exact h.1")
    assert call(env, "submit") == ("submitted", 1.0, True)


def test_a_whole_proof_may_be_submitted_at_once(env: LeanEnv) -> None:
    env.reset(options={"task": swap()})
    assert call(env, "submit", proof="⟨h.2, h.1⟩") == ("submitted", 1.0, True)
    env.reset(options={"task": swap()})
    assert call(env, "submit", proof="⟨h.1, h.2⟩") == ("submitted", 0.0, True)
    env.reset(options={"task": swap()})
    assert call(env, "submit", proof="by sorry") == ("submitted", 0.0, True)


def test_steps_that_are_not_done_are_no_proof(env: LeanEnv) -> None:
    env.reset(options={"task": swap()})
    call(env, "tactic", text="constructor")
    assert call(env, "submit") == ("submitted", 0.0, True)
    env.reset(options={"task": swap()})
    assert call(env, "submit") == ("submitted", 0.0, True)


def test_the_gate_stands_before_every_tactic(env: LeanEnv) -> None:
    env.reset(options={"task": swap()})
    for tactic in ("sorry", "run_tac x", "exact h.1\n#eval 1", "exact (h.1"):
        assert call(env, "tactic", text=tactic)[0].startswith("Error: line ")
    assert env._states == []


def test_lemmas_are_found_by_words(env: LeanEnv) -> None:
    env.reset(options={"task": swap()})
    assert call(env, "search", query="add comm")[0] == "Nat.add_comm : ∀ (n m : Nat), n + m = m + n"
    assert len(call(env, "search", query="add")[0].split("\n")) == 2
    assert call(env, "search", query="zzz")[0] == "nothing found"
    assert call(env, "search", query='"] ; evil')[0] == "nothing found"
    assert call(env, "search", query="⊢ ∀")[0] == "nothing found"


def test_a_lean_without_its_own_library_says_that_it_cannot_search() -> None:
    class Small(Oracle):
        def elaborate(self, header: str, commands: Sequence[str], *, project: str | None = None) -> Elaborated:
            if "import Lean" in header:
                raise LeanMissingError("unknown package 'Lean'")
            return super().elaborate(header, commands, project=project)

    env = LeanEnv(backend=Small())
    env.reset(options={"task": swap()})
    assert call(env, "search", query="add comm")[0] == "Error: this Lean can't search its lemmas."
    env.close()


def test_whole_proof_mode_has_one_tool() -> None:
    env = LeanProofEnv(backend=Oracle())
    assert [tool["function"]["name"] for tool in env.tools] == ["submit"]
    env.reset(options={"task": swap()})
    assert call(env, "tactic", text="constructor")[0].startswith("Error: no tool")
    assert call(env, "submit", proof="⟨h.2, h.1⟩")[1] == 1.0
    env.close()


def test_statements_come_from_json_lines(tmp_path: Path) -> None:
    records = [{"prompt": "Prove it.", "payload": {"statement": f"theorem t{at} (p q : Prop) (h : p ∧ q) : q ∧ p"}} for at in range(12)]
    (tmp_path / "statements.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    section = EnvironmentConfig(use="lean", tasks_file=tmp_path / "statements.jsonl")
    source = TaskSource(Recipe(environments={"lean": section}))
    task = source.train(0)
    learn(str(task.payload["statement"]), "⟨h.2, h.1⟩")
    env = LeanEnv(backend=Oracle())
    assert env.reset(options={"task": task})[0] == "Prove it."
    assert call(env, "submit", proof="⟨h.2, h.1⟩")[1] == 1.0
    env.close()


def test_records_of_the_same_theorem_have_one_key() -> None:
    def key(statement: str) -> str:
        return LeanEnv.task_key(Task.create(env="lean", family="f", prompt=statement, payload={"statement": statement}))

    assert key(f"theorem a {SWAP}") == key("theorem b (a b : Prop) (k : a ∧ b) : b ∧ a")
    assert key(f"theorem a {SWAP}") != key("theorem a (p q : Prop) (h : p ∧ q) : p ∧ q")
    assert key(f"theorem a {SWAP}") == FAMILIES["equality"].key(swap())
    assert key("no theorem") != key("no theorem at all")


def test_what_a_machine_lacks_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert LeanEnv.lacks() == []
    for name in ("FLYWHEEL_LEAN_BACKEND", "LEAN", "LEAN_REPL", "ELAN_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = Recipe.model_validate({"environments": {"lean": {}}, "run": {"dir": str(tmp_path), "cache_dir": str(tmp_path)}})
    (problem,) = [problem for problem in check(recipe) if problem.startswith("environments.lean")]
    assert "elan-init" in problem


# ---------------------------------------------------------------- what is shown


def test_goals_are_short_and_in_one_form() -> None:
    assert normalize("case a\nx :\n  Nat\t\n\nh  : x =  1\n⊢ x\n  = 1") == "case a\nx : Nat\nh : x = 1\n⊢ x = 1"
    assert show_goals([]) == NOTHING_LEFT
    many = show_goals(["⊢ a", "⊢ b", "⊢ c", "⊢ d", "⊢ e"])
    assert many == "⊢ a\n\n⊢ b\n\n⊢ c\n\n(and 2 more)"
    assert len(show_goals(["x" * 5000])) == 600
    assert show_error("<input>:1:2: type mismatch\n\n  h\n") == "Error: type mismatch\n  h"
    assert len(show_error("x" * 5000)) <= 310


def test_a_script_is_read_back() -> None:
    tactics = ["intro n", "induction n with\n| zero => exact h\n| succ k ih => exact i k ih", "exact x"]
    assert split_script(script(tactics)) == tactics
    nested = ["have all : p := by\n  intro m\n  induction m with\n  | zero => exact h", "exact all"]
    assert split_script(script(nested)) == nested


# ---------------------------------------------------------------- families


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_family_keeps_its_word(name: str) -> None:
    generator = FAMILIES[name]
    assert isinstance(generator, LeanFamily)
    assert len(generator.knobs) >= 3
    keys = set()
    for seed in range(60):
        try:
            params = draw_params(generator.knobs, {name: (knob.low, knob.high) for name, knob in generator.knobs.items()}, seed)
            task = generator.generate(params, seed)
        except ValueError:
            continue
        assert generator.generate(params, seed) == task
        keys.add(generator.key(task))
        reference = str(task.payload["reference"])
        assert refuse_answer(reference) is None
        assert refuse_statement(str(task.payload["statement"])) is None
        assert reference not in task.prompt
        assert script(split_script(reference)) == reference
        if seed < 5:
            generator.validate(task)
        generator.validate(generator.mutate(task, None, operator="rename", seed=seed))
    assert len(keys) > 15, keys


def test_a_wrong_reference_is_found_out() -> None:
    task = FAMILIES["equality"].generate({}, 0)
    broken = Task.create(env="lean", family="equality", prompt="", payload={**task.payload, "reference": "by\n  exact nothing"})
    with pytest.raises(ValueError, match="expected solved"):
        FAMILIES["equality"].validate(broken)


def test_knobs_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="chain"):
        FAMILIES["equality"].generate({"chain": 100}, 0)
    with pytest.raises(ValueError, match="no knob"):
        FAMILIES["equality"].generate({"chains": 2}, 0)


def test_demonstrations_play_in_both_modes() -> None:
    for families, cls in ((FAMILIES, LeanEnv), (WHOLE, LeanProofEnv)):
        env = cls(backend=Oracle())
        for generator in families.values():
            task = generator.generate({}, 3)
            env.reset(options={"task": task})
            reward = 0.0
            for action in generator.demonstrate(task):
                observation, reward, _, _, _ = env.step(action)
                assert not observation.startswith("Error"), (task.payload, action, observation)
            assert reward == 1.0
        env.close()


def test_renamed_theorems_are_the_same_theorem() -> None:
    assert canonical("(p q : Prop) (h1 : (p → q)) (h2 : p) : q") == canonical("(a b : Prop) (x : a) (y : (a → b)) : b")
    assert canonical("(α : Type) (C X : α → Prop) (h : ∀ x, C x → X x) : ∀ x, C x → X x") == canonical(
        "(β : Type) (X B : β → Prop) (k : ∀ z, X z → B z) : ∀ y, X y → B y"
    )
    assert canonical("(p q : Prop) (h : p ∧ q) : q") != canonical("(p q : Prop) (h : p ∧ q) : p")
    assert split_signature("(p q : Prop) [Inst p] {x : Nat} : ∀ y : Nat, p") == (
        [("p q", "Prop"), ("", "Inst p"), ("x", "Nat")],
        "∀ y : Nat, p",
    )


@pytest.mark.lean
def test_the_tools_of_a_real_lean() -> None:
    env = LeanEnv(backend=FileBackend())
    env.reset(options={"task": swap()})
    assert call(env, "tactic", text="constructor")[0].count("⊢") == 2
    assert "type mismatch" in call(env, "tactic", text="exact h.1")[0].lower()
    assert call(env, "tactic", text="exact h.2")[0].count("⊢") == 1
    assert call(env, "undo")[0].count("⊢") == 2
    assert call(env, "goals")[0].count("⊢") == 2
    for tactic in ("exact h.2", "exact h.1"):
        shown = call(env, "tactic", text=tactic)[0]
    assert shown == NOTHING_LEFT
    found = call(env, "search", query="nat Add comm")[0]
    assert found.startswith("Nat.add_comm : ∀ (n m : Nat), n + m = m + n\n") or "can't search" in found  # a Lean without its own library
    assert call(env, "submit") == ("submitted", 1.0, True)
    env.close()


@pytest.mark.lean
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.family)
def test_references_are_proofs_for_a_real_lean(kind: type[LeanFamily], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLYWHEEL_LEAN_BACKEND")
    generator = kind()
    lacking: set[str] = set()
    num_proved = 0
    for seed in range(8):
        ranges = {name: (knob.low, knob.high) for name, knob in generator.knobs.items()}
        try:
            task = generator.generate(draw_params(generator.knobs, ranges, seed), seed)
        except ValueError:
            continue
        if not (missing := lacked(str(task.payload["reference"]))):
            generator.validate(task)
            num_proved += 1
        lacking |= missing
    if not num_proved:
        pytest.skip(f"this Lean has no {', '.join(sorted(lacking))}, which the references need")


def lacked(proof: str) -> set[str]:
    """Return what a proof uses and this Lean does not have: prereleases call some constants otherwise, and their simp leaves x = x open."""
    names = sorted(set(re.findall(r"(?<![\w.])[A-Z]\w*\.\w+", proof)))
    probes = {name: f"#check @{name}" for name in names}
    if "simp only" in proof:
        probes["simp that closes x = x"] = "example (xs : List Nat) : xs ++ [] = xs := by simp only [List.append_nil]"
    said = FileBackend().elaborate("", list(probes.values())).messages
    return {name for name, messages in zip(probes, said, strict=True) if any(message.severity == "error" for message in messages)}
