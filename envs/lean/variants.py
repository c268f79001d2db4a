"""Variants of a theorem, as AlphaProof makes them for test-time learning: easier, harder, nearer to a part of it.

Operators rewrite text: ``specialise`` (a number for a variable, or one variable for two), ``generalise`` (a variable for a number),
``drop_hypothesis``, ``add_hypothesis``, ``converse``; `sub_goals` are what basic tactics leave of a theorem, and `lemma` makes a theorem of
any goal that Lean shows, an open one of an attempt, say. What comes out need not be true, nor even well-formed: `elaborating` keeps what
Lean can read, and `sort_variants` finds those that a search can prove; the rest stay open.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterable, Sequence

from flywheel.envs.lean.family import canonical, split_signature, task_of
from flywheel.envs.lean.goals import normalize
from flywheel.envs.lean.guides import basic_tactics
from flywheel.envs.lean.rename import IDENTIFIER, replace_name
from flywheel.envs.lean.search import ProofSearch
from flywheel.types import Task
from flywheel.verifiers.lean import LeanPayload
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_gate import read_statement, refuse_statement
from flywheel.verifiers.lean_protocol import LeanBackend

Group = tuple[str, str]  # a binder's names and its type; no names for an instance
_NUMBER = re.compile(r"(?<![\w.'])[0-9]+(?![\w.'])")
_HOLE = re.compile(r"(?<![\w\])}'])\?")  # a metavariable, not the end of a name or of `xs[i]?`
FRESH = "nmkxyz"


def join_signature(groups: Sequence[Group], goal: str) -> str:
    """Return a signature with these binders and this goal."""
    written = [f"({names} : {kind})" if names else f"[{kind}]" for names, kind in groups]
    return " ".join([*written, ":", goal])


def is_hypothesis(groups: Sequence[Group], at: int) -> bool:
    """Whether a binder assumes something: its type speaks of what earlier binders introduce, and nothing later needs its names."""
    names, kind = groups[at]
    before = [(name, of) for earlier, of in groups[:at] for name in earlier.split()]
    mentioned = [of for name, of in before if re.search(IDENTIFIER.format(re.escape(name)), kind)]
    if not names or not mentioned or kind.endswith(("Prop", "Type", "Sort")):
        return False
    return re.search(r"[=<>≤≥∧∨¬∃∀↔≠∣∈]", kind) is not None or any(of.endswith("Prop") for of in mentioned)


def specialise(groups: list[Group], goal: str, rng: random.Random) -> tuple[list[Group], str] | None:
    """Return the theorem with a variable made a number, or two variables of one type made one."""
    choices: list[tuple[str, str]] = []
    for names, kind in groups:
        listed = names.split()
        if kind in ("Nat", "Int", "ℕ", "ℤ"):
            choices += [(name, str(rng.randint(0, 3))) for name in listed]
        if not re.search(r"[=<>≤≥∧∨¬∃∀]", kind):
            choices += [(second, first) for first in listed for second in listed if first < second]
    if not choices:
        return None
    name, value = rng.choice(choices)
    made = []
    for names, kind in groups:
        kept = " ".join(other for other in names.split() if other != name)
        if kept or not names:
            made.append((kept, replace_name(kind, name, value)))
    return made, replace_name(goal, name, value)


def generalise(groups: list[Group], goal: str, rng: random.Random) -> tuple[list[Group], str] | None:
    """Return the theorem with a new variable for one of its numbers, everywhere."""
    numbers = sorted(set(_NUMBER.findall(" ".join([goal, *(kind for _, kind in groups)]))))
    used = {name for names, _ in groups for name in names.split()}
    fresh = next((name for name in FRESH if name not in used and not re.search(IDENTIFIER.format(name), goal)), None)
    if not numbers or fresh is None:
        return None
    number = re.compile(rf"(?<![\w.']){rng.choice(numbers)}(?![\w.'])")
    made = [(names, number.sub(fresh, kind)) for names, kind in groups]
    return [(fresh, "Nat"), *made], number.sub(fresh, goal)


def drop_hypothesis(groups: list[Group], goal: str, rng: random.Random) -> tuple[list[Group], str] | None:
    """Return the theorem without one of its hypotheses."""
    at = [i for i in range(len(groups)) if is_hypothesis(groups, i)]
    if not at:
        return None
    chosen = rng.choice(at)
    return [group for i, group in enumerate(groups) if i != chosen], goal


def add_hypothesis(groups: list[Group], goal: str, rng: random.Random) -> tuple[list[Group], str] | None:
    """Return the theorem with one hypothesis more: a part of its goal, or an equation of two of its variables."""
    used = {name for names, _ in groups for name in names.split()}
    name = next(f"e{at}" for at in range(1, 100) if f"e{at}" not in used)
    parts = [part for mark in (" ∧ ", " → ", " ↔ ") if not goal.startswith(("∀", "∃")) for part in _top_level(goal, mark)]
    for names, kind in groups:
        listed = names.split()
        if not re.search(r"[=<>≤≥∧∨¬∃∀]", kind):
            parts += [f"{first} = {second}" for first in listed for second in listed if first < second]
    return ([*groups, (name, rng.choice(sorted(set(parts))))], goal) if parts else None


def converse(groups: list[Group], goal: str, rng: random.Random) -> tuple[list[Group], str] | None:
    """Return the theorem with its goal and one of its premises exchanged."""
    sides = _top_level(goal, " → ")
    if len(sides) == 2 and not goal.startswith(("∀", "∃")):
        return groups, f"{sides[1]} → {sides[0]}"
    at = [i for i, (names, _) in enumerate(groups) if is_hypothesis(groups, i) and len(names.split()) == 1]
    if not at:
        return None
    chosen = rng.choice(at)
    names, kind = groups[chosen]
    return [*groups[:chosen], (names, goal), *groups[chosen + 1 :]], kind


Operator = Callable[[list[Group], str, random.Random], tuple[list[Group], str] | None]
OPERATORS: dict[str, Operator] = {
    "specialise": specialise,
    "generalise": generalise,
    "drop_hypothesis": drop_hypothesis,
    "add_hypothesis": add_hypothesis,
    "converse": converse,
}


def make_variant(task: Task, operator: str, seed: int) -> Task | None:
    """Return a variant of a task's theorem; None where the operator finds nothing to change, or what it makes is refused."""
    statement = read_statement(task.payload["statement"])
    groups, goal = split_signature(statement.signature)
    made = OPERATORS[operator](groups, goal, random.Random(seed))
    if made is None:
        return None
    signature = join_signature(*made)
    if canonical(signature) == canonical(statement.signature):
        return None
    return _child(task, signature, f"mutate:{operator}", seed)


