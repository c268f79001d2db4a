"""The Lean verifier: references pass, wrong answers fail, hacks fail; and what it says where there is no Lean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.errors import VerifierError
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers import lean_backends
from flywheel.verifiers.lean import STANDARD_AXIOMS, LeanPayload, LeanVerifier
from flywheel.verifiers.lean_check import Place
from flywheel.verifiers.lean_gate import read_statement
from flywheel.verifiers.lean_protocol import Elaborated, LeanBackend, Message, ProofState, Step, Theorem
from flywheel.verifiers.lean_recheck import Rechecker
from flywheel.verifiers.lean_toolchain import Settings
from tests.verifiers import lean_hacks
from tests.verifiers.lean_hacks import HACKS, Hack
from tests.verifiers.lean_helpers import STATEMENT, file_backend, repl_backend, write_table

NEVER = Rechecker(Settings(replay="never"))
# Statements with proofs by hand, from Lean's own library and basic tactics; the last element is a wrong answer.
REFERENCES = (
    ("theorem t : 1 + 1 = 2", "rfl", "rfl.symm.trans (1 : Nat)"),
    ("theorem t (p q : Prop) (h : p ∧ q) : q ∧ p", "⟨h.2, h.1⟩", "h"),
    ("theorem t (p q : Prop) : p ∧ q → q ∧ p", "by\n  intro h\n  exact ⟨h.2, h.1⟩", "by\n  intro h\n  exact ⟨h.1, h.2⟩"),
    ("theorem t (p q : Prop) (h : p ∨ q) : q ∨ p", "by\n  cases h with\n  | inl a => exact Or.inr a\n  | inr b => exact Or.inl b", "h"),
    (
        "theorem t (n : Nat) : 0 + n = n",
        "by\n  induction n with\n  | zero => rfl\n  | succ n ih => rw [Nat.add_succ, ih]",
        "by rfl -- no\n",
    ),
    ("theorem Nat.t (a b c : Nat) (h : a = b) (k : b = c) : a = c", "h.trans k", "k.trans h"),
    ("theorem t.{u} (α : Type u) (x : α) : x = x", "rfl", "x"),
    ("theorem t (p : Prop) : p ∨ ¬ p", "Classical.em p", "Or.inl (fun h => h)"),
)


def attempt(statement: str, answer: str | None, **payload: Any) -> tuple[Task, Trajectory]:
    task = Task.create(env="lean", family="t", prompt=statement, payload={"statement": statement, **payload})
    return task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[LeanVerifier]:
    made = LeanVerifier(backend=repl_backend(write_table(tmp_path)), rechecker=NEVER)
    yield made
    made.close()


@pytest.fixture(scope="module")
def real() -> Iterator[LeanVerifier]:
    made = LeanVerifier(rechecker=NEVER)
    yield made
    made.close()


def names(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


# ---------------------------------------------------------------- the three tables


@pytest.mark.parametrize("answer", ["rfl", "by rfl", "by\n  skip\n  rfl", "em_proof", "by\r\n  skip\r\n  rfl"])
def test_proofs_are_solved(scripted: LeanVerifier, answer: str) -> None:
    verdict = scripted.verify(*attempt(STATEMENT, answer))
    assert (verdict.outcome, verdict.reward, names(verdict)) == ("solved", 1.0, [])


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        (None, "no_answer"),
        ("", "no_answer"),
        (" \n", "no_answer"),
        ("wrong", "elaborates"),
        ("by skip", "elaborates"),
        ("cheat_proof", "axioms"),
        ("hidden_proof", "axioms"),
        ("DIE", "kills_grader"),
        ("FORGE", "kills_grader"),
        ("FORGE_SLOWLY", "kills_grader"),
        ("sorry", "gate"),
    ],
)
def test_what_is_no_proof_has_failed(scripted: LeanVerifier, answer: str | None, check: str) -> None:
    verdict = scripted.verify(*attempt(STATEMENT, answer))
    assert (verdict.outcome, verdict.reward, names(verdict)) == ("failed", 0.0, [check])
    assert verdict.evidence.startswith(check)


@pytest.mark.parametrize("hack", [hack for hack in HACKS if hack.stopped_by != "kernel"], ids=lambda hack: hack.name)
def test_the_gate_needs_no_lean(hack: Hack) -> None:
    verdict = LeanVerifier(backend=Unreachable()).verify(*attempt(lean_hacks.STATEMENT, hack.answer))
    assert (verdict.outcome, names(verdict)) == ("failed", ["gate"])


@pytest.mark.lean
@pytest.mark.parametrize("hack", HACKS, ids=lambda hack: hack.name)
def test_no_hack_passes_a_real_lean(real: LeanVerifier, hack: Hack) -> None:
    verdict = real.verify(*attempt(lean_hacks.STATEMENT, hack.answer))
    assert (verdict.outcome, verdict.reward) == ("failed", 0.0)


@pytest.mark.lean
@pytest.mark.parametrize(("statement", "proof", "wrong"), REFERENCES)
def test_references_pass_a_real_lean_and_wrong_answers_fail(real: LeanVerifier, statement: str, proof: str, wrong: str) -> None:
    assert real.verify(*attempt(statement, proof)).outcome == "solved"
    assert real.verify(*attempt(statement, wrong)).outcome == "failed"


def test_many_answers_are_judged_in_order_and_their_statements_in_one_process(tmp_path: Path) -> None:
    statements = ["theorem target : 1 + 1 = 2", "theorem other (p q : Prop) (h : p ∧ q) : q ∧ p", "theorem target : 1 = 2"]
    asked = [
        (statements[0], "rfl"),
        (statements[1], "h"),
        (statements[1], "⟨h.2, h.1⟩"),
        (statements[2], "rfl"),
        (statements[0], "by sorry"),
    ]
    backend = Counting(file_backend(write_table(tmp_path)))
    verifier = LeanVerifier(backend=backend, rechecker=NEVER)
    verdicts = verifier.verify_many([attempt(*one) for one in asked])
    assert [verdict.outcome for verdict in verdicts] == ["solved", "failed", "solved", "failed", "failed"]
    assert backend.num_processes == 1 + 4  # three statements together, four proofs alone
    with pytest.raises(ValueError, match="statement"):
        verifier.verify_many([attempt("theorem", "rfl"), attempt(statements[0], "rfl")])


class Counting(LeanBackend):
    """A backend that counts."""

    def __init__(self, inner: LeanBackend) -> None:
        self.inner, self.name, self.num_processes = inner, inner.name, 0

    @property
    def version(self) -> str:
        return self.inner.version

    def elaborate(self, header: str, commands: Any, *, project: str | None = None) -> Elaborated:
        self.num_processes += 1
        return self.inner.elaborate(header, commands, project=project)

    def open_goal(self, theorem: Theorem) -> ProofState:
        return self.inner.open_goal(theorem)

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        return self.inner.run_tactic(state, tactic)

    def close(self) -> None:
        self.inner.close()


# ---------------------------------------------------------------- what Lean may say


class Unreachable:
    """A backend that must not be asked."""

    name = "unreachable"
    version = "unreachable"

    def elaborate(self, header: str, commands: Any, *, project: str | None = None) -> Elaborated:
        raise VerifierError("it was asked")

    def open_goal(self, theorem: Theorem) -> ProofState:
        raise VerifierError("it was asked")

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        raise VerifierError("it was asked")

    def close(self) -> None:
        pass


class Says(Unreachable):
    """A backend that says what a test wants to proofs, and of statements the truth."""

    def __init__(self, proof: list[Message], report: Any) -> None:
        self.proof, self.report = proof, report

    def elaborate(self, header: str, commands: Any, *, project: str | None = None) -> Elaborated:
        name = commands[1].split("#check @")[1].split("\n")[0]
        if commands[0].endswith(f":= sorry\nend {name.rpartition('.')[0]}"):
            return Elaborated(messages=((message("warning", 2, "declaration uses 'sorry'"),), (message("info", 2, f"@{name} : A"),)))
        fence = commands[1].rpartition(" ")[2]
        return Elaborated(messages=(tuple(self.proof), tuple(self.report(name, fence))))


def message(severity: Any, line: int, text: str) -> Message:
    return Message(severity=severity, line=line, column=0, text=text)


def honest(name: str, fence: str) -> list[Message]:
    return [
        message("info", 2, f"@{name} : A"),
        message("info", 3, f"'{name}' does not depend on any axioms"),
        message("error", 4, f"Unknown identifier `{fence}`"),
    ]


def verdict_on(proof: list[Message], report: Any) -> Verdict:
    return LeanVerifier(backend=Says(proof, report), rechecker=NEVER).verify(*attempt(STATEMENT, "rfl"))


def test_an_honest_report_is_believed() -> None:
    assert verdict_on([], honest).outcome == "solved"
    assert verdict_on([message("warning", 3, "unused variable"), message("info", 3, "Try this: rfl")], honest).outcome == "solved"


@pytest.mark.parametrize(
    ("proof", "check"),
    [
        ([message("error", 3, "type mismatch")], "elaborates"),
        ([message("error", 0, "")], "elaborates"),
        ([message("warning", 2, "declaration uses 'sorry'")], "sorry"),
        ([message("warning", 2, "declaration uses `sorry`")], "sorry"),
        ([message("info", 2, "declaration uses sorry")], "sorry"),
    ],
)
def test_an_error_or_an_open_proof_anywhere_is_a_failure(proof: list[Message], check: str) -> None:
    assert names(verdict_on(proof, honest)) == [check]


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        (lambda n, f: [message("info", 2, f"@{n} : B"), *honest(n, f)[1:]], "statement_match"),
        (lambda n, f: [honest(n, f)[0], message("info", 3, f"'{n}' depends on axioms: [propext, bad]"), honest(n, f)[2]], "axioms"),
        (lambda n, f: [honest(n, f)[0], message("info", 3, f"'{n}' depends on axioms: [sorryAx]"), honest(n, f)[2]], "axioms"),
        (lambda n, f: [message("error", 2, "unknown identifier"), message("error", 3, "unknown constant"), honest(n, f)[2]], "declared"),
    ],
)
def test_a_report_against_the_proof_is_a_failure(changed: Any, check: str) -> None:
    verdict = verdict_on([], changed)
    assert (verdict.outcome, names(verdict)) == ("failed", [check])


@pytest.mark.parametrize(
    "report",
    [
        lambda n, f: [],
        lambda n, f: honest(n, f)[:2],  # it stops before the end
        lambda n, f: [*honest(n, f)[:2], message("error", 4, "Unknown identifier `fence0`")],
        lambda n, f: [*honest(n, f)[:2], message("info", 4, f)],
        lambda n, f: [honest(n, f)[0], *honest(n, f)],  # two answers to one question
        lambda n, f: [message("info", 2, "A"), *honest(n, f)[1:]],
        lambda n, f: honest("other", f),
        lambda n, f: [honest(n, f)[0], message("info", 3, "'x' does not depend on any axioms"), honest(n, f)[2]],
        lambda n, f: [honest(n, f)[0], honest(n, f)[2]],
    ],
)
def test_a_report_that_is_not_as_it_must_be_is_no_verdict(report: Any) -> None:
    with pytest.raises(VerifierError):
        verdict_on([], report)


def test_a_report_that_only_this_proof_spoils_is_the_proofs_fault() -> None:
    verdict = verdict_on([], lambda n, f: honest(n, f) if n.endswith(".control") else honest(n, f)[:2])
    assert (verdict.outcome, names(verdict)) == ("failed", ["kills_grader"])


def test_a_statement_is_declared_as_it_stands() -> None:
    for statement, opening in (
        ("theorem Nat.t (p : Prop) : p", "namespace Nat.N\ntheorem t (p : Prop) : p :="),
        ("lemma t.{u} (α : Type u) : α = α", "namespace N\ntheorem t.{u} (α : Type u) : α = α :="),
        ("theorem t : True -- easy", "namespace N\ntheorem t : True -- easy\n:="),
    ):
        place = Place(nonce="N", statement=read_statement(statement))
        assert place.opening == opening
        assert place.declaration("rfl").split("\n")[-1] == f"end {place.namespace}"
    assert Place.fresh(read_statement("theorem t : True")) != Place.fresh(read_statement("theorem t : True"))


# ---------------------------------------------------------------- payload


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "statement"),
        ({"statement": 5}, "statement"),
        ({"statement": "theorem t : True := trivial"}, ":="),
        ({"statement": "example : True"}, "theorem NAME"),
        ({"statement": STATEMENT, "header": None}, "header"),
        ({"statement": STATEMENT, "project": 3}, "project"),
        ({"statement": STATEMENT, "allowed_axioms": "propext"}, "allowed_axioms"),
        ({"statement": STATEMENT, "allowed_axioms": ["sorryAx"]}, "proves anything"),
        ({"statement": STATEMENT, "allowed_axiom": []}, "did you mean"),
    ],
)
def test_a_malformed_payload_is_a_value_error(payload: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeanPayload.read(payload)


def test_allowed_axioms_are_the_payloads_own(scripted: LeanVerifier) -> None:
    assert LeanPayload.read({"statement": STATEMENT}).allowed_axioms == STANDARD_AXIOMS
    assert names(scripted.verify(*attempt(STATEMENT, "em_proof", allowed_axioms=[]))) == ["axioms"]
    assert scripted.verify(*attempt(STATEMENT, "cheat_proof", allowed_axioms=["propext", "cheat"])).outcome == "solved"


# ---------------------------------------------------------------- a machine without Lean


def test_the_bulk_command_without_lean_refuses_hacks_and_says_what_is_missing(tmp_path: Path) -> None:
    lines = [
        {"task": {"env": "lean", "prompt": "", "payload": {"statement": STATEMENT}}, "answer": answer}
        for answer in ("by sorry", None, "rfl")
    ]
    lines.append({"task": {"env": "lean", "prompt": "", "payload": {"statement": "theorem"}}, "answer": "rfl"})
    hidden = {"PATH": str(tmp_path), "HOME": str(tmp_path), "FLYWHEEL_LEAN_WORKERS": "1"}
    kept = {name: value for name, value in os.environ.items() if name not in ("LEAN", "LEAN_REPL", "ELAN_HOME")}
    done = subprocess.run(
        [sys.executable, "-m", "flywheel.verify", "--workers", "4"],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        env={**kept, **hidden},
        check=False,
    )
    assert done.returncode == 1, done.stderr
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply.get("outcome") for reply in got] == ["failed", "failed", "infra_error", None]
    assert got[0]["evidence"].startswith("gate: sorry")
    assert "elan-init" in got[2]["evidence"]
    assert "theorem NAME" in got[3]["error"]


def test_the_shared_backend_is_shared_and_closed_by_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_backends, "_shared", None)  # whatever environment an earlier test left open
    monkeypatch.setattr(lean_backends, "_users", 0)
    monkeypatch.setenv("FLYWHEEL_LEAN_BACKEND", f"{__name__}:Closable")
    first, second = lean_backends.acquire_shared(), lean_backends.acquire_shared()
    assert first is second
    assert isinstance(first, Closable)
    lean_backends.release_shared()
    assert not first.closed
    lean_backends.release_shared()
    assert first.closed
    monkeypatch.setenv("FLYWHEEL_LEAN_BACKEND", "abacus")
    with pytest.raises(VerifierError, match="abacus"):
        lean_backends.acquire_shared()


class Closable(Unreachable):
    """A backend that knows whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True
