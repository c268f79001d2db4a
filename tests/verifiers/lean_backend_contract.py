"""The contract of a Lean backend as a class of tests: subclass it and give the fixture `backend`."""

from __future__ import annotations

import pytest

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_protocol import LeanBackend, Theorem
from flywheel.verifiers.lean_scripts import script

STANDARD = ("propext", "Classical.choice", "Quot.sound")
TARGET = Theorem(header="", statement="theorem target : 1 + 1 = 2")
OTHER = Theorem(header="", statement="theorem other (p q : Prop) (h : p ∧ q) : q ∧ p")


class LeanBackendContract:
    """What every backend must do, on the scripted Lean or a real one."""

    target = TARGET
    other = OTHER

    def test_it_says_what_it_is(self, backend: LeanBackend) -> None:
        assert backend.name in backend.version

    @pytest.mark.parametrize("answer", ["rfl", "by rfl", "by\n  skip\n  rfl"])
    def test_a_proof_passes(self, backend: LeanBackend, answer: str) -> None:
        found = ProofChecker(backend).check(self.target, answer, STANDARD)
        assert found.passed, found
        assert [check.name for check in found.checks] == ["gate", "statement", "elaborates", "statement_match", "axioms"]

    @pytest.mark.parametrize("answer", ["Nat.succ", "by skip", "(rfl : 1 = 3)"])
    def test_what_is_no_proof_fails_at_elaboration(self, backend: LeanBackend, answer: str) -> None:
        found = ProofChecker(backend).check(self.target, answer, STANDARD)
        assert not found.passed
        assert found.checks[-1].name == "elaborates"
        assert "Fw" not in found.checks[-1].detail

    def test_many_statements_are_read_at_once(self, backend: LeanBackend) -> None:
        wrong = Theorem(header=self.target.header, project=self.target.project, statement="theorem target : 1 +")
        together, alone = ProofChecker(backend), ProofChecker(backend)
        together.ask_all([self.target, wrong, self.target])
        assert list(together._known) == [self.target]
        assert together.asked(self.target) == alone.asked(self.target)

    def test_the_same_answer_gets_the_same_findings(self, backend: LeanBackend) -> None:
        for answer in ("rfl", "by skip"):
            assert (
                ProofChecker(backend).check(self.target, answer, STANDARD).checks
                == ProofChecker(backend).check(self.target, answer, STANDARD).checks
            )

    def test_messages_say_the_line_of_their_own_command(self, backend: LeanBackend) -> None:
        got = backend.elaborate("", ["example : 1 + 1 = 2 := rfl", "example : 1 + 1 = 2 := rfl\nexample : 1 + 1 = 3 := rfl"])
        assert [m for m in got.messages[0] if m.severity == "error"] == []
        assert [m.line for m in got.messages[1] if m.severity == "error"] == [2]

    def test_a_header_that_needs_what_is_not_there_is_nobodys_fault(self, backend: LeanBackend) -> None:
        with pytest.raises(VerifierError, match="Nowhere"):
            backend.elaborate("import Nowhere", ["example : 1 + 1 = 2 := rfl"])

    def test_a_header_that_is_no_lean_is_the_tasks_fault(self, backend: LeanBackend) -> None:
        with pytest.raises(ValueError, match="header"):
            backend.elaborate("bad header", ["example : 1 + 1 = 2 := rfl"])

    def test_a_statement_that_is_no_lean_is_the_tasks_fault(self, backend: LeanBackend) -> None:
        wrong = Theorem(header=self.target.header, project=self.target.project, statement="theorem target : 1 +")
        with pytest.raises(ValueError, match="statement"):
            ProofChecker(backend).check(wrong, "rfl", STANDARD)

    def test_tactics_step_to_the_end(self, backend: LeanBackend) -> None:
        state = backend.open_goal(self.other)
        assert len(state.goals) == 1
        assert "q ∧ p" in state.goals[0]
        for tactic in ("constructor", "exact h.2"):
            step = backend.run_tactic(state, tactic)
            assert step.state is not None, step.error
            assert step.state.goals
            state = step.state
        step = backend.run_tactic(state, "exact h.1")
        assert step.state is not None
        assert step.state.goals == ()
        assert ProofChecker(backend).check(self.other, script(step.state.tactics), STANDARD).passed

    def test_a_wrong_tactic_leaves_the_state_as_it_was(self, backend: LeanBackend) -> None:
        state = backend.open_goal(self.target)
        wrong = backend.run_tactic(state, "exact Nat.succ")
        assert wrong.state is None
        assert wrong.error
        right = backend.run_tactic(state, "rfl")
        assert right.state is not None
        assert right.state.goals == ()