def lemma(task: Task, goal: str, seed: int = 0, operator: str = "mutate:lemma") -> Task | None:
    """Return the task of proving one goal, as Lean shows it, by itself; None where it can't be said as a theorem."""
    lines = [line for line in normalize(goal).split("\n") if not line.startswith("case ")]
    hypotheses, target = [line for line in lines if not line.startswith("⊢")], [line for line in lines if line.startswith("⊢")]
    groups: list[Group] = []
    for line in hypotheses:
        names, colon, kind = line.partition(" : ")
        if colon and all(re.fullmatch(r"inst✝\w*", name) for name in names.split()):  # instances need no name
            groups += [("", kind)] * len(names.split())
            continue
        if not colon or "✝" in names or ":=" in kind or not all(re.fullmatch(r"[^\W\d][\w']*", name) for name in names.split()):
            return None
        groups.append((names.strip(), " ".join(kind.split())))
    said = [kind for _, kind in groups] + target
    if len(target) != 1 or any("✝" in text or _HOLE.search(text) for text in said):
        return None
    return _child(task, join_signature(groups, target[0].removeprefix("⊢").strip()), operator, seed)


def sub_goals(task: Task, backend: LeanBackend) -> list[Task]:
    """Return what is left of a theorem after one basic tactic, each goal as a lemma of its own.

    Raises:
        ValueError: the statement is refused.
        VerifierError: Lean can't be reached.
    """
    start = backend.open_goal(LeanPayload.read(task.payload).theorem)
    made: dict[str, Task] = {}
    for tactic in basic_tactics(start.goals[0]):
        state = backend.run_tactic(start, tactic).state
        for goal in state.goals if state is not None else ():
            child = lemma(task, goal)
            if child is not None:
                made.setdefault(_key(child), child)
    made.pop(_key(task), None)
    return list(made.values())


