"""Tactic states for a backend that can only elaborate: each step runs the whole proof so far and reads what Lean says is left."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from flywheel.verifiers.lean_check import Place
from flywheel.verifiers.lean_gate import read_statement
from flywheel.verifiers.lean_protocol import Elaborated, ProofState, Step, Theorem

_LEFT = "unsolved goals"


def script(tactics: Sequence[str]) -> str:
    """Return tactics as one tactic block: what a run of steps stands for as a proof."""
    return "by\n" + "\n".join("  " + textwrap.dedent(tactic.strip("\n")).strip().replace("\n", "\n  ") for tactic in tactics)


class ScriptedTactics:
    """`open_goal` and `run_tactic` on top of `elaborate`."""

    def elaborate(self, header: str, commands: Sequence[str], *, project: str | None = None) -> Elaborated:
        """Run commands; the backend's own."""
        raise NotImplementedError

    def open_goal(self, theorem: Theorem) -> ProofState:
        """Return the state before the first tactic; see `LeanBackend`."""
        step = self._step(theorem, ())
        if step.state is None:
            raise ValueError(f"lean payload: the statement does not elaborate: {step.error}")
        return step.state

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        """Run the proof so far and one tactic more; see `LeanBackend`."""
        return self._step(state.theorem, (*state.tactics, tactic))

    def _step(self, theorem: Theorem, tactics: tuple[str, ...]) -> Step:
        place = Place.fresh(read_statement(theorem.statement))
        # `by` stands on a line of its own: goals that are left at the end are said there, those left inside a bullet elsewhere.
        body = "\n" + script(tactics or ("skip",))
        got = self.elaborate(theorem.header, [place.declaration(body)], project=theorem.project)
        if got.broke is not None:
            return Step(error=f"{got.broke}: the tactic {'reached a limit' if got.broke == 'limit' else 'broke Lean'}")
        by_line = place.opening.count("\n") + 2
        errors = [m for m in got.messages[0] if m.severity == "error"]
        left = [m for m in errors if m.text.startswith(_LEFT) and m.line == by_line]
        other = next((m for m in errors if m not in left), None)
        if other is not None or len(left) > 1:
            return Step(error=place.scrub((other or left[0]).text))
        if not left and any("sorry" in m.text for m in got.messages[0]):
            return Step(error="the tactic leaves a sorry")
        goals = tuple(filter(None, left[0].text.removeprefix(_LEFT).strip("\n").split("\n\n"))) if left else ()
        return Step(state=ProofState(theorem=theorem, tactics=tactics, goals=goals))
