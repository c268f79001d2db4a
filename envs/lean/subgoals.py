"""What an attempt at a theorem has proved on its way, whatever became of the theorem: read from the goals that Lean showed.

Three rules. ``sub_goal``: a goal that some tactics closed. ``have``: a hypothesis that a tactic brought in and left the goal as it was.
``instead``: what a refused term does prove, by Lean's own message. Each finding is a goal as Lean shows one and the tactics that should
prove it by itself. None of it is believed: it is proved again as a theorem of its own before it trains anything.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from flywheel.envs.lean.goals import normalize
from flywheel.types import Trajectory
from flywheel.verifiers.lean_gate import normalized, refuse_tactic
from flywheel.verifiers.lean_protocol import LeanBackend, ProofState, Theorem

MAX_REFUSED = 4  # refused tactics of an attempt that Lean is asked about again
_INSTEAD = re.compile(r"type mismatch[^\n]*\n(?P<term>.*?)\nhas type\n(?P<type>.*?)\nbut is expected to have type\n", re.S | re.I)
_BULLETS = ("· ", ". ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """The states that tactics led through, from before the first one on; `refused` is what Lean said to a tactic after the last state."""

    tactics: tuple[str, ...]
    states: tuple[ProofState, ...]
    refused: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proved:
    """A goal, as Lean shows it, and the tactics that closed it."""

    rule: str
    goal: str
    tactics: tuple[str, ...]


def walk(backend: LeanBackend, theorem: Theorem, tactics: Sequence[str]) -> Walk:
    """Run tactics until one is refused.

    Raises:
        ValueError: the statement is refused.
        VerifierError: Lean can't be reached.
    """
    states = [backend.open_goal(theorem)]
    done: list[str] = []
    for tactic in tactics:
        if not states[-1].goals or refuse_tactic(tactic) is not None:
            break
        step = backend.run_tactic(states[-1], tactic)
        if step.state is None:
            return Walk(tactics=tuple(done), states=tuple(states), refused=step.error)
        states.append(step.state)
        done.append(tactic)
    return Walk(tactics=tuple(done), states=tuple(states))


def proved(path: Walk) -> list[Proved]:
    """Return what the tactics of a walk have proved, by all three rules."""
    return [*closed_goals(path), *new_hypotheses(path), *proved_instead(path)]


def closed_goals(path: Walk) -> list[Proved]:
    """Return the goals that were closed: a tactic works on the first goal, and that is closed when only those behind it are left."""
    found = []
    for start, state in enumerate(path.states[:-1]):
        behind = state.goals[1:]
        for end in range(start + 1, len(path.states)):
            goals = path.states[end].goals
            if goals == behind:
                found.append(Proved(rule="sub_goal", goal=state.goals[0], tactics=path.tactics[start:end]))
            if len(goals) <= len(behind) or goals[len(goals) - len(behind) :] != behind:
                break
    return found


def new_hypotheses(path: Walk) -> list[Proved]:
    """Return what tactics put into a goal's context without changing the rest of it: what a ``have`` has proved."""
    found = []
    for at, tactic in enumerate(path.tactics):
        before, after = path.states[at].goals, path.states[at + 1].goals
        if len(before) != len(after) or before[1:] != after[1:]:
            continue
        old, new = _lines(before[0]), _lines(after[0])
        added = new[len(old) - 1 : -1]
        if not added or new[: len(old) - 1] != old[:-1] or new[-1] != old[-1]:
            continue
        for line in added:
            names, _, kind = line.partition(" : ")
            found.append(Proved(rule="have", goal="\n".join([*old[:-1], f"⊢ {kind}"]), tactics=(tactic, f"exact {names.split()[0]}")))
    return found


def proved_instead(path: Walk) -> list[Proved]:
    """Return what a refused term proves instead of what was asked, where Lean says so."""
    match = _INSTEAD.match(path.refused)
    if match is None or not path.states[-1].goals:
        return []
    term, kind = (" ".join(match[part].split()) for part in ("term", "type"))
    context = _lines(path.states[-1].goals[0])[:-1]
    return [Proved(rule="instead", goal="\n".join([*context, f"⊢ {kind.removesuffix(' : Prop')}"]), tactics=(f"exact {term}",))]


def scripts_of(trajectory: Trajectory) -> list[tuple[str, ...]]:
    """Return the runs of tactics that an attempt made: those that worked, the same up to each refused one, and the proofs it submitted."""
    made: list[tuple[str, ...]] = []
    steps: list[str] = []
    num_refused = 0
    for turn in trajectory.turns:
        failed = (turn.observation or "Error:").startswith("Error:")
        for call in turn.tool_calls:
            text = call.arguments.get("text" if call.name == "tactic" else "proof")
            if call.name == "undo" and not failed and steps:
                made.append(tuple(steps))  # what was taken back may have closed a goal all the same
                steps.pop()
            elif call.name == "tactic" and isinstance(text, str) and not failed:
                steps.append(text)
            elif call.name == "tactic" and isinstance(text, str) and num_refused < MAX_REFUSED:
                num_refused += 1
                made.append((*steps, text))
            elif call.name == "submit" and isinstance(text, str) and text.strip():
                made.append(tuple(split_proof(text)))
    made.append(tuple(steps))
    longest = dict.fromkeys(made)
    return [one for one in longest if one and not any(other != one and other[: len(one)] == one for other in longest)]


def split_proof(proof: str) -> list[str]:
    """Return a proof as tactics that may be run one by one: bullets are opened, a term is given whole."""
    text = normalized(proof).strip()
    if not re.match(r"by\s", text):
        return [f"exact ({text})"]
    return _split_block("  " + text[2:])


def _split_block(text: str) -> list[str]:
    tactics: list[str] = []
    lines = [line for line in textwrap.dedent(text).split("\n") if line.strip() and not line.lstrip().startswith("--")]
    for line in lines:
        if tactics and line.startswith((" ", "|")):
            tactics[-1] += "\n" + line
        else:
            tactics.append(line)
    opened: list[str] = []
    for tactic in tactics:
        opened += _split_block(" " * 2 + tactic[2:]) if tactic.startswith(_BULLETS) else [tactic]
    return opened


def _lines(goal: str) -> list[str]:
    return [line for line in normalize(goal).split("\n") if not line.startswith("case ")]