def variants_of(task: Task, count: int, backend: LeanBackend) -> list[Task]:
    """Return at most `count` different variants of a theorem that Lean can read: its sub-goals, and what each operator makes in turn.

    Those of a held-out theorem are held out with it.

    Raises:
        ValueError: the theorem's own statement is refused.
        VerifierError: Lean can't be reached.
    """
    made = {_key(child): child for child in sub_goals(task, backend)}
    for at in range(4 * count):
        child = make_variant(task, list(OPERATORS)[at % len(OPERATORS)], at // len(OPERATORS))
        if child is not None:
            made.setdefault(_key(child), child)
    readable = elaborating(made.values(), ProofChecker(backend))[:count]
    return [dataclasses.replace(child, split=task.split) for child in readable]


def elaborating(tasks: Iterable[Task | None], checker: ProofChecker) -> list[Task]:
    """Return those tasks whose statements Lean can read.

    Raises:
        VerifierError: Lean can't be reached.
    """
    made = [task for task in tasks if task is not None]
    checker.ask_all(LeanPayload.read(task.payload).theorem for task in made)
    return [task for task in made if _is_readable(task, checker)]


def _is_readable(task: Task, checker: ProofChecker) -> bool:
    try:
        checker.asked(LeanPayload.read(task.payload).theorem)
    except ValueError:
        return False
    return True


async def sort_variants(tasks: Iterable[Task], search: ProofSearch, *, seed: int = 0) -> tuple[list[Task], list[Task]]:
    """Return the tasks that a search proves, with the proof as their reference, and those that stay open.

    Raises:
        InfraError: Lean or the policy can't be reached.
    """
    proved, still_open = [], []
    for task in tasks:
        found = await search.prove(LeanPayload.read(task.payload).theorem, seed=seed)
        if found.proof is None:
            still_open.append(task)
        else:
            proved.append(with_reference(task, found.proof))
    return proved, still_open


def with_reference(task: Task, proof: str) -> Task:
    """Return a task that has a proof as its reference."""
    fields = {one.name: getattr(task, one.name) for one in dataclasses.fields(task) if one.name not in ("id", "payload")}
    return Task.create(**fields, payload={**task.payload, "reference": proof})


def _key(task: Task) -> str:
    return canonical(read_statement(task.payload["statement"]).signature)


def _child(task: Task, signature: str, operator: str, seed: int) -> Task | None:
    """Return the task of another signature in the place of a task's own: its header, namespace, project and axioms."""
    namespace = read_statement(task.payload["statement"]).namespace
    theorem = f"{namespace}.target" if namespace else "target"
    if refuse_statement(f"theorem {theorem} {signature}") is not None:
        return None
    kept = {name: task.payload[name] for name in ("project", "allowed_axioms") if name in task.payload}
    header = str(task.payload.get("header", ""))
    return task_of(signature, task.family, theorem=theorem, header=header, kept=kept, parent_id=task.id, operator=operator, seed=seed)


def _top_level(formula: str, mark: str) -> list[str]:
    """Return the sides of a connective that stands in no bracket; nothing where there is none."""
    depth, start, sides = 0, 0, []
    for at, char in enumerate(formula):
        depth += (char in "([{⟨") - (char in ")]}⟩")
        if depth == 0 and formula.startswith(mark, at):
            sides.append(formula[start:at].strip())
            start = at + len(mark)
    return [*sides, formula[start:].strip()] if sides else []
